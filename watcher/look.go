package watcher

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"go.uber.org/zap"

	"spool/storage"
	"spool/storage/batch"
)

// isInput reports whether key names an input: not a folder, not a wish to cancel, not hidden.
func isInput(key string) bool {
	return strings.HasPrefix(key, batch.InPrefix) && !strings.HasSuffix(key, "/") &&
		!strings.HasSuffix(key, batch.CancelSuffix) && !strings.HasPrefix(path.Base(key), ".")
}

// upload is one version of an input as a HEAD found it.
type upload struct {
	storage.Object
	opt options
}

// name is that of the upload's ended marker.
func (u *upload) name() string { return batch.EndedKey(u.Key, u.ETag, u.LastModified) }

func (w *Watcher) identity(up *upload, generation int) batch.Identity {
	return batch.Identity{
		Bucket: w.cfg.BucketName, Key: up.Key, ETag: up.ETag, Size: up.Size,
		Rerun: up.opt.rerun, Generation: generation,
	}
}

// head reads an upload; nil if there is none.
func (w *Watcher) head(ctx context.Context, key string) (*upload, error) {
	obj, err := w.cfg.Bucket.Head(ctx, key)
	if storage.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if obj.Date.IsZero() || obj.LastModified.IsZero() {
		return nil, fmt.Errorf("head %q: the store's answer has no Date or no Last-Modified", key)
	}
	return &upload{Object: obj, opt: w.cfg.readOptions(key, obj.Metadata)}, nil
}

// ask asks for a look at an input, and reports whether it is there.
func (w *Watcher) ask(ctx context.Context, key string) (bool, error) {
	obj, err := w.cfg.Bucket.Head(ctx, key)
	if storage.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	w.backlog.add(ctx, key, obj.Size)
	return true, nil
}

// lookLogged is look for the backlog.
func (w *Watcher) lookLogged(ctx context.Context, key string) {
	err := w.look(ctx, key)
	switch {
	case err == nil || ctx.Err() != nil:
	case errors.Is(err, errChanged):
		w.log.Info("input changed while it was validated", zap.String("event", "input_changed"), zap.String("key", key))
		if _, err := w.ask(ctx, key); err != nil && ctx.Err() == nil {
			w.failed("look", err, zap.String("key", key))
		}
	default:
		w.failed("look", err, zap.String("key", key))
	}
}

// look brings one input up to date, from whatever state: it finds the batch that the upload means, makes
// its plan if there is none, and advances it. It is called for one key at a time.
func (w *Watcher) look(ctx context.Context, key string) error {
	up, err := w.head(ctx, key)
	if up == nil || err != nil || up.LastModified.Before(w.cfg.IgnoreBefore) {
		return err
	}
	id, generation, result, err := w.identify(ctx, up)
	if err != nil {
		return err
	}
	if result != nil {
		return w.conclude(ctx, up, result)
	}
	plan, err := readJSON[batch.Plan](ctx, w.cfg.Bucket, batch.PlanKey(id))
	if err != nil {
		return err
	}
	if plan == nil {
		if err := w.makePlan(ctx, up, id, generation); err != nil {
			w.sayUnreadable(ctx, up, id, err)
			return err
		}
	} else if err := w.markOpen(ctx, up, id); err != nil {
		return err
	}
	w.setPlanned(up.name(), id)
	if err := w.advance(ctx, id); err != nil {
		return err
	}
	if _, known := w.cfg.pool(up.opt.pool); !known {
		return nil
	}
	return w.pool(up.opt.pool).topUp(ctx)
}

// identify finds the batch that an upload means. Each generation of it that ended badly before the upload is
// passed over (FORMAT.md, Batch id). With a result the batch has ended, and the upload needs nothing.
func (w *Watcher) identify(ctx context.Context, up *upload) (id string, generation int, result *batch.Result, err error) {
	for ; ; generation++ {
		id = w.identity(up, generation).ID()
		result, err = readJSON[batch.Result](ctx, w.cfg.Bucket, batch.ResultKey(id))
		if err != nil || result == nil {
			return id, generation, nil, err
		}
		if result.Outcome == batch.Completed || up.LastModified.Unix() < result.ObjectTime {
			return id, generation, result, nil
		}
	}
}

// conclude says what became of an upload whose batch is over, and marks it as such; unless it was made in this
// very second of the store: then another upload with the same time, other metadata and thus another
// batch may follow, and the next scan looks again.
func (w *Watcher) conclude(ctx context.Context, up *upload, result *batch.Result) error {
	if up.Date.Unix() <= up.LastModified.Unix() {
		return nil
	}
	marker := up.name()
	if _, err := w.cfg.Bucket.Head(ctx, marker); !storage.IsNotFound(err) {
		if err == nil {
			w.setEnded(marker)
		}
		return err
	}
	if up.LastModified.Unix() != result.Input.LastModified {
		w.sayRepeated(ctx, up, result)
	}
	body, err := json.Marshal(batch.Open{V: batch.Version, Batch: result.Batch, Key: up.Key})
	if err != nil {
		return fmt.Errorf("encode ended marker: %w", err)
	}
	if _, err := storage.PutOnce(ctx, w.cfg.Bucket, marker, body, storage.PutOptions{}); err != nil {
		return err
	}
	w.setEnded(marker)
	return nil
}

// markOpen makes sure that every watcher hears of the batch, also when its input is gone.
func (w *Watcher) markOpen(ctx context.Context, up *upload, id string) error {
	if _, err := w.cfg.Bucket.Head(ctx, batch.OpenKey(id)); !storage.IsNotFound(err) {
		return err
	}
	return w.putOpen(ctx, up, id)
}

// putOpen is markOpen where there most likely is no marker.
func (w *Watcher) putOpen(ctx context.Context, up *upload, id string) error {
	body, err := json.Marshal(batch.Open{V: batch.Version, Batch: id, Key: up.Key, Input: w.input(up)})
	if err != nil {
		return fmt.Errorf("encode open marker: %w", err)
	}
	_, err = storage.PutOnce(ctx, w.cfg.Bucket, batch.OpenKey(id), body, storage.PutOptions{})
	return err
}

func (w *Watcher) input(up *upload) batch.Input {
	return batch.Input{
		Bucket: w.cfg.BucketName, Key: up.Key, ETag: up.ETag, Size: up.Size,
		LastModified: up.LastModified.Unix(),
	}
}

// readJSON reads a small object; nil if it is absent, batch.ErrVersion if a later spool wrote it.
func readJSON[T any](ctx context.Context, b storage.Bucket, key string) (*T, error) {
	body, _, err := storage.ReadAll(ctx, b, key)
	if storage.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var v struct {
		V int `json:"v"`
	}
	value := new(T)
	if err := errors.Join(json.Unmarshal(body, &v), json.Unmarshal(body, value)); err != nil {
		return nil, fmt.Errorf("decode %q: %w", key, err)
	}
	if v.V > batch.Version {
		return nil, fmt.Errorf("read %q: %w", key, batch.ErrVersion)
	}
	return value, nil
}

// unix is the time of Unix seconds.
func unix(seconds int64) time.Time { return time.Unix(seconds, 0).UTC() }
