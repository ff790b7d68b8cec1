package finalize

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"spool/storage/batch"
	"spool/storage/memstore"
)

func TestSummaryTellsWhatTheRunCameTo(t *testing.T) {
	inWorld(t, func(t *testing.T, s *memstore.Store, w *world) {
		begin := w.plan.CreatedAt + 3
		for i, name := range []string{"r-2", "r-1"} {
			putJSON(t, s, batch.RunnerKey(testID, name), batch.Runner{V: 1, Batch: testID, Runner: name, StartedAt: begin + int64(i)})
		}
		put(t, s, batch.RunnerKey(testID, "r-3"), []byte("not JSON"), nil)
		putJSON(t, s, batch.RunnerKey(testID, "r-4"), batch.Runner{V: 2})
		time.Sleep(10 * time.Second) // of the bubble
		w.finish(t, s, 0, "")
		w.stop(t, s, batch.Cancelled, "why")
		try(t, s, w)
		got := getJSON[batch.Summary](t, s, testDir+batch.SummaryName)
		m := getJSON[batch.Manifest](t, s, batch.ManifestKey(testID))
		o := Object(w.plan, &m)
		if got.Lines.Total != w.plan.Lines || got.Lines.OK != o.RequestCounts.Completed || got.Lines.Invalid != w.plan.Bad ||
			got.Lines.OK+got.Lines.Failed+got.Lines.Missing+got.Lines.Invalid != got.Lines.Total || got.Lines.Missing == 0 {
			t.Errorf("lines = %+v, the object counts %+v", got.Lines, o.RequestCounts)
		}
		if len(got.Runners) != 2 || got.Runners[0].Runner != "r-1" || got.Runners[1].Runner != "r-2" {
			t.Errorf("runners = %+v, want r-1 and r-2", got.Runners)
		}
		_, errs := w.expect(func(shard, _ int) bool { return shard == 0 }, "why")
		if want := (batch.SummaryBytes{Input: 1000, Output: m.Counts.OKBytes, Errors: int64(len(errs))}); got.Bytes != want {
			t.Errorf("bytes = %+v, want %+v", got.Bytes, want)
		}
		running := m.FinalizedAt - begin
		if want := (batch.SummarySeconds{Queued: 3, Running: running, Total: m.FinalizedAt - w.plan.Input.LastModified}); got.Seconds != want {
			t.Errorf("seconds = %+v, want %+v", got.Seconds, want)
		}
		if want := float64(got.Lines.OK+got.Lines.Failed) / float64(running); got.Rates == nil || got.Rates.Lines != want {
			t.Errorf("rates = %+v, want %v lines a second", got.Rates, want)
		}
		again, err := New(Config{Bucket: s}).Summary(t.Context(), w.plan)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(got, *again); diff != "" {
			t.Errorf("made again it is another one: %s", diff)
		}
	})
}

func TestSummaryAndReportNameTheTrace(t *testing.T) {
	const id = "0af7651916cd43dd8448eb211c80319c"
	for traceparent, want := range map[string]string{"00-" + id + "-b7ad6b7169203331-01": id, "": "", id: ""} {
		inWorld(t, func(t *testing.T, s *memstore.Store, w *world) {
			w.plan.Trace = map[string]string{"traceparent": traceparent}
			w.finishAll(t, s)
			try(t, s, w)
			if got := getJSON[batch.Summary](t, s, testDir+batch.SummaryName).TraceID; got != want {
				t.Errorf("of %q: trace_id is %q, want %q", traceparent, got, want)
			}
			if html := get(t, s, testDir+batch.ReportName); strings.Contains(html, id) != (want != "") {
				t.Errorf("of %q: the report has the trace: %v", traceparent, strings.Contains(html, id))
			}
		})
	}
}

func TestSummaryHoldsAThousandRunners(t *testing.T) {
	inWorld(t, func(t *testing.T, s *memstore.Store, w *world) {
		for n := range maxRunners + 1 {
			putJSON(t, s, batch.RunnerKey(testID, fmt.Sprintf("r-%04d", n)), batch.Runner{V: 1, Runner: fmt.Sprint(n)})
		}
		w.finishAll(t, s)
		try(t, s, w)
		if got := len(getJSON[batch.Summary](t, s, testDir+batch.SummaryName).Runners); got != 1000 {
			t.Errorf("%d runners, want 1000", got)
		}
	})
}

func TestSummaryOfBatchWithoutManifestIsNone(t *testing.T) {
	inWorld(t, func(t *testing.T, s *memstore.Store, w *world) {
		if got, err := New(Config{Bucket: s}).Summary(t.Context(), w.plan); got != nil || err != nil {
			t.Errorf("Summary = %+v, %v, want none", got, err)
		}
	})
}

func errorLines(answers ...batch.Answer) string {
	var text []byte
	for i, a := range answers {
		a.Batch, a.Line = testID, int64(i+1)
		text = append(a.AppendLine(text), '\n')
	}
	return string(text)
}

func TestClassifyCountsByStatusAndCode(t *testing.T) {
	long := strings.Repeat("é", 200)
	got, err := classify(strings.NewReader(errorLines(
		batch.Answer{Code: "why", Message: "first"},
		batch.Answer{Status: 400, Body: []byte(`{"m":1}`)},
		batch.Answer{Status: 400, Body: []byte(`{"m":2}`)},
		batch.Answer{Status: 500, Body: []byte(`"` + long + `"`)},
		batch.Answer{Status: 400, Body: []byte(`{"m":3}`)},
		batch.Answer{Status: 400, Body: []byte(`{"m":4}`)},
		batch.Answer{Code: "why", Message: "second"},
	)), testID)
	if err != nil {
		t.Fatal(err)
	}
	want := []batch.ErrorClass{
		{Status: 400, Count: 4, Lines: []int64{2, 3, 5}, Example: `{"m":1}`},
		{Code: "why", Count: 2, Lines: []int64{1, 7}, Example: "first"},
		{Status: 500, Count: 1, Lines: []int64{4}, Example: `"` + long[:298]},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestClassifyBoundsTheNumberOfClasses(t *testing.T) {
	var answers []batch.Answer
	for i := range 2 * batch.MaxErrorClasses {
		answers = append(answers, batch.Answer{Code: fmt.Sprint("code-", i)})
	}
	got, err := classify(strings.NewReader(errorLines(answers...)), testID)
	if err != nil {
		t.Fatal(err)
	}
	if want := batch.MaxErrorClasses + 1; len(got) != want || got[0].Code != batch.ErrorClassOther || got[0].Count != batch.MaxErrorClasses {
		t.Errorf("%d classes, first %+v; want %d, first other with %d", len(got), got[0], want, batch.MaxErrorClasses)
	}
}

func TestClassifyRefusesWhatIsNotJSON(t *testing.T) {
	if _, err := classify(strings.NewReader(`{"id":`), testID); err == nil {
		t.Error("no error")
	}
}
