package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"spool/storage/batch"
)

// ended is a batch that ended, with all that a report is made of.
func (w *world) endedBatch(key string) (id string) {
	w.t.Helper()
	id = w.upload(key, 3, nil)
	w.end(key, id, batch.Completed, 3, 0)
	in, err := w.store.Head(w.t.Context(), key)
	if err != nil {
		w.t.Fatal(err)
	}
	w.putJSON(batch.PlanKey(id), batch.Plan{V: 1, Batch: id, Verdict: batch.Accepted, Lines: 3, CreatedAt: in.LastModified.Unix(),
		Input:  batch.Input{Bucket: bucketName, Key: key, ETag: in.ETag, Size: in.Size, LastModified: in.LastModified.Unix()},
		Shards: []batch.Shard{{Chunks: []batch.PlanChunk{{Lines: 3, FirstLine: 1}}}}})
	counts := batch.Counts{OK: 3, OKBytes: 9}
	w.putJSON(batch.ManifestKey(id), batch.Manifest{V: 1, Batch: id, Outcome: batch.Completed, Counts: counts,
		Chunks: []batch.ChunkInfo{{Counts: counts}}, FinalizedAt: in.LastModified.Unix() + 9})
	w.putJSON(batch.RunnerKey(id, "r-1"), batch.Runner{V: 1, Batch: id, Runner: "r-1", StartedAt: 100, UpdatedAt: 3700, HourPrice: 2.5, Currency: "EUR"})
	return id
}

func TestReportIsMadeAnewBesideTheResults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		const key = "in/evals/x.jsonl"
		id := w.endedBatch(key)
		dir := batch.OutDir(key, id)
		if got, want := w.want(exitOK, "report", key, "--bucket", bucketName), "s3://spool/"+dir+"report.html\n"; got != want {
			t.Errorf("standard output %q, want %q", got, want)
		}
		if html := w.get(dir + batch.ReportName); !strings.Contains(html, "2.50 EUR") || !strings.Contains(html, "All 3 lines have an answer.") {
			t.Errorf("report.html: %s", html)
		}
		md := w.get(dir + batch.MarkdownName)
		if got := w.want(exitOK, "report", id, "--bucket", bucketName, "--markdown"); got != md || !strings.Contains(md, "## ✅ Completed") {
			t.Errorf("--markdown prints %q, stored is %q", got, md)
		}
		var printed, stored batch.Summary
		if err := json.Unmarshal([]byte(w.want(exitOK, "report", key, "--bucket", bucketName, "--json")), &printed); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(w.get(dir+batch.SummaryName)), &stored); err != nil {
			t.Fatal(err)
		}
		if printed.Batch != id || printed.Lines.OK != 3 || len(printed.Runners) != 1 || stored.Lines != printed.Lines {
			t.Errorf("--json prints %+v, stored is %+v", printed, stored)
		}
	})
}

// A user may read out/, and neither read sys/ nor write out/.
func TestReportForWhoMayOnlyReadTheResults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		const key = "in/x.jsonl"
		id := w.endedBatch(key)
		w.denied = func(_, key string) bool { return strings.HasPrefix(key, batch.SysPrefix) }
		_, stderr, code := w.spool("report", key, "--bucket", bucketName)
		if code != exitUnfit || !strings.Contains(stderr, "spool report -o DIR") {
			t.Errorf("exit %d, %s", code, stderr)
		}
		_, stderr, code = w.spool("report", key, "--bucket", bucketName, "--json")
		if code != exitInternal || !strings.Contains(stderr, "has no summary.json") {
			t.Errorf("without a summary: exit %d, %s", code, stderr)
		}
		w.putJSON(batch.OutDir(key, id)+batch.SummaryName, batch.Summary{V: 1, Batch: id, Outcome: batch.Completed, Chunks: 1, Lines: batch.SummaryLines{Total: 7, OK: 7}})
		dir := filepath.Join(t.TempDir(), "new")
		if got := w.want(exitOK, "report", key, "--bucket", bucketName, "-o", dir); got != filepath.Join(dir, "report.html")+"\n" {
			t.Errorf("standard output %q", got)
		}
		for name, want := range map[string]string{"report.html": "All 7 lines have an answer.", "summary.md": "| lines | 7: 7 answered", "summary.json": `"ok": 7`} {
			body, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil || !strings.Contains(string(body), want) {
				t.Errorf("%s has no %q: %v\n%s", name, want, err, body)
			}
		}
	})
}

func TestReportNeedsABatchThatHasEnded(t *testing.T) {
	w := newWorld(t)
	w.upload("in/x.jsonl", 1, nil)
	if _, stderr, code := w.spool("report", "in/x.jsonl", "--bucket", bucketName); code != exitInternal || !strings.Contains(stderr, "no report yet") {
		t.Errorf("exit %d, %s", code, stderr)
	}
	w.want(exitNoInput, "report", "in/none.jsonl", "--bucket", bucketName)
	w.want(exitUsage, "report", "in/x.jsonl", "--bucket", bucketName, "--json", "--markdown")
}

func TestHourPrice(t *testing.T) {
	for in, want := range map[string]struct {
		amount   float64
		currency string
	}{"": {0, ""}, "2.49": {2.49, ""}, "2.49 USD": {2.49, "USD"}, "3€": {3, "€"}} {
		amount, currency, err := parsePrice(in)
		if err != nil || amount != want.amount || currency != want.currency {
			t.Errorf("parsePrice(%q) = %v, %q, %v", in, amount, currency, err)
		}
	}
	for _, in := range []string{"0", "-1", "cheap", "2.49 usd", "1e9", "2.49 USD an hour"} {
		if _, _, err := parsePrice(in); explain(err).code != exitUsage {
			t.Errorf("parsePrice(%q) = %v, want a usage error", in, err)
		}
	}
}
