package main

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"spool/storage"
	"spool/storage/batch"
	"spool/storage/memstore"
)

// broken is a bucket whose bodies break off, as those do whose connection somebody closes: io.EOF is in the error.
type broken struct{ storage.Bucket }

func (b broken) Get(ctx context.Context, key string, opt storage.GetOptions) (io.ReadCloser, storage.Object, error) {
	body, obj, err := b.Bucket.Get(ctx, key, opt)
	if err != nil {
		return nil, obj, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.MultiReader(body, iotest.ErrReader(&storage.Error{Op: "get", Key: key, Kind: storage.KindUnavailable, Err: io.EOF})), body}, obj, nil
}

// A retry of some of the failed lines would pass for one of all.
func TestABrokenReadOfErrorsIsNotTheirEnd(t *testing.T) {
	store, key := memstore.New(memstore.Options{}), "out/a.jsonl/b1/errors.jsonl"
	if _, err := store.Put(t.Context(), key, []byte(`{"id":"batch_req_b1-2","error":{"code":"x"}}`+"\n"), storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	b := &found{id: "b1", object: &batch.Object{ErrorFileID: &key}}
	if numbers, _, err := failedLines(t.Context(), store, b); err != nil || len(numbers) != 1 || numbers[0] != 2 {
		t.Errorf("lines %v, %v; want 2", numbers, err)
	}
	if _, _, err := failedLines(t.Context(), broken{store}, b); storage.KindOf(err) != storage.KindUnavailable {
		t.Errorf("of a read that broke: %v, want unavailable", err)
	}
}

func TestABrokenReadOfALogIsNotItsEnd(t *testing.T) {
	r := &logReader{seen: map[string]*numbers{}}
	breaks := errors.Join(io.EOF, errors.New("connection closed"))
	if _, _, err := r.lines(io.MultiReader(strings.NewReader("{}\n"), iotest.ErrReader(breaks)), batch.LogKey{}); !errors.Is(err, breaks) {
		t.Errorf("%v, want what broke the read", err)
	}
}
