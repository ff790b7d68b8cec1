package watcher

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"spool/storage"
	"spool/storage/batch"
)

const (
	// collectEvery is how often old objects are looked for: once a day among all watchers of a bucket.
	collectEvery = 24 * time.Hour
	// collectAsk is how often it is asked whether that time is over.
	collectAsk = time.Hour
	// collectAtOnce is how many batches are looked at at once.
	collectAtOnce = 4
	// collectedKey is overwritten when somebody begins to collect; its time is all that matters.
	collectedKey = batch.SysPrefix + "collected"
	// abandonAfter is how long nothing must have happened to staged objects without a plan before their
	// watcher is taken for dead.
	abandonAfter = 24 * time.Hour
)

// collectLoop collects when it is due, until ctx ends.
func (w *Watcher) collectLoop(ctx context.Context) {
	for ctx.Err() == nil {
		w.collectLogged(ctx)
		pause(ctx, collectAsk)
	}
}

func (w *Watcher) collectLogged(ctx context.Context) {
	if err := w.collectIfDue(ctx); err != nil && ctx.Err() == nil {
		w.failed("collect", err)
	}
}

// collectIfDue deletes what batches left behind that ended long ago, and tidies logs, unless somebody did so today.
func (w *Watcher) collectIfDue(ctx context.Context) error {
	if w.cfg.Deleter == nil || w.cfg.Retention < 0 {
		return nil
	}
	mark, err := w.cfg.Bucket.Head(ctx, collectedKey)
	if err != nil && !storage.IsNotFound(err) {
		return err
	}
	if err == nil && mark.Date.Sub(mark.LastModified) < collectEvery {
		return nil
	}
	if _, err := w.cfg.Bucket.Put(ctx, collectedKey, nil, storage.PutOptions{}); err != nil {
		return err
	}
	if mark, err = w.cfg.Bucket.Head(ctx, collectedKey); err != nil {
		return err
	}
	return errors.Join(w.collect(ctx), w.collectLogs(ctx, mark.Date))
}

// collect looks at every batch that ever was: one small LIST each, since the next one begins where the
// objects of the last one end.
func (w *Watcher) collect(ctx context.Context) error {
	const prefix = batch.SysPrefix + "b/"
	var group errgroup.Group
	group.SetLimit(collectAtOnce)
	defer func() { _ = group.Wait() }() // its functions log their errors
	for after := ""; ; {
		id, err := w.firstBatch(ctx, prefix, after)
		if id == "" || err != nil {
			return err
		}
		after = prefix + id + "0" // the byte behind the slash
		if !batch.ValidID(id) {
			continue
		}
		group.Go(func() error {
			if err := w.collectBatch(ctx, id); err != nil && ctx.Err() == nil {
				w.failed("collect", err, zap.String("batch_id", id))
			}
			return nil
		})
	}
}

func (w *Watcher) firstBatch(ctx context.Context, prefix, after string) (string, error) {
	for obj, err := range w.cfg.Bucket.List(ctx, prefix, after) {
		if err != nil {
			return "", err
		}
		id, _, _ := strings.Cut(strings.TrimPrefix(obj.Key, prefix), "/")
		return id, nil
	}
	return "", nil
}

// collectBatch deletes the pieces, chunks, leases and segments of a batch whose result is old enough. What
// says how it ended stays: it keeps a listed input from being run again.
func (w *Watcher) collectBatch(ctx context.Context, id string) error {
	result, err := w.cfg.Bucket.Head(ctx, batch.ResultKey(id))
	if storage.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if result.Date.Sub(result.LastModified) < w.cfg.Retention {
		return nil
	}
	for _, prefix := range []string{batch.PiecePrefix(id), batch.ShardsPrefix(id)} {
		for obj, err := range w.cfg.Bucket.List(ctx, prefix, "") {
			if err != nil {
				return err
			}
			if err := w.cfg.Deleter.Delete(ctx, obj.Key); err != nil {
				return err
			}
			w.metrics.collected.Inc()
		}
	}
	return nil
}

// unplanned deals with an open batch that has no plan. If its input is another upload by now, or gone, and
// for a day nobody has worked on this one, the batch is rejected: its folders may go once a plan stands
// that names none of them, and somebody who waits for its batch.json gets one.
func (w *Watcher) unplanned(ctx context.Context, id string) error {
	marker, err := readJSON[batch.Open](ctx, w.cfg.Bucket, batch.OpenKey(id))
	if marker == nil || err != nil {
		return err
	}
	obj, err := w.cfg.Bucket.Head(ctx, batch.OpenKey(id))
	if err != nil {
		return err
	}
	up, err := w.head(ctx, marker.Key)
	if err != nil {
		return err
	}
	if up != nil {
		now, _, _, err := w.identify(ctx, up)
		if err != nil {
			return err
		}
		if now == id {
			return nil // the listing of the inputs finds it
		}
	}
	newest, err := w.newestStaged(ctx, id, obj.LastModified)
	if err != nil || obj.Date.Sub(newest) < abandonAfter {
		return err
	}
	plan := w.abandoned(marker, obj.Date)
	if _, err := w.putPlan(ctx, plan); err != nil {
		return fmt.Errorf("abandon: %w", err)
	}
	w.log.Warn("input gone before it was validated", zap.String("event", "input_gone"), zap.String("error_type", batch.CodeInputGone),
		zap.String("batch_id", id), zap.String("key", marker.Key))
	return w.advance(ctx, id)
}

// newestStaged is when anything was last staged for a batch, or since.
func (w *Watcher) newestStaged(ctx context.Context, id string, since time.Time) (time.Time, error) {
	for obj, err := range w.cfg.Bucket.List(ctx, batch.PiecePrefix(id), "") {
		if err != nil {
			return since, err
		}
		if obj.LastModified.After(since) {
			since = obj.LastModified
		}
	}
	return since, nil
}

func (w *Watcher) abandoned(marker *batch.Open, now time.Time) *batch.Plan {
	input := marker.Input
	input.Bucket, input.Key = w.cfg.BucketName, marker.Key
	return &batch.Plan{
		V: batch.Version, Batch: marker.Batch, Input: input, Verdict: batch.Rejected,
		Errors: []batch.BatchError{{Code: batch.CodeInputGone, Message: "the file was deleted or overwritten before it could be validated"}},
		Pool:   w.cfg.poolOf(marker.Key), OnInvalid: invalidFail, Window: short(defaultWindow),
		CreatedAt: now.Unix(), ExpiresAt: now.Add(defaultWindow).Unix(), Watcher: w.cfg.Name,
	}
}
