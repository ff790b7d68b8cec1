package engine

import "time"

// queue is one queue; the engine's lock guards it.
type queue struct {
	engine   *Engine
	name     string
	set      settings
	tags     map[string]string
	created  time.Time
	modified time.Time
	purged   time.Time // zero if never

	byID    map[string]*message
	ready   messages // visible, in the order of sending
	waiting messages // leased or delayed, in the order of visibleAt
	leased  int      // of waiting

	waiters int           // receivers that wait
	changed chan struct{} // closed and replaced when they should look again
}

func newQueue(e *Engine, name string, set settings, tags map[string]string) *queue {
	now := e.clock.Now()
	q := &queue{
		engine: e, name: name, set: set, tags: map[string]string{}, created: now, modified: now,
		changed: make(chan struct{}),
	}
	for k, v := range tags {
		q.tags[k] = v
	}
	q.clear()
	return q
}

func (q *queue) clear() {
	q.byID = map[string]*message{}
	q.ready = messages{less: bySequence}
	q.waiting = messages{less: byVisibility}
	q.leased = 0
}

func (q *queue) counts() Counts {
	return Counts{Visible: q.ready.Len(), InFlight: q.leased, Delayed: q.waiting.Len() - q.leased}
}

// wake makes all waiting receivers look again.
func (q *queue) wake() {
	if q.waiters > 0 {
		close(q.changed)
		q.changed = make(chan struct{})
	}
}

// take puts a message that is new to this queue at the end of the line, visible after delay.
func (q *queue) take(m *message, delay time.Duration) {
	q.engine.sequence++
	m.sequence = q.engine.sequence
	q.byID[m.id] = m
	if delay > 0 {
		q.hide(m, delayed, q.engine.clock.Now().Add(delay))
		return
	}
	q.show(m)
	q.wake()
}

// show puts a message that is in no heap in line.
func (q *queue) show(m *message) {
	m.state = ready
	q.ready.add(m)
}

// hide lets a message that is in no heap wait until at.
func (q *queue) hide(m *message, s state, at time.Time) {
	m.state, m.visibleAt = s, at
	q.waiting.add(m)
	if s == leased {
		q.leased++
	}
	if q.waiting.first() == m {
		q.wake() // the timers of those who wait are set too late
	}
}

// lift takes a message out of its heap.
func (q *queue) lift(m *message) {
	if m.state == ready {
		q.ready.remove(m)
		return
	}
	q.waiting.remove(m)
	if m.state == leased {
		q.leased--
	}
}

// drop forgets a message that is in no heap.
func (q *queue) drop(m *message) { delete(q.byID, m.id) }

// promote makes visible what has waited long enough.
func (q *queue) promote(now time.Time) {
	for m := q.waiting.first(); m != nil && !m.visibleAt.After(now); m = q.waiting.first() {
		q.lift(m)
		q.show(m)
	}
}

// expired tells whether m is past the retention of the queue.
func (q *queue) expired(m *message, now time.Time) bool {
	return now.Sub(m.sent) > time.Duration(q.set.seconds("MessageRetentionPeriod"))*time.Second
}
