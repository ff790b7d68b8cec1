package sim

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"

	"spool/localstack/sqs"
	"spool/storage/queue"
)

// wire carries the requests of one process to the SQS server: the real client and the real server, but for the
// socket, which virtual time does not know.
type wire struct{ *link }

var _ aws.HTTPClient = wire{}

var (
	errRefused = errors.New("injected: connection refused")
	errReset   = errors.New("injected: connection reset")
)

// Do answers a request, or loses it, or its reply.
func (c wire) Do(r *http.Request) (*http.Response, error) {
	op := strings.TrimPrefix(r.Header.Get("X-Amz-Target"), "AmazonSQS.")
	if c.isDead() {
		return nil, errRefused
	}
	q := c.ask("sqs", op)
	if err := sleep(r.Context(), c.w.dice.between(time.Millisecond, 20*time.Millisecond, q, "takes")); err != nil {
		return nil, err
	}
	fails := c.w.troubled() && c.w.dice.roll(q, "fails") < c.w.queueFaults
	lost := fails && c.w.dice.roll(q, "when") < 0.5
	switch {
	case c.isDead(), during(c.w.queueOut, time.Now()):
		return nil, errRefused
	case c.zombie && c.w.troubled() && op == "ChangeMessageVisibility":
		return nil, errRefused
	case fails && !lost:
		return nil, errRefused
	}
	resp := c.serve(r)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	if lost || c.isDead() {
		return nil, errReset
	}
	return resp, nil
}

func (c wire) serve(r *http.Request) *http.Response {
	r = r.Clone(r.Context())
	if r.Host == "" {
		r.Host = r.URL.Host
	}
	if r.Body == nil {
		r.Body = http.NoBody
	}
	rec := httptest.NewRecorder()
	c.w.queues.ServeHTTP(rec, r)
	return rec.Result()
}

// client is the process's own client of the queues.
func (c wire) client(ctx context.Context) *queue.Client {
	client, err := queue.New(ctx, queue.Config{
		Region: sqs.DefaultRegion, Endpoint: "http://sqs.invalid", HTTPClient: c,
		Credentials: credentials.NewStaticCredentialsProvider(sqs.DefaultAccessKey, sqs.DefaultSecretKey, ""),
	})
	if err != nil {
		c.w.t.Fatal(err)
	}
	return client
}
