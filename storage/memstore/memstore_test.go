package memstore_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"spool/storage"
	"spool/storage/memstore"
	"spool/storage/storagetest"
)

func TestConformance(t *testing.T) {
	storagetest.RunConformance(t, func(*testing.T) storage.Bucket { return memstore.New(memstore.Options{}) }, storagetest.Options{})
}

func TestTimesAreWholeSecondsOfTheGivenClock(t *testing.T) {
	now := time.Date(2026, 11, 23, 10, 0, 0, 999_999_999, time.UTC)
	s := memstore.New(memstore.Options{Clock: func() time.Time { return now }})
	if _, err := s.Put(t.Context(), "k", nil, storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	written := now.Truncate(time.Second)
	now = now.Add(90 * time.Second)
	obj, err := s.Head(t.Context(), "k")
	if err != nil || !obj.LastModified.Equal(written) || !obj.Date.Equal(written.Add(90*time.Second)) {
		t.Errorf("last modified %v, date %v, %v; want %v and 90s later", obj.LastModified, obj.Date, err, written)
	}
}

func TestWritesCountsVersionsNotAttempts(t *testing.T) {
	s := memstore.New(memstore.Options{})
	once := storage.PutOptions{Cond: storage.Cond{IfAbsent: true}}
	for i := range 3 {
		_, err := s.Put(t.Context(), "k", nil, once)
		if (err == nil) != (i == 0) {
			t.Fatalf("put %d: %v", i, err)
		}
	}
	if got := s.Writes("k"); got != 1 {
		t.Errorf("%d writes, want 1", got)
	}
	if err := s.Delete(t.Context(), "k"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Upload(t.Context(), "k", strings.NewReader("x"), once); err != nil {
		t.Fatal(err)
	}
	if got := s.Writes("k"); got != 2 {
		t.Errorf("%d writes after a delete, want 2: a deleted version counts", got)
	}
}

func TestStoredObjectsAreCopies(t *testing.T) {
	s := memstore.New(memstore.Options{})
	body, meta := []byte("body"), map[string]string{"k": "v"}
	if _, err := s.Put(t.Context(), "k", body, storage.PutOptions{Metadata: meta}); err != nil {
		t.Fatal(err)
	}
	body[0], meta["k"] = 'X', "X"
	got, obj, err := storage.ReadAll(context.Background(), s, "k")
	if err != nil || string(got) != "body" || obj.Metadata["k"] != "v" {
		t.Errorf("read %q %v, %v", got, obj.Metadata, err)
	}
	obj.Metadata["k"] = "Y"
	if obj, _ = s.Head(t.Context(), "k"); obj.Metadata["k"] != "v" {
		t.Errorf("metadata %v was changed by a reader", obj.Metadata)
	}
}
