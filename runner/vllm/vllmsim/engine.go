package vllmsim

import (
	"container/heap"
	"container/list"
	"errors"
	"math"
	"sync"
	"time"
)

// How a sequence or a job ended.
const (
	reasonStop   = "stop"   // the answer's own end
	reasonLength = "length" // max_tokens, or the model's length
	reasonAbort  = "abort"  // cut short: client gone, shutdown
	reasonError  = "error"  // the engine died
)

// sequence is what the scheduler runs in one slot: one choice of one prompt. A request with n choices
// is n sequences, as in vLLM.
type sequence struct {
	prompt int    // tokens read
	target int    // tokens to generate; 0 for pooling, which takes one step all the same
	reason string // of the end, once target is reached
	hung   bool   // holds its slot and never makes a token
	tokens int    // generated, once it has ended

	job     *job
	state   seqState
	heapPos int           // in engine.running
	place   *list.Element // in engine.waiting
	begin   float64       // engine.steps when it started
	started time.Time
	first   time.Time // when its first token is due, as foreseen when it started
	over    time.Time // when it ended
}

type seqState int

const (
	seqWaiting seqState = iota
	seqRunning
	seqEnded
)

func (s *sequence) finish() float64 { return s.begin + float64(max(s.target, 1)) }

// generated is the number of tokens made when the engine has done so many steps.
func (s *sequence) generated(steps float64) int {
	switch {
	case s.hung || s.state == seqWaiting:
		return 0
	case steps >= s.finish():
		return s.target
	}
	return min(s.target, int(steps-s.begin))
}

// job is a request in the engine. Its sequences may be read once done is closed.
type job struct {
	seqs    []*sequence
	arrived time.Time
	open    int // sequences that have not ended
	done    chan struct{}
}

// pace is how fast the engine steps.
type pace struct {
	slots     int
	queue     int           // that run and wait together; 0 is no limit
	one, full time.Duration // a step with one sequence running, and with all slots busy
	prefill   time.Duration
}

func (p pace) step(running int) time.Duration {
	if p.slots == 1 {
		return p.one
	}
	return p.one + time.Duration(float64(p.full-p.one)*float64(running-1)/float64(p.slots-1))
}

// engine is the scheduler: first come first served into a bounded number of slots, all that run make
// one token a step, and the time of a step grows with their number. It is an exact simulation of
// events, not a loop of steps: because all running sequences advance together, one number (steps)
// tells how far each of them is, a heap tells which ends next, and one timer waits for that. What a
// late timer missed is worked off with the times at which it should have happened.
//
// Its methods may be called concurrently.
type engine struct {
	pace  pace
	ended func(*sequence, time.Time) // sees every sequence that ends, under the lock

	mu      sync.Mutex
	at      time.Time              // the moment that the state below describes
	steps   float64                // done since the start
	stall   time.Duration          // of prefills, before the next step can go on
	running seqHeap                // sequences that make tokens
	hung    map[*sequence]struct{} // sequences that hold a slot and make none
	waiting *list.List             // of *sequence
	timer   *time.Timer
	refuse  bool          // no new jobs
	frozen  *snapshot     // set by freeze: what was last told of the engine, which stands still
	idle    chan struct{} // set by drain; closed when nothing is left

	totals totals
}

// totals count since the start; those of running sequences are added in snapshot.
type totals struct {
	promptTokens, generatedTokens int
	maxRunning, maxWaiting        int
	busy                          time.Duration // sum over slots of the time they were taken
	active, full                  time.Duration // with any, and with all slots taken
}

func newEngine(p pace, ended func(*sequence, time.Time)) *engine {
	e := &engine{pace: p, ended: ended, at: time.Now(), waiting: list.New(), hung: map[*sequence]struct{}{}}
	e.timer = time.AfterFunc(time.Hour, e.tick)
	e.timer.Stop()
	return e
}

// Reasons of submit.
var (
	errHalted = errors.New("the engine is shutting down or dead")
	errFull   = errors.New("the queue is full")
)

// submit queues the sequences of one request.
func (e *engine) submit(seqs []*sequence) (*job, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.catchUp()
	if e.refuse {
		return nil, errHalted
	}
	if limit := e.pace.queue; limit > 0 && e.inSlots()+e.waiting.Len()+len(seqs) > limit {
		return nil, errFull
	}
	j := &job{seqs: seqs, arrived: e.at, open: len(seqs), done: make(chan struct{})}
	for _, s := range seqs {
		s.job = j
		s.place = e.waiting.PushBack(s)
	}
	e.admit()
	e.totals.maxWaiting = max(e.totals.maxWaiting, e.waiting.Len())
	e.catchUp() // without time, they end here
	e.arm()
	return j, nil
}

// freeze stops the engine for good. Who waits goes on waiting, and the metrics stay as they are.
func (e *engine) freeze() {
	now := e.snapshot()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.frozen == nil {
		e.frozen = &now
	}
	e.arm()
}

// told is what the metrics tell.
func (e *engine) told() snapshot {
	now := e.snapshot()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.frozen != nil {
		return *e.frozen
	}
	return now
}

// cancel ends what is left of j, which frees its slots.
func (e *engine) cancel(j *job) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.catchUp()
	e.end(j.seqs, reasonAbort)
	e.admit()
	e.catchUp()
	e.arm()
}

// drain refuses new jobs; the channel is closed when all others have ended. It is called once.
func (e *engine) drain() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.catchUp()
	e.refuse = true
	idle := make(chan struct{})
	e.idle = idle
	e.arm()
	return idle
}

// halt ends all jobs with the given reason, and refuses new ones.
func (e *engine) halt(reason string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.catchUp()
	e.refuse = true
	for w := e.waiting.Front(); w != nil; w = e.waiting.Front() {
		e.end(w.Value.(*sequence).job.seqs, reason)
	}
	for len(e.running) > 0 {
		e.end(e.running[0].job.seqs, reason)
	}
	for s := range e.hung {
		e.end(s.job.seqs, reason)
	}
	e.arm()
}

func (e *engine) tick() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.catchUp()
	e.arm()
}

// catchUp brings the state from e.at to the present, one end of a sequence after the other.
func (e *engine) catchUp() {
	now := time.Now()
	if e.frozen != nil {
		e.at = now
		return
	}
	for len(e.running) > 0 {
		wait := e.untilNext()
		if e.at.Add(wait).After(now) {
			break
		}
		e.pass(wait)
		next := e.running[0]
		e.steps = max(e.steps, next.finish())
		e.endOne(next, next.reason)
		e.admit()
	}
	e.pass(max(0, now.Sub(e.at)))
}

// untilNext is the time from e.at until the next sequence ends.
func (e *engine) untilNext() time.Duration {
	left := max(0, e.running[0].finish()-e.steps)
	return e.stall + time.Duration(math.Ceil(left*float64(e.pace.step(e.inSlots()))))
}

// pass lets time go by in which no sequence starts or ends.
func (e *engine) pass(d time.Duration) {
	e.at = e.at.Add(d)
	n := e.inSlots()
	e.totals.busy += d * time.Duration(n)
	if n > 0 {
		e.totals.active += d
	}
	if n == e.pace.slots {
		e.totals.full += d
	}
	stalled := min(d, e.stall)
	e.stall -= stalled
	if step := e.pace.step(n); len(e.running) > 0 && step > 0 {
		e.steps += float64(d-stalled) / float64(step)
	}
}

func (e *engine) inSlots() int { return len(e.running) + len(e.hung) }

// admit moves waiting sequences into free slots.
func (e *engine) admit() {
	for e.frozen == nil && e.inSlots() < e.pace.slots && e.waiting.Len() > 0 {
		s := e.waiting.Remove(e.waiting.Front()).(*sequence)
		s.state, s.begin, s.started = seqRunning, e.steps, e.at
		e.totals.promptTokens += s.prompt
		if s.hung {
			e.hung[s] = struct{}{}
		} else {
			heap.Push(&e.running, s)
		}
		e.stall += e.pace.prefill
		s.first = e.at.Add(e.stall + e.pace.step(e.inSlots()))
		e.totals.maxRunning = max(e.totals.maxRunning, e.inSlots())
	}
}

// end ends those of seqs that have not ended.
func (e *engine) end(seqs []*sequence, reason string) {
	for _, s := range seqs {
		e.endOne(s, reason)
	}
}

func (e *engine) endOne(s *sequence, reason string) {
	switch {
	case s.state == seqEnded:
		return
	case s.state == seqWaiting:
		e.waiting.Remove(s.place)
	case s.hung:
		delete(e.hung, s)
	default:
		heap.Remove(&e.running, s.heapPos)
	}
	s.tokens = s.generated(e.steps)
	s.state, s.reason, s.over = seqEnded, reason, e.at
	e.totals.generatedTokens += s.tokens
	e.ended(s, e.at)
	if s.job.open--; s.job.open == 0 {
		close(s.job.done)
	}
}

// arm sets the timer to the next end of a sequence, and tells who drains when nothing is left.
func (e *engine) arm() {
	if len(e.running) > 0 && e.frozen == nil {
		e.timer.Reset(time.Until(e.at.Add(e.untilNext())))
	} else {
		e.timer.Stop()
	}
	if e.idle != nil && e.inSlots()+e.waiting.Len() == 0 {
		close(e.idle)
		e.idle = nil
	}
}

// snapshot is the state of an engine at one moment.
type snapshot struct {
	totals
	running, waiting int
	cached           int // tokens of the sequences in the slots: what the KV cache holds
}

func (e *engine) snapshot() snapshot {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.catchUp()
	s := snapshot{totals: e.totals, running: e.inSlots(), waiting: e.waiting.Len()}
	for _, q := range e.running {
		n := q.generated(e.steps)
		s.generatedTokens += n
		s.cached += q.prompt + n
	}
	e.arm()
	return s
}

// seqHeap has the sequence that ends next on top.
type seqHeap []*sequence

var _ heap.Interface = (*seqHeap)(nil)

func (h seqHeap) Len() int           { return len(h) }
func (h seqHeap) Less(i, j int) bool { return h[i].finish() < h[j].finish() }
func (h seqHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].heapPos, h[j].heapPos = i, j
}

// Push is part of heap.Interface.
func (h *seqHeap) Push(x any) {
	s := x.(*sequence)
	s.heapPos = len(*h)
	*h = append(*h, s)
}

// Pop is part of heap.Interface.
func (h *seqHeap) Pop() any {
	old := *h
	s := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return s
}
