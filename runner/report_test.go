package runner

import (
	"strings"
	"testing"

	"spool/monitoring/report"
	"spool/storage/batch"
	"spool/storage/finalize"
)

// A runner that ends a batch is in the report as the one that did, not as one that was lost.
func TestReportNamesTheRunnerThatEndedTheBatch(t *testing.T) {
	w := newWorld(t)
	plan := w.batch(20, 10)
	cfg := w.config()
	cfg.Finalizer = finalize.New(finalize.Config{Bucket: w.bucket, By: cfg.Name, Render: report.Render})
	if err := w.run(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	html := string(w.get(batch.OutDir(inputKey, plan.Batch) + batch.ReportName))
	if want := "<td>r-1<small>unknown host, ended the batch</small></td>"; !strings.Contains(html, want) {
		t.Errorf("the report has no %s", want)
	}
	if strings.Contains(html, "recorded no end") {
		t.Error("the report takes the runner for one that was lost")
	}
}
