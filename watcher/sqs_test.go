package watcher_test

import (
	"context"
	"encoding/json"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/prometheus/client_golang/prometheus"

	"spool/localstack/sqs"
	"spool/storage/batch"
	"spool/storage/memstore"
	"spool/storage/queue"
	"spool/watcher"
)

// overSQS is a world with real queues over HTTP, real time, and a store whose clock can be put forward.
func overSQS(t *testing.T) (*world, *sqs.Server, *queue.Client, *atomic.Int64) {
	t.Helper()
	server := sqs.New(sqs.Config{})
	front := httptest.NewServer(server)
	t.Cleanup(front.Close)
	t.Cleanup(server.Close)
	client, err := queue.New(t.Context(), queue.Config{
		Region: sqs.DefaultRegion, Endpoint: front.URL, HTTPClient: front.Client(),
		Credentials: credentials.NewStaticCredentialsProvider(sqs.DefaultAccessKey, sqs.DefaultSecretKey, ""),
	})
	if err == nil {
		err = client.EnsurePool(t.Context(), watcher.DefaultPool)
	}
	if err == nil {
		err = client.EnsureEvents(t.Context(), bucketName)
	}
	if err != nil {
		t.Fatal(err)
	}
	ahead := new(atomic.Int64)
	clock := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	return &world{t: t, store: memstore.New(memstore.Options{Clock: clock})}, server, client, ahead
}

func open(t *testing.T, client *queue.Client, name string) *queue.Queue {
	t.Helper()
	q, err := client.Open(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// TestOverSQSAnEventBecomesAJob: nothing but the event can have caused it, since the only scan was before the upload.
// TestAnEventMakesTheWatcherActAtOnce holds how soon.
func TestOverSQSAnEventBecomesAJob(t *testing.T) {
	w, _, client, _ := overSQS(t)
	events, jobs := open(t, client, queue.EventsQueue), open(t, client, queue.FastQueue(watcher.DefaultPool))
	reg := prometheus.NewRegistry()
	wa := w.watcher(func(cfg *watcher.Config) {
		cfg.Queues, cfg.Events, cfg.ScanEvery, cfg.Registerer = watcher.SQS(client), events, time.Hour, reg
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- wa.Run(ctx) }()
	for limit := time.Now().Add(time.Minute); value(t, reg, "spool_watcher_scans_total", "", "") == 0; {
		if time.Now().After(limit) {
			t.Fatal("no scan in a minute")
		}
		<-time.After(5 * time.Millisecond)
	}

	id := w.upload("in/x.jsonl", lines(10), "traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	started := time.Now()
	body := `{"Records":[{"s3":{"bucket":{"name":"spool"},"object":{"key":"in/x.jsonl"}}}]}`
	if err := events.Send(ctx, []queue.Outgoing{{Body: body}}); err != nil {
		t.Fatal(err)
	}
	var got []*queue.Message
	for tries := 0; len(got) == 0 && tries < 3; tries++ { // a minute
		var err error
		if got, err = jobs.Receive(ctx, 1, queue.MaxWait); err != nil {
			t.Fatal(err)
		}
	}
	if len(got) != 1 {
		t.Fatalf("%d jobs, want one", len(got))
	}
	t.Logf("the job came after %s", time.Since(started).Round(time.Millisecond))
	var job batch.Message
	if err := json.Unmarshal([]byte(got[0].Body), &job); err != nil || job.Batch != id || got[0].Attributes["traceparent"] == "" {
		t.Errorf("job %s with attributes %v: want batch %s and a traceparent", got[0].Body, got[0].Attributes, id)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("run: %v", err)
	}
}

func TestOverSQSLostMessagesComeBack(t *testing.T) {
	w, server, client, ahead := overSQS(t)
	wa := w.watcher(func(cfg *watcher.Config) { cfg.Queues = watcher.SQS(client) })
	server.SetFaults(sqs.Faults{DropSend: 2}) // every second one is acknowledged and gone
	w.upload("in/x.jsonl", lines(8001))       // two shards
	w.scan(wa)
	server.SetFaults(sqs.Faults{})
	count := func() int {
		c, err := server.Counts(queue.PoolQueue(watcher.DefaultPool))
		if err != nil {
			t.Fatal(err)
		}
		return c.Visible
	}
	if got := count(); got != 1 {
		t.Fatalf("%d messages, want 1 of 2", got)
	}
	for range 2 {
		ahead.Add(int64(resendAfter) + int64(time.Second))
		w.scan(wa)
	}
	if got := count(); got != 3 {
		t.Errorf("%d messages, want 3: two more for the shards that nobody had begun", got)
	}
}
