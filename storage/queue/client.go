// Package queue is SQS as spool needs it: standard queues whose messages say which shard wants a runner,
// and those that carry the bucket's events. It is the only importer of the SQS client.
//
// A message is a hint, the bucket is the truth (storage/FORMAT.md): a lost message costs time until a
// watcher sends it again, a doubled one costs a look. So nothing here tries to deliver exactly once; it
// takes care that a message is held while somebody works on it, that it comes back soon after a
// crash, and that errors say what can be done about them.
//
// The SDK's retry is used and is the only layer: five attempts a call, with its backoff and token
// bucket. Each attempt has a time limit, so that a connection which hangs is given up.
//
// The SDK speaks the JSON protocol, in which a queue's URL is a parameter: every request goes to
// the endpoint, whatever host stands in the URL that the server made up (moto and LocalStack name
// hosts that cannot always be reached).
package queue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
)

const (
	attempts = 5
	// attemptTimeout is for one attempt: SQS's longest poll, and as much time as a slow answer may need.
	attemptTimeout = MaxWait + 15*time.Second
	// localRegion signs requests to endpoints that are not AWS's when no region is set: they do not care.
	localRegion = "us-east-1"
)

// EventsQueue is the name of the queue to which S3 sends the bucket's events.
const EventsQueue = "spool-events"

// PoolQueue is the name of the queue of a pool's ordinary batches.
func PoolQueue(pool string) string { return "spool-" + pool }

// FastQueue is the name of the queue of a pool's batches of one chunk, which runners read first.
func FastQueue(pool string) string { return PoolQueue(pool) + "-fast" }

// DeadQueue is the name of the queue of messages that were delivered too often, of both other queues.
func DeadQueue(pool string) string { return PoolQueue(pool) + "-dlq" }

// Config says where SQS is. The zero Config is AWS's own chain: environment, shared files, instance role.
type Config struct {
	Region      string                  // default: the chain's; us-east-1 with an endpoint but no region
	Endpoint    string                  // default: AWS_ENDPOINT_URL_SQS, AWS_ENDPOINT_URL, else AWS
	Credentials aws.CredentialsProvider // default: the chain's
	HTTPClient  aws.HTTPClient          // default: the SDK's, 35 s an attempt
}

// Client opens and makes queues. It is safe for concurrent use.
type Client struct {
	api *sqs.Client
}

// New makes a client; it reads the environment and shared files but sends nothing. It fails
// if there is no region for AWS.
func New(ctx context.Context, cfg Config) (*Client, error) {
	chain, err := config.LoadDefaultConfig(ctx,
		config.WithHTTPClient(awshttp.NewBuildableClient().WithTimeout(attemptTimeout)),
		config.WithRetryMaxAttempts(attempts))
	if err != nil {
		return nil, fmt.Errorf("load aws configuration: %w", err)
	}
	if cfg.Credentials != nil {
		chain.Credentials = cfg.Credentials
	}
	api := sqs.NewFromConfig(chain, func(o *sqs.Options) {
		o.Region = cmp.Or(cfg.Region, o.Region)
		if cfg.Endpoint != "" {
			o.BaseEndpoint = aws.String(cfg.Endpoint)
		}
		if cfg.HTTPClient != nil { // only here: the chain's must be the SDK's own if AWS_CA_BUNDLE is set
			o.HTTPClient = cfg.HTTPClient
		}
		if o.BaseEndpoint != nil {
			o.Region = cmp.Or(o.Region, localRegion)
		}
	})
	if api.Options().Region == "" {
		return nil, errors.New("no region for sqs: set AWS_REGION, or AWS_ENDPOINT_URL_SQS for another server than AWS")
	}
	return &Client{api: api}, nil
}

// Open finds a queue by its name; ErrNoQueue if there is none.
func (c *Client) Open(ctx context.Context, name string) (*Queue, error) {
	out, err := c.api.GetQueueUrl(ctx, &sqs.GetQueueUrlInput{QueueName: aws.String(name)})
	if err != nil {
		return nil, wrap(ctx, "open", name, err)
	}
	return &Queue{api: c.api, name: name, url: aws.ToString(out.QueueUrl)}, nil
}
