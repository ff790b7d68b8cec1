package watcher

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"spool/monitoring"
	"spool/storage"
	"spool/storage/batch"
)

// rejectedSuffix names the folder of a rejected file's bad lines, apart from that of its pieces.
const rejectedSuffix = "-rejected"

func newFolder() string { return uuid.NewString() }

func (w *Watcher) newBadLines() *badLines { return &badLines{dir: w.cfg.TempDir} }

// makePlan validates and stages an upload, and puts the plan of batch id, unless another watcher's is
// there first: then that one counts, and what this one staged goes.
func (w *Watcher) makePlan(ctx context.Context, up *upload, id string, generation int) (err error) {
	ctx, span := w.startBatch(ctx, up, id)
	defer func() { monitoring.EndSpan(span, err) }()
	if err := w.putOpen(ctx, up, id); err != nil {
		return err
	}
	if up.Size > smallFile { // others are done before anybody could look
		w.sayValidating(ctx, up, id)
	}
	st, err := w.stage(ctx, up, id)
	if err != nil && !errors.Is(err, errChanged) && ctx.Err() == nil && w.overdue(ctx, up, id) {
		st, err = unreadable(up, err), nil
	}
	if err != nil {
		return err
	}
	plan := w.plan(up, st, id, generation)
	plan.Trace = monitoring.TraceOf(ctx)
	mine, err := w.putPlan(ctx, plan)
	if err != nil {
		return err // whose plan it is is not known, so the folder stays
	}
	describePlan(span, plan, mine)
	switch {
	case !mine:
		w.discard(ctx, id, append(st.pieces, st.badKey))
	case plan.Verdict == batch.Rejected:
		w.discard(ctx, id, st.pieces)
	}
	w.metrics.planned(plan, mine)
	w.log.Info("batch planned", about(ctx, plan, zap.String("event", "batch_planned"), zap.String("verdict", plan.Verdict),
		zap.Int64("lines", plan.Lines), zap.Int64("bad", plan.Bad), zap.Int("shards", len(plan.Shards)), zap.Bool("mine", mine))...)
	// A marker that was there at the start may have been taken for an abandoned one in the meantime.
	return w.markOpen(ctx, up, id)
}

// overdue reports whether the window of the upload was over, by the store's clock, when it was looked at. It counts from when
// a watcher first looked, as that of a plan does, which the open marker tells.
func (w *Watcher) overdue(ctx context.Context, up *upload, id string) bool {
	if up.Date.Before(up.LastModified.Add(up.opt.window)) {
		return false
	}
	marker, err := w.cfg.Bucket.Head(ctx, batch.OpenKey(id))
	return err == nil && !up.Date.Before(marker.LastModified.Add(up.opt.window))
}

// unreadable ends an upload that could not be validated in its window: what the store refuses to give, as without
// the right to use its key, would be asked for at every scan, for ever.
func unreadable(up *upload, err error) *staged {
	return &staged{verdict: batch.Rejected, errors: []batch.BatchError{{Code: batch.CodeInputUnreadable,
		Message: fmt.Sprintf("the file could not be validated in its window of %s, the last try ended with: %v", short(up.opt.window), err)}}}
}

// plan makes the plan of an upload. The window counts from when it was looked at, not from its Last-Modified: AWS dates a
// multipart upload when it is begun, and a large file may come for longer than a short window.
func (w *Watcher) plan(up *upload, st *staged, id string, generation int) *batch.Plan {
	input := w.input(up)
	input.SHA256 = st.sha256
	created := max(up.Date.Unix(), up.LastModified.Unix())
	p := &batch.Plan{
		V: batch.Version, Batch: id, Input: input, Rerun: up.opt.rerun, Generation: generation,
		Verdict: st.verdict, Errors: st.errors,
		Pool: up.opt.pool, OnInvalid: up.opt.onInvalid, Order: up.opt.order, Window: short(up.opt.window),
		CreatedAt: created, ExpiresAt: created + int64(up.opt.window/time.Second),
		Metadata: up.opt.metadata, Endpoint: st.endpoint, Models: st.models,
		Lines: st.lines, Bad: st.bad, Shards: st.shards, Watcher: w.cfg.Name,
	}
	if len(st.shards) > 0 || st.bad > 0 {
		p.Folder = st.folder
	}
	return p
}

// putPlan reports whether the plan that stands is this one.
func (w *Watcher) putPlan(ctx context.Context, plan *batch.Plan) (bool, error) {
	body, err := json.Marshal(plan)
	if err != nil {
		return false, fmt.Errorf("encode plan: %w", err)
	}
	stored, err := storage.PutOnce(ctx, w.cfg.Bucket, batch.PlanKey(plan.Batch), body, jsonObject())
	if err != nil {
		return false, fmt.Errorf("put plan: %w", err)
	}
	return stored.Mine, nil
}

// discard deletes staged objects that no stored plan names: none was ever put with their folder, or the one
// that stands is known to name another. It is best effort: the collector takes the rest.
func (w *Watcher) discard(ctx context.Context, id string, keys []string) {
	if w.cfg.Deleter == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWrites)
	defer cancel()
	for _, key := range keys {
		if key == "" { // of an upload that could not be read
			continue
		}
		if err := w.cfg.Deleter.Delete(ctx, key); err != nil {
			w.log.Debug("staged object left behind", zap.String("event", "staged_left"), zap.String("batch_id", id), zap.Error(err))
			return
		}
	}
}

func jsonObject() storage.PutOptions {
	return storage.PutOptions{ContentType: "application/json"}
}
