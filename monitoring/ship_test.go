package monitoring_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"spool/monitoring"
	"spool/storage"
	"spool/storage/batch"
	"spool/storage/memstore"
	"spool/storage/storagetest"
)

const (
	batchA = "baaaaaaaaaaaaaaaaaaaaaaaaaa"
	batchB = "bbbbbbbbbbbbbbbbbbbbbbbbbbb"
	other  = "logs/_/runner/r-1/"
)

// sink is a bucket in memory, in which every batch is of the input in/<batch>.jsonl, but those that are not planned, or whose
// plan cannot be read.
type sink struct {
	storage.Bucket
	mu         sync.Mutex
	unplanned  map[string]bool
	unreadable string
	asked      int // for folders
}

func (s *sink) Put(ctx context.Context, key string, body []byte) error {
	_, err := s.Bucket.Put(ctx, key, body, storage.PutOptions{})
	return err
}

func (s *sink) LogDir(_ context.Context, id string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	switch {
	case s.unplanned[id]:
		return "", nil
	case s.unreadable == id:
		return "", errors.New("read plan: not JSON")
	}
	return batch.LogDir("in/"+id+".jsonl", id), nil
}

// asks tells how often folders were asked for.
func (s *sink) asks() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

func (s *sink) planned(id string, planned bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unplanned = map[string]bool{id: !planned}
}

// ward is a logger whose lines are shipped to a store with faults.
type ward struct {
	t     *testing.T
	store *memstore.Store
	fault atomic.Pointer[storagetest.Fault] // of puts
	after storagetest.Fault                 // of their replies
	sink  *sink
	ship  *monitoring.Shipper
	log   *zap.Logger
	reg   *prometheus.Registry
	out   *bytes.Buffer
}

func inWard(t *testing.T, cfg monitoring.ShipperConfig, f func(t *testing.T, w *ward)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &ward{t: t, store: memstore.New(memstore.Options{}), reg: prometheus.NewRegistry(), out: &bytes.Buffer{}}
		w.sink = &sink{Bucket: &storagetest.Hook{Bucket: w.store, Before: w.before, After: w.reply}}
		cfg.Component, cfg.Instance, cfg.Registerer = "runner", "r-1", w.reg
		var err error
		if w.ship, err = monitoring.NewShipper(cfg); err != nil {
			t.Fatal(err)
		}
		log, closeLog, err := monitoring.NewLogger(monitoring.Options{Level: "debug", Output: zapcore.AddSync(w.out),
			Shipper: w.ship, Component: "runner", Instance: "r-1"})
		if err != nil {
			t.Fatal(err)
		}
		w.log = log
		w.ship.Start(w.sink, log)
		defer func() {
			if err := closeLog(); err != nil {
				t.Error(err)
			}
		}()
		f(t, w)
	})
}

// fail has puts fail from now on, or no longer.
func (w *ward) fail(f storagetest.Fault) { w.fault.Store(&f) }

func (w *ward) before(op, key string) error {
	if f := w.fault.Load(); f != nil && *f != nil {
		return (*f)(op, key)
	}
	return nil
}

func (w *ward) reply(op, key string) error {
	if w.after == nil {
		return nil
	}
	return w.after(op, key)
}

// after lets the bubble's time pass.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (w *ward) keys() []string {
	w.t.Helper()
	var keys []string
	for obj, err := range w.store.List(context.Background(), "logs/", "") {
		if err != nil {
			w.t.Fatal(err)
		}
		keys = append(keys, obj.Key)
	}
	return keys
}

// lines gives message and seq of the lines under a prefix, as "message 3".
func (w *ward) lines(prefix string) []string {
	w.t.Helper()
	var list []string
	for _, key := range w.keys() {
		if strings.HasPrefix(key, prefix) {
			for _, l := range w.part(key) {
				list = append(list, fmt.Sprint(l["message"], " ", l["seq"]))
			}
		}
	}
	return list
}

func (w *ward) part(key string) []map[string]any {
	w.t.Helper()
	body, _, err := storage.ReadAll(context.Background(), w.store, key)
	if err != nil {
		w.t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	var list []map[string]any
	for dec := json.NewDecoder(z); ; {
		var line map[string]any
		err := dec.Decode(&line)
		if errors.Is(err, io.EOF) {
			return list
		}
		if err != nil {
			w.t.Fatalf("%s: %v", key, err)
		}
		list = append(list, line)
	}
}

func (w *ward) count(level, outcome string) int {
	w.t.Helper()
	families, err := w.reg.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "spool_log_lines_total" && m.GetLabel()[0].GetValue() == level && m.GetLabel()[1].GetValue() == outcome {
				return int(m.GetCounter().GetValue())
			}
		}
	}
	w.t.Fatalf("no count of %s %s", level, outcome)
	return 0
}

func (w *ward) want(what string, got, want []string) {
	w.t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		w.t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func part(id string, first, last int64) string {
	if id == "" {
		return other + batch.LogPart(first, last)
	}
	return batch.LogDir("in/"+id+".jsonl", id) + "r-1/" + batch.LogPart(first, last)
}

func TestLinesAreShippedByBatchInParts(t *testing.T) {
	inWard(t, monitoring.ShipperConfig{}, func(t *testing.T, w *ward) {
		w.log.Info("one")
		a, b := w.log.With(zap.String("batch_id", batchA)), w.log.With(zap.String("batch_id", batchB))
		a.Info("two")
		after(9 * time.Second)
		a.Info("three")
		b.Info("four")
		w.want("before 10 s", w.keys(), nil)
		after(time.Second)
		w.want("after 10 s", w.keys(), []string{part("", 1, 1), part(batchA, 1, 2), part(batchB, 1, 1)})
		w.want("lines of A", w.lines("logs/"+batchA), []string{"two 1", "three 2"})
		after(time.Hour)
		if n := len(w.keys()); n != 3 {
			t.Errorf("%d parts after an hour without lines, want 3", n)
		}
		a.Info("five")
		after(10 * time.Second)
		w.want("lines of A", w.lines("logs/"+batchA), []string{"two 1", "three 2", "five 3"})
		if got := w.count("info", "written"); got != 5 {
			t.Errorf("%d lines counted as written, want 5", got)
		}
	})
}

func TestErrorsAndLargePartsAreShippedSooner(t *testing.T) {
	inWard(t, monitoring.ShipperConfig{Part: 4000}, func(t *testing.T, w *ward) {
		w.log.Error("bad")
		after(999 * time.Millisecond)
		w.want("before 1 s", w.keys(), nil)
		after(time.Millisecond)
		w.want("after 1 s", w.keys(), []string{part("", 1, 1)})
		w.log.Info(strings.Repeat("x", 4000))
		synctest.Wait()
		w.want("a full part", w.keys(), []string{part("", 1, 1), part("", 2, 2)})
	})
}

func TestStoreThatIsDownForAWhileCostsNoLine(t *testing.T) {
	inWard(t, monitoring.ShipperConfig{}, func(t *testing.T, w *ward) {
		w.fail(storagetest.Unavailable)
		log := w.log.With(zap.String("batch_id", batchA))
		var want []string
		for n := range 60 {
			log.Info("line")
			want = append(want, fmt.Sprint("line ", n+1))
			after(time.Second)
		}
		w.want("while it is down", w.keys(), nil)
		if age := w.gauge("spool_log_oldest_unflushed_age_seconds"); age != 60 {
			t.Errorf("the oldest line waits for %v s, want 60", age)
		}
		w.fail(nil)
		after(10 * time.Second)
		w.want("lines", w.lines("logs/"+batchA), want)
		after(10 * time.Second)
		w.want("what the log says of it", w.lines(other), []string{"logs cannot be stored 1", "logs are stored again 2"})
		if age := w.gauge("spool_log_oldest_unflushed_age_seconds"); age != 0 {
			t.Errorf("the oldest line waits for %v s, want none", age)
		}
		if n := testutil.CollectAndCount(w.reg, "spool_log_lines_total"); n != 8 {
			t.Errorf("%d series of lines, want 4 levels with 2 outcomes", n)
		}
	})
}

func (w *ward) gauge(name string) float64 {
	w.t.Helper()
	families, err := w.reg.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	w.t.Fatalf("no %s", name)
	return 0
}

// A reply that is lost has the part sent again: the same bytes under the same key.
func TestLostReplyDoublesNothing(t *testing.T) {
	inWard(t, monitoring.ShipperConfig{}, func(t *testing.T, w *ward) {
		w.after = storagetest.FailFirst(1, storagetest.Lost)
		w.log.Error("line")
		after(time.Minute)
		got := w.lines(other)
		w.want("lines", got, []string{"line 1", "logs cannot be stored 2", "logs are stored again 3"})
	})
}

// A store that hangs costs lines, and nothing else: logging goes on in no time, memory is bounded, errors have room
// when debug has none, and what is lost is counted and seen as a gap.
func TestStoreThatHangsCostsLinesOnly(t *testing.T) {
	inWard(t, monitoring.ShipperConfig{Limit: 100_000}, func(t *testing.T, w *ward) {
		release := make(chan struct{})
		w.fail(func(string, string) error { <-release; return nil })
		w.log.Error("first") // hangs when the others come
		after(time.Second)
		log := w.log.With(zap.String("batch_id", batchA))
		text := zap.String("text", strings.Repeat("x", 900))
		start := time.Now()
		for range 200 {
			log.Debug("debug", text)
		}
		debug := w.count("debug", "dropped")
		for range 200 {
			log.Info("info", text)
		}
		info := w.count("info", "dropped")
		for range 10 {
			log.Error("error", text)
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("logging waited %v for the store", took)
		}
		if held := 200 - debug; held < 35 || held > 50 {
			t.Errorf("%d lines of debug were held, want what half the limit takes", held)
		}
		if held := 200 - info; held < 15 || held > 25 {
			t.Errorf("%d lines of info were held beside, want what a quarter takes", held)
		}
		if n := w.count("error", "dropped"); n != 0 {
			t.Errorf("%d errors were dropped, want none", n)
		}
		close(release)
		after(time.Minute)
		seqs := w.seqs("logs/" + batchA)
		if n := len(seqs); n != 410-debug-info {
			t.Errorf("%d lines are stored, want the %d that were held", n, 410-debug-info)
		}
		if last := seqs[len(seqs)-1]; last != 410 {
			t.Errorf("the last line has seq %d, want 410: those dropped are a gap", last)
		}
	})
}

func (w *ward) seqs(prefix string) []int {
	w.t.Helper()
	var list []int
	for _, key := range w.keys() {
		if strings.HasPrefix(key, prefix) {
			for _, l := range w.part(key) {
				list = append(list, int(l["seq"].(float64)))
			}
		}
	}
	return list
}

func TestCloseShipsWhatIsLeftInFiveSeconds(t *testing.T) {
	inWard(t, monitoring.ShipperConfig{}, func(t *testing.T, w *ward) {
		w.log.Info("last words")
		start := time.Now()
		w.ship.Close()
		if took := time.Since(start); took != 0 {
			t.Errorf("closing took %v", took)
		}
		w.want("lines", w.lines(other), []string{"last words 1"})
		w.ship.Close()
		w.log.Info("too late")
		if n := w.count("info", "dropped"); n != 1 {
			t.Errorf("%d lines dropped, want the one that came too late", n)
		}
	})
	for _, busy := range []bool{false, true} { // with a put under way, and without
		inWard(t, monitoring.ShipperConfig{}, func(t *testing.T, w *ward) {
			forever := make(chan struct{})
			w.sink.Bucket = hanging{w.store, forever}
			w.log.Error("lost")
			if busy {
				after(2 * time.Second)
			}
			start := time.Now()
			w.ship.Close()
			if took := time.Since(start); took != 5*time.Second {
				t.Errorf("busy %v: closing took %v, want 5 s", busy, took)
			}
			if n := w.count("error", "dropped"); n != 1 {
				t.Errorf("busy %v: %d lines counted as dropped, want 1", busy, n)
			}
			close(forever)
		})
	}
}

// hanging accepts a put and never answers.
type hanging struct {
	storage.Bucket
	forever chan struct{}
}

func (h hanging) Put(ctx context.Context, _ string, _ []byte, _ storage.PutOptions) (storage.Object, error) {
	select {
	case <-h.forever:
	case <-ctx.Done():
	}
	return storage.Object{}, ctx.Err()
}

func TestLinesAboutABatchWithoutAPlanWaitForIt(t *testing.T) {
	inWard(t, monitoring.ShipperConfig{}, func(t *testing.T, w *ward) {
		w.sink.planned(batchA, false)
		w.log.Info("early", zap.String("batch_id", batchA))
		w.log.Info("of another", zap.String("batch_id", batchB))
		after(59 * time.Second)
		w.want("without a plan", w.keys(), []string{part(batchB, 1, 1)})
		w.sink.planned(batchA, true)
		after(10 * time.Second)
		w.want("with a plan", w.keys(), []string{part(batchA, 1, 1), part(batchB, 1, 1)})
	})
	inWard(t, monitoring.ShipperConfig{}, func(t *testing.T, w *ward) {
		w.sink.planned(batchA, false)
		w.log.Info("early", zap.String("batch_id", batchA))
		w.ship.Close()
		w.want("at the end", w.keys(), []string{other + batchA + "/" + batch.LogPart(1, 1)})
	})
}

// A file may be validated for long. Nothing waits for its plan for more than a minute, and what is stored with the other logs is
// in the batch's folder, too, when there is one: a number that was missing there would seem lost.
func TestLinesAboutABatchThatIsPlannedLateAreNotLost(t *testing.T) {
	inWard(t, monitoring.ShipperConfig{}, func(t *testing.T, w *ward) {
		w.sink.planned(batchA, false)
		w.log.Error("first", zap.String("batch_id", batchA))
		after(30 * time.Second)
		w.log.Info("second", zap.String("batch_id", batchA))
		after(32 * time.Second)
		w.want("a minute after the first", w.lines(other+batchA), []string{"first 1"})
		after(40 * time.Second)
		w.want("a minute after the second", w.lines(other+batchA), []string{"first 1", "second 2"})
		if age := w.gauge("spool_log_oldest_unflushed_age_seconds"); age != 0 {
			t.Errorf("the oldest line waits for %v s, want none", age)
		}
		after(20 * time.Minute)
		w.log.Info("third", zap.String("batch_id", batchA))
		w.sink.planned(batchA, true)
		after(10 * time.Second)
		w.want("with a plan", w.lines("logs/"+batchA), []string{"first 1", "second 2", "third 3"})
		w.want("with the other logs", w.lines(other), []string{"first 1", "second 2"})
		if n := w.count("info", "written") + w.count("error", "written"); n != 3 {
			t.Errorf("%d lines are counted as written, want each once", n)
		}
		w.ship.Close()
		if n := w.count("info", "dropped") + w.count("error", "dropped"); n != 0 {
			t.Errorf("%d lines are counted as dropped, want none", n)
		}
	})
}

// A batch that a message names and that nobody plans is asked for no longer than an hour, and costs no room then.
func TestBatchThatIsNeverPlannedIsForgotten(t *testing.T) {
	inWard(t, monitoring.ShipperConfig{}, func(t *testing.T, w *ward) {
		w.sink.planned(batchA, false)
		w.log.Info("dead", zap.String("batch_id", batchA))
		after(59 * time.Minute)
		before := w.sink.asks()
		after(time.Minute)
		if w.sink.asks() == before {
			t.Error("nobody asked for the folder in the last minute of the hour")
		}
		before = w.sink.asks()
		after(time.Hour)
		if n := w.sink.asks() - before; n != 0 {
			t.Errorf("its folder was asked for %d times in the second hour, want never", n)
		}
		w.want("lines", w.lines(other), []string{"dead 1"})
		if n := w.count("info", "written"); n != 1 {
			t.Errorf("%d lines are counted as written, want 1", n)
		}
	})
}

// A plan that cannot be read may be so for ever: while other logs are stored, that is not said at each round.
func TestPlanThatCannotBeReadIsSaidForAMinute(t *testing.T) {
	inWard(t, monitoring.ShipperConfig{}, func(t *testing.T, w *ward) {
		w.sink.unreadable = batchA
		w.log.Info("first", zap.String("batch_id", batchA))
		after(2 * time.Minute)
		w.want("in the place of its folder", w.lines(other+batchA), []string{"first 1"})
		said := len(w.seqs(other + "0"))
		if said == 0 {
			t.Error("the log does not say that the plan cannot be read")
		}
		for range 20 {
			w.log.Info("more", zap.String("batch_id", batchA))
			w.log.Info("of another", zap.String("batch_id", batchB))
			after(time.Minute)
		}
		after(2 * time.Minute)
		if more := len(w.seqs(other+"0")) - said; more != 0 {
			t.Errorf("the log says %d times more that logs cannot be stored, or can", more)
		}
		if n := len(w.lines(other + batchA)); n != 21 {
			t.Errorf("%d lines are stored, want 21", n)
		}
	})
}

// A message can name any text as its batch. It has no plan ever, and no part of it comes into a key.
func TestWhatIsNoBatchHasItsPlaceWithTheOtherLogs(t *testing.T) {
	inWard(t, monitoring.ShipperConfig{}, func(t *testing.T, w *ward) {
		forged := []string{"../" + batchA + "/r-2", strings.Repeat("x", 2000)}
		for _, id := range forged {
			w.log.Info("forged", zap.String("batch_id", id))
		}
		w.log.Info("of none")
		after(time.Minute)
		keys := w.keys()
		if len(keys) != 3 || keys[0] != other+batch.LogPart(1, 1) {
			t.Errorf("stored are %q", keys)
		}
		for _, key := range keys {
			if _, id, ok := batch.LogBatch(key); ok || strings.Contains(key, "..") || len(key) > 200 {
				t.Errorf("%s is a key of batch %q", key, id)
			}
		}
		w.want("lines", w.lines(other), []string{"of none 1", "forged 1", "forged 1"})
		if w.sink.asks() != 0 {
			t.Errorf("the folder of a batch was asked for %d times", w.sink.asks())
		}
	})
}

// Lines have no gap and rising numbers however many goroutines log, and what came before the start is there too.
func TestEveryLineHasTheNextNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &ward{t: t, store: memstore.New(memstore.Options{}), reg: prometheus.NewRegistry()}
		ship, err := monitoring.NewShipper(monitoring.ShipperConfig{Component: "runner", Instance: "r-1", Registerer: w.reg, Part: 5000})
		if err != nil {
			t.Fatal(err)
		}
		log, closeLog, err := monitoring.NewLogger(monitoring.Options{Shipper: ship, Component: "runner"})
		if err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				for range 100 {
					log.Info("line", zap.String("batch_id", batchA))
				}
			})
		}
		ship.Start(&sink{Bucket: w.store}, zap.NewNop())
		all.Wait()
		if err := closeLog(); err != nil {
			t.Fatal(err)
		}
		seqs := w.seqs("logs/" + batchA)
		for i, n := range seqs {
			if n != i+1 {
				t.Fatalf("line %d has seq %d", i+1, n)
			}
		}
		if len(seqs) != 800 {
			t.Errorf("%d lines, want 800", len(seqs))
		}
	})
}

func TestShipperThatWasNotStartedEndsAtOnce(t *testing.T) {
	ship, err := monitoring.NewShipper(monitoring.ShipperConfig{Component: "runner", Instance: "r-1"})
	if err != nil {
		t.Fatal(err)
	}
	ship.Close()
	if _, err := monitoring.NewShipper(monitoring.ShipperConfig{Component: "runner"}); err == nil {
		t.Error("a Shipper without an instance: no error")
	}
}

// What is stored gives its room back: a shipper that stored many times its limit drops nothing.
func TestStoredLinesGiveTheirRoomBack(t *testing.T) {
	inWard(t, monitoring.ShipperConfig{Limit: 20_000}, func(t *testing.T, w *ward) {
		noise := rand.New(rand.NewPCG(1, 2)) // does not compress
		for range 100 {
			text := make([]byte, 2000)
			for i := range text {
				text[i] = 'a' + byte(noise.IntN(26))
			}
			w.log.Info("line", zap.String("text", string(text)))
			after(10 * time.Second)
		}
		if n := w.count("info", "dropped"); n != 0 || len(w.seqs(other)) != 100 {
			t.Errorf("%d lines dropped and %d stored, want none and 100", n, len(w.seqs(other)))
		}
	})
}

// After a failure the later parts of the same batch wait, and those of others do not.
func TestPartsOfABatchAreStoredInOrder(t *testing.T) {
	inWard(t, monitoring.ShipperConfig{}, func(t *testing.T, w *ward) {
		first := part(batchA, 1, 1)
		w.fail(func(op, key string) error {
			if key == first {
				return storagetest.Unavailable(op, key)
			}
			return nil
		})
		for range 2 {
			w.log.Info("of A", zap.String("batch_id", batchA))
			w.log.Info("of B", zap.String("batch_id", batchB))
			after(10 * time.Second)
		}
		w.want("while the first part fails", w.lines("logs/"+batchA), nil)
		w.want("of another batch", w.lines("logs/"+batchB), []string{"of B 1", "of B 2"})
		w.fail(nil)
		after(20 * time.Second)
		w.want("afterwards", w.lines("logs/"+batchA), []string{"of A 1", "of A 2"})
	})
}
