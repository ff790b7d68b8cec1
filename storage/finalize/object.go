package finalize

import (
	"context"
	"fmt"
	"time"

	"spool/storage"
	"spool/storage/batch"
)

// Object makes batch.json, OpenAI's batch object, of an ended batch. It is pure: whoever asks, and whenever,
// the object is the same, since all its times stand in plan and manifest.
//
//   - output_file_id is null only if the file was rejected; error_file_id if there is no line in errors.jsonl.
//   - request_counts: total = completed + failed. Failed are the lines of errors.jsonl: answered with an
//     error, not finished when the batch was stopped, or bad and skipped. A rejected file has three zeros,
//     as OpenAI gives for a file that fails validation: no request was ever made of it.
//   - errors.data is what is wrong with the file, or, of a batch that was stopped as failed, the cause.
//   - finalizing_at, usage, and in_progress_at are null if the file was rejected; in_progress_at also if nothing was
//     asked before the batch was stopped.
//   - model is set if all lines name the same one.
func Object(plan *batch.Plan, m *batch.Manifest) batch.Object {
	counts := count(plan, m)
	o := batch.Object{
		ID:               plan.Batch,
		Object:           "batch",
		Endpoint:         plan.Endpoint,
		Errors:           objectErrors(plan, m),
		InputFileID:      plan.Input.Key,
		CompletionWindow: plan.Window,
		Status:           m.Outcome,
		CreatedAt:        plan.CreatedAt,
		InProgressAt:     seconds(m.InProgress),
		ExpiresAt:        seconds(plan.ExpiresAt),
		RequestCounts:    counts.requests(),
		Metadata:         plan.Metadata,
	}
	if len(plan.Models) == 1 && plan.Models[0] != "" {
		o.Model = &plan.Models[0]
	}
	if plan.Verdict != batch.Rejected {
		dir := batch.OutDir(plan.Input.Key, plan.Batch)
		o.OutputFileID = text(dir + batch.OutputName)
		if counts.errors() > 0 {
			o.ErrorFileID = text(dir + batch.ErrorsName)
		}
		o.FinalizingAt = seconds(m.FinalizedAt)
		usage := m.Usage
		o.Usage = &usage
	}
	switch m.Outcome {
	case batch.Completed:
		o.CompletedAt = seconds(m.FinalizedAt)
	case batch.Failed:
		o.FailedAt = seconds(m.FinalizedAt)
	case batch.Expired:
		o.ExpiredAt = seconds(m.FinalizedAt)
	case batch.Cancelled:
		o.CancellingAt = seconds(m.StoppedAt)
		o.CancelledAt = seconds(m.FinalizedAt)
	}
	return o
}

func objectErrors(plan *batch.Plan, m *batch.Manifest) *batch.Errors {
	data := plan.Errors
	if m.Outcome == batch.Failed && m.Code != "" {
		data = append([]batch.BatchError{{Code: m.Code, Message: m.Message}}, data...)
	}
	if len(data) == 0 {
		return nil
	}
	return &batch.Errors{Object: "list", Data: data[:min(len(data), batch.MaxErrors)]}
}

// seconds is a time of the batch object, null for 0.
func seconds(t int64) *int64 {
	if t == 0 {
		return nil
	}
	return &t
}

func text(s string) *string { return &s }

// tally counts the lines of a batch by what became of them.
type tally struct {
	rejected bool
	lines    int64 // of the file, not blank
	ok       int64 // in output.jsonl
	failed   int64 // answered with an error
	missing  int64 // good lines without an answer
	bad      int64
}

func count(plan *batch.Plan, m *batch.Manifest) tally {
	t := tally{rejected: plan.Verdict == batch.Rejected, lines: plan.Lines, bad: plan.Bad, ok: m.Counts.OK, failed: m.Counts.Err}
	if t.rejected {
		return t
	}
	chunk := 0
	for _, s := range plan.Shards {
		for _, c := range s.Chunks {
			if m.Chunks[chunk].Missing {
				t.missing += int64(c.Requests())
			}
			chunk++
		}
	}
	return t
}

// errors is the number of lines of errors.jsonl.
func (t tally) errors() int64 {
	if t.rejected {
		return 0
	}
	return t.failed + t.missing + t.bad
}

func (t tally) requests() batch.RequestCounts {
	return batch.RequestCounts{Total: t.ok + t.errors(), Completed: t.ok, Failed: t.errors()}
}

// object writes batch.json, in a later second of the store's clock than the upload's: so a later upload
// of the same bytes can be told from this one.
func (j job) object(ctx context.Context) error {
	body, err := encodePretty(Object(j.plan, j.manifest))
	if err != nil {
		return err
	}
	if err := j.waitForLaterSecond(ctx); err != nil {
		return err
	}
	_, err = storage.PutOnce(ctx, j.bucket, j.key(batch.ObjectName), body, jsonObject())
	return err
}

func (j job) waitForLaterSecond(ctx context.Context) error {
	for {
		now, err := j.now(ctx, j.plan)
		if err != nil {
			return err
		}
		left := time.Unix(j.plan.Input.LastModified+1, 0).Sub(now)
		if left <= 0 {
			return nil
		}
		timer := time.NewTimer(left)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("wait for the second after the upload: %w", context.Cause(ctx))
		}
	}
}

// tombstone writes result.json.
func (j job) tombstone(ctx context.Context) error {
	stored, err := j.bucket.Head(ctx, j.key(batch.ObjectName))
	if err != nil {
		return err
	}
	o := Object(j.plan, j.manifest)
	r := batch.Result{
		V:          batch.Version,
		Batch:      j.plan.Batch,
		Outcome:    j.manifest.Outcome,
		Input:      j.plan.Input,
		ObjectTime: stored.LastModified.Unix(),
		Total:      o.RequestCounts.Total,
		Completed:  o.RequestCounts.Completed,
		Failed:     o.RequestCounts.Failed,
		Usage:      j.manifest.Usage,
	}
	if o.OutputFileID != nil {
		r.OutputFileID = *o.OutputFileID
	}
	if o.ErrorFileID != nil {
		r.ErrorFileID = *o.ErrorFileID
	}
	body, err := encode(r)
	if err != nil {
		return err
	}
	_, err = storage.PutOnce(ctx, j.bucket, batch.ResultKey(j.plan.Batch), body, jsonObject())
	return err
}
