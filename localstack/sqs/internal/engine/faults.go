package engine

// Faults makes the queues misbehave as the service is allowed to, or worse: each happens to every n-th message,
// 0 is never, 1 is always.
type Faults struct {
	Drop      int // sent: the sender gets an id, but the message is gone
	Lose      int // about to be received: it vanishes instead
	Duplicate int // received: it stays visible too, for the next receive
}

type faults struct{ drop, lose, duplicate Every }

// SetFaults replaces the faults, and starts counting anew.
func (e *Engine) SetFaults(f Faults) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.faults = faults{drop: Every{N: f.Drop}, lose: Every{N: f.Lose}, duplicate: Every{N: f.Duplicate}}
}

// Every picks each N-th event; none if N is 0. It is not safe for concurrent use.
type Every struct {
	N    int
	seen int
}

// Hit counts one event and tells whether it is picked.
func (e *Every) Hit() bool {
	if e.N <= 0 {
		return false
	}
	e.seen++
	return e.seen%e.N == 0
}
