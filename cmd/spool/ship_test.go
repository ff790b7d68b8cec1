package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"io"
	"slices"
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

func TestSecretsAreAllThatTheProcessKnows(t *testing.T) {
	for name, value := range map[string]string{
		"AWS_SECRET_ACCESS_KEY": "aws-secret", "AWS_SESSION_TOKEN": "aws-token", "HF_TOKEN": "hf-token", "VLLM_API_KEY": "vllm-key",
		"HUGGING_FACE_HUB_TOKEN": "hub-token", "PUSHGATEWAY_URL": "http://me:push%40word@gateway:9091", "SENTRY_DSN": "https://dsn-key@sentry/1",
		"OTEL_EXPORTER_OTLP_HEADERS": "x-team=otel%20key, y=other-key", "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "z=trace-key",
	} {
		t.Setenv(name, value)
	}
	p := &program{stdout: io.Discard, stderr: io.Discard}
	app := p.app()
	var got []string
	app.Command("run").Action = func(c *cli.Context) error {
		got = secrets(c)
		return nil
	}
	if err := app.Run([]string{"spool", "run", "--bucket", bucketName, "--engine-api-key", "engine-key"}); err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	want := []string{"aws-secret", "aws-token", "dsn-key", "engine-key", "hf-token", "hub-token", "otel key", "otel%20key", "other-key",
		"push@word", "trace-key", "vllm-key"}
	if got = slices.Compact(got); !slices.Equal(got, want) {
		t.Errorf("secrets %q, want %q", got, want)
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
