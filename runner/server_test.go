package runner

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"spool/runner/gpu"
	"spool/runner/vllm"
	"spool/storage/batch"
	"spool/storage/lease"
)

// owned is an engine that is down until Run has been at work for load.
type owned struct {
	wired
	load time.Duration
	err  error // of Run, after load; nil: it runs until ctx ends

	ready        atomic.Bool
	runs, stops  atomic.Int32
	preemptions  atomic.Int64
	observations atomic.Int64
}

func newOwned(load time.Duration, err error) *owned {
	o := &owned{load: load, err: err}
	o.begun = time.Now()
	o.down = func() bool { return !o.ready.Load() }
	return o
}

func (o *owned) Run(ctx context.Context) error {
	o.runs.Add(1)
	defer o.stops.Add(1)
	if !pause(ctx, o.load) {
		return nil
	}
	if o.err != nil {
		return o.err
	}
	o.ready.Store(true)
	defer o.ready.Store(false)
	<-ctx.Done()
	return nil
}

func (o *owned) Metrics(context.Context) (vllm.Counters, vllm.Load, error) {
	o.observations.Add(1)
	return vllm.Counters{Preemptions: float64(o.preemptions.Load())}, vllm.Load{}, nil
}

func (o *owned) Record() vllm.Record { return vllm.Record{Version: "9", Model: "m"} }

// serving is a configuration with an engine of the runner's own.
func (w *world) serving(o *owned) Config {
	cfg := w.defaults()
	cfg.Server = o
	return cfg
}

func TestRunnerWithoutWorkLoadsNoModel(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, _ *wired) {
		o := newOwned(time.Minute, nil)
		if err := w.run(t.Context(), w.serving(o)); err != nil || o.runs.Load() != 0 {
			t.Errorf("run: %v, the engine was started %d times", err, o.runs.Load())
		}
	})
}

func TestOwnEngineIsStartedByTheFirstLinesAndEndsWithTheRunner(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, _ *wired) {
		plan := w.batch(20, 10)
		o := newOwned(15*time.Minute, nil) // longer than engines that are not the runner's may be down
		cfg := w.serving(o)
		if err := w.run(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		w.wantAll(plan, 1, 20)
		if o.runs.Load() != 1 || o.stops.Load() != 1 {
			t.Errorf("the engine was started %d times and stopped %d times", o.runs.Load(), o.stops.Load())
		}
		if first := o.log()[0].at; first < 15*time.Minute || first > 15*time.Minute+10*time.Second {
			t.Errorf("the first line was asked after %s", first)
		}
		record := string(w.get(batch.RunnerKey(plan.Batch, cfg.Name)))
		if !strings.Contains(record, `"record":{"version":"9","model":"m"`) {
			t.Errorf("the record does not say what the engine is: %s", record)
		}
	})
}

func TestRunnerIsInterruptedWhileItsEngineLoads(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, _ *wired) {
		w.batch(20, 10)
		o := newOwned(time.Hour, nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		if err := w.run(ctx, w.serving(o)); err != nil || o.stops.Load() != 1 {
			t.Errorf("run: %v, the engine was stopped %d times", err, o.stops.Load())
		}
		if took := time.Since(start); took > time.Minute+Grace {
			t.Errorf("the runner ended after %s", took)
		}
		if c, _ := w.main.Counts(t.Context()); c.Visible != 1 {
			t.Errorf("queue %+v, want the message visible", c)
		}
	})
}

// TestEngineThatCannotStartLeavesItsCause is for causes that every runner would find: the lease tells the watcher,
// which stops the batch at the third.
func TestEngineThatCannotStartLeavesItsCause(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, _ *wired) {
		plan := w.batch(20, 10)
		for n := 1; n <= 3; n++ {
			o := newOwned(time.Minute, &vllm.StartError{Cause: vllm.CauseModel, Permanent: true, Detail: "no such folder"})
			err := w.run(t.Context(), w.serving(o))
			if !errors.Is(err, ErrElsewhere) || !strings.Contains(err.Error(), "no such folder") {
				t.Fatalf("run: %v", err)
			}
			seen, err := lease.Read(t.Context(), w.store, batch.LeaseKey(plan.Batch, 0))
			if err != nil || strings.Count(string(seen.Record.Notes), `"code":"model_not_found"`) != n {
				t.Errorf("after %d runners the lease has %s, %v", n, seen.Record.Notes, err)
			}
		}
	})
}

func TestEngineThatDiesTooOftenSendsTheRunnerAway(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, _ *wired) {
		plan := w.batch(20, 10)
		o := newOwned(time.Minute, fmt.Errorf("%w: 21 times", vllm.ErrBudget))
		if err := w.run(t.Context(), w.serving(o)); !errors.Is(err, ErrEngineDown) || !errors.Is(err, vllm.ErrBudget) {
			t.Fatalf("run: %v", err)
		}
		if c, _ := w.main.Counts(t.Context()); c.Visible != 1 {
			t.Errorf("queue %+v, want the message visible", c)
		}
		if seen, err := lease.Read(t.Context(), w.store, batch.LeaseKey(plan.Batch, 0)); err != nil || strings.Contains(string(seen.Record.Notes), "causes") {
			t.Errorf("the lease blames the batch: %s, %v", seen.Record.Notes, err)
		}
	})
}

// TestWindowGivesWay is about engines that say that they have too much: half of the window is left, but never
// less than the slots, and it grows back by one a second.
func TestWindowGivesWay(t *testing.T) {
	const slots, window = 4, 20
	for name, trouble := range map[string]func(o *owned){
		"busy": func(o *owned) {
			once := make(chan struct{}, 1)
			once <- struct{}{}
			o.do = func(ctx context.Context, _, _ int) *vllm.Answer {
				select {
				case <-once:
					pause(ctx, 9*time.Second)
					return failure(vllm.Busy, 503)
				default:
					pause(ctx, 10*time.Second)
					return nil
				}
			}
		},
		"preempts": func(o *owned) {
			time.AfterFunc(8*time.Second, func() { o.preemptions.Add(1) }) // is seen at the next look, within 5 s
			o.do = takes(11 * time.Second)
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world, _ *wired) {
				w.batch(400, 200)
				o := newOwned(0, nil)
				trouble(o)
				cfg := w.serving(o)
				cfg.Slots, cfg.Window = slots, window
				_, ended := w.started(t.Context(), cfg)
				defer ended()
				var most []int
				for range 24 { // the middle of each second
					time.Sleep(500 * time.Millisecond)
					synctest.Wait() // lines may begin and end in this very instant
					most = append(most, o.open())
					time.Sleep(500 * time.Millisecond)
				}
				if least := slices.Min(most[8:]); most[8] != window || least < window/2 || least > window/2+3 || most[23] != window {
					t.Errorf("in flight, by the second: %v", most)
				}
			})
		})
	}
}

func TestThrottleLeavesTheSlots(t *testing.T) {
	th := newThrottle(8, 20)
	for _, want := range []int64{10, 8, 8} {
		if th.halve(); th.limit.Load() != want {
			t.Errorf("limit %d, want %d", th.limit.Load(), want)
		}
	}
}

// unfitAfter is a GPU that fails.
type unfitAfter struct{ d time.Duration }

func (u unfitAfter) Run(ctx context.Context) error {
	if !pause(ctx, u.d) {
		return nil
	}
	return &gpu.UnfitError{Device: gpu.Device{Index: 1, UUID: "GPU-x"}, XID: 79, Cause: "XID 79"}
}

func (unfitAfter) Samples() []gpu.Sample {
	return []gpu.Sample{{Device: gpu.Device{Index: 1, UUID: "GPU-x"}, XIDs: map[int]int{79: 1}}}
}

func TestUnfitGPUEndsTheRunnerAndLosesNothing(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, e *wired) {
		plan := w.batch(40, 20)
		e.do = takes(7 * time.Second)
		cfg := w.defaults(e)
		cfg.GPUs = unfitAfter{10 * time.Second}
		err := w.run(t.Context(), cfg)
		if _, ok := errors.AsType[*gpu.UnfitError](err); !ok {
			t.Fatalf("run: %v", err)
		}
		if took := time.Since(e.begun); took > 10*time.Second+Grace {
			t.Errorf("it ended after %s", took)
		}
		if record := string(w.get(batch.RunnerKey(plan.Batch, cfg.Name))); !strings.Contains(record, `"gpus":[{"index":1,"uuid":"GPU-x"`) || !strings.Contains(record, `"xids":{"79":1}`) {
			t.Errorf("record %s", record)
		}
		e.do = nil
		if err := w.run(t.Context(), w.defaults(e)); err != nil {
			t.Fatal(err)
		}
		w.wantAll(plan, 1, 40)
		asked := map[int]int{}
		for _, a := range e.log() {
			asked[a.line]++
		}
		for line := 1; line <= 5; line++ { // finished 3 s before
			if asked[line] != 1 {
				t.Errorf("line %d was asked %d times", line, asked[line])
			}
		}
	})
}
