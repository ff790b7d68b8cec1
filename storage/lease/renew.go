package lease

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"spool/storage"
)

// renew keeps the lease until its context ends, by whatever cause. Errors of the store are no reason to
// stop: they may pass, and if they do not, the fence ends the context.
func (l *Lease) renew(ctx context.Context) {
	defer close(l.done)
	timer := time.NewTimer(l.cfg.renewEvery())
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		next := l.cfg.renewEvery()
		if l.renewOnce(ctx) != nil {
			next = l.cfg.retryAfter()
		}
		timer.Reset(next)
	}
}

func (l *Lease) renewOnce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.tryTimeout())
	defer cancel()
	return l.write(ctx, func(*Record) {})
}

// writeTries bounds the turns of write: each needs one more own write whose reply was lost.
const writeTries = 4

// write changes the record here and in the store. Success puts the fence off, counted from before the
// request. Losing the record to somebody else ends the context, and is the only way to ErrLost.
func (l *Lease) write(ctx context.Context, change func(*Record)) error {
	select {
	case l.writing <- struct{}{}:
		defer func() { <-l.writing }()
	case <-ctx.Done():
		return fmt.Errorf("wait for another write of %q: %w", l.cfg.Key, context.Cause(ctx))
	}
	if l.lost != nil {
		return l.lost
	}
	l.update(change)
	for range writeTries {
		rec := l.update(func(r *Record) { r.Renewed++ })
		start := time.Now()
		stored, err := swap(ctx, l.cfg, l.etag, rec)
		switch {
		case err == nil && stored.Mine:
			l.etag = stored.ETag
			if rec.State == Held {
				l.fence.Reset(l.cfg.fence() - time.Since(start))
			}
			return nil
		case storage.IsNotFound(err):
			return l.lose("its record vanished")
		case err != nil:
			return err
		}
		if err := l.readBack(ctx); err != nil {
			return err
		}
	}
	return fmt.Errorf("write %q: no outcome after %d tries", l.cfg.Key, writeTries)
}

// readBack looks at the version that stands where ours was expected. It is no loss if we wrote it, by
// an earlier request whose reply never came: then the next write replaces that one.
func (l *Lease) readBack(ctx context.Context) error {
	seen, err := Read(ctx, l.cfg.Bucket, l.cfg.Key)
	switch {
	case storage.IsNotFound(err):
		return l.lose("its record vanished")
	case err != nil:
		return err
	case seen.Record.Owner != l.cfg.Owner || seen.Record.Gen != l.gen:
		return l.lose(fmt.Sprintf("%q took it with generation %d", seen.Record.Owner, seen.Record.Gen))
	}
	l.etag = seen.etag
	return nil
}

func (l *Lease) lose(why string) error {
	l.lost = fmt.Errorf("%w: %q: %s", ErrLost, l.cfg.Key, why)
	l.cancel(l.lost)
	return l.lost
}

func (l *Lease) update(change func(*Record)) Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(&l.rec)
	return l.rec
}

func swap(ctx context.Context, cfg Config, etag string, rec Record) (storage.Stored, error) {
	body, err := json.Marshal(rec)
	if err != nil {
		return storage.Stored{}, fmt.Errorf("encode %q: %w", cfg.Key, err)
	}
	return storage.Swap(ctx, cfg.Bucket, cfg.Key, etag, body)
}
