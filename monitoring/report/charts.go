package report

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"

	"spool/storage/batch"
)

// Charts are SVG of 1,000 × 100 units that is stretched to its place; their words stand around it as text, so that they
// stay readable on a phone.
const (
	chartWidth  = 1000.0
	chartHeight = 100.0
)

// units writes a coordinate, to a tenth.
func units(f float64) string {
	if math.IsNaN(f) {
		f = 0
	}
	return strconv.FormatFloat(math.Round(10*max(0, min(f, chartWidth)))/10, 'f', -1, 64)
}

// columns is a bar chart.
type columns struct {
	Title               string // what it shows, for who cannot see it
	Top                 string // the value at the upper edge
	Left, Middle, Right string // below
	Note                string
	Bars                []bar
}

type bar struct{ X, Y, W, H, Tip string }

// newColumns draws values of a unit, with what tip says of each. It returns nil if all are 0.
func newColumns(title, unit string, values []float64, tip func(i int) string) *columns {
	top := 0.0
	for _, v := range values {
		top = max(top, v)
	}
	if top <= 0 {
		return nil
	}
	c := &columns{Title: title, Top: amount(top, unit)}
	w := chartWidth / float64(len(values))
	for i, v := range values {
		if v <= 0 {
			continue
		}
		h := max(chartHeight*v/top, 0.5)
		c.Bars = append(c.Bars, bar{units(float64(i) * w), units(chartHeight - h), units(w * 0.92), units(h), tip(i)})
	}
	return c
}

// timeline lays the series of all runners over each other, in slots of equal length.
type timeline struct {
	start float64 // Unix seconds
	slot  float64 // seconds
	size  int     // slots
}

// newTimeline covers the series that of gives the length and the number of slots of, and lists the runners that have one.
func newTimeline(runners []batch.Runner, of func(*batch.Runner) (slot float64, n int)) (t timeline, used []*batch.Runner) {
	start, end, longest := math.Inf(1), math.Inf(-1), 1.0
	for i := range runners {
		r := &runners[i]
		slot, n := of(r)
		if slot <= 0 || n == 0 || n > batch.MaxSlots || r.StartedAt <= 0 {
			continue
		}
		used = append(used, r)
		start = min(start, float64(r.StartedAt))
		end = max(end, float64(r.StartedAt)+slot*float64(n))
		longest = max(longest, slot)
	}
	if used == nil {
		return t, nil
	}
	t = timeline{start: start, slot: max(longest, (end-start)/batch.MaxSlots)}
	t.size = max(1, min(batch.MaxSlots, int(math.Ceil((end-start)/t.slot))))
	return t, used
}

// covered gives the slots that slot i of a runner's series overlaps, and how much of each, 0 to 1.
func (t timeline) covered(r *batch.Runner, slot float64, i int) iter.Seq2[int, float64] {
	from := (float64(r.StartedAt) - t.start + float64(i)*slot) / t.slot
	to := from + slot/t.slot
	return func(yield func(int, float64) bool) {
		for b := max(0, int(from)); b < t.size && float64(b) < to; b++ {
			if !yield(b, min(to, float64(b+1))-max(from, float64(b))) {
				return
			}
		}
	}
}

// flow is the work of all runners over time.
type flow struct {
	timeline
	lines   []float64
	tokens  []float64
	chunks  []float64 // stored
	retries []float64
	runners int // that recorded it
}

// newFlow adds the series of runners; nil if there is none.
func newFlow(runners []batch.Runner) *flow {
	t, used := newTimeline(runners, func(r *batch.Runner) (float64, int) {
		if r.Series == nil {
			return 0, 0
		}
		return r.Series.SlotSeconds, len(r.Series.Lines)
	})
	if used == nil {
		return nil
	}
	f := &flow{timeline: t, runners: len(used)}
	for _, list := range []*[]float64{&f.lines, &f.tokens, &f.chunks, &f.retries} {
		*list = make([]float64, t.size)
	}
	for _, r := range used {
		f.spread(f.lines, r, r.Series.Lines)
		f.spread(f.tokens, r, r.Series.OutputTokens)
		f.spread(f.chunks, r, r.Series.Chunks)
		f.spread(f.retries, r, r.Series.Retries)
	}
	return f
}

// spread adds the values of a runner's series, each in parts to the slots that it overlaps.
func (f *flow) spread(into []float64, r *batch.Runner, values []int64) {
	length := r.Series.SlotSeconds
	for i, v := range values[:min(len(values), batch.MaxSlots)] {
		for b, part := range f.covered(r, length, i) {
			into[b] += float64(max(0, v)) * part * f.slot / length
		}
	}
}

// chart draws one of them as a rate a second.
func (f *flow) chart(title, unit string, values []float64) *columns {
	rates := make([]float64, len(values))
	for i, v := range values {
		rates[i] = v / f.slot
	}
	return f.slotChart(title, unit, rates)
}

// Of the chart of latencies.
const (
	perOctave  = 4              // columns for a doubling
	perColumn  = 16 / perOctave // buckets of a column
	maxFar     = 0.02           // part of the requests that may be left out at an end, as far from all others
	farColumns = 2 * perOctave  // so many empty columns are far
)

// latencyChart draws the buckets, some together, from the first that is not empty to the last, and says what a column stands for.
// A few requests that took far shorter or longer than all others are said, not drawn: they would leave the chart empty.
func latencyChart(l batch.Latencies) *columns {
	first, last := -1, -1
	for _, b := range l {
		if first < 0 {
			first = int(b[0]) / perColumn
		}
		last = int(b[0]) / perColumn
	}
	if first < 0 {
		return nil
	}
	values := make([]float64, last-first+1)
	for _, b := range l {
		values[int(b[0])/perColumn-first] += float64(b[1])
	}
	from := func(i int) string { return took(batch.LatencyFrom((first + i) * perColumn)) }
	note := "Each column is a quarter of a doubling: the scale is logarithmic."
	if i, n := far(values); n > 0 {
		note += fmt.Sprintf(" Not drawn: %s that took less than %s.", plural(n, "request"), from(i))
		values, first = values[i:], first+i
	}
	slices.Reverse(values)
	i, n := far(values)
	slices.Reverse(values)
	if n > 0 {
		note += fmt.Sprintf(" Not drawn: %s that took more than %s.", plural(n, "request"), from(len(values)-i))
		values = values[:len(values)-i]
	}
	c := newColumns("Requests by how long they took", "requests", values, func(i int) string {
		return from(i) + " to " + from(i+1) + ": " + plural(int64(values[i]), "request")
	})
	if c != nil {
		c.Left, c.Right = from(0), from(len(values))
		if len(values) > 1 {
			c.Middle = took(batch.LatencyFrom((2*first + len(values)) * perColumn / 2))
		}
		c.Note = note
	}
	return c
}

// far looks for the first columns that have a small part of all in them and stand far before the others. It gives the first of
// the others, and how many there are before it; 0 if there are no such columns.
func far(values []float64) (next int, n int64) {
	all := 0.0
	for _, v := range values {
		all += v
	}
	sum, empty := 0.0, 0
	for i, v := range values {
		if v <= 0 {
			empty++
			continue
		}
		if empty >= farColumns {
			next, n = i, int64(sum)
		}
		empty = 0
		if sum += v; sum > maxFar*all {
			break
		}
	}
	return next, n
}

func took(d time.Duration) string { return span(d.Seconds()) }

// lane is a row of the chart of phases.
type lane struct {
	Name, Note string
	Parts      []part
}

type part struct{ Kind, X, W, Tip string }

// key is an entry of its legend.
type key struct{ Kind, Name, Seconds, Share string }

// Phases of a batch, beside those of its runners.
const (
	phasePlan  = "plan"
	phaseQueue = "queue"
	phaseRun   = "run"
	phaseStop  = "stop"
)

// kind is the class of the style for a phase.
func kind(name string) string {
	switch name {
	case batch.PhaseEngine, batch.PhaseGenerate, batch.PhaseStore, batch.PhaseIdle, batch.PhaseDrain:
		return name
	case phasePlan:
		return batch.PhaseStore
	case phaseQueue:
		return batch.PhaseEngine
	case phaseRun:
		return batch.PhaseGenerate
	case phaseStop:
		return batch.PhaseDrain
	}
	return "other"
}

// phaseText says what a phase is.
func phaseText(name string) string {
	switch name {
	case batch.PhaseEngine:
		return "waiting for the engine"
	case batch.PhaseGenerate:
		return "generating"
	case batch.PhaseStore:
		return "reading and storing"
	case batch.PhaseIdle:
		return "idle"
	case batch.PhaseDrain:
		return "handing over"
	case phasePlan:
		return "being checked and planned"
	case phaseQueue:
		return "waiting in the queue"
	case phaseRun:
		return "running"
	case phaseStop:
		return "being stopped"
	}
	return plain(name, 40)
}

// gantt is a chart of phases.
type gantt struct {
	Title       string
	Lanes       []lane
	Keys        []key
	Left, Right string
	More        int // runners that are not shown
}

// course draws the way of a batch from upload to end, by the store's clock; nil of a file that was refused.
func course(s *batch.Summary) *gantt {
	t := s.Times
	if rejected(s) || t.Uploaded <= 0 || t.Finalized <= t.Uploaded {
		return nil
	}
	var phases []batch.Phase
	at := t.Uploaded
	for _, p := range []struct {
		name string
		end  int64
	}{
		{phasePlan, t.Created}, {phaseQueue, cmp.Or(t.InProgress, t.Stopped, t.Finalized)}, {phaseRun, cmp.Or(t.Stopped, t.Finalized)}, {phaseStop, t.Finalized},
	} {
		end := max(at, min(p.end, t.Finalized)) // a runner's clock may say when it began
		phases = batch.AddPhase(phases, p.name, float64(end-at))
		at = end
	}
	return newGantt("From upload to end", []batch.Runner{{Runner: "the batch", StartedAt: t.Uploaded, EndedAt: t.Finalized, Phases: phases}})
}

// newGantt draws the runners' phases, the longest held first; nil if no runner recorded any.
func newGantt(title string, runners []batch.Runner) *gantt {
	var with []batch.Runner
	start, end := int64(math.MaxInt64), int64(0)
	for _, r := range runners {
		if len(r.Phases) > 0 && len(r.Phases) <= batch.MaxPhases && r.StartedAt > 0 {
			with = append(with, r)
			start, end = min(start, r.StartedAt), max(end, ended(&r))
		}
	}
	if len(with) == 0 {
		return nil
	}
	slices.SortStableFunc(with, func(a, b batch.Runner) int { return cmp.Compare(held(&b), held(&a)) })
	g := &gantt{Title: title, Left: clock(start), Right: clock(end), Keys: keys(with)}
	shown := with[:min(len(with), maxRunners)]
	g.More = len(with) - len(shown)
	slices.SortStableFunc(shown, func(a, b batch.Runner) int { return cmp.Compare(a.StartedAt, b.StartedAt) })
	perSecond := chartWidth / max(1, float64(end-start))
	for i := range shown {
		r := &shown[i]
		l := lane{Name: plain(r.Runner, 60), Note: span(float64(held(r)))}
		l.draw(fewer(r.Phases, maxParts/len(shown)), float64(r.StartedAt-start), perSecond)
		g.Lanes = append(g.Lanes, l)
	}
	return g
}

func (l *lane) draw(phases []batch.Phase, at, perSecond float64) {
	for _, p := range phases {
		name := "other"
		if kind(p.Name) != name {
			name = phaseText(p.Name)
		}
		seconds := max(0, p.Seconds)
		l.Parts = append(l.Parts, part{kind(p.Name), units(at * perSecond), units(max(seconds*perSecond, 1)), name + ": " + span(seconds)})
		at += seconds
	}
}

// fewer gives the shortest phases to what stands before them, until there are at most n: in the picture they could not be
// seen, and the sums have them.
func fewer(phases []batch.Phase, n int) []batch.Phase {
	phases = slices.Clone(phases)
	for len(phases) > max(n, 1) {
		short := 1
		for i := range phases {
			if i > 0 && phases[i].Seconds < phases[short].Seconds {
				short = i
			}
		}
		phases[short-1].Seconds += max(0, phases[short].Seconds)
		phases = slices.Delete(phases, short, short+1)
	}
	return phases
}

// keys sums the phases by name, the longest first.
func keys(runners []batch.Runner) []key {
	sums, kinds, all := map[string]float64{}, map[string]string{}, 0.0
	for _, r := range runners {
		for _, p := range r.Phases {
			name := phaseText(p.Name)
			kinds[name] = kind(p.Name)
			sums[name] += max(0, p.Seconds)
			all += max(0, p.Seconds)
		}
	}
	names := slices.SortedFunc(maps.Keys(sums), func(a, b string) int { return cmp.Or(cmp.Compare(sums[b], sums[a]), cmp.Compare(a, b)) })
	var list []key
	for _, name := range names[:min(len(names), 12)] {
		list = append(list, key{kinds[name], name, span(sums[name]), percent(sums[name], all)})
	}
	return list
}

// ended is the last that is known of a runner.
func ended(r *batch.Runner) int64 {
	if r.EndedAt > 0 {
		return r.EndedAt
	}
	return r.UpdatedAt
}

// held is how long a runner held the batch, in seconds.
func held(r *batch.Runner) int64 {
	if r.StartedAt <= 0 {
		return 0
	}
	return max(0, ended(r)-r.StartedAt)
}
