package watcher_test

import (
	"testing"
	"time"

	"spool/storage/batch"
	"spool/storage/lease"
)

// A runner that is killed may have stored chunks that its last record does not tell of.
func TestChunksThatNoRecordTellsOfHideNobodysLines(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		wa := w.watcher()
		id := w.upload("in/x.jsonl", lines(3001)) // shards of 2 and 2 chunks
		w.scan(wa)
		w.work(w.plan(id), 0)
		w.putJSON(batch.RunnerKey(id, "killed"), batch.Runner{V: 1, OK: 1000, Open: 900})
		for range 4 {
			sleep(30 * time.Second)
			w.putLease(id, 1, lease.Held)
			w.putJSON(batch.RunnerKey(id, "alive"), batch.Runner{V: 1, Open: 300})
			w.scan(wa)
		}
		if got := read[batch.Status](w, batch.StatusKey("in/x.jsonl", id)).Counts.Completed; got != 2300 {
			t.Errorf("%d lines completed, want 2000 and the 300 of the runner that is there", got)
		}
	})
}

func TestLastRecordOfARunnerCountsThoughAnEarlierOneWasRead(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		wa := w.watcher()
		id := w.upload("in/x.jsonl", lines(3001))
		w.scan(wa)
		w.putLease(id, 0, lease.Held)
		w.putJSON(batch.RunnerKey(id, "gone"), batch.Runner{V: 1, Open: 900})
		sleep(30 * time.Second)
		w.scan(wa)
		w.work(w.plan(id), 0)
		w.putJSON(batch.RunnerKey(id, "gone"), batch.Runner{V: 1, OK: 2000, EndedAt: time.Now().Unix()})
		sleep(100 * time.Second) // without a look
		w.putLease(id, 1, lease.Held)
		w.putJSON(batch.RunnerKey(id, "alive"), batch.Runner{V: 1, Open: 300})
		w.scan(wa)
		if got := read[batch.Status](w, batch.StatusKey("in/x.jsonl", id)).Counts.Completed; got != 2300 {
			t.Errorf("%d lines completed, want the 2000 of the runner that has left, and 300", got)
		}
	})
}
