package watcher

import (
	"context"
	"fmt"
	"strings"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"spool/storage"
	"spool/storage/batch"
)

// advanceAtOnce is how many open batches a scan advances at once.
const advanceAtOnce = 8

// scan looks at everything once. An error is one of listing, for which nothing could be done; it is
// logged, too. Unless wait is set, inputs that are being validated are not waited for.
func (w *Watcher) scan(ctx context.Context, wait bool) error {
	started := time.Now()
	err := w.listInputs(ctx)
	if wait {
		w.backlog.wait()
	}
	counted := w.countPools(ctx) // before the shards are looked at: each that is not done then had its message now
	if err == nil {
		err = w.listOpen(ctx)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		w.failed("scan", err)
		return fmt.Errorf("scan: %w", err)
	}
	w.tendPools(ctx, counted)
	w.metrics.scanned(time.Since(started))
	return nil
}

// listInputs asks for a look at every upload that is not known to be planned or ended.
func (w *Watcher) listInputs(ctx context.Context) error {
	if err := w.loadEnded(ctx); err != nil {
		return err
	}
	for obj, err := range w.cfg.Bucket.List(ctx, batch.InPrefix, "") {
		if err != nil {
			return err
		}
		if isInput(obj.Key) && !obj.LastModified.Before(w.cfg.IgnoreBefore) && w.isNew(obj) {
			w.backlog.add(ctx, obj.Key, obj.Size)
		}
	}
	return nil
}

// loadEnded reads the index of ended uploads, once. Markers that others put later are found by the
// look at their upload.
func (w *Watcher) loadEnded(ctx context.Context) error {
	w.mu.Lock()
	loaded := w.index
	w.mu.Unlock()
	if loaded {
		return nil
	}
	for obj, err := range w.cfg.Bucket.List(ctx, batch.EndedPrefix, "") {
		if err != nil {
			return err
		}
		w.setEnded(obj.Key)
	}
	w.mu.Lock()
	w.index = true
	w.mu.Unlock()
	return nil
}

func (w *Watcher) isNew(obj storage.Object) bool {
	marker := batch.EndedKey(obj.Key, obj.ETag, obj.LastModified)
	w.mu.Lock()
	defer w.mu.Unlock()
	_, ended := w.ended[strings.TrimPrefix(marker, batch.EndedPrefix)]
	_, planned := w.planned[marker]
	return !ended && !planned
}

func (w *Watcher) setEnded(marker string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended[strings.TrimPrefix(marker, batch.EndedPrefix)] = struct{}{}
}

func (w *Watcher) setPlanned(marker, id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.planned[marker] = id
}

// listOpen advances every batch that is marked as open, several at once, and those that this watcher took for
// open and whose marker is gone: another watcher closed them.
func (w *Watcher) listOpen(ctx context.Context) error {
	var group errgroup.Group
	group.SetLimit(advanceAtOnce)
	advance := func(id string) {
		group.Go(func() error {
			w.advanceLogged(ctx, id)
			return nil
		})
	}
	unmarked := w.remembered()
	var err error
	for obj, listErr := range w.cfg.Bucket.List(ctx, batch.OpenPrefix, "") {
		if err = listErr; err != nil {
			clear(unmarked)
			break
		}
		id := strings.TrimPrefix(obj.Key, batch.OpenPrefix)
		delete(unmarked, id)
		if batch.ValidID(id) && !w.isClosed(id) {
			advance(id)
		}
	}
	for id := range unmarked {
		advance(id)
	}
	_ = group.Wait() // advanceLogged dealt with its errors
	return err
}

func (w *Watcher) advanceLogged(ctx context.Context, id string) {
	if err := w.advance(ctx, id); err != nil && ctx.Err() == nil {
		w.failed("advance", err, zap.String("batch_id", id))
	}
}

// remembered gives the batches that this watcher takes for open.
func (w *Watcher) remembered() map[string]bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	ids := make(map[string]bool, len(w.open))
	for id := range w.open {
		ids[id] = true
	}
	return ids
}

func (w *Watcher) isClosed(id string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, closed := w.closed[id]
	return closed
}
