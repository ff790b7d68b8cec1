package runner

import (
	"container/heap"
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"spool/runner/vllm"
	"spool/storage/batch"
)

// window keeps a fixed number of requests in flight over all shards that the runner holds. Lines that are
// asked again come first, then those of the fast lane.
type window struct {
	size  int
	fleet *fleet
	retry RetryPolicy
	meter *meter
	*throttle

	fast, main chan *task // each holds up to size lines, so that a shard's end leaves time to get the next
	again      chan *task
	later      chan delayed
	room       chan struct{} // holds one for each line that waits for its next try, size at most
}

// task is one line on its way to the engine. Like http.Request it carries its context: that of the shard,
// which ends when the shard needs no more answers.
type task struct {
	ctx      context.Context //nolint:containedctx // a request that passes through channels
	chunk    *chunk
	line     int64
	customID string
	path     string
	body     []byte
	series   *series
	queued   time.Time  // since when the shard is worked on
	first    time.Time  // of the first request
	attempts int        // that count
	tries    int        // all
	strikes  int        // engines that died with it in flight
	outages  int        // times that a proxy said that an engine is gone
	group    int        // with how many it may be in flight while it is under suspicion; 0 if it is not
	span     trace.Span // of the request in flight; nil if it has none
}

type delayed struct {
	*task
	at time.Time
}

func newWindow(cfg Config, f *fleet, m *meter) *window {
	return &window{
		size: cfg.Window, fleet: f, retry: cfg.Retry, meter: m, throttle: newThrottle(cfg.Slots, cfg.Window),
		fast: make(chan *task, cfg.Window), main: make(chan *task, cfg.Window),
		again: make(chan *task), later: make(chan delayed), room: make(chan struct{}, cfg.Window),
	}
}

// run works until ctx ends.
func (w *window) run(ctx context.Context) error {
	var g errgroup.Group
	g.Go(func() error { w.delay(ctx); return nil })
	g.Go(func() error { w.grow(ctx); return nil })
	for n := range w.size {
		g.Go(func() error { w.worker(ctx, n); return nil })
	}
	return g.Wait()
}

// push queues a line; it waits while the lane is full.
func (w *window) push(t *task, fast bool) error {
	lane := w.main
	if fast {
		lane = w.fast
	}
	select {
	case lane <- t:
		return nil
	case <-t.ctx.Done():
		return context.Cause(t.ctx)
	}
}

// next gives the line to be asked now. There mostly is one, and to look at one channel after the other is
// cheaper than to wait for all.
func (w *window) next(ctx context.Context) (*task, bool) {
	select {
	case t := <-w.again:
		<-w.room
		return t, true
	default:
	}
	for _, lane := range [...]chan *task{w.fast, w.main} {
		select {
		case t := <-lane:
			return t, true
		default:
		}
	}
	select {
	case t := <-w.again:
		<-w.room
		return t, true
	case t := <-w.fast:
		return t, true
	case t := <-w.main:
		return t, true
	case <-ctx.Done():
		return nil, false
	}
}

func (w *window) worker(ctx context.Context, n int) {
	for w.wait(ctx, n) {
		t, ok := w.next(ctx)
		if !ok {
			return
		}
		for t != nil {
			t = w.serve(ctx, t)
		}
	}
}

// serve asks for one line, and goes on with it as long as engines go down: the fleet holds it until one is back.
// It gives the line that the worker is to ask next, nil if that is for the lanes to say.
//
//nolint:contextcheck // a task has its shard's context, not the worker's
func (w *window) serve(ctx context.Context, t *task) (next *task) {
	for t.ctx.Err() == nil {
		engine, err := w.fleet.acquire(t.ctx, t.group)
		if err != nil {
			if t.ctx.Err() == nil {
				t.chunk.owner.fail(err)
			}
			return nil // else its shard needs it no more
		}
		answer, took := w.ask(t, engine)
		died := w.died(t, engine, &answer)
		crowd := w.fleet.release(engine, answer.Outcome)
		w.meter.answered(t.series, answer, took, t.traced(answer, took))
		t.tell(answer, took)
		if died && t.strike(crowd, w.fleet.enough()) {
			t.tellConvicted()
			t.chunk.deliver(t, crashed(t, answer), took)
			return nil
		}
		if answer.Outcome != vllm.Down {
			return w.settle(ctx, t, answer, took)
		}
		w.retried(t)
	}
	return nil
}

func (w *window) ask(t *task, engine ticket) (vllm.Answer, time.Duration) {
	ctx, cancel := context.WithTimeout(t.ctx, w.retry.Timeout)
	defer cancel()
	start := time.Now()
	if t.tries++; t.tries == 1 {
		t.first = start
	}
	t.chunk.owner.notes.requests.Add(1)
	w.meter.asked.Add(1)
	defer w.meter.asked.Add(-1)
	answer := engine.Do(ctx, vllm.Request{
		Path: t.path, Body: t.body,
		ID: batch.RequestID(t.chunk.batch, t.line) + "-" + strconv.Itoa(t.tries), Header: t.trace(),
	})
	return answer, time.Since(start)
}

// settle hands an answer of an engine that is up to its chunk, or puts the line back for another try. It gives
// the line that is next, as askLater does.
func (w *window) settle(ctx context.Context, t *task, a vllm.Answer, took time.Duration) (next *task) {
	switch a.Outcome {
	case vllm.OK, vllm.Rejected:
		t.chunk.deliver(t, a, took)
	case vllm.Fatal:
		t.chunk.refuse(a)
	case vllm.Ended:
	case vllm.Retry:
		if t.attempts++; t.attempts >= w.retry.Attempts {
			t.chunk.deliver(t, exhausted(a, t.attempts), took)
			return nil
		}
		return w.askLater(ctx, t, a)
	case vllm.Busy:
		w.halve()
		return w.askLater(ctx, t, a)
	case vllm.Aborted:
		return w.askLater(ctx, t, a)
	}
	return nil
}

// exhausted makes a result of the last failure: the HTTP response if there was one with an error status,
// else a code.
func exhausted(a vllm.Answer, attempts int) vllm.Answer {
	if a.Status >= 300 {
		a.Outcome = vllm.Rejected
		return a
	}
	code := batch.CodeEngineError
	if a.Code == "timeout" {
		code = batch.CodeRequestTimeout
	}
	return vllm.Answer{Outcome: vllm.Rejected, Code: code, Err: fmt.Errorf("no answer after %d attempts: %w", attempts, a.Err)}
}

// askLater has a line wait until it may be asked again. No more lines wait than the window holds: an engine that
// only refuses must not make the runner take shard after shard from the queue. While there is no room, the worker
// keeps its line, and gives the one that it is to ask next: this one when its time comes, or one whose time came
// first and that leaves its place to it.
func (w *window) askLater(ctx context.Context, t *task, a vllm.Answer) (next *task) {
	w.retried(t)
	d := delayed{task: t, at: time.Now().Add(w.pause(t, a))}
	select {
	case w.room <- struct{}{}:
		w.hold(ctx, d)
		return nil
	default:
	}
	timer := time.NewTimer(time.Until(d.at))
	defer timer.Stop()
	select {
	case w.room <- struct{}{}:
	case next = <-w.again:
	case <-timer.C:
		return t
	case <-t.ctx.Done():
		return nil
	case <-ctx.Done():
		return nil
	}
	w.hold(ctx, d)
	return next
}

// hold gives a line that has room to delay, which always takes it.
func (w *window) hold(ctx context.Context, d delayed) {
	select {
	case w.later <- d:
	case <-ctx.Done():
	}
}

func (w *window) retried(t *task) {
	t.series.again.Inc()
	t.chunk.owner.notes.retries.Add(1)
}

// pause is full jitter over an exponential ceiling, or what the server asks for.
func (w *window) pause(t *task, a vllm.Answer) time.Duration {
	ceiling := w.retry.Max
	if n := t.tries - 1; n < 16 {
		ceiling = min(ceiling, w.retry.Base<<n)
	}
	pause := rand.N(ceiling) + time.Millisecond
	if a.RetryAfter > 0 {
		pause = min(a.RetryAfter, w.retry.AfterMax) + pause/10
	}
	return pause
}

// delay holds lines until they may be asked again, and gives them to whoever is free. It owns the heap.
func (w *window) delay(ctx context.Context) {
	var waiting delayHeap
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var due chan *task
		var head *task
		if len(waiting) > 0 {
			if wait := time.Until(waiting[0].at); wait <= 0 {
				due, head = w.again, waiting[0].task
			} else {
				timer.Reset(wait)
			}
		}
		select {
		case <-ctx.Done():
			return
		case d := <-w.later:
			heap.Push(&waiting, d)
		case due <- head:
			heap.Pop(&waiting)
		case <-timer.C:
		}
	}
}

type delayHeap []delayed

func (h delayHeap) Len() int           { return len(h) }
func (h delayHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h delayHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *delayHeap) Push(x any)        { *h = append(*h, x.(delayed)) }
func (h *delayHeap) Pop() any {
	old := *h
	last := len(old) - 1
	d := old[last]
	old[last] = delayed{}
	*h = old[:last]
	return d
}
