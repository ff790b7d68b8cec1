package watcher_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"spool/storage"
	"spool/storage/batch"
	"spool/storage/storagetest"
	"spool/watcher"
)

// logPart puts a part of two lines.
func (w *world) logPart(key, id, runner string, first int64) string {
	w.t.Helper()
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	fmt.Fprintf(z, "%s %d\n%s %d\n", runner, first, runner, first+1)
	if err := z.Close(); err != nil {
		w.t.Fatal(err)
	}
	name := batch.LogDir(key, id) + runner + "/" + batch.LogPart(first, first+1)
	if _, err := w.store.Put(w.t.Context(), name, buf.Bytes(), storage.PutOptions{}); err != nil {
		w.t.Fatal(err)
	}
	return name
}

// logs gives the distinct lines of a batch, sorted, and how many objects they are in.
func (w *world) logs(key, id string) (lines []string, objects int) {
	w.t.Helper()
	dir := batch.LogDir(key, id)
	for _, name := range w.keys(dir) {
		objects++
		z, err := gzip.NewReader(strings.NewReader(w.text(dir + name)))
		if err != nil {
			w.t.Fatal(err)
		}
		text, err := io.ReadAll(z)
		if err != nil {
			w.t.Fatal(err)
		}
		lines = append(lines, strings.Split(strings.TrimSpace(string(text)), "\n")...)
	}
	slices.Sort(lines)
	return slices.Compact(lines), objects
}

var allLines = []string{"r-1 1", "r-1 2", "r-1 3", "r-1 4", "r-2 1", "r-2 2", "w-1 1", "w-1 2"}

// logParts puts what two runners and a watcher say of a batch: 8 lines in 4 parts.
func (w *world) logParts(key, id string) {
	w.t.Helper()
	w.logPart(key, id, "r-1", 1)
	w.logPart(key, id, "r-1", 3)
	w.logPart(key, id, "r-2", 1)
	w.logPart(key, id, "w-1", 1)
}

func (w *world) wantLogs(what, key, id string, objects int) {
	w.t.Helper()
	lines, n := w.logs(key, id)
	if diff := cmp.Diff(allLines, lines); diff != "" || n != objects {
		w.t.Errorf("%s: %d objects, want %d, with other lines (-want +got):\n%s", what, n, objects, diff)
	}
}

func TestLogsOfAnEndedBatchBecomeOneObject(t *testing.T) {
	for _, key := range []string{"in/a/x.jsonl", "in/" + strings.Repeat("l", 900) + ".jsonl"} {
		inWorld(t, func(t *testing.T, w *world) {
			id := w.upload(key, lines(2))
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { done <- w.watcher().Run(ctx) }()
			sleep(time.Minute)
			w.logParts(key, id)
			sleep(10 * time.Minute)
			w.wantLogs("an open batch", key, id, 4)
			w.work(w.plan(id), 0)
			for !w.exists(batch.ResultKey(id)) {
				sleep(time.Second)
			}
			sleep(50 * time.Second)
			w.logPart(key, id, "w-1", 1) // late
			sleep(50 * time.Second)
			w.wantLogs("an ended batch with a part that is new", key, id, 4)
			sleep(time.Minute)
			w.wantLogs("an ended batch", key, id, 1)
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

// What a watcher did not see end, or what came later, is found by whoever collects, once a day.
func TestCollectorJoinsLogsThatNobodyJoined(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		const key, open = "in/a/x.jsonl", "in/a/open.jsonl"
		id, openID := w.upload(key, lines(2)), w.upload(open, lines(2), "window", "720h")
		w.scan(w.watcher())
		w.workAll(w.plan(id))
		w.scan(w.watcher())
		w.logParts(key, id)
		w.logParts(open, openID)
		sleep(25 * time.Hour)
		w.scan(w.watcher())
		w.wantLogs("ended", key, id, 1)
		w.wantLogs("open", open, openID, 4)
		joined := w.keys(batch.LogDir(key, id))
		sleep(25 * time.Hour)
		w.scan(w.watcher())
		if got := w.keys(batch.LogDir(key, id)); !slices.Equal(got, joined) {
			t.Errorf("what was joined became %v", got)
		}
		w.logPart(key, id, "r-2", 1) // again, as by a put whose reply was lost and that was repeated late
		sleep(25 * time.Hour)
		w.scan(w.watcher())
		w.wantLogs("with a late part", key, id, 1)
	})
}

// A watcher that dies at any write, and another one after it, leave all lines.
func TestNoLineIsLostByACrashWhileLogsAreJoined(t *testing.T) {
	for _, reply := range []bool{false, true} {
		for n := 1; ; n++ {
			struck := false
			inWorld(t, func(t *testing.T, w *world) {
				const key = "in/a/x.jsonl"
				id := w.upload(key, lines(2))
				w.scan(w.watcher())
				w.workAll(w.plan(id))
				w.scan(w.watcher())
				w.logParts(key, id)
				sleep(25 * time.Hour)
				ctx, die := context.WithCancel(t.Context())
				writes := 0
				fault := func(_, key string) error {
					if ctx.Err() != nil {
						return ctx.Err()
					}
					if !strings.HasPrefix(key, "logs/") {
						return nil
					}
					if writes++; writes == n {
						struck = true
						die()
						return ctx.Err()
					}
					return nil
				}
				hook := &storagetest.Hook{Bucket: w.store, Before: fault}
				if reply {
					hook.Before, hook.After = nil, fault
				}
				_ = w.watcher(func(c *watcher.Config) { c.Bucket, c.Deleter = hook, hook }).Scan(ctx)
				if lines, _ := w.logs(key, id); !slices.Equal(lines, allLines) {
					t.Errorf("death at write %d (reply lost: %v) left %v", n, reply, lines)
				}
				sleep(25 * time.Hour)
				w.scan(w.watcher())
				w.wantLogs(fmt.Sprintf("after death at write %d (reply lost: %v)", n, reply), key, id, 1)
				die()
			})
			if !struck {
				if n != 6 { // one upload, four deletions
					t.Errorf("joining took %d writes, want 5", n-1)
				}
				break
			}
		}
	}
}

// Two watchers that join the same parts at once leave every line, too.
func TestNoLineIsLostByTwoWhoJoin(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		const key = "in/a/x.jsonl"
		id := w.upload(key, lines(2))
		w.scan(w.watcher())
		w.workAll(w.plan(id))
		w.scan(w.watcher())
		w.logParts(key, id)
		sleep(25 * time.Hour)
		other := false
		hook := &storagetest.Hook{Bucket: w.store, Before: func(op, k string) error {
			if op == storagetest.OpDelete && strings.HasPrefix(k, "logs/") && !other { // the other one does all of it in between
				other = true
				sleep(25 * time.Hour)
				w.logPart(key, id, "r-1", 3) // and a part comes again
				w.scan(w.watcher())
			}
			return nil
		}}
		w.scan(w.watcher(func(c *watcher.Config) { c.Bucket, c.Deleter = hook, hook }))
		if lines, _ := w.logs(key, id); !other || !slices.Equal(lines, allLines) {
			t.Errorf("left: %v", lines)
		}
	})
}

// A part that is not whole would hide those behind it: all stay as they are, and the log says so.
func TestLogsThatAreNotWholeAreNotJoined(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		const key = "in/a/x.jsonl"
		id := w.upload(key, lines(2))
		w.scan(w.watcher())
		w.workAll(w.plan(id))
		w.scan(w.watcher())
		w.logParts(key, id)
		torn := w.logPart(key, id, "r-3", 1)
		body := w.text(torn)
		if _, err := w.store.Put(t.Context(), torn, []byte(body[:len(body)-3]), storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		sleep(25 * time.Hour)
		err := w.watcher().Scan(t.Context())
		if err == nil || errors.Is(err, watcher.ErrUnfit) {
			t.Errorf("scan: %v, want a failure that was logged", err)
		}
		if n := len(w.keys(batch.LogDir(key, id))); n != 5 {
			t.Errorf("%d objects, want the 5 parts", n)
		}
	})
}

func TestLogsAboutNoBatchGoAfterTheRetention(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		old, young := batch.OtherLogDir("runner", "r-1")+batch.LogPart(1, 2), batch.OtherLogDir("runner", "r-1")+batch.LogPart(3, 4)
		const foreign = "logs/mine.txt"
		put := func(key string) {
			if _, err := w.store.Put(t.Context(), key, []byte("x"), storage.PutOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		put(old)
		put(foreign)
		sleep(10 * 24 * time.Hour)
		put(young)
		sleep(5 * 24 * time.Hour)
		w.scan(w.watcher())
		if got, want := w.keys(""), []string{young, foreign}; !slices.Equal(keep(got, "logs/"), want) {
			t.Errorf("left are %v, want %v", keep(got, "logs/"), want)
		}
	})
}

func keep(keys []string, prefix string) []string {
	return slices.DeleteFunc(keys, func(k string) bool { return !strings.HasPrefix(k, prefix) })
}
