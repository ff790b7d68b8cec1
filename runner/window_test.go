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
