package finalize

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"spool/storage"
	"spool/storage/batch"
)

// summary writes summary.json, and what is rendered of it, over what is there: the runners' records may have changed since.
func (j job) summary(ctx context.Context) error {
	s, err := j.summarize(ctx)
	if err != nil {
		return err
	}
	return j.publish(ctx, s)
}

func (j job) publish(ctx context.Context, s *batch.Summary) error {
	body, err := encodePretty(s)
	if err != nil {
		return err
	}
	if _, err := j.bucket.Put(ctx, j.key(batch.SummaryName), body, jsonObject()); err != nil || j.render == nil {
		return err
	}
	html, markdown := j.render(s)
	if _, err := j.bucket.Put(ctx, j.key(batch.MarkdownName), markdown, markdownObject()); err != nil {
		return err
	}
	_, err = j.bucket.Put(ctx, j.key(batch.ReportName), html, htmlObject())
	return err
}

// Report makes summary.json, summary.md and report.html of an ended batch anew, as Summary does, and writes them over those that are
// there. It returns the summary; nil if there is no manifest yet. It may be called again, and while somebody else finalises.
func (f *Finalizer) Report(ctx context.Context, plan *batch.Plan) (*batch.Summary, error) {
	m, _, err := f.manifest(ctx, plan)
	if m == nil || err != nil {
		return nil, err
	}
	j := job{f, plan, m}
	s, err := j.summarize(ctx)
	if err == nil {
		err = j.publish(ctx, s)
	}
	if err != nil {
		return nil, fmt.Errorf("report on batch %q: %w", plan.Batch, err)
	}
	return s, nil
}

// Summary makes the summary of an ended batch anew, from its manifest, its errors.jsonl and the runners' records as
// they are now; nil if there is no manifest yet. It fails with storage.KindNotFound while errors.jsonl is being made.
func (f *Finalizer) Summary(ctx context.Context, plan *batch.Plan) (*batch.Summary, error) {
	m, _, err := f.manifest(ctx, plan)
	if m == nil || err != nil {
		return nil, err
	}
	s, err := job{f, plan, m}.summarize(ctx)
	if err != nil {
		return nil, fmt.Errorf("summarise batch %q: %w", plan.Batch, err)
	}
	return s, nil
}

func (j job) summarize(ctx context.Context) (*batch.Summary, error) {
	p, m, t := j.plan, j.manifest, count(j.plan, j.manifest)
	classes, errBytes, err := j.errorClasses(ctx, t)
	if err != nil {
		return nil, err
	}
	runners, err := j.runners(ctx, p)
	if err != nil {
		return nil, err
	}
	s := &batch.Summary{
		V: batch.Version, Batch: p.Batch, Outcome: m.Outcome, Code: m.Code, Message: m.Message,
		Input: p.Input, Endpoint: p.Endpoint, Models: orEmpty(p.Models), Pool: p.Pool, Window: p.Window,
		OnInvalid: p.OnInvalid, Metadata: p.Metadata,
		Lines:  batch.SummaryLines{Total: t.lines, OK: t.ok, Failed: t.failed, Missing: t.missing, Invalid: t.bad},
		Bytes:  batch.SummaryBytes{Input: p.Input.Size, Output: m.Counts.OKBytes, Errors: errBytes},
		Shards: len(p.Shards), Chunks: len(m.Chunks),
		Times: batch.SummaryTimes{
			Uploaded: p.Input.LastModified, Created: p.CreatedAt, InProgress: m.InProgress,
			Stopped: m.StoppedAt, Finalized: m.FinalizedAt, Expires: p.ExpiresAt,
		},
		Usage: m.Usage, Errors: classes, FileErrors: []batch.BatchError{},
		Runners: orEmpty(runners), Mixed: mixed(runners), Finalizer: m.By, TraceID: traceID(p.Trace),
	}
	if e := objectErrors(p, m); e != nil {
		s.FileErrors = e.Data
	}
	s.Seconds.Total = max(0, m.FinalizedAt-p.Input.LastModified)
	if m.InProgress > 0 {
		s.Seconds.Queued = max(0, m.InProgress-p.CreatedAt)
		s.Seconds.Running = max(0, m.FinalizedAt-m.InProgress)
	}
	s.Rates = rates(m, s.Seconds.Running)
	var took []batch.Latencies
	for _, r := range runners {
		took = append(took, r.Latencies)
	}
	s.Latency = batch.MergeLatencies(took...).Summary()
	return s, nil
}

func rates(m *batch.Manifest, running int64) *batch.SummaryRates {
	if running <= 0 {
		return nil
	}
	d := float64(running)
	return &batch.SummaryRates{
		Lines:        float64(m.Counts.OK+m.Counts.Err) / d,
		InputTokens:  float64(m.Usage.InputTokens) / d,
		OutputTokens: float64(m.Usage.OutputTokens) / d,
	}
}

// traceID reads it out of a W3C traceparent; "" if there is none.
func traceID(fields map[string]string) string {
	if parts := strings.Split(fields["traceparent"], "-"); len(parts) >= 4 {
		return parts[1]
	}
	return ""
}

// orEmpty makes [] of null.
func orEmpty[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// errorClasses reads errors.jsonl back, so that the summary does not depend on who assembled it. size is its length.
func (j job) errorClasses(ctx context.Context, t tally) (classes []batch.ErrorClass, size int64, err error) {
	if t.errors() == 0 {
		return []batch.ErrorClass{}, 0, nil
	}
	key := j.key(batch.ErrorsName)
	body, obj, err := j.bucket.Get(ctx, key, storage.GetOptions{})
	if err != nil {
		return nil, 0, err
	}
	defer body.Close()
	classes, err = classify(body, j.plan.Batch)
	if err != nil {
		return nil, 0, fmt.Errorf("read %q: %w", key, err)
	}
	return classes, obj.Size, nil
}

// errorLine is what the summary reads of a line of errors.jsonl.
type errorLine struct {
	ID       string `json:"id"`
	Response *struct {
		Status int             `json:"status_code"`
		Body   json.RawMessage `json:"body"`
	} `json:"response"`
	Error *struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	} `json:"error"`
}

// classify counts the lines of errors.jsonl by their kind, in memory that does not grow with their number.
func classify(r io.Reader, id string) ([]batch.ErrorClass, error) {
	type kind struct {
		status int
		code   string
	}
	found := map[kind]*batch.ErrorClass{}
	dec := json.NewDecoder(r)
	for {
		var l errorLine
		err := dec.Decode(&l)
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		class, example := l.class()
		k := kind{class.Status, class.Code}
		if found[k] == nil && len(found) >= batch.MaxErrorClasses {
			k = kind{code: batch.ErrorClassOther}
			class = batch.ErrorClass{Code: batch.ErrorClassOther}
		}
		c := found[k]
		if c == nil {
			class.Example = cut(example, batch.MaxErrorExample)
			c = &class
			found[k] = c
		}
		c.Count++
		if len(c.Lines) < batch.MaxErrorLines {
			c.Lines = append(c.Lines, lineNumber(l.ID, id))
		}
	}
	classes := make([]batch.ErrorClass, 0, len(found))
	for _, c := range found {
		classes = append(classes, *c)
	}
	slices.SortFunc(classes, func(a, b batch.ErrorClass) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Lines[0], b.Lines[0]))
	})
	return classes, nil
}

// class tells the kind of a line, and what it says.
func (l errorLine) class() (class batch.ErrorClass, example string) {
	switch {
	case l.Response != nil:
		return batch.ErrorClass{Status: l.Response.Status}, string(l.Response.Body)
	case l.Error != nil:
		return batch.ErrorClass{Code: l.Error.Code}, l.Error.Message
	}
	return batch.ErrorClass{Code: batch.ErrorClassOther}, ""
}

// lineNumber reads the number of the input line out of the id of an output line; 0 if it is not there.
func lineNumber(id, of string) int64 {
	n, _ := strconv.ParseInt(strings.TrimPrefix(id, batch.RequestIDPrefix+of+"-"), 10, 64)
	return n
}

// cut shortens s to at most n bytes of whole characters.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
