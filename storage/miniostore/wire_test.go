package miniostore_test

import (
	"strings"
	"testing"

	"spool/storage"
	"spool/storage/internal/gwtest"
	"spool/storage/internal/wiretest"
	"spool/storage/miniostore"
)

func TestWire(t *testing.T) {
	gwtest.Server{}.Setenv(t)
	wiretest.Run(t, func(t *testing.T, endpoint string) wiretest.Bucket {
		return open(t, miniostore.Config{Bucket: "bkt", Endpoint: endpoint, Retry: storage.Retry{Attempts: 1}})
	})
}

// A key that is too long is refused by the SDK, before anything is sent: it must have the kind that a store's refusal has.
func TestAKeyThatIsTooLongIsInvalid(t *testing.T) {
	gwtest.Server{}.Setenv(t)
	s := open(t, miniostore.Config{Bucket: "bkt", Endpoint: "http://127.0.0.1:1", Retry: storage.Retry{Attempts: 1}})
	_, err := s.Put(t.Context(), strings.Repeat("k", 1025), nil, storage.PutOptions{})
	if storage.KindOf(err) != storage.KindInvalid {
		t.Errorf("put: %v, want that the key is invalid", err)
	}
}
