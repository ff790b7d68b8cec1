package main

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/urfave/cli/v2"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"spool/monitoring"
	"spool/monitoring/sentry/sentrytest"
	"spool/storage/batch"
	"spool/storage/memstore"
)

func TestServiceTellsSentryWhatFails(t *testing.T) {
	server := sentrytest.New(t)
	t.Setenv("SENTRY_DSN", " "+server.DSN()+"\n") // as secrets are mounted
	serve(t, memstore.New(memstore.Options{}), func(log *zap.Logger) {
		for range 3 {
			log.Error("shard failed", zap.String("event", "shard_failed"), zap.Error(errors.New("my+engine/key is wrong")))
		}
	})
	if diff := cmp.Diff(map[string]int64{" shard_failed other": 3}, server.Counts()); diff != "" {
		t.Fatal(diff)
	}
	e := server.Events()[0]
	want := map[string]string{"component": "runner", "runner_id": "r-1", "pool": "default", "stage": "shard_failed", "error_type": "other"}
	if diff := cmp.Diff(want, e.Tags); diff != "" {
		t.Errorf("tags:\n%s", diff)
	}
	if e.Release != version() || e.Environment != "staging" || e.Exception[0].Value != "REDACTED is wrong" {
		t.Errorf("release %q, environment %q, text %q", e.Release, e.Environment, e.Exception[0].Value)
	}
}

func TestWatcherTellsSentryWhatFails(t *testing.T) {
	server := sentrytest.New(t)
	t.Setenv("SENTRY_DSN", server.DSN())
	w := newWorld(t)
	w.gone = true
	_, _, code := w.spool("watch", "--once", "--bucket", bucketName, "--region", "us-east-1")
	if diff := cmp.Diff(map[string]int64{" ended_with_error store_not_found": 1}, server.Counts()); code != exitUnfit || diff != "" {
		t.Fatalf("exit %d; %s", code, diff)
	}
	if e := server.Events()[0]; e.Tags["component"] != "watcher" || !strings.HasPrefix(e.Tags["watcher_id"], "w-") || e.Tags["pool"] != "" {
		t.Errorf("tags %v", e.Tags)
	}
}

// tracked is what becomes of the options of a logger, and what is registered for it.
func tracked(t *testing.T, args ...string) (monitoring.Options, int) {
	t.Helper()
	opt, reg := monitoring.Options{Component: "runner", Instance: "r-1"}, prometheus.NewRegistry()
	p := &program{stdout: io.Discard, stderr: io.Discard}
	app := p.app()
	app.Command("run").Action = func(c *cli.Context) error {
		stop, err := track(c, &opt, reg)
		if err == nil {
			stop()
		}
		return err
	}
	if err := app.Run(append([]string{"spool", "run"}, args...)); err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return opt, len(families)
}

func TestWithoutDSNThereIsNoTracker(t *testing.T) {
	const dsn = "https://key@sentry.test/1"
	for _, none := range [][]string{{}, {"--sentry-dsn", ""}, {"--sentry-dsn", " "}, {"--sentry-dsn", dsn, "--sentry-sample-rate", "0"}} {
		if opt, n := tracked(t, none...); opt.Tracker != nil || n != 0 {
			t.Errorf("%q: tracker %v, %d metrics", none, opt.Tracker, n)
		}
	}
	if opt, n := tracked(t, "--sentry-dsn", dsn, "--sentry-sample-rate", "0.5"); opt.Tracker == nil || n != 1 {
		t.Errorf("with a DSN: tracker %v, %d metrics", opt.Tracker, n)
	}
}

func TestBadDSNEndsAServiceBeforeItBegins(t *testing.T) {
	for _, flags := range [][]string{{"--sentry-dsn", "https://sekret@host"}, {"--sentry-dsn", "https://k@host/1", "--sentry-sample-rate", "2"}} {
		for _, command := range []string{"run", "watch"} {
			w := newWorld(t)
			stdout, stderr, code := w.spool(append([]string{command, "--bucket", bucketName}, flags...)...)
			if code != exitUsage || stdout != "" || !strings.HasPrefix(stderr, "spool: sentry: ") || strings.Contains(stderr, "sekret") {
				t.Errorf("%s %q: exit %d, %q, %q", command, flags, code, stdout, stderr)
			}
		}
	}
}

func TestLinesThatFailedAreLoggedByKind(t *testing.T) {
	core, logged := observer.New(zapcore.InfoLevel)
	html, markdown := renderer(zap.New(core))(&batch.Summary{
		Batch: "b1", Input: batch.Input{Key: "in/x.jsonl"}, Pool: "big", Models: []string{"m", "n"},
		Errors: []batch.ErrorClass{
			{Status: 400, Count: 7, Lines: []int64{3, 9}, Example: "a prompt"},
			{Code: batch.CodeBatchCancelled, Count: 5, Lines: []int64{10}},
			{Code: batch.CodeRequestTimeout, Count: 2, Lines: []int64{4}},
		},
	})
	if len(html) == 0 || len(markdown) == 0 {
		t.Error("no report")
	}
	line := func(code string, n int64, ids ...any) map[string]any {
		return map[string]any{"event": "lines_failed", "batch_id": "b1", "key": "in/x.jsonl", "error_type": "lines", "code": code, "lines": n,
			"request_ids": ids, "pool": "big", "model": "m,n"}
	}
	var got []map[string]any
	for _, e := range logged.All() {
		if e.Level != zapcore.ErrorLevel {
			t.Errorf("%s is logged at level %s", e.Message, e.Level)
		}
		got = append(got, e.ContextMap())
	}
	if diff := cmp.Diff([]map[string]any{line("http_400", 7, "b1-3", "b1-9"), line("request_timeout", 2, "b1-4")}, got); diff != "" {
		t.Error(diff)
	}
}
