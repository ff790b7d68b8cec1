package storagetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"sync"
	"sync/atomic"
	"testing/iotest"
	"time"

	"spool/storage"
)

// Operations, as Hook and storage.Error name them.
const (
	OpGet    = "get"
	OpHead   = "head"
	OpPut    = "put"
	OpUpload = "upload"
	OpList   = "list"
	OpDelete = "delete"
)

// Hook calls Before and After around each write: put, upload, delete. An error of Before is returned
// instead of the write. An error of After is returned instead of its result, although the write has
// happened: the reply is lost. Both are called only for what goes on: After not if the write failed.
// A crash test panics, exits or cancels in them. Nil functions do nothing.
type Hook struct {
	storage.Bucket
	Before, After func(op, key string) error
	Reads         bool // get, head and list as well; their key is the prefix for list
}

var (
	_ storage.Bucket  = (*Hook)(nil)
	_ storage.Deleter = (*Hook)(nil)
)

// Put is a write.
func (h *Hook) Put(ctx context.Context, key string, body []byte, opt storage.PutOptions) (obj storage.Object, err error) {
	err = h.around(OpPut, key, func() error {
		obj, err = h.Bucket.Put(ctx, key, body, opt)
		return err
	})
	return obj, err
}

// Upload is a write.
func (h *Hook) Upload(ctx context.Context, key string, r io.Reader, opt storage.PutOptions) (obj storage.Object, err error) {
	err = h.around(OpUpload, key, func() error {
		obj, err = h.Bucket.Upload(ctx, key, r, opt)
		return err
	})
	return obj, err
}

// Delete is a write; the Bucket must be a Deleter.
func (h *Hook) Delete(ctx context.Context, key string) error {
	d, ok := h.Bucket.(storage.Deleter)
	if !ok {
		return fmt.Errorf("delete %q: %w", key, errors.ErrUnsupported)
	}
	return h.around(OpDelete, key, func() error { return d.Delete(ctx, key) })
}

// Get is a read.
func (h *Hook) Get(ctx context.Context, key string, opt storage.GetOptions) (r io.ReadCloser, obj storage.Object, err error) {
	err = h.aroundRead(OpGet, key, func() error {
		r, obj, err = h.Bucket.Get(ctx, key, opt)
		return err
	})
	if err != nil && r != nil {
		err = errors.Join(err, r.Close())
		r = nil
	}
	return r, obj, err
}

// Head is a read.
func (h *Hook) Head(ctx context.Context, key string) (obj storage.Object, err error) {
	err = h.aroundRead(OpHead, key, func() error {
		obj, err = h.Bucket.Head(ctx, key)
		return err
	})
	return obj, err
}

// List is a read.
func (h *Hook) List(ctx context.Context, prefix, startAfter string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		stopped := false
		err := h.aroundRead(OpList, prefix, func() error {
			for obj, err := range h.Bucket.List(ctx, prefix, startAfter) {
				if err != nil {
					return err
				}
				if stopped = !yield(obj, nil); stopped {
					return nil
				}
			}
			return nil
		})
		if err != nil && !stopped {
			yield(storage.Object{}, err)
		}
	}
}

func (h *Hook) aroundRead(op, key string, f func() error) error {
	if !h.Reads {
		return f()
	}
	return h.around(op, key, f)
}

func (h *Hook) around(op, key string, f func() error) error {
	if h.Before != nil {
		if err := h.Before(op, key); err != nil {
			return err
		}
	}
	if err := f(); err != nil {
		return err
	}
	if h.After != nil {
		return h.After(op, key)
	}
	return nil
}

// Fault makes the error for one call; nil lets the call pass.
type Fault func(op, key string) error

// Unavailable is a 503: nothing happened, in Before; the reply was lost, in After.
func Unavailable(op, key string) error {
	return &storage.Error{Op: op, Key: key, Kind: storage.KindUnavailable, Err: errors.New("injected 503")}
}

// Conflict is a 409.
func Conflict(op, key string) error {
	return &storage.Error{Op: op, Key: key, Kind: storage.KindConflict, Err: errors.New("injected 409")}
}

// Lost is an answer of which nothing is known but that it did not arrive whole.
func Lost(op, key string) error {
	return &storage.Error{Op: op, Key: key, Kind: storage.KindUnknown, Err: errors.New("injected loss of the reply")}
}

// Denied is a 403.
func Denied(op, key string) error {
	return &storage.Error{Op: op, Key: key, Kind: storage.KindDenied, Err: errors.New("injected 403")}
}

// FailNth lets fault strike the n-th call (from 1) of the given operations, of all if none is given.
func FailNth(n int, fault Fault, ops ...string) Fault {
	return strike(func(i int) bool { return i == n }, fault, ops)
}

// FailFirst lets fault strike the first n calls of the given operations, of all if none is given.
func FailFirst(n int, fault Fault, ops ...string) Fault {
	return strike(func(i int) bool { return i <= n }, fault, ops)
}

func strike(when func(call int) bool, fault Fault, ops []string) Fault {
	var calls atomic.Int64
	return func(op, key string) error {
		if len(ops) > 0 && !slices.Contains(ops, op) || !when(int(calls.Add(1))) {
			return nil
		}
		return fault(op, key)
	}
}

// Torn cuts the bodies of the first Times Gets after At bytes: with io.ErrUnexpectedEOF, or with
// Quiet as if they ended there.
type Torn struct {
	storage.Bucket
	At    int64
	Times int
	Quiet bool

	mu   sync.Mutex
	cuts int
}

// Get opens an object whose body may be torn.
func (t *Torn) Get(ctx context.Context, key string, opt storage.GetOptions) (io.ReadCloser, storage.Object, error) {
	r, obj, err := t.Bucket.Get(ctx, key, opt)
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil || t.cuts == t.Times {
		return r, obj, err
	}
	t.cuts++
	return &tornBody{ReadCloser: r, left: t.At, quiet: t.Quiet}, obj, nil
}

// Cuts tells how many bodies were torn.
func (t *Torn) Cuts() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.cuts
}

type tornBody struct {
	io.ReadCloser
	left  int64
	quiet bool
}

func (b *tornBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		if b.quiet {
			return 0, io.EOF
		}
		return 0, io.ErrUnexpectedEOF
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// Slow waits before each call, and before each Read of a body. With a Delay beyond all time-outs it hangs.
type Slow struct {
	storage.Bucket
	Delay time.Duration
	Ops   []string // empty: all calls; "body": the Reads
}

// OpBody names the Reads of a body to Slow.
const OpBody = "body"

// Get waits.
func (s *Slow) Get(ctx context.Context, key string, opt storage.GetOptions) (io.ReadCloser, storage.Object, error) {
	if err := s.wait(ctx, OpGet, key); err != nil {
		return nil, storage.Object{}, err
	}
	r, obj, err := s.Bucket.Get(ctx, key, opt)
	if err != nil {
		return nil, obj, err
	}
	return &slowBody{ReadCloser: r, ctx: ctx, slow: s, key: key}, obj, nil
}

// Head waits.
func (s *Slow) Head(ctx context.Context, key string) (storage.Object, error) {
	if err := s.wait(ctx, OpHead, key); err != nil {
		return storage.Object{}, err
	}
	return s.Bucket.Head(ctx, key)
}

// Put waits.
func (s *Slow) Put(ctx context.Context, key string, body []byte, opt storage.PutOptions) (storage.Object, error) {
	if err := s.wait(ctx, OpPut, key); err != nil {
		return storage.Object{}, err
	}
	return s.Bucket.Put(ctx, key, body, opt)
}

// Upload waits.
func (s *Slow) Upload(ctx context.Context, key string, r io.Reader, opt storage.PutOptions) (storage.Object, error) {
	if err := s.wait(ctx, OpUpload, key); err != nil {
		return storage.Object{}, err
	}
	return s.Bucket.Upload(ctx, key, r, opt)
}

// List waits before it begins.
func (s *Slow) List(ctx context.Context, prefix, startAfter string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		if err := s.wait(ctx, OpList, prefix); err != nil {
			yield(storage.Object{}, err)
			return
		}
		s.Bucket.List(ctx, prefix, startAfter)(yield)
	}
}

func (s *Slow) wait(ctx context.Context, op, key string) error {
	if len(s.Ops) > 0 && !slices.Contains(s.Ops, op) {
		return nil
	}
	timer := time.NewTimer(s.Delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s %q: %w", op, key, ctx.Err())
	}
}

type slowBody struct {
	io.ReadCloser
	ctx  context.Context // that of the Get, as in an HTTP body
	slow *Slow
	key  string
}

func (b *slowBody) Read(p []byte) (int, error) {
	if err := b.slow.wait(b.ctx, OpBody, b.key); err != nil {
		return 0, err
	}
	return b.ReadCloser.Read(p)
}

// BreakReads is a bucket whose bodies break off after Keep bytes, or where they end, as if somebody had closed the connection:
// io.EOF is in the error.
type BreakReads struct {
	storage.Bucket
	Keep int64
}

// Get gives a body that breaks off.
func (b BreakReads) Get(ctx context.Context, key string, opt storage.GetOptions) (io.ReadCloser, storage.Object, error) {
	body, obj, err := b.Bucket.Get(ctx, key, opt)
	if err != nil {
		return nil, obj, err
	}
	broken := iotest.ErrReader(&storage.Error{Op: OpGet, Key: key, Kind: storage.KindUnavailable, Err: io.EOF})
	return struct {
		io.Reader
		io.Closer
	}{io.MultiReader(io.LimitReader(body, b.Keep), broken), body}, obj, nil
}
