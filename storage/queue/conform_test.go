package queue_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/google/go-cmp/cmp"

	"spool/storage/queue"
)

// conform asks a server for what spool relies on.
func conform(t *testing.T, l lab) {
	for name, ask := range map[string]func(*testing.T, lab){
		"pool queues are made once, with their attributes":    poolQueues,
		"events queue lets S3 send for this bucket only":      eventsQueue,
		"absent queue is named":                               absentQueue,
		"messages come whole, once, and are counted":          roundTrip,
		"message given back is delivered again":               givenBack,
		"message that is handed over starts anew":             handedOver,
		"extending a deleted message fails":                   extendDeleted,
		"message delivered too often goes to the dead queue":  deadLetter,
		"long poll waits, and ends when a message comes":      longPoll,
		"delayed message is counted and not delivered before": delayed,
	} {
		t.Run(name, func(t *testing.T) {
			if why := l.lacks[name]; why != "" {
				t.Skip(why)
			}
			t.Parallel() // some of them wait most of the time
			ask(t, l)
		})
	}
}

// fresh makes a queue for one test.
func (l lab) fresh(t *testing.T, name string, a queue.Attributes) *queue.Queue {
	t.Helper()
	q, err := l.client.Create(t.Context(), name, a)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func send(t *testing.T, q *queue.Queue, messages ...queue.Outgoing) {
	t.Helper()
	if err := q.Send(t.Context(), messages); err != nil {
		t.Fatal(err)
	}
}

// receiveOne waits for one message, 20 s at most.
func receiveOne(t *testing.T, q *queue.Queue) *queue.Message {
	t.Helper()
	got, err := q.Receive(t.Context(), 1, queue.MaxWait)
	if err != nil || len(got) != 1 {
		t.Fatalf("got %d messages, %v; want one", len(got), err)
	}
	return got[0]
}

func counts(t *testing.T, q *queue.Queue) queue.Counts {
	t.Helper()
	c, err := q.Counts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (l lab) attributes(t *testing.T, name string) map[string]string {
	t.Helper()
	url, err := l.raw.GetQueueUrl(t.Context(), &awssqs.GetQueueUrlInput{QueueName: &name})
	if err != nil {
		t.Fatal(err)
	}
	out, err := l.raw.GetQueueAttributes(t.Context(), &awssqs.GetQueueAttributesInput{
		QueueUrl: url.QueueUrl, AttributeNames: []types.QueueAttributeName{"All"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.Attributes
}

func poolQueues(t *testing.T, l lab) {
	for range 2 {
		if err := l.client.EnsurePool(t.Context(), "llama"); err != nil {
			t.Fatal(err)
		}
	}
	dead := l.attributes(t, "spool-llama-dlq")
	if dead["MessageRetentionPeriod"] != "1209600" || dead["RedrivePolicy"] != "" {
		t.Errorf("dead queue keeps %s s, redrives to %q; want 14 days and nothing", dead["MessageRetentionPeriod"], dead["RedrivePolicy"])
	}
	for _, name := range []string{"spool-llama", "spool-llama-fast"} {
		have := l.attributes(t, name)
		if have["VisibilityTimeout"] != "120" || have["MessageRetentionPeriod"] != "345600" {
			t.Errorf("%s: visibility %s s, retention %s s; want 120, 4 days", name, have["VisibilityTimeout"], have["MessageRetentionPeriod"])
		}
		var redrive struct {
			DeadLetterTargetArn string
			MaxReceiveCount     json.Number
		}
		if err := json.Unmarshal([]byte(have["RedrivePolicy"]), &redrive); err != nil {
			t.Fatal(err)
		}
		if redrive.DeadLetterTargetArn != dead["QueueArn"] || redrive.MaxReceiveCount != "50" {
			t.Errorf("%s: redrive policy %+v; want 50 to %s", name, redrive, dead["QueueArn"])
		}
	}
	if q, err := l.client.Create(t.Context(), "spool-llama", queue.Attributes{Retention: time.Hour}); err != nil || q.Name() != "spool-llama" {
		t.Errorf("other attributes: %v; want the queue as it is", err)
	}
	if have := l.attributes(t, "spool-llama")["MessageRetentionPeriod"]; have != "345600" {
		t.Errorf("retention became %s s", have)
	}
}

func eventsQueue(t *testing.T, l lab) {
	for range 2 {
		if err := l.client.EnsureEvents(t.Context(), "my-bucket"); err != nil {
			t.Fatal(err)
		}
	}
	have := l.attributes(t, queue.EventsQueue)
	type statement struct {
		Sid, Effect, Action, Resource string
		Principal                     map[string]string
		Condition                     map[string]map[string]string
	}
	var policy struct{ Statement []statement }
	if err := json.Unmarshal([]byte(have["Policy"]), &policy); err != nil {
		t.Fatalf("policy %q: %v", have["Policy"], err)
	}
	var region, account, name string
	if _, err := fmt.Sscanf(have["QueueArn"], "arn:aws:sqs:%9s:%12s:%s", &region, &account, &name); err != nil {
		t.Fatalf("arn %q: %v", have["QueueArn"], err)
	}
	want := []statement{{
		Sid: "EventsOfTheBucket", Effect: "Allow", Action: "sqs:SendMessage", Resource: have["QueueArn"],
		Principal: map[string]string{"Service": "s3.amazonaws.com"},
		Condition: map[string]map[string]string{
			"ArnEquals":    {"aws:SourceArn": "arn:aws:s3:::my-bucket"},
			"StringEquals": {"aws:SourceAccount": account},
		},
	}}
	if diff := cmp.Diff(want, policy.Statement); diff != "" {
		t.Errorf("policy (-want +got):\n%s", diff)
	}
}

func absentQueue(t *testing.T, l lab) {
	if _, err := l.client.Open(t.Context(), "spool-nowhere"); !errors.Is(err, queue.ErrNoQueue) {
		t.Errorf("got %v, want ErrNoQueue", err)
	}
}

func roundTrip(t *testing.T, l lab) {
	l.fresh(t, "round", queue.Attributes{})
	q, err := l.client.Open(t.Context(), "round")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	var messages []queue.Outgoing
	for i := range 23 {
		body := fmt.Sprintf(`{"shard":%d,"text":"ü <&> \n"}`, i)
		parent := fmt.Sprintf("00-%032d-01", i)
		want[body] = parent
		messages = append(messages, queue.Outgoing{Body: body, Attributes: map[string]string{"traceparent": parent}})
	}
	start := time.Now()
	send(t, q, messages...)
	if got := counts(t, q); got != (queue.Counts{Visible: 23}) {
		t.Errorf("counts %+v, want 23 visible", got)
	}
	got := map[string]string{}
	var held []*queue.Message
	for len(held) < 23 {
		batch, err := q.Receive(t.Context(), queue.MaxBatch, time.Second)
		if err != nil || len(batch) == 0 {
			t.Fatalf("after %d messages: %d, %v", len(held), len(batch), err)
		}
		for _, m := range batch {
			got[m.Body] = m.Attributes["traceparent"]
			if m.ReceiveCount != 1 || m.ID == "" || m.Sent.Before(start.Add(-time.Minute)) || m.Received.Before(start) {
				t.Errorf("message %+v; want count 1, an id, and times after %s", m, start)
			}
		}
		held = append(held, batch...)
	}
	if diff := cmp.Diff(want, got); diff != "" || len(held) != 23 {
		t.Errorf("%d messages (-want +got):\n%s", len(held), diff)
	}
	if got := counts(t, q); got != (queue.Counts{InFlight: 23}) {
		t.Errorf("counts %+v, want 23 in flight", got)
	}
	for _, m := range held {
		if err := q.Delete(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	if got := counts(t, q).Total(); got != 0 {
		t.Errorf("%d messages left", got)
	}
}

func givenBack(t *testing.T, l lab) {
	q := l.fresh(t, "back", queue.Attributes{})
	send(t, q, queue.Outgoing{Body: "b"})
	m := receiveOne(t, q)
	if none, err := q.Receive(t.Context(), 1, 0); err != nil || len(none) != 0 {
		t.Fatalf("held message was delivered: %d, %v", len(none), err)
	}
	if err := q.Extend(t.Context(), m, 0); err != nil {
		t.Fatal(err)
	}
	again := receiveOne(t, q)
	if again.ID != m.ID || again.ReceiveCount != 2 {
		t.Errorf("got %q for the %d. time; want %q, 2", again.ID, again.ReceiveCount, m.ID)
	}
	if err := q.Extend(t.Context(), again, queue.DefaultVisibility); err != nil {
		t.Errorf("extend a held message: %v", err)
	}
}

func handedOver(t *testing.T, l lab) {
	q := l.fresh(t, "over", queue.Attributes{})
	send(t, q, queue.Outgoing{Body: "b", Attributes: map[string]string{"traceparent": "00-1"}})
	m := receiveOne(t, q)
	if err := q.HandOver(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	next := receiveOne(t, q)
	if next.ID == m.ID || next.Body != "b" || next.Attributes["traceparent"] != "00-1" || next.ReceiveCount != 1 {
		t.Errorf("got %+v; want the same as another message, received once", next)
	}
	if got := counts(t, q); got != (queue.Counts{InFlight: 1}) {
		t.Errorf("counts %+v, want the new one only", got)
	}
}

func extendDeleted(t *testing.T, l lab) {
	q := l.fresh(t, "gone", queue.Attributes{})
	send(t, q, queue.Outgoing{Body: "b"})
	m := receiveOne(t, q)
	if err := q.Delete(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if err := q.Extend(t.Context(), m, time.Minute); !errors.Is(err, queue.ErrGone) {
		t.Errorf("got %v, want ErrGone", err)
	}
}

func deadLetter(t *testing.T, l lab) {
	dead := l.fresh(t, "dead", queue.Attributes{Retention: queue.DeadRetention})
	q := l.fresh(t, "often", queue.Attributes{DeadLetter: dead, MaxReceives: 2})
	send(t, q, queue.Outgoing{Body: "b"})
	for range 2 {
		if err := q.Extend(t.Context(), receiveOne(t, q), 0); err != nil {
			t.Fatal(err)
		}
	}
	if none, err := q.Receive(t.Context(), 1, time.Second); err != nil || len(none) != 0 {
		t.Fatalf("third delivery: %d messages, %v; want none", len(none), err)
	}
	if m := receiveOne(t, dead); m.Body != "b" {
		t.Errorf("dead queue has %q, want b", m.Body)
	}
}

func longPoll(t *testing.T, l lab) {
	q := l.fresh(t, "poll", queue.Attributes{})
	start := time.Now()
	if none, err := q.Receive(t.Context(), 1, time.Second); err != nil || len(none) != 0 || time.Since(start) < 900*time.Millisecond {
		t.Errorf("%d messages, %v after %s; want none after 1 s", len(none), err, time.Since(start))
	}
	send(t, q, queue.Outgoing{Body: "late", Delay: 2 * time.Second})
	start = time.Now()
	if m := receiveOne(t, q); m.Body != "late" || time.Since(start) > 18*time.Second {
		t.Errorf("got %q after %s, want it when it comes and not at the end of 20 s", m.Body, time.Since(start))
	}
}

func delayed(t *testing.T, l lab) {
	q := l.fresh(t, "delay", queue.Attributes{})
	start := time.Now()
	send(t, q, queue.Outgoing{Body: "b", Delay: 8 * time.Second}) // a busy machine counts it meanwhile
	if got := counts(t, q); got != (queue.Counts{Delayed: 1}) {
		t.Errorf("counts %+v, want one delayed", got)
	}
	receiveOne(t, q)
	if got := time.Since(start); got < 7500*time.Millisecond {
		t.Errorf("delivered after %s, want 8 s", got)
	}
}
