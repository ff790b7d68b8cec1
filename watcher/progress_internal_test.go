package watcher

import (
	"container/heap"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"spool/storage/batch"
)

// run is a batch as runners work on it: each has slots that take the next line of its shards, which are committed chunk by
// chunk, and a record that it renews every 30 s.
type run struct {
	lines int
	took  func(*rand.Rand) float64 // seconds of a line
	start []float64                // seconds after which each runner takes its first line
	leave []leaving

	random *rand.Rand
	queue  events
	jobs   []job
	chunks [][2]int64 // lines, lines done
	doing  []*worker
}

// leaving is the end of a runner that has work still. Others go on with it.
type leaving struct {
	who    int
	at     float64
	killed bool // else it is handed over
}

// job is the message of a shard, and from when on runners see it.
type job struct {
	shard int
	at    float64
}

// Seconds after which the job of a runner that has left comes back.
const (
	handOverTime = 2.0
	crashTime    = 120.0
)

// worker is a runner of a run.
type worker struct {
	present    bool
	shards     []int   // that it holds
	since      float64 // when it took the first of these
	busy       float64 // seconds in which it held some, before
	todo       []int   // the chunks of their lines that nobody has asked
	inFlight   int
	unsaved    []int // the chunks of the results since the last record
	open, done int64
	resumed    int64
	requests   int64
	answered   int64
	written    written
}

// written is a record as it was last written.
type written struct {
	at float64
	batch.Runner
}

// event is the end of a line of a chunk, if that is not one of these.
type event struct {
	at    float64
	who   *worker
	chunk int
}

const (
	begins   = -1 - iota
	renews   // its record
	endsWell // and hands over
	crashes
	jobsBack // for anybody who has free slots
)

type events []event

func (e events) Len() int           { return len(e) }
func (e events) Less(i, k int) bool { return e[i].at < e[k].at }
func (e events) Swap(i, k int)      { e[i], e[k] = e[k], e[i] }
func (e *events) Push(x any)        { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

// slots are the lines that a runner asks at once.
const slots = 64

// guess is what the watcher thought at some time.
type guess struct {
	at, left float64 // infinite if it knew nothing
	done     float64 // part of the lines that had a result
}

// play works through the run, has the estimator look every statusEvery, and gives what it said, and when it was all over.
func (r *run) play(seed uint64) (said []guess, end float64) {
	r.random = rand.New(rand.NewPCG(seed, 1))
	plan := &batch.Plan{Verdict: batch.Accepted, Lines: int64(r.lines)}
	for left := r.lines; left > 0; left -= batch.ChunkLines {
		if len(r.chunks)%batch.DefaultShardChunks == 0 {
			plan.Shards = append(plan.Shards, batch.Shard{})
		}
		n := min(left, batch.ChunkLines)
		shard := &plan.Shards[len(plan.Shards)-1]
		shard.Chunks = append(shard.Chunks, batch.PlanChunk{Lines: n})
		r.chunks = append(r.chunks, [2]int64{int64(n), 0})
	}
	for n := range plan.Shards {
		r.jobs = append(r.jobs, job{shard: n})
	}
	for _, at := range r.start {
		w := &worker{}
		r.doing = append(r.doing, w)
		heap.Push(&r.queue, event{at, w, begins})
		heap.Push(&r.queue, event{at + 30, w, renews})
	}
	for _, l := range r.leave {
		how := endsWell
		if l.killed {
			how = crashes
		}
		heap.Push(&r.queue, event{l.at, r.doing[l.who], how})
	}
	p := &progress{chunks: map[int]batch.Counts{}}
	look, epoch, answered := statusEvery.Seconds(), time.Unix(1_700_000_000, 0), 0
	for answered < r.lines {
		e := heap.Pop(&r.queue).(event)
		for ; look <= e.at; look += statusEvery.Seconds() {
			r.look(p, plan, epoch.Add(time.Duration(look*float64(time.Second))), look)
			g := guess{look, math.Inf(1), float64(answered) / float64(r.lines)}
			if eta := p.eta(plan); eta != nil {
				g.left = float64(*eta)
			}
			said = append(said, g)
		}
		answered += r.happen(e)
		end = e.at
	}
	return said, end
}

// happen takes an event, and tells how many lines were answered.
func (r *run) happen(e event) int {
	w := e.who
	switch e.chunk {
	case begins:
		w.present = true
		r.fill(w, e.at)
		return 0
	case jobsBack:
		for _, w := range r.doing {
			r.fill(w, e.at)
		}
		return 0
	}
	if !w.present {
		return 0
	}
	switch e.chunk {
	case renews:
		if len(w.shards) > 0 {
			r.write(w, e.at)
		}
		heap.Push(&r.queue, event{e.at + 30, w, renews})
		return 0
	case endsWell:
		r.back(w, e.at+handOverTime)
		w.open = 0
		w.put(e.at)
		r.write(w, e.at)
		return 0
	case crashes:
		r.back(w, e.at+crashTime)
		return r.forget(w)
	}
	r.answer(w, e.chunk, e.at)
	return 1
}

// answer counts a line, and asks the next.
func (r *run) answer(w *worker, chunk int, now float64) {
	c := &r.chunks[chunk]
	c[1]++
	w.inFlight--
	w.open++
	w.answered++
	w.unsaved = append(w.unsaved, chunk)
	if c[1] == c[0] {
		w.open -= c[0]
		w.done += c[0]
	}
	r.fill(w, now)
	if shard := chunk / batch.DefaultShardChunks; r.left(shard) == 0 {
		w.put(now, shard)
		r.write(w, now)
	}
}

// back gives the jobs of a runner back that leaves.
func (r *run) back(w *worker, at float64) {
	w.present = false
	for _, shard := range w.shards {
		r.jobs = slices.Insert(r.jobs, 0, job{shard, at})
	}
	heap.Push(&r.queue, event{at, nil, jobsBack})
}

// forget takes away what only a runner that was killed knew of open chunks: here what came since its last record, which is
// more than in truth, and tells how many lines that is less.
func (r *run) forget(w *worker) (lines int) {
	for _, chunk := range w.unsaved {
		if c := &r.chunks[chunk]; c[1] < c[0] {
			c[1]--
			lines--
		}
	}
	return lines
}

// put says that the runner does not hold these shards any more, or any.
func (w *worker) put(now float64, shards ...int) {
	w.shards = slices.DeleteFunc(w.shards, func(n int) bool { return shards == nil || slices.Contains(shards, n) })
	if len(w.shards) == 0 {
		w.busy += now - w.since
	}
}

func (r *run) write(w *worker, at float64) {
	work := w.busy
	if len(w.shards) > 0 {
		work += at - w.since
	}
	w.unsaved = nil
	w.written = written{at, batch.Runner{
		OK: w.done, Open: w.open, Resumed: w.resumed, Requests: w.requests, Series: &batch.Series{Lines: []int64{w.answered}},
		Phases: []batch.Phase{{Name: batch.PhaseEngine, Seconds: 60}, {Name: batch.PhaseGenerate, Seconds: work}},
	}}
	if len(w.shards) == 0 {
		w.written.EndedAt = 1
	}
}

// fill begins the next lines of a runner, if there are some.
func (r *run) fill(w *worker, now float64) {
	for w.present && w.inFlight < slots && (len(w.todo) > 0 || r.take(w, now)) {
		heap.Push(&r.queue, event{now + r.took(r.random), w, w.todo[0]})
		w.todo = w.todo[1:]
		w.inFlight++
		w.requests++
	}
}

// take gives a runner the next shard, if there is one.
func (r *run) take(w *worker, now float64) bool {
	n := slices.IndexFunc(r.jobs, func(j job) bool { return j.at <= now })
	if n < 0 {
		return false
	}
	shard := r.jobs[n].shard
	r.jobs = slices.Delete(r.jobs, n, n+1)
	if len(w.shards) == 0 {
		w.since = now
	}
	w.shards = append(w.shards, shard)
	for i, c := range r.shard(shard) {
		if c[1] == c[0] {
			continue
		}
		w.open += c[1]
		w.resumed += c[1]
		w.todo = append(w.todo, slices.Repeat([]int{shard*batch.DefaultShardChunks + i}, int(c[0]-c[1]))...)
	}
	return true
}

// shard gives the chunks of a shard.
func (r *run) shard(n int) [][2]int64 {
	return r.chunks[n*batch.DefaultShardChunks : min(len(r.chunks), (n+1)*batch.DefaultShardChunks)]
}

// left gives the lines of a shard that have no result.
func (r *run) left(shard int) (lines int64) {
	for _, c := range r.shard(shard) {
		lines += c[0] - c[1]
	}
	return lines
}

// look has the estimator see what is in the bucket.
func (r *run) look(p *progress, plan *batch.Plan, at time.Time, now float64) {
	for n, c := range r.chunks {
		if c[0] == c[1] {
			p.chunks[n] = batch.Counts{OK: c[0]}
		}
	}
	p.begun = map[int]bool{}
	for n := range plan.Shards {
		p.begun[n] = !slices.ContainsFunc(r.jobs, func(j job) bool { return j.shard == n && j.at == 0 })
	}
	var said records
	for _, w := range r.doing {
		if w.written.at > 0 {
			said.add(recordOf(&w.written.Runner), time.Duration((now-w.written.at)*float64(time.Second)))
		}
	}
	p.sample(at, plan, said)
}

// longestLine is what a line takes at most: answers have a limit.
const longestLine = 300.0

func logNormal(median, sigma float64) func(*rand.Rand) float64 {
	return func(r *rand.Rand) float64 { return min(longestLine, median*math.Exp(sigma*r.NormFloat64())) }
}

// pareto has a mean of almost 3 times its least; one line in a thousand takes 100 times the least.
func pareto(least float64) func(*rand.Rand) float64 {
	return func(r *rand.Rand) float64 { return min(longestLine, least*math.Pow(1-r.Float64(), -1/1.5)) }
}

// Once a fifth of a batch is done, an end is told at every look. It is off by at most a fifth of the run, and the time left by
// at most a fifth until half is done, whatever the lines are like; but for runners that are yet to come or to leave, of which
// nobody knows.
func TestTimeLeftIsWithinAFifthOnceAFifthIsDone(t *testing.T) {
	for name, r := range map[string]run{
		"steady":                           {lines: 100_000, took: logNormal(2, 0.2), start: []float64{60}},
		"log-normal":                       {lines: 100_000, took: logNormal(2, 1.2), start: []float64{60}},
		"heavy tail":                       {lines: 100_000, took: pareto(1), start: []float64{60}},
		"model loads for 15 min":           {lines: 100_000, took: logNormal(2, 1.2), start: []float64{900}},
		"eight runners, one after another": {lines: 300_000, took: logNormal(2, 1.2), start: []float64{60, 90, 120, 150, 180, 210, 240, 270}},
		"seven come later":                 {lines: 300_000, took: logNormal(2, 1.2), start: []float64{60, 600, 600, 600, 660, 660, 660, 660}},
		"few lines":                        {lines: 9_000, took: logNormal(2, 1), start: []float64{60}},
		"slow lines, handed over": {
			lines: 25_000, took: logNormal(20, 0.8), start: []float64{60, 4060}, leave: []leaving{{who: 0, at: 4000}},
		},
		"slow lines, runner killed": {
			lines: 25_000, took: logNormal(20, 0.8), start: []float64{60, 4060}, leave: []leaving{{who: 0, at: 4000, killed: true}},
		},
		"one of four hands over": {
			lines: 150_000, took: logNormal(2, 1.2), start: []float64{60, 60, 60, 60}, leave: []leaving{{who: 2, at: 800}},
		},
		"one of four is killed": {
			lines: 150_000, took: logNormal(2, 1.2), start: []float64{60, 60, 60, 60}, leave: []leaving{{who: 2, at: 800, killed: true}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(3) {
				run := r
				looks, ofRun, ofLeft := run.judge(seed)
				t.Logf("%v: %d looks, off by at most %.3f of the run, %.3f of what is left", name, looks, ofRun, ofLeft)
				if looks < 10 || ofRun > 0.2 || ofLeft > 0.2 {
					t.Errorf("off by %.3f of the run, %.3f of what is left, in %d looks", ofRun, ofLeft, looks)
				}
			}
		})
	}
}

// judge gives the largest errors of what was told from a fifth on, and how often it was. That runners come or leave is known
// once they have been there for 90 s, or have not been for as long.
func (r *run) judge(seed uint64) (looks int, ofRun, ofLeft float64) {
	said, end := r.play(seed)
	known := slices.Max(r.start)
	for _, l := range r.leave {
		known = max(known, l.at)
	}
	for _, g := range said {
		if g.done < 0.2 || g.at < known+90 && !math.IsInf(g.left, 1) {
			continue
		}
		looks++
		off := math.Abs(g.at + g.left - end)
		ofRun = max(ofRun, off/(end-slices.Min(r.start)))
		if g.done <= 0.5 {
			ofLeft = max(ofLeft, off/(end-g.at))
		}
	}
	return looks, ofRun, ofLeft
}
