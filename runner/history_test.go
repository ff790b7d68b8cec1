package runner

import (
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"spool/runner/gpu"
	"spool/runner/vllm"
	"spool/storage/batch"
)

func TestHistoryTellsWhereTheTimeWentAndWhatCameWhen(t *testing.T) {
	start := time.Unix(1_000_000, 0)
	h := newHistory(start)
	at := func(seconds float64) time.Time { return start.Add(time.Duration(seconds * float64(time.Second))) }
	h.resume(at(0.1)) // nothing was before
	h.look(at(2), batch.PhaseEngine)
	h.answered(time.Second, tokens(100))
	h.answered(time.Second, tokens(20))
	h.retries.Add(3)
	h.look(at(2.5), batch.PhaseGenerate)
	h.answered(3*time.Second, tokens(-1))                     // what an engine says may be nonsense
	h.answered(time.Millisecond, failure(vllm.Rejected, 400)) // a line like others, with no time that tells anything
	h.look(at(3.5), batch.PhaseGenerate)
	h.answered(5*time.Microsecond, tokens(0))
	var got batch.Runner
	h.fill(&got, at(4.5), true)
	want := batch.Runner{
		Phases: []batch.Phase{{Name: "engine", Seconds: 2}, {Name: "generate", Seconds: 2.5}},
		Series: &batch.Series{SlotSeconds: 1, Lines: []int64{0, 0, 2, 2, 1}, OutputTokens: []int64{0, 0, 120, 0, 0},
			Chunks: make([]int64, 5), Retries: []int64{0, 0, 3, 0, 0}},
		Latencies: batch.Latencies{{5, 1}, {int64(batch.LatencyBucket(time.Second)), 2},
			{int64(batch.LatencyBucket(3 * time.Second)), 1}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if n := got.Series.Ended(); n != 5 {
		t.Errorf("%d lines ended, want 5", n)
	}
	h.answered(time.Second, tokens(1))
	h.resume(at(9))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("a record that was made changed: %s", diff)
	}
	h.fill(&got, at(9), true)
	if diff := cmp.Diff(append(want.Phases, batch.Phase{Name: batch.PhaseIdle, Seconds: 4.5}), got.Phases); diff != "" {
		t.Errorf("taken again: %s", diff)
	}
}

func tokens(n int64) *vllm.Answer { return &vllm.Answer{Usage: vllm.Usage{Output: n}} }

func TestHistoryTellsWhyAnswersEndedWhatEnginesTellAndWhichChunksWereSlow(t *testing.T) {
	start := time.Unix(1_000_000, 0)
	h := newHistory(start)
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	h.answered(ms(50), &vllm.Answer{Finish: 1, Timing: &vllm.Timing{Queue: 0, FirstToken: ms(10), Decode: ms(40), InterToken: -1}})
	h.answered(ms(50), &vllm.Answer{Finish: 2, Timing: &vllm.Timing{Queue: ms(5), FirstToken: ms(10), Decode: -1, InterToken: -1}})
	h.answered(ms(50), &vllm.Answer{Finish: 1})
	h.committed(batch.ChunkInfo{Chunk: 7, Counts: batch.Counts{OK: 9, Err: 1}}, ms(1500))
	h.committed(batch.ChunkInfo{Chunk: 8, Counts: batch.Counts{OK: 10}}, ms(2500))
	h.committed(batch.ChunkInfo{Chunk: 9}, 0) // all of it came out of a segment
	busy, watts := 0.5, 300.0
	h.lookAtGPUs(start.Add(2*time.Second), batch.GPUPoint{Utilization: &busy, Power: &watts})
	var got batch.Runner
	h.fill(&got, start.Add(time.Second), true)
	at := func(d time.Duration) int64 { return int64(batch.LatencyBucket(d)) }
	want := batch.Runner{
		Phases: got.Phases, Latencies: got.Latencies,
		Series:    &batch.Series{SlotSeconds: 1, Lines: []int64{0, 3}, OutputTokens: []int64{0, 0}, Chunks: []int64{0, 3}, Retries: []int64{0, 0}},
		GPUSeries: &batch.GPUSeries{SlotSeconds: 1, Samples: []int64{0, 0, 1}, Utilization: []float64{0.5, 0.5, 0.5}, Power: []float64{300, 300, 300}},
		Times: &batch.EngineTimes{
			Queue: batch.Latencies{{0, 1}, {at(ms(5)), 1}}, FirstToken: batch.Latencies{{at(ms(10)), 2}}, Decode: batch.Latencies{{at(ms(40)), 1}},
		},
		Slowest: []batch.SlowChunk{{Chunk: 8, Lines: 10, Seconds: 2.5}, {Chunk: 7, Lines: 10, Failed: 1, Seconds: 1.5}},
		Finish:  map[string]int64{"stop": 2, "length": 1},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestPointOfGPUsIsOfThoseThatSayIt(t *testing.T) {
	f := func(v float64) *float64 { return &v }
	n := func(v uint64) *uint64 { return &v }
	got := pointOf([]gpu.Sample{
		{Reading: gpu.Reading{Utilization: f(0.5), MemoryUsed: n(100), Temperature: f(60), Power: f(300)}},
		{Reading: gpu.Reading{Utilization: f(1), MemoryUsed: n(300), Temperature: f(71), Power: f(400)}},
		{Reading: gpu.Reading{Temperature: f(50)}},
	})
	if diff := cmp.Diff(batch.GPUPoint{Utilization: f(0.75), MemoryUsed: f(200), Temperature: f(71), Power: f(700)}, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(batch.GPUPoint{}, pointOf([]gpu.Sample{{}})); diff != "" {
		t.Error(diff)
	}
}

// A record that is written before anything was looked at says what is likely, and nothing of what did not happen.
func TestHistoryOfAMoment(t *testing.T) {
	start := time.Unix(1_000_000, 0)
	for asked, phase := range map[bool]string{true: batch.PhaseGenerate, false: batch.PhaseStore} {
		var got batch.Runner
		newHistory(start).fill(&got, start.Add(100*time.Millisecond), asked)
		if diff := cmp.Diff(batch.Runner{Phases: []batch.Phase{{Name: phase, Seconds: 0.1}}}, got); diff != "" {
			t.Error(diff)
		}
	}
}

func TestHistoryLosesNoLineOfManyWorkers(t *testing.T) {
	h := newHistory(time.Now())
	var workers sync.WaitGroup
	for range 8 {
		workers.Go(func() {
			for n := range 10_000 {
				h.answered(time.Duration(n)*time.Millisecond, tokens(7))
			}
		})
	}
	for range 100 {
		h.look(time.Now(), batch.PhaseGenerate)
	}
	workers.Wait()
	var rec batch.Runner
	h.fill(&rec, time.Now(), true)
	var lines, tokens int64
	for i := range rec.Series.Lines {
		lines += rec.Series.Lines[i]
		tokens += rec.Series.OutputTokens[i]
	}
	if lines != 80_000 || tokens != 560_000 || rec.Latencies.Count() != 80_000 {
		t.Errorf("%d lines, %d tokens, %d latencies", lines, tokens, rec.Latencies.Count())
	}
}

func BenchmarkHistoryAnswered(b *testing.B) {
	h := newHistory(time.Now())
	b.RunParallel(func(pb *testing.PB) {
		took, a := time.Millisecond, &vllm.Answer{Usage: vllm.Usage{Output: 250}, Finish: 1}
		for pb.Next() {
			h.answered(took, a)
			took += 10 * time.Microsecond
		}
	})
}
