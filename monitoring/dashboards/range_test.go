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
	passes(t, file)
}

// passes has promtool run a file of tests.
func passes(t *testing.T, file string) {
	t.Helper()
	promtool := localtest.Program(t, "promtool", "apt-get install --no-install-recommends prometheus")
	path := filepath.Join(t.TempDir(), "test.yml")
	if err := os.WriteFile(path, []byte(file), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), promtool, "test", "rules", path).CombinedOutput(); err != nil {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}

// TestAnnotationsMarkEachEventOnce: the first XID, with which its series begins, the second, and none when the scrapes go on after
// a gap; of batches also the one that ended between the last sample of a minute and the first of the next.
func TestAnnotationsMarkEachEventOnce(t *testing.T) {
	var d struct {
		Annotations struct{ List []struct{ Name, Expr string } }
	}
	decode(t, dashboards.All()[0], &d)
	file := `tests:
- interval: 15s
  input_series:
  - {series: 'spool_gpu_xid_errors_total{job="spool-runner", instance="a", gpu="0", xid="79"}', values: '_x42 1x39 2x39 _x39 2x80'}
  - {series: 'spool_watcher_batches_total{job="spool-watcher", instance="w", outcome="completed"}', values: '_x10 0x70 1x39 _x41 1x80'}
  promql_expr_test:
`
	marked := 0
	for _, a := range d.Annotations.List {
		for minute := range 60 {
			samples := ""
			switch {
			case a.Name == "XID" && (minute == 11 || minute == 21):
				samples = fmt.Sprintf(`{labels: '{gpu="0", xid="79"}', value: %d}`, minute/10)
			case a.Name == "Batches ended" && minute == 21:
				samples = `{labels: '{outcome="completed"}', value: 1}`
			}
			if samples != "" {
				marked++
			}
			file += fmt.Sprintf("  - {eval_time: %dm7s, expr: %q, exp_samples: [%s]}\n", minute, a.Expr, samples)
		}
	}
	if marked != 3 {
		t.Errorf("the annotations are %v", d.Annotations.List)
	}
	passes(t, file)
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
