package queue_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"spool/storage/queue"
)

// refusal makes a batch answer in which these ids failed.
func refusal(senderFault bool, ids ...string) (int, string) {
	type entry struct {
		Id, Code, Message string
		SenderFault       bool
	}
	var failed []entry
	for _, id := range ids {
		failed = append(failed, entry{id, "InternalError", "try again", senderFault})
	}
	body, err := json.Marshal(map[string]any{"Failed": failed, "Successful": []entry{}})
	if err != nil {
		panic(err)
	}
	return http.StatusOK, string(body)
}

func bodies(n int) []queue.Outgoing {
	list := make([]queue.Outgoing, n)
	for i := range list {
		list[i].Body = fmt.Sprintf("body %d", i)
	}
	return list
}

// sent are the ids of each batch call.
func sent(w *wire) [][]string {
	var list [][]string
	for _, c := range w.of("SendMessageBatch") {
		var ids []string
		for _, e := range c.In.Entries {
			ids = append(ids, e.Id)
		}
		list = append(list, ids)
	}
	return list
}

func TestSendSendsAgainOnlyWhatTheServiceFailedToTake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		q := w.open(t)
		w.answer("SendMessageBatch", func(request) (int, string) {
			switch len(w.of("SendMessageBatch")) {
			case 1:
				return refusal(false, "1", "3")
			case 2:
				return refusal(false, "3")
			}
			return http.StatusOK, "{}"
		})
		if err := q.Send(t.Context(), bodies(12)); err != nil {
			t.Fatal(err)
		}
		want := [][]string{strings.Split("0123456789", ""), {"1", "3"}, {"3"}, {"10", "11"}}
		if diff := cmp.Diff(want, sent(w)); diff != "" {
			t.Errorf("batches (-want +got):\n%s", diff)
		}
	})
}

func TestSendNamesWhatItCouldNotSend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		q := w.open(t)
		w.answer("SendMessageBatch", func(in request) (int, string) {
			if in.Entries[0].Id == "10" {
				return refusal(true, "11") // refused for good: no second try
			}
			return refusal(false, "7", "2") // for ever
		})
		err := q.Send(t.Context(), bodies(13))
		failed, ok := errors.AsType[*queue.SendError](err)
		if !ok {
			t.Fatalf("got %v, want a SendError", err)
		}
		if diff := cmp.Diff([]int{2, 7, 11}, failed.Unsent); diff != "" {
			t.Errorf("unsent (-want +got):\n%s", diff)
		}
		if got := len(w.of("SendMessageBatch")); got != 6 {
			t.Errorf("%d calls, want 5 for the first batch and 1 for the second", got)
		}
	})
}

func TestSendStopsWhenTheServiceIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		q := w.open(t)
		w.answer("SendMessageBatch", func(in request) (int, string) {
			if in.Entries[0].Id == "0" {
				return http.StatusOK, "{}"
			}
			return http.StatusInternalServerError, fault("InternalFailure", "down")
		})
		err := q.Send(t.Context(), bodies(35))
		failed, ok := errors.AsType[*queue.SendError](err)
		if !ok || !errors.Is(err, queue.ErrUnavailable) {
			t.Fatalf("got %v, want a SendError, unavailable", err)
		}
		if len(failed.Unsent) != 25 || failed.Unsent[0] != 10 || failed.Unsent[24] != 34 {
			t.Errorf("unsent %v, want 10 to 34", failed.Unsent)
		}
		if got := len(w.of("SendMessageBatch")); got != 6 {
			t.Errorf("%d calls, want 1 and the SDK's 5 attempts", got)
		}
	})
}

func TestSendKeepsBatchesBelow256KiB(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		q := w.open(t)
		list := bodies(4)
		for i := range list {
			list[i].Body = strings.Repeat("x", 100<<10)
		}
		if err := q.Send(t.Context(), list); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([][]string{{"0", "1"}, {"2", "3"}}, sent(w)); diff != "" {
			t.Errorf("batches (-want +got):\n%s", diff)
		}
	})
}

func TestHandOverDeletesOnlyAfterTheSend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		q := w.open(t)
		m := w.receive(t, q)
		m.Attributes = map[string]string{"traceparent": "00-1-2-01"}
		w.answer("SendMessageBatch", func(request) (int, string) { return refusal(true, "0") })
		if err := q.HandOver(t.Context(), m); err == nil || len(w.of("DeleteMessage")) != 0 {
			t.Fatalf("send refused: error %v, %d deletes; want one, and none", err, len(w.of("DeleteMessage")))
		}
		w.answer("SendMessageBatch", nil)
		if err := q.HandOver(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		entry := w.of("SendMessageBatch")[1].In.Entries[0]
		if entry.MessageBody != "b" || entry.MessageAttributes["traceparent"].StringValue != "00-1-2-01" {
			t.Errorf("sent %+v, want the same body and attributes", entry)
		}
		if d := w.of("DeleteMessage"); len(d) != 1 || d[0].In.ReceiptHandle != "r1" {
			t.Errorf("deletes %+v, want the old message", d)
		}
	})
}

func TestErrorsSayWhatCanBeDone(t *testing.T) {
	for _, c := range []struct {
		name   string
		status int
		body   string
		want   error
	}{
		{"absent queue", 400, fault("QueueDoesNotExist", "no"), queue.ErrNoQueue},
		{"wrong key", 403, fault("InvalidClientTokenId", "no"), queue.ErrDenied},
		{"policy", 400, fault("AccessDeniedException", "no"), queue.ErrDenied},
		{"expired", 403, fault("ExpiredToken", "no"), queue.ErrDenied},
		{"throttled", 400, fault("RequestThrottled", "slow"), queue.ErrUnavailable},
		{"broken", 500, fault("InternalFailure", "oops"), queue.ErrUnavailable},
		{"a proxy's page", 502, "<html>", queue.ErrUnavailable},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &wire{}
				q := w.open(t)
				w.answer("GetQueueAttributes", func(request) (int, string) { return c.status, c.body })
				_, err := q.Counts(t.Context())
				for _, kind := range []error{queue.ErrNoQueue, queue.ErrDenied, queue.ErrUnavailable, queue.ErrGone} {
					if errors.Is(err, kind) != (kind == c.want) {
						t.Errorf("%v: is %q %v", err, kind, errors.Is(err, kind))
					}
				}
			})
		})
	}
}

func TestReceiveIsALongPollThatHidesFor120Seconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		q := w.open(t)
		if none, err := q.Receive(t.Context(), queue.MaxBatch, queue.MaxWait); err != nil || len(none) != 0 {
			t.Fatalf("%d messages, %v", len(none), err)
		}
		in := w.of("ReceiveMessage")[0].In
		if in.WaitTimeSeconds != 20 || in.VisibilityTimeout != 120 || in.MaxNumberOfMessages != 10 {
			t.Errorf("asked for %d messages, waiting %d s, hidden for %d s; want 10, 20, 120", in.MaxNumberOfMessages, in.WaitTimeSeconds, in.VisibilityTimeout)
		}
	})
}

func TestEndOfTheCallersContextIsNoFaultOfTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		q := w.open(t)
		cause := errors.New("terminated")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(cause)
		_, err := q.Receive(ctx, 1, queue.MaxWait)
		if !errors.Is(err, cause) || !errors.Is(err, context.Canceled) || errors.Is(err, queue.ErrUnavailable) {
			t.Errorf("got %v, want the cause and context.Canceled only", err)
		}
	})
}

func TestMissingQueueNamesTheFlagThatMakesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{t: t}
		w.answer("GetQueueUrl", func(request) (int, string) {
			return http.StatusBadRequest, fault("QueueDoesNotExist", "no")
		})
		_, err := w.client(t).Open(t.Context(), "spool-x")
		if !errors.Is(err, queue.ErrNoQueue) || !strings.Contains(err.Error(), `"spool-x"`) || !strings.Contains(err.Error(), "--create-queues") {
			t.Errorf("got %v, want the name and the flag", err)
		}
	})
}

func TestAWSWithoutARegionIsRefused(t *testing.T) {
	for _, name := range []string{"AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_SQS", "AWS_PROFILE"} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_CONFIG_FILE", "/nowhere")
	if _, err := queue.New(t.Context(), queue.Config{}); err == nil || !strings.Contains(err.Error(), "AWS_REGION") {
		t.Errorf("got %v, want an error that names AWS_REGION", err)
	}
}
