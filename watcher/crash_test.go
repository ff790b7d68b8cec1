package watcher_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"spool/storage"
	"spool/storage/batch"
	"spool/storage/finalize"
	"spool/watcher"
)

// crash kills a watcher at its n-th write: that one happens or not, its reply never comes, and nothing of
// the watcher happens after it.
type crash struct {
	left    atomic.Int64
	happens bool
	stop    context.CancelFunc
	dead    atomic.Bool
}

var errCrashed = errors.New("crashed")

func (c *crash) at(op, key string) error {
	if c.dead.Load() {
		return errCrashed
	}
	if strings.HasPrefix(key, "sys/v1/probe/") {
		return nil
	}
	when := "put"
	if c.happens {
		when = "put done"
	}
	if op == when && c.left.Add(-1) < 0 {
		c.dead.Store(true)
		c.stop()
		return errCrashed
	}
	return nil
}

// crashing is the store and the queues of a watcher that will crash.
func (w *world) crashing(c *crash) func(cfg *watcher.Config) {
	return func(cfg *watcher.Config) {
		bucket := &failing{Bucket: w.store, fail: c.at}
		cfg.Bucket, cfg.Name, cfg.AllowWeakStore = bucket, "w-crash", true
		cfg.Deleter = deleter(func(ctx context.Context, key string) error {
			if err := c.at("put", key); err != nil {
				return err
			}
			return errors.Join(w.store.Delete(ctx, key), c.at("put done", key))
		})
		cfg.Finalizer = finalize.New(finalize.Config{Bucket: bucket, By: "w-crash", Parallel: 1})
	}
}

type deleter func(ctx context.Context, key string) error

func (d deleter) Delete(ctx context.Context, key string) error { return d(ctx, key) }

// onceOnly fails if an object that is written once was written twice.
func (w *world) onceOnly(id, key string) {
	w.t.Helper()
	for _, k := range []string{batch.PlanKey(id), batch.StopKey(id), batch.ManifestKey(id), batch.ResultKey(id),
		batch.OutDir(key, id) + batch.OutputName, batch.OutDir(key, id) + batch.ErrorsName, batch.OutDir(key, id) + batch.ObjectName} {
		if got := w.store.Writes(k); got > 1 {
			w.t.Errorf("%s was written %d times", k, got)
		}
	}
}

func TestAnotherWatcherFinishesWhatACrashLeftAtAnyWrite(t *testing.T) {
	files := map[string]struct {
		text string
		meta []string
		want batch.RequestCounts
		end  string
	}{
		"accepted": {lines(2001), nil, batch.RequestCounts{Total: 2001, Completed: 2001}, batch.Completed},
		"skipped":  {lines(1001) + "bad\n" + goodLine + goodLine, []string{"on-invalid", "skip"}, batch.RequestCounts{Total: 1004, Completed: 1002, Failed: 2}, batch.Completed},
		"rejected": {lines(8001) + "bad\n", nil, batch.RequestCounts{}, batch.Failed},
	}
	for name, f := range files {
		for _, happens := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, write happens %v", name, happens), func(t *testing.T) {
				writes := 0
				for crashed := true; crashed; writes++ {
					inWorld(t, func(t *testing.T, w *world) {
						crashed = w.crashAt(writes, happens, f.text, f.meta, func(id string) {
							got := outcome(w, "in/x.jsonl", id)
							if got.Status != f.end || got.RequestCounts != f.want {
								t.Errorf("crash at write %d: %s %+v, want %s %+v", writes, got.Status, got.RequestCounts, f.end, f.want)
							}
						})
					})
				}
				if writes < 6 {
					t.Errorf("%d writes only", writes)
				}
			})
		}
	}
}

// crashAt lets one watcher crash at its n-th write, does the runners' work, and lets another one go on.
func (w *world) crashAt(n int, happens bool, text string, meta []string, check func(id string)) bool {
	ctx, cancel := context.WithCancel(w.t.Context())
	defer cancel()
	c := &crash{happens: happens, stop: cancel}
	c.left.Store(int64(n))
	id := w.upload("in/x.jsonl", text, meta...)
	sleep(time.Second)
	first := w.watcher(w.crashing(c))
	err := first.Scan(ctx)
	if !c.dead.Load() && err != nil {
		w.t.Fatalf("scan without a crash: %v", err)
	}
	second := w.watcher()
	w.scan(second)
	sleep(3 * time.Minute)
	w.scan(second)
	sleep(3 * time.Minute)
	w.scan(second) // by now a message that was claimed but not sent is sent
	plan := w.plan(id)
	sent := map[int]bool{}
	for _, j := range append(w.queues.pool().jobs(w.t), w.queues.fast().jobs(w.t)...) {
		sent[j.Shard] = true
	}
	if len(sent) != len(plan.Shards) {
		w.t.Errorf("crash at write %d: jobs for %d of %d shards", n, len(sent), len(plan.Shards))
	}
	w.workAll(plan)
	w.scan(second)
	w.scan(second)
	check(id)
	w.onceOnly(id, "in/x.jsonl")
	if got := w.keys(batch.OpenPrefix); len(got) != 0 {
		w.t.Errorf("crash at write %d: open markers %v left", n, got)
	}
	if got := len(w.keys(batch.EndedPrefix)); got != 1 {
		w.t.Errorf("crash at write %d: %d ended markers, want 1", n, got)
	}
	return c.dead.Load()
}

func TestWatchersWithDifferentShardsAgreeOnOnePlan(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		id := w.upload("in/x.jsonl", lines(20_001))
		sleep(time.Second)
		var group sync.WaitGroup
		for n := range 4 {
			wa := w.watcher(func(cfg *watcher.Config) {
				cfg.Name = fmt.Sprint("w-", n)
				cfg.Pools = []watcher.Pool{{Name: "default", ShardChunks: n + 1}}
			})
			group.Go(func() {
				if err := wa.Scan(w.t.Context()); err != nil {
					t.Errorf("scan: %v", err)
				}
			})
		}
		group.Wait()
		plan := w.plan(id)
		if got := w.store.Writes(batch.PlanKey(id)); got != 1 {
			t.Errorf("%d plans were written", got)
		}
		var total int
		for n := range plan.Shards {
			for _, c := range w.staged(plan, n) {
				total += len(c)
			}
		}
		if total != 20_001 {
			t.Errorf("%d lines staged, want 20001", total)
		}
		for _, key := range w.keys(batch.PiecePrefix(id)) {
			if !strings.HasPrefix(key, plan.Folder+"/") {
				t.Errorf("the piece %s of a plan that lost was left", key)
			}
		}
		got := map[int]int{}
		for _, j := range w.queues.pool().jobs(t) {
			got[j.Shard]++
		}
		want := map[int]int{}
		for n := range plan.Shards {
			want[n] = 1
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("messages by shard (-want +got):\n%s", diff)
		}
	})
}

func TestAnInputThatChangesWhileItIsValidatedIsTakenAsItIsThen(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		old := w.upload("in/x.jsonl", lines(9001)+goodLine+goodLine) // a second pass is needed
		var now string
		passes := 0
		bucket := &failing{Bucket: w.store, fail: func(op, key string) error {
			if op == "get" && key == "in/x.jsonl" {
				if passes++; passes == 2 {
					now = w.upload("in/x.jsonl", lines(2))
				}
			}
			return nil
		}}
		w.scan(w.watcher(func(cfg *watcher.Config) { cfg.Bucket = bucket }))
		if w.exists(batch.PlanKey(old)) || len(w.keys(batch.PiecePrefix(old))) != 0 {
			t.Errorf("the old upload has a plan or pieces: %v", w.keys(batch.Dir(old)))
		}
		if got := w.plan(now).Lines; got != 2 {
			t.Errorf("plan of the new upload has %d lines, want 2", got)
		}
	})
}

func TestAnUploadThatWasNeverPlannedIsRejectedAfterADay(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		id := w.upload("in/x.jsonl", lines(9001))
		denied := &failing{Bucket: w.store, fail: func(op, key string) error {
			if op == "put" && key == batch.PlanKey(id) {
				return &storage.Error{Op: op, Key: key, Kind: storage.KindUnavailable}
			}
			return nil
		}}
		wa := w.watcher(func(cfg *watcher.Config) { cfg.Bucket = denied })
		_ = wa.Scan(t.Context()) // fails, and must leave what it staged: whose plan stands is not known
		if got := len(w.keys(batch.PiecePrefix(id))); got != 2 {
			t.Fatalf("%d pieces, want 2", got)
		}
		if err := w.store.Delete(t.Context(), "in/x.jsonl"); err != nil {
			t.Fatal(err)
		}
		other := w.watcher()
		sleep(24*time.Hour - time.Minute)
		w.scan(other)
		if w.exists(batch.PlanKey(id)) {
			t.Fatal("rejected a minute too early")
		}
		sleep(time.Minute)
		w.scan(other)
		w.scan(other)
		got := outcome(w, "in/x.jsonl", id)
		if got.Status != batch.Failed || got.Errors.Data[0].Code != "input_gone" {
			t.Errorf("batch.json %+v, want failed, input_gone", got)
		}
		if got := w.keys(batch.OpenPrefix); len(got) != 0 {
			t.Errorf("open markers %v left", got)
		}
	})
}

func TestWhatABatchLeftIsDeletedFifteenDaysAfterItsResult(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		wa := w.watcher()
		id := w.upload("in/x.jsonl", lines(1001))
		other := w.upload("in/y.jsonl", lines(2), "window", "720h") // stays open
		w.scan(wa)
		w.workAll(w.plan(id))
		w.scan(wa)
		kept := len(w.keys(batch.Dir(other)))
		sleep(watcher.MinRetention - time.Minute)
		w.scan(wa)
		if got := len(w.keys(batch.PiecePrefix(id))); got != 2 {
			t.Fatalf("%d pieces a minute too early, want 2", got)
		}
		sleep(24 * time.Hour)
		w.scan(wa)
		want := []string{"done/00000.json", "done/00001.json", "manifest.json", "plan.json", "result.json", "sent.json"}
		if diff := cmp.Diff(want, w.keys(batch.Dir(id))); diff != "" {
			t.Errorf("left (-want +got):\n%s", diff)
		}
		if got := len(w.keys(batch.Dir(other))); got != kept {
			t.Errorf("the open batch has %d objects, want %d", got, kept)
		}
	})
}

// weak ignores conditions, as some stores do.
type weak struct{ storage.Bucket }

func (b weak) Put(ctx context.Context, key string, body []byte, opt storage.PutOptions) (storage.Object, error) {
	opt.Cond = storage.Cond{}
	return b.Bucket.Put(ctx, key, body, opt)
}

func TestAStoreThatCannotKeepPromisesIsRefused(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		id := w.upload("in/x.jsonl", lines(1))
		ignores := func(cfg *watcher.Config) { cfg.Bucket = weak{w.store} }
		err := w.watcher(ignores).Run(t.Context())
		if !errors.Is(err, watcher.ErrUnfit) || !strings.Contains(err.Error(), "put if absent") {
			t.Errorf("error %v, want that the store is unfit, and why", err)
		}
		if w.exists(batch.PlanKey(id)) {
			t.Error("it planned all the same")
		}
		if got := w.keys("sys/v1/probe/"); len(got) != 0 {
			t.Errorf("the probe left %v", got)
		}
		w.scan(w.watcher(ignores, func(cfg *watcher.Config) { cfg.AllowWeakStore = true }))
		if !w.exists(batch.PlanKey(id)) {
			t.Error("it did not plan although weak stores are allowed")
		}
	})
}

// broken yields the bodies of inputs up to half of them, and then err.
type broken struct {
	storage.Bucket
	err error
}

func (b broken) Get(ctx context.Context, key string, opt storage.GetOptions) (io.ReadCloser, storage.Object, error) {
	body, obj, err := b.Bucket.Get(ctx, key, opt)
	if err == nil && strings.HasPrefix(key, batch.InPrefix) {
		half := io.MultiReader(io.LimitReader(body, obj.Size/2), iotest.ErrReader(b.err))
		body = io.NopCloser(half)
	}
	return body, obj, err
}

func TestABrokenConnectionIsNotTheEndOfAFile(t *testing.T) {
	for name, failure := range map[string]error{
		"closed":    &storage.Error{Op: "get", Kind: storage.KindUnavailable, Err: fmt.Errorf("read: %w", io.EOF)},
		"cut short": io.ErrUnexpectedEOF,
	} {
		for _, key := range []string{"in/x.jsonl", "in/x.jsonl.gz"} {
			t.Run(name+" "+key, func(t *testing.T) {
				inWorld(t, func(t *testing.T, w *world) {
					text := lines(100)
					if strings.HasSuffix(key, ".gz") {
						text = gzipped(t, text)
					}
					id := w.upload(key, text)
					err := w.watcher(func(cfg *watcher.Config) { cfg.Bucket = broken{w.store, failure} }).Scan(w.t.Context())
					if err == nil || w.exists(batch.PlanKey(id)) {
						t.Errorf("error %v, plan %v: want an error and no plan", err, w.exists(batch.PlanKey(id)))
					}
					w.scan(w.watcher())
					if got := w.plan(id).Lines; got != 100 {
						t.Errorf("%d lines, want 100", got)
					}
				})
			})
		}
	}
}
