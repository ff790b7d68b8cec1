package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// Retry is the policy of the one retry layer. WithRetry applies it to the calls of a Bucket; the S3
// drivers apply the same value to the requests of an Upload, because only they hold the part that is to be
// sent again. The zero value is the default policy.
type Retry struct {
	Attempts int           // tries of a call, the first included; 0: 8. Progress in a body or a listing starts the count anew
	Base     time.Duration // the most to wait before the first repetition, doubled each time; 0: 100 ms
	Max      time.Duration // the most to wait before any; 0: 5 s. Waits are drawn from [0, most): full jitter

	// Timeout bounds the wait for an answer, and the silence within a body or a listing; 0: 30 s. A
	// Put may take a second longer for each MiB, the completion of an upload see completeTimeout.
	// Without it a store that accepts a connection and says nothing would hold spool for ever.
	Timeout time.Duration

	// OnRetry, if set, is told of each failure that is followed by another attempt: attempt is the
	// number of the one that failed, from 1. It is called from the goroutine of the caller.
	OnRetry func(op, key string, attempt int, err error)
}

func (r Retry) withDefaults() Retry {
	if r.Attempts <= 0 {
		r.Attempts = 8
	}
	if r.Base <= 0 {
		r.Base = 100 * time.Millisecond
	}
	if r.Max <= 0 {
		r.Max = 5 * time.Second
	}
	if r.Timeout <= 0 {
		r.Timeout = 30 * time.Second
	}
	return r
}

// WithRetry returns b with retries of what fails with a Temporary error: Get, Head, Put, and List, which
// goes on after the last key yielded. The body of a Get continues where it broke off, pinned to the
// ETag, and is an error unless it is as long as the store said. Upload passes through: its reader can
// be read only once.
//
// A conditional Put whose reply was lost is refused when it is repeated, so KindPrecondition may hide a
// success. That is passed up; PutOnce and Swap read back who won.
func WithRetry(b Bucket, r Retry) Bucket {
	return &retrying{bucket: b, retry: r.withDefaults()}
}

// WithRetryDeleter returns d with retries of what fails with a Temporary error.
func WithRetryDeleter(d Deleter, r Retry) Deleter {
	return &retryingDeleter{deleter: d, retry: r.withDefaults()}
}

type retrying struct {
	bucket Bucket
	retry  Retry
}

func (b *retrying) Head(ctx context.Context, key string) (obj Object, err error) {
	err = b.retry.do(ctx, call{"head", key, b.retry.Timeout}, func(ctx context.Context) error {
		obj, err = b.bucket.Head(ctx, key)
		return err
	})
	return obj, err
}

func (b *retrying) Put(ctx context.Context, key string, body []byte, opt PutOptions) (obj Object, err error) {
	err = b.retry.do(ctx, call{"put", key, b.retry.sendTimeout(len(body))}, func(ctx context.Context) error {
		obj, err = b.bucket.Put(ctx, key, body, opt)
		return err
	})
	return obj, err
}

func (b *retrying) Upload(ctx context.Context, key string, r io.Reader, opt PutOptions) (Object, error) {
	return b.bucket.Upload(ctx, key, r, opt)
}

func (b *retrying) List(ctx context.Context, prefix, startAfter string) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		t := turns{Retry: b.retry, op: "list", key: prefix}
		last := startAfter
		emit := func(obj Object) bool {
			last = obj.Key
			t.failed = 0
			return yield(obj, nil)
		}
		for {
			err := b.list(ctx, prefix, last, emit)
			if err == nil {
				return
			}
			if err := t.again(ctx, err); err != nil {
				yield(Object{}, err)
				return
			}
		}
	}
}

// list passes the objects after last to emit, until it says no. The watchdog rests while emit works.
func (b *retrying) list(ctx context.Context, prefix, last string, emit func(Object) bool) error {
	ctx, dog := watch(ctx, b.retry.Timeout)
	defer dog.stop()
	for obj, err := range b.bucket.List(ctx, prefix, last) {
		dog.rest()
		if err != nil {
			return dog.explain("list", prefix, err)
		}
		if !emit(obj) {
			return nil
		}
		dog.wake()
	}
	return nil
}

type retryingDeleter struct {
	deleter Deleter
	retry   Retry
}

func (d *retryingDeleter) Delete(ctx context.Context, key string) error {
	return d.retry.do(ctx, call{"delete", key, d.retry.Timeout}, func(ctx context.Context) error {
		return d.deleter.Delete(ctx, key)
	})
}

// sendTimeout is the time for a request with a body of n bytes: a second a MiB more.
func (r Retry) sendTimeout(n int) time.Duration {
	return r.Timeout + time.Duration(n>>20)*time.Second
}

// call names a request, and says how long it may take.
type call struct {
	op, key string
	timeout time.Duration
}

// do calls f until it succeeds, fails for good, or the attempts are used up.
func (r Retry) do(ctx context.Context, c call, f func(context.Context) error) error {
	t := turns{Retry: r, op: c.op, key: c.key}
	for {
		err := ctx.Err() // a cancelled context never starts
		if err != nil {
			return fmt.Errorf("%s %q: %w", c.op, c.key, err)
		}
		if err = c.try(ctx, f); err == nil {
			return nil
		}
		if err := t.again(ctx, err); err != nil {
			return err
		}
	}
}

func (c call) try(ctx context.Context, f func(context.Context) error) error {
	ctx, dog := watch(ctx, c.timeout)
	defer dog.stop()
	return dog.explain(c.op, c.key, f(ctx))
}

// turns counts the failures of one call.
type turns struct {
	Retry
	op, key string
	failed  int
}

// again waits before the next attempt. If there is to be none, it returns the error to give up with.
func (t *turns) again(ctx context.Context, err error) error {
	t.failed++
	if !Temporary(err) || t.failed >= t.Attempts {
		return err
	}
	if t.OnRetry != nil {
		t.OnRetry(t.op, t.key, t.failed, err)
	}
	if stop := t.wait(ctx, t.failed); stop != nil {
		return fmt.Errorf("%s %q: %w, after %v", t.op, t.key, stop, err)
	}
	return nil
}

// wait sleeps before the attempt that follows the given number of failures.
func (r Retry) wait(ctx context.Context, failed int) error {
	most := r.Max
	if shift := failed - 1; shift < 32 {
		most = min(r.Max, r.Base<<shift)
	}
	timer := time.NewTimer(rand.N(most))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

var errSilent = errors.New("the store is silent")

// watchdog cancels a context when the store is silent for too long. It watches while it is awake.
type watchdog struct {
	limit  time.Duration
	timer  *time.Timer
	cancel context.CancelFunc
	barked atomic.Bool
}

func watch(ctx context.Context, limit time.Duration) (context.Context, *watchdog) {
	ctx, cancel := context.WithCancel(ctx)
	d := &watchdog{limit: limit, cancel: cancel}
	d.timer = time.AfterFunc(limit, func() {
		d.barked.Store(true)
		cancel()
	})
	return ctx, d
}

func (d *watchdog) wake() { d.timer.Reset(d.limit) }
func (d *watchdog) rest() { d.timer.Stop() }
func (d *watchdog) stop() { d.timer.Stop(); d.cancel() }

// explain makes of a cancellation by the watchdog what it is: a store that cannot be reached. The
// context error itself is left out of the chain, since the caller's own context is well.
func (d *watchdog) explain(op, key string, err error) error {
	if err == nil || err == io.EOF || !d.barked.Load() || KindOf(err) != KindUnknown {
		return err
	}
	return &Error{Op: op, Key: key, Kind: KindUnavailable, Err: fmt.Errorf("%w for %v", errSilent, d.limit)}
}
