package runner

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"spool/runner/gpu"
	"spool/runner/vllm"
	"spool/storage"
	"spool/storage/batch"
	"spool/storage/lease"
	"spool/storage/queue"
)

// started runs a runner beside the test; ended gives what Run returns.
func (w *world) started(ctx context.Context, cfg Config) (r *Runner, ended func() error) {
	w.t.Helper()
	r, err := New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	return r, func() error { return <-done }
}

func TestIdleRunnerEndsAfterAMinute(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, e *wired) {
		plan := w.batch(20, 10)
		if err := w.run(t.Context(), w.defaults(e)); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(e.begun); took < time.Minute || took > 70*time.Second {
			t.Errorf("the runner ended after %s", took)
		}
		w.wantAll(plan, 1, 20)
		w.wantNoMessages()
	})
}

func TestNextMessageIsReceivedBeforeTheLastChunkDrains(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, e *wired) {
		plan := w.batch(60, 10) // three shards of two chunks
		next := make(chan struct{})
		e.do = func(ctx context.Context, line, _ int) *vllm.Answer {
			switch line {
			case 41: // the first line of the third shard
				close(next)
			case 1, 11, 21, 31: // a line of each chunk before hangs until then
				select {
				case <-next:
				case <-ctx.Done():
				}
			}
			return nil
		}
		if err := w.run(t.Context(), w.defaults(e)); err != nil {
			t.Fatal(err)
		}
		w.wantAll(plan, 1, 60)
		if took := time.Since(e.begun); took > 80*time.Second {
			t.Errorf("it took %s: the lines waited for a time-out", took)
		}
	})
}

func TestWindowIsFullAsLongAsThereAreLines(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, e *wired) {
		plan := w.batch(400, 10)
		e.do = func(ctx context.Context, line, _ int) *vllm.Answer {
			pause(ctx, time.Duration(1+line%7)*time.Second)
			return nil
		}
		_, ended := w.started(t.Context(), w.defaults(e))
		for {
			time.Sleep(time.Second)
			synctest.Wait()
			e.mu.Lock()
			n, asked := len(e.inFlight), len(e.asked)
			e.mu.Unlock()
			if asked == 400 {
				break
			}
			if n != 5 {
				t.Errorf("after %s %d requests are in flight, want 5", time.Since(e.begun), n)
			}
		}
		if err := ended(); err != nil {
			t.Fatal(err)
		}
		w.wantAll(plan, 1, 400)
	})
}

func TestFastLaneDoesNotWaitBehindTheOther(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, e *wired) {
		long := w.batch(100, 10)
		e.do = takes(10 * time.Second)
		_, ended := w.started(t.Context(), w.defaults(e))
		time.Sleep(41 * time.Second)
		short := w.planned("in/short.jsonl", 3, 10, 1001)
		w.send(short)
		if err := ended(); err != nil {
			t.Fatal(err)
		}
		w.wantAll(long, 1, 100)
		for _, a := range e.log() {
			if a.line > 1000 && a.at > 50*time.Second { // within 5 s seen, and asked with the next slots
				t.Errorf("line %d of the fast lane was asked at %s", a.line, a.at)
			}
		}
		if res := w.result(short); res.Completed != 3 {
			t.Errorf("result %+v", res)
		}
	})
}

func TestStopEndsRequestsWithinThreeSeconds(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, e *wired) {
		plan := w.batch(100, 10)
		var aborted []time.Duration
		e.do = func(ctx context.Context, line, _ int) *vllm.Answer {
			if line > 7 && !pause(ctx, time.Hour) {
				e.mu.Lock()
				aborted = append(aborted, time.Since(e.begun))
				e.mu.Unlock()
			}
			return nil
		}
		_, ended := w.started(t.Context(), w.defaults(e))
		time.Sleep(100 * time.Second)
		w.putJSON(batch.StopKey(plan.Batch), batch.Stop{
			V: 1, Batch: plan.Batch, Outcome: batch.Cancelled, Code: batch.CodeBatchCancelled, Message: "cancelled by the user", At: time.Now().Unix(),
		})
		if err := ended(); err != nil {
			t.Fatal(err)
		}
		if len(aborted) != 5 || slices.Max(aborted) > 103*time.Second {
			t.Errorf("requests in flight were aborted at %v", aborted)
		}
		if n := len(e.log()); n != 12 {
			t.Errorf("%d lines were asked, want 12", n)
		}
		res := w.result(plan)
		if res.Outcome != batch.Cancelled || res.Completed != 7 || res.Failed != 93 {
			t.Errorf("result %+v", res)
		}
		w.wantAll(plan, 1, 7)
		w.wantNoMessages()
	})
}

func TestStopCountsWhileThereIsNoEngine(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, e *wired) {
		plan := w.batch(20, 10)
		e.down = func() bool { return true }
		_, ended := w.started(t.Context(), w.defaults(e))
		time.Sleep(10 * time.Second)
		w.putJSON(batch.StopKey(plan.Batch), batch.Stop{V: 1, Batch: plan.Batch, Outcome: batch.Expired, Code: batch.CodeBatchExpired, At: time.Now().Unix()})
		time.Sleep(5 * time.Second)
		if res := w.result(plan); res.Outcome != batch.Expired || res.Failed != 20 {
			t.Errorf("result %+v", res)
		}
		if err := ended(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestShardWithAllChunksStoredNeedsNoEngine(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, e *wired) {
		plan := w.batch(10, 10)
		plan.Models = []string{"other"}
		w.putJSON(batch.PlanKey(plan.Batch), plan)
		w.commitRival(plan)
		if err := w.run(t.Context(), w.defaults(e)); err != nil {
			t.Fatal(err)
		}
		if res := w.result(plan); res.Outcome != batch.Completed {
			t.Errorf("result %+v", res)
		}
	})
}

func TestFinishedLinesAreSavedEveryFiveSeconds(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, e *wired) {
		plan := w.batch(20, 20)
		e.do = func(ctx context.Context, line, _ int) *vllm.Answer {
			if line%5 == 0 {
				pause(ctx, time.Hour)
			}
			pause(ctx, time.Second) // the next four lines after one, two, three seconds
			return nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		_, ended := w.started(ctx, w.defaults(e))
		synctest.Wait()
		time.Sleep(5*time.Second + time.Millisecond)
		saved := w.segmentLines(plan, 0, 1)
		if finished := len(e.log()) - 5; saved < finished-5 || saved == 0 {
			t.Errorf("after 5 s %d lines are saved of %d", saved, finished)
		}
		cancel()
		if err := ended(); err != nil {
			t.Error(err)
		}
	})
}

func TestInterruptedRunnerSavesWhatIsFinished(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, e *wired) {
		plan := w.batch(20, 20)
		e.do = func(ctx context.Context, line, ask int) *vllm.Answer {
			if line > 17 && ask == 1 {
				pause(ctx, time.Hour)
			}
			return nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		_, ended := w.started(ctx, w.defaults(e))
		time.Sleep(time.Second)
		if n := w.segmentLines(plan, 0, 1); n != 0 {
			t.Fatalf("%d lines are saved before the first interval", n)
		}
		cancel()
		if err := ended(); err != nil {
			t.Fatal(err)
		}
		w.wantHandedOver(plan)
		if n := w.segmentLines(plan, 0, 1); n != 17 {
			t.Errorf("%d lines are saved, want 17", n)
		}
		if err := w.run(t.Context(), w.defaults(e)); err != nil {
			t.Fatal(err)
		}
		w.wantAll(plan, 1, 20)
		if n := len(e.log()); n != 23 {
			t.Errorf("the engine was asked %d times, want 23", n)
		}
	})
}

// wantHandedOver checks that the first shard of a batch of one is left as others can take it at once.
func (w *world) wantHandedOver(plan *batch.Plan) {
	w.t.Helper()
	seen, err := lease.Read(context.Background(), w.store, batch.LeaseKey(plan.Batch, 0))
	if err != nil || seen.Record.State != lease.Released {
		w.t.Errorf("lease %+v, %v; want it released", seen, err)
	}
	q := w.main
	if plan.Chunks() == 1 {
		q = w.fast
	}
	if c, err := q.Counts(context.Background()); err != nil || c.Visible != 1 || c.InFlight != 0 {
		w.t.Errorf("queue has %+v, %v; want one message, visible", c, err)
	}
}

// stuck is a store in which writes of chunks do not return before their context ends.
type stuck struct{ storage.Bucket }

func (s stuck) Put(ctx context.Context, key string, body []byte, opt storage.PutOptions) (storage.Object, error) {
	if strings.Contains(key, "/c/") {
		<-ctx.Done()
		return storage.Object{}, ctx.Err()
	}
	return s.Bucket.Put(ctx, key, body, opt)
}

func TestCommitThatHangsDoesNotKeepARunnerFromHandingOver(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, e *wired) {
		plan := w.batch(20, 20)
		w.bucket = stuck{w.store}
		ctx, cancel := context.WithCancel(t.Context())
		_, ended := w.started(ctx, w.defaults(e))
		time.Sleep(3 * time.Second)
		cancel()
		begun := time.Now()
		if err := ended(); err != nil {
			t.Error(err)
		}
		if took := time.Since(begun); took > Grace {
			t.Errorf("the runner ended after %s", took)
		}
		w.wantHandedOver(plan)
		if n := w.segmentLines(plan, 0, 1); n != 20 {
			t.Errorf("%d lines are saved, want 20", n)
		}
	})
}

func TestRunnerGivesUpWhenNoEngineWasThereForTenMinutes(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, e *wired) {
		plan := w.batch(20, 20)
		cfg := w.defaults(e)
		e.down = func() bool { return true }
		err := w.run(t.Context(), cfg)
		if !errors.Is(err, ErrEngineDown) || !strings.Contains(err.Error(), "wired: down") {
			t.Errorf("run: %v", err)
		}
		if took := time.Since(e.begun); took < 10*time.Minute || took > 10*time.Minute+Grace {
			t.Errorf("the runner ended after %s", took)
		}
		w.wantHandedOver(plan)
	})
}

func TestEngineThatIsHealthyAndFailsEachRequestIsGivenUp(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, e *wired) {
		plan := w.batch(20, 20)
		e.do = func(context.Context, int, int) *vllm.Answer { return failure(vllm.Down, 0) }
		if err := w.run(t.Context(), w.defaults(e)); !errors.Is(err, ErrEngineDown) {
			t.Errorf("run: %v", err)
		}
		if took := time.Since(e.begun); took < 10*time.Minute || took > 10*time.Minute+Grace {
			t.Errorf("the runner ended after %s", took)
		}
		w.wantHandedOver(plan)
	})
}

func TestRetriesFollowThePolicy(t *testing.T) {
	for _, c := range []struct {
		name     string
		answer   func(ctx context.Context, ask int) *vllm.Answer
		asks     int
		min, max time.Duration // between an answer and the next request
		want     string        // code or status of the line
	}{
		{"failure", func(context.Context, int) *vllm.Answer { return failure(vllm.Retry, 500) }, 5, 0, 9 * time.Second, "500"},
		{"time-out", func(ctx context.Context, _ int) *vllm.Answer {
			<-ctx.Done()
			a := failure(vllm.Retry, 0)
			a.Code = "timeout"
			return a
		}, 5, 30 * time.Minute, 30*time.Minute + 9*time.Second, "request_timeout"},
		{"busy", func(_ context.Context, ask int) *vllm.Answer { return unless(ask == 40, failure(vllm.Busy, 503)) }, 40, 0, 61 * time.Second, "200"},
		{"abort", func(_ context.Context, ask int) *vllm.Answer { return unless(ask == 40, failure(vllm.Aborted, 200)) }, 40, 0, 61 * time.Second, "200"},
		{"busy for long", func(_ context.Context, ask int) *vllm.Answer {
			a := failure(vllm.Busy, 429)
			a.RetryAfter = time.Hour
			return unless(ask == 7, a)
		}, 7, 5 * time.Minute, 5*time.Minute + 7*time.Second, "200"},
		{"busy for a time", func(_ context.Context, ask int) *vllm.Answer {
			a := failure(vllm.Busy, 429)
			a.RetryAfter = 20 * time.Second
			return unless(ask == 3, a)
		}, 3, 20 * time.Second, 21 * time.Second, "200"},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world, e *wired) {
				plan := w.batch(1, 1)
				e.do = func(ctx context.Context, _, ask int) *vllm.Answer { return c.answer(ctx, ask) }
				if err := w.run(t.Context(), w.defaults(e)); err != nil {
					t.Fatal(err)
				}
				log := e.log()
				if len(log) != c.asks {
					t.Errorf("asked %d times, want %d", len(log), c.asks)
				}
				for i := range log[1:] {
					if gap := log[i+1].at - log[i].at; gap < c.min || gap > c.max {
						t.Errorf("request %d came %s after the one before, want %s to %s", i+2, gap, c.min, c.max)
					}
				}
				w.wantEnd(plan, 1, c.want)
			})
		})
	}
}

func unless(good bool, a *vllm.Answer) *vllm.Answer {
	if good {
		return nil
	}
	return a
}

// wantEnd checks a line's status or code.
func (w *world) wantEnd(plan *batch.Plan, line int, want string) {
	w.t.Helper()
	for _, name := range []string{batch.OutputName, batch.ErrorsName} {
		if _, err := w.store.Head(context.Background(), batch.OutDir(plan.Input.Key, plan.Batch)+name); storage.IsNotFound(err) {
			continue
		}
		for _, l := range w.lines(plan, name) {
			if l.CustomID != fmt.Sprintf("c%d", line) {
				continue
			}
			got := ""
			if l.Error != nil {
				got = l.Error.Code
			} else {
				got = fmt.Sprint(l.Response.Status)
			}
			if got != want {
				w.t.Errorf("line %d ended with %s, want %s", line, got, want)
			}
			return
		}
	}
	w.t.Errorf("line %d has no end", line)
}

func TestPausesAreDrawnFromARisingCeiling(t *testing.T) {
	w := &window{retry: RetryPolicy{}.withDefaults()}
	for tries, ceiling := range map[int]time.Duration{1: time.Second, 2: 2 * time.Second, 4: 8 * time.Second, 7: time.Minute, 1000: time.Minute} {
		var least, most time.Duration
		for range 2000 {
			p := w.pause(&task{tries: tries}, vllm.Answer{Outcome: vllm.Retry})
			least, most = min(cmp.Or(least, p), p), max(most, p)
		}
		if most > ceiling+time.Millisecond || most < ceiling*9/10 || least > ceiling/10 {
			t.Errorf("after %d tries pauses are %s to %s, want 0 to %s", tries, least, most, ceiling)
		}
	}
}

func TestRunnerRecordIsKeptUpToDate(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, e *wired) {
		plan := w.batch(100, 10)
		e.do = takes(8 * time.Second) // five lines at a time
		cfg := w.defaults(e)
		cfg.GPUs = tickingGPU{}
		_, ended := w.started(t.Context(), cfg)
		record := func() (rec batch.Runner) {
			if err := json.Unmarshal(w.get(batch.RunnerKey(plan.Batch, cfg.Name)), &rec); err != nil {
				t.Fatal(err)
			}
			return rec
		}
		time.Sleep(31 * time.Second)
		if rec := record(); rec.Requests != 20 || rec.OK != 10 || rec.Open != 5 || rec.Chunks != 1 || rec.Shards != 0 || rec.EndedAt != 0 {
			t.Errorf("after 30 s the record is %+v", rec)
		}
		if err := ended(); err != nil {
			t.Fatal(err)
		}
		rec := record()
		if rec.Requests != 100 || rec.OK != 100 || rec.Open != 0 || rec.Shards != 5 || rec.Usage.TotalTokens != 500 || rec.EndedAt == 0 {
			t.Errorf("in the end the record is %+v", rec)
		}
		if engine := string(rec.Engine); engine != `[{"url":"wired","version":"test","models":["m"]}]` {
			t.Errorf("engine %s", engine)
		}
		wantObserved(t, &rec)
	})
}

// wantObserved checks what a record of ten chunks of ten lines says of the time: five lines at once, 8 s each, a reading of a GPU
// every second.
func wantObserved(t *testing.T, rec *batch.Runner) {
	t.Helper()
	var chunks, samples int64
	for i := range rec.Series.Chunks {
		chunks += rec.Series.Chunks[i]
	}
	g := rec.GPUSeries
	for _, n := range g.Samples {
		samples += n
	}
	held := rec.EndedAt - rec.StartedAt
	if chunks != 10 || samples < held-1 || samples > held+1 || g.Utilization[0] != 0.5 || g.Power != nil {
		t.Errorf("%d chunks and %d samples of a GPU in %d s; %+v", chunks, samples, held, g)
	}
	if len(rec.Slowest) != 10 || rec.Slowest[0].Lines != 10 || rec.Slowest[0].Seconds < rec.Slowest[9].Seconds || rec.Slowest[9].Seconds < 16 {
		t.Errorf("slowest chunks %+v", rec.Slowest)
	}
	if rec.Finish["stop"] != 100 {
		t.Errorf("finish reasons %v", rec.Finish)
	}
	named := 0.0
	for _, p := range rec.Phases {
		named += p.Seconds
	}
	if held < 160 || named < 0.99*float64(held) {
		t.Errorf("phases are %.1f s of %d s", named, held)
	}
}

// tickingGPU is read every second.
type tickingGPU struct{}

func (tickingGPU) Run(ctx context.Context) error { <-ctx.Done(); return nil }

func (tickingGPU) Samples() []gpu.Sample {
	half := 0.5
	return []gpu.Sample{{Time: time.Now().Truncate(time.Second), Reading: gpu.Reading{Utilization: &half}}}
}

func TestBodiesReachTheEngineByteForByte(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, e *wired) {
		w.batch(50, 10)
		if err := w.run(t.Context(), w.defaults(e)); err != nil {
			t.Fatal(err)
		}
		for line := 1; line <= 50; line++ {
			if e.bodies[line] != bodyOf(line) {
				t.Errorf("line %d reached the engine as %q", line, e.bodies[line])
			}
		}
	})
}

func TestEveryEngineMustHaveTheModel(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, e *wired) {
		plan := w.planned(inputKey, 20, 20, 1)
		other := &wired{begun: e.begun, model: "other"}
		_, ended := w.started(t.Context(), w.defaults(e, other))
		time.Sleep(time.Second) // both are up
		w.send(plan)
		err := ended()
		if !errors.Is(err, ErrElsewhere) || !strings.Contains(err.Error(), "an engine lacks m; served are: m, other") {
			t.Errorf("run: %v", err)
		}
		w.wantHandedOver(plan)
		if n := len(e.log()) + len(other.log()); n != 0 {
			t.Errorf("%d lines were asked", n)
		}
	})
}

// A batch with a misspelled model makes the runner leave, but not the batches that are well.
func TestARunnerThatLacksAModelEndsWhatItHolds(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, e *wired) {
		e.do = takes(time.Minute)
		healthy := w.planned("in/healthy.jsonl", 20, 10, 1) // one shard
		typo := w.planned("in/typo.jsonl", 20, 20, 1)
		typo.Models = []string{"nonesuch"}
		w.putJSON(batch.PlanKey(typo.Batch), typo)
		w.send(healthy)
		_, ended := w.started(t.Context(), w.defaults(e))
		time.Sleep(90 * time.Second)
		w.send(typo)
		err := ended()
		if !errors.Is(err, ErrElsewhere) || !strings.Contains(err.Error(), "an engine lacks nonesuch; served are: m") {
			t.Errorf("run: %v", err)
		}
		w.wantHandedOver(typo)
		if res := w.result(healthy); res.Outcome != batch.Completed || res.Completed != 20 {
			t.Errorf("the other batch: %+v", res)
		}
		if n := len(e.log()); n != 20 {
			t.Errorf("%d requests, want each line asked once", n)
		}
	})
}

// lateQueue answers late.
type lateQueue struct {
	Queue
	late time.Duration
}

func (q lateQueue) Receive(ctx context.Context, n int, wait time.Duration) ([]*queue.Message, error) {
	time.Sleep(q.late)
	return q.Queue.Receive(ctx, n, wait)
}

func TestARunnerThatHasNotHeardFromTheFastLaneIsNotIdle(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, e *wired) {
		plan := w.batch(3, 10) // one chunk: the fast lane's
		cfg := w.defaults(e)
		cfg.Fast, cfg.Idle, cfg.Poll = lateQueue{cfg.Fast, 4 * time.Second}, time.Second, time.Second
		if err := w.run(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		w.wantAll(plan, 1, 3)
	})
}
