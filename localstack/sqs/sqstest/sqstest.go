// Package sqstest asks of an SQS server what spool relies on, with the real client. The same suite judges our own
// server and independent ones, so that neither the suite nor the server can be wrong alone.
package sqstest

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/aws/smithy-go"
	"github.com/google/uuid"
)

// Target is a server to be judged.
type Target struct {
	Endpoint  string // http://host:port
	Region    string
	AccessKey string
	SecretKey string
	Skip      map[string]string // names of checks that it cannot pass, each with the reason
}

// Client makes a client that does not retry, so that errors show.
func (t Target) Client() *sqs.Client {
	return sqs.New(sqs.Options{
		BaseEndpoint: &t.Endpoint,
		Region:       t.Region,
		Credentials:  credentials.NewStaticCredentialsProvider(t.AccessKey, t.SecretKey, ""),
		Retryer:      aws.NopRetryer{},
	})
}

// check is one question of the suite.
type check struct {
	name string
	run  func(*suite)
}

// RunConformance runs the suite, one subtest a check. It makes queues with unique names and deletes them.
func RunConformance(t *testing.T, target Target) {
	known := map[string]bool{}
	for _, list := range [][]check{queueChecks, messageChecks, receiveChecks, batchChecks, redriveChecks} {
		for _, c := range list {
			known[c.name] = true
			t.Run(c.name, func(t *testing.T) {
				if reason := target.Skip[c.name]; reason != "" {
					t.Skip(reason)
				}
				t.Parallel() // most of them wait most of the time
				c.run(&suite{T: t, Client: target.Client(), target: target})
			})
		}
	}
	for name := range target.Skip {
		if !known[name] {
			t.Errorf("the skip %q names no check", name)
		}
	}
}

// suite is the state of one check.
type suite struct {
	*testing.T
	*sqs.Client
	target Target
}

// queue makes a queue with the given attributes, "name", "value" in turns.
func (s *suite) queue(attrs ...string) *string {
	s.Helper()
	in := &sqs.CreateQueueInput{QueueName: aws.String("check-" + uuid.NewString()), Attributes: map[string]string{}}
	for i := 0; i < len(attrs); i += 2 {
		in.Attributes[attrs[i]] = attrs[i+1]
	}
	out, err := s.CreateQueue(s.Context(), in)
	s.must(err)
	s.Cleanup(func() {
		_, _ = s.DeleteQueue(context.WithoutCancel(s.Context()), &sqs.DeleteQueueInput{QueueUrl: out.QueueUrl})
	})
	return out.QueueUrl
}

func (s *suite) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *suite) send(queue *string, body string) string {
	s.Helper()
	out, err := s.SendMessage(s.Context(), &sqs.SendMessageInput{QueueUrl: queue, MessageBody: &body})
	s.must(err)
	return *out.MessageId
}

// receive asks for up to ten messages with all their attributes; negative seconds leave a parameter to the queue.
func (s *suite) receive(queue *string, wait, visibility int32) []types.Message {
	s.Helper()
	in := &sqs.ReceiveMessageInput{
		QueueUrl: queue, MaxNumberOfMessages: 10, WaitTimeSeconds: max(wait, 0), MessageAttributeNames: []string{"All"},
		MessageSystemAttributeNames: []types.MessageSystemAttributeName{types.MessageSystemAttributeNameAll},
	}
	if visibility >= 0 {
		in.VisibilityTimeout = visibility
	}
	out, err := s.ReceiveMessage(s.Context(), in)
	s.must(err)
	return out.Messages
}

// one receives exactly one message.
func (s *suite) one(queue *string, wait, visibility int32) types.Message {
	s.Helper()
	got := s.receive(queue, wait, visibility)
	if len(got) != 1 {
		s.Fatalf("received %d messages, want 1", len(got))
	}
	return got[0]
}

func (s *suite) none(queue *string) {
	s.Helper()
	if got := s.receive(queue, 0, -1); len(got) != 0 {
		s.Fatalf("received %q, want nothing", *got[0].Body)
	}
}

func (s *suite) attribute(queue *string, name types.QueueAttributeName) string {
	s.Helper()
	out, err := s.GetQueueAttributes(s.Context(), &sqs.GetQueueAttributesInput{
		QueueUrl: queue, AttributeNames: []types.QueueAttributeName{name},
	})
	s.must(err)
	return out.Attributes[string(name)]
}

// counts are visible, in flight and delayed messages, as "v/f/d".
func (s *suite) counts(queue *string) string {
	s.Helper()
	return strings.Join([]string{
		s.attribute(queue, types.QueueAttributeNameApproximateNumberOfMessages),
		s.attribute(queue, types.QueueAttributeNameApproximateNumberOfMessagesNotVisible),
		s.attribute(queue, types.QueueAttributeNameApproximateNumberOfMessagesDelayed),
	}, "/")
}

func (s *suite) wantCounts(queue *string, want string) {
	s.Helper()
	if got := s.counts(queue); got != want {
		s.Errorf("visible/in flight/delayed = %s, want %s", got, want)
	}
}

func (s *suite) change(queue, handle *string, seconds int32) error {
	_, err := s.ChangeMessageVisibility(s.Context(), &sqs.ChangeMessageVisibilityInput{
		QueueUrl: queue, ReceiptHandle: handle, VisibilityTimeout: seconds,
	})
	return err
}

func (s *suite) remove(queue, handle *string) error {
	_, err := s.DeleteMessage(s.Context(), &sqs.DeleteMessageInput{QueueUrl: queue, ReceiptHandle: handle})
	return err
}

// wantCode fails unless err is an error of the service with one of the codes.
func (s *suite) wantCode(err error, codes ...string) {
	s.Helper()
	api, ok := errors.AsType[smithy.APIError](err)
	if !ok {
		s.Errorf("got %v, want an error %s", err, strings.Join(codes, " or "))
		return
	}
	for _, code := range codes {
		if api.ErrorCode() == code {
			return
		}
	}
	s.Errorf("got error %s (%s), want %s", api.ErrorCode(), api.ErrorMessage(), strings.Join(codes, " or "))
}

func wantEqual[T comparable](s *suite, what string, got, want T) {
	s.Helper()
	if got != want {
		s.Errorf("%s = %v, want %v", what, got, want)
	}
}

// wantType fails unless err is of the client's type E.
func wantType[E error](s *suite, err error) {
	s.Helper()
	if _, ok := errors.AsType[E](err); !ok {
		s.Errorf("got %v (%T), want %T", err, err, *new(E))
	}
}
