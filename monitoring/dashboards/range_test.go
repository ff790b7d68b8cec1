package dashboards_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"spool/localstack/localtest"
	"spool/monitoring"
	"spool/monitoring/dashboards"
	"spool/monitoring/internal/promql"
)

// TestPanelsOfTheRangeCountWhatWasInTheRange has promtool ask panels about the last 30 minutes of an hour, in which one process did
// nothing more, one was not scraped when they began, one went on, and one was born and had counted before it was scraped.
func TestPanelsOfTheRangeCountWhatWasInTheRange(t *testing.T) {
	promtool := localtest.Program(t, "promtool", "apt-get install --no-install-recommends prometheus")
	file := "tests:\n- interval: 1m\n  input_series:\n" + processes() + "  promql_expr_test:\n"
	n := 0
	each(func(_ dashboards.Board, p dashboards.Panel, expr string) {
		if !strings.Contains(strings.ToLower(p.About), "in the range") {
			return
		}
		n++
		file += fmt.Sprintf("  - {eval_time: 1h, expr: %q, exp_samples: [{value: %v}]}\n", "sum("+promql.Expand(expr, "30m")+")", inRange(t, p, expr))
	})
	if n != 11 {
		t.Errorf("%d panels are of the range, want 11", n)
	}
	path := filepath.Join(t.TempDir(), "range.yml")
	if err := os.WriteFile(path, []byte(file), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), promtool, "test", "rules", path).CombinedOutput(); err != nil {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}

// processes gives the series of four processes: of counters 7 and 3 were in the range, with any labels, and one end.
func processes() string {
	var b strings.Builder
	for _, m := range monitoring.Catalogue() {
		for _, labels := range labelsOf(m.Labels) {
			before := 1000
			if strings.Contains(labels, `status="error"`) { // most of what was before failed
				before = 9000
			}
			for instance, values := range map[string]string{
				"idle": fmt.Sprint(before, "x60"), "gap": "500x20 _x20 500x20", "busy": "1000x40 1007x20", "born": "_x40 3x20",
			} {
				series := fmt.Sprintf("%s{job=%q, instance=%q%s}", m.Name, "spool-"+m.By[0], instance, labels)
				fmt.Fprintf(&b, "  - {series: %q, values: %q}\n", series, values)
			}
		}
	}
	return b.String()
}

// inRange is what a panel should say of them, all its series together.
func inRange(t *testing.T, p dashboards.Panel, expr string) float64 {
	t.Helper()
	switch p.Title {
	case "Error ratio":
		return 0.5
	case "Runners ended":
		return 1
	}
	names, err := promql.Metrics(expr)
	if err != nil {
		t.Fatal(err)
	}
	m, _ := monitoring.Lookup(names[0])
	return float64(10 * len(labelsOf(m.Labels)))
}
