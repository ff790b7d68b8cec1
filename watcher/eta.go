package watcher

import (
	"slices"
	"time"

	"spool/storage/batch"
)

// records are what the records of runners say together. They are up to 30 s old.
type records struct {
	stored   int64         // lines of chunks that the runners stored
	open     int64         // lines with a result in other chunks
	age      time.Duration // of the oldest record with such lines
	workers  int           // runners that ask engines
	answered int64         // lines that got their result from engines, whoever left or died since: it never falls
	work     float64       // seconds in which the runners asked for these
}

// record is what the record of a runner says of that.
type record struct {
	etag                   string
	stored, open, answered int64
	work                   float64
	asks                   bool
}

func recordOf(r *batch.Runner) record {
	rec := record{stored: r.OK + r.Err, open: r.Open, answered: r.Series.Ended(), asks: r.Requests > 0 && r.EndedAt == 0}
	for _, p := range r.Phases {
		if p.Name == batch.PhaseGenerate {
			rec.work += p.Seconds
		}
	}
	return rec
}

// add takes a record. One that was not renewed is that of a runner that died, or has left: nothing is open there.
func (r *records) add(rec record, age time.Duration) {
	r.stored += rec.stored
	r.answered += rec.answered
	r.work += rec.work
	if age > recordFresh {
		return
	}
	if rec.open > 0 {
		r.open += rec.open
		r.age = max(r.age, age)
	}
	if rec.asks {
		r.workers++
	}
}

// sample is how far a batch was at some time.
type sample struct {
	at     time.Time
	stored int64 // lines
	lines  int64 // these, and those of chunks in the works
	said   records
}

// sample notes how far the batch is. What was stored before the records were written is open in none of them, whether or
// not they tell of it: a runner that is killed may have stored more than its last record says.
func (p *progress) sample(now time.Time, plan *batch.Plan, said records) {
	said.stored = max(said.stored, p.storedBefore(now.Add(-said.age)))
	p.said = said
	c := p.counts()
	p.samples = append(p.samples, sample{now, c.OK + c.Err, c.OK + c.Err + p.ahead(plan), said})
	p.samples = p.samples[max(0, len(p.samples)-samplesKept):]
}

// storedBefore gives the lines that were stored before some time, as far as samples say it.
func (p *progress) storedBefore(t time.Time) int64 {
	for _, s := range slices.Backward(p.samples) {
		if !s.at.After(t) {
			return s.stored
		}
	}
	return 0
}

// eta is the time left at the rate of the last samples; nil while none is known. Of runners whose records are there the rate
// is that of one at work, so that neither those that come nor the time in which models are loaded make it wrong. While nobody
// is at work, it is that of all who were: others take over.
func (p *progress) eta(plan *batch.Plan) *int64 {
	if len(p.samples) < 2 {
		return nil
	}
	first, last := p.samples[0], p.samples[len(p.samples)-1]
	lines, seconds := last.lines-first.lines, last.at.Sub(first.at).Seconds()
	left := float64(plan.Requests() - last.lines)
	if answered := last.said.answered - first.said.answered; answered > 0 {
		lines = answered
		if work := last.said.work - first.said.work; work > 0 && last.said.workers > 0 {
			seconds, left = work, p.longest(plan, last.said.workers)
		}
	}
	if lines <= 0 || seconds <= 0 {
		return nil
	}
	eta := int64(left / (float64(lines) / seconds))
	return &eta
}

// longest is how many lines the worker has yet to answer that will end last. A shard is never shared, so that some workers
// have nothing left to do while others end theirs.
func (p *progress) longest(plan *batch.Plan, workers int) float64 {
	var begun, waiting []float64 // lines left of each shard
	sum, chunk := 0.0, 0
	for n, shard := range plan.Shards {
		left := 0.0
		for _, c := range shard.Chunks {
			if _, stored := p.chunks[chunk]; !stored && !p.shards[n] {
				left += float64(c.Requests())
			}
			chunk++
		}
		if p.begun[n] {
			begun = append(begun, left)
			sum += left
		} else if left > 0 {
			waiting = append(waiting, left)
		}
	}
	if sum > 0 { // nobody knows whose lines have a result already
		for i := range begun {
			begun[i] *= 1 - min(1, float64(p.ahead(plan))/sum)
		}
	}
	slices.Sort(begun)
	slices.Reverse(begun)
	loads := make([]float64, workers)
	for _, left := range slices.Concat(begun, waiting) {
		loads[slices.Index(loads, slices.Min(loads))] += left
	}
	return slices.Max(loads)
}
