package runner

import (
	"sync"
	"sync/atomic"
	"time"

	"spool/storage/batch"
)

// history is what the runner record tells of a batch over time: where the time went, what came when, and how long it took.
// Its methods may be called concurrently.
type history struct {
	// took counts results by how long their request took. A number holds lines in its lower tokenShift bits and their
	// output tokens above these, so that a line costs one atomic addition. Neither half can be full: 2^28 lines in
	// one bucket, or 2^36 tokens, are weeks of work for a runner.
	took [batch.LatencyBuckets]atomic.Uint64

	mu            sync.Mutex
	start, last   time.Time // of the batch, of the last look
	phases        []batch.Phase
	series        *batch.Series
	lines, tokens int64 // in series
}

const tokenShift = 28

func newHistory(start time.Time) *history { return &history{start: start, last: start} }

// answered counts a line that got its result.
func (h *history) answered(took time.Duration, outputTokens int64) {
	tokens := uint64(max(0, min(outputTokens, 1<<24))) // more is no answer of one request
	h.took[batch.LatencyBucket(took)].Add(tokens<<tokenShift | 1)
}

// look names the time since the last look, and takes in what was answered meanwhile.
func (h *history) look(now time.Time, phase string) {
	lines, tokens, _ := h.sum()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.phases = batch.AddPhase(h.phases, phase, max(0, now.Sub(h.last).Seconds()))
	h.last = now
	if lines > h.lines || h.series != nil {
		if h.series == nil {
			h.series = new(batch.Series)
		}
		h.series.Add(now.Sub(h.start).Seconds(), lines-h.lines, tokens-h.tokens)
		h.lines, h.tokens = lines, tokens
	}
}

// resume says that the runner takes a shard of the batch and held none: if it had held one before, it was idle meanwhile.
func (h *history) resume(now time.Time) {
	h.mu.Lock()
	first := len(h.phases) == 0
	h.mu.Unlock()
	if !first {
		h.look(now, batch.PhaseIdle)
	}
}

// sum adds up what was counted.
func (h *history) sum() (lines, tokens int64, took batch.Latencies) {
	for b := range h.took {
		n := h.took[b].Load()
		if n == 0 {
			continue
		}
		in := int64(n & (1<<tokenShift - 1))
		lines += in
		tokens += int64(n >> tokenShift)
		took = append(took, [2]int64{int64(b), in})
	}
	return lines, tokens, took
}

// fill puts all of it into a record. The time since the last look, less than phaseEvery, goes to the phase before;
// without one, to what is most likely.
func (h *history) fill(rec *batch.Runner, now time.Time, asked bool) {
	h.mu.Lock()
	phase := batch.PhaseStore
	if asked {
		phase = batch.PhaseGenerate
	}
	if n := len(h.phases); n > 0 {
		phase = h.phases[n-1].Name
	}
	h.mu.Unlock()
	h.look(now, phase)
	_, _, rec.Latencies = h.sum()
	h.mu.Lock()
	defer h.mu.Unlock()
	rec.Phases = append([]batch.Phase(nil), h.phases...)
	rec.Series = h.series.Clone()
}
