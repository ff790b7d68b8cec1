package main

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"spool/storage"
	"spool/storage/batch"
	"spool/storage/memstore"
	"spool/storage/storagetest"
)

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
	if _, _, err := failedLines(t.Context(), storagetest.BreakReads{Bucket: store, Keep: 1 << 20}, b); storage.KindOf(err) != storage.KindUnavailable {
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
