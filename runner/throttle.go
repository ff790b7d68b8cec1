package runner

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// throttle is how much of the window may be used. An engine that says that it has too much gets half, but never
// less than it has slots: what waits inside it is what keeps it full, and what it cannot hold costs it the work of
// a sequence that it throws out and computes again.
type throttle struct {
	floor, ceiling int64
	limit          atomic.Int64

	mu      sync.Mutex
	changed chan struct{} // closed and replaced when the limit grows
}

// growEvery is the time in which the limit grows by one.
const growEvery = time.Second

func newThrottle(slots, window int) *throttle {
	t := &throttle{floor: int64(min(slots, window)), ceiling: int64(window), changed: make(chan struct{})}
	t.limit.Store(t.ceiling)
	return t
}

// wait blocks while worker number n, from 0, is not to ask; it reports false if ctx ended.
func (t *throttle) wait(ctx context.Context, n int) bool {
	for int64(n) >= t.limit.Load() {
		t.mu.Lock()
		changed := t.changed
		t.mu.Unlock()
		if int64(n) < t.limit.Load() {
			break
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// halve takes half of what there is.
func (t *throttle) halve() {
	for {
		now := t.limit.Load()
		if next := max(t.floor, now/2); next == now || t.limit.CompareAndSwap(now, next) {
			return
		}
	}
}

// grow gives back one each second, until ctx ends.
func (t *throttle) grow(ctx context.Context) {
	for pause(ctx, growEvery) {
		now := t.limit.Load()
		if now >= t.ceiling || !t.limit.CompareAndSwap(now, now+1) {
			continue
		}
		t.mu.Lock()
		close(t.changed)
		t.changed = make(chan struct{})
		t.mu.Unlock()
	}
}
