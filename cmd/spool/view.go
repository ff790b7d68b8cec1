package main

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"

	"spool/storage/batch"
)

// Waiting is the state of an upload of which no watcher has said anything yet.
const stateWaiting = "waiting"

// states are all that a view can be in, in the order in which a batch passes them.
func states() []string {
	return []string{stateWaiting, "validating", "in_progress", "finalizing", batch.Completed, batch.Failed, batch.Cancelled, batch.Expired}
}

// view is a batch as the commands for users show it; its JSON is documented in docs/CLI.md.
type view struct {
	Batch        string              `json:"batch"`
	Input        string              `json:"input"` // key of the bucket
	State        string              `json:"state"` // waiting, validating, in_progress, finalizing, or an outcome
	Counts       batch.RequestCounts `json:"request_counts"`
	ETASeconds   *int64              `json:"eta_seconds"`
	Runners      int                 `json:"runners"`
	Output       string              `json:"output"` // folder of the bucket
	OutputFileID *string             `json:"output_file_id"`
	ErrorFileID  *string             `json:"error_file_id"`
	CreatedAt    *int64              `json:"created_at"` // Unix seconds
	EndedAt      *int64              `json:"ended_at"`
	Note         string              `json:"note"`
	Errors       []batch.BatchError  `json:"errors"` // of the file, the first 100

	ended *batch.Object
}

func newView(f *found) *view {
	v := &view{Batch: f.id, Input: f.key, State: stateWaiting, Output: batch.OutDir(f.key, f.id), Errors: []batch.BatchError{}, ended: f.object}
	switch {
	case f.object != nil:
		v.fromObject(f.object)
	case f.status != nil:
		s := f.status
		v.State, v.Counts, v.ETASeconds, v.Runners, v.Note = s.State, s.Counts, s.ETASeconds, s.Runners, s.Note
		v.CreatedAt = nonzero(s.CreatedAt)
	default:
		v.Note = "no watcher has picked it up yet"
	}
	return v
}

func (v *view) fromObject(o *batch.Object) {
	v.State, v.Counts = o.Status, o.RequestCounts
	v.OutputFileID, v.ErrorFileID = o.OutputFileID, o.ErrorFileID
	v.CreatedAt = nonzero(o.CreatedAt)
	v.EndedAt = cmp.Or(o.CompletedAt, o.FailedAt, o.CancelledAt, o.ExpiredAt)
	if o.Errors != nil {
		v.Errors = o.Errors.Data
	}
	v.Note = o.Metadata["spool_warnings"]
}

func nonzero(n int64) *int64 {
	if n == 0 {
		return nil
	}
	return &n
}

// code is the exit code that the batch's state stands for; exitOK while it has not ended.
func (v *view) code() exitCode {
	if v.ended == nil {
		return exitOK
	}
	return outcomeCode(v.ended)
}

// summary is a line about the batch.
func (v *view) summary() string {
	s := fmt.Sprintf("%s: %s", v.Input, v.State)
	if v.Counts.Total > 0 {
		s += fmt.Sprintf(", %s of %s done", thousands(v.Counts.Completed+v.Counts.Failed), plural(v.Counts.Total, "line"))
	}
	if v.Counts.Failed > 0 {
		s += fmt.Sprintf(", %s failed", thousands(v.Counts.Failed))
	}
	if v.ended == nil && v.Runners > 0 {
		s += ", " + plural(int64(v.Runners), "runner")
	}
	if v.ETASeconds != nil {
		s += ", " + duration(*v.ETASeconds) + " left"
	}
	if v.ended == nil && v.Note != "" {
		s += " (" + v.Note + ")"
	}
	return s
}

// verdict is the error of a batch that did not end well, nil if it did.
func (v *view) verdict(bucket string) error {
	code := v.code()
	if code == exitOK {
		return nil
	}
	return failf(code, v.advice(bucket), "%s", v.summary())
}

// advice says where to look.
func (v *view) advice(bucket string) string {
	dir := "s3://" + bucket + "/" + v.Output
	switch v.code() {
	case exitRejected:
		why := "see " + dir + batch.InvalidName
		if len(v.Errors) > 0 && v.Errors[0].Line == nil { // the whole file: there is no list of lines
			why = "see " + dir + batch.ObjectName
		}
		return strings.TrimPrefix(v.firstError()+"; "+why, "; ")
	case exitFailed:
		return strings.TrimPrefix(v.firstError()+"; see "+dir+batch.ErrorsName, "; ")
	default:
		return v.retryAdvice(dir)
	}
}

// retryAdvice says which of the failed lines can be asked for again: not those that validation refused.
func (v *view) retryAdvice(dir string) string {
	refused := int64(0)
	for _, e := range v.Errors {
		if e.Line != nil {
			refused++
		}
	}
	see, mend, retry := "see "+dir+batch.ErrorsName+"; ", "mend the lines of "+dir+batch.InvalidName, "spool retry "+v.Input+" asks for the "
	switch refused {
	case 0:
		return see + retry + "failed lines again"
	case v.Counts.Failed:
		return mend
	case batch.MaxErrors: // and maybe more
		return see + mend + "; " + retry + "others again, if there are any"
	default:
		return see + mend + "; " + retry + "others again"
	}
}

func (v *view) firstError() string {
	if len(v.Errors) == 0 {
		return ""
	}
	e := v.Errors[0]
	s := e.Code + ": " + e.Message
	if e.Line != nil {
		s = fmt.Sprintf("line %d: %s", *e.Line, s)
	}
	if n := len(v.Errors) - 1; n > 0 {
		s += fmt.Sprintf(" (and %d more)", n)
	}
	return s
}

// plural counts things: 1 line, 2,000 lines.
func plural(n int64, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return thousands(n) + " " + noun
}

// thousands writes 1234567 as 1,234,567.
func thousands(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// duration writes seconds as people do: 45s, 3m20s, 2h05m.
func duration(seconds int64) string {
	d := time.Duration(seconds) * time.Second
	if d >= time.Hour {
		return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return d.String()
}
