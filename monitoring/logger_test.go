package monitoring_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"spool/monitoring"
)

func TestLoggerWritesTheSchema(t *testing.T) {
	var out bytes.Buffer
	log, closeLog, err := monitoring.NewLogger(monitoring.Options{Output: zapcore.AddSync(&out), Component: "runner", Instance: "r-1"})
	if err != nil {
		t.Fatal(err)
	}
	before := time.Now().UTC()
	log.Named("chunk").Warn("chunk is late", zap.Int("chunk_id", 3), zap.Duration("duration_seconds", 1500*time.Millisecond),
		zap.Error(errors.New("boom")))
	log.Debug("not at this level")
	if err := closeLog(); err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatalf("want one JSON line, got %q: %v", out.String(), err)
	}
	stamp, _ := got["timestamp"].(string)
	at, err := time.Parse(time.RFC3339Nano, stamp)
	if err != nil || !strings.HasSuffix(stamp, "Z") || len(stamp) != len("2006-01-02T15:04:05.000000000Z") {
		t.Errorf("timestamp %q: want RFC 3339 with nanoseconds, UTC", stamp)
	}
	if at.Before(before) || at.After(time.Now()) {
		t.Errorf("timestamp %v is not now", at)
	}
	delete(got, "timestamp")
	want := map[string]any{"level": "warn", "logger": "runner.chunk", "message": "chunk is late",
		"instance": "r-1", "chunk_id": 3.0, "duration_seconds": 1.5, "error": "boom"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestLoggerWritesToItsFileToo(t *testing.T) {
	var out bytes.Buffer
	path := filepath.Join(t.TempDir(), "spool.log")
	for range 2 { // the second appends
		log, closeLog, err := monitoring.NewLogger(monitoring.Options{
			Output: zapcore.AddSync(&out), Format: monitoring.FormatConsole, Level: "error", File: path, Component: "watcher"})
		if err != nil {
			t.Fatal(err)
		}
		log.Warn("not at this level")
		log.Error("store is unfit")
		if err := closeLog(); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(text), `"logger":"watcher","message":"store is unfit"}`); n != 2 {
		t.Errorf("the file has %d JSON lines, want 2: %s", n, text)
	}
	if n := strings.Count(out.String(), "\terror\twatcher\tstore is unfit"); n != 2 {
		t.Errorf("the console has %d lines, want 2: %s", n, out.String())
	}
}

func TestLoggerRefusesWhatItDoesNotKnow(t *testing.T) {
	for _, opt := range []monitoring.Options{{Level: "fatal"}, {Level: "loud"}, {Format: "xml"}, {File: t.TempDir()}} {
		if _, _, err := monitoring.NewLogger(opt); err == nil {
			t.Errorf("%+v: no error", opt)
		}
	}
}
