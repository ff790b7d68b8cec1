package watcher

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"go.uber.org/zap"

	"spool/storage"
	"spool/storage/batch"
)

// statusEvery is how often status.json is renewed while its state stays the same; a little less than 30 s, so
// that a scan every 30 s does not miss every second turn.
const statusEvery = 29 * time.Second

// waitingAfter is how long jobs may wait for a runner before people are told.
const waitingAfter = time.Minute

// States of batch.Status beside the outcomes.
const (
	stateValidating = "validating"
	stateInProgress = "in_progress"
	stateFinalizing = "finalizing"
)

// told is what this watcher last told of a batch.
type told struct {
	at    time.Time
	state string
}

func (t told) due(state string) bool { return t.state != state || time.Since(t.at) >= statusEvery }

// say writes status.json, a hint: an error is logged and no more.
func (w *Watcher) say(ctx context.Context, st batch.Status) {
	st.Output = batch.OutDir(st.Input, st.Batch)
	body, err := json.Marshal(st)
	if err == nil {
		_, err = w.cfg.Bucket.Put(ctx, batch.StatusKey(st.Input, st.Batch), body, jsonObject())
	}
	if err != nil && ctx.Err() == nil {
		w.metrics.errors.WithLabelValues("status").Inc()
		w.log.Warn("status not written", zap.String("event", "status_failed"), zap.String("batch_id", st.Batch), zap.String("key", st.Input), zap.Error(err))
	}
}

func (w *Watcher) sayValidating(ctx context.Context, up *upload, id string) {
	w.say(ctx, batch.Status{
		Batch: id, Input: up.Key, State: stateValidating,
		CreatedAt: up.Date.Unix(), UpdatedAt: up.Date.Unix(),
	})
}

// sayUnreadable tells the owner of an upload that nothing happens, and why.
func (w *Watcher) sayUnreadable(ctx context.Context, up *upload, id string, err error) {
	if ctx.Err() != nil || storage.IsNotFound(err) || storage.KindOf(err) == storage.KindPrecondition {
		return
	}
	w.say(ctx, batch.Status{
		Batch: id, Input: up.Key, State: stateValidating,
		CreatedAt: up.Date.Unix(), UpdatedAt: up.Date.Unix(),
		Note: "the file could not be validated yet, every scan tries again: " + err.Error(),
	})
}

// sayRepeated tells who uploaded the same bytes again why nothing runs.
func (w *Watcher) sayRepeated(ctx context.Context, up *upload, r *batch.Result) {
	st := statusOf(r)
	st.UpdatedAt = up.Date.Unix()
	st.Note = fmt.Sprintf("same bytes as the upload of %s: nothing runs again. For another run set the metadata rerun, as in "+
		"aws s3 cp --metadata rerun=%s", unix(r.Input.LastModified).Format(time.RFC3339), nextRerun(up))
	w.say(ctx, st)
}

func nextRerun(up *upload) string { return strconv.Itoa(max(0, up.opt.rerun) + 1) }

// sayEnded writes the last status of a batch.
func (w *Watcher) sayEnded(ctx context.Context, o *open, r *batch.Result) {
	if o.told.state == r.Outcome || !w.isCurrent(ctx, o.plan) {
		return
	}
	o.told = told{time.Now(), r.Outcome}
	st := statusOf(r)
	st.CreatedAt = o.plan.CreatedAt
	if len(o.plan.Errors) > 0 {
		st.Note = o.plan.Errors[0].Code + ": " + o.plan.Errors[0].Message
	}
	w.say(ctx, st)
}

func statusOf(r *batch.Result) batch.Status {
	zero := int64(0)
	return batch.Status{
		Batch: r.Batch, Input: r.Input.Key, State: r.Outcome, ETASeconds: &zero,
		Counts:    batch.RequestCounts{Total: r.Total, Completed: r.Completed, Failed: r.Failed},
		UpdatedAt: r.ObjectTime,
	}
}

// sayProgress tells how far an open batch is, if it is due. A batch whose input was replaced runs on: metrics tell of it,
// status.json of the newest batch only.
func (w *Watcher) sayProgress(ctx context.Context, o *open, s *survey) {
	state := stateInProgress
	if s.stop != nil || s.allDone() {
		state = stateFinalizing
	}
	if !o.told.due(state) {
		return
	}
	o.told = told{time.Now(), state}
	if err := w.measure(ctx, o, s); err != nil {
		w.log.Debug("progress not measured", zap.String("event", "progress_unknown"), zap.String("batch_id", o.id), zap.Error(err))
	}
	st := batch.Status{
		Batch: o.id, Input: o.plan.Input.Key, State: state, Runners: s.runners(),
		Counts: o.progress.requests(o.plan), Note: note(s),
		CreatedAt: o.plan.CreatedAt, UpdatedAt: s.clock().Unix(),
	}
	if s.stop == nil { // else nobody answers what is left
		st.ETASeconds = o.progress.eta(o.plan)
	}
	w.metrics.progressed(o.id, st.Counts, st.ETASeconds)
	if w.isCurrent(ctx, o.plan) {
		w.say(ctx, st)
	}
}

// note says what a person who waits should know.
func note(s *survey) string {
	if s.stop != nil {
		return s.stop.Message
	}
	if len(s.done) > 0 || len(s.leases) > 0 || s.allDone() {
		return ""
	}
	first := s.clock()
	for _, n := range s.outstanding() {
		if at := unix(s.sent.Shards[n].At); at.Before(first) {
			first = at
		}
	}
	if waited := s.clock().Sub(first); waited >= waitingAfter {
		return fmt.Sprintf("waiting for a runner for %s: none has taken a job from pool %s yet", short(waited.Truncate(time.Minute)), s.plan.Pool)
	}
	return ""
}

// isCurrent reports whether the upload that stands at the input's key means the batch of the plan, or none is
// there: status.json is about the newest batch of an input.
func (w *Watcher) isCurrent(ctx context.Context, plan *batch.Plan) bool {
	up, err := w.head(ctx, plan.Input.Key)
	if up == nil || err != nil {
		return err == nil
	}
	id, _, _, err := w.identify(ctx, up)
	return err == nil && id == plan.Batch
}
