package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/urfave/cli/v2"
	"go.uber.org/zap"

	"spool/storage"
	"spool/storage/batch"
	"spool/storage/memstore"
)

// serve gives the logger of a service to f, and says how long it took to close, and what was counted of the store.
func serve(t *testing.T, bucket storage.Bucket, f func(log *zap.Logger)) (stdout string, closing time.Duration, calls *storeMeter) {
	t.Helper()
	reg := prometheus.NewRegistry()
	calls = newStoreMeter(reg)
	var out bytes.Buffer
	p := &program{stdout: &out, stderr: io.Discard, connect: func(_ context.Context, cfg storeConfig) (*store, error) {
		return &store{Bucket: bucket, name: cfg.bucket}, nil
	}}
	app := p.app()
	app.Command("run").Action = func(c *cli.Context) error {
		log, closeLog, err := p.serviceLog(c, "runner", "r-1", reg, calls)
		if err != nil {
			return err
		}
		f(log)
		start := time.Now()
		closeLog()
		closing = time.Since(start)
		return nil
	}
	if err := app.Run([]string{"spool", "run", "--bucket", bucketName, "--environment", "staging", "--engine-api-key", "my+engine/key"}); err != nil {
		t.Fatal(err)
	}
	return out.String(), closing, calls
}

func TestServiceLogsIntoTheFolderOfTheBatch(t *testing.T) {
	for _, key := range []string{"in/a/x.jsonl", "in/" + strings.Repeat("l", 900)} {
		synctest.Test(t, func(t *testing.T) {
			const id = "bpicclhpxbn2qqhb5uxmxo6zjly"
			bucket := memstore.New(memstore.Options{})
			plan, err := json.Marshal(batch.Plan{Batch: id, Input: batch.Input{Key: key}})
			if err == nil {
				_, err = bucket.Put(t.Context(), batch.PlanKey(id), plan, storage.PutOptions{})
			}
			if err != nil {
				t.Fatal(err)
			}
			stdout, _, calls := serve(t, bucket, func(log *zap.Logger) {
				log.Info("hello", zap.String("batch_id", id), zap.String("text", "my+engine/key"))
			})
			body, _, err := storage.ReadAll(t.Context(), bucket, batch.LogDir(key, id)+"r-1/"+batch.LogPart(1, 1))
			if err != nil {
				t.Fatal(err)
			}
			z, err := gzip.NewReader(bytes.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			stored, err := io.ReadAll(z)
			if err != nil || string(stored) != stdout {
				t.Errorf("stored %q, %v, want what went to standard output: %q", stored, err, stdout)
			}
			files, written := calls.files.WithLabelValues("written", "log"), calls.bytes.WithLabelValues("written", "log")
			if n, size := testutil.ToFloat64(files), testutil.ToFloat64(written); n != 1 || size != float64(len(body)) {
				t.Errorf("counted are %v parts of %v bytes, want 1 of %d", n, size, len(body))
			}
			for _, part := range []string{`"env":"staging"`, `"instance":"r-1"`, `"text":"REDACTED"`, `"version":`} {
				if !strings.Contains(stdout, part) {
					t.Errorf("line %q lacks %s", stdout, part)
				}
			}
		})
	}
}

// deaf is a bucket that never answers.
type deaf struct{ storage.Bucket }

func (deaf) Put(ctx context.Context, _ string, _ []byte, _ storage.PutOptions) (storage.Object, error) {
	<-ctx.Done()
	return storage.Object{}, ctx.Err()
}

func TestServiceWhoseBucketHangsEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logging time.Duration
		_, closing, _ := serve(t, deaf{memstore.New(memstore.Options{})}, func(log *zap.Logger) {
			start := time.Now()
			for range 1000 {
				log.Error("hello")
			}
			logging = time.Since(start)
		})
		if logging != 0 || closing != closeTelemetry {
			t.Errorf("logging waited %v, closing %v; want none, and %v", logging, closing, closeTelemetry)
		}
	})
}
