package miniostore_test

import (
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
