package runner

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"spool/runner/vllm"
	"spool/storage/batch"
)

// TestEngineThatRefusesAllLeavesTheQueueToOthers is about rate limits. A runner that meets nothing else takes the lines
// that are asked, as many that wait for their next try, and what it has ready for later; and no line is lost by that.
func TestEngineThatRefusesAllLeavesTheQueueToOthers(t *testing.T) {
	const window = 5
	for name, c := range map[string]struct{ lines, perChunk, shards int }{
		"large shards": {400, 10, 1},
		"small shards": {100, 1, (3*window + 1) / 2},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world, e *wired) {
				plan := w.batch(c.lines, c.perChunk)
				allowed := make(chan struct{})
				e.do = func(ctx context.Context, _, _ int) *vllm.Answer {
					pause(ctx, 50*time.Millisecond)
					select {
					case <-allowed:
						return nil
					default:
						return failure(vllm.Busy, 429)
					}
				}
				r, ended := w.started(t.Context(), w.defaults(e))
				time.Sleep(5 * time.Minute)
				synctest.Wait()
				r.mu.Lock()
				held := len(r.held)
				r.mu.Unlock()
				e.mu.Lock()
				lines, asks := len(e.times), len(e.asked)
				e.mu.Unlock()
				if held > c.shards || lines > 2*window || asks < 20*window {
					t.Errorf("after 5 minutes %d shards are held and %d lines were asked, %d times", held, lines, asks)
				}
				close(allowed)
				if err := ended(); err != nil {
					t.Fatal(err)
				}
				w.wantAll(plan, 1, c.lines)
				if res := w.result(plan); res.Outcome != batch.Completed || res.Failed != 0 {
					t.Errorf("result %+v", res)
				}
			})
		})
	}
}

// TestEnginesHaveAsManyInFlight is about several engines: each line goes to the one with the fewest in flight, so that a
// slow one gets fewer lines, and all are full.
func TestEnginesHaveAsManyInFlight(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, e *wired) {
		plan := w.batch(400, 100)
		slow := &wired{begun: e.begun, do: takes(8 * time.Second)}
		e.do = takes(2 * time.Second)
		cfg := w.defaults(slow, e)
		cfg.Window = 10
		_, ended := w.started(t.Context(), cfg)
		for range 3 {
			time.Sleep(20*time.Second + time.Second/2)
			synctest.Wait()
			if a, b := slow.open(), e.open(); a != 5 || b != 5 {
				t.Errorf("after %s %d lines are in flight at one engine and %d at the other, want 5 and 5", time.Since(e.begun), a, b)
			}
		}
		if err := ended(); err != nil {
			t.Fatal(err)
		}
		w.wantAll(plan, 1, 400)
		if a, b := len(slow.log()), len(e.log()); b < 3*a || b > 5*a {
			t.Errorf("the engine that is four times as fast was asked for %d lines, the other for %d", b, a)
		}
	})
}

func TestThrottleGrowsByOneASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := newThrottle(4, 20)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go th.grow(ctx)
		th.halve()
		time.Sleep(time.Second / 2)
		for after := range 15 {
			if got, want := th.limit.Load(), int64(min(10+after, 20)); got != want {
				t.Errorf("after %d s the limit is %d, want %d", after, got, want)
			}
			time.Sleep(time.Second)
		}
	})
}
