package storage_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"spool/storage"
	"spool/storage/memstore"
	"spool/storage/storagetest"
)

// flaky is a store in memory behind fault, behind the retry layer, and the failures that it was told of.
func flaky(before storagetest.Fault) (storage.Bucket, *memstore.Store, *[]string) {
	var seen []string
	mem := memstore.New(memstore.Options{})
	hook := &storagetest.Hook{Bucket: mem, Before: before, Reads: true}
	b := storage.WithRetry(hook, storage.Retry{OnRetry: func(op, key string, attempt int, err error) {
		seen = append(seen, fmt.Sprintf("%s %s %d %v", op, key, attempt, storage.KindOf(err)))
	}})
	return b, mem, &seen
}

func mustPut(t *testing.T, b storage.Bucket, key, body string) storage.Object {
	t.Helper()
	obj, err := b.Put(t.Context(), key, []byte(body), storage.PutOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return obj
}

func TestTemporaryErrorsAreRetriedAndReported(t *testing.T) {
	for _, fault := range []storagetest.Fault{storagetest.Unavailable, storagetest.Conflict} {
		synctest.Test(t, func(t *testing.T) {
			b, mem, seen := flaky(storagetest.FailFirst(2, fault))
			mustPut(t, b, "k", "v")
			if got := mem.Writes("k"); got != 1 {
				t.Errorf("%d writes, want 1", got)
			}
			kind := storage.KindOf(fault("", ""))
			want := []string{fmt.Sprintf("put k 1 %v", kind), fmt.Sprintf("put k 2 %v", kind)}
			if !slices.Equal(*seen, want) {
				t.Errorf("retries %q, want %q", *seen, want)
			}
		})
	}
}

func TestPermanentErrorsAreNotRetried(t *testing.T) {
	b, _, seen := flaky(storagetest.FailFirst(1, storagetest.Denied))
	_, err := b.Head(t.Context(), "k")
	if storage.KindOf(err) != storage.KindDenied || len(*seen) > 0 {
		t.Errorf("error %v after retries %q, want denied at once", err, *seen)
	}
	if _, err = b.Head(t.Context(), "k"); !storage.IsNotFound(err) || len(*seen) > 0 {
		t.Errorf("error %v after retries %q, want not found at once", err, *seen)
	}
}

func TestRetriesEndAfterAttemptsWithinBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _, seen := flaky(storagetest.FailFirst(1000, storagetest.Unavailable))
		begin := time.Now()
		_, err := b.Head(t.Context(), "k")
		if storage.KindOf(err) != storage.KindUnavailable || len(*seen) != 7 {
			t.Errorf("error %v after %d retries, want unavailable after 7", err, len(*seen))
		}
		// Full jitter: at most 0.1+0.2+0.4+0.8+1.6+3.2+5 s.
		if took := time.Since(begin); took > 11300*time.Millisecond || took == 0 {
			t.Errorf("waited %v, want more than nothing and at most 11.3s", took)
		}
	})
}

func TestCancelledContextNeverStarts(t *testing.T) {
	calls := 0
	b, _, _ := flaky(func(string, string) error { calls++; return nil })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, putErr := b.Put(ctx, "k", nil, storage.PutOptions{})
	_, headErr := b.Head(ctx, "k")
	_, _, getErr := b.Get(ctx, "k", storage.GetOptions{})
	for _, err := range []error{putErr, headErr, getErr} {
		if !errors.Is(err, context.Canceled) || storage.Temporary(err) {
			t.Errorf("error %v, want that of the context, not temporary", err)
		}
	}
	if calls != 0 {
		t.Errorf("%d calls reached the store", calls)
	}
}

func TestCancelEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hook := &storagetest.Hook{Bucket: memstore.New(memstore.Options{}), Before: storagetest.Unavailable, Reads: true}
		b := storage.WithRetry(hook, storage.Retry{Attempts: 1 << 30})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin := time.Now()
		_, err := b.Head(ctx, "k")
		if !errors.Is(err, context.DeadlineExceeded) || storage.Temporary(err) || time.Since(begin) != time.Second {
			t.Errorf("error %v after %v, want that of the context after 1s", err, time.Since(begin))
		}
	})
}

func TestHangingStoreIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := memstore.New(memstore.Options{})
		mustPut(t, mem, "k", "v")
		slow := &storagetest.Slow{Bucket: mem, Delay: time.Hour}
		b := storage.WithRetry(slow, storage.Retry{Attempts: 2, Timeout: time.Minute})
		calls := map[string]func() error{
			"get":  func() error { _, _, err := b.Get(t.Context(), "k", storage.GetOptions{}); return err },
			"head": func() error { _, err := b.Head(t.Context(), "k"); return err },
			"put":  func() error { _, err := b.Put(t.Context(), "k", nil, storage.PutOptions{}); return err },
			"list": func() error {
				for _, err := range b.List(t.Context(), "", "") {
					return err
				}
				return nil
			},
		}
		for name, call := range calls {
			begin := time.Now()
			err := call()
			if storage.KindOf(err) != storage.KindUnavailable || errors.Is(err, context.Canceled) {
				t.Errorf("%s: error %v, want unavailable", name, err)
			}
			if took := time.Since(begin); took < 2*time.Minute || took > 2*time.Minute+time.Second {
				t.Errorf("%s: gave up after %v, want two time-outs of a minute", name, took)
			}
		}
	})
}

func TestSlowConsumerIsNotAHangingStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := memstore.New(memstore.Options{})
		mustPut(t, mem, "a", "x")
		mustPut(t, mem, "b", "y")
		b := storage.WithRetry(mem, storage.Retry{Attempts: 1, Timeout: time.Second})
		var keys []string
		for obj, err := range b.List(t.Context(), "", "") {
			if err != nil {
				t.Fatal(err)
			}
			keys = append(keys, obj.Key)
			<-time.After(time.Minute)
		}
		if !slices.Equal(keys, []string{"a", "b"}) {
			t.Errorf("listed %q", keys)
		}
		r, _, err := b.Get(t.Context(), "a", storage.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		<-time.After(time.Minute)
		if body, err := io.ReadAll(r); err != nil || string(body) != "x" {
			t.Errorf("read %q, %v", body, err)
		}
	})
}

func TestListContinuesAfterTheLastKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := memstore.New(memstore.Options{})
		var want []string
		for i := range 50 {
			want = append(want, fmt.Sprintf("k%02d", i))
			mustPut(t, mem, want[i], "")
		}
		// Breaks after every 7 keys: 8 requests, each with progress, so that the attempts are not used up.
		b := storage.WithRetry(&brokenList{Bucket: mem, every: 7}, storage.Retry{Attempts: 2})
		var got []string
		for obj, err := range b.List(t.Context(), "k", "") {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, obj.Key)
		}
		if !slices.Equal(got, want) {
			t.Errorf("listed %q, want each of 50 keys once", got)
		}
	})
}

func TestTornBodyIsResumed(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789"), 1000)
	tests := map[string]storage.GetOptions{
		"whole":         {},
		"from offset":   {Offset: 1234},
		"range":         {Offset: 777, Length: 5001},
		"range to end":  {Offset: 9000, Length: 1000},
		"past the end":  {Offset: 9000, Length: 5000},
		"the last byte": {Offset: 9999},
	}
	for name, opt := range tests {
		for _, quiet := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s quiet=%v", name, quiet), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					mem := memstore.New(memstore.Options{})
					mustPut(t, mem, "k", string(content))
					torn := &storagetest.Torn{Bucket: mem, At: 99, Times: 60, Quiet: quiet}
					r, obj, err := storage.WithRetry(torn, storage.Retry{}).Get(t.Context(), "k", opt)
					if err != nil {
						t.Fatal(err)
					}
					defer r.Close()
					got, err := io.ReadAll(r)
					want := content[opt.Offset:]
					if opt.Length > 0 {
						want = want[:min(opt.Length, int64(len(want)))]
					}
					if err != nil || !bytes.Equal(got, want) || obj.Size != int64(len(content)) {
						t.Errorf("read %d bytes of %d, %v; want %d", len(got), obj.Size, err, len(want))
					}
					if wantCuts := min(60, (len(want)+98)/99); torn.Cuts() != wantCuts {
						t.Errorf("%d requests were cut, want %d", torn.Cuts(), wantCuts)
					}
				})
			})
		}
	}
}

func TestTornBodyWithoutProgressIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := memstore.New(memstore.Options{})
		mustPut(t, mem, "k", "content")
		torn := &storagetest.Torn{Bucket: mem, At: 0, Times: 1000, Quiet: true}
		_, _, err := storage.ReadAll(t.Context(), storage.WithRetry(torn, storage.Retry{}), "k")
		if storage.KindOf(err) != storage.KindUnavailable || !errors.Is(err, io.ErrUnexpectedEOF) || torn.Cuts() != 8 {
			t.Errorf("error %v after %d requests, want an unexpected end after 8", err, torn.Cuts())
		}
	})
}

func TestResumedBodyIsOfOneVersion(t *testing.T) {
	for _, weak := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			mem := memstore.New(memstore.Options{})
			mustPut(t, mem, "k", "old content")
			var store storage.Bucket = mem
			if weak {
				store = &ignoresConditions{mem}
			}
			b := storage.WithRetry(&storagetest.Torn{Bucket: store, At: 3, Times: 1}, storage.Retry{})
			r, _, err := b.Get(t.Context(), "k", storage.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			mustPut(t, mem, "k", "NEW CONTENT")
			got, err := io.ReadAll(r)
			if storage.KindOf(err) != storage.KindPrecondition || string(got) != "old" {
				t.Errorf("weak=%v: read %q, %v; want the old bytes and a failed precondition", weak, got, err)
			}
		})
	}
}

func TestSilentBodyIsResumed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := memstore.New(memstore.Options{})
		mustPut(t, mem, "k", "content")
		slow := &storagetest.Slow{Bucket: mem, Delay: time.Hour, Ops: []string{storagetest.OpBody}}
		b := storage.WithRetry(slow, storage.Retry{Attempts: 3, Timeout: time.Minute})
		begin := time.Now()
		_, _, err := storage.ReadAll(t.Context(), b, "k")
		if storage.KindOf(err) != storage.KindUnavailable || errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want unavailable", err)
		}
		if took := time.Since(begin); took < 3*time.Minute || took > 3*time.Minute+time.Second {
			t.Errorf("gave up after %v, want three time-outs of a minute", took)
		}
	})
}

func TestErrorBehindTheLastByteIsNotHidden(t *testing.T) {
	mem := memstore.New(memstore.Options{})
	mustPut(t, mem, "k", "content")
	b := storage.WithRetry(&badEnd{mem}, storage.Retry{})
	_, _, err := storage.ReadAll(t.Context(), b, "k")
	if !errors.Is(err, errChecksum) || !storage.Temporary(err) {
		t.Errorf("error %v, want the checksum error, temporary", err)
	}
}

func TestDeletesAreRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := memstore.New(memstore.Options{})
		mustPut(t, mem, "k", "v")
		hook := &storagetest.Hook{Bucket: mem, Before: storagetest.FailFirst(3, storagetest.Unavailable)}
		if err := storage.WithRetryDeleter(hook, storage.Retry{}).Delete(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
		if _, err := mem.Head(t.Context(), "k"); !storage.IsNotFound(err) {
			t.Errorf("head after delete: %v", err)
		}
	})
}

// brokenList fails after every so many keys.
type brokenList struct {
	storage.Bucket
	every int
}

func (b *brokenList) List(ctx context.Context, prefix, startAfter string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		n := 0
		for obj, err := range b.Bucket.List(ctx, prefix, startAfter) {
			if n == b.every {
				yield(storage.Object{}, storagetest.Unavailable("list", prefix))
				return
			}
			n++
			if !yield(obj, err) {
				return
			}
		}
	}
}

// ignoresConditions is a store that says yes to every condition, as some do.
type ignoresConditions struct{ storage.Bucket }

func (b *ignoresConditions) Get(ctx context.Context, key string, opt storage.GetOptions) (io.ReadCloser, storage.Object, error) {
	opt.IfMatch = ""
	return b.Bucket.Get(ctx, key, opt)
}

func (b *ignoresConditions) Put(ctx context.Context, key string, body []byte, opt storage.PutOptions) (storage.Object, error) {
	opt.Cond = storage.Cond{}
	return b.Bucket.Put(ctx, key, body, opt)
}

func (b *ignoresConditions) Upload(ctx context.Context, key string, r io.Reader, opt storage.PutOptions) (storage.Object, error) {
	opt.Cond = storage.Cond{}
	return b.Bucket.Upload(ctx, key, r, opt)
}

var errChecksum = errors.New("checksum does not hold")

// badEnd has bodies that turn out to be wrong at their end.
type badEnd struct{ storage.Bucket }

func (b *badEnd) Get(ctx context.Context, key string, opt storage.GetOptions) (io.ReadCloser, storage.Object, error) {
	r, obj, err := b.Bucket.Get(ctx, key, opt)
	if err != nil {
		return nil, obj, err
	}
	return &badBody{r}, obj, nil
}

type badBody struct{ io.ReadCloser }

func (b *badBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		err = errChecksum
	}
	return n, err
}
