package runner

import (
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"spool/storage/batch"
)

func TestHistoryTellsWhereTheTimeWentAndWhatCameWhen(t *testing.T) {
	start := time.Unix(1_000_000, 0)
	h := newHistory(start)
	at := func(seconds float64) time.Time { return start.Add(time.Duration(seconds * float64(time.Second))) }
	h.resume(at(0.1)) // nothing was before
	h.look(at(2), batch.PhaseEngine)
	h.answered(time.Second, 100)
	h.answered(time.Second, 20)
	h.look(at(2.5), batch.PhaseGenerate)
	h.answered(3*time.Second, -1) // what an engine says may be nonsense
	h.look(at(3.5), batch.PhaseGenerate)
	h.answered(5*time.Microsecond, 0)
	var got batch.Runner
	h.fill(&got, at(4.5), true)
	want := batch.Runner{
		Phases: []batch.Phase{{Name: "engine", Seconds: 2}, {Name: "generate", Seconds: 2.5}},
		Series: &batch.Series{SlotSeconds: 1, Lines: []int64{0, 0, 2, 1, 1}, OutputTokens: []int64{0, 0, 120, 0, 0}},
		Latencies: batch.Latencies{{5, 1}, {int64(batch.LatencyBucket(time.Second)), 2},
			{int64(batch.LatencyBucket(3 * time.Second)), 1}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	h.answered(time.Second, 1)
	h.resume(at(9))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("a record that was made changed: %s", diff)
	}
	h.fill(&got, at(9), true)
	if diff := cmp.Diff(append(want.Phases, batch.Phase{Name: batch.PhaseIdle, Seconds: 4.5}), got.Phases); diff != "" {
		t.Errorf("taken again: %s", diff)
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
				h.answered(time.Duration(n)*time.Millisecond, 7)
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
		took := time.Millisecond
		for pb.Next() {
			h.answered(took, 250)
			took += 10 * time.Microsecond
		}
	})
}
