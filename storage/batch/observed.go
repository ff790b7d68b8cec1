package batch

import (
	"cmp"
	"math/bits"
	"slices"
	"time"
)

// What a runner's record holds beside counts. All of it is optional: what a runner did not record is absent, and is
// never taken for zero.

// Phase is a part of the time that a runner held the batch. Phases follow each other from Runner.StartedAt on, without
// gaps; a name may come again.
type Phase struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
}

// Names of phases. Others may come; readers show them as they are.
const (
	PhaseEngine   = "engine"   // no engine was up: it was being started, or had died
	PhaseGenerate = "generate" // requests of the runner were at an engine
	PhaseStore    = "store"    // nothing was: pieces were read, chunks committed, the batch finalised
	PhaseIdle     = "idle"     // the runner held no shard of the batch
	PhaseDrain    = "drain"    // the runner was told to end: finished lines were saved, the rest handed over
)

// MaxPhases bounds the phases of a record, MaxSlots the slots of a series.
const (
	MaxPhases = 120
	MaxSlots  = 120
)

// AddPhase appends a phase, or makes the last one longer if it is of the same name. When there are more than MaxPhases, the
// shortest one goes to that before it. The slice is the caller's own.
func AddPhase(phases []Phase, name string, seconds float64) []Phase {
	switch n := len(phases); {
	case seconds <= 0:
		return phases
	case n > 0 && phases[n-1].Name == name:
		phases[n-1].Seconds += seconds
		return phases
	}
	phases = append(phases, Phase{name, seconds})
	for len(phases) > MaxPhases {
		short := 1
		for i := range phases[:len(phases)-1] { // the last one may still grow
			if i > 0 && phases[i].Seconds < phases[short].Seconds {
				short = i
			}
		}
		phases[short-1].Seconds += phases[short].Seconds
		phases = slices.Delete(phases, short, short+1)
		if short < len(phases) && phases[short].Name == phases[short-1].Name {
			phases[short-1].Seconds += phases[short].Seconds
			phases = slices.Delete(phases, short, short+1)
		}
	}
	return phases
}

// Series is a runner's work over time, in slots of equal length from Runner.StartedAt on. It has at most MaxSlots: when
// they are full, two become one, and SlotSeconds doubles.
type Series struct {
	SlotSeconds  float64 `json:"slot_seconds"`
	Lines        []int64 `json:"lines"`         // that got their result in the slot
	OutputTokens []int64 `json:"output_tokens"` // of these
}

// Add counts what happened at seconds after the start. It must not be called concurrently.
func (s *Series) Add(seconds float64, lines, outputTokens int64) {
	if s.SlotSeconds <= 0 {
		s.SlotSeconds = 1
	}
	for seconds/s.SlotSeconds >= MaxSlots {
		s.SlotSeconds *= 2
		s.Lines, s.OutputTokens = halve(s.Lines), halve(s.OutputTokens)
	}
	slot := max(0, int(seconds/s.SlotSeconds))
	for len(s.Lines) <= slot {
		s.Lines, s.OutputTokens = append(s.Lines, 0), append(s.OutputTokens, 0)
	}
	s.Lines[slot] += lines
	s.OutputTokens[slot] += outputTokens
}

// halve makes one slot of two.
func halve(slots []int64) []int64 {
	half := make([]int64, (len(slots)+1)/2)
	for i, n := range slots {
		half[i/2] += n
	}
	return half
}

// Clone makes a copy that later calls of Add do not change; nil of nil.
func (s *Series) Clone() *Series {
	if s == nil {
		return nil
	}
	return &Series{s.SlotSeconds, slices.Clone(s.Lines), slices.Clone(s.OutputTokens)}
}

// Latencies counts durations in fixed buckets, each 1/16 of its lower bound wide or less, so that the middle of a
// bucket is wrong by at most 1/32, and those of many runners can be added: pairs of a bucket's number and its count,
// numbers rising.
//
// Bucket b < 16 holds b µs. Another one holds from (16 + b%16) << (b/16-1) µs up to that of the next.
type Latencies [][2]int64

// LatencyBuckets is how many buckets there are; the last one holds all from 31 << 27 µs, 69 minutes.
const LatencyBuckets = 16 * 29

// LatencyBucket gives the bucket of a duration.
func LatencyBucket(d time.Duration) int {
	us := uint64(max(0, d.Microseconds()))
	if us < 16 {
		return int(us)
	}
	shift := bits.Len64(us) - 5
	return min(16*shift+int(us>>shift), LatencyBuckets-1)
}

// LatencyFrom gives the lower bound of a bucket, which is the upper one of that before.
func LatencyFrom(bucket int) time.Duration {
	if bucket < 16 {
		return time.Duration(max(0, bucket)) * time.Microsecond
	}
	bucket = min(bucket, LatencyBuckets)
	return time.Duration((16+bucket%16)<<(bucket/16-1)) * time.Microsecond
}

// Count is how many durations were counted.
func (l Latencies) Count() int64 {
	var n int64
	for _, b := range l {
		n += max(0, b[1])
	}
	return n
}

// Quantile gives the duration that a part q of all does not exceed, 0 < q <= 1, as the middle of its bucket; 0 of none.
func (l Latencies) Quantile(q float64) time.Duration {
	left := q * float64(l.Count())
	for _, b := range l {
		if left -= float64(max(0, b[1])); left <= 0 && b[1] > 0 {
			return (LatencyFrom(int(b[0])) + LatencyFrom(int(b[0])+1)) / 2
		}
	}
	return 0
}

// Max gives a duration that none reaches: the upper bound of the last bucket; 0 of none.
func (l Latencies) Max() time.Duration {
	for _, b := range slices.Backward(l) {
		if b[1] > 0 {
			return LatencyFrom(int(b[0]) + 1)
		}
	}
	return 0
}

// MergeLatencies adds the latencies of runners. What is no bucket's number is left out.
func MergeLatencies(parts ...Latencies) Latencies {
	counts := map[int64]int64{}
	for _, part := range parts {
		for _, b := range part {
			if b[0] >= 0 && b[0] < LatencyBuckets && b[1] > 0 {
				counts[b[0]] += b[1]
			}
		}
	}
	var all Latencies
	for bucket, n := range counts {
		all = append(all, [2]int64{bucket, n})
	}
	slices.SortFunc(all, func(a, b [2]int64) int { return cmp.Compare(a[0], b[0]) })
	return all
}
