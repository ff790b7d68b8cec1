package watcher_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"spool/monitoring"
	"spool/storage/batch"
	"spool/storage/lease"
	"spool/storage/queue"
	"spool/watcher"
)

// gauge reads the gauge of one name whose labels include the pairs given.
func gauge(t *testing.T, g prometheus.Gatherer, name string, pairs ...string) (v float64, ok bool) {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			if !slices.ContainsFunc(pairs, func(p string) bool { return !slices.Contains(labels, p) }) {
				return m.GetGauge().GetValue(), true
			}
		}
	}
	return 0, false
}

func TestMetricsTellOfQueuesWithoutRunners(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		reg := prometheus.NewRegistry()
		wa := w.watcher(func(cfg *watcher.Config) { cfg.Registerer = reg })
		want := func(want float64, name string, pairs ...string) {
			t.Helper()
			if got, ok := gauge(t, reg, name, pairs...); !ok || got != want {
				t.Errorf("%s %v is %v (there: %t), want %v", name, pairs, got, ok, want)
			}
		}
		id := w.upload("in/x.jsonl", lines(2001))
		w.scan(wa)
		time.Sleep(5 * time.Minute)
		w.queues.get(queue.DeadQueue("default")).add(`{"v":99}`)
		w.scan(wa)
		want(300, "spool_queue_oldest_message_age_seconds", "queue=spool-default", "queue_role=jobs", "pool=default")
		want(0, "spool_queue_oldest_message_age_seconds", "queue=spool-default-fast")
		want(2, "spool_queue_messages", "queue=spool-default", "queue_role=jobs", "state=visible")
		want(0, "spool_queue_messages", "queue=spool-default-fast", "queue_role=jobs", "state=visible")
		want(1, "spool_queue_messages", "queue=spool-default-dlq", "queue_role=dlq", "state=visible")
		want(2001, "spool_batch_lines", "batch_id="+id, "state=total")
		want(0, "spool_batch_lines", "batch_id="+id, "state=completed")

		w.work(w.plan(id), 0)
		time.Sleep(time.Minute)
		w.scan(wa)
		want(2000, "spool_batch_lines", "batch_id="+id, "state=completed")
		if eta, ok := gauge(t, reg, "spool_batch_eta_seconds", "batch_id="+id); !ok || eta < 0 {
			t.Errorf("no time left is told (%v, %t)", eta, ok)
		}

		w.workAll(w.plan(id))
		w.scan(wa)
		ended := time.Now() // it left the runner a minute to finalise
		want(0, "spool_queue_oldest_message_age_seconds", "queue=spool-default")
		for _, name := range []string{"spool_batch_lines", "spool_batch_eta_seconds"} {
			if v, ok := gauge(t, reg, name); ok {
				t.Errorf("%s is %v after the end", name, v)
			}
		}
		want(float64(ended.Unix()), "spool_last_success_timestamp_seconds", "pool=default")
		want(float64(ended.Unix()), "spool_last_completion_timestamp_seconds", "pool=default")
		want(420, "spool_last_run_duration_seconds", "pool=default")
		want(0, "spool_watcher_up")
	})
}

func TestAJobThatARunnerLeftWaitsSinceThen(t *testing.T) {
	for state, name := range map[lease.State]string{lease.Released: "handed over", lease.Held: "killed"} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				reg := prometheus.NewRegistry()
				wa := w.watcher(func(cfg *watcher.Config) { cfg.Registerer = reg })
				id := w.upload("in/x.jsonl", lines(1001))
				waits := func(want time.Duration, when string) {
					t.Helper()
					w.scan(wa)
					got, ok := gauge(t, reg, "spool_queue_oldest_message_age_seconds", "queue=spool-default")
					if !ok || got != want.Seconds() {
						t.Errorf("%s the oldest job waits for %v s (there: %t), want %s", when, got, ok, want)
					}
				}
				waits(0, "when it is sent")
				sleep(10 * time.Minute)
				w.putLease(id, 0, lease.Held)
				waits(10*time.Minute, "while nobody works on the second shard")
				w.work(w.plan(id), 1)
				sleep(35 * time.Minute)
				w.putLease(id, 0, lease.Held)
				waits(0, "while somebody works on the first one")
				w.putLease(id, 0, state)
				sleep(6 * time.Minute)
				waits(6*time.Minute, "after its runner has left")
				if err := watcher.ForgetSent(t.Context(), w.store); err != nil {
					t.Fatal(err)
				}
				waits(0, "when it is sent again")
				sleep(time.Minute)
				waits(time.Minute, "a minute later")
			})
		})
	}
}

func TestCountersAreThereBeforeTheyCount(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		reg := prometheus.NewRegistry()
		w.watcher(func(cfg *watcher.Config) {
			cfg.Registerer = reg
			cfg.Pools = []watcher.Pool{{Name: "default"}, {Name: "big"}}
		})
		for _, c := range []struct {
			name, label string
			values      []string
		}{
			{"jobs_sent_total", "pool", []string{"default", "big"}},
			{"jobs_resent_total", "pool", []string{"default", "big"}},
			{"dead_jobs_total", "pool", []string{"default", "big"}},
			{"events_total", "kind", []string{"hint", "test", "foreign", "malformed"}},
			{"errors_total", "what", []string{
				"advance", "collect", "events", "finalise", "join logs", "look", "open queue", "queue", "scan", "status",
			}},
		} {
			for _, v := range c.values {
				if got := value(t, reg, "spool_watcher_"+c.name, c.label, v); got != 0 {
					t.Errorf("%s{%s=%q} is %v at the start", c.name, c.label, v, got)
				}
			}
			if n, err := testutil.GatherAndCount(reg, "spool_watcher_"+c.name); err != nil || n != len(c.values) {
				t.Errorf("%s has %d series (%v), want %d", c.name, n, err, len(c.values))
			}
		}
	})
}

func TestMetricsTellOfABatchWhoseInputWasReplaced(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		reg := prometheus.NewRegistry()
		wa := w.watcher(func(cfg *watcher.Config) { cfg.Registerer = reg })
		old := w.upload("in/x.jsonl", lines(3001)) // shards of 2 and 2 chunks
		w.scan(wa)
		now := w.upload("in/x.jsonl", lines(1))
		w.work(w.plan(old), 0)
		sleep(100 * time.Second)
		w.scan(wa)
		if got, ok := gauge(t, reg, "spool_batch_lines", "batch_id="+old, "state=completed"); !ok || got != 2000 {
			t.Errorf("%v lines of the old batch completed (there: %t), want 2000", got, ok)
		}
		if got, ok := gauge(t, reg, "spool_batch_eta_seconds", "batch_id="+old); !ok || got != 50 {
			t.Errorf("%v s left of the old batch (there: %t), want 50 for 1001 lines at 20 a second", got, ok)
		}
		if got := read[batch.Status](w, batch.StatusKey("in/x.jsonl", now)).Batch; got != now {
			t.Errorf("status is about %s, want %s", got, now)
		}
	})
}

func TestARejectedBatchIsNoSuccessAndNamesNoPool(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		reg := prometheus.NewRegistry()
		wa := w.watcher(func(cfg *watcher.Config) { cfg.Registerer = reg })
		w.upload("in/x.jsonl", "bad\n")
		w.upload("in/y.jsonl", lines(1), "pool", "invented-by-a-user")
		w.scan(wa)
		w.scan(wa)
		if _, ok := gauge(t, reg, "spool_last_completion_timestamp_seconds", "pool=default"); !ok {
			t.Error("the end of the rejected batch was not told")
		}
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if m, ok := monitoring.Lookup(f.GetName()); !ok || !slices.Contains(m.By, monitoring.ByWatcher) {
				t.Errorf("the catalogue has no %s of a watcher", f.GetName())
			}
			if f.GetName() == "spool_last_success_timestamp_seconds" || strings.Contains(f.String(), "invented") {
				t.Errorf("there is %s", f)
			}
		}
	})
}
