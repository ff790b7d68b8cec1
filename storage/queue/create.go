package queue

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
)

// What queues are made with.
const (
	// DefaultVisibility is how long a message is hidden after a receive or a heartbeat: a killed
	// runner's message comes back within this time.
	DefaultVisibility = 120 * time.Second
	// DefaultRetention is SQS's own default. Lost messages are sent again by the watcher.
	DefaultRetention = 4 * 24 * time.Hour
	// DeadRetention is SQS's longest. It must be longer than the source's, since a message that
	// moves to a dead-letter queue keeps the time at which it was sent.
	DeadRetention = 14 * 24 * time.Hour
	// DefaultMaxReceives counts deliveries, not failures: every preempted spot machine is one.
	DefaultMaxReceives = 50
)

// Attributes are what Create makes a queue with; zero fields mean the defaults above.
type Attributes struct {
	Retention   time.Duration // 60 s to 14 days
	DeadLetter  *Queue        // where messages go after MaxReceives deliveries; nil: nowhere
	MaxReceives int
}

// Create makes a standard queue, encrypted with SSE-SQS: with a KMS key of the customer, S3's events would
// need a key policy, and be lost silently without. A queue that is there already is opened and left as it
// is, so Create may be called by any number of processes, at every start.
func (c *Client) Create(ctx context.Context, name string, a Attributes) (*Queue, error) {
	attrs := map[string]string{
		"VisibilityTimeout":      seconds(DefaultVisibility),
		"MessageRetentionPeriod": seconds(cmp.Or(a.Retention, DefaultRetention)),
		"SqsManagedSseEnabled":   "true",
	}
	if a.DeadLetter != nil {
		arn, err := a.DeadLetter.arn(ctx)
		if err != nil {
			return nil, err
		}
		policy, err := json.Marshal(map[string]any{
			"deadLetterTargetArn": arn,
			"maxReceiveCount":     cmp.Or(a.MaxReceives, DefaultMaxReceives),
		})
		if err != nil {
			return nil, fmt.Errorf("encode redrive policy of %q: %w", name, err)
		}
		attrs["RedrivePolicy"] = string(policy)
	}
	out, err := c.api.CreateQueue(ctx, &sqs.CreateQueueInput{QueueName: aws.String(name), Attributes: attrs})
	if _, exists := errors.AsType[*types.QueueNameExists](err); exists {
		return c.Open(ctx, name)
	}
	if err != nil {
		return nil, wrap(ctx, "create", name, err)
	}
	return &Queue{api: c.api, name: name, url: aws.ToString(out.QueueUrl)}, nil
}

// EnsurePool makes the three queues of a pool, as far as they are missing.
func (c *Client) EnsurePool(ctx context.Context, pool string) error {
	dead, err := c.Create(ctx, DeadQueue(pool), Attributes{Retention: DeadRetention})
	if err != nil {
		return err
	}
	for _, name := range []string{FastQueue(pool), PoolQueue(pool)} {
		if _, err := c.Create(ctx, name, Attributes{DeadLetter: dead}); err != nil {
			return err
		}
	}
	return nil
}

// EnsureEvents makes EventsQueue if it is missing, and lets S3 send the events of bucket there. A policy that
// names the bucket already is left as it is, any other is replaced. The bucket's notification
// configuration is not touched. The bucket must belong to the account of the queue.
func (c *Client) EnsureEvents(ctx context.Context, bucket string) error {
	q, err := c.Create(ctx, EventsQueue, Attributes{})
	if err != nil {
		return err
	}
	have, err := q.attributes(ctx, "open", types.QueueAttributeNameQueueArn, types.QueueAttributeNamePolicy)
	if err != nil {
		return err
	}
	policy, bucketARN, err := eventsPolicy(have["QueueArn"], bucket)
	if err != nil {
		return err
	}
	if strings.Contains(have["Policy"], `"`+bucketARN+`"`) {
		return nil
	}
	_, err = c.api.SetQueueAttributes(ctx, &sqs.SetQueueAttributesInput{
		QueueUrl:   aws.String(q.url),
		Attributes: map[string]string{"Policy": policy},
	})
	return wrap(ctx, "create", EventsQueue, err)
}

// eventsPolicy lets S3, and S3 for this bucket of this account only (the confused deputy), send to the queue.
func eventsPolicy(queueARN, bucket string) (policy, bucketARN string, err error) {
	parts := strings.Split(queueARN, ":") // arn:partition:sqs:region:account:name
	if len(parts) != 6 {
		return "", "", fmt.Errorf("make policy of %q: no arn: %q", EventsQueue, queueARN)
	}
	bucketARN = "arn:" + parts[1] + ":s3:::" + bucket
	text, err := json.Marshal(map[string]any{
		"Version": "2012-10-17",
		"Statement": []any{map[string]any{
			"Sid":       "EventsOfTheBucket",
			"Effect":    "Allow",
			"Principal": map[string]string{"Service": "s3.amazonaws.com"},
			"Action":    "sqs:SendMessage",
			"Resource":  queueARN,
			"Condition": map[string]any{
				"ArnEquals":    map[string]string{"aws:SourceArn": bucketARN},
				"StringEquals": map[string]string{"aws:SourceAccount": parts[4]},
			},
		}},
	})
	return string(text), bucketARN, err
}

func seconds(d time.Duration) string { return strconv.Itoa(int(d / time.Second)) }
