package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"spool/storage"
	"spool/storage/batch"
	"spool/storage/lease"
)

func TestEveryLineIsAnsweredOnceAndInOrder(t *testing.T) {
	w := newWorld(t)
	plan := w.batch(95, 10)
	if err := w.run(t.Context(), w.config()); err != nil {
		t.Fatal(err)
	}
	w.wantAll(plan, 1, 95)
	w.wantNoMessages()
	res := w.result(plan)
	if res.Outcome != batch.Completed || res.Completed != 95 || res.Failed != 0 || res.Usage.TotalTokens != 95*5 {
		t.Errorf("result %+v", res)
	}
	if n := w.engine.total(); n != 95 {
		t.Errorf("the engine was asked %d times, want 95", n)
	}
}

func TestBatchOfOneChunkTakesTheFastLane(t *testing.T) {
	w := newWorld(t)
	plan := w.batch(3, 10)
	if err := w.run(t.Context(), w.config()); err != nil {
		t.Fatal(err)
	}
	w.wantAll(plan, 1, 3)
	w.wantNoMessages()
}

func TestTwoRunnersShareABatch(t *testing.T) {
	w := newWorld(t)
	plan := w.batch(200, 10)
	var wg sync.WaitGroup
	for range 2 {
		cfg := w.config()
		wg.Go(func() {
			if err := w.run(t.Context(), cfg); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	w.wantAll(plan, 1, 200)
	w.wantNoMessages()
}

func TestAnswersAreTreatedByWhatTheyMean(t *testing.T) {
	w := newWorld(t)
	w.engine.script = func(w http.ResponseWriter, _ *http.Request, prompt string, ask int) bool {
		fail := func(status int, body string) bool {
			w.WriteHeader(status)
			io.WriteString(w, body)
			return true
		}
		switch {
		case prompt == "1":
			return fail(400, `{"error":{"message":"too long","type":"BadRequestError","param":null,"code":400}}`)
		case prompt == "2" && ask < 3:
			return fail(500, `{"error":{"message":"Internal server error","code":500}}`)
		case prompt == "3":
			return fail(500, `{"error":{"message":"Internal server error","code":500}}`)
		case prompt == "4" && ask < 9:
			return fail(503, `{"error":"busy"}`)
		case prompt == "5" && ask < 9:
			return fail(200, `{"choices":[{"message":{"content":""},"finish_reason":"abort"}]}`)
		case prompt == "6":
			return fail(413, `<html>no</html>`)
		case prompt == "7":
			return fail(200, `{"choices":[`)
		}
		return false
	}
	plan := w.batch(8, 10)
	if err := w.run(t.Context(), w.config()); err != nil {
		t.Fatal(err)
	}
	got := make(map[string]string)
	for _, name := range []string{batch.OutputName, batch.ErrorsName} {
		for _, l := range w.lines(plan, name) {
			switch {
			case l.Error != nil:
				got[l.CustomID] = fmt.Sprintf("%s %s %d", name, l.Error.Code, l.Spool.Attempts)
			default:
				got[l.CustomID] = fmt.Sprintf("%s %d %d", name, l.Response.Status, l.Spool.Attempts)
			}
		}
	}
	want := map[string]string{
		"c1": "errors.jsonl 400 1", "c2": "output.jsonl 200 3", "c3": "errors.jsonl 500 5", "c4": "output.jsonl 200 9",
		"c5": "output.jsonl 200 9", "c6": "errors.jsonl 413 1", "c7": "errors.jsonl engine_error 5", "c8": "output.jsonl 200 1",
	}
	for id, w := range want {
		if got[id] != w {
			t.Errorf("%s: %s, want %s", id, got[id], w)
		}
	}
	for _, l := range w.lines(plan, batch.ErrorsName) {
		if l.CustomID == "c6" && string(l.Response.Body) != `"\u003chtml\u003eno\u003c/html\u003e"` {
			t.Errorf("a body that is not JSON became %s", l.Response.Body)
		}
	}
}

func TestBadLinesOfThePieceAreNotAsked(t *testing.T) {
	w := newWorld(t)
	plan := w.batch(30, 5, 7, 8, 30)
	if err := w.run(t.Context(), w.config()); err != nil {
		t.Fatal(err)
	}
	if n := w.engine.total(); n != 27 {
		t.Errorf("the engine was asked %d times, want 27", n)
	}
	var ids []string
	for _, l := range w.lines(plan, batch.ErrorsName) {
		ids = append(ids, l.CustomID+" "+l.Error.Code)
	}
	if got := strings.Join(ids, ", "); got != "c7 invalid_request, c8 invalid_request, c30 invalid_request" {
		t.Errorf("errors: %s", got)
	}
}

func TestInterruptedRunnerHandsOverAndItsFinishedLinesAreKept(t *testing.T) {
	w := newWorld(t)
	plan := w.batch(20, 10) // one shard of two chunks
	hang := make(chan struct{})
	var once sync.Once
	reached := make(chan struct{})
	w.engine.script = func(_ http.ResponseWriter, r *http.Request, prompt string, ask int) bool {
		if prompt == "20" && ask == 1 {
			once.Do(func() { close(reached) })
			select {
			case <-hang:
			case <-r.Context().Done():
			}
		}
		return false
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { // the last line hangs, the others are finished or about to be
		<-reached
		waitFor(t, func() bool { // the first chunk is stored, all but one of the second are saved
			_, err := w.store.Head(t.Context(), batch.ChunkKey(plan.Batch, 0, 0))
			return err == nil && w.segmentLines(plan, 0, 11) >= 9
		})
		cancel()
	}()
	if err := w.run(ctx, w.config()); err != nil {
		t.Fatalf("an interrupted runner failed: %v", err)
	}
	close(hang)
	if c, _ := w.main.Counts(t.Context()); c.Visible != 1 {
		t.Fatalf("after the hand-over the queue has %+v, want the message visible", c)
	}
	if err := w.run(t.Context(), w.config()); err != nil {
		t.Fatal(err)
	}
	w.wantAll(plan, 1, 20)
	if n := w.engine.total(); n != 21 {
		t.Errorf("the engine was asked %d times, want 21: only the line that hung again", n)
	}
	if res := w.result(plan); res.Usage.TotalTokens != 100 {
		t.Errorf("usage %+v, want 100 tokens, those from segments too", res.Usage)
	}
}

// segmentLines counts the results in the segments of a shard, from a line on.
func (w *world) segmentLines(plan *batch.Plan, shard int, from int64) int {
	n := 0
	for obj, err := range w.store.List(context.Background(), batch.SegmentPrefix(plan.Batch, shard), "") {
		if err != nil {
			w.t.Error(err)
			return 0
		}
		rr, err := batch.NewRecordReader(strings.NewReader(string(w.get(obj.Key))))
		for err == nil {
			var rec batch.Record
			if rec, err = rr.Next(); err == nil && rec.Line >= from {
				n++
			}
		}
	}
	return n
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Error("waited 20 s in vain")
			return
		}
	}
}

func TestStopEndsOpenLinesAndKeepsFinishedOnes(t *testing.T) {
	w := newWorld(t)
	plan := w.batch(20, 10)
	w.engine.script = func(_ http.ResponseWriter, r *http.Request, prompt string, _ int) bool {
		if len(prompt) == 2 { // lines 10 to 20 hang until they are aborted
			<-r.Context().Done()
		}
		return false
	}
	go func() {
		waitFor(t, func() bool { return w.segmentLines(plan, 0, 1) >= 9 })
		w.putJSON(batch.StopKey(plan.Batch), batch.Stop{
			V: 1, Batch: plan.Batch, Outcome: batch.Cancelled, Code: batch.CodeBatchCancelled, Message: "cancelled by the user", At: time.Now().Unix(),
		})
	}()
	if err := w.run(t.Context(), w.config()); err != nil {
		t.Fatal(err)
	}
	res := w.result(plan)
	if res.Outcome != batch.Cancelled || res.Completed != 9 || res.Failed != 11 {
		t.Errorf("result %+v", res)
	}
	w.wantAll(plan, 1, 9)
	for i, l := range w.lines(plan, batch.ErrorsName) {
		if l.CustomID != fmt.Sprintf("c%d", i+10) || l.Error.Code != batch.CodeBatchCancelled {
			t.Errorf("error line %d: %+v", i, l)
		}
	}
	w.wantNoMessages()
}

func TestModelThatNoEngineServesSendsTheRunnerAway(t *testing.T) {
	w := newWorld(t)
	plan := w.batch(20, 10)
	plan.Models = []string{"other"}
	w.putJSON(batch.PlanKey(plan.Batch), plan)
	err := w.run(t.Context(), w.config())
	if !errors.Is(err, ErrElsewhere) || !strings.Contains(err.Error(), "an engine lacks other; served are: m") {
		t.Fatalf("run: %v", err)
	}
	seen, err := lease.Read(t.Context(), w.store, batch.LeaseKey(plan.Batch, 0))
	if err != nil || seen.Record.State != lease.Released || !strings.Contains(string(seen.Record.Notes), `"code":"model_not_found"`) {
		t.Errorf("lease %+v, %v", seen, err)
	}
	if c, _ := w.main.Counts(t.Context()); c.Visible != 1 {
		t.Errorf("queue %+v, want the message visible", c)
	}
	if n := w.engine.total(); n != 0 {
		t.Errorf("the engine was asked %d times", n)
	}
}

func TestEngineThatIsDownTooLongEndsTheRunner(t *testing.T) {
	w := newWorld(t)
	w.batch(20, 10)
	w.engine.Close()
	cfg := w.config()
	cfg.EngineLimit = 50 * time.Millisecond
	cfg.Idle = time.Minute
	if err := w.run(t.Context(), cfg); !errors.Is(err, ErrEngineDown) {
		t.Fatalf("run: %v, want ErrEngineDown", err)
	}
	waitFor(t, func() bool { c, _ := w.main.Counts(t.Context()); return c.Visible == 1 })
}

func TestMessagesThatAskForNothingAreDeleted(t *testing.T) {
	w := newWorld(t)
	plan := w.batch(20, 10)
	w.send(plan) // twice
	if err := w.run(t.Context(), w.config()); err != nil {
		t.Fatal(err)
	}
	w.wantAll(plan, 1, 20)
	w.send(plan) // of an ended batch
	if err := w.run(t.Context(), w.config()); err != nil {
		t.Fatal(err)
	}
	if n := w.engine.total(); n != 20 {
		t.Errorf("the engine was asked %d times, want 20", n)
	}
}

func TestChunkOfAFasterRunnerIsAdopted(t *testing.T) {
	w := newWorld(t)
	plan := w.batch(10, 10)
	w.bucket = &rival{Bucket: w.store, w: w, plan: plan}
	if err := w.run(t.Context(), w.config()); err != nil {
		t.Fatal(err)
	}
	for _, l := range w.lines(plan, batch.OutputName) {
		if string(l.Response.Body) != `"rival"` {
			t.Fatalf("line %+v is not the stored chunk's", l)
		}
	}
	if n := w.store.Writes(batch.ChunkKey(plan.Batch, 0, 0)); n != 1 {
		t.Errorf("the chunk was written %d times", n)
	}
}

// rival commits the first chunk a moment before the runner does.
type rival struct {
	storage.Bucket
	w    *world
	plan *batch.Plan
	once sync.Once
}

func (r *rival) Put(ctx context.Context, key string, body []byte, opt storage.PutOptions) (storage.Object, error) {
	if key == batch.ChunkKey(r.plan.Batch, 0, 0) {
		r.once.Do(func() { r.w.commitRival(r.plan) })
	}
	return r.Bucket.Put(ctx, key, body, opt)
}

func (w *world) commitRival(plan *batch.Plan) {
	var text strings.Builder
	rw, err := batch.NewRecordWriter(&text, batch.RecordHeader{Kind: "chunk", Batch: plan.Batch})
	if err != nil {
		w.t.Error(err)
	}
	for line := range int64(10) {
		a := batch.Answer{Batch: plan.Batch, Line: line + 1, CustomID: "c", Status: 200, Body: []byte(`"rival"`)}
		if err := rw.Write(batch.Record{Line: line + 1, JSON: a.AppendLine(nil)}); err != nil {
			w.t.Error(err)
		}
	}
	info, err := rw.Close(0, batch.Usage{})
	if err != nil {
		w.t.Error(err)
	}
	if _, err := w.store.Put(context.Background(), batch.ChunkKey(plan.Batch, 0, 0), []byte(text.String()), storage.PutOptions{Metadata: info.Metadata()}); err != nil {
		w.t.Error(err)
	}
}
