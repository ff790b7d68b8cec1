package runner

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"spool/runner/vllm"
	"spool/storage/batch"
)

// history is what the runner record tells of a batch over time: where the time went, what came when, and how long it took.
// Its methods may be called concurrently.
type history struct {
	// took counts answers by how long their request took. A number holds lines in its lower tokenShift bits and their
	// output tokens above these, so that a line costs one atomic addition. Neither half can be full: 2^28 lines in
	// one bucket, or 2^36 tokens, are weeks of work for a runner.
	took    [batch.LatencyBuckets]atomic.Uint64
	refused atomic.Int64 // lines that ended as errors

	finish          [vllm.Finishes]atomic.Int64
	times           atomic.Pointer[engineTimes] // nil while no engine told any
	retries, stored atomic.Int64                // requests asked again, chunks stored

	mu          sync.Mutex
	start, last time.Time // of the batch, of the last look
	phases      []batch.Phase
	series      *batch.Series
	done        batch.Work // in series
	gpus        *batch.GPUSeries
	slowest     []batch.SlowChunk
}

// engineTimes count what engines say of their own time.
type engineTimes struct{ queue, firstToken, decode, interToken spread }

// spread counts durations by their buckets.
type spread [batch.LatencyBuckets]atomic.Int64

// add counts a duration; one below 0 was not told.
func (s *spread) add(d time.Duration) {
	if d >= 0 {
		s[batch.LatencyBucket(d)].Add(1)
	}
}

func (s *spread) sum() (all batch.Latencies) {
	for b := range s {
		if n := s[b].Load(); n > 0 {
			all = append(all, [2]int64{int64(b), n})
		}
	}
	return all
}

const tokenShift = 28

func newHistory(start time.Time) *history { return &history{start: start, last: start} }

// answered counts a line that got its result. How long an engine takes to refuse one says nothing of its work.
func (h *history) answered(took time.Duration, a *vllm.Answer) {
	if a.Outcome != vllm.OK {
		h.refused.Add(1)
		return
	}
	tokens := uint64(max(0, min(a.Usage.Output, 1<<24))) // more is no answer of one request
	h.took[batch.LatencyBucket(took)].Add(tokens<<tokenShift | 1)
	if a.Finish != 0 {
		h.finish[a.Finish].Add(1)
	}
	if a.Timing != nil {
		h.told(a.Timing)
	}
}

// told counts what the engine said of its time.
func (h *history) told(t *vllm.Timing) {
	times := h.times.Load()
	if times == nil {
		h.times.CompareAndSwap(nil, new(engineTimes))
		times = h.times.Load()
	}
	times.queue.add(t.Queue)
	times.firstToken.add(t.FirstToken)
	times.decode.add(t.Decode)
	times.interToken.add(t.InterToken)
}

// committed counts a chunk that was stored, so long after it was begun; 0 if none of its lines was asked.
func (h *history) committed(c batch.ChunkInfo, took time.Duration) {
	h.stored.Add(1)
	if took <= 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.slowest = batch.AddSlow(h.slowest, batch.SlowChunk{
		Chunk: c.Chunk, Lines: c.Counts.OK + c.Counts.Err, Failed: c.Counts.Err, Seconds: math.Round(took.Seconds()*1000) / 1000,
	})
}

// lookAtGPUs takes in how the machine's GPUs are.
func (h *history) lookAtGPUs(now time.Time, p batch.GPUPoint) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.gpus == nil {
		h.gpus = new(batch.GPUSeries)
	}
	h.gpus.Add(now.Sub(h.start).Seconds(), p)
}

// look names the time since the last look, and takes in what was answered meanwhile.
func (h *history) look(now time.Time, phase string) {
	lines, tokens, _ := h.sum()
	done := batch.Work{Lines: lines, OutputTokens: tokens, Chunks: h.stored.Load(), Retries: h.retries.Load()}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.phases = batch.AddPhase(h.phases, phase, max(0, now.Sub(h.last).Seconds()))
	h.last = now
	if done != h.done || h.series != nil {
		if h.series == nil {
			h.series = new(batch.Series)
		}
		h.series.Add(now.Sub(h.start).Seconds(), done.Sub(h.done))
		h.done = done
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

// sum adds up what was counted: lines that ended, and tokens and times of those that were answered.
func (h *history) sum() (lines, tokens int64, took batch.Latencies) {
	lines = h.refused.Load()
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
	rec.Series, rec.GPUSeries = h.series.Clone(), h.gpus.Rounded()
	rec.Slowest = slices.Clone(h.slowest)
	for reason := range h.finish {
		if n := h.finish[reason].Load(); n > 0 {
			if rec.Finish == nil {
				rec.Finish = map[string]int64{}
			}
			rec.Finish[vllm.Finish(reason).String()] = n
		}
	}
	if t := h.times.Load(); t != nil {
		rec.Times = &batch.EngineTimes{Queue: t.queue.sum(), FirstToken: t.firstToken.sum(), Decode: t.decode.sum(), InterToken: t.interToken.sum()}
	}
}
