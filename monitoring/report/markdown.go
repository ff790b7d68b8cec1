package report

import (
	"fmt"
	"strings"

	"spool/storage/batch"
)

// Markdown gives summary.md: what a reviewer wants to see below a CI job, in GitHub's flavour. What users and engines wrote
// stands in code spans and blocks, where nothing of it is markup.
func Markdown(s *batch.Summary) []byte {
	var b strings.Builder
	v := judge(s)
	fmt.Fprintf(&b, "## %s %s\n\n", emoji(v.Tone), mdText(v.Word))
	fmt.Fprintf(&b, "%s, batch %s\n\n%s\n\n", mdCode(plain(s.Input.Key, 1024)), mdCode(plain(s.Batch, 60)), mdText(v.Text))
	mdMixed(&b, s)
	mdTable(&b, []string{"", ""}, mdFacts(s))
	if rows := errorRows(s); len(rows) > 0 {
		b.WriteString("### Errors\n\n")
		var cells [][]string
		for _, r := range rows[:min(len(rows), 10)] {
			cells = append(cells, []string{mdCell(r.Name), r.Count, mdCell(r.Lines), mdCell(plain(r.Example, 160))})
		}
		mdTable(&b, []string{"error", "count", "for instance", "says"}, cells)
		mdMore(&b, len(rows)-10, " kind")
	}
	if bad, more := badRows(s); len(bad) > 0 {
		b.WriteString("### What is wrong with the file\n\n")
		var cells [][]string
		for _, r := range bad[:min(len(bad), 10)] {
			cells = append(cells, []string{mdText(r.Line), mdCell(r.Code), mdCell(plain(r.Message, 200))})
		}
		mdTable(&b, []string{"line", "code", "message"}, cells)
		mdMore(&b, len(bad)+more-10, "")
	}
	b.WriteString("### What to do next\n\n")
	for _, step := range next(s) {
		fmt.Fprintf(&b, "- %s\n", mdText(step.Text))
		if step.Command != "" {
			mdBlock(&b, step.Command)
		}
	}
	if text := b.String(); len(text) <= MaxMarkdown {
		return []byte(text)
	}
	return []byte(plainMarkdown(v)) // cannot be: all of it is bounded
}

// mdMixed warns of engines that differed, above the figures.
func mdMixed(b *strings.Builder, s *batch.Summary) {
	rows, more := mixedRows(s)
	if len(rows) == 0 {
		return
	}
	fmt.Fprintf(b, "> [!WARNING]\n> The runners' engines differed, so that the same request may have another answer: %s\n\n", mdText(mixedNames(s)))
	var cells [][]string
	for _, r := range rows[:min(len(rows), 10)] {
		cells = append(cells, []string{mdText(r.Field), mdCell(plain(r.Value, 160)), mdCell(r.Runners)})
	}
	mdTable(b, []string{"differs", "value", "runners"}, cells)
	mdMore(b, len(rows)-len(cells)+more, " value")
}

func plainMarkdown(v verdict) string { return "## " + emoji(v.Tone) + " " + mdText(v.Word) + "\n" }

func mdFacts(s *batch.Summary) [][]string {
	rows := [][]string{{"lines", mdLines(s)},
		{"ended", clock(s.Times.Finalized) + ", " + span(float64(s.Seconds.Total)) + " after the upload"}}
	add := func(name, value string) { rows = append(rows, []string{name, value}) }
	if rejected(s) {
		return rows
	}
	add("time", fmt.Sprintf("%s queued, %s running, %s", span(float64(s.Seconds.Queued)), span(float64(s.Seconds.Running)), plural(int64(len(s.Runners)), "runner")))
	if s.Rates != nil {
		add("throughput", amount(rate(s), "lines/s")+", "+amount(s.Rates.OutputTokens, "output tokens/s"))
	}
	if q := s.Latency; q != nil {
		add("latency", fmt.Sprintf("p50 %s, p95 %s, p99 %s, of %s", span(q.P50/1000), span(q.P95/1000), span(q.P99/1000), plural(q.Count, "request")))
	} else if s.Lines.OK > 0 {
		add("latency", notRecorded)
	}
	if t := tokens(s); t != nil {
		add("tokens", count(s.Usage.InputTokens)+" in, "+count(s.Usage.OutputTokens)+" out")
	} else {
		add("tokens", notRecorded)
	}
	for _, t := range engineTimes(s.Runners) {
		add(t.Name, fmt.Sprintf("p50 %s, p95 %s, p99 %s", t.P50, t.P95, t.P99))
	}
	if f := finishes(s.Runners); f != nil {
		parts := make([]string, len(f))
		for i := range f {
			parts[i] = mdText(f[i].Name + " " + f[i].Value)
		}
		add("answers ended by", strings.Join(parts, "; "))
	}
	for _, f := range cost(s) {
		add(lower(f.Name), mdText(f.Value))
	}
	return rows
}

// mdLines says where the lines are, as the page does under Completeness.
func mdLines(s *batch.Summary) string {
	l := s.Lines
	if rejected(s) {
		return fmt.Sprintf("%s: %s bad, %s good, but not run", count(l.Total), count(l.Invalid), count(l.Total-l.Invalid))
	}
	return fmt.Sprintf("%s: %s answered, %s failed, %s not run to the end, %s bad", count(l.Total), count(l.OK), count(failed(s)), count(cutOff(s)), count(l.Invalid))
}

// lower writes a name in lower case, as the other names of the table are: GPU stays GPU.
func lower(name string) string {
	return strings.ReplaceAll(strings.ToLower(name), "gpu", "GPU")
}

func emoji(tone string) string {
	switch tone {
	case "good":
		return "✅"
	case "warn":
		return "⚠️"
	case "bad":
		return "❌"
	}
	return "⏹️"
}

func mdTable(b *strings.Builder, head []string, rows [][]string) {
	fmt.Fprintf(b, "| %s |\n|%s\n", strings.Join(head, " | "), strings.Repeat(" --- |", len(head)))
	for _, r := range rows {
		fmt.Fprintf(b, "| %s |\n", strings.Join(r, " | "))
	}
	b.WriteString("\n")
}

// mdMore says how many are not shown, of what, if that has to be said.
func mdMore(b *strings.Builder, n int, what string) {
	if n > 1 && what != "" {
		what += "s"
	}
	if n > 0 {
		fmt.Fprintf(b, "and %d more%s\n\n", n, what)
	}
}

// mdText escapes all that is markup, and what GitHub makes mentions, references and links of.
func mdText(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '@' || r == '#': // a backslash does not stop these
			fmt.Fprintf(&b, "&#%d;", r)
		case strings.ContainsRune("\\`*_{}[]<>!|~&$", r):
			b.WriteByte('\\')
			b.WriteRune(r)
		default:
			b.WriteRune(r)
		}
	}
	return strings.NewReplacer("://", `:\/\/`, "www.", `www\.`).Replace(b.String())
}

// mdCode is a code span, whose fence is longer than any in the text.
func mdCode(s string) string {
	if s == "" {
		return ""
	}
	fence := mdFence(s, "`")
	return fence + " " + s + " " + fence
}

// mdCell is a code span in a table, where a bar ends a cell even there, unless a backslash, which is not shown, stands before.
func mdCell(s string) string { return strings.ReplaceAll(mdCode(s), "|", `\|`) }

// mdBlock is a code block in an item of a list.
func mdBlock(b *strings.Builder, s string) {
	fence := mdFence(s, "```")
	fmt.Fprintf(b, "\n  %ssh\n", fence)
	for line := range strings.Lines(s) {
		fmt.Fprintf(b, "  %s\n", strings.TrimSuffix(line, "\n"))
	}
	fmt.Fprintf(b, "  %s\n\n", fence)
}

// mdFence gives a run of backquotes, at least as long as fence, that is not in s.
func mdFence(s, fence string) string {
	for strings.Contains(s, fence) {
		fence += "`"
	}
	return fence
}
