package report

import (
	"cmp"
	"math"
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
func requests(runners []batch.Runner) string {
	var sent, again, resumed int64
	for _, r := range runners {
		sent, again, resumed = sent+r.Requests, again+r.Retries, resumed+r.Resumed
	}
	if sent == 0 {
		return ""
	}
	text := plural(sent, "request") + ", " + count(again) + " of them asked again"
	if resumed > 0 {
		text += "; " + lines(resumed) + " taken over from runners that went"
	}
	return text
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

// gpuFlow is the state of the GPUs of all runners over time, in slots of equal length. Where weight is 0 nobody looked.
type gpuFlow struct {
	slot                        float64 // seconds
	weight                      []float64
	busy, memory, heat, power   []float64
	busyOf, memoryOf            []float64
	hasBusy, hasMemory, hasHeat bool
	hasPower                    bool
}

// newGPUFlow lays the runners' series over each other; nil if there is none.
func newGPUFlow(runners []batch.Runner) *gpuFlow {
	start, end, slot := math.Inf(1), math.Inf(-1), 1.0
	usable := func(r *batch.Runner) bool {
		g := r.GPUSeries
		return g != nil && g.SlotSeconds > 0 && len(g.Samples) > 0 && len(g.Samples) <= batch.MaxSlots && r.StartedAt > 0
	}
	for i := range runners {
		if r := &runners[i]; usable(r) {
			start = min(start, float64(r.StartedAt))
			end = max(end, float64(r.StartedAt)+r.GPUSeries.SlotSeconds*float64(len(r.GPUSeries.Samples)))
			slot = max(slot, r.GPUSeries.SlotSeconds)
		}
	}
	if end < start {
		return nil
	}
	slot = max(slot, (end-start)/batch.MaxSlots)
	n := max(1, min(batch.MaxSlots, int(math.Ceil((end-start)/slot))))
	f := &gpuFlow{slot: slot}
	for _, list := range []*[]float64{&f.weight, &f.busy, &f.memory, &f.heat, &f.power, &f.busyOf, &f.memoryOf} {
		*list = make([]float64, n)
	}
	for i := range runners {
		if r := &runners[i]; usable(r) {
			f.add(r.GPUSeries, (float64(r.StartedAt)-start)/slot)
		}
	}
	return f
}

// add lays a series over the slots: each of its slots counts for as much of a slot as it covers.
func (f *gpuFlow) add(g *batch.GPUSeries, at float64) {
	length := g.SlotSeconds / f.slot
	for i, samples := range g.Samples {
		from := at + float64(i)*length
		for b := max(0, int(from)); b < len(f.weight) && float64(b) < from+length && samples > 0; b++ {
			part := min(from+length, float64(b+1)) - max(from, float64(b))
			f.weight[b] += part
			if i < len(g.Utilization) {
				f.hasBusy = true
				f.busy[b] += part * g.Utilization[i]
				f.busyOf[b] += part
			}
			if i < len(g.MemoryUsed) {
				f.hasMemory = true
				f.memory[b] += part * g.MemoryUsed[i]
				f.memoryOf[b] += part
			}
			if i < len(g.Temperature) {
				f.hasHeat = true
				f.heat[b] = max(f.heat[b], g.Temperature[i])
			}
			if i < len(g.Power) {
				f.hasPower = true
				f.power[b] += part * g.Power[i]
			}
		}
	}
}

// charts draws what was recorded.
func (f *gpuFlow) charts() []*columns {
	mean := func(sums, of []float64, unit float64) []float64 {
		means := make([]float64, len(sums))
		for i := range sums {
			if of[i] > 0 {
				means[i] = sums[i] / of[i] / unit
			}
		}
		return means
	}
	var list []*columns
	for _, c := range []struct {
		there       bool
		title, unit string
		values      []float64
	}{
		{f.hasBusy, "Utilisation over time, mean of the GPUs", "%", mean(f.busy, f.busyOf, 0.01)},
		{f.hasMemory, "Memory over time, mean of the GPUs", "GB", mean(f.memory, f.memoryOf, 1e9)},
		{f.hasHeat, "Temperature over time, of the hottest", "°C", f.heat},
		{f.hasPower, "Power over time, of all GPUs together", "W", f.power},
	} {
		if !c.there {
			continue
		}
		if chart := slotChart(c.title, c.unit, f.slot, c.values); chart != nil {
			list = append(list, chart)
		}
	}
	return list
}

// slotChart draws values over time, as they are.
func slotChart(title, unit string, slot float64, values []float64) *columns {
	c := newColumns(title, values, func(i int) string {
		return span(float64(i)*slot) + " to " + span(float64(i+1)*slot) + ": " + decimal(values[i]) + " " + unit
	})
	if c != nil {
		all := slot * float64(len(values))
		c.Top += " " + unit
		c.Left, c.Middle, c.Right = "0", span(all/2), span(all)
	}
	return c
}
