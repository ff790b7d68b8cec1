package batch

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestSeriesHalvesWhenItIsFull(t *testing.T) {
	var s Series
	for second := range 1000 {
		s.Add(float64(second)+0.5, Work{1, 10, int64(second % 2), 2})
	}
	var lines, tokens int64
	for i := range s.Lines {
		lines += s.Lines[i]
		tokens += s.OutputTokens[i]
	}
	if s.SlotSeconds != 16 || len(s.Lines) != 63 || lines != 1000 || tokens != 10000 || s.Lines[0] != 16 || s.Lines[62] != 8 ||
		s.Chunks[0] != 8 || s.Retries[0] != 32 {
		t.Errorf("slots of %v s, %d of them, %d lines, %d tokens, %v", s.SlotSeconds, len(s.Lines), lines, tokens, s.Lines)
	}
}

func TestSeriesTakesGapsAndClocksThatJump(t *testing.T) {
	var s Series
	s.Add(-5, Work{Lines: 1})
	s.Add(3.9, Work{2, 7, 1, 3})
	if diff := cmp.Diff(Series{1, []int64{1, 0, 0, 2}, []int64{0, 0, 0, 7}, []int64{0, 0, 0, 1}, []int64{0, 0, 0, 3}}, s); diff != "" {
		t.Error(diff)
	}
	s.Add(30*24*3600, Work{Lines: 4, OutputTokens: 9})
	if len(s.Lines) > MaxSlots || s.Lines[0] != 3 || s.Lines[len(s.Lines)-1] != 4 {
		t.Errorf("%d slots, %v", len(s.Lines), s.Lines)
	}
	c := s.Clone()
	s.Add(0, Work{Lines: 1, OutputTokens: 1})
	if c.Lines[0] != 3 || (*Series)(nil).Clone() != nil {
		t.Errorf("the copy has %d in its first slot, want 3", c.Lines[0])
	}
}

func TestGPUSeriesKeepsItsMeansWhenItHalves(t *testing.T) {
	var s GPUSeries
	f := func(v float64) *float64 { return &v }
	for second := range 200 { // a ramp from 0 to 1; a GPU that cannot tell its power
		s.Add(float64(second), GPUPoint{Utilization: f(float64(second) / 199), MemoryUsed: f(7e10), Temperature: f(70 + float64(second%2))})
	}
	s.Add(200, GPUPoint{})
	got := s.Rounded()
	if got.SlotSeconds != 2 || len(got.Samples) != 101 || got.Samples[0] != 2 || got.Samples[100] != 1 || got.Power != nil {
		t.Errorf("slots of %v s, samples %v, power %v", got.SlotSeconds, got.Samples, got.Power)
	}
	if len(got.Utilization) != 100 || got.Utilization[0] != 0.003 || got.Utilization[99] != 0.997 || got.Temperature[50] != 70.5 || got.MemoryUsed[99] != 7e10 {
		t.Errorf("utilisation %v, temperature %v, memory %v", got.Utilization, got.Temperature, got.MemoryUsed)
	}
	s.Add(0, GPUPoint{Utilization: f(1)})
	if got.Samples[0] != 2 || (*GPUSeries)(nil).Rounded() != nil {
		t.Error("a later sample changed the copy")
	}
}

// Two slots of one sample and of three: their common mean has these weights.
func TestGPUSeriesWeighsSlotsByTheirSamples(t *testing.T) {
	var s GPUSeries
	f := func(v float64) *float64 { return &v }
	s.Add(0, GPUPoint{Power: f(100)})
	for range 3 {
		s.Add(1, GPUPoint{Power: f(500)})
	}
	s.Add(5, GPUPoint{Power: f(7)})
	s.Add(MaxSlots, GPUPoint{Power: f(9)})
	if diff := cmp.Diff([]float64{400, 0, 7}, s.Power[:3]); diff != "" || s.Samples[1] != 0 || s.Power[MaxSlots/2] != 9 {
		t.Errorf("%s, samples %v", diff, s.Samples)
	}
}

func TestSlowestChunksAreKept(t *testing.T) {
	var chunks []SlowChunk
	for i := range 1000 {
		chunks = AddSlow(chunks, SlowChunk{Chunk: i, Lines: 1000, Seconds: float64(i * 7919 % 1000)})
	}
	for i, c := range chunks {
		if len(chunks) != MaxSlow || c.Seconds != float64(999-i) {
			t.Errorf("%d chunks, number %d took %v s", len(chunks), i, c.Seconds)
		}
	}
}

func TestPhasesAreBoundedAndKeepTheirSum(t *testing.T) {
	var phases []Phase
	sum := 0.0
	for i := range 10_000 {
		name := []string{PhaseGenerate, PhaseStore}[i%2]
		seconds := float64(1 + i*7919%100)
		phases = AddPhase(phases, name, seconds)
		sum += seconds
	}
	got := 0.0
	for i, p := range phases {
		got += p.Seconds
		if i > 0 && p.Name == phases[i-1].Name {
			t.Errorf("phases %d and %d are both %s", i-1, i, p.Name)
		}
	}
	if len(phases) > MaxPhases || got != sum {
		t.Errorf("%d phases of %v s, want at most %d of %v s", len(phases), got, MaxPhases, sum)
	}
	if diff := cmp.Diff([]Phase{{"a", 3}, {"b", 1}}, AddPhase(AddPhase(AddPhase(nil, "a", 1), "a", 2), "b", 1)); diff != "" {
		t.Error(diff)
	}
}

func TestLatencyBucketsFollowEachOther(t *testing.T) {
	for b := range LatencyBuckets {
		from, to := LatencyFrom(b), LatencyFrom(b+1)
		if from >= to || LatencyBucket(from) != b || LatencyBucket(to-1) != b {
			t.Fatalf("bucket %d: from %v to %v, which are in %d and %d", b, from, to, LatencyBucket(from), LatencyBucket(to-1))
		}
		if b > 16 && (to-from)*16 > from {
			t.Errorf("bucket %d is %v wide from %v on", b, to-from, from)
		}
	}
	for d, want := range map[time.Duration]int{-1: 0, 0: 0, 16 * time.Microsecond: 16, 32 * time.Microsecond: 32, time.Second: 16*16 + 14,
		240 * time.Hour: LatencyBuckets - 1} {
		if got := LatencyBucket(d); got != want {
			t.Errorf("LatencyBucket(%v) = %d, want %d", d, got, want)
		}
	}
}

func TestQuantilesOfMergedLatenciesAreWithinABucketOfTheTruth(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var all []time.Duration
	var parts [3][LatencyBuckets]int64
	for i := range 20_000 {
		d := time.Duration(math.Exp(rng.NormFloat64()) * float64(time.Second)) // log-normal
		all = append(all, d)
		parts[i%3][LatencyBucket(d)]++
	}
	var lists []Latencies
	for _, p := range parts {
		var l Latencies
		for b, n := range p {
			if n > 0 {
				l = append(l, [2]int64{int64(b), n})
			}
		}
		lists = append(lists, l)
	}
	merged := MergeLatencies(append(lists, Latencies{{-1, 5}, {LatencyBuckets, 5}, {3, -5}})...)
	if merged.Count() != int64(len(all)) {
		t.Fatalf("%d counted, want %d", merged.Count(), len(all))
	}
	slices.Sort(all)
	for _, q := range []float64{0.5, 0.9, 0.95, 0.99, 1} {
		truth := all[int(math.Ceil(q*float64(len(all))))-1]
		got := merged.Quantile(q)
		off := math.Abs(float64(got-truth)) / float64(truth)
		if off > 1.0/32 {
			t.Errorf("quantile %v = %v, truth %v: off by %.3f", q, got, truth, off)
		}
		t.Logf("quantile %v = %v, truth %v: off by %.2f %%", q, got, truth, 100*off)
	}
	if top := all[len(all)-1]; merged.Max() <= top || merged.Max() > top+top/16 {
		t.Errorf("Max = %v, truth %v", merged.Max(), top)
	}
	want := &SummaryLatency{Count: 2, P50: 1.008, P90: 2.016, P95: 2.016, P99: 2.016, Max: 2.048}
	if diff := cmp.Diff(want, Latencies{{int64(LatencyBucket(time.Millisecond)), 1}, {int64(LatencyBucket(2 * time.Millisecond)), 1}}.Summary()); diff != "" {
		t.Error(diff)
	}
	if (Latencies{}).Summary() != nil || (Latencies{}).Quantile(0.5) != 0 || (Latencies{}).Max() != 0 {
		t.Error("of nothing there is a quantile")
	}
}

func TestEnginesAreReadWithTheirRecords(t *testing.T) {
	for text, want := range map[string]string{
		`[{"url":"u","version":"1","record":{"version":"2","gpus":["H100"]}},{"url":"v","record":null}]`: `2 true,  false`,
		`{"version":"3"}`:        `3 false`,
		`[null,{"version":"4"}]`: `4 false`,
		`[1]`:                    ``,
		`"text"`:                 ``,
		`null`:                   ``,
		``:                       ``,
	} {
		r := Runner{Engine: json.RawMessage(text)}
		var got []string
		for _, e := range r.Engines() {
			got = append(got, fmt.Sprint(strings.Trim(string(e.Members["version"]), `"`), " ", e.Own))
		}
		if all := strings.Join(got, ", "); all != want {
			t.Errorf("%s: %q, want %q", text, all, want)
		}
	}
}
