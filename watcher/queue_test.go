package watcher_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"spool/storage/batch"
	"spool/storage/lease"
	"spool/storage/queue"
	"spool/watcher"
)

func TestTheQueueIsKeptShortAndSharedFairly(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		one := func(cfg *watcher.Config) {
			cfg.QueueAhead = 3
			cfg.Pools = []watcher.Pool{{Name: "default", ShardChunks: 1}}
		}
		wa := w.watcher(one)
		a := w.upload("in/a.jsonl", lines(4001)) // 5 shards
		sleep(time.Second)
		b := w.upload("in/b.jsonl", lines(3001)) // 4 shards
		tiny := w.upload("in/c.jsonl", lines(1))
		names := map[string]string{a: "a", b: "b", tiny: "c"}
		w.scan(wa)
		if diff := cmp.Diff([]string{"b0", "b1", "a0"}, shards(w.queues.pool().jobs(t), names)); diff != "" {
			t.Errorf("first jobs (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]string{"c0"}, shards(w.queues.fast().jobs(t), names)); diff != "" {
			t.Errorf("fast jobs (-want +got):\n%s", diff)
		}
		w.scan(w.watcher(one)) // another watcher does not send more
		if got := len(w.queues.pool().jobs(t)); got != 3 {
			t.Errorf("%d jobs after another watcher's scan, want 3", got)
		}
		w.putLease(b, 0, lease.Held) // two are begun, so there is room for two
		w.putLease(a, 0, lease.Held)
		w.scan(wa)
		if diff := cmp.Diff([]string{"b2", "a1"}, shards(w.queues.pool().jobs(t), names)[3:]); diff != "" {
			t.Errorf("next jobs (-want +got):\n%s", diff)
		}
	})
}

func TestLostMessagesAreSentAgainAfterTwoScans(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		wa := w.watcher()
		id := w.upload("in/x.jsonl", lines(1001))
		w.scan(wa)
		sleep(10 * time.Minute)
		w.putLease(id, 1, lease.Held) // its runner works on
		w.queues.pool().lose()
		w.scan(wa)
		short := read[batch.Sent](w, batch.SentKey(id)).Short
		if short != time.Now().Unix() {
			t.Errorf("short since %d, want now", short)
		}
		sleep(resendAfter - time.Second)
		w.putLease(id, 1, lease.Held)
		w.scan(w.watcher()) // whichever watcher
		if got := len(w.queues.pool().jobs(t)); got != 2 {
			t.Fatalf("%d jobs a second early, want 2", got)
		}
		sleep(time.Second)
		w.scan(wa)
		jobs := w.queues.pool().jobs(t)
		if len(jobs) != 3 || jobs[2].Shard != 0 || jobs[2].N != 2 {
			t.Fatalf("jobs %+v, want a second message for shard 0, n 2", jobs)
		}
		if got := read[batch.Sent](w, batch.SentKey(id)).Short; got != 0 {
			t.Errorf("short since %d, want 0", got)
		}
	})
}

func TestLostMessagesAreSentAgainAtOnceByAWatcherThatWasTold(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		id := w.upload("in/x.jsonl", lines(1001))
		w.scan(w.watcher())
		w.queues.pool().lose()
		sleep(time.Second)
		if err := watcher.ForgetSent(t.Context(), w.store); err != nil {
			t.Fatal(err)
		}
		w.scan(w.watcher())
		jobs := w.queues.pool().jobs(t)
		if diff := cmp.Diff([]string{"0", "1", "0", "1"}, shards(jobs, nil)); diff != "" {
			t.Fatalf("jobs (-want +got):\n%s", diff)
		}
		now := time.Now().Unix()
		want := map[int]batch.SentInfo{0: {At: now, Count: 2}, 1: {At: now, Count: 2}}
		if diff := cmp.Diff(want, read[batch.Sent](w, batch.SentKey(id)).Shards); diff != "" {
			t.Errorf("sent (-want +got):\n%s", diff)
		}
	})
}

const resendAfter = 2 * time.Minute

func TestTheCountIsForgivenWhenMessagesAreBack(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		wa := w.watcher()
		id := w.upload("in/x.jsonl", lines(1))
		w.scan(wa)
		q := w.queues.fast()
		kept := q.visible
		q.lose()
		w.scan(wa)
		q.visible = kept
		sleep(time.Hour)
		w.scan(wa)
		if got := read[batch.Sent](w, batch.SentKey(id)).Short; got != 0 || len(q.jobs(t)) != 1 {
			t.Errorf("short %d, %d jobs: want 0 and 1", got, len(q.jobs(t)))
		}
	})
}

func TestWhatCouldNotBeSentIsSentByTheNextScan(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		wa := w.watcher()
		id := w.upload("in/x.jsonl", lines(1001))
		w.queues.pool().refuse = []int{1}
		if err := wa.Scan(t.Context()); err == nil {
			t.Error("a scan whose message was refused says that all is well")
		}
		if got := read[batch.Sent](w, batch.SentKey(id)).Shards; got[0].At == 0 || got[1].At != 0 {
			t.Errorf("sent %+v: want shard 0 only", got)
		}
		w.scan(wa)
		if diff := cmp.Diff([]string{"0", "1"}, shards(w.queues.pool().jobs(t), nil)); diff != "" {
			t.Errorf("jobs (-want +got):\n%s", diff)
		}
	})
}

func TestDeadMessagesAreSentAgainIfTheirShardWantsWork(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		wa := w.watcher()
		id := w.upload("in/x.jsonl", lines(1001))
		w.scan(wa)
		w.work(w.plan(id), 0)
		for _, m := range w.queues.pool().visible {
			w.queues.dead().add(m.Body)
		}
		w.queues.dead().add(`{"v":1,"type":"shard","batch":"` + batch.Identity{}.ID() + `","shard":0}`)
		w.queues.dead().add(`{"v":2,"type":"shard","batch":"` + id + `","shard":1}`)
		w.queues.dead().add(`{"v":1,"type":"shard","batch":"../` + id + `","shard":0}`)
		w.queues.pool().lose()
		w.scan(wa)
		jobs := w.queues.pool().jobs(t)
		if len(jobs) != 3 || jobs[2].Shard != 1 || jobs[2].N != 2 {
			t.Errorf("jobs %+v: want shard 1 again, at once", jobs)
		}
		if visible, flying := w.queues.dead().left(); visible != 0 || flying != 2 {
			t.Errorf("%d visible and %d held dead messages, want that of a later version and that of no batch", visible, flying)
		}
	})
}

func TestADeadMessageIsCountedOnceItIsTaken(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		reg := prometheus.NewRegistry()
		var refused error
		wa := w.watcher(func(cfg *watcher.Config) {
			cfg.Registerer = reg
			cfg.Bucket = &failing{Bucket: w.store, fail: func(op, key string) error {
				if op == "put" && strings.HasSuffix(key, "/sent.json") {
					return refused
				}
				return nil
			}}
		})
		w.upload("in/x.jsonl", lines(1))
		w.scan(wa)
		dead := w.queues.dead()
		dead.add(w.queues.fast().visible[0].Body)
		taken := func(want float64, when string) {
			t.Helper()
			if got := value(t, reg, "spool_watcher_dead_jobs_total", "pool", "default"); got != want {
				t.Errorf("%v dead messages taken %s, want %v", got, when, want)
			}
		}
		for range 2 {
			refused = errors.New("no")
			if err := wa.Scan(t.Context()); err == nil {
				t.Error("a scan that could not mark the shard as not sent says that all is well")
			}
			taken(0, "while sent.json cannot be changed")
			dead.redeliver()
		}
		refused = nil
		w.scan(wa)
		taken(1, "at last")
		if visible, flying := dead.left(); visible != 0 || flying != 0 {
			t.Errorf("%d visible and %d held dead messages, want none", visible, flying)
		}
	})
}

func TestAQueueThatIsMissingIsRefusedAtTheStart(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.queues.missing = queue.PoolQueue("default")
		err := w.watcher().Run(t.Context())
		if !errors.Is(err, watcher.ErrUnfit) || !errors.Is(err, queue.ErrNoQueue) {
			t.Errorf("error %v, want that the queue is missing", err)
		}
	})
}

// take gives the oldest message that is visible, and deletes it.
func (f *fakeQueue) take(t testing.TB) batch.Message {
	t.Helper()
	got, err := f.Receive(t.Context(), 1, 0)
	if err != nil || len(got) == 0 {
		t.Fatalf("no message to take: %v", err)
	}
	var job batch.Message
	if err := json.Unmarshal([]byte(got[0].Body), &job); err != nil {
		t.Fatal(err)
	}
	if err := f.Delete(t.Context(), got[0]); err != nil {
		t.Fatal(err)
	}
	return job
}

// short makes shards of one chunk, and few of them ahead.
func short(ahead int) func(cfg *watcher.Config) {
	return func(cfg *watcher.Config) {
		cfg.QueueAhead = ahead
		cfg.Pools = []watcher.Pool{{Name: "default", ShardChunks: 1}}
	}
}

func TestNoBatchWaitsForAllOfAnotherWhenThereIsRoomForOneJobAtATime(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		wa := w.watcher(short(4))
		a := w.upload("in/a.jsonl", lines(20_000))
		b := w.upload("in/b.jsonl", lines(21_000)) // always more left than a has
		w.scan(wa)
		done := map[string]int{}
		for range 16 {
			job := w.queues.pool().take(t)
			w.work(w.plan(job.Batch), job.Shard)
			done[job.Batch]++
			sleep(30 * time.Second)
			w.scan(wa)
		}
		if done[a] != 8 || done[b] != 8 {
			t.Errorf("%d and %d jobs were done in the same time, want 8 each", done[a], done[b])
		}
	})
}

func TestALostMessageIsSentAgainWhileOthersAreDoneAndSent(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		wa := w.watcher(short(4))
		id := w.upload("in/a.jsonl", lines(20_000))
		w.scan(wa)
		plan := w.plan(id)
		if got := w.queues.pool().take(t).Shard; got != 0 {
			t.Fatalf("the first message is about shard %d", got)
		}
		for range 6 {
			sleep(30 * time.Second)
			w.work(plan, w.queues.pool().take(t).Shard)
			w.scan(wa)
		}
		var again []string
		for _, j := range w.queues.pool().jobs(t) {
			if j.N > 1 {
				again = append(again, fmt.Sprint(j.Shard))
			}
		}
		if !slices.Contains(again, "0") {
			t.Errorf("sent again in three minutes: %v, want shard 0", again)
		}
	})
}

func TestShardsThatEndDuringAScanAreNotTakenForLost(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		wa := w.watcher(short(4))
		id := w.upload("in/a.jsonl", lines(30_000))
		w.scan(wa)
		plan := w.plan(id)
		w.queues.pool().counting = func() { w.work(plan, w.queues.pool().take(t).Shard) }
		for range 20 {
			sleep(30 * time.Second)
			w.scan(wa)
		}
		jobs := w.queues.pool().jobs(t)
		for _, j := range jobs {
			if j.N != 1 {
				t.Errorf("shard %d was sent %d times", j.Shard, j.N)
			}
		}
		if len(jobs) != 24 {
			t.Errorf("%d jobs, want the first 4 and one for each of 20", len(jobs))
		}
	})
}

func TestABatchThatAnotherWatcherClosedTakesNoRoomAndIsNotSentAgain(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.watcher(short(2)), w.watcher(short(2))
		old := w.upload("in/old.jsonl", lines(2000))
		w.scan(a)
		w.scan(b)
		w.workAll(w.plan(old))
		w.queues.pool().lose() // its runner deleted them
		w.scan(a)              // ends it
		now := w.upload("in/now.jsonl", lines(2000))
		w.scan(b)
		names := map[string]string{old: "old", now: "now"}
		if diff := cmp.Diff([]string{"now0", "now1"}, shards(w.queues.pool().jobs(t), names)[2:]); diff != "" {
			t.Errorf("jobs after the other one ended (-want +got):\n%s", diff)
		}
		for range 4 {
			sleep(resendAfter)
			w.scan(b)
		}
		if got := shards(w.queues.pool().jobs(t), names)[2:]; slices.Contains(got, "old0") {
			t.Errorf("jobs %v: a batch that ended was sent again", got)
		}
	})
}
