package lease_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"spool/storage"
	"spool/storage/lease"
)

// hooked is a bucket whose writes and reads of leases go through before and after; all may be nil.
type hooked struct {
	storage.Bucket
	mu     sync.Mutex
	before func(ctx context.Context) error // an error is the reply, and nothing is written
	after  func() error                    // an error is the reply, although it was written
	head   func(ctx context.Context) error // an error is the reply of Head and Get
}

func (h *hooked) set(change func(*hooked)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change(h)
}

func (h *hooked) hooks() (before func(context.Context) error, after func() error, head func(context.Context) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.before, h.after, h.head
}

func (h *hooked) Put(ctx context.Context, key string, body []byte, opt storage.PutOptions) (storage.Object, error) {
	before, after, _ := h.hooks()
	if before != nil {
		if err := before(ctx); err != nil {
			return storage.Object{}, err
		}
	}
	obj, err := h.Bucket.Put(ctx, key, body, opt)
	if err == nil && after != nil {
		err = after()
	}
	return obj, err
}

func (h *hooked) Head(ctx context.Context, key string) (storage.Object, error) {
	if _, _, head := h.hooks(); head != nil {
		if err := head(ctx); err != nil {
			return storage.Object{}, err
		}
	}
	return h.Bucket.Head(ctx, key)
}

func unavailable() error {
	return &storage.Error{Op: "put", Key: key, Kind: storage.KindUnavailable, Err: errors.New("reset")}
}

func acquire(t *testing.T, b storage.Bucket, owner string) (context.Context, *lease.Lease) {
	t.Helper()
	ctx, l, err := lease.Acquire(t.Context(), lease.Config{Bucket: b, Key: key, Owner: owner})
	if err != nil {
		t.Fatalf("Acquire(%s): %v", owner, err)
	}
	return ctx, l
}

func release(t *testing.T, l *lease.Lease) {
	t.Helper()
	if err := l.Release(context.Background()); err != nil {
		t.Errorf("Release: %v", err)
	}
}

func read(t *testing.T, b storage.Bucket) lease.Observed {
	t.Helper()
	o, err := lease.Read(t.Context(), b, key)
	if err != nil {
		t.Fatalf("Read: %v", err)
	}
	return o
}

// abandon leaves a held record with notes, as a killed process does.
func abandon(t *testing.T, b storage.Bucket, owner string) {
	t.Helper()
	body := fmt.Sprintf(`{"v":1,"gen":1,"owner":%q,"state":"held","renewed":0,"notes":{"from":%q}}`, owner, owner)
	if _, err := b.Put(t.Context(), key, []byte(body), storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
}

func abandonReleased(t *testing.T, b storage.Bucket) {
	t.Helper()
	body := `{"v":1,"gen":7,"owner":"z","state":"released","renewed":3}`
	if _, err := b.Put(t.Context(), key, []byte(body), storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
}
