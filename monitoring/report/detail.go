package report

import (
	"cmp"
	"slices"
	"strings"

	"spool/storage/batch"
)

// finishes are the reasons why answers ended, the most frequent first; nil if no runner recorded any.
func finishes(runners []batch.Runner) []fact {
	sums, all := map[string]int64{}, int64(0)
	for _, r := range runners {
		for reason, n := range r.Finish {
			sums[plain(reason, 40)] += max(0, n)
			all += max(0, n)
		}
	}
	var reasons []string
	for reason := range sums {
		reasons = append(reasons, reason)
	}
	slices.SortFunc(reasons, func(a, b string) int { return cmp.Or(cmp.Compare(sums[b], sums[a]), cmp.Compare(a, b)) })
	var list []fact
	for _, reason := range reasons[:min(len(reasons), maxFinishes)] {
		list = append(list, fact{reason, count(sums[reason]) + " (" + percent(float64(sums[reason]), float64(all)) + ")" + finishText(reason)})
	}
	return list
}

func finishText(reason string) string {
	switch reason {
	case "length", "incomplete":
		return ", cut off by max_tokens or the model's length"
	case "content_filter":
		return ", withheld by the engine"
	}
	return ""
}

// timeRow is the quantiles of what engines tell of their own time.
type timeRow struct{ Name, P50, P90, P95, P99, Max, Count string }

// engineTimes has a row for each part of a request's time; nil if no engine told any.
func engineTimes(runners []batch.Runner) []timeRow {
	var rows []timeRow
	for _, part := range []struct {
		name string
		of   func(*batch.EngineTimes) batch.Latencies
	}{
		{"queued in the engine", func(t *batch.EngineTimes) batch.Latencies { return t.Queue }},
		{"to the first token", func(t *batch.EngineTimes) batch.Latencies { return t.FirstToken }},
		{"decoding", func(t *batch.EngineTimes) batch.Latencies { return t.Decode }},
		{"between two tokens", func(t *batch.EngineTimes) batch.Latencies { return t.InterToken }},
	} {
		var all []batch.Latencies
		for _, r := range runners {
			if r.Times != nil {
				all = append(all, part.of(r.Times))
			}
		}
		if q := batch.MergeLatencies(all...).Summary(); q != nil {
			ms := func(f float64) string { return span(f / 1000) }
			rows = append(rows, timeRow{part.name, ms(q.P50), ms(q.P90), ms(q.P95), ms(q.P99), "< " + ms(q.Max), count(q.Count)})
		}
	}
	return rows
}

// chunkRow is a chunk in the table of slow ones.
type chunkRow struct{ Chunk, Lines, Failed, Took, Rate, Runner string }

// slowChunks has the chunks that took longest, of all runners, the slowest first.
func slowChunks(runners []batch.Runner) []chunkRow {
	type slow struct {
		batch.SlowChunk
		runner string
	}
	var all []slow
	for _, r := range runners {
		for _, c := range r.Slowest {
			all = append(all, slow{c, r.Runner})
		}
	}
	slices.SortStableFunc(all, func(a, b slow) int { return cmp.Or(cmp.Compare(b.Seconds, a.Seconds), cmp.Compare(a.Chunk, b.Chunk)) })
	var rows []chunkRow
	for _, c := range all[:min(len(all), maxChunks)] {
		row := chunkRow{count(int64(c.Chunk)), count(c.Lines), count(c.Failed), span(c.Seconds), "–", plain(c.runner, 60)}
		if c.Seconds > 0 {
			row.Rate = decimal(float64(c.Lines) / c.Seconds)
		}
		rows = append(rows, row)
	}
	return rows
}

// requests are how often engines were asked.
func requests(s *batch.Summary) string {
	var sent, retries, resumed int64
	for _, r := range s.Runners {
		sent, retries, resumed = sent+r.Requests, retries+r.Retries, resumed+r.Resumed
	}
	if sent == 0 {
		return ""
	}
	text := plural(sent, "request") + ", of them " + count(retries) + " tried again by the same runner"
	if again := sent - s.Lines.OK - s.Lines.Failed; askedOnce(s) && again >= retries { // else a request is in no record
		text = plural(sent, "request") + ", " + count(again) + " of them asked again"
	}
	if resumed > 0 {
		text += "; " + lines(resumed) + " taken over from runners that went"
	}
	return text
}

// askedOnce reports whether each line that is answered or failed was asked at least once, no other line was, and the runners'
// records are whole.
func askedOnce(s *batch.Summary) bool {
	var recorded int64
	for _, r := range s.Runners {
		if r.EndedAt == 0 && r.Runner != s.Finalizer {
			return false
		}
		recorded += r.OK + r.Err
	}
	return cutOff(s) == 0 && recorded == s.Lines.OK+s.Lines.Failed
}

// fileSizes says how large the results are; "" for none.
func fileSizes(s *batch.Summary) string {
	var parts []string
	if !rejected(s) {
		parts = append(parts, batch.OutputName+" has "+size(float64(s.Bytes.Output)))
	}
	if s.Bytes.Errors > 0 {
		parts = append(parts, batch.ErrorsName+" "+size(float64(s.Bytes.Errors)))
	}
	return strings.Join(parts, ", ")
}

// gpuFlow is the state of the GPUs of all runners over time.
type gpuFlow struct {
	timeline
	busy, memory, heat, power gauge
}

// gauge is something that was read over time, in the slots of a timeline.
type gauge struct{ sum, weight, most []float64 }

func newGauge(size int) gauge {
	return gauge{make([]float64, size), make([]float64, size), make([]float64, size)}
}

// add takes in value number i of a series for a part of slot b, if it was read.
func (g *gauge) add(b int, part float64, values []float64, i int) {
	if i < len(values) {
		g.sum[b] += part * values[i]
		g.weight[b] += part
		g.most[b] = max(g.most[b], values[i])
	}
}

// mean gives the means in another unit.
func (g *gauge) mean(unit float64) []float64 {
	means := make([]float64, len(g.sum))
	for i := range means {
		if g.weight[i] > 0 {
			means[i] = g.sum[i] / g.weight[i] / unit
		}
	}
	return means
}

// newGPUFlow lays the runners' series over each other; nil if there is none.
func newGPUFlow(runners []batch.Runner) *gpuFlow {
	t, used := newTimeline(runners, func(r *batch.Runner) (float64, int) {
		if r.GPUSeries == nil {
			return 0, 0
		}
		return r.GPUSeries.SlotSeconds, len(r.GPUSeries.Samples)
	})
	if used == nil {
		return nil
	}
	f := &gpuFlow{t, newGauge(t.size), newGauge(t.size), newGauge(t.size), newGauge(t.size)}
	for _, r := range used {
		f.add(r)
	}
	return f
}

// add takes in a runner's series; where it has no sample nobody looked.
func (f *gpuFlow) add(r *batch.Runner) {
	s := r.GPUSeries
	for i, samples := range s.Samples {
		if samples <= 0 {
			continue
		}
		for b, part := range f.covered(r, s.SlotSeconds, i) {
			f.busy.add(b, part, s.Utilization, i)
			f.memory.add(b, part, s.MemoryUsed, i)
			f.heat.add(b, part, s.Temperature, i)
			f.power.add(b, part, s.Power, i)
		}
	}
}

// charts draws what was recorded.
func (f *gpuFlow) charts() []*columns {
	all := []*columns{
		f.slotChart("Utilisation over time, mean of the GPUs", "%", f.busy.mean(0.01)),
		f.slotChart("Memory over time, mean of the GPUs", "GB", f.memory.mean(1e9)),
		f.slotChart("Temperature over time, of the hottest", "°C", f.heat.most),
		f.slotChart("Power over time, of all GPUs together", "W", f.power.sum),
	}
	return slices.DeleteFunc(all, func(c *columns) bool { return c == nil })
}

// slotChart draws values over time, as they are; nil if all are 0.
func (t timeline) slotChart(title, unit string, values []float64) *columns {
	c := newColumns(title, unit, values, func(i int) string {
		return span(float64(i)*t.slot) + " to " + span(float64(i+1)*t.slot) + ": " + amount(values[i], unit)
	})
	if c != nil {
		all := t.slot * float64(len(values))
		c.Left, c.Middle, c.Right = "0", span(all/2), span(all)
	}
	return c
}
