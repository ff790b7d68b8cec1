package storage_test

import (
	"context"
	"errors"
	"io"
	"maps"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"spool/storage"
	"spool/storage/memstore"
	"spool/storage/storagetest"
)

// Faults of a conditional write, and whose object stands at the end: reliability rule by rule.
func TestConditionalWriteSettles(t *testing.T) {
	rival := func(mem *memstore.Store) storagetest.Fault { // somebody else writes first
		return storagetest.FailNth(1, func(_, key string) error {
			_, err := mem.Put(context.Background(), key, []byte("theirs"), storage.PutOptions{})
			return err
		}, storagetest.OpPut, storagetest.OpUpload)
	}
	both := []string{storagetest.OpPut, storagetest.OpUpload}
	tests := map[string]struct {
		before func(*memstore.Store) storagetest.Fault
		after  storagetest.Fault
		mine   bool
		writes int // versions of the key, the first one that Swap replaces not counted
	}{
		"plain success":               {mine: true, writes: 1},
		"412 by a rival":              {before: rival, mine: false, writes: 1},
		"409 asks again":              {before: fixed(storagetest.FailFirst(3, storagetest.Conflict, both...)), mine: true, writes: 1},
		"503 before the write":        {before: fixed(storagetest.FailFirst(3, storagetest.Unavailable, both...)), mine: true, writes: 1},
		"unknown before the write":    {before: fixed(storagetest.FailFirst(3, storagetest.Lost, both...)), mine: true, writes: 1},
		"503 after the write":         {after: storagetest.FailFirst(1, storagetest.Unavailable, both...), mine: true, writes: 1},
		"reply lost after the write":  {after: storagetest.FailFirst(1, storagetest.Lost, both...), mine: true, writes: 1},
		"409 after the write, absurd": {after: storagetest.FailFirst(1, storagetest.Conflict, both...), mine: true, writes: 1},
	}
	for name, tc := range tests {
		for how, write := range writers {
			for _, retried := range []bool{false, true} {
				t.Run(name+"/"+how, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						mem := memstore.New(memstore.Options{})
						etag := ""
						if how == "swap" {
							etag = mustPut(t, mem, "k", "first").ETag
						}
						before := mem.Writes("k")
						hook := &storagetest.Hook{Bucket: mem, After: tc.after}
						if tc.before != nil {
							hook.Before = tc.before(mem)
						}
						var b storage.Bucket = hook
						if retried {
							b = storage.WithRetry(hook, storage.Retry{})
						}
						stored, err := write(t.Context(), b, etag)
						if err != nil {
							t.Fatal(err)
						}
						body, obj, err := storage.ReadAll(t.Context(), mem, "k")
						if err != nil {
							t.Fatal(err)
						}
						if stored.Mine != tc.mine || stored.ETag != obj.ETag || (string(body) == "mine") != tc.mine {
							t.Errorf("retried=%v: mine=%v, ETag %s; the store has %q, ETag %s", retried, stored.Mine, stored.ETag, body, obj.ETag)
						}
						if got := mem.Writes("k") - before; got != tc.writes {
							t.Errorf("retried=%v: %d writes, want %d", retried, got, tc.writes)
						}
					})
				})
			}
		}
	}
}

func fixed(f storagetest.Fault) func(*memstore.Store) storagetest.Fault {
	return func(*memstore.Store) storagetest.Fault { return f }
}

var writers = map[string]func(ctx context.Context, b storage.Bucket, etag string) (storage.Stored, error){
	"put": func(ctx context.Context, b storage.Bucket, _ string) (storage.Stored, error) {
		return storage.PutOnce(ctx, b, "k", []byte("mine"), storage.PutOptions{})
	},
	"upload": func(ctx context.Context, b storage.Bucket, _ string) (storage.Stored, error) {
		src := func() (io.Reader, error) { return strings.NewReader("mine"), nil }
		return storage.UploadOnce(ctx, b, "k", src, storage.PutOptions{})
	},
	"swap": func(ctx context.Context, b storage.Bucket, etag string) (storage.Stored, error) {
		return storage.Swap(ctx, b, "k", etag, []byte("mine"))
	},
}

// A write whose outcome was unknown, and which had not landed when it was read back, lands before the next try.
func TestWriteThatLandsLateIsMine(t *testing.T) {
	for how, write := range writers {
		synctest.Test(t, func(t *testing.T) {
			late := &lateWrites{Store: memstore.New(memstore.Options{})}
			etag := ""
			if how == "swap" {
				etag = mustPut(t, late.Store, "k", "first").ETag
			}
			before := late.Writes("k")
			stored, err := write(t.Context(), late, etag)
			if err != nil || !stored.Mine || late.Writes("k")-before != 1 {
				t.Errorf("%s: mine=%v, %v after %d writes; want mine after 1", how, stored.Mine, err, late.Writes("k")-before)
			}
		})
	}
}

// lateWrites holds the first write back until the second comes.
type lateWrites struct {
	*memstore.Store
	held func() error
	done bool
}

func (l *lateWrites) Put(ctx context.Context, key string, body []byte, opt storage.PutOptions) (storage.Object, error) {
	if l.held == nil {
		opt.Metadata = maps.Clone(opt.Metadata) // it is on the wire
		l.held = func() error { _, err := l.Store.Put(ctx, key, body, opt); return err }
		return storage.Object{}, storagetest.Lost("put", key)
	}
	if !l.done {
		l.done = true
		if err := l.held(); err != nil {
			return storage.Object{}, err
		}
	}
	return l.Store.Put(ctx, key, body, opt)
}

func (l *lateWrites) Upload(ctx context.Context, key string, r io.Reader, opt storage.PutOptions) (storage.Object, error) {
	body, err := io.ReadAll(r)
	if err != nil {
		return storage.Object{}, err
	}
	return l.Put(ctx, key, body, opt)
}

func TestPutOnceTriesAgainWhenTheKeyVanishedAfter412(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := memstore.New(memstore.Options{})
		mustPut(t, mem, "k", "theirs")
		vanish := storagetest.FailNth(1, func(_, key string) error { return mem.Delete(context.Background(), key) }, storagetest.OpHead)
		stored, err := storage.PutOnce(t.Context(), &storagetest.Hook{Bucket: mem, Before: vanish, Reads: true}, "k", []byte("mine"), storage.PutOptions{})
		if err != nil || !stored.Mine {
			t.Errorf("mine=%v, %v; want a success of the second try", stored.Mine, err)
		}
	})
}

func TestPutOnceKeepsTheCallersMetadata(t *testing.T) {
	mem := memstore.New(memstore.Options{})
	meta := map[string]string{"sha256": "abc"}
	stored, err := storage.PutOnce(t.Context(), mem, "k", nil, storage.PutOptions{Metadata: meta})
	if err != nil || len(meta) != 1 {
		t.Fatalf("%v; the caller's map became %v", err, meta)
	}
	obj, err := mem.Head(t.Context(), "k")
	if err != nil || obj.Metadata["sha256"] != "abc" || obj.Metadata[storage.PutIDKey] == "" {
		t.Errorf("stored metadata %v, %v", obj.Metadata, err)
	}
	if stored.Metadata[storage.PutIDKey] != obj.Metadata[storage.PutIDKey] {
		t.Errorf("returned put id %q, stored %q", stored.Metadata[storage.PutIDKey], obj.Metadata[storage.PutIDKey])
	}
}

func TestConditionalWriteStopsAtPermanentErrors(t *testing.T) {
	for how, write := range writers {
		calls := 0
		hook := &storagetest.Hook{Bucket: memstore.New(memstore.Options{}), Before: func(op, key string) error {
			calls++
			return storagetest.Denied(op, key)
		}}
		if _, err := write(t.Context(), hook, "etag"); storage.KindOf(err) != storage.KindDenied || calls != 1 {
			t.Errorf("%s: error %v after %d calls, want denied after 1", how, err, calls)
		}
	}
}

func TestConditionalWriteGivesUp(t *testing.T) {
	for how, write := range writers {
		synctest.Test(t, func(t *testing.T) {
			mem := memstore.New(memstore.Options{})
			etag := ""
			if how == "swap" {
				etag = mustPut(t, mem, "k", "first").ETag
			}
			calls := 0
			hook := &storagetest.Hook{Bucket: mem, Before: func(op, key string) error {
				calls++
				return storagetest.Conflict(op, key)
			}}
			if _, err := write(t.Context(), hook, etag); storage.KindOf(err) != storage.KindConflict || calls != 8 {
				t.Errorf("%s: error %v after %d calls, want conflict after 8", how, err, calls)
			}
		})
	}
}

func TestConditionalWriteEndsWithItsContext(t *testing.T) {
	for how, write := range writers {
		synctest.Test(t, func(t *testing.T) {
			mem := memstore.New(memstore.Options{})
			etag := ""
			if how == "swap" {
				etag = mustPut(t, mem, "k", "first").ETag
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			hook := &storagetest.Hook{Bucket: mem, Before: storagetest.FailFirst(1000, storagetest.Conflict)}
			if _, err := write(ctx, hook, etag); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: error %v, want that of the context", how, err)
			}
		})
	}
}

// The kind of the error is that of the read: after a 412 nothing is known until it succeeds.
func TestFailedReadBackIsTheError(t *testing.T) {
	for how, write := range writers {
		hook := &storagetest.Hook{Bucket: memstore.New(memstore.Options{}), Reads: true, Before: func(op, key string) error {
			if op == storagetest.OpHead {
				return storagetest.Denied(op, key)
			}
			return &storage.Error{Op: op, Key: key, Kind: storage.KindPrecondition}
		}}
		if _, err := write(t.Context(), hook, "etag"); storage.KindOf(err) != storage.KindDenied {
			t.Errorf("%s: error %v, want denied", how, err)
		}
	}
}

func TestUploadOnceStopsAtErrorsOfItsSource(t *testing.T) {
	broken := errors.New("disk on fire")
	sources := map[string]storage.Source{
		"open": func() (io.Reader, error) { return nil, broken },
		"read": func() (io.Reader, error) {
			return io.MultiReader(strings.NewReader("some"), iotest.ErrReader(broken)), nil
		},
	}
	for name, src := range sources {
		mem := memstore.New(memstore.Options{})
		opened := 0
		counted := func() (io.Reader, error) { opened++; return src() }
		_, err := storage.UploadOnce(t.Context(), mem, "k", counted, storage.PutOptions{})
		if !errors.Is(err, broken) || opened != 1 || mem.Writes("k") != 0 {
			t.Errorf("%s: error %v, opened %d times, %d writes; want the error at once and nothing stored", name, err, opened, mem.Writes("k"))
		}
	}
}

func TestSwapOfAVanishedKeyIsNotFound(t *testing.T) {
	mem := memstore.New(memstore.Options{}) // it answers 412 on an absent key; others 404
	if _, err := storage.Swap(t.Context(), mem, "k", "etag", nil); !storage.IsNotFound(err) {
		t.Errorf("error %v, want not found", err)
	}
	hook := &storagetest.Hook{Bucket: mem, Before: func(op, key string) error {
		return &storage.Error{Op: op, Key: key, Kind: storage.KindNotFound}
	}}
	if _, err := storage.Swap(t.Context(), hook, "k", "etag", nil); !storage.IsNotFound(err) {
		t.Errorf("error %v, want not found", err)
	}
}

func TestSwapWithoutETagCreates(t *testing.T) {
	mem := memstore.New(memstore.Options{})
	first, err := storage.Swap(t.Context(), mem, "k", "", []byte("one"))
	if err != nil || !first.Mine {
		t.Fatalf("mine=%v, %v", first.Mine, err)
	}
	second, err := storage.Swap(t.Context(), mem, "k", "", []byte("two"))
	if err != nil || second.Mine || second.ETag != first.ETag {
		t.Errorf("mine=%v, ETag %s, %v; want the first to stand", second.Mine, second.ETag, err)
	}
}
