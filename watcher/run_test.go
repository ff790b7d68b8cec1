package watcher_test

import (
	"context"
	"fmt"
	"net/url"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"spool/storage/batch"
	"spool/storage/queue"
	"spool/watcher"
)

// running starts a watcher with an event queue, whose scans are an hour apart, and lets its first one pass.
func (w *world) running(change ...func(*watcher.Config)) (stop func()) {
	w.t.Helper()
	events := func(cfg *watcher.Config) {
		cfg.Events = w.queues.get(queue.EventsQueue)
		cfg.ScanEvery = time.Hour
	}
	wa := w.watcher(append([]func(*watcher.Config){events}, change...)...)
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error)
	go func() { done <- wa.Run(ctx) }()
	sleep(time.Second)
	return func() {
		w.t.Helper()
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("run: %v", err)
		}
	}
}

// event sends what S3 does when an object is made.
func (w *world) event(key string) {
	w.queues.get(queue.EventsQueue).add(fmt.Sprintf(`{"Records":[{"eventVersion":"2.6","eventSource":"aws:s3",`+
		`"eventName":"ObjectCreated:Put","s3":{"bucket":{"name":%q},"object":{"key":%q,"size":1}}}]}`, bucketName, key))
}

func TestAnEventMakesTheWatcherActAtOnce(t *testing.T) {
	for name, spell := range map[string]func(string) string{"as it is": func(s string) string { return s }, "escaped": url.QueryEscape} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				defer w.running()()
				const key = "in/ä b+c%20d.jsonl"
				id := w.upload(key, lines(1001))
				w.event(spell(key))
				sleep(500 * time.Millisecond)
				if !w.exists(batch.PlanKey(id)) || len(w.queues.pool().jobs(t)) != 2 {
					t.Fatalf("no plan or no jobs half a second after the event")
				}
				w.upload(key+batch.CancelSuffix, "")
				w.event(spell(key + batch.CancelSuffix))
				sleep(500 * time.Millisecond)
				if !w.exists(batch.StopKey(id)) {
					t.Error("no stop half a second after the event of a cancel")
				}
				sleep(3 * time.Second)
				if got := outcome(w, key, id).Status; got != batch.Cancelled {
					t.Errorf("batch.json %s, want cancelled", got)
				}
				if v, f := w.queues.get(queue.EventsQueue).left(); v+f != 0 {
					t.Errorf("%d events left", v+f)
				}
			})
		})
	}
}

func TestACancelIsHeardWhenTheInputIsGone(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		id := w.upload("in/x.jsonl", lines(1))
		defer w.running()()
		if err := w.store.Delete(t.Context(), "in/x.jsonl"); err != nil {
			t.Fatal(err)
		}
		w.upload("in/x.jsonl.cancel", "")
		w.event("in/x.jsonl.cancel")
		sleep(time.Second)
		if !w.exists(batch.StopKey(id)) {
			t.Error("no stop")
		}
	})
}

func TestEventsThatAreNoneAreDealtWith(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		reg := prometheus.NewRegistry()
		stop := w.running(func(cfg *watcher.Config) { cfg.Registerer = reg })
		events := w.queues.get(queue.EventsQueue)
		events.add(`{"Service":"Amazon S3","Event":"s3:TestEvent","Bucket":"spool"}`)
		events.add(`{"Records":[{"s3":{"bucket":{"name":"another"},"object":{"key":"in/x.jsonl"}}}]}`)
		events.add(`not JSON`)
		w.event("in/never.jsonl")
		w.event("out/x.jsonl")
		sleep(time.Second)
		if v, f := events.left(); v != 0 || f != 2 {
			t.Errorf("%d and %d events left, want those of another bucket and the malformed one", v, f)
		}
		for range 2 { // SQS delivers again what was not deleted
			events.redeliver()
			sleep(time.Second)
		}
		if _, f := events.left(); f != 1 {
			t.Errorf("%d events left after three deliveries, want that of another bucket only", f)
		}
		stop()
		want := map[string]float64{"test": 1, "foreign": 3, "malformed": 3, "hint": 2}
		for kind, n := range want {
			if got := value(t, reg, "spool_watcher_events_total", "kind", kind); got != n {
				t.Errorf("%s events: %v, want %v", kind, got, n)
			}
		}
	})
}

// redeliver makes visible what is in flight.
func (f *fakeQueue) redeliver() {
	f.all.mu.Lock()
	defer f.all.mu.Unlock()
	f.visible, f.flying = append(f.visible, f.flying...), nil
}

func TestRunScansWithoutEvents(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		defer w.running(func(cfg *watcher.Config) { cfg.Events, cfg.ScanEvery = nil, 30*time.Second })()
		id := w.upload("in/x.jsonl", lines(1))
		sleep(30 * time.Second)
		if len(w.queues.fast().jobs(t)) != 1 {
			t.Fatal("no job after a scan's time")
		}
		w.workAll(w.plan(id))
		sleep(time.Minute)
		if got := outcome(w, "in/x.jsonl", id).Status; got != batch.Completed {
			t.Errorf("batch.json %s, want completed", got)
		}
	})
}

func TestABatchIsCountedByOneOfTwoWatchers(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		var regs [2]*prometheus.Registry
		var pair [2]*watcher.Watcher
		for i := range pair {
			regs[i] = prometheus.NewRegistry()
			pair[i] = w.watcher(func(cfg *watcher.Config) { cfg.Registerer = regs[i] })
		}
		scan := func() {
			for _, wa := range pair {
				w.scan(wa)
			}
		}
		id := w.upload("in/x.jsonl", lines(1500))
		scan()
		scan()
		w.workAll(w.plan(id))
		scan()
		for i, want := range []float64{1, 0} {
			if got := value(t, regs[i], "spool_watcher_batches_total", "outcome", "completed"); got != want {
				t.Errorf("watcher %d counted %v batches, want %v", i, got, want)
			}
		}
	})
}

func TestMetricsTellWhatWasDone(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		reg := prometheus.NewRegistry()
		wa := w.watcher(func(cfg *watcher.Config) { cfg.Registerer = reg })
		good := lines(1001)
		id := w.upload("in/x.jsonl", good)
		w.upload("in/y.jsonl", "bad\nbad\n")
		w.scan(wa)
		w.workAll(w.plan(id))
		w.scan(wa)
		for _, c := range []struct {
			name, label, value string
			want               float64
		}{
			{"scans_total", "", "", 2},
			{"plans_total", "verdict", "accepted", 1}, {"plans_total", "verdict", "rejected", 1},
			{"batches_total", "outcome", "completed", 1}, {"batches_total", "outcome", "failed", 1}, {"batches_total", "outcome", "expired", 0},
			{"lines_validated_total", "", "", 1003}, {"bad_lines_total", "", "", 2},
			{"validated_bytes_total", "", "", float64(len(good) + 8)},
			{"jobs_sent_total", "pool", "default", 2},
		} {
			if got := value(t, reg, "spool_watcher_"+c.name, c.label, c.value); got != c.want {
				t.Errorf("%s{%s=%q} is %v, want %v", c.name, c.label, c.value, got, c.want)
			}
		}
		problems, err := testutil.GatherAndLint(reg)
		if err != nil || len(problems) > 0 {
			t.Errorf("lint: %v %v", problems, err)
		}
	})
}

// value sums the metrics of one name that have the label.
func value(t *testing.T, reg prometheus.Gatherer, name, label, want string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found, sum := false, 0.0
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() != name {
				continue
			}
			for _, l := range m.GetLabel() {
				if l.GetName() == label && l.GetValue() == want {
					found = true
					sum += m.GetCounter().GetValue()
				}
			}
			if label == "" {
				found = true
				sum += m.GetCounter().GetValue()
			}
		}
	}
	if !found {
		t.Errorf("no %s{%s=%q}", name, label, want)
	}
	return sum
}
