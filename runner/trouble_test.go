package runner

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"spool/storage"
	"spool/storage/batch"
	"spool/storage/queue"
	"spool/storage/storagetest"
)

// answering is a shard of one open chunk, as the runner holds it that has these notes.
func (w *world) answering(plan *batch.Plan, cfg *Config, notes *ledger) (*shard, *chunk) {
	w.t.Helper()
	s := newShard(shard{
		cfg: cfg, log: zap.NewNop(), window: &window{meter: newMeter(prometheus.NewRegistry(), 1)},
		plan: plan, fed: func() {}, notes: notes, strikes: newStrikes(nil),
	})
	c, err := newChunk(s, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.close() })
	s.chunks[0] = c
	return s, c
}

func (c *chunk) answerFor(line int64) {
	c.add(&batch.Answer{Batch: c.batch, Line: line, CustomID: "c", Status: 200, Body: []byte(`{}`)}, batch.Usage{})
}

func TestNoSegmentTakesTheNameOfAnother(t *testing.T) {
	w := newWorld(t)
	plan := w.batch(10, 10)
	lost := storagetest.FailNth(1, storagetest.Denied, storagetest.OpPut) // no second try, although it is stored
	w.bucket = &storagetest.Hook{Bucket: w.store, After: lost}
	cfg, err := w.config().withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	notes := newLedger(&cfg, plan.Batch)

	s, c := w.answering(plan, &cfg, notes)
	c.answerFor(1)
	if err := s.writeSegments(t.Context(), false); err == nil {
		t.Fatal("the reply was not lost")
	}
	c.answerFor(2)
	if err := s.writeSegments(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	s, c = w.answering(plan, &cfg, notes) // the same runner has the shard again
	c.answerFor(3)
	if err := s.writeSegments(t.Context(), false); err != nil {
		t.Fatal(err)
	}

	s, c = w.answering(plan, &cfg, newLedger(&cfg, plan.Batch))
	if err := s.readSegments(t.Context()); err != nil {
		t.Fatal(err)
	}
	for line := int64(1); line <= 3; line++ {
		if !c.has(line) {
			t.Errorf("line %d is in no segment", line)
		}
	}
}

// Of answers that come faster than a store takes segments, one segment is written at a time: there is more to do.
func TestSavingEndsAlthoughAnswersCome(t *testing.T) {
	w := newWorld(t)
	plan := w.batch(10, 10)
	hook := &storagetest.Hook{Bucket: w.store}
	w.bucket = hook
	cfg, err := w.config().withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	s, c := w.answering(plan, &cfg, newLedger(&cfg, plan.Batch))
	c.answerFor(1)
	line := int64(1)
	hook.After = func(op, _ string) error {
		if op == storagetest.OpPut && line < 9 {
			line++
			c.answerFor(line)
		}
		return nil
	}
	for _, saved := range []struct {
		all   bool
		lines int
	}{{false, 1}, {false, 2}, {true, 9}} {
		if err := s.writeSegments(t.Context(), saved.all); err != nil {
			t.Fatal(err)
		}
		if n := w.segmentLines(plan, 0, 1); n != saved.lines {
			t.Errorf("%d results are saved, want %d", n, saved.lines)
		}
	}
}

func TestABrokenReadOfBadLinesIsNotTheirEnd(t *testing.T) {
	w := newWorld(t)
	plan := w.batch(10, 10, 3, 7)
	w.bucket = storagetest.BreakReads{Bucket: w.store}
	cfg, err := w.config().withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	s, _ := w.answering(plan, &cfg, newLedger(&cfg, plan.Batch))
	if err := s.loadBad(t.Context()); storage.KindOf(err) != storage.KindUnavailable {
		t.Errorf("load bad lines: %v, want unavailable", err)
	}
}

func TestAChunkWithMoreLinesThanItsPlanIsNotAsked(t *testing.T) {
	w := newWorld(t)
	plan := w.batch(10, 10, 3, 7)
	cfg, err := w.config().withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	s, c := w.answering(plan, &cfg, newLedger(&cfg, plan.Batch))
	s.bad = map[int64]bool{3: true}
	if _, err := s.load(t.Context(), c); err == nil || err.Error() != "load chunk 0: 9 lines to ask, but the plan has 8" {
		t.Errorf("load: %v", err)
	}
	s.bad[7] = true
	if tasks, err := s.load(t.Context(), c); err != nil || len(tasks) != 8 {
		t.Errorf("load: %d lines, %v; want 8", len(tasks), err)
	}
}

func TestLinesAreNotGivenUpBecauseAStopCannotBeLookedFor(t *testing.T) {
	w := newWorld(t)
	plan := w.batch(3, 10)
	var looks atomic.Int64
	seen := make(chan struct{})
	w.bucket = &storagetest.Hook{Bucket: w.store, Reads: true, Before: func(op, key string) error {
		if op != storagetest.OpGet || key != batch.StopKey(plan.Batch) {
			return nil
		}
		switch looks.Add(1) {
		case 2, 3:
		case 4:
			close(seen)
		default: // the first when the shard is begun, the last when the batch is finalised
			return nil
		}
		return storagetest.Unavailable(op, key)
	}}
	w.engine.script = func(http.ResponseWriter, *http.Request, string, int) bool { <-seen; return false }
	if err := w.run(t.Context(), w.config()); err != nil {
		t.Fatal(err)
	}
	w.wantAll(plan, 1, 3)
	if n := w.engine.total(); n != 3 {
		t.Errorf("%d requests for 3 lines", n)
	}
}

// hanging is a store whose looks for a stop do not return before their context ends, from the second one on.
type hanging struct {
	storage.Bucket
	key   string
	looks atomic.Int64
	hangs chan struct{} // closed when one hangs
	once  sync.Once
}

func (h *hanging) Get(ctx context.Context, key string, opt storage.GetOptions) (io.ReadCloser, storage.Object, error) {
	if key == h.key && h.looks.Add(1) > 1 {
		h.once.Do(func() { close(h.hangs) })
		<-ctx.Done()
		return nil, storage.Object{}, ctx.Err()
	}
	return h.Bucket.Get(ctx, key, opt)
}

func TestAStoreThatHangsDoesNotKeepARunnerFromHandingOver(t *testing.T) {
	w := newWorld(t)
	plan := w.batch(10, 10)
	store := &hanging{Bucket: w.store, key: batch.StopKey(plan.Batch), hangs: make(chan struct{})}
	w.bucket = store
	w.engine.script = func(_ http.ResponseWriter, r *http.Request, _ string, _ int) bool {
		<-r.Context().Done()
		return true
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	told := make(chan time.Time, 1)
	go func() {
		<-store.hangs
		told <- time.Now()
		cancel()
	}()
	if err := w.run(ctx, w.config()); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(<-told); took > lookTimeout-time.Second {
		t.Errorf("the runner ended %s after it was told to", took)
	}
	if c, err := w.fast.Counts(t.Context()); err != nil || c.Visible != 1 || c.InFlight != 0 {
		t.Errorf("queue has %+v, %v; want the message visible", c, err)
	}
}

func TestBatchOfALaterVersionIsLeftAlone(t *testing.T) {
	w := newWorld(t)
	plan := w.batch(200, 10) // ten shards
	plan.V = batch.Version + 1
	w.putJSON(batch.PlanKey(plan.Batch), plan)
	if err := w.run(t.Context(), w.config()); err != nil {
		t.Errorf("run: %v; want it to end idle", err)
	}
	if c, err := w.main.Counts(t.Context()); err != nil || c.InFlight != 10 {
		t.Errorf("queue has %+v, %v; want 10 messages put off", c, err)
	}
	if n := w.engine.total(); n != 0 {
		t.Errorf("%d lines asked", n)
	}
}

// deaf is a queue that does not answer.
type deaf struct{ *queue.Queue }

func (deaf) Receive(context.Context, int, time.Duration) ([]*queue.Message, error) {
	return nil, &queue.Error{Op: "receive from", Queue: "q", Kind: queue.ErrUnavailable}
}

func TestIdleRunnerSaysThatItsQueueDoesNotAnswer(t *testing.T) {
	w := newWorld(t)
	cfg := w.config()
	cfg.Main = deaf{w.main}
	if err := w.run(t.Context(), cfg); !errors.Is(err, queue.ErrUnavailable) {
		t.Errorf("run: %v, want %v", err, queue.ErrUnavailable)
	}
}

func TestStoreThatIsOutForAWhileDoesNotEndTheRunner(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault storagetest.Fault
		ends  bool
	}{
		{"unavailable", storagetest.Unavailable, false},
		{"denied", storagetest.Denied, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.batch(80, 10) // four shards, one more than may fail in a row
			w.bucket = &storagetest.Hook{Bucket: w.store, Before: c.fault, Reads: true}
			if err := w.run(t.Context(), w.config()); (err != nil) != c.ends {
				t.Errorf("run: %v", err)
			}
		})
	}
}
