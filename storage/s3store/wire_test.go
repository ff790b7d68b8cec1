package s3store_test

import (
	"testing"

	"spool/storage"
	"spool/storage/internal/gwtest"
	"spool/storage/internal/wiretest"
	"spool/storage/s3store"
)

func TestWire(t *testing.T) {
	gwtest.Server{}.Setenv(t)
	wiretest.Run(t, func(t *testing.T, endpoint string) wiretest.Bucket {
		return open(t, s3store.Config{Bucket: "bkt", Endpoint: endpoint, Retry: storage.Retry{Attempts: 1}})
	})
}
