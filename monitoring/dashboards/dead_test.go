package dashboards_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"spool/monitoring"
	"spool/monitoring/dashboards"
	"spool/monitoring/internal/promql"
)

// TestDeadProcessesAreNotShown has promtool ask what panels of live gauges show of a runner and a watcher that were killed, whose
// groups the Pushgateway still has: nothing, or 0; and that they show something while both push.
func TestDeadProcessesAreNotShown(t *testing.T) {
	var asked []string
	each(func(_ dashboards.Board, p dashboards.Panel, expr string) {
		// The greatest of those times is of a watcher that lives, if there is one; if not, it should be seen to grow.
		if metrics, err := promql.Metrics(expr); err == nil && slices.ContainsFunc(metrics, live) && p.Title != "Last scan" {
			asked = append(asked, fmt.Sprintf("(abs(sum(%s)) > bool 0) or vector(0)", promql.Expand(expr, "1m")))
		}
	})
	if len(asked) < 25 {
		t.Fatalf("only %d expressions are of live gauges", len(asked))
	}
	// Pushed until 10 min, or until 5 min and scraped on.
	file := "tests:\n" + ruleTest("0+60x10", asked, 1) + ruleTest("0+60x5 300x5", asked, 0)
	passes(t, file)
}

func live(name string) bool {
	m, _ := monitoring.Lookup(name)
	return m.Live
}

// ruleTest wants a value of each expression after 10 min, given the times of the last pushes.
func ruleTest(pushed string, asked []string, want int) string {
	var b strings.Builder
	b.WriteString("- interval: 1m\n  input_series:\n")
	add := func(series, values string) { fmt.Fprintf(&b, "  - {series: %q, values: %q}\n", series, values) }
	for _, job := range []string{monitoring.RunnerJob, monitoring.WatcherJob} {
		add(fmt.Sprintf("push_time_seconds{job=%q, instance=%q}", job, "i-"+job), pushed)
	}
	for _, m := range monitoring.Catalogue() {
		if m.Type != monitoring.Gauge {
			continue
		}
		for _, labels := range labelsOf(m.Labels) {
			job := "spool-" + m.By[0]
			// One GPU has work, one has none.
			value := "1x10"
			if strings.Contains(labels, `gpu="0"`) {
				value = "0.01x10"
			}
			add(fmt.Sprintf("%s{job=%q, instance=%q%s}", m.Name, job, "i-"+job, labels), value)
		}
	}
	b.WriteString("  promql_expr_test:\n")
	for _, expr := range asked {
		fmt.Fprintf(&b, "  - {eval_time: 10m, expr: %q, exp_samples: [{value: %d}]}\n", expr, want)
	}
	return b.String()
}

// labelsOf gives every combination of values that expressions may ask for.
func labelsOf(names []string) []string {
	values := map[string][]string{
		"state": {"total", "completed", "visible", "running"}, "queue_role": {"jobs", "dlq"}, "gpu": {"0", "1"}, "status": {"ok", "error"},
	}
	list := []string{""}
	for _, name := range names {
		of, ok := values[name]
		if !ok {
			of = []string{"x"}
		}
		var longer []string
		for _, labels := range list {
			for _, v := range of {
				longer = append(longer, fmt.Sprintf("%s, %s=%q", labels, name, v))
			}
		}
		list = longer
	}
	return list
}
