package watcher_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"spool/storage"
	"spool/storage/batch"
	"spool/storage/lease"
	"spool/storage/queue"
	"spool/watcher"
)

func outcome(w *world, key, id string) *batch.Object {
	w.t.Helper()
	return read[batch.Object](w, batch.OutDir(key, id)+batch.ObjectName)
}

func TestAFinishedBatchIsFinalisedClosedAndNotLookedAtAgain(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		id := w.upload("in/x.jsonl", lines(1001))
		sleep(time.Second)
		wa := w.watcher()
		w.scan(wa)
		plan := w.plan(id)
		w.work(plan, 0)
		w.work(plan, 1)
		w.scan(wa)
		if w.exists(batch.ManifestKey(id)) {
			t.Error("finalised while the runner may still do it")
		}
		sleep(time.Minute)
		w.scan(wa)
		if got := outcome(w, "in/x.jsonl", id); got.Status != batch.Completed || got.RequestCounts.Completed != 1001 {
			t.Errorf("batch.json %+v: want completed, 1001", got)
		}
		if got := w.keys(batch.OpenPrefix); len(got) != 0 {
			t.Errorf("open markers %v, want none", got)
		}
		if got := len(w.keys(batch.EndedPrefix)); got != 1 {
			t.Errorf("%d ended markers, want 1", got)
		}
		heads := &counting{Bucket: w.store}
		again := w.watcher(func(cfg *watcher.Config) { cfg.Bucket = heads; cfg.AllowWeakStore = true })
		w.scan(again)
		before := heads.head.Load()
		w.scan(again)
		if got := heads.head.Load() - before; got != 0 {
			t.Errorf("a scan with nothing new made %d HEAD requests, want none", got)
		}
	})
}

func TestTheSameBytesRunOnceUnlessARerunIsAskedFor(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		wa := w.watcher()
		id := w.upload("in/x.jsonl", lines(1))
		w.scan(wa)
		w.workAll(w.plan(id))
		w.scan(wa)
		first := time.Now()
		sleep(time.Hour)

		w.upload("in/x.jsonl", lines(1))
		sleep(time.Second)
		w.scan(wa)
		st := read[batch.Status](w, batch.StatusKey("in/x.jsonl", id))
		if st.Batch != id || st.State != batch.Completed || !strings.Contains(st.Note, "same bytes") || !strings.Contains(st.Note, "rerun=1") {
			t.Errorf("status %+v: want the first batch, and how to ask for another run", st)
		}
		if got := len(w.queues.fast().jobs(t)); got != 1 {
			t.Errorf("%d jobs, want 1", got)
		}

		w.upload("in/x.jsonl", lines(1), "rerun", "1")
		w.scan(wa)
		jobs := w.queues.fast().jobs(t)
		if len(jobs) != 2 || jobs[1].Batch == id || w.plan(jobs[1].Batch).Rerun != 1 {
			t.Errorf("jobs %v since %s: want one of another batch, rerun 1", jobs, first)
		}
	})
}

func TestABadRerunNumberFailsWithoutHidingBehindARunThatWentWell(t *testing.T) {
	for _, value := range []string{"01", "-1", "+1", "one", ""} {
		inWorld(t, func(t *testing.T, w *world) {
			wa := w.watcher()
			id := w.upload("in/x.jsonl", lines(1))
			w.scan(wa)
			w.workAll(w.plan(id))
			w.scan(wa)
			w.upload("in/x.jsonl", lines(1), "rerun", value)
			sleep(time.Second)
			w.scan(wa)
			st := read[batch.Status](w, batch.StatusKey("in/x.jsonl", id))
			if st.Batch == id || st.State != batch.Failed || !strings.Contains(st.Note, "invalid_option: option rerun") {
				t.Errorf("rerun %q: status %+v, want another batch, failed", value, st)
			}
		})
	}
}

func TestAnUploadAfterAFailureRunsAgainAndEachUploadOnce(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		wa := w.watcher()
		gen := func(n int) string {
			obj, err := w.store.Head(t.Context(), "in/x.jsonl")
			if err != nil {
				t.Fatal(err)
			}
			return batch.Identity{Bucket: bucketName, Key: obj.Key, ETag: obj.ETag, Size: obj.Size, Generation: n}.ID()
		}
		for n := range 3 {
			w.upload("in/x.jsonl", "bad\n")
			for range 3 {
				w.scan(wa)
				sleep(time.Second)
			}
			if got := outcome(w, "in/x.jsonl", gen(n)).Status; got != batch.Failed {
				t.Errorf("generation %d is %s, want failed", n, got)
			}
			if w.exists(batch.PlanKey(gen(n + 1))) {
				t.Errorf("generation %d runs without an upload", n+1)
			}
		}
	})
}

func TestACancelledBatchEndsCancelled(t *testing.T) {
	for name, when := range map[string]int{"before the plan": 0, "after the plan": 1, "with the input gone": 2} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				wa := w.watcher()
				id := w.upload("in/x.jsonl", lines(1001))
				if when > 0 {
					w.scan(wa)
					w.work(w.plan(id), 1)
				}
				if when == 2 {
					if err := w.store.Delete(t.Context(), "in/x.jsonl"); err != nil {
						t.Fatal(err)
					}
				}
				w.upload("in/x.jsonl.cancel", "")
				sleep(time.Second)
				w.scan(wa)
				w.scan(wa)
				stop := read[batch.Stop](w, batch.StopKey(id))
				if stop.Outcome != batch.Cancelled || stop.Code != batch.CodeBatchCancelled {
					t.Errorf("stop %+v, want cancelled", stop)
				}
				want := batch.RequestCounts{Total: 1001, Failed: 1001}
				if when > 0 {
					want = batch.RequestCounts{Total: 1001, Completed: 1, Failed: 1000}
				}
				if got := outcome(w, "in/x.jsonl", id); got.Status != batch.Cancelled || got.RequestCounts != want {
					t.Errorf("batch.json %s %+v, want cancelled %+v", got.Status, got.RequestCounts, want)
				}
				if got := len(w.queues.pool().jobs(t)); when == 0 && got != 0 {
					t.Errorf("%d jobs of a batch that was cancelled before it was planned", got)
				}
			})
		})
	}
}

func TestACancelEarlierThanTheUploadDoesNotCount(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.upload("in/x.jsonl.cancel", "")
		sleep(time.Second)
		id := w.upload("in/x.jsonl", lines(1))
		w.scan(w.watcher())
		if w.exists(batch.StopKey(id)) || len(w.queues.fast().jobs(t)) != 1 {
			t.Error("an old cancel stopped a new upload")
		}
	})
}

func TestABatchExpiresByTheStoresClock(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		wa := w.watcher()
		id := w.upload("in/x.jsonl", lines(1), "window", "10m")
		sleep(time.Hour) // as with a large file on AWS, which is as old as its upload when it is there
		w.scan(wa)
		created := w.plan(id).CreatedAt
		sleep(10*time.Minute - time.Second)
		w.scan(wa)
		if w.exists(batch.StopKey(id)) {
			t.Fatal("stopped a second too early")
		}
		sleep(time.Second)
		w.scan(wa)
		if got := read[batch.Stop](w, batch.StopKey(id)); got.Outcome != batch.Expired || got.Code != batch.CodeBatchExpired {
			t.Errorf("stop %+v, want expired", got)
		}
		if got := outcome(w, "in/x.jsonl", id); got.ExpiresAt == nil || *got.ExpiresAt != created+600 || created != time.Now().Unix()-600 {
			t.Errorf("created at %d, batch.json %+v: want it expired 10 min later, now", created, got)
		}
		if got := outcome(w, "in/x.jsonl", id); got.Status != batch.Expired || got.RequestCounts.Failed != 1 {
			t.Errorf("batch.json %+v, want expired with one failed line", got)
		}
		if got := w.keys(batch.OutDir("in/x.jsonl", id)); !slices.Contains(got, batch.ErrorsName) {
			t.Errorf("results %v, want errors.jsonl", got)
		}
	})
}

// putLease writes a lease as a runner does, with notes.
func (w *world) putLease(id string, shard int, state lease.State, causes ...batch.Cause) {
	w.t.Helper()
	w.putJSON(batch.LeaseKey(id, shard), map[string]any{
		"v": 1, "gen": 1, "owner": "r-1", "state": state, "renewed": time.Now().UnixNano(),
		"notes": batch.LeaseNotes{Causes: causes},
	})
}

func TestAPermanentCauseStopsTheBatch(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		wa := w.watcher()
		id := w.upload("in/x.jsonl", lines(1001))
		w.scan(wa)
		missing := batch.Cause{Code: batch.CodeModelNotFound, Message: "no m: served are a, b", Runner: "r-1"}
		other := batch.Cause{Code: "oom", Message: "out of memory", Runner: "r-2"}
		w.putLease(id, 0, lease.Released, missing, other, missing)
		w.putLease(id, 1, lease.Released, missing)
		w.scan(wa)
		if w.exists(batch.StopKey(id)) {
			t.Fatal("stopped after two of one lease")
		}
		w.putLease(id, 0, lease.Released, missing, other, missing, missing)
		w.scan(wa)
		if got := read[batch.Stop](w, batch.StopKey(id)); got.Outcome != batch.Failed || got.Code != missing.Code || got.Message != missing.Message {
			t.Errorf("stop %+v, want failed with the cause", got)
		}
		got := outcome(w, "in/x.jsonl", id)
		if got.Status != batch.Failed || got.Errors == nil || got.Errors.Data[0].Code != missing.Code {
			t.Errorf("batch.json %+v, want failed with the cause", got)
		}
	})
}

func TestAStoppedBatchWaitsForItsRunners(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		wa := w.watcher()
		id := w.upload("in/x.jsonl", lines(1))
		w.scan(wa)
		w.putLease(id, 0, lease.Held)
		w.upload("in/x.jsonl.cancel", "")
		w.scan(wa)
		if !w.exists(batch.StopKey(id)) || w.exists(batch.ManifestKey(id)) {
			t.Error("want a stop, and no manifest while a runner holds a lease")
		}
		if got := read[batch.Status](w, batch.StatusKey("in/x.jsonl", id)); got.State != "finalizing" || got.Runners != 1 {
			t.Errorf("status %+v, want finalizing, 1 runner", got)
		}
		sleep(lease.DefaultTTL)
		w.scan(wa)
		if got := outcome(w, "in/x.jsonl", id).Status; got != batch.Cancelled {
			t.Errorf("batch.json %s, want cancelled", got)
		}
	})
}

func TestARunnerIsCountedAsLongAsItsLeaseSays(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		wa := w.watcher()
		id := w.upload("in/x.jsonl", lines(1))
		w.scan(wa)
		w.putJSON(batch.LeaseKey(id, 0), lease.Record{V: 1, Gen: 1, Owner: "r-1", State: lease.Held, TTL: 600})
		w.queues.fast().lose() // and is not sent again, since somebody works on it
		for range 11 {
			sleep(54 * time.Second)
			w.scan(wa)
			if got := read[batch.Status](w, batch.StatusKey("in/x.jsonl", id)); got.Runners != 1 {
				t.Fatalf("status %+v, want 1 runner", got)
			}
		}
		if got := len(w.queues.fast().jobs(t)); got != 1 {
			t.Errorf("%d messages while the lease was fresh, want 1", got)
		}
		sleep(30 * time.Second) // 624 s
		w.scan(wa)
		if got := read[batch.Status](w, batch.StatusKey("in/x.jsonl", id)); got.Runners != 0 {
			t.Errorf("status %+v, want no runner", got)
		}
		if got := len(w.queues.fast().jobs(t)); got != 2 {
			t.Errorf("%d messages after the lease, want 2", got)
		}
	})
}

func TestAStoppedBatchHasNoTimeLeft(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		reg := prometheus.NewRegistry()
		wa := w.watcher(func(cfg *watcher.Config) { cfg.Registerer = reg })
		id := w.upload("in/x.jsonl", lines(3001)) // shards of 2 and 2 chunks
		w.scan(wa)
		w.work(w.plan(id), 0)
		sleep(100 * time.Second)
		w.putLease(id, 1, lease.Held)
		w.scan(wa)
		status := func() *batch.Status { return read[batch.Status](w, batch.StatusKey("in/x.jsonl", id)) }
		if got := status().ETASeconds; got == nil || *got != 50 {
			t.Fatalf("eta %v before, want 50", got)
		}
		w.upload("in/x.jsonl.cancel", "")
		for range 2 {
			w.scan(wa)
			got := status()
			if got.State != "finalizing" || got.ETASeconds != nil || got.Counts.Completed != 2000 {
				t.Errorf("status %+v, want finalizing, 2000 completed and no eta", got)
			}
			if eta, ok := gauge(t, reg, "spool_batch_eta_seconds"); ok {
				t.Errorf("the metrics tell of %v s left", eta)
			}
			sleep(30 * time.Second)
			w.putLease(id, 1, lease.Held)
		}
	})
}

func TestStatusTellsProgressAndWhatIsWaitedFor(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		wa := w.watcher()
		id := w.upload("in/x.jsonl", lines(3001)) // shards of 2 and 2 chunks
		w.scan(wa)
		status := func() *batch.Status { return read[batch.Status](w, batch.StatusKey("in/x.jsonl", id)) }
		if got := status(); got.State != "in_progress" || got.Note != "" || got.Counts.Total != 3001 || got.ETASeconds != nil {
			t.Errorf("first status %+v", got)
		}
		sleep(130 * time.Second)
		w.scan(wa)
		if got, want := status().Note, "waiting for a runner for 2m: none has taken a job from pool default yet"; got != want {
			t.Errorf("note %q, want %q", got, want)
		}
		w.putLease(id, 0, lease.Held)
		w.work(w.plan(id), 0)
		w.putJSON(batch.RunnerKey(id, "dead"), batch.Runner{V: 1, OK: 2000, Open: 500})
		sleep(10 * time.Second)
		w.scan(wa)
		if got := status(); got.Counts.Completed != 0 {
			t.Errorf("status %+v was written again after 10 s", got)
		}
		w.putLease(id, 1, lease.Held)
		sleep(90 * time.Second) // 100 s since the last status: 2,000 lines
		w.putLease(id, 1, lease.Held)
		w.putJSON(batch.RunnerKey(id, "alive"), batch.Runner{V: 1, Open: 300})
		w.scan(wa)
		got := status()
		if got.Counts != (batch.RequestCounts{Total: 3001, Completed: 2300}) || got.Runners != 1 || got.Note != "" {
			t.Errorf("status %+v: want 2300 of 3001, 300 of them in chunks that are not stored, 1 runner", got)
		}
		if want := int64(701 * 230 / 2300); got.ETASeconds == nil || *got.ETASeconds != want {
			t.Errorf("eta %v, want %d", got.ETASeconds, want)
		}
	})
}

func TestStatusIsAboutTheNewestUpload(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		wa := w.watcher()
		old := w.upload("in/x.jsonl", lines(1))
		w.scan(wa)
		now := w.upload("in/x.jsonl", lines(2))
		w.scan(wa)
		for range 3 {
			sleep(time.Minute)
			w.scan(wa)
			if got := read[batch.Status](w, batch.StatusKey("in/x.jsonl", now)).Batch; got != now {
				t.Fatalf("status is about %s, want %s", got, now)
			}
		}
		w.workAll(w.plan(old))
		w.workAll(w.plan(now))
		w.scan(wa)
		if got := read[batch.Status](w, batch.StatusKey("in/x.jsonl", now)); got.Batch != now || got.State != batch.Completed {
			t.Errorf("status %+v, want the newer batch", got)
		}
		for _, id := range []string{old, now} {
			if got := outcome(w, "in/x.jsonl", id).Status; got != batch.Completed {
				t.Errorf("batch %s is %s, want completed", id, got)
			}
		}
	})
}

func TestInputsThatAreNoneAreLeftAlone(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.upload("in/old.jsonl", lines(1))
		sleep(time.Hour)
		since := time.Now()
		for _, key := range []string{"in/", "in/a/", "in/.x.jsonl", "in/a/.DS_Store", "in/x.jsonl.cancel", "other/x.jsonl"} {
			w.upload(key, lines(1))
		}
		w.scan(w.watcher(func(cfg *watcher.Config) { cfg.IgnoreBefore = since }))
		if got := append(w.keys(batch.SysPrefix), w.keys(batch.OutPrefix)...); len(got) != 1 || got[0] != "collected" {
			t.Errorf("objects %v, want the collector's mark only", got)
		}
	})
}

func TestOneBadInputDoesNotStopTheOthers(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.upload("in/a.jsonl", lines(1))
		id := w.upload("in/b.jsonl", lines(1))
		broken := &failing{Bucket: w.store, fail: func(op, key string) error {
			if op == "get" && key == "in/a.jsonl" {
				return &storage.Error{Op: op, Key: key, Kind: storage.KindDenied}
			}
			return nil
		}}
		err := w.watcher(func(cfg *watcher.Config) { cfg.Bucket = broken }).Scan(t.Context())
		if want := "1 inputs, batches or queues"; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
		if got := w.queues.fast().jobs(t); len(got) != 1 || got[0].Batch != id {
			t.Errorf("jobs %v, want one of the good file", got)
		}
		if got := w.text("out/a.jsonl/status.json"); !strings.Contains(got, "could not be validated yet") || !strings.Contains(got, "denied") {
			t.Errorf("status %s: want the reason", got)
		}
	})
}

func TestPoolsAreChosenByMetadataThenPrefix(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		pools := []watcher.Pool{{Name: "default"}, {Name: "math", Prefixes: []string{"math/"}}, {Name: "proof", Prefixes: []string{"in/math/proofs/"}}}
		want := map[string]string{}
		for key, pool := range map[string]string{"in/x.jsonl": "default", "in/math/x.jsonl": "math", "in/math/proofs/x.jsonl": "proof"} {
			want[w.upload(key, lines(1))] = pool
		}
		want[w.upload("in/math/y.jsonl", lines(1), "pool", "default")] = "default"
		w.scan(w.watcher(func(cfg *watcher.Config) { cfg.Pools = pools }))
		for id, pool := range want {
			var in []string
			for _, p := range pools {
				for _, j := range w.queues.get(queue.FastQueue(p.Name)).jobs(t) {
					if j.Batch == id {
						in = append(in, fmt.Sprint(p.Name, " ", j.Pool))
					}
				}
			}
			if diff := cmp.Diff([]string{pool + " " + pool}, in); diff != "" {
				t.Errorf("%s (-want +got):\n%s", w.plan(id).Input.Key, diff)
			}
		}
	})
}

func TestAnUploadOfTheSameSecondIsNotTakenForTheOneThatEnded(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		wa := w.watcher()
		first := w.upload("in/x.jsonl", "bad\n")
		done := make(chan error)
		go func() { done <- wa.Scan(w.t.Context()) }()
		sleep(500 * time.Millisecond) // the scan waits for the second in which batch.json may be put
		w.upload("in/x.jsonl", "bad\n", "rerun", "7")
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		sleep(time.Second)
		w.scan(wa)
		sleep(2 * time.Second)
		w.scan(wa)
		st := read[batch.Status](w, batch.StatusKey("in/x.jsonl", first))
		if st.Batch == first || w.plan(st.Batch).Rerun != 7 || outcome(w, "in/x.jsonl", first).Status != batch.Failed {
			t.Errorf("status %+v: want rerun 7, and the first batch failed as well", st)
		}
	})
}

func TestWithoutADeleterEverythingEndsAndNothingIsDeleted(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		reads := &counting{Bucket: w.store}
		wa := w.watcher(func(cfg *watcher.Config) { cfg.Deleter, cfg.Bucket = nil, reads })
		good, bad := w.upload("in/x.jsonl", lines(8001)), w.upload("in/y.jsonl", lines(9001)+"bad\n")
		w.scan(wa)
		w.workAll(w.plan(good))
		w.scan(wa)
		if a, b := outcome(w, "in/x.jsonl", good).Status, outcome(w, "in/y.jsonl", bad).Status; a != batch.Completed || b != batch.Failed {
			t.Errorf("%s and %s, want completed and failed", a, b)
		}
		if got := len(w.keys(batch.OpenPrefix)); got != 2 {
			t.Errorf("%d open markers, want 2", got)
		}
		before := reads.head.Load()
		w.scan(wa)
		if got := reads.head.Load() - before; got != 0 {
			t.Errorf("%d HEAD requests for batches that ended", got)
		}
	})
}

func TestAnUploadInTheSecondOfBatchJSONRunsAgain(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		wa := w.watcher()
		first := w.upload("in/x.jsonl", "bad\n")
		w.scan(wa)
		ended := read[batch.Result](w, batch.ResultKey(first)).ObjectTime
		w.upload("in/x.jsonl", "bad\n")
		if got := time.Now().Unix(); got != ended {
			t.Fatalf("uploaded at %d, batch.json is of %d: the test needs them to be equal", got, ended)
		}
		w.scan(wa)
		if got := read[batch.Status](w, batch.StatusKey("in/x.jsonl", first)).Batch; got == first {
			t.Error("an upload after a failure did not run")
		}
	})
}

func TestAnUploadIsNotPutAsideInItsOwnSecond(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		wa := w.watcher()
		id := w.upload("in/x.jsonl", lines(1))
		w.scan(wa)
		w.workAll(w.plan(id))
		w.scan(wa)
		w.upload("in/x.jsonl", lines(1))
		w.scan(wa)
		w.upload("in/x.jsonl", lines(1), "rerun", "1") // the same name, size, ETag and second
		w.scan(wa)
		if got := len(w.queues.fast().jobs(t)); got != 2 {
			t.Errorf("%d jobs, want a second one for the rerun", got)
		}
	})
}

func TestTheLastStatusSaysHowABatchEndedWhoeverClosedIt(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.watcher()
		id := w.upload("in/x.jsonl", lines(1))
		status := batch.StatusKey("in/x.jsonl", id)
		w.scan(a)
		var end sync.Once
		var late string
		slow := w.watcher(func(cfg *watcher.Config) {
			cfg.Bucket = &failing{Bucket: w.store, fail: func(op, key string) error {
				if op == "put" && key == status {
					end.Do(func() { // before its first status is stored, the batch is over
						w.workAll(w.plan(id))
						w.scan(a)
					})
				}
				if op == "put done" && key == status && late == "" {
					late = read[batch.Status](w, status).State
				}
				return nil
			}}
		})
		w.scan(slow)
		sleep(30 * time.Second)
		w.scan(slow)
		if late != "in_progress" {
			t.Errorf("the slow watcher wrote %q after the end: the test wants in_progress", late)
		}
		if got := read[batch.Status](w, status).State; got != batch.Completed {
			t.Errorf("status %s, want completed", got)
		}
	})
}

func TestStatusIsAboutTheNewestGeneration(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.watcher(), w.watcher()
		first := w.upload("in/x.jsonl", lines(1))
		w.scan(a)
		w.scan(b)
		w.upload("in/x.jsonl.cancel", "")
		sleep(time.Second)
		w.scan(a)
		sleep(time.Second)
		w.upload("in/x.jsonl", lines(1))
		w.scan(a)
		w.scan(b) // hears of the end of the first one now
		if got := read[batch.Status](w, batch.StatusKey("in/x.jsonl", first)); got.Batch == first || got.State != "in_progress" {
			t.Errorf("status %+v, want the second generation in progress", got)
		}
		if got := outcome(w, "in/x.jsonl", first).Status; got != batch.Cancelled {
			t.Errorf("the first generation is %s, want cancelled", got)
		}
	})
}

func TestStatusCountsStoredChunksOfShardsInTheWorks(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		wa := w.watcher()
		id := w.upload("in/x.jsonl", lines(3001)) // shards of 2 and 2 chunks
		w.scan(wa)
		w.work(w.plan(id), 1)
		for _, key := range []string{batch.DoneKey(id, 1), batch.ChunkKey(id, 1, 3)} { // as if only chunk 2 were stored yet
			if err := w.store.Delete(t.Context(), key); err != nil {
				t.Fatal(err)
			}
		}
		w.putLease(id, 1, lease.Held)
		sleep(30 * time.Second)
		w.scan(wa)
		if got, want := read[batch.Status](w, batch.StatusKey("in/x.jsonl", id)).Counts, (batch.RequestCounts{Total: 3001, Completed: 1000}); got != want {
			t.Errorf("counts %+v, want %+v", got, want)
		}
	})
}

func TestAnInputThatCannotBeReadEndsFailedWhenItsWindowIsOver(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		id := w.upload("in/x.jsonl", lines(1), "window", "1h")
		denied := w.watcher(func(cfg *watcher.Config) {
			cfg.Bucket = &failing{Bucket: w.store, fail: func(op, key string) error {
				if op == "get" && key == "in/x.jsonl" {
					return &storage.Error{Op: op, Key: key, Kind: storage.KindDenied}
				}
				return nil
			}}
		})
		sleep(24 * time.Hour) // no watcher looks, or an upload of many parts lasts
		for range 2 {
			if err := denied.Scan(t.Context()); err == nil || w.exists(batch.PlanKey(id)) {
				t.Fatalf("error %v, plan %v: want an error and no plan within the window", err, w.exists(batch.PlanKey(id)))
			}
			sleep(30*time.Minute - time.Second)
		}
		sleep(2 * time.Second)
		w.scan(denied)
		got := outcome(w, "in/x.jsonl", id)
		if got.Status != batch.Failed || got.Errors.Data[0].Code != "input_unreadable" || !strings.Contains(got.Errors.Data[0].Message, "denied") {
			t.Errorf("batch.json %+v, want failed, input_unreadable, and why", got)
		}
	})
}

func TestAnUnreadableInputWhosePlanIsAnothersDeletesNothingMore(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		id := w.upload("in/x.jsonl", lines(1), "window", "1h")
		if _, err := w.store.Put(t.Context(), batch.OpenKey(id), []byte(`{}`), storage.PutOptions{}); err != nil { // somebody looked
			t.Fatal(err)
		}
		sleep(time.Hour)
		var deleted []string
		w.scan(w.watcher(func(cfg *watcher.Config) {
			cfg.Bucket, cfg.AllowWeakStore = &failing{Bucket: w.store, fail: func(op, key string) error {
				switch {
				case op == "get" && key == "in/x.jsonl":
					return &storage.Error{Op: op, Key: key, Kind: storage.KindDenied}
				case op == "put" && key == batch.PlanKey(id): // another watcher is faster, and can read
					w.scan(w.watcher())
				}
				return nil
			}}, true
			cfg.Deleter = deleter(func(_ context.Context, key string) error {
				if !strings.HasPrefix(key, "sys/v1/probe/") {
					deleted = append(deleted, key)
				}
				return nil
			})
		}))
		plan := w.plan(id)
		if plan.Verdict != batch.Accepted || len(deleted) != 1 || !strings.HasSuffix(deleted[0], "/bad.jsonl.zst") || strings.Contains(deleted[0], plan.Folder) {
			t.Errorf("plan %s, deleted %q; want accepted, and what the try that failed may have staged", plan.Verdict, deleted)
		}
	})
}

func TestAScanCostsNoMoreForInputsThatEnded(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		for n := range 300 {
			w.upload(fmt.Sprintf("in/%d.jsonl", n), "bad\n")
		}
		sleep(time.Second)
		w.scan(w.watcher())
		if got := len(w.keys(batch.EndedPrefix)); got != 300 {
			t.Fatalf("%d ended markers, want 300", got)
		}
		got := map[string]int{}
		fresh := w.watcher(func(cfg *watcher.Config) { // as cron starts one
			cfg.Bucket = &failing{Bucket: w.store, fail: func(op, key string) error {
				if !strings.HasPrefix(key, "sys/v1/probe/") && key != "sys/v1/collected" {
					got[op]++
				}
				return nil
			}}
			cfg.Deleter = nil // the probe deletes at the same time
		})
		w.scan(fresh)
		if diff := cmp.Diff(map[string]int{"list": 3}, got); diff != "" {
			t.Errorf("requests of a scan (-want +got):\n%s", diff)
		}
	})
}
