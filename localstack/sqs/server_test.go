package sqs_test

import (
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	client "github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/aws/smithy-go"

	"spool/localstack/sqs"
)

// queues is a server with one queue and a client for it.
type queues struct {
	*testing.T
	*sqs.Server
	client *client.Client
	url    *string
}

func start(t *testing.T, cfg sqs.Config) *queues {
	t.Helper()
	srv, target := serve(t, cfg)
	if err := srv.CreateQueue("q", nil); err != nil {
		t.Fatal(err)
	}
	return &queues{t, srv, target.Client(), aws.String(target.Endpoint + "/" + sqs.DefaultAccount + "/q")}
}

func (q *queues) send(body string) error {
	_, err := q.client.SendMessage(q.Context(), &client.SendMessageInput{QueueUrl: q.url, MessageBody: &body})
	return err
}

func (q *queues) receive(wait int32) []types.Message {
	q.Helper()
	out, err := q.client.ReceiveMessage(q.Context(), &client.ReceiveMessageInput{
		QueueUrl: q.url, MaxNumberOfMessages: 10, WaitTimeSeconds: wait,
		MessageSystemAttributeNames: []types.MessageSystemAttributeName{"All"},
	})
	if err != nil {
		q.Fatal(err)
	}
	return out.Messages
}

func (q *queues) one() types.Message {
	q.Helper()
	got := q.receive(0)
	if len(got) != 1 {
		q.Fatalf("received %d messages, want 1", len(got))
	}
	return got[0]
}

func (q *queues) wantCounts(want sqs.Counts) {
	q.Helper()
	if got, err := q.Counts("q"); err != nil || got != want {
		q.Errorf("counts = %+v, %v, want %+v", got, err, want)
	}
}

func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	if api, ok := errors.AsType[smithy.APIError](err); !ok || api.ErrorCode() != code {
		t.Errorf("got error %v, want code %s", err, code)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestFIFOQueuesAreRefused(t *testing.T) {
	q := start(t, sqs.Config{})
	_, err := q.client.CreateQueue(q.Context(), &client.CreateQueueInput{
		QueueName: aws.String("x.fifo"), Attributes: map[string]string{"FifoQueue": "true"},
	})
	wantCode(t, err, "AWS.SimpleQueueService.UnsupportedOperation")
	if !strings.Contains(err.Error(), "use a standard queue") {
		t.Errorf("error %v does not say what to do", err)
	}
}

func TestLeaseRunsOutByTheClockOfTheServer(t *testing.T) {
	clock := sqs.NewManualClock(time.Unix(1_700_000_000, 0))
	q := start(t, sqs.Config{Clock: clock})
	must(t, q.send("x"))
	first := q.one()
	if got := first.Attributes["SentTimestamp"]; got != "1700000000000" {
		t.Errorf("SentTimestamp = %s", got)
	}
	clock.Advance(29 * time.Second)
	q.wantCounts(sqs.Counts{InFlight: 1})
	clock.Advance(time.Second)
	q.wantCounts(sqs.Counts{Visible: 1})
	if got := q.one().Attributes["ApproximateReceiveCount"]; got != "2" {
		t.Errorf("ApproximateReceiveCount = %s, want 2", got)
	}
}

func TestLeaseEndsAfterTwelveHoursHoweverOftenItIsExtended(t *testing.T) {
	clock := sqs.NewManualClock(time.Unix(1_700_000_000, 0))
	q := start(t, sqs.Config{Clock: clock})
	must(t, q.send("x"))
	m := q.one()
	extend := func(seconds int32) error {
		_, err := q.client.ChangeMessageVisibility(q.Context(), &client.ChangeMessageVisibilityInput{
			QueueUrl: q.url, ReceiptHandle: m.ReceiptHandle, VisibilityTimeout: seconds,
		})
		return err
	}
	must(t, extend(11*3600))
	clock.Advance(11*time.Hour - time.Second)
	wantCode(t, extend(3602), "InvalidParameterValue")
	must(t, extend(3601))
	clock.Advance(3601 * time.Second)
	q.wantCounts(sqs.Counts{Visible: 1})
}

func TestMessagesEndWithTheirRetention(t *testing.T) {
	clock := sqs.NewManualClock(time.Unix(1_700_000_000, 0))
	q := start(t, sqs.Config{Clock: clock})
	must(t, q.send("x"))
	clock.Advance(4*24*time.Hour + time.Second)
	if got := q.receive(0); len(got) != 0 {
		t.Errorf("received %q after its retention", *got[0].Body)
	}
}

func TestPurgeIsAllowedOnceAMinute(t *testing.T) {
	clock := sqs.NewManualClock(time.Unix(1_700_000_000, 0))
	q := start(t, sqs.Config{Clock: clock})
	purge := func() error {
		_, err := q.client.PurgeQueue(q.Context(), &client.PurgeQueueInput{QueueUrl: q.url})
		return err
	}
	must(t, purge())
	wantCode(t, purge(), "AWS.SimpleQueueService.PurgeQueueInProgress")
	clock.Advance(time.Minute)
	must(t, purge())
}

func TestCloseEndsLongPolls(t *testing.T) {
	q := start(t, sqs.Config{})
	done := make(chan int, 1)
	go func() { done <- len(q.receive(20)) }()
	q.Close()
	begin := time.Now()
	if n := <-done; n != 0 {
		t.Errorf("received %d messages", n)
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("the long poll went on for %s", took)
	}
}

func TestDeletedQueueEndsLongPolls(t *testing.T) {
	q := start(t, sqs.Config{Clock: sqs.NewManualClock(time.Now())})
	failed := make(chan error, 1)
	go func() {
		_, err := q.client.ReceiveMessage(q.Context(), &client.ReceiveMessageInput{QueueUrl: q.url, WaitTimeSeconds: 20})
		failed <- err
	}()
	_, err := q.client.DeleteQueue(q.Context(), &client.DeleteQueueInput{QueueUrl: q.url})
	must(t, err)
	wantCode(t, <-failed, "AWS.SimpleQueueService.NonExistentQueue")
}

func TestFaultDropSendLosesWhatWasAcknowledged(t *testing.T) {
	q := start(t, sqs.Config{})
	q.SetFaults(sqs.Faults{DropSend: 3})
	for i := range 6 {
		must(t, q.send(strconv.Itoa(i)))
	}
	var got []string
	for _, m := range q.receive(0) {
		got = append(got, *m.Body)
	}
	if bodies := strings.Join(got, ""); bodies != "0134" {
		t.Errorf("received %s, want 0134", bodies)
	}
}

func TestFaultDuplicateDeliveryComesAgainWhileTheFirstIsHeld(t *testing.T) {
	q := start(t, sqs.Config{})
	q.SetFaults(sqs.Faults{DuplicateDelivery: 2})
	must(t, q.send("a"))
	must(t, q.send("b"))
	if got := q.receive(0); len(got) != 2 {
		t.Fatalf("received %d messages, want 2", len(got))
	}
	again := q.one()
	if *again.Body != "b" || again.Attributes["ApproximateReceiveCount"] != "2" {
		t.Errorf("received %s for the time %s, want b for the second", *again.Body, again.Attributes["ApproximateReceiveCount"])
	}
	q.wantCounts(sqs.Counts{InFlight: 2})
}

func TestFaultLoseMessageLetsItVanishAtDelivery(t *testing.T) {
	q := start(t, sqs.Config{})
	q.SetFaults(sqs.Faults{LoseMessage: 2})
	must(t, q.send("a"))
	must(t, q.send("b"))
	q.wantCounts(sqs.Counts{Visible: 2})
	if got := *q.one().Body; got != "a" {
		t.Errorf("received %s, want a", got)
	}
	q.wantCounts(sqs.Counts{InFlight: 1})
}

func TestFaultsOfRequestsAnswer500BeforeOrAfterTheWork(t *testing.T) {
	q := start(t, sqs.Config{})
	q.SetFaults(sqs.Faults{FailRequest: 2})
	must(t, q.send("a"))
	wantCode(t, q.send("b"), "InternalFailure")
	q.wantCounts(sqs.Counts{Visible: 1})
	q.SetFaults(sqs.Faults{FailReply: 1})
	wantCode(t, q.send("c"), "InternalFailure")
	q.wantCounts(sqs.Counts{Visible: 2})
	q.SetFaults(sqs.Faults{})
	must(t, q.send("d"))
}

func BenchmarkSendReceiveDelete(b *testing.B) {
	srv, target := serve(b, sqs.Config{})
	if err := srv.CreateQueue("q", nil); err != nil {
		b.Fatal(err)
	}
	url := aws.String(target.Endpoint + "/" + sqs.DefaultAccount + "/q")
	b.RunParallel(func(pb *testing.PB) {
		c := target.Client()
		for pb.Next() {
			if _, err := c.SendMessage(b.Context(), &client.SendMessageInput{QueueUrl: url, MessageBody: aws.String("x")}); err != nil {
				b.Error(err)
			}
			out, err := c.ReceiveMessage(b.Context(), &client.ReceiveMessageInput{QueueUrl: url})
			if err != nil || len(out.Messages) != 1 {
				b.Errorf("received %v, %v", out, err)
				return
			}
			if _, err := c.DeleteMessage(b.Context(), &client.DeleteMessageInput{QueueUrl: url, ReceiptHandle: out.Messages[0].ReceiptHandle}); err != nil {
				b.Error(err)
			}
		}
	})
}
