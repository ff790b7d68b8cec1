// Package lease gives one of many processes the right to work on something, as a context that dies
// with that right.
//
// A lease is one object of the bucket, written by compare-and-swap only. Whoever creates it, or replaces
// a record that is released or older than its TTL, holds the lease, and renews it until Release. The
// record is never deleted: conditional deletes are ignored by several stores, and the generation in
// it would be lost.
//
// No process compares its clock with another's. The age of a record is Date minus Last-Modified of
// one answer of the store, so both times are the store's. A holder measures itself by its monotonic clock,
// from before it sent the last renewal that succeeded, which is before the store stamped it; and it
// gives up by itself after 5/6 of the TTL. The last sixth is for the whole seconds of HTTP dates (an
// age may seem one second too high) and for clocks that run at different speeds.
//
// The TTL is the holder's, and stands in the record: others judge a record by that, never by a TTL of their own.
//
// Still, a lease only saves work. A process may be stopped between looking at its context and
// writing, and a suspended machine's monotonic clock stands still; so everything that is written under
// a lease is written once, by conditional writes, and is right whoever holds the lease.
//
// All time is taken from package time: testing/synctest is the clock of the tests.
package lease

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"spool/storage"
)

// DefaultTTL is how old a held record must be before others may take it, unless it says otherwise. A holder renews every 20 s
// (2/9) and fences itself after 75 s (5/6). Chosen so that a dead runner's work waits no longer than its SQS
// message does, which becomes visible again after 120 s.
const DefaultTTL = 90 * time.Second

// MinTTL is the least TTL that Acquire accepts: the sixth of it that is left between fence and theft
// must be more than the second by which HTTP dates are coarse.
const MinTTL = 9 * time.Second

// ErrLost is the cause of the context's end when the lease was lost: another process took it, its record
// vanished, or it could not be renewed in time.
var ErrLost error = lostError{}

type lostError struct{}

func (lostError) Error() string { return "lease lost" }

// ErrorType is for logs.
func (lostError) ErrorType() string { return "lease_lost" }

// ErrReleased is the cause of the context's end after Release.
var ErrReleased = errors.New("lease released")

// HeldError says that somebody else holds the lease.
type HeldError struct {
	Key       string
	Owner     string
	Gen       int64
	Age       time.Duration // since the last renewal, by the store's clock
	Remaining time.Duration // until the record is stale if its holder is dead: trying earlier is useless
}

func (e *HeldError) Error() string {
	return fmt.Sprintf("lease %q is held by %q, renewed %s ago", e.Key, e.Owner, e.Age)
}

// Config says which lease, and for whom. Bucket, Key and Owner are needed.
type Config struct {
	Bucket storage.Bucket // may retry; a renewal is given up after a ninth of the TTL and tried again
	Key    string
	Owner  string        // unique among all processes that ever want this lease, and not reused
	TTL    time.Duration // 0 means DefaultTTL; of this holder only: the record tells it to the others
}

func (c Config) withDefaults() (Config, error) {
	c.TTL = cmp.Or(c.TTL, DefaultTTL)
	switch {
	case c.Bucket == nil:
		return c, errors.New("lease: no bucket")
	case c.Key == "" || c.Owner == "":
		return c, errors.New("lease: key and owner must not be empty")
	case c.TTL < MinTTL:
		return c, fmt.Errorf("lease: ttl %s is below %s", c.TTL, MinTTL)
	}
	return c, nil
}

func (c Config) renewEvery() time.Duration { return c.TTL * 2 / 9 }
func (c Config) retryAfter() time.Duration { return c.TTL / 18 }
func (c Config) tryTimeout() time.Duration { return c.TTL / 9 }
func (c Config) fence() time.Duration      { return c.TTL * 5 / 6 }

// Predecessor is who held the lease before. The zero Predecessor means nobody.
type Predecessor struct {
	Owner   string
	Gen     int64
	Crashed bool          // it went without releasing; false: it released
	Age     time.Duration // of its last write, when this lease was acquired
}

// Lease is the right that Acquire got. Its methods are safe for concurrent use.
type Lease struct {
	cfg    Config
	pred   Predecessor
	gen    int64
	cancel context.CancelCauseFunc // of the context that Acquire returned
	fence  *time.Timer             // cancels with ErrLost unless it is put off
	done   chan struct{}           // closed when the renewing goroutine is gone

	// writing is a lock of one write at a time, over the request; a channel, so that waiting for it
	// ends with a context. The two fields below belong to whoever has it.
	writing chan struct{}
	etag    string
	lost    error // why another write is pointless; nil as long as the record is ours

	mu  sync.Mutex // over rec only, never over a request
	rec Record     // what was last written, or tried

	release    sync.Once
	releaseErr error
}

// Acquire takes the lease if it is free: absent, released, or held by somebody who has not renewed it for
// the TTL in the record. Else it fails with *HeldError. The context that it returns is derived from ctx and ends, with
// ErrLost as its cause, before anybody else can take the lease. The caller must Release, also
// after the context has ended.
//
// A fresh record of the same Owner is taken over at once: it is left from a call whose outcome its
// caller could not learn. So a process must not acquire what it holds already.
//
// An error other than *HeldError may leave the lease taken, by nobody that renews it.
func Acquire(ctx context.Context, cfg Config) (context.Context, *Lease, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, nil, err
	}
	for range acquireTries {
		seen, err := Read(ctx, cfg.Bucket, cfg.Key)
		if err != nil && !storage.IsNotFound(err) {
			return nil, nil, err
		}
		if seen.Fresh() && seen.Record.Owner != cfg.Owner {
			return nil, nil, &HeldError{Key: cfg.Key, Owner: seen.Record.Owner, Gen: seen.Record.Gen, Age: seen.Age, Remaining: seen.Record.ttl() - seen.Age}
		}
		rec := Record{V: Version, Gen: seen.Record.Gen + 1, Owner: cfg.Owner, State: Held, TTL: recorded(cfg.TTL), Notes: seen.Record.Notes}
		start := time.Now()
		stored, err := swap(ctx, cfg, seen.etag, rec)
		if err != nil && !storage.IsNotFound(err) {
			return nil, nil, fmt.Errorf("acquire lease: %w", err)
		}
		if stored.Mine {
			leaseCtx, l := newLease(ctx, cfg, rec, start)
			l.etag, l.pred = stored.ETag, predecessor(seen)
			go l.renew(leaseCtx)
			return leaseCtx, l, nil
		}
	}
	return nil, nil, fmt.Errorf("acquire lease %q: others were faster %d times", cfg.Key, acquireTries)
}

// acquireTries bounds the race for a lease that is free: whoever loses a turn most likely finds it held
// in the next.
const acquireTries = 5

func newLease(ctx context.Context, cfg Config, rec Record, start time.Time) (context.Context, *Lease) {
	ctx, cancel := context.WithCancelCause(ctx)
	l := &Lease{
		cfg: cfg, gen: rec.Gen, rec: rec, cancel: cancel,
		done: make(chan struct{}), writing: make(chan struct{}, 1),
	}
	l.fence = time.AfterFunc(cfg.fence()-time.Since(start), func() {
		cancel(fmt.Errorf("%w: %q was not renewed for %s", ErrLost, cfg.Key, cfg.fence()))
	})
	return ctx, l
}

func predecessor(o Observed) Predecessor {
	if o.etag == "" {
		return Predecessor{}
	}
	return Predecessor{Owner: o.Record.Owner, Gen: o.Record.Gen, Crashed: o.Record.State != Released, Age: o.Age}
}

// Gen is the generation of this tenure: one more than the predecessor's.
func (l *Lease) Gen() int64 { return l.gen }

// Predecessor tells who held the lease before, and how it left.
func (l *Lease) Predecessor() Predecessor { return l.pred }

// Notes are the notes in the lease: the predecessor's until SetNotes is called; nil if there are none. The
// caller must not change them.
func (l *Lease) Notes() json.RawMessage {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rec.Notes
}

// SetNotes replaces the notes, in the store before it returns; they are what a successor finds. It
// counts as a renewal, and works as long as nobody else took the lease, even when the context has ended.
// notes must be JSON, or nil for none. On an error that is not ErrLost the notes are written with the
// next renewal that succeeds.
func (l *Lease) SetNotes(ctx context.Context, notes json.RawMessage) error {
	if err := l.KeepNotes(notes); err != nil {
		return err
	}
	if err := l.write(ctx, func(*Record) {}); err != nil {
		return fmt.Errorf("set notes of lease: %w", err)
	}
	return nil
}

// KeepNotes replaces the notes, but asks nobody: the next renewal that succeeds writes them, or Release. notes must be JSON, or
// nil for none.
func (l *Lease) KeepNotes(notes json.RawMessage) error {
	if notes != nil && !json.Valid(notes) {
		return fmt.Errorf("set notes of lease %q: not JSON", l.cfg.Key)
	}
	l.update(func(r *Record) { r.Notes = notes })
	return nil
}

// Release ends the lease's context, waits for the renewing goroutine, and tells the others that they need not
// wait for the TTL. Work under the lease should be over. ctx is for the request only: it should
// outlive the work's own. Without error the record says released; an error of ErrLost means that there
// was nothing left to release. Further calls return the same.
func (l *Lease) Release(ctx context.Context) error {
	l.release.Do(func() {
		l.cancel(ErrReleased)
		<-l.done
		l.fence.Stop()
		if err := l.write(ctx, func(r *Record) { r.State = Released }); err != nil {
			l.releaseErr = fmt.Errorf("release lease: %w", err)
		}
	})
	return l.releaseErr
}
