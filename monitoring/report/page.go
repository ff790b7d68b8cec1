package report

import (
	"cmp"
	"fmt"
	"html/template"
	"maps"
	"slices"
	"strings"
	"sync"

	"spool/storage/batch"
)

// page parses the template, once.
var page = sync.OnceValue(func() *template.Template { //nolint:gochecknoglobals // parsed once, never changed
	return template.Must(template.New("page").Parse(pageText))
})

// view is what the template shows: texts that are ready, and charts.
type view struct {
	CSS       template.CSS
	Key       string
	Batch     string
	Ended     string
	Verdict   verdict
	Tiles     []fact
	Complete  completeness
	Identity  []fact
	Options   []fact
	Engines   []engine
	Kinds     int // of engines
	Differ    string
	Mixed     []mixedRow
	MoreMix   int
	Ran       bool
	Times     []fact
	Course    *gantt
	Gantt     *gantt
	Runners   []runnerRow
	Hidden    int // runners that are not shown
	Flow      string
	Charts    []*columns
	Answered  bool // at least a line
	Latency   []fact
	Warning   string // about the latencies
	Spread    *columns
	Inside    []timeRow
	Slow      []chunkRow
	Requests  string
	Finish    []fact
	GPUCharts []*columns
	Sizes     string
	Logs      string
	GPUs      []gpuRow
	MoreGPUs  int
	GPUFacts  []fact
	Tokens    []fact
	Cost      []fact
	Errors    []errorRow
	Bad       []badRow
	MoreBad   int
	Next      []step
	Files     []string
}

func newPage(s *batch.Summary) *view {
	v := &view{
		CSS: template.CSS(pageCSS),
		Key: plain(s.Input.Key, 1024), Batch: plain(s.Batch, 60), Ended: clock(s.Times.Finalized),
		Verdict: judge(s), Tiles: tiles(s), Complete: complete(s), Identity: identity(s), Options: options(s),
		Ran: len(s.Runners) > 0 || s.Lines.OK+s.Lines.Failed > 0, Times: times(s), Course: course(s), Gantt: newGantt("What the runners did, by their own clocks", s.Runners),
		Tokens: tokens(s), Cost: cost(s), Errors: errorRows(s), Next: next(s), Files: files(s),
	}
	v.Engines = engines(s.Runners)
	v.Kinds = len(v.Engines)
	v.Engines = v.Engines[:min(len(v.Engines), maxEngines)]
	v.Differ = mixedNames(s)
	v.Mixed, v.MoreMix = mixedRows(s)
	v.Runners, v.Hidden = runnerRows(s)
	v.addFlow(s)
	v.Inside, v.Slow, v.Requests, v.Finish = engineTimes(s.Runners), slowChunks(s.Runners), requests(s), finishes(s.Runners)
	v.Sizes = fileSizes(s)
	v.Logs = plain("s3://"+s.Input.Bucket+"/"+batch.LogDir(s.Input.Key, s.Batch), 1200)
	v.Answered = s.Lines.OK > 0
	v.addLatency(s)
	v.addGPUs(s)
	v.Bad, v.MoreBad = badRows(s)
	return v
}

// shorten leaves out most of what there may be many of.
func (v *view) shorten() {
	const few = 5
	v.MoreGPUs += len(v.GPUs) - min(len(v.GPUs), few)
	v.GPUs = v.GPUs[:min(len(v.GPUs), few)]
	v.Hidden += len(v.Runners) - min(len(v.Runners), few)
	v.Runners = v.Runners[:min(len(v.Runners), few)]
	v.Engines = v.Engines[:min(len(v.Engines), 1)]
	v.MoreMix += len(v.Mixed) - min(len(v.Mixed), 2*few)
	v.Mixed = v.Mixed[:min(len(v.Mixed), 2*few)]
	v.Errors = v.Errors[:min(len(v.Errors), 2*few)]
	if g := v.Gantt; g != nil {
		g.More += len(g.Lanes) - min(len(g.Lanes), few)
		g.Lanes = g.Lanes[:min(len(g.Lanes), few)]
	}
}

// tiles are the figures that people look for first.
func tiles(s *batch.Summary) []fact {
	t := []fact{{"lines answered", count(s.Lines.OK)}, {"lines without an answer", count(unanswered(s))}}
	if rejected(s) {
		return []fact{{"lines", count(s.Lines.Total)}, {"bad lines", count(s.Lines.Invalid)}, {"lines run", "0"}, {"checked in", span(float64(s.Seconds.Total))}}
	}
	t = append(t, fact{"from upload to end", span(float64(s.Seconds.Total))})
	if r := rate(s); r > 0 {
		t = append(t, fact{"lines a second", decimal(r)})
		if s.Usage.OutputTokens > 0 {
			t = append(t, fact{"output tokens a second", decimal(s.Rates.OutputTokens)})
		}
	}
	if s.Latency != nil {
		t = append(t, fact{"median of a request", span(s.Latency.P50 / 1000)})
	}
	return t
}

// completeness is where the lines are.
type completeness struct {
	Rows  []share
	Total string
	Sound bool
	Note  string
	Notes []string
}

type share struct{ Kind, Name, Count, Share, Where, X, W string }

func complete(s *batch.Summary) completeness {
	l := s.Lines
	c := completeness{Total: count(l.Total), Sound: l.OK+l.Failed+l.Missing+l.Invalid == l.Total}
	errs := "errors.jsonl"
	bad := "invalid.jsonl and errors.jsonl"
	if rejected(s) {
		c.Sound = l.OK+l.Failed+l.Missing == 0 && l.Invalid <= l.Total
		bad = "invalid.jsonl"
	}
	at := 0.0
	add := func(kind, name string, n int64, where string) {
		w := 0.0
		if l.Total > 0 {
			w = chartWidth * float64(max(0, n)) / float64(l.Total)
		}
		c.Rows = append(c.Rows, share{kind, name, count(n), percent(float64(n), float64(l.Total)), where, units(at), units(w)})
		at += w
	}
	add("ok", "answered", l.OK, "output.jsonl")
	add("failed", "failed", failed(s), errs)
	add("missing", "not run to the end", cutOff(s), errs)
	add("invalid", "bad", l.Invalid, bad)
	if rejected(s) {
		add("none", "good, but not run", l.Total-l.Invalid, "the input")
		c.Note = "A rejected file has no output: all or nothing, unless on-invalid is skip."
	} else if c.Sound {
		c.Note = fmt.Sprintf("%s = %s + %s + %s + %s: every line is in exactly one place.", count(l.Total), count(l.OK), count(failed(s)), count(cutOff(s)), count(l.Invalid))
	} else {
		c.Note = "The counts do not add up. The manifest, not this report, decides; please report this."
	}
	c.Notes = recordNotes(s)
	return c
}

// recordNotes says what the runners' records lack.
func recordNotes(s *batch.Summary) []string {
	var notes []string
	var lines, open, resumed int64
	for _, r := range s.Runners {
		lines += r.OK + r.Err
		resumed += r.Resumed
		if r.EndedAt == 0 && r.Runner != s.Finalizer {
			open++
		}
	}
	if done := s.Lines.OK + s.Lines.Failed; lines != done && len(s.Runners) > 0 {
		notes = append(notes, fmt.Sprintf("The runners' records count %s, the result %s: a record may lack a killed runner's last half minute.", plural(lines, "line"), count(done)))
	} else if len(s.Runners) == 0 && done > 0 {
		notes = append(notes, "No runner left a record.")
	}
	if open > 0 {
		notes = append(notes, plural(open, "runner")+" recorded no end: killed, or not through yet when this was made.")
	}
	if resumed > 0 {
		notes = append(notes, plural(resumed, "line")+verb(resumed, " was", " were")+" taken over from runners that went, and not asked again.")
	}
	return notes
}

func identity(s *batch.Summary) []fact {
	var models []string
	for _, m := range s.Models[:min(len(s.Models), 20)] {
		models = append(models, cmp.Or(plain(m, 200), "(the engine's own)"))
	}
	if more := len(s.Models) - len(models); more > 0 {
		models = append(models, "and "+count(int64(more))+" more")
	}
	var versions []string
	for _, r := range s.Runners {
		versions = append(versions, plain(r.Version, 60))
	}
	slices.Sort(versions)
	versions = slices.Compact(versions)
	list := []fact{
		{"Input", plain("s3://"+s.Input.Bucket+"/"+s.Input.Key, 1100)},
		{"Size", size(float64(s.Input.Size)) + ", " + lines(s.Lines.Total)},
		{"ETag", plain(s.Input.ETag, 100)},
		{"SHA-256", cmp.Or(plain(s.Input.SHA256, 100), notRecorded)},
		{"Batch", plain(s.Batch, 60)},
		{"Endpoint", cmp.Or(plain(s.Endpoint, 100), "–")},
		{"Models asked for", cmp.Or(strings.Join(models, ", "), "–")},
		{"Pool", plain(s.Pool, 100)},
		{"Window", plain(s.Window, 20)},
		{"Bad lines", onInvalid(s.OnInvalid)},
		{"Work", plural(int64(s.Shards), "shard") + ", " + plural(int64(s.Chunks), "chunk") + ", " + plural(int64(len(s.Runners)), "runner")},
		{"spool", cmp.Or(plain(strings.Join(versions[:min(len(versions), 5)], ", "), maxText), notRecorded)},
		{"Ended by", cmp.Or(plain(s.Finalizer, 100), notRecorded)},
	}
	if s.TraceID != "" {
		list = append(list, fact{"Trace", plain(s.TraceID, 60)})
	}
	return list
}

func onInvalid(v string) string {
	switch v {
	case "skip":
		return "are skipped"
	case "fail":
		return "reject the file"
	}
	return cmp.Or(plain(v, 40), notRecorded)
}

func options(s *batch.Summary) []fact {
	var list []fact
	for _, name := range slices.Sorted(maps.Keys(s.Metadata)) {
		if list = append(list, fact{plain(name, 60), plain(s.Metadata[name], maxText)}); len(list) == maxOptions {
			break
		}
	}
	return list
}

// times is the batch from upload to end.
func times(s *batch.Summary) []fact {
	t := s.Times
	list := []fact{{"Uploaded", clock(t.Uploaded)}, {"Checked and planned", after(t.Created, t.Uploaded)}}
	if t.InProgress > 0 {
		list = append(list, fact{"First work", after(t.InProgress, t.Created)})
	}
	if t.Stopped > 0 {
		list = append(list, fact{"Stopped", after(t.Stopped, cmp.Or(t.InProgress, t.Created))})
	}
	return append(list, fact{"Ended", after(t.Finalized, cmp.Or(t.Stopped, t.InProgress, t.Created))})
}

func after(t, before int64) string {
	if t <= 0 {
		return "–"
	}
	return clock(t) + ", " + span(float64(t-before)) + " later"
}

type runnerRow struct{ Name, Host, Held, State, Lines, Failed, Requests, Retries, Resumed, Chunks string }

// runnerRows shows the runners that held the batch longest.
func runnerRows(s *batch.Summary) (rows []runnerRow, hidden int) {
	sorted := slices.Clone(s.Runners)
	slices.SortStableFunc(sorted, func(a, b batch.Runner) int { return cmp.Compare(held(&b), held(&a)) })
	shown := sorted[:min(len(sorted), maxRunners)]
	for _, r := range shown {
		rows = append(rows, runnerRow{
			Name: plain(r.Runner, 60), Host: cmp.Or(plain(r.Host, 60), "unknown host"), Held: span(float64(held(&r))), State: runnerState(s, &r),
			Lines: count(r.OK), Failed: count(r.Err), Requests: count(r.Requests), Retries: count(r.Retries),
			Resumed: count(r.Resumed), Chunks: count(int64(r.Chunks)),
		})
	}
	return rows, len(sorted) - len(shown)
}

// runnerState says how a runner's work for the batch ended. Who ends the batch makes this report before its own record has an end.
func runnerState(s *batch.Summary, r *batch.Runner) string {
	switch {
	case r.Runner == s.Finalizer:
		return "ended the batch"
	case r.EndedAt == 0:
		return "no end recorded"
	}
	return "ended"
}

func (v *view) addFlow(s *batch.Summary) {
	f := newFlow(s.Runners)
	if f == nil {
		return
	}
	v.Flow = fmt.Sprintf("From %s on, in steps of %s", clock(int64(f.start)), span(f.slot))
	if f.runners < len(s.Runners) {
		v.Flow += fmt.Sprintf("; %d of %s recorded it", f.runners, plural(int64(len(s.Runners)), "runner"))
	}
	for _, c := range []*columns{f.chart("Lines over time", "lines/s", f.lines), f.chart("Output tokens over time", "output tokens/s", f.tokens),
		f.slotChart("Chunks stored over time", "chunks", f.chunks), f.slotChart("Requests tried again over time, by the same runner", "requests", f.retries)} {
		if c != nil {
			v.Charts = append(v.Charts, c)
		}
	}
}

func (v *view) addLatency(s *batch.Summary) {
	l := s.Latency
	if l == nil {
		return
	}
	ms := func(f float64) string { return span(f / 1000) }
	v.Latency = []fact{{"p50", ms(l.P50)}, {"p90", ms(l.P90)}, {"p95", ms(l.P95)}, {"p99", ms(l.P99)}, {"max", "< " + ms(l.Max)}, {"requests", count(l.Count)}}
	switch { // ten requests beyond a quantile, or it is one request's luck
	case l.Count < 200:
		v.Warning = fmt.Sprintf("Only %s: p95 and p99 say little.", plural(l.Count, "request"))
	case l.Count < 1000:
		v.Warning = fmt.Sprintf("Only %s: p99 says little.", plural(l.Count, "request"))
	}
	var all []batch.Latencies
	for _, r := range s.Runners {
		all = append(all, r.Latencies)
	}
	v.Spread = latencyChart(batch.MergeLatencies(all...))
}

func (v *view) addGPUs(s *batch.Summary) {
	rows, all := gpuTable(s.Runners)
	v.GPUs = rows[:min(len(rows), maxGPUs)]
	v.MoreGPUs = len(rows) - len(v.GPUs)
	if f := newGPUFlow(s.Runners); f != nil {
		v.GPUCharts = f.charts()
	}
	if all.n == 0 {
		return
	}
	v.GPUFacts = []fact{{"GPUs watched", count(int64(all.n))}, {"Mean utilisation", notRecorded}, {"Idle", notRecorded}, {"Energy", notRecorded}}
	if all.busyOf > 0 {
		v.GPUFacts[1].Value = percent(all.busy, all.busyOf)
		v.GPUFacts[2].Value = span(all.busyOf-all.busy) + " of " + span(all.busyOf)
	}
	if all.energies > 0 {
		v.GPUFacts[3].Value = decimal(all.joules/3.6e6) + " kWh"
		if s.Usage.OutputTokens > 0 {
			v.GPUFacts[3].Value += ", " + decimal(all.joules/float64(s.Usage.OutputTokens)*1000) + " J per 1,000 output tokens"
		}
	}
}

// tokens is nil if the engine counted none, which it also does not for requests without tokens.
func tokens(s *batch.Summary) []fact {
	u, done := s.Usage, s.Lines.OK
	if u.TotalTokens == 0 && u.InputTokens == 0 && u.OutputTokens == 0 {
		return nil
	}
	list := []fact{
		{"Input", count(u.InputTokens)},
		{"Input from the cache", count(u.InputTokensDetails.CachedTokens) + " (" + percent(float64(u.InputTokensDetails.CachedTokens), float64(u.InputTokens)) + ")"},
		{"Output", count(u.OutputTokens)},
		{"Output for reasoning", count(u.OutputDetails.ReasoningTokens)},
		{"Total", count(u.TotalTokens)},
	}
	if done > 0 {
		list = append(list, fact{"A line, on average", decimal(float64(u.InputTokens)/float64(done)) + " in, " + decimal(float64(u.OutputTokens)/float64(done)) + " out"})
	}
	if s.Rates != nil {
		list = append(list, fact{"A second, on average", decimal(s.Rates.InputTokens) + " in, " + decimal(s.Rates.OutputTokens) + " out"})
	}
	return list
}

// cost is what the run took; nil if no runner left a record.
func cost(s *batch.Summary) []fact {
	var seconds, gpuSeconds float64
	timed, priced, prices := 0, 0, map[string]float64{}
	for i := range s.Runners {
		r := &s.Runners[i]
		if r.StartedAt > 0 {
			timed++
		}
		h := float64(held(r))
		seconds += h
		gpuSeconds += h * float64(len(gpus(r)))
		if r.HourPrice > 0 {
			priced++
			prices[plain(r.Currency, 10)] += h / 3600 * r.HourPrice
		}
	}
	if timed == 0 {
		return nil
	}
	list := []fact{{"Runner time", span(seconds)}, {"GPU time", notRecorded}}
	if gpuSeconds > 0 {
		list[1].Value = span(gpuSeconds)
		if s.Usage.OutputTokens > 0 {
			list = append(list, fact{"Tokens a GPU second", decimal(float64(s.Usage.OutputTokens) / gpuSeconds)})
		}
	} else if s.Usage.OutputTokens > 0 && seconds > 0 {
		list = append(list, fact{"Tokens a runner second", decimal(float64(s.Usage.OutputTokens) / seconds)})
	}
	return append(list, money(s, prices, priced)...)
}

func money(s *batch.Summary, prices map[string]float64, priced int) []fact {
	if priced == 0 {
		return []fact{{"Price", notRecorded + "; no runner was told what its hour costs"}}
	}
	var list []fact
	for _, currency := range slices.Sorted(maps.Keys(prices)) {
		price := prices[currency]
		text := strings.TrimSpace(fmt.Sprintf("%.2f %s", price, currency))
		if priced < len(s.Runners) {
			text += fmt.Sprintf(", for %d of %s", priced, plural(int64(len(s.Runners)), "runner"))
		}
		list = append(list, fact{"Price", text})
		if len(prices) == 1 && priced == len(s.Runners) && s.Lines.OK > 0 {
			list = append(list, fact{"1,000 answered lines", strings.TrimSpace(decimal(price/float64(s.Lines.OK)*1000) + " " + currency)})
		}
	}
	return list
}

type errorRow struct{ Name, Count, Share, W, Means, Example, Lines string }

func errorRows(s *batch.Summary) []errorRow {
	var rows []errorRow
	for _, e := range s.Errors[:min(len(s.Errors), batch.MaxErrorClasses+1)] {
		var numbers []string
		for _, n := range e.Lines[:min(len(e.Lines), batch.MaxErrorLines)] {
			numbers = append(numbers, batch.RequestID(plain(s.Batch, 60), n))
		}
		rows = append(rows, errorRow{
			Name: className(e), Count: lines(e.Count), Share: percent(float64(e.Count), float64(unanswered(s))),
			W:     units(chartWidth * float64(max(0, e.Count)) / float64(max(1, unanswered(s)))),
			Means: sentence(classAdvice(e)), Example: plain(e.Example, maxText), Lines: strings.Join(numbers, ", "),
		})
	}
	return rows
}

type badRow struct{ Line, Code, Message string }

// badRows are what is wrong with the file. The cause of a stop, which comes first among these, is in the verdict.
func badRows(s *batch.Summary) (rows []badRow, more int) {
	errs := s.FileErrors
	if len(errs) > 0 && errs[0].Line == nil && errs[0].Code == s.Code && errs[0].Message == s.Message {
		errs = errs[1:]
	}
	for _, e := range errs[:min(len(errs), maxBad)] {
		r := badRow{Line: "–", Code: plain(e.Code, 60), Message: plain(e.Message, maxText)}
		switch {
		case e.Line != nil:
			r.Line = count(*e.Line)
		case e.Param != nil:
			r.Line = plain(*e.Param, 60)
		}
		rows = append(rows, r)
	}
	return rows, len(errs) - len(rows)
}

// files are those that lie beside the report.
func files(s *batch.Summary) []string {
	var list []string
	if !rejected(s) {
		list = append(list, batch.OutputName)
		if unanswered(s) > 0 {
			list = append(list, batch.ErrorsName)
		}
	}
	if s.Lines.Invalid > 0 {
		list = append(list, batch.InvalidName)
	}
	return append(list, batch.SummaryName, batch.ObjectName)
}
