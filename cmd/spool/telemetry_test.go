//go:build !nolocal

package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"

	"spool/localstack/pushgateway"
	"spool/localstack/sqs"
	"spool/monitoring"
	"spool/storage"
	"spool/storage/batch"
	"spool/storage/memstore"
	"spool/storage/storagetest"
)

// watchOnce runs spool watch --once over one bad file, and gives the Pushgateway and the keys of stored metrics.
func watchOnce(t *testing.T, env map[string]string) (*pushgateway.Server, *world, []string) {
	t.Helper()
	for name, value := range env {
		t.Setenv(name, value)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", sqs.DefaultAccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", sqs.DefaultSecretKey)
	queues := sqs.New(sqs.Config{})
	t.Cleanup(func() { queues.Close() })
	wire := httptest.NewServer(queues)
	t.Cleanup(wire.Close)
	gateway := pushgateway.New(nil)
	pushes := httptest.NewServer(gateway)
	t.Cleanup(pushes.Close)
	w := newWorld(t)
	w.put("in/x.jsonl", "bad\n", nil)
	w.want(exitOK, "watch", "--once", "--bucket", bucketName, "--create-queues", "--region", "us-east-1", "--sqs-endpoint", wire.URL,
		"--pushgateway", pushes.URL)
	var keys []string
	for obj, err := range w.store.List(t.Context(), batch.OtherLogsPrefix, "") {
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(obj.Key, "/"+metricsFile) {
			keys = append(keys, obj.Key)
		}
	}
	return gateway, w, keys
}

func TestMetricsArePushedAndLeftBesideTheLogs(t *testing.T) {
	gateway, w, keys := watchOnce(t, nil)
	families, err := gateway.Gather()
	if err != nil {
		t.Fatal(err)
	}
	pushed := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			if labels["job"] != monitoring.WatcherJob || !strings.HasPrefix(labels["instance"], "w-") {
				t.Errorf("%s is of the group %v", f.GetName(), labels)
			}
			pushed[f.GetName()] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	if up, ok := pushed["spool_watcher_up"]; !ok || up != 0 || pushed["spool_watcher_bad_lines_total"] != 1 {
		t.Errorf("pushed: up %v (there: %t), %v bad lines; want 0, 1", up, ok, pushed["spool_watcher_bad_lines_total"])
	}
	if v, there := pushed["spool_queue_messages"]; there {
		t.Errorf("the last push has a live gauge: %v", v)
	}
	if len(keys) != 1 || !strings.HasPrefix(keys[0], "logs/_/watcher/w-") || !strings.Contains(w.get(keys[0]), "\nspool_watcher_bad_lines_total 1\n") {
		t.Errorf("metrics stored as %v", keys)
	}
}

func TestMetricsAreLeftByWhoIsInterrupted(t *testing.T) {
	w := newWorld(t)
	reg := prometheus.NewRegistry()
	monitoring.NewSet(reg).Counters("spool_lines_total").WithLabelValues("ok").Add(3)
	s := service{component: "runner", name: "r-1", reg: reg, log: zap.NewNop()}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.store(ctx, w.store)
	if got := w.get("logs/_/runner/r-1/" + metricsFile); !strings.HasSuffix(got, "\nspool_lines_total{status=\"ok\"} 3\n") {
		t.Errorf("stored is %q", got)
	}
}

func TestMetricsCanBeSwitchedOff(t *testing.T) {
	gateway, _, keys := watchOnce(t, map[string]string{"ENABLE_PROMETHEUS": "false"})
	families, err := gateway.Gather()
	if err != nil || len(families) != 0 || len(keys) != 0 {
		t.Errorf("%d families were pushed, %v stored, %v", len(families), keys, err)
	}
}

func TestStoreIsMetered(t *testing.T) {
	ctx := t.Context()
	mem := memstore.New(memstore.Options{})
	denied := &storagetest.Hook{Bucket: mem, Reads: true, Before: storagetest.FailNth(2, storagetest.Denied, storagetest.OpHead)}
	reg := prometheus.NewRegistry()
	s := newStoreMeter(reg).of(&store{Bucket: denied, Deleter: mem, name: "b"})
	put := func(key, body string) {
		if _, err := s.Put(ctx, key, []byte(body), storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	put("in/a", "12345")
	put("sys/v1/b", "1")
	if _, err := s.Upload(ctx, "out/c", bytes.NewReader(make([]byte, 100)), storage.PutOptions{Size: 100}); err != nil {
		t.Fatal(err)
	}
	r, _, err := s.Get(ctx, "in/a", storage.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(r, make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	r.Close()
	if _, err := s.Head(ctx, "in/absent"); !storage.IsNotFound(err) {
		t.Errorf("head: %v", err)
	}
	if _, err := s.Head(ctx, "in/a"); storage.KindOf(err) != storage.KindDenied {
		t.Errorf("head: %v", err)
	}
	n := 0
	for range s.List(ctx, "", "") {
		n++
	}
	if err := s.Delete(ctx, "in/a"); err != nil || n != 3 {
		t.Errorf("delete: %v; %d objects listed, want 3", err, n)
	}
	m := s.Bucket.(*metered)
	for want, c := range map[float64]prometheus.Counter{
		100: m.bytes.WithLabelValues("written", "result"), 5: m.bytes.WithLabelValues("written", "input"), 3: m.bytes.WithLabelValues("read", "input"),
	} {
		if got := testutil.ToFloat64(c); got != want {
			t.Errorf("%v bytes, want %v", got, want)
		}
	}
	if got := testutil.ToFloat64(m.files.WithLabelValues("written", "work")); got != 1 {
		t.Errorf("%v files of work, want 1", got)
	}
	if got, n := testutil.ToFloat64(m.errors.WithLabelValues("head", "denied")), testutil.CollectAndCount(m.errors); got != 1 || n != 1 {
		t.Errorf("%v errors of %d kinds, want 1 of 1: that an object is not there is none", got, n)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "spool_storage_operation_duration_seconds" {
			continue
		}
		var got []string
		for _, h := range f.GetMetric() {
			got = append(got, h.GetLabel()[0].GetValue())
		}
		if want := []string{"delete", "get", "head", "list", "put", "upload"}; !slices.Equal(got, want) {
			t.Errorf("timed are %v, want %v", got, want)
		}
	}
}

func TestListingThatFailsIsCounted(t *testing.T) {
	mem := memstore.New(memstore.Options{})
	failing := &storagetest.Hook{Bucket: mem, Reads: true, Before: storagetest.FailNth(1, storagetest.Denied, storagetest.OpList)}
	s := newStoreMeter(nil).of(&store{Bucket: failing, Deleter: mem})
	var last error
	for _, err := range s.List(t.Context(), "", "") {
		last = errors.Join(last, err)
	}
	if got := testutil.ToFloat64(s.Bucket.(*metered).errors.WithLabelValues("list", "denied")); got != 1 || last == nil {
		t.Errorf("%v failures counted, want 1; %v", got, last)
	}
}
