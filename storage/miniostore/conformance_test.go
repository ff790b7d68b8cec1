package miniostore_test

import (
	"net/http"
	"os"
	"testing"

	"spool/storage"
	"spool/storage/internal/gwtest"
	"spool/storage/miniostore"
	"spool/storage/storagetest"
)

func TestMain(m *testing.M) { os.Exit(gwtest.Main(m)) }

func open(t *testing.T, cfg miniostore.Config) *miniostore.Store {
	t.Helper()
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 64
	transport.DisableCompression = true
	t.Cleanup(transport.CloseIdleConnections)
	cfg.HTTPClient = &http.Client{Transport: transport}
	s, err := miniostore.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConformanceOnVersitygw(t *testing.T) {
	server := gwtest.StartGateway(t)
	server.Setenv(t)
	skips := map[string]string{
		"list with keys that are prefixes of others": "keys are files: with a/b there can be no a (409 ObjectParentIsFile)",
		"keys that XML cannot hold":                  "versitygw does not heed encoding-type=url, and lists U+FFFD",
	}
	for _, checksums := range []string{"when-required", "when-supported"} {
		t.Run(checksums, func(t *testing.T) {
			conformance(t, server, checksums, skips)
		})
	}
}

func TestConformanceOnMoto(t *testing.T) {
	server := gwtest.StartMoto(t)
	server.Setenv(t)
	const noLock = "moto looks at the condition and writes later, without a lock"
	conformance(t, server, "", map[string]string{
		"upload if match":                              "moto ignores If-Match on CompleteMultipartUpload",
		"probe: put if absent, one winner":             noLock,
		"probe: put if match, one winner":              noLock,
		"probe: complete upload if absent, one winner": noLock,
	})
}

func conformance(t *testing.T, server gwtest.Server, checksums string, skips map[string]string) {
	cfg := miniostore.Config{Bucket: server.Bucket, Endpoint: server.Endpoint, Checksums: checksums}
	storagetest.RunConformance(t, func(t *testing.T) storage.Bucket { return open(t, cfg) }, storagetest.Options{Skips: skips})
}
