package storagetest_test

import (
	"testing"

	"spool/storage"
	"spool/storage/memstore"
	"spool/storage/storagetest"
)

func TestRetryLayerKeepsThePromises(t *testing.T) {
	storagetest.RunConformance(t, func(*testing.T) storage.Bucket {
		return storage.WithRetry(memstore.New(memstore.Options{}), storage.Retry{})
	}, storagetest.Options{})
}

func TestWrappersKeepThePromises(t *testing.T) {
	storagetest.RunConformance(t, func(*testing.T) storage.Bucket {
		return &storagetest.Hook{Bucket: memstore.New(memstore.Options{}), Reads: true}
	}, storagetest.Options{})
}
