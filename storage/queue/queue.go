package queue

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
)

// SQS's limits.
const (
	MaxBatch = 10               // messages a call
	MaxWait  = 20 * time.Second // of a long poll
	MaxDelay = 15 * time.Minute // of a message that is sent
	maxHeld  = 12 * time.Hour   // from the receive, all extensions together; asking for more is an error
)

// wallMargin is left between Message.Wall and SQS's limit, for a hand-over and its retries.
const wallMargin = 30 * time.Minute

// Queue is one open queue. It is safe for concurrent use.
type Queue struct {
	api  *sqs.Client
	name string
	url  string
}

// Name is the queue's name.
func (q *Queue) Name() string { return q.name }

// Message is a message that was received, and is hidden from others for a time.
type Message struct {
	ID           string
	Body         string
	Attributes   map[string]string // message attributes of type String: traceparent and the like
	ReceiveCount int               // deliveries so far, this one included
	Sent         time.Time         // by SQS's clock
	Received     time.Time         // by the local clock, also the monotonic one
	receipt      string
}

// Wall is when the message should be handed over at the latest: 30 min before SQS ends the visibility for
// good, 12 h after it was received.
func (m *Message) Wall() time.Time { return m.Received.Add(maxHeld - wallMargin) }

// Receive waits up to wait (long poll, ≤ MaxWait, whole seconds; 0: the queue's own default, which is not
// to wait) for 1 to n messages (≤ MaxBatch) and hides them for DefaultVisibility, whatever the queue's
// default. No messages and no error means that there were none. If ctx ends while the answer is on its
// way, its messages come back after DefaultVisibility.
func (q *Queue) Receive(ctx context.Context, n int, wait time.Duration) ([]*Message, error) {
	out, err := q.api.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{
		QueueUrl:              aws.String(q.url),
		MaxNumberOfMessages:   int32(n),
		WaitTimeSeconds:       int32(wait / time.Second),
		VisibilityTimeout:     int32(DefaultVisibility / time.Second),
		MessageAttributeNames: []string{"All"},
		MessageSystemAttributeNames: []types.MessageSystemAttributeName{
			types.MessageSystemAttributeNameApproximateReceiveCount,
			types.MessageSystemAttributeNameSentTimestamp,
		},
	})
	if err != nil {
		return nil, wrap(ctx, "receive from", q.name, err)
	}
	now := time.Now()
	messages := make([]*Message, 0, len(out.Messages))
	for _, m := range out.Messages {
		messages = append(messages, newMessage(m, now))
	}
	return messages, nil
}

func newMessage(m types.Message, now time.Time) *Message {
	count, _ := strconv.Atoi(m.Attributes["ApproximateReceiveCount"])
	sent, _ := strconv.ParseInt(m.Attributes["SentTimestamp"], 10, 64)
	msg := &Message{
		ID:           aws.ToString(m.MessageId),
		Body:         aws.ToString(m.Body),
		ReceiveCount: count,
		Sent:         time.UnixMilli(sent),
		Received:     now,
		receipt:      aws.ToString(m.ReceiptHandle),
	}
	for name, value := range m.MessageAttributes {
		if value.StringValue == nil {
			continue
		}
		if msg.Attributes == nil {
			msg.Attributes = make(map[string]string, len(m.MessageAttributes))
		}
		msg.Attributes[name] = *value.StringValue
	}
	return msg
}

// Extend hides the message for d from now (whole seconds). 0 gives it back at once; a short time with some jitter
// defers it. It fails with ErrGone if the message is not held by this receipt any more, or would be hidden
// for more than 12 h in all; some servers say yes even then.
func (q *Queue) Extend(ctx context.Context, m *Message, d time.Duration) error {
	_, err := q.api.ChangeMessageVisibility(ctx, &sqs.ChangeMessageVisibilityInput{
		QueueUrl:          aws.String(q.url),
		ReceiptHandle:     aws.String(m.receipt),
		VisibilityTimeout: int32(d / time.Second),
	})
	err = wrap(ctx, "extend message of", q.name, err)
	if e, ok := errors.AsType[*Error](err); ok && invalidParameter(e.Err) {
		e.Kind = ErrGone // AWS's answer to a receipt of a deleted message, and beyond the 12 h
	}
	return err
}

// Delete removes the message. Success is no promise: SQS may deliver a message again after that, and with an
// old receipt it says yes and deletes nothing.
func (q *Queue) Delete(ctx context.Context, m *Message) error {
	_, err := q.api.DeleteMessage(ctx, &sqs.DeleteMessageInput{
		QueueUrl:      aws.String(q.url),
		ReceiptHandle: aws.String(m.receipt),
	})
	return wrap(ctx, "delete message of", q.name, err)
}

// HandOver gives a message to somebody else, with its receive count and its 12 hours begun anew: it sends
// the same message again, then deletes m. Release its Held before. An error before the send leaves m as it
// was; after it there may be two messages, which is harmless.
func (q *Queue) HandOver(ctx context.Context, m *Message) error {
	if err := q.Send(ctx, []Outgoing{{Body: m.Body, Attributes: m.Attributes}}); err != nil {
		return err
	}
	return q.Delete(ctx, m)
}

// Counts are how many messages a queue has. SQS calls them approximate: they may need a minute to be right.
type Counts struct {
	Visible  int // to be received now
	InFlight int // held by receivers
	Delayed  int // sent with a delay that is not over
}

// Total is the sum.
func (c Counts) Total() int { return c.Visible + c.InFlight + c.Delayed }

// Counts asks how many messages there are.
func (q *Queue) Counts(ctx context.Context) (Counts, error) {
	have, err := q.attributes(ctx, "count",
		types.QueueAttributeNameApproximateNumberOfMessages,
		types.QueueAttributeNameApproximateNumberOfMessagesNotVisible,
		types.QueueAttributeNameApproximateNumberOfMessagesDelayed)
	if err != nil {
		return Counts{}, err
	}
	n := func(name types.QueueAttributeName) int {
		v, _ := strconv.Atoi(have[string(name)])
		return v
	}
	return Counts{
		Visible:  n(types.QueueAttributeNameApproximateNumberOfMessages),
		InFlight: n(types.QueueAttributeNameApproximateNumberOfMessagesNotVisible),
		Delayed:  n(types.QueueAttributeNameApproximateNumberOfMessagesDelayed),
	}, nil
}

func (q *Queue) arn(ctx context.Context) (string, error) {
	have, err := q.attributes(ctx, "open", types.QueueAttributeNameQueueArn)
	return have["QueueArn"], err
}

func (q *Queue) attributes(ctx context.Context, op string, names ...types.QueueAttributeName) (map[string]string, error) {
	out, err := q.api.GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{
		QueueUrl:       aws.String(q.url),
		AttributeNames: names,
	})
	if err != nil {
		return nil, wrap(ctx, op, q.name, err)
	}
	return out.Attributes, nil
}
