package finalize

import (
	"context"
	"strings"
	"testing"
	"time"

	"spool/monitoring/report"
	"spool/storage"
	"spool/storage/batch"
	"spool/storage/memstore"
)

// Whatever became of a batch, its report is there before the user's signal is, and says so.
func TestEveryEndHasItsReport(t *testing.T) {
	stopped := func(outcome, code string) func(*testing.T, *memstore.Store, *world) {
		return func(t *testing.T, s *memstore.Store, w *world) {
			w.finish(t, s, 0, "")
			w.stop(t, s, outcome, code)
		}
	}
	for want, prepare := range map[string]func(*testing.T, *memstore.Store, *world){
		"Completed, some lines failed": func(t *testing.T, s *memstore.Store, w *world) { w.finishAll(t, s) },
		"Cancelled":                    stopped(batch.Cancelled, batch.CodeBatchCancelled),
		"Expired":                      stopped(batch.Expired, batch.CodeBatchExpired),
		"Failed":                       stopped(batch.Failed, batch.CodeModelNotFound),
		"Rejected": func(t *testing.T, s *memstore.Store, w *world) {
			w.plan.Verdict, w.plan.Shards = batch.Rejected, nil
			putJSON(t, s, batch.PlanKey(testID), w.plan)
		},
	} {
		t.Run(want, func(t *testing.T) {
			inWorld(t, func(t *testing.T, s *memstore.Store, w *world) {
				prepare(t, s, w)
				if try(t, s, w) == nil {
					t.Fatal("not ended")
				}
				checkReport(t, s)
				if html := get(t, s, testDir+batch.ReportName); !strings.Contains(html, "<title>"+want+": ") {
					t.Errorf("the report does not say %q", want)
				}
				if md := get(t, s, testDir+batch.MarkdownName); !strings.HasSuffix(strings.SplitN(md, "\n", 2)[0], " "+want) {
					t.Errorf("summary.md begins %.60q", md)
				}
			})
		})
	}
}

// The report is made before the runner that ends the batch has recorded its own end: it is not taken for one that was killed.
func TestReportKnowsTheRunnerThatEndedTheBatch(t *testing.T) {
	inWorld(t, func(t *testing.T, s *memstore.Store, w *world) {
		now := time.Now().Unix()
		for name, ended := range map[string]int64{"f": 0, "r-done": now, "r-lost": 0} { // try finalises as f
			putJSON(t, s, batch.RunnerKey(testID, name), batch.Runner{V: 1, Batch: testID, Runner: name, Host: "h", StartedAt: now - 3, UpdatedAt: now, EndedAt: ended})
		}
		w.finishAll(t, s)
		try(t, s, w)
		html := get(t, s, testDir+batch.ReportName)
		for _, want := range []string{"<td>f<small>h, ended the batch</small></td>", "<td>r-done<small>h, ended</small></td>",
			"<td>r-lost<small>h, no end recorded</small></td>", "1 runner recorded no end"} {
			if !strings.Contains(html, want) {
				t.Errorf("the report has no %q", want)
			}
		}
	})
}

// What runners recorded later is in a report that is made anew; nothing else changes.
func TestReportIsMadeAnew(t *testing.T) {
	inWorld(t, func(t *testing.T, s *memstore.Store, w *world) {
		f := New(Config{Bucket: s, By: "f", Render: report.Render})
		if got, err := f.Report(t.Context(), w.plan); got != nil || err != nil {
			t.Errorf("before there is a manifest: %+v, %v", got, err)
		}
		w.finishAll(t, s)
		try(t, s, w)
		putJSON(t, s, batch.RunnerKey(testID, "r-late"), batch.Runner{V: 1, Batch: testID, Runner: "r-late", StartedAt: 5, UpdatedAt: 7,
			Latencies: batch.Latencies{{int64(batch.LatencyBucket(time.Second)), 3}}})
		got, err := f.Report(t.Context(), w.plan)
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Runners) != 1 || got.Latency == nil || got.Latency.Count != 3 || got.Latency.P50 != 999.424 {
			t.Errorf("runners %+v, latency %+v", got.Runners, got.Latency)
		}
		checkReport(t, s)
		if html := get(t, s, testDir+batch.ReportName); !strings.Contains(html, "r-late") {
			t.Error("the report does not know the runner")
		}
		checkWrites(t, s)
	})
}

// typed remembers the types of what is put.
type typed struct {
	storage.Bucket
	types map[string]string
}

func (b typed) Put(ctx context.Context, key string, body []byte, opt storage.PutOptions) (storage.Object, error) {
	b.types[key] = opt.ContentType
	return b.Bucket.Put(ctx, key, body, opt)
}

// A browser shows what is called HTML, and offers anything else for saving.
func TestReportIsTyped(t *testing.T) {
	inWorld(t, func(t *testing.T, s *memstore.Store, w *world) {
		w.finishAll(t, s)
		b := typed{s, map[string]string{}}
		try(t, b, w)
		if html, md := b.types[testDir+batch.ReportName], b.types[testDir+batch.MarkdownName]; html != "text/html; charset=utf-8" || md != "text/markdown; charset=utf-8" {
			t.Errorf("types %q and %q", html, md)
		}
	})
}

func TestWithoutRenderThereIsOnlyTheSummary(t *testing.T) {
	inWorld(t, func(t *testing.T, s *memstore.Store, w *world) {
		w.finishAll(t, s)
		if r, err := New(Config{Bucket: s, By: "f"}).Try(t.Context(), w.plan); r == nil || err != nil {
			t.Fatal(r, err)
		}
		for _, name := range []string{batch.ReportName, batch.MarkdownName} {
			if _, err := s.Head(t.Context(), testDir+name); !storage.IsNotFound(err) {
				t.Errorf("Head(%s) = %v", name, err)
			}
		}
		get(t, s, testDir+batch.SummaryName)
	})
}
