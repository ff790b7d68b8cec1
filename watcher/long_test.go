package watcher_test

import (
	"path"
	"strings"
	"testing"
	"time"

	"spool/storage"
	"spool/storage/batch"
	"spool/storage/finalize"
	"spool/watcher"
)

// longKeys are the longest that stores take, by store: of S3, and of one whose keys are files.
func longKeys() map[string]string {
	s3 := "in/" + strings.Repeat(strings.Repeat("d", 99)+"/", 10)
	return map[string]string{
		"1,024 bytes":              s3 + strings.Repeat("x", 1024-len(s3)-len(".jsonl")) + ".jsonl",
		"255 bytes in a file name": "in/" + strings.Repeat("x", 255-len(".jsonl")) + ".jsonl",
	}
}

// refusing makes a watcher whose store refuses keys that are too long, as AWS and versitygw do.
func (w *world) refusing() *watcher.Watcher {
	return w.watcher(func(cfg *watcher.Config) {
		cfg.Bucket = &failing{Bucket: w.store, fail: func(op, key string) error {
			if len(key) > 1024 || len(path.Base(key)) > 255 {
				return &storage.Error{Op: op, Key: key, Kind: storage.KindInvalid}
			}
			return nil
		}}
		cfg.Finalizer = finalize.New(finalize.Config{Bucket: cfg.Bucket, By: "w-test"})
	})
}

func TestAnInputWhoseKeyIsAsLongAsCanBeIsSentAndEnds(t *testing.T) {
	for name, key := range longKeys() {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				wa := w.refusing()
				id := w.upload(key, lines(1))
				w.scan(wa)
				if got := len(w.queues.fast().jobs(t)); got != 1 {
					t.Fatalf("%d jobs, want 1", got)
				}
				if got := read[batch.Status](w, batch.StatusKey(key, id)); got.State != "in_progress" {
					t.Errorf("status %+v, want in progress", got)
				}
				w.workAll(w.plan(id))
				w.scan(wa)
				w.scan(wa)
				if got := outcome(w, key, id); got.Status != batch.Completed || got.RequestCounts.Completed != 1 {
					t.Errorf("batch.json %+v, want completed, 1", got)
				}
				if open, ended := w.keys(batch.OpenPrefix), w.keys(batch.EndedPrefix); len(open) != 0 || len(ended) != 1 {
					t.Errorf("open %v, ended %v; want none, one", open, ended)
				}
			})
		})
	}
}

func TestABatchWithALongKeyExpiresAndIsCancelledByItsID(t *testing.T) {
	for name, key := range longKeys() {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				wa := w.refusing()
				id, other := w.upload(key, lines(1), "window", "10m"), w.upload("in/x.jsonl", lines(2), "window", "10m")
				w.scan(wa)
				w.upload(batch.LongCancelKey(other), "") // no wish, where the other one could be
				sleep(10*time.Minute - time.Second)
				w.scan(wa)
				if w.exists(batch.StopKey(id)) || w.exists(batch.StopKey(other)) {
					t.Fatal("stopped without a reason")
				}
				sleep(time.Second)
				w.scan(wa)
				if got := outcome(w, key, id); got.Status != batch.Expired || got.RequestCounts.Failed != 1 {
					t.Errorf("batch.json %+v, want expired with one failed line", got)
				}
			})
			// Some stores refuse to look for such a key, some only to store it.
			for _, refuses := range []func(*world) *watcher.Watcher{(*world).refusing, func(w *world) *watcher.Watcher { return w.watcher() }} {
				inWorld(t, func(t *testing.T, w *world) {
					wa := refuses(w)
					id := w.upload(key, lines(1))
					w.scan(wa)
					w.upload(batch.LongCancelKey(id), "")
					w.scan(wa)
					stop := read[batch.Stop](w, batch.StopKey(id))
					if stop.Outcome != batch.Cancelled || stop.Message != "cancelled by in/_long/"+id+".cancel" {
						t.Errorf("stop %+v, want cancelled, and by what", stop)
					}
					if got := outcome(w, key, id); got.Status != batch.Cancelled || got.RequestCounts.Failed != 1 {
						t.Errorf("batch.json %+v, want cancelled with one failed line", got)
					}
				})
			}
		})
	}
}

func TestTheEventOfAWishThatNamesABatchIsHeard(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		key := longKeys()["1,024 bytes"]
		id := w.upload(key, lines(1))
		refuse := func(cfg *watcher.Config) {
			cfg.Bucket = &failing{Bucket: w.store, fail: func(op, k string) error {
				if len(k) > 1024 {
					return &storage.Error{Op: op, Key: k, Kind: storage.KindInvalid}
				}
				return nil
			}}
		}
		defer w.running(refuse)()
		sleep(time.Second)
		w.upload(batch.LongCancelKey(id), "")
		w.event(batch.LongCancelKey(id))
		sleep(time.Second)
		if !w.exists(batch.StopKey(id)) {
			t.Error("no stop a second after the event")
		}
	})
}

// What a store refuses for another reason than the length, as AWS does every HEAD with credentials that are over, is no
// answer to whether there is a wish: a batch must not expire over it.
func TestAStoreThatRefusesEveryWishSaysNothing(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		id := w.upload("in/x.jsonl", lines(1), "window", "10m")
		wa := w.watcher(func(cfg *watcher.Config) {
			cfg.Bucket = &failing{Bucket: w.store, fail: func(op, key string) error {
				if op == "head" && strings.HasSuffix(key, batch.CancelSuffix) {
					return &storage.Error{Op: op, Key: key, Kind: storage.KindInvalid}
				}
				return nil
			}}
		})
		first := wa.Scan(t.Context())
		sleep(10 * time.Minute)
		if err := wa.Scan(t.Context()); first == nil || err == nil || w.exists(batch.StopKey(id)) {
			t.Error("stopped although nobody knows whether it was cancelled")
		}
	})
}
