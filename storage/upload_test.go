package storage_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"

	"spool/storage"
)

// partStore is the multipart half of an S3 store. fail, if set, decides what each request answers,
// before it is done or, for "complete.after", when it is.
type partStore struct {
	fail func(step string) error

	mu      sync.Mutex
	steps   []string // requests in order; parts with their sizes
	parts   [][]byte
	aborted bool
	object  []byte
	stored  bool
	cond    storage.Cond // of the request that made the object
}

func (p *partStore) step(name string) error {
	p.mu.Lock()
	p.steps = append(p.steps, name)
	p.mu.Unlock()
	if p.fail == nil {
		return nil
	}
	return p.fail(name)
}

func (p *partStore) Put(_ context.Context, key string, body []byte, opt storage.PutOptions) (storage.Object, error) {
	if err := p.step(fmt.Sprintf("put %d", len(body))); err != nil {
		return storage.Object{}, err
	}
	p.object, p.stored, p.cond = bytes.Clone(body), true, opt.Cond
	return storage.Object{Key: key, Size: int64(len(body)), ETag: "e"}, nil
}

func (p *partStore) CreateUpload(_ context.Context, key string, _ storage.PutOptions) (storage.PartUpload, error) {
	return storage.PartUpload{Key: key, ID: "id"}, p.step("create")
}

func (p *partStore) UploadPart(_ context.Context, _ storage.PartUpload, number int, body []byte) (storage.Part, error) {
	if err := p.step(fmt.Sprintf("part %d: %d", number, len(body))); err != nil {
		return storage.Part{}, err
	}
	if len(p.parts) < number {
		p.parts = append(p.parts, nil)
	}
	p.parts[number-1] = bytes.Clone(body)
	return storage.Part{Number: number, ETag: fmt.Sprint("p", number)}, nil
}

func (p *partStore) CompleteUpload(_ context.Context, up storage.PartUpload, parts []storage.Part, size int64, opt storage.PutOptions) (storage.Object, error) {
	if err := p.step("complete"); err != nil {
		return storage.Object{}, err
	}
	for i, part := range parts {
		if part.Number != i+1 || part.ETag != fmt.Sprint("p", i+1) {
			return storage.Object{}, fmt.Errorf("part %d of the completion is %+v", i+1, part)
		}
	}
	p.object, p.stored, p.cond = bytes.Join(p.parts, nil), true, opt.Cond
	if p.fail != nil {
		if err := p.fail("complete.after"); err != nil {
			return storage.Object{}, err
		}
	}
	return storage.Object{Key: up.Key, Size: size, ETag: "e"}, nil
}

func (p *partStore) AbortUpload(ctx context.Context, _ storage.PartUpload) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	p.aborted = true
	return p.step("abort")
}

func errOf(kind storage.Kind) error { return &storage.Error{Op: "upload", Key: "k", Kind: kind} }

const mib = 1 << 20

func upload(t *testing.T, p *partStore, r io.Reader, opt storage.PutOptions) (storage.Object, error) {
	t.Helper()
	return storage.Uploader{Parts: p}.Upload(t.Context(), "k", r, opt)
}

// random is n bytes, the same each time.
func random(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*i>>7 + i>>13)
	}
	return b
}

func TestUploadCutsEqualParts(t *testing.T) {
	tests := map[string]struct {
		size int
		opt  storage.PutOptions
		want []string
	}{
		"nothing":          {0, storage.PutOptions{}, []string{"put 0"}},
		"less than a part": {1000, storage.PutOptions{}, []string{"put 1000"}},
		"one part":         {16 * mib, storage.PutOptions{}, []string{"put 16777216"}},
		"a byte more":      {16*mib + 1, storage.PutOptions{}, []string{"create", "part 1: 16777216", "part 2: 1", "complete"}},
		"announced":        {16*mib + 1, storage.PutOptions{Size: 16*mib + 1}, []string{"create", "part 1: 16777216", "part 2: 1", "complete"}},
		"smaller parts": {12 * mib, storage.PutOptions{PartSize: 5 * mib},
			[]string{"create", "part 1: 5242880", "part 2: 5242880", "part 3: 2097152", "complete"}},
		"two smaller parts": {10 * mib, storage.PutOptions{PartSize: 5 * mib}, []string{"create", "part 1: 5242880", "part 2: 5242880", "complete"}},
	}
	for name, tc := range tests {
		body := random(tc.size)
		readers := map[string]io.Reader{
			"all at once": bytes.NewReader(body), "halves": iotest.HalfReader(bytes.NewReader(body)), "end with data": iotest.DataErrReader(bytes.NewReader(body)),
		}
		for how, r := range readers {
			p := &partStore{}
			tc.opt.Cond = storage.Cond{IfAbsent: true}
			obj, err := upload(t, p, r, tc.opt)
			if err != nil || obj.Size != int64(tc.size) || !bytes.Equal(p.object, body) {
				t.Errorf("%s, %s: stored %d bytes, %+v, %v", name, how, len(p.object), obj, err)
			}
			if !slices.Equal(p.steps, tc.want) || p.cond != tc.opt.Cond {
				t.Errorf("%s, %s: requests %q under %+v, want %q under %+v", name, how, p.steps, p.cond, tc.want, tc.opt.Cond)
			}
		}
	}
}

// When a part is sent, no more of the reader has been read than that part and a small look-ahead.
func TestUploadHoldsOnePart(t *testing.T) {
	const lookAhead = 4096 // of bufio
	r := &counted{r: bytes.NewReader(random(3*storage.PartSize + 7))}
	parts := 0
	p := &partStore{fail: func(step string) error {
		if strings.HasPrefix(step, "part ") {
			parts++
			if most := parts*storage.PartSize + lookAhead; r.n > most {
				t.Errorf("%s: %d bytes were read, want at most %d", step, r.n, most)
			}
		}
		return nil
	}}
	if _, err := upload(t, p, r, storage.PutOptions{}); err != nil || parts != 4 {
		t.Errorf("%d parts, %v; want 4", parts, err)
	}
}

type counted struct {
	r io.Reader
	n int
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += n
	return n, err
}

// 9,500 parts of 16 MiB are 148.4 GiB; what is larger gets larger parts, in whole MiB.
func TestUploadOfHugeObjectsHasLargerParts(t *testing.T) {
	tests := map[int64]string{
		9500 * 16 * mib: "part 1: 16777216",
		9500*16*mib + 1: "part 1: 17825792",
		9500*17*mib + 1: "part 1: 18874368",
		9500*16*mib - 1: "part 1: 16777216",
	}
	for size, want := range tests {
		p := &partStore{fail: func(step string) error {
			if step == "create" {
				return nil
			}
			return errOf(storage.KindDenied)
		}}
		if _, err := upload(t, p, neverEnding{}, storage.PutOptions{Size: size}); storage.KindOf(err) != storage.KindDenied || p.steps[1] != want {
			t.Errorf("%d bytes: requests %q, %v; want %q", size, p.steps, err, want)
		}
	}
}

type neverEnding struct{}

func (neverEnding) Read(p []byte) (int, error) { return len(p), nil }

func TestUploadRetriesItsRequestsNotItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failed := map[string]bool{}
		p := &partStore{fail: func(step string) error { // each request fails once
			if failed[step] {
				return nil
			}
			failed[step] = true
			return errOf(storage.KindUnavailable)
		}}
		body := random(6 * mib)
		_, err := upload(t, p, bytes.NewReader(body), storage.PutOptions{PartSize: 5 * mib})
		want := []string{"create", "create", "part 1: 5242880", "part 1: 5242880", "part 2: 1048576", "part 2: 1048576", "complete", "complete", "complete"}
		if err != nil || !slices.Equal(p.steps, want) || !bytes.Equal(p.object, body) {
			t.Errorf("requests %q, %v; want %q", p.steps, err, want)
		}
	})
}

func TestConflictAtCompletionIsForTheCaller(t *testing.T) {
	p := &partStore{fail: func(step string) error {
		if step == "complete" {
			return errOf(storage.KindConflict)
		}
		return nil
	}}
	_, err := upload(t, p, bytes.NewReader(random(6*mib)), storage.PutOptions{PartSize: 5 * mib})
	want := []string{"create", "part 1: 5242880", "part 2: 1048576", "complete", "abort"}
	if storage.KindOf(err) != storage.KindConflict || !slices.Equal(p.steps, want) {
		t.Errorf("requests %q, %v; want %q and a conflict", p.steps, err, want)
	}
}

func TestFailedUploadIsAbortedUnlessItMayHaveCompleted(t *testing.T) {
	tests := map[string]struct {
		step    string
		kind    storage.Kind
		aborted bool
	}{
		"part denied":             {"part 2: 1048576", storage.KindDenied, true},
		"part unavailable":        {"part 2: 1048576", storage.KindUnavailable, true},
		"part unknown":            {"part 2: 1048576", storage.KindUnknown, true},
		"completion refused":      {"complete", storage.KindPrecondition, true},
		"completion invalid":      {"complete", storage.KindInvalid, true},
		"completion unavailable":  {"complete", storage.KindUnavailable, false},
		"reply of completion 500": {"complete.after", storage.KindUnavailable, false},
		"upload unknown":          {"complete", storage.KindUnknown, false},
	}
	for name, tc := range tests {
		synctest.Test(t, func(t *testing.T) {
			p := &partStore{fail: func(step string) error {
				if step == tc.step {
					return errOf(tc.kind)
				}
				return nil
			}}
			_, err := upload(t, p, bytes.NewReader(random(6*mib)), storage.PutOptions{PartSize: 5 * mib})
			if storage.KindOf(err) != tc.kind || p.aborted != tc.aborted {
				t.Errorf("%s: error %v, aborted=%v, want %v", name, err, p.aborted, tc.aborted)
			}
		})
	}
}

func TestCancelledUploadIsAborted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	p := &partStore{}
	p.fail = func(step string) error {
		if step == "part 2: 1048576" {
			cancel() // the part itself succeeds
		}
		return nil
	}
	_, err := storage.Uploader{Parts: p}.Upload(ctx, "k", bytes.NewReader(random(6*mib)), storage.PutOptions{PartSize: 5 * mib})
	if !errors.Is(err, context.Canceled) || storage.Temporary(err) || !p.aborted || p.stored {
		t.Errorf("error %v, aborted=%v, stored=%v; want that of the context, aborted, nothing stored", err, p.aborted, p.stored)
	}
}

func TestBrokenSourceStoresNothing(t *testing.T) {
	for _, broken := range []error{errors.New("disk on fire"), io.ErrUnexpectedEOF} {
		for _, size := range []int{0, 100, 5 * mib, 6 * mib} {
			p := &partStore{}
			r := io.MultiReader(bytes.NewReader(random(size)), iotest.ErrReader(broken))
			_, err := upload(t, p, r, storage.PutOptions{PartSize: 5 * mib})
			if !errors.Is(err, broken) || storage.KindOf(err) != storage.KindUnknown || p.stored || p.aborted != (size > 5*mib) {
				t.Errorf("%v after %d bytes: error %v, stored=%v, aborted=%v", broken, size, err, p.stored, p.aborted)
			}
		}
	}
}

func TestAnnouncedSizeIsChecked(t *testing.T) {
	for _, size := range []int{100, 5 * mib, 6 * mib} {
		for _, announced := range []int64{int64(size) - 1, int64(size) + 1} {
			p := &partStore{}
			_, err := upload(t, p, bytes.NewReader(random(size)), storage.PutOptions{Size: announced, PartSize: 5 * mib})
			if storage.KindOf(err) != storage.KindInvalid || p.stored {
				t.Errorf("%d bytes, announced %d: error %v, stored=%v", size, announced, err, p.stored)
			}
		}
	}
}

func TestTooSmallPartsAreRefused(t *testing.T) {
	p := &partStore{}
	if _, err := upload(t, p, bytes.NewReader(nil), storage.PutOptions{PartSize: 5*mib - 1}); storage.KindOf(err) != storage.KindInvalid || len(p.steps) != 0 {
		t.Errorf("error %v after requests %q, want invalid at once", err, p.steps)
	}
}

// A completion that conflicts is followed by a whole upload, with the same put id.
func TestUploadOnceUploadsAgainAfterAConflict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conflicts := 2
		p := &partStore{}
		p.fail = func(step string) error {
			if step == "complete" && conflicts > 0 {
				conflicts--
				return errOf(storage.KindConflict)
			}
			return nil
		}
		b := &uploads{Uploader: storage.Uploader{Parts: p}}
		opened := 0
		src := func() (io.Reader, error) { opened++; return bytes.NewReader(random(6 * mib)), nil }
		stored, err := storage.UploadOnce(t.Context(), b, "k", src, storage.PutOptions{PartSize: 5 * mib})
		if err != nil || !stored.Mine || opened != 3 || len(slices.Compact(b.ids)) != 1 {
			t.Errorf("mine=%v, %v; source opened %d times, put ids %q; want 3 times, one id", stored.Mine, err, opened, b.ids)
		}
	})
}

// uploads is a Bucket that knows only Upload, and has no objects.
type uploads struct {
	storage.Bucket
	storage.Uploader
	ids []string
}

func (u *uploads) Upload(ctx context.Context, key string, r io.Reader, opt storage.PutOptions) (storage.Object, error) {
	u.ids = append(u.ids, opt.Metadata[storage.PutIDKey])
	return u.Uploader.Upload(ctx, key, r, opt)
}

func (u *uploads) Head(context.Context, string) (storage.Object, error) {
	return storage.Object{}, errOf(storage.KindNotFound)
}
