package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// Get opens an object; the body that it returns mends itself.
func (b *retrying) Get(ctx context.Context, key string, opt GetOptions) (io.ReadCloser, Object, error) {
	t := turns{Retry: b.retry, op: "get", key: key}
	for {
		if err := ctx.Err(); err != nil {
			return nil, Object{}, fmt.Errorf("get %q: %w", key, err)
		}
		body, obj, err := b.open(ctx, key, opt)
		if err == nil {
			left := obj.Size - opt.Offset
			if opt.Length > 0 {
				left = min(left, opt.Length)
			}
			return &resumer{ctx: ctx, b: b, obj: obj, offset: opt.Offset, left: left, body: body, turns: t}, obj, nil
		}
		if err := t.again(ctx, err); err != nil {
			return nil, Object{}, err
		}
	}
}

func (b *retrying) open(ctx context.Context, key string, opt GetOptions) (io.ReadCloser, Object, error) {
	ctx, dog := watch(ctx, b.retry.Timeout)
	body, obj, err := b.bucket.Get(ctx, key, opt)
	dog.rest()
	if err != nil {
		dog.stop()
		return nil, Object{}, dog.explain("get", key, err)
	}
	return &watchedBody{body, key, dog}, obj, nil
}

// watchedBody wakes its watchdog for the time of each Read, so that a slow consumer is not blamed
// on the store.
type watchedBody struct {
	io.ReadCloser
	key string
	dog *watchdog
}

func (w *watchedBody) Read(p []byte) (int, error) {
	w.dog.wake()
	n, err := w.ReadCloser.Read(p)
	w.dog.rest()
	return n, w.dog.explain("get", w.key, err)
}

func (w *watchedBody) Close() error {
	w.dog.stop()
	return w.ReadCloser.Close()
}

// resumer reads one version of an object to its end, over as many requests as it takes. It tells a
// body that ends too early from one that is complete by counting.
type resumer struct {
	ctx    context.Context //nolint:containedctx // that of the Get: io.Reader has no place for it
	b      *retrying
	obj    Object
	offset int64         // of the next byte
	left   int64         // bytes still to come
	body   io.ReadCloser // nil: to be opened at offset
	turns  turns
	err    error // the end, good or bad
}

func (r *resumer) Read(p []byte) (int, error) {
	for r.err == nil {
		n, err := r.read(p)
		r.offset += int64(n)
		r.left -= int64(n)
		if n > 0 {
			r.turns.failed = 0
		}
		r.settle(err)
		if n > 0 || len(p) == 0 {
			return n, nil
		}
	}
	return 0, r.err
}

func (r *resumer) Close() error {
	if r.err == nil {
		r.err = fmt.Errorf("get %q: read after close", r.obj.Key)
	}
	return r.drop()
}

// read makes one attempt, with the request that is open or another one.
func (r *resumer) read(p []byte) (int, error) {
	if r.body == nil {
		body, obj, err := r.b.open(r.ctx, r.obj.Key, GetOptions{Offset: r.offset, Length: r.left, IfMatch: r.obj.ETag})
		if err != nil {
			return 0, err
		}
		r.body = body
		if obj.ETag != r.obj.ETag { // a store that ignores the condition
			return 0, &Error{Op: "get", Key: r.obj.Key, Kind: KindPrecondition, Err: errors.New("the object changed while it was read")}
		}
	}
	if r.left > 0 && int64(len(p)) > r.left {
		p = p[:r.left]
	}
	n, err := r.body.Read(p)
	if int64(n) > r.left {
		return 0, r.broken(errors.New("the body is longer than announced"))
	}
	if err == io.EOF && int64(n) < r.left {
		err = io.ErrUnexpectedEOF
	}
	if err != nil && err != io.EOF {
		err = r.broken(err)
	}
	return n, err
}

// settle decides what an error of read means: the end, or another request. What goes wrong
// behind the last byte, a checksum that does not hold, cannot be mended: the bytes are handed out.
func (r *resumer) settle(err error) {
	switch {
	case err == nil:
	case err == io.EOF || r.left == 0:
		r.err = err
	default:
		_ = r.drop() // it broke; what closing it says adds nothing
		r.err = r.turns.again(r.ctx, err)
	}
}

// broken is the error of a body; that of a cancelled context stays what it is.
func (r *resumer) broken(err error) error {
	if r.ctx.Err() != nil {
		return fmt.Errorf("get %q: %w", r.obj.Key, r.ctx.Err())
	}
	return &Error{Op: "get", Key: r.obj.Key, Kind: KindUnavailable, Err: fmt.Errorf("at byte %d: %w", r.offset, err)}
}

func (r *resumer) drop() error {
	if r.body == nil {
		return nil
	}
	err := r.body.Close()
	r.body = nil
	return err
}
