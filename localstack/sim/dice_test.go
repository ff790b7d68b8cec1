package sim

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"time"
)

// dice gives the same number for the same question: what goes wrong must not depend on who asks first.
type dice struct{ seed uint64 }

// roll gives a number from 0 to below 1 for a question.
func (d dice) roll(question ...any) float64 {
	return float64(d.bits(question...)>>11) / (1 << 53)
}

func (d dice) bits(question ...any) uint64 {
	h := fnv.New64a()
	fmt.Fprintln(h, question...)
	return rand.NewPCG(d.seed, h.Sum64()).Uint64()
}

// in gives a number from low to high for a question.
func (d dice) in(low, high int, question ...any) int {
	return low + int(d.bits(question...)%uint64(high-low+1))
}

// between gives a time from low to high for a question.
func (d dice) between(low, high time.Duration, question ...any) time.Duration {
	return low + time.Duration(d.roll(question...)*float64(high-low))
}

// clock is the store's, which need not be that of the processes.
func (d dice) clock() func() time.Time {
	skew := [...]time.Duration{0, 0, time.Hour, -time.Hour, 700 * time.Millisecond}[d.in(0, 4, "skew")]
	return func() time.Time { return time.Now().Add(skew) }
}

// span is a part of the virtual time.
type span struct{ from, to time.Time }

func (s span) has(t time.Time) bool { return !t.Before(s.from) && t.Before(s.to) }

func during(spans []span, t time.Time) bool {
	for _, s := range spans {
		if s.has(t) {
			return true
		}
	}
	return false
}
