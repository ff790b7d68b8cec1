package watcher

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/klauspost/compress/gzip"
	"go.uber.org/zap"

	"spool/storage"
	"spool/storage/batch"
)

const (
	// logsQuiet is how long no part must have come before those of an ended batch are joined: longer than a
	// process that lives holds lines back.
	logsQuiet = time.Minute
	// logsAsk is how often it is asked whether that time is over.
	logsAsk = 30 * time.Second
)

// ripen notes that a batch has ended, so that its logs are joined when no more come. It is a hint: who collects
// finds those of all batches.
func (w *Watcher) ripen(plan *batch.Plan) {
	if w.cfg.Deleter == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ripening[batch.LogDir(plan.Input.Key, plan.Batch)] = time.Now()
}

// logsLoop joins the logs of batches that this watcher saw end, until ctx ends.
func (w *Watcher) logsLoop(ctx context.Context) {
	for ctx.Err() == nil {
		pause(ctx, logsAsk)
		for _, dir := range w.ripe() {
			w.joinLogsLogged(ctx, dir)
		}
	}
}

// ripe gives the folders that are to be looked at.
func (w *Watcher) ripe() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	dirs := make([]string, 0, len(w.ripening))
	for dir, ended := range w.ripening {
		if time.Since(ended) >= logsQuiet {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

func (w *Watcher) joinLogsLogged(ctx context.Context, dir string) {
	settled, err := w.joinLogs(ctx, dir)
	if err != nil && ctx.Err() == nil {
		w.failed("join logs", err, zap.String("key", dir)) // not the batch: this line would be its newest part
	}
	if settled || err != nil {
		w.mu.Lock()
		delete(w.ripening, dir)
		w.mu.Unlock()
	}
}

// joinLogs makes one object of all logs of a batch that has ended, unless parts came a moment ago. The joined object
// is there, whole, before the first part is deleted, and its name is its own: so nothing is lost if this watcher
// dies or others do the same at the same time; some lines then stand in two objects until the next one joins them,
// and readers drop what they have seen.
func (w *Watcher) joinLogs(ctx context.Context, dir string) (settled bool, err error) {
	var parts []storage.Object
	for obj, err := range w.cfg.Bucket.List(ctx, dir, "") {
		if err != nil {
			return false, err
		}
		if _, ok := batch.ParseLogKey(dir, obj.Key); ok {
			parts = append(parts, obj)
		}
	}
	if len(parts) < 2 {
		return true, nil
	}
	last, err := w.cfg.Bucket.Head(ctx, parts[len(parts)-1].Key)
	if storage.IsNotFound(err) {
		return true, nil // somebody else is at work
	}
	if err != nil {
		return false, err
	}
	size := int64(0)
	for _, p := range parts {
		if last.Date.Sub(p.LastModified) < logsQuiet {
			return false, nil
		}
		size += p.Size
	}
	key := batch.JoinedLogKey(dir, last.Date.UTC().Format("20060102-150405-")+uuid.NewString()[:8])
	if err := w.storeJoined(ctx, key, parts, size); err != nil {
		return false, fmt.Errorf("join logs: %w", err)
	}
	for _, p := range parts {
		if err := w.cfg.Deleter.Delete(ctx, p.Key); err != nil {
			return false, err
		}
		w.metrics.collected.Inc()
	}
	return true, nil
}

// storeJoined stores the bytes of all parts under key, one behind the other: what is compressed with gzip can be
// joined as it is.
func (w *Watcher) storeJoined(ctx context.Context, key string, parts []storage.Object, size int64) error {
	r, pipe := io.Pipe()
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		pipe.CloseWithError(w.copyParts(ctx, pipe, parts))
	}()
	_, err := w.cfg.Bucket.Upload(ctx, key, r, storage.PutOptions{ContentType: "application/gzip", Size: size})
	_ = r.Close() // the copier ends, if it has not
	<-copied
	if err != nil {
		return err
	}
	stored, err := w.cfg.Bucket.Head(ctx, key)
	if err == nil && stored.Size != size {
		err = fmt.Errorf("%q has %d bytes, its parts have %d", key, stored.Size, size)
	}
	return err
}

// copyParts writes the parts, and fails if one is not whole: what stands behind it could not be read.
func (w *Watcher) copyParts(ctx context.Context, to io.Writer, parts []storage.Object) error {
	for _, p := range parts {
		body, _, err := w.cfg.Bucket.Get(ctx, p.Key, storage.GetOptions{IfMatch: p.ETag})
		if err != nil {
			return err
		}
		z, err := gzip.NewReader(io.TeeReader(body, to))
		if err == nil {
			_, err = io.Copy(io.Discard, z)
		}
		body.Close()
		if err != nil {
			return fmt.Errorf("read %q: %w", p.Key, err)
		}
	}
	return nil
}

// collectLogs joins the logs of all ended batches that nobody joined, and deletes logs about no batch when
// Config.Retention is over.
func (w *Watcher) collectLogs(ctx context.Context, now time.Time) error {
	joined := "" // the folder that was last looked at
	for obj, err := range w.cfg.Bucket.List(ctx, batch.LogsPrefix, "") {
		if err != nil {
			return err
		}
		dir, id, ok := batch.LogBatch(obj.Key)
		switch {
		case ok && dir != joined:
			joined = dir
			ended, err := w.exists(ctx, batch.ResultKey(id))
			if err != nil {
				return err
			}
			if ended {
				w.joinLogsLogged(ctx, dir)
			}
		case !ok && strings.HasPrefix(obj.Key, batch.OtherLogsPrefix) && now.Sub(obj.LastModified) >= w.cfg.Retention:
			if err := w.cfg.Deleter.Delete(ctx, obj.Key); err != nil {
				return err
			}
			w.metrics.collected.Inc()
		}
	}
	return nil
}

func (w *Watcher) exists(ctx context.Context, key string) (bool, error) {
	_, err := w.cfg.Bucket.Head(ctx, key)
	if storage.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}
