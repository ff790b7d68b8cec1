package batch

import (
	"cmp"
	"encoding/json"
	"maps"
	"math"
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
	Lines        []int64 `json:"lines"`            // that got their result in the slot
	OutputTokens []int64 `json:"output_tokens"`    // of these
	Chunks       []int64 `json:"chunks,omitempty"` // that were stored; as long as Lines, but absent in records of earlier versions
	Retries      []int64 `json:"retries,omitempty"`
}

// Work is what was done in some time.
type Work struct{ Lines, OutputTokens, Chunks, Retries int64 }

// Sub gives what was done since.
func (w Work) Sub(since Work) Work {
	return Work{w.Lines - since.Lines, w.OutputTokens - since.OutputTokens, w.Chunks - since.Chunks, w.Retries - since.Retries}
}

// Add counts what happened at seconds after the start. It must not be called concurrently.
func (s *Series) Add(seconds float64, w Work) {
	slot, halvings := slotAt(&s.SlotSeconds, seconds)
	counts := []int64{w.Lines, w.OutputTokens, w.Chunks, w.Retries}
	for i, list := range []*[]int64{&s.Lines, &s.OutputTokens, &s.Chunks, &s.Retries} {
		for range halvings {
			*list = halve(*list)
		}
		for len(*list) <= slot {
			*list = append(*list, 0)
		}
		(*list)[slot] += counts[i]
	}
}

// slotAt gives the slot of a moment, after the length of slots was doubled as often as it takes.
func slotAt(length *float64, seconds float64) (slot, doublings int) {
	if *length <= 0 {
		*length = 1
	}
	for seconds / *length >= MaxSlots {
		*length *= 2
		doublings++
	}
	return max(0, int(seconds / *length)), doublings
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
	return &Series{s.SlotSeconds, slices.Clone(s.Lines), slices.Clone(s.OutputTokens), slices.Clone(s.Chunks), slices.Clone(s.Retries)}
}

// Ended counts the lines that got their result; 0 of nil.
func (s *Series) Ended() (lines int64) {
	if s == nil {
		return 0
	}
	for _, n := range s.Lines {
		lines += n
	}
	return lines
}

// GPUSeries is what a runner's GPUs did over time, in slots as Series has them. A list is absent if no GPU says it.
type GPUSeries struct {
	SlotSeconds float64   `json:"slot_seconds"`
	Samples     []int64   `json:"samples"`               // of the slot; where it is 0, the others mean nothing
	Utilization []float64 `json:"utilization,omitempty"` // 0 to 1, mean of GPUs and samples
	MemoryUsed  []float64 `json:"memory_used_bytes,omitempty"`
	Temperature []float64 `json:"temperature_celsius,omitempty"` // mean of the samples, of the hottest GPU
	Power       []float64 `json:"power_watts,omitempty"`         // mean of the samples, of all GPUs together
}

// GPUPoint is one sample of a machine's GPUs: means, sums and maxima as GPUSeries has them, nil for what none says.
type GPUPoint struct{ Utilization, MemoryUsed, Temperature, Power *float64 }

// Add takes a sample at seconds after the start. It must not be called concurrently.
func (s *GPUSeries) Add(seconds float64, p GPUPoint) {
	slot, halvings := slotAt(&s.SlotSeconds, seconds)
	for range halvings {
		for _, list := range s.lists() {
			*list = halveMeans(*list, s.Samples)
		}
		s.Samples = halve(s.Samples)
	}
	for len(s.Samples) <= slot {
		s.Samples = append(s.Samples, 0)
	}
	s.Samples[slot]++
	for i, v := range []*float64{p.Utilization, p.MemoryUsed, p.Temperature, p.Power} {
		if v != nil {
			addMean(s.lists()[i], slot, *v, s.Samples[slot])
		}
	}
}

func (s *GPUSeries) lists() []*[]float64 {
	return []*[]float64{&s.Utilization, &s.MemoryUsed, &s.Temperature, &s.Power}
}

// addMean takes the nth value of a slot into its mean. A value that was not said at other times counts as the mean of those that were.
func addMean(means *[]float64, slot int, v float64, n int64) {
	for len(*means) <= slot {
		*means = append(*means, v)
	}
	(*means)[slot] += (v - (*means)[slot]) / float64(n)
}

// halveMeans makes one slot of two, each mean with the weight of its samples.
func halveMeans(means []float64, samples []int64) []float64 {
	half := make([]float64, (len(means)+1)/2)
	for i := range half {
		var sum, weight float64
		for k := 2 * i; k < min(2*i+2, len(means), len(samples)); k++ {
			sum += means[k] * float64(samples[k])
			weight += float64(samples[k])
		}
		if weight > 0 {
			half[i] = sum / weight
		}
	}
	return half
}

// Rounded makes a copy that later calls of Add do not change, with no more digits than mean anything; nil of nil.
func (s *GPUSeries) Rounded() *GPUSeries {
	if s == nil {
		return nil
	}
	c := &GPUSeries{SlotSeconds: s.SlotSeconds, Samples: slices.Clone(s.Samples)}
	for i, per := range []float64{1000, 1, 10, 10} { // a thousandth, a byte, a tenth of a degree and of a watt
		for _, v := range *s.lists()[i] {
			*c.lists()[i] = append(*c.lists()[i], math.Round(v*per)/per)
		}
	}
	return c
}

// EngineFacts is what is known of an engine, by the members of its description, and of the record that it has besides if the
// runner started it, Own: what the record says goes first.
type EngineFacts struct {
	Members map[string]json.RawMessage
	Own     bool
}

// Engines reads Runner.Engine, which is a list of objects, or one; it gives nil for anything else.
func (r *Runner) Engines() []EngineFacts {
	var list []map[string]json.RawMessage
	if json.Unmarshal(r.Engine, &list) != nil {
		list = make([]map[string]json.RawMessage, 1)
		if json.Unmarshal(r.Engine, &list[0]) != nil {
			return nil
		}
	}
	var all []EngineFacts
	for _, members := range list {
		if members == nil {
			continue // null
		}
		var record map[string]json.RawMessage
		own := json.Unmarshal(members["record"], &record) == nil && record != nil
		maps.Copy(members, record)
		all = append(all, EngineFacts{members, own})
	}
	return all
}

// SlowChunk is a chunk that took long, from the first of its lines that were asked to its commit.
type SlowChunk struct {
	Chunk   int     `json:"chunk"`
	Lines   int64   `json:"lines"`
	Failed  int64   `json:"failed"` // of these
	Seconds float64 `json:"seconds"`
}

// MaxSlow bounds the slow chunks of a record.
const MaxSlow = 10

// AddSlow puts a chunk among the slowest, if it is one of these; the slowest comes first. The slice is the caller's own.
func AddSlow(chunks []SlowChunk, c SlowChunk) []SlowChunk {
	at, _ := slices.BinarySearchFunc(chunks, c, func(have, c SlowChunk) int {
		return cmp.Or(cmp.Compare(c.Seconds, have.Seconds), cmp.Compare(have.Chunk, c.Chunk))
	})
	chunks = slices.Insert(chunks, at, c)
	return chunks[:min(len(chunks), MaxSlow)]
}

// EngineTimes are what engines say of their own requests, if they do (vLLM with --enable-per-request-metrics).
type EngineTimes struct {
	Queue      Latencies `json:"queue,omitempty"`       // until the request was in a slot
	FirstToken Latencies `json:"first_token,omitempty"` // from there to the first token
	Decode     Latencies `json:"decode,omitempty"`      // from the first to the last
	InterToken Latencies `json:"inter_token,omitempty"` // the mean between two tokens
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
