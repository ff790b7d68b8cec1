package runner

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"spool/storage/batch"
	"spool/storage/memstore"
	"spool/storage/storagetest"
)

// dying is a store that goes away for good at the n-th write, before or after it: what a process that is
// killed there has stored.
type dying struct {
	mu     sync.Mutex
	writes int
	at     int
	after  bool
	dead   bool
	died   func()
}

func (d *dying) before(op, key string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.dead && (op == storagetest.OpPut || op == storagetest.OpUpload) {
		if d.writes++; d.writes == d.at && !d.after {
			d.die()
		}
	}
	if d.dead {
		return storagetest.Denied(op, key)
	}
	return nil
}

func (d *dying) afterwards(op, key string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	// At least, not exactly: another write may have begun since this one did.
	if (op == storagetest.OpPut || op == storagetest.OpUpload) && d.writes >= d.at && d.after && !d.dead {
		d.die()
	}
	if d.dead {
		return storagetest.Lost(op, key)
	}
	return nil
}

func (d *dying) die() {
	d.dead = true
	d.died()
}

func TestRunnerMayDieAtEveryWrite(t *testing.T) {
	for _, after := range []bool{false, true} {
		for at := 1; at <= 16; at++ {
			t.Run(fmt.Sprintf("write %d after=%t", at, after), func(t *testing.T) {
				t.Parallel()
				dieAndRecover(t, at, after)
			})
		}
	}
}

func dieAndRecover(t *testing.T, at int, after bool) {
	w := newWorld(t)
	var skew atomic.Int64 // of the store's clock, so that the dead runner's lease is stale
	w.store = memstore.New(memstore.Options{Clock: func() time.Time { return time.Now().Add(time.Duration(skew.Load())) }})
	w.bucket = w.store
	plan := w.batch(35, 10) // two shards
	ctx, kill := context.WithCancel(t.Context())
	defer kill()
	d := &dying{at: at, after: after, died: kill}
	w.bucket = &storagetest.Hook{Bucket: w.store, Before: d.before, After: d.afterwards, Reads: true}
	if err := w.run(ctx, w.config()); err != nil {
		t.Logf("the first runner: %v", err)
	}
	if !d.dead {
		t.Errorf("the first runner made only %d writes: lower the table", d.writes)
	}
	skew.Store(int64(3 * time.Minute))
	w.bucket = w.store
	w.send(plan) // as the queue or the watcher does
	if err := w.run(t.Context(), w.config()); err != nil {
		t.Fatal(err)
	}
	w.wantAll(plan, 1, 35)
	if res := w.result(plan); res.Outcome != batch.Completed || res.Completed != 35 || res.Usage.TotalTokens != 175 {
		t.Errorf("result %+v", res)
	}
	w.wantWrittenOnce(plan)
}

// wantWrittenOnce checks that no commit was ever overwritten.
func (w *world) wantWrittenOnce(plan *batch.Plan) {
	w.t.Helper()
	keys := []string{
		batch.ManifestKey(plan.Batch), batch.ResultKey(plan.Batch),
		batch.OutDir(inputKey, plan.Batch) + batch.OutputName, batch.OutDir(inputKey, plan.Batch) + batch.ObjectName,
	}
	for shard := range plan.Shards {
		keys = append(keys, batch.DoneKey(plan.Batch, shard))
		for i := range plan.Shards[shard].Chunks {
			keys = append(keys, batch.ChunkKey(plan.Batch, shard, plan.FirstChunk(shard)+i))
		}
	}
	for _, key := range keys {
		if n := w.store.Writes(key); n != 1 {
			w.t.Errorf("%s was written %d times, want once", key, n)
		}
	}
}
