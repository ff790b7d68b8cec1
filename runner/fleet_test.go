package runner

import (
	"testing"
	"time"
)

// TestRequestsGoToTheEngineWithTheFewestInFlight, so that one that is ten times faster answers most of the lines.
func TestRequestsGoToTheEngineWithTheFewestInFlight(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, slow *wired) {
		plan := w.batch(220, 110)
		fast := &wired{begun: slow.begun, do: takes(time.Second)}
		slow.do = takes(10 * time.Second)
		cfg := w.defaults(slow, fast)
		cfg.Slots, cfg.Window = 8, 10
		_, ended := w.started(t.Context(), cfg)
		time.Sleep(7500 * time.Millisecond)
		if a, b := slow.open(), fast.open(); a+b != 10 || a < 4 || a > 6 {
			t.Errorf("in flight: %d at the slow engine, %d at the fast one, want half of 10 each", a, b)
		}
		if err := ended(); err != nil {
			t.Errorf("run: %v", err)
		}
		w.wantAll(plan, 1, 220)
		if a, b := len(slow.log()), len(fast.log()); b < 6*a {
			t.Errorf("the slow engine was asked %d lines, the fast one %d", a, b)
		}
	})
}
