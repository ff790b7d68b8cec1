package finalize

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"spool/monitoring/report"
	"spool/storage"
	"spool/storage/batch"
	"spool/storage/memstore"
	"spool/storage/storagetest"
)

func isVersion(err error) bool { return errors.Is(err, batch.ErrVersion) }

// situations are batches ready to be ended, and what is to come of them.
var situations = map[string]func(t *testing.T, s *memstore.Store, w *world) (output, errs string){
	"completed": func(t *testing.T, s *memstore.Store, w *world) (string, string) {
		w.finishAll(t, s)
		return w.expect(all, "")
	},
	"cancelled": func(t *testing.T, s *memstore.Store, w *world) (string, string) {
		w.finish(t, s, 0, "")
		w.commit(t, s, 1, 0, "")
		w.stop(t, s, batch.Cancelled, "why")
		return w.expect(func(shard, chunk int) bool { return shard == 0 || shard == 1 && chunk == 0 }, "why")
	},
}

// eachWrite runs f once for each write of a finaliser, in each situation; n counts the writes from 1. It ends when f
// says that there was no n-th write.
func eachWrite(t *testing.T, f func(t *testing.T, c crashCase, n int) bool) {
	for name, prepare := range situations {
		t.Run(name, func(t *testing.T) {
			for n, more := 1, true; more; n++ {
				t.Run(fmt.Sprint(n), func(t *testing.T) {
					inWorld(t, func(t *testing.T, s *memstore.Store, w *world) {
						output, errs := prepare(t, s, w)
						more = f(t, crashCase{s, w}, n)
						w.check(t, s, output, errs)
					})
				})
				if n > 30 {
					t.Fatal("no end")
				}
				if !more && n < 9 {
					t.Fatalf("only %d writes: manifest, output, errors, invalid, three for the summary, object and result were to be", n-1)
				}
			}
		})
	}
}

type crashCase struct {
	s *memstore.Store
	w *world
}

var errDead = errors.New("killed")

// killer lets a finaliser die at its n-th write: nothing that it asks after that reaches the store.
type killer struct {
	mu     sync.Mutex
	n      int
	writes int
	dead   bool
}

func (k *killer) strike(op, key string, write bool) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if write {
		k.writes++
		k.dead = k.dead || k.writes == k.n
	}
	if k.dead {
		return &storage.Error{Op: op, Key: key, Kind: storage.KindDenied, Err: errDead}
	}
	return nil
}

func isWrite(op string) bool { return op == storagetest.OpPut || op == storagetest.OpUpload }

func TestSurvivesDeathBeforeAndAfterEveryWrite(t *testing.T) {
	for _, landed := range []bool{false, true} {
		t.Run(fmt.Sprintf("landed=%v", landed), func(t *testing.T) {
			eachWrite(t, func(t *testing.T, c crashCase, n int) bool {
				k := &killer{n: n}
				h := &storagetest.Hook{Bucket: c.s, Reads: true,
					Before: func(op, key string) error { return k.strike(op, key, isWrite(op) && !landed) },
					After:  func(op, key string) error { return k.strike(op, key, isWrite(op) && landed) },
				}
				_, err := New(Config{Bucket: h, By: "first", Render: report.Render}).Try(t.Context(), c.w.plan)
				if k.dead != errors.Is(err, errDead) {
					t.Fatalf("dead = %v, Try = %v", k.dead, err)
				}
				if r := try(t, c.s, c.w); r == nil {
					t.Error("the next finaliser did not end the batch")
				}
				return k.dead
			})
		})
	}
}

// late sends the n-th write when its sender is long dead.
type late struct {
	storage.Bucket
	killer
	write func(context.Context) error
}

func (l *late) Put(ctx context.Context, key string, body []byte, opt storage.PutOptions) (storage.Object, error) {
	if err := l.strike("put", key, true); err != nil {
		l.hold(func(ctx context.Context) error {
			_, err := l.Bucket.Put(ctx, key, body, opt)
			return err
		})
		return storage.Object{}, err
	}
	return l.Bucket.Put(ctx, key, body, opt)
}

func (l *late) Upload(ctx context.Context, key string, r io.Reader, opt storage.PutOptions) (storage.Object, error) {
	body, err := io.ReadAll(r)
	if err != nil {
		return storage.Object{}, err
	}
	return l.Put(ctx, key, body, opt)
}

func (l *late) hold(write func(context.Context) error) {
	if l.write == nil {
		l.write = write
	}
}

func (l *late) Head(ctx context.Context, key string) (storage.Object, error) {
	if err := l.strike("head", key, false); err != nil {
		return storage.Object{}, err
	}
	return l.Bucket.Head(ctx, key)
}

func TestWriteThatLandsAfterTheEndChangesNothing(t *testing.T) {
	eachWrite(t, func(t *testing.T, c crashCase, n int) bool {
		l := &late{Bucket: c.s, killer: killer{n: n}}
		_, err := New(Config{Bucket: l, By: "first", Render: report.Render}).Try(t.Context(), c.w.plan)
		if l.dead != errors.Is(err, errDead) {
			t.Fatalf("dead = %v, Try = %v", l.dead, err)
		}
		time.Sleep(time.Minute) // of the bubble
		before := try(t, c.s, c.w)
		if l.dead {
			if err := l.write(t.Context()); err != nil && storage.KindOf(err) != storage.KindPrecondition {
				t.Errorf("late write: %v", err)
			}
		}
		if diff := cmp.Diff(before, try(t, c.s, c.w)); diff != "" {
			t.Errorf("the result changed: %s", diff)
		}
		return l.dead
	})
}

func TestOvercomesEveryFaultOfOneWrite(t *testing.T) {
	for name, f := range map[string]struct {
		fault storagetest.Fault
		after bool
	}{
		"lost reply": {storagetest.Unavailable, true},
		"unknown":    {storagetest.Lost, true},
		"409":        {storagetest.Conflict, false},
		"503":        {storagetest.Unavailable, false},
	} {
		t.Run(name, func(t *testing.T) {
			eachWrite(t, func(t *testing.T, c crashCase, n int) bool {
				struck := ""
				fault := storagetest.FailNth(n, func(op, key string) error {
					struck = key
					return f.fault(op, key)
				})
				h := &storagetest.Hook{Bucket: c.s, Before: fault}
				if f.after {
					h.Before, h.After = nil, fault
				}
				r, err := New(Config{Bucket: storage.WithRetry(h, storage.Retry{}), By: "f", Render: report.Render}).Try(t.Context(), c.w.plan)
				if slices.Contains(rebuilt, struck) && name == "unknown" { // not conditional, so nobody reads back
					r = try(t, c.s, c.w)
				} else if err != nil {
					t.Fatal(err)
				}
				if r == nil {
					t.Error("not ended")
				}
				return struck != ""
			})
		})
	}
}

func TestManyFinalisersAtOnceAgree(t *testing.T) {
	for name, prepare := range situations {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, s *memstore.Store, w *world) {
				output, errs := prepare(t, s, w)
				results := make([]*batch.Result, 8)
				var wg sync.WaitGroup
				for i := range results {
					wg.Go(func() {
						r, err := New(Config{Bucket: s, By: fmt.Sprint("f", i), Render: report.Render}).Try(t.Context(), w.plan)
						if err != nil {
							t.Error(err)
						}
						results[i] = r
					})
				}
				wg.Wait()
				for _, r := range results[1:] {
					if diff := cmp.Diff(results[0], r); diff != "" {
						t.Errorf("two results: %s", diff)
					}
				}
				w.check(t, s, output, errs)
			})
		})
	}
}

func TestCancelledContextLeavesNoFileInPart(t *testing.T) {
	inWorld(t, func(t *testing.T, s *memstore.Store, w *world) {
		w.finishAll(t, s)
		ctx, cancel := context.WithCancelCause(t.Context())
		h := &storagetest.Hook{Bucket: s, Reads: true, Before: func(op, key string) error {
			if key == batch.ChunkKey(testID, 1, w.plan.FirstChunk(1)) && op == storagetest.OpGet {
				cancel(errDead)
			}
			return nil
		}}
		if _, err := New(Config{Bucket: h}).Try(ctx, w.plan); err == nil {
			t.Fatal("Try went on with a cancelled context")
		}
		if n := s.Writes(testDir + batch.OutputName); n != 0 {
			t.Errorf("output.jsonl was written %d times", n)
		}
		try(t, s, w)
		output, errs := w.expect(all, "")
		w.check(t, s, output, errs)
	})
}

func TestEveryLineOnceInOrderWhateverHappened(t *testing.T) {
	for seed := range uint64(100) {
		synctest.Test(t, func(t *testing.T) {
			rng := seeded(seed)
			s := memstore.New(memstore.Options{})
			w := newWorld(t, rng, shape{5, 4, 8, anyFate}, time.Now())
			w.stage(t, s)
			time.Sleep(time.Second)
			stopped := rng.IntN(3) > 0
			stored := map[[2]int]bool{}
			for shard, chunks := range w.parts {
				done := !stopped || rng.IntN(3) == 0
				if done {
					w.finish(t, s, shard, "")
				}
				for chunk := range chunks {
					stored[[2]int{shard, chunk}] = done
					if !done && rng.IntN(2) == 0 {
						w.commit(t, s, shard, chunk, "")
						stored[[2]int{shard, chunk}] = true
					}
				}
			}
			if stopped {
				w.stop(t, s, batch.Expired, "late")
			}
			if r := try(t, s, w); r == nil {
				t.Fatalf("seed %d: not ended", seed)
			}
			output, errs := w.expect(func(shard, chunk int) bool { return stored[[2]int{shard, chunk}] }, "late")
			w.check(t, s, output, errs)
			if t.Failed() {
				t.Fatalf("seed %d", seed)
			}
		})
	}
}
