package engine

import (
	"context"
	"time"
)

// Receive asks for messages. Seconds; nil means the queue's own value.
type Receive struct {
	Max        int // 1 to 10
	Visibility *int
	Wait       *int
}

func (r Receive) check() error {
	switch {
	case r.Max < 1 || r.Max > MaxBatch:
		return errRange("MaxNumberOfMessages", r.Max, 1, MaxBatch)
	case r.Visibility != nil && (*r.Visibility < 0 || *r.Visibility > maxVisibleSeconds):
		return errRange("VisibilityTimeout", *r.Visibility, 0, maxVisibleSeconds)
	case r.Wait != nil && (*r.Wait < 0 || *r.Wait > maxWaitSeconds):
		return errRange("WaitTimeSeconds", *r.Wait, 0, maxWaitSeconds)
	}
	return nil
}

func errRange(name string, got, low, high int) *Error {
	return Errorf(CodeInvalidValue, "Value %d for parameter %s is invalid. Reason: Must be between %d and %d, if provided.",
		got, name, low, high)
}

// Receive leases up to r.Max messages. If there are none it waits until one is sent, or one's lease or delay
// runs out, or the wait or ctx is over; an empty result is no error.
func (e *Engine) Receive(ctx context.Context, name string, r Receive) ([]Delivery, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	start := e.clock.Now()
	for {
		got, pause, err := e.tryReceive(name, r, start)
		if err != nil || len(got) > 0 || pause == nil {
			return got, err
		}
		more := pause.sleep(ctx, e)
		e.mu.Lock()
		pause.queue.waiters--
		e.mu.Unlock()
		if !more {
			return nil, nil
		}
	}
}

// pause is what a receiver without messages waits for.
type pause struct {
	queue   *queue
	changed <-chan struct{}
	timer   time.Duration // until the wait is over, or the next message becomes visible
}

// sleep returns false if there is no use in looking again.
func (p *pause) sleep(ctx context.Context, e *Engine) bool {
	fired, stop := e.clock.After(p.timer)
	defer stop()
	select {
	case <-p.changed:
		return true
	case <-fired:
		return true
	case <-ctx.Done():
		return false
	case <-e.done:
		return false
	}
}

// tryReceive leases what is there. If nothing is and the wait is not over, it returns a pause, and counts the
// receiver as a waiter.
func (e *Engine) tryReceive(name string, r Receive, start time.Time) ([]Delivery, *pause, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	q, err := e.find(name)
	if err != nil {
		return nil, nil, err
	}
	now := e.clock.Now()
	wait := time.Duration(or(r.Wait, q.set.seconds("ReceiveMessageWaitTimeSeconds"))) * time.Second
	deadline := start.Add(wait)
	if q.leased >= maxInFlight && wait == 0 {
		return nil, nil, Errorf(CodeOverLimit, "Too many messages in flight: %d.", q.leased)
	}
	got := q.lease(r, now)
	left := deadline.Sub(now)
	if len(got) > 0 || left <= 0 {
		return got, nil, nil
	}
	if m := q.waiting.first(); m != nil && m.visibleAt.Before(deadline) {
		left = m.visibleAt.Sub(now)
	}
	q.waiters++
	return nil, &pause{queue: q, changed: q.changed, timer: left}, nil
}

func or(v *int, fallback int) int {
	if v != nil {
		return *v
	}
	return fallback
}

// lease hands out up to r.Max visible messages. On the way it drops those past their retention, and moves those that
// were received often enough to the dead-letter queue, if there still is one.
func (q *queue) lease(r Receive, now time.Time) []Delivery {
	e := q.engine
	visibility := time.Duration(or(r.Visibility, q.set.seconds("VisibilityTimeout"))) * time.Second
	var got []Delivery
	for len(got) < r.Max && q.leased < maxInFlight {
		m := q.ready.first()
		if m == nil {
			break
		}
		q.lift(m)
		dead := e.queues[q.set.redrive.target]
		switch {
		case q.expired(m, now) || e.faults.lose.Hit():
			q.drop(m)
		case dead != nil && m.received >= q.set.redrive.max:
			q.drop(m)
			m.origin = q.name
			dead.take(m, 0)
		default:
			got = append(got, q.hand(m, now, visibility))
		}
	}
	return got
}

// hand leases one message.
func (q *queue) hand(m *message, now time.Time, visibility time.Duration) Delivery {
	m.received++
	m.receivedAt = now
	if m.firstAt.IsZero() {
		m.firstAt = now
	}
	if q.engine.faults.duplicate.Hit() {
		visibility = 0
	}
	q.hide(m, leased, now.Add(visibility))
	return m.deliver(q)
}

// Delete takes a message off the queue. As on AWS a handle that a later receive made stale is accepted, without
// effect, and so is one of a message that is gone.
func (e *Engine) Delete(name, handle string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	q, err := e.find(name)
	if err != nil {
		return err
	}
	id, received, err := parseHandle(name, handle)
	if err != nil {
		return err
	}
	if m, ok := q.byID[id]; ok && m.received == received {
		q.lift(m)
		q.drop(m)
	}
	return nil
}

// ChangeVisibility lets the lease of a message end in that many seconds from now; 0 gives it back at once.
// The lease as a whole cannot exceed 12 hours: what asks for more is refused, not shortened.
func (e *Engine) ChangeVisibility(name, handle string, seconds int) error {
	if seconds < 0 || seconds > maxVisibleSeconds {
		return errRange("VisibilityTimeout", seconds, 0, maxVisibleSeconds)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	q, err := e.find(name)
	if err != nil {
		return err
	}
	id, received, err := parseHandle(name, handle)
	if err != nil {
		return err
	}
	m, ok := q.byID[id]
	switch at := e.clock.Now().Add(time.Duration(seconds) * time.Second); {
	case !ok || m.received != received:
		return Errorf(CodeInvalidValue, "Value %s for parameter ReceiptHandle is invalid. "+
			"Reason: Message does not exist or is not available for visibility timeout change.", handle)
	case m.state != leased:
		return Errorf(CodeNotInFlight, "The specified message isn't in flight.")
	case at.Sub(m.receivedAt) > maxVisibility:
		return Errorf(CodeInvalidValue, "Value %d for parameter VisibilityTimeout is invalid. "+
			"Reason: Total VisibilityTimeout for the message is beyond the limit [%d seconds].", seconds, maxVisibleSeconds)
	default:
		q.lift(m)
		q.hide(m, leased, at)
	}
	return nil
}
