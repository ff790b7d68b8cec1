package engine

import "time"

// Clock is what an Engine knows of time. Both methods may be called concurrently.
type Clock interface {
	Now() time.Time
	// After returns a channel that yields once d has passed, and a function that gives the timer up.
	After(d time.Duration) (fired <-chan time.Time, stop func())
}

// SystemClock is the clock of the machine.
type SystemClock struct{}

var _ Clock = SystemClock{}

// Now is time.Now.
func (SystemClock) Now() time.Time { return time.Now() }

// After is a timer of the runtime.
func (SystemClock) After(d time.Duration) (<-chan time.Time, func()) {
	t := time.NewTimer(d)
	return t.C, func() { t.Stop() }
}
