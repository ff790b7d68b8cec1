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

// run is a batch as runners work on it: each has slots that take the next line of its shard, which is committed chunk by
// chunk, and a record that it renews every 30 s.
type run struct {
	lines int
	took  func(*rand.Rand) float64 // seconds of a line
	start []float64                // seconds after which each runner takes its first line

	random *rand.Rand
	queue  events
	next   int        // shard
	chunks [][2]int64 // lines, lines done
	doing  []*worker
}

// worker is a runner of a run.
type worker struct {
	start      float64
	from, to   int // lines of its shard that nobody has asked
	open, done int64
	requests   int64
	written    written
}

// written is a record as it was last written.
type written struct {
	at float64
	batch.Runner
}

// event is the end of a line, or the renewal of a record.
type event struct {
	at    float64
	who   *worker
	chunk int // -1: the record is renewed; -2: it begins
}

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

const shardLines = batch.ChunkLines * batch.DefaultShardChunks

// guess is what the watcher thought at some time.
type guess struct {
	at, left float64
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
	for _, at := range r.start {
		w := &worker{start: at}
		r.doing = append(r.doing, w)
		heap.Push(&r.queue, event{at, w, -2})
		heap.Push(&r.queue, event{at + 30, w, -1})
	}
	p := &progress{chunks: map[int]batch.Counts{}}
	look, epoch, answered := statusEvery.Seconds(), time.Unix(1_700_000_000, 0), 0
	for answered < r.lines {
		e := heap.Pop(&r.queue).(event)
		for ; look <= e.at; look += statusEvery.Seconds() {
			r.look(p, plan, epoch.Add(time.Duration(look*float64(time.Second))), look)
			if eta := p.eta(plan); eta != nil {
				said = append(said, guess{look, float64(*eta), float64(answered) / float64(r.lines)})
			}
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
	case -2:
		for range slots {
			r.ask(w, e.at)
		}
		return 0
	case -1:
		r.write(w, e.at)
		heap.Push(&r.queue, event{e.at + 30, w, -1})
		return 0
	}
	c := &r.chunks[e.chunk]
	c[1]++
	w.open++
	if c[1] == c[0] {
		w.open -= c[0]
		w.done += c[0]
	}
	if r.ask(w, e.at); w.requests == w.done+w.open { // it has nothing left to do
		r.write(w, e.at)
	}
	return 1
}

func (r *run) write(w *worker, at float64) {
	w.written = written{at, batch.Runner{OK: w.done, Open: w.open, Requests: w.requests,
		Phases: []batch.Phase{{Name: batch.PhaseEngine, Seconds: w.start}, {Name: batch.PhaseGenerate, Seconds: at - w.start}}}}
	if w.requests == w.done+w.open {
		w.written.EndedAt = 1
	}
}

// ask begins the next line of a runner, if there is one.
func (r *run) ask(w *worker, now float64) {
	if w.from == w.to {
		if r.next*shardLines >= r.lines {
			return
		}
		w.from, w.to = r.next*shardLines, min(r.lines, (r.next+1)*shardLines)
		r.next++
	}
	heap.Push(&r.queue, event{now + r.took(r.random), w, w.from / batch.ChunkLines})
	w.from++
	w.requests++
}

// look has the estimator see what is in the bucket.
func (r *run) look(p *progress, plan *batch.Plan, at time.Time, now float64) {
	for n, c := range r.chunks {
		if c[0] == c[1] {
			p.chunks[n] = batch.Counts{OK: c[0]}
		}
	}
	p.begun = map[int]bool{}
	for n := range r.next {
		p.begun[n] = true
	}
	var said records
	for _, w := range r.doing {
		if w.written.at > 0 && now-w.written.at < recordFresh.Seconds() {
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

// Once a fifth of a batch is done, the end that is told is off by at most a fifth of the run, and the time left by at most a
// fifth until half is done, whatever the lines are like; but for runners that are yet to come, of which nobody knows.
func TestTimeLeftIsWithinAFifthOnceAFifthIsDone(t *testing.T) {
	for name, r := range map[string]run{
		"steady":                           {lines: 100_000, took: logNormal(2, 0.2), start: []float64{60}},
		"log-normal":                       {lines: 100_000, took: logNormal(2, 1.2), start: []float64{60}},
		"heavy tail":                       {lines: 100_000, took: pareto(1), start: []float64{60}},
		"model loads for 15 min":           {lines: 100_000, took: logNormal(2, 1.2), start: []float64{900}},
		"eight runners, one after another": {lines: 300_000, took: logNormal(2, 1.2), start: []float64{60, 90, 120, 150, 180, 210, 240, 270}},
		"seven come later":                 {lines: 300_000, took: logNormal(2, 1.2), start: []float64{60, 600, 600, 600, 660, 660, 660, 660}},
		"few lines":                        {lines: 9_000, took: logNormal(2, 1), start: []float64{60}},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(3) {
				run := r
				looks, ofRun, ofLeft := run.judge(seed)
				t.Logf("%d looks, off by at most %.3f of the run, %.3f of what is left", looks, ofRun, ofLeft)
				if looks < 10 || ofRun > 0.2 || ofLeft > 0.2 {
					t.Errorf("off by %.3f of the run, %.3f of what is left, in %d looks", ofRun, ofLeft, looks)
				}
			}
		})
	}
}

// judge gives the largest errors of what was told from a fifth on, and how often it was.
func (r *run) judge(seed uint64) (looks int, ofRun, ofLeft float64) {
	said, end := r.play(seed)
	known := slices.Max(r.start) + 90 // that all runners are there
	for _, g := range said {
		if g.done < 0.2 || g.at < known {
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
