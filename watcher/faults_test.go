package watcher_test

import (
	"context"
	"io"
	"iter"
	"sync/atomic"

	"spool/storage"
)

// counting counts HEAD requests for inputs and batches.
type counting struct {
	storage.Bucket
	head atomic.Int64
}

func (c *counting) Head(ctx context.Context, key string) (storage.Object, error) {
	if key != "sys/v1/collected" {
		c.head.Add(1)
	}
	return c.Bucket.Head(ctx, key)
}

// failing asks fail before each request, and after each write with "put done".
type failing struct {
	storage.Bucket
	fail func(op, key string) error
}

func (f *failing) Get(ctx context.Context, key string, opt storage.GetOptions) (io.ReadCloser, storage.Object, error) {
	if err := f.fail("get", key); err != nil {
		return nil, storage.Object{}, err
	}
	return f.Bucket.Get(ctx, key, opt)
}

func (f *failing) Head(ctx context.Context, key string) (storage.Object, error) {
	if err := f.fail("head", key); err != nil {
		return storage.Object{}, err
	}
	return f.Bucket.Head(ctx, key)
}

func (f *failing) Put(ctx context.Context, key string, body []byte, opt storage.PutOptions) (storage.Object, error) {
	if err := f.fail("put", key); err != nil {
		return storage.Object{}, err
	}
	obj, err := f.Bucket.Put(ctx, key, body, opt)
	if err == nil {
		err = f.fail("put done", key)
	}
	return obj, err
}

func (f *failing) Upload(ctx context.Context, key string, r io.Reader, opt storage.PutOptions) (storage.Object, error) {
	if err := f.fail("put", key); err != nil {
		return storage.Object{}, err
	}
	obj, err := f.Bucket.Upload(ctx, key, r, opt)
	if err == nil {
		err = f.fail("put done", key)
	}
	return obj, err
}

func (f *failing) List(ctx context.Context, prefix, startAfter string) iter.Seq2[storage.Object, error] {
	if err := f.fail("list", prefix); err != nil {
		return func(yield func(storage.Object, error) bool) { yield(storage.Object{}, err) }
	}
	return f.Bucket.List(ctx, prefix, startAfter)
}
