package queue

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
)

// maxBatchBytes is the most that Send puts in one call: 256 KiB was SQS's limit until 2025 and still is
// that of most other servers.
const maxBatchBytes = 256 << 10

// partialTries is how often the messages that a batch call refused for a cause on SQS's side are sent.
const partialTries = 5

// Outgoing is a message to be sent.
type Outgoing struct {
	Body       string
	Attributes map[string]string // sent as type String; at most 10, names and values not empty
	Delay      time.Duration     // hidden for so long at first, ≤ MaxDelay, whole seconds
}

// SendError says which messages were not sent, as far as is known: one whose reply was lost may have been
// sent all the same.
type SendError struct {
	Queue  string
	Unsent []int // indices of the slice that was given to Send, rising
	Err    error // why; the last cause if there were several
}

func (e *SendError) Error() string {
	return fmt.Sprintf("%d messages not sent: %v", len(e.Unsent), e.Err)
}

func (e *SendError) Unwrap() error { return e.Err }

func (e *SendError) add(indices []int, err error) {
	e.Unsent = append(e.Unsent, indices...)
	e.Err = err
}

// Send sends messages in batches of up to ten. What SQS refuses for a cause on its own side is sent
// again, up to five tries in all, with backoff; when the first call of a batch fails as a whole, after the
// SDK's retries, the rest is not tried. An error is a *SendError: its messages may be given to Send again, all others were sent.
func (q *Queue) Send(ctx context.Context, messages []Outgoing) error {
	failed := &SendError{Queue: q.name}
	for start := 0; start < len(messages); {
		end := batchEnd(messages, start)
		if err := q.sendBatch(ctx, messages, indices(start, end), failed); err != nil {
			failed.add(indices(start, len(messages)), err)
			break
		}
		start = end
	}
	if failed.Err == nil {
		return nil
	}
	slices.Sort(failed.Unsent)
	failed.Unsent = slices.Compact(failed.Unsent)
	return failed
}

// batchEnd tells how far a batch that begins with messages[start] goes: one message at least.
func batchEnd(messages []Outgoing, start int) int {
	size := 0
	for i := start; i < len(messages); i++ {
		size += messages[i].size()
		if i > start && (size > maxBatchBytes || i == start+MaxBatch) {
			return i
		}
	}
	return len(messages)
}

func (o Outgoing) size() int {
	n := len(o.Body)
	for name, value := range o.Attributes {
		n += len(name) + len(stringType) + len(value)
	}
	return n
}

func indices(start, end int) []int {
	list := make([]int, 0, end-start)
	for i := start; i < end; i++ {
		list = append(list, i)
	}
	return list
}

// sendBatch sends the messages of these indices in one call, and again those that were refused for a
// passing cause; what is left of them goes to failed. An error is that of a whole call.
func (q *Queue) sendBatch(ctx context.Context, messages []Outgoing, todo []int, failed *SendError) error {
	for try := 1; ; try++ {
		out, err := q.api.SendMessageBatch(ctx, &sqs.SendMessageBatchInput{
			QueueUrl: aws.String(q.url),
			Entries:  entries(messages, todo),
		})
		if err != nil {
			if try > 1 { // the others of this batch were sent
				failed.add(todo, wrap(ctx, "send to", q.name, err))
				return nil
			}
			return wrap(ctx, "send to", q.name, err)
		}
		again, cause := q.sortOut(out.Failed, failed)
		if len(again) == 0 {
			return nil
		}
		if try == partialTries || !pause(ctx, try) {
			failed.add(again, cause)
			return nil
		}
		todo = again
	}
}

// sortOut gives the indices that are worth another try; those that are not go to failed.
func (q *Queue) sortOut(entries []types.BatchResultErrorEntry, failed *SendError) (again []int, cause error) {
	for _, f := range entries {
		i, err := strconv.Atoi(aws.ToString(f.Id))
		if err != nil {
			continue // not an id that we gave
		}
		refusal := fmt.Errorf("%s: %s", aws.ToString(f.Code), aws.ToString(f.Message))
		if f.SenderFault {
			failed.add([]int{i}, &Error{Op: "send to", Queue: q.name, Err: refusal})
			continue
		}
		again = append(again, i)
		cause = &Error{Op: "send to", Queue: q.name, Kind: ErrUnavailable, Err: refusal}
	}
	return again, cause
}

// entries are a batch call's; each id is the index of its message, which is unique in the call.
func entries(messages []Outgoing, todo []int) []types.SendMessageBatchRequestEntry {
	list := make([]types.SendMessageBatchRequestEntry, 0, len(todo))
	for _, i := range todo {
		m := messages[i]
		list = append(list, types.SendMessageBatchRequestEntry{
			Id:                aws.String(strconv.Itoa(i)),
			MessageBody:       aws.String(m.Body),
			DelaySeconds:      int32(m.Delay / time.Second),
			MessageAttributes: attributeValues(m.Attributes),
		})
	}
	return list
}

const stringType = "String"

func attributeValues(attrs map[string]string) map[string]types.MessageAttributeValue {
	if len(attrs) == 0 {
		return nil
	}
	values := make(map[string]types.MessageAttributeValue, len(attrs))
	for name, value := range attrs {
		values[name] = types.MessageAttributeValue{DataType: aws.String(stringType), StringValue: aws.String(value)}
	}
	return values
}

// pause waits before the next try, up to 0.2 s, 0.4 s, 0.8 s, ... with full jitter; false if ctx ended.
func pause(ctx context.Context, try int) bool {
	timer := time.NewTimer(rand.N(100 * time.Millisecond << try))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
