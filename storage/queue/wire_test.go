package queue_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"
	"go.uber.org/goleak"

	"spool/storage/queue"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// wire answers SQS's JSON protocol without a network, so that the real SDK runs in a synctest bubble. An
// action that has no answer of its own is answered with {}.
type wire struct {
	t *testing.T

	mu      sync.Mutex
	calls   []call
	answers map[string]func(in request) (status int, body string)
}

type call struct {
	Action string
	At     time.Time
	In     request
}

// request holds the members of all actions that the tests look at.
type request struct {
	QueueUrl            string
	QueueName           string
	ReceiptHandle       string
	VisibilityTimeout   int
	WaitTimeSeconds     int
	MaxNumberOfMessages int
	Entries             []struct {
		Id                string
		MessageBody       string
		MessageAttributes map[string]struct{ DataType, StringValue string }
	}
}

func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	if r.URL.Host != "sqs.test" {
		w.t.Errorf("request to %q, want the endpoint's host whatever the queue's URL says", r.URL.Host)
	}
	action := strings.TrimPrefix(r.Header.Get("X-Amz-Target"), "AmazonSQS.")
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	var in request
	if err := json.Unmarshal(body, &in); err != nil {
		w.t.Errorf("%s: body %q: %v", action, body, err)
	}
	if action != "GetQueueUrl" && in.QueueUrl != queueURL {
		w.t.Errorf("%s of queue %q, want %q", action, in.QueueUrl, queueURL)
	}
	w.mu.Lock()
	w.calls = append(w.calls, call{action, time.Now(), in})
	answer := w.answers[action]
	w.mu.Unlock()
	status, text := http.StatusOK, "{}"
	if answer != nil {
		status, text = answer(in)
	}
	rec := httptest.NewRecorder()
	rec.Header().Set("Content-Type", "application/x-amz-json-1.0")
	rec.WriteHeader(status)
	_, _ = rec.WriteString(text)
	res := rec.Result()
	res.Request = r
	return res, nil
}

func (w *wire) answer(action string, f func(request) (int, string)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.answers == nil {
		w.answers = map[string]func(request) (int, string){}
	}
	w.answers[action] = f
}

func (w *wire) of(action string) []call {
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []call
	for _, c := range w.calls {
		if c.Action == action {
			list = append(list, c)
		}
	}
	return list
}

func fault(code, message string) string {
	return `{"__type":"com.amazonaws.sqs#` + code + `","message":"` + message + `"}`
}

const queueURL = "http://unreachable.invalid/000000000000/spool-p"

// open gives a queue on the wire, under a URL whose host nobody can reach.
func (w *wire) open(t *testing.T) *queue.Queue {
	t.Helper()
	w.t = t
	w.answer("GetQueueUrl", func(request) (int, string) {
		return http.StatusOK, `{"QueueUrl":"` + queueURL + `"}`
	})
	q, err := w.client(t).Open(t.Context(), "spool-p")
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func (w *wire) client(t *testing.T) *queue.Client {
	t.Helper()
	c, err := queue.New(t.Context(), queue.Config{
		Region: "us-east-1", Endpoint: "http://sqs.test",
		Credentials: credentials.NewStaticCredentialsProvider("id", "secret", ""),
		HTTPClient:  &http.Client{Transport: w},
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// receive gives the one message of the queue on the wire.
func (w *wire) receive(t *testing.T, q *queue.Queue) *queue.Message {
	t.Helper()
	w.answer("ReceiveMessage", func(request) (int, string) {
		return http.StatusOK, `{"Messages":[{"MessageId":"m1","ReceiptHandle":"r1","Body":"b","MD5OfBody":"92eb5ffee6ae2fec3ad71c777531578f"}]}`
	})
	got, err := q.Receive(t.Context(), 1, 0)
	if err != nil || len(got) != 1 {
		t.Fatalf("Receive: %d messages, %v", len(got), err)
	}
	return got[0]
}
