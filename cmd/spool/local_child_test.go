//go:build !nolocal

package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestAChildIsAskedOnceToEnd: to a runner that is handing over, a second SIGTERM would be the end.
func TestAChildIsAskedOnceToEnd(t *testing.T) {
	dir := t.TempDir()
	l := &local{exe: "/bin/sh", dirs: localDirs{logs: dir}, p: &program{}}
	end := filepath.Join(dir, "end")
	c, err := l.start("child", "-c", "trap 'echo asked' TERM; echo ready; while [ ! -e "+end+" ]; do sleep 0.01; done")
	if err != nil {
		t.Fatal(err)
	}
	asked := func() int { return strings.Count(readLog(t, c), "asked") }
	await(t, func() bool { return readLog(t, c) == "ready\n" })
	c.interrupt()
	await(t, func() bool { return asked() == 1 })
	c.interrupt()
	if err := os.WriteFile(end, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c.stop()
	if n := asked(); n != 1 || c.err != nil {
		t.Errorf("asked %d times, ended with %v: want once, and in its own time", n, c.err)
	}
}

// TestWhatReachesTheChildren: telemetry is set up for all at once, and the parent's own flags are not.
func TestWhatReachesTheChildren(t *testing.T) {
	got := childEnv([]string{"PATH=/bin", "SPOOL_BUCKET=b", "SPOOL_TRACE_EVERY=1", "OTEL_EXPORTER_OTLP_ENDPOINT=http://c:4318", "SENTRY_DSN=https://k@s/1",
		"LOG_FILE=x", "LOG_FORMAT=console", "LOG_LEVEL=debug", "AWS_PROFILE=work", "SPOOL_S3_ENDPOINT=http://elsewhere"})
	want := []string{"PATH=/bin", "SPOOL_TRACE_EVERY=1", "OTEL_EXPORTER_OTLP_ENDPOINT=http://c:4318", "SENTRY_DSN=https://k@s/1", "LOG_LEVEL=debug"}
	if !slices.Equal(got, want) {
		t.Errorf("environment %v, want %v", got, want)
	}
}

func readLog(t *testing.T, c *child) string {
	t.Helper()
	text, err := os.ReadFile(c.logFile)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// await asks again until ok, for at most ten seconds.
func await(t *testing.T, ok func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatal("not within ten seconds")
		case <-tick.C:
		}
	}
}
