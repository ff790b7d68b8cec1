package monitoring_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/smithy-go"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"spool/monitoring"
	"spool/runner/gpu"
	"spool/runner/vllm"
	"spool/storage"
	"spool/storage/batch"
	"spool/storage/finalize"
	"spool/storage/lease"
	"spool/storage/queue"
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
		"event": "", "batch_id": "", "request_id": "", "seq": 1.0, "instance": "r-1",
		"chunk_id": 3.0, "duration_seconds": 1.5, "error": "boom", "error_type": "other"}
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
	if n := strings.Count(string(text), `"logger":"watcher","message":"store is unfit","event":""`); n != 2 {
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

// logged gives the lines that f logs, as JSON.
func logged(t *testing.T, opt monitoring.Options, f func(log *zap.Logger)) []map[string]any {
	t.Helper()
	var out bytes.Buffer
	opt.Output = zapcore.AddSync(&out)
	log, closeLog, err := monitoring.NewLogger(opt)
	if err != nil {
		t.Fatal(err)
	}
	f(log)
	if err := closeLog(); err != nil {
		t.Fatal(err)
	}
	var list []map[string]any
	for line := range strings.Lines(out.String()) {
		var v jsontext.Value = []byte(line)
		if !v.IsValid() { // names twice are not valid to it
			t.Fatalf("not JSON, or a name twice: %s", line)
		}
		m := map[string]any{}
		if err := json.Unmarshal(v, &m); err != nil {
			t.Fatal(err)
		}
		delete(m, "timestamp")
		list = append(list, m)
	}
	return list
}

func TestLoggerHasEachFieldOnceAndCountsByBatch(t *testing.T) {
	got := logged(t, monitoring.Options{Component: "runner", Version: "1.2", Env: "staging"}, func(log *zap.Logger) {
		log = log.With(zap.String("runner_id", "r-0"), zap.Int("seq", 99))
		a := log.With(zap.String("batch_id", "a"), zap.Int("chunk", 1))
		a.Info("one", zap.String("event", "first"), zap.String("batch_id", "a"), zap.Int("chunk", 2), zap.String("runner_id", "r-1"))
		log.Info("two", zap.Error(nil))
		a.Info("three", zap.String("request_id", "a-7"))
	})
	line := func(message, event, batch, request string, seq float64, more map[string]any) map[string]any {
		m := map[string]any{"level": "info", "logger": "runner", "message": message, "event": event, "batch_id": batch,
			"request_id": request, "seq": seq}
		maps.Copy(m, more)
		return m
	}
	want := []map[string]any{
		line("one", "first", "a", "", 1, map[string]any{"chunk": 2.0, "runner_id": "r-1", "version": "1.2", "env": "staging"}),
		line("two", "", "", "", 1, map[string]any{"runner_id": "r-0", "version": "1.2", "env": "staging"}),
		line("three", "", "a", "a-7", 2, map[string]any{"chunk": 1.0, "runner_id": "r-0"}),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

type typedError struct{}

func (typedError) Error() string     { return "typed" }
func (typedError) ErrorType() string { return "quota" }

func TestErrorTypeIsOneOfFewWords(t *testing.T) {
	tests := []struct {
		err  error
		want string
	}{
		{nil, ""},
		{errors.New("x 17"), "other"},
		{fmt.Errorf("ask: %w", typedError{}), "quota"},
		{fmt.Errorf("ask: %w", context.Canceled), "cancelled"},
		{fmt.Errorf("ask: %w", context.DeadlineExceeded), "timeout"},
		{os.ErrDeadlineExceeded, "timeout"},
		{&net.OpError{Op: "dial", Err: errors.New("refused")}, "network"},
		{fmt.Errorf("read: %w", &storage.Error{Op: "get", Key: "k", Kind: storage.KindDenied}), "store_denied"},
		{&storage.Error{Op: "get", Key: "k", Kind: storage.KindNotFound, Err: context.Canceled}, "store_not_found"},
		{fmt.Errorf("write: %w", &os.PathError{Op: "write", Path: "f", Err: syscall.ENOSPC}), "file"},
		{&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}, "network"},
		{fmt.Errorf("%w: over", &gpu.UnfitError{}), "gpu_unfit"},
		{errors.Join(errors.New("x"), lease.ErrLost), "lease_lost"},
		{fmt.Errorf("read: %w", &finalize.CorruptError{Err: batch.ErrVersion}), "corrupt_object"},
		{fmt.Errorf("read: %w", batch.ErrVersion), "later_version"},
		{fmt.Errorf("read: %w", batch.ErrTorn), "corrupt_object"},
		{fmt.Errorf("start: %w", &vllm.StartError{Cause: vllm.CauseMemory}), "out_of_memory"},
		{fmt.Errorf("%w: 21 times, at last: %w", vllm.ErrBudget, vllm.ErrNotReady), "engine_down"},
		{&queue.SendError{Err: &queue.Error{Kind: queue.ErrDenied, Err: errors.New("403")}}, "queue_denied"},
		{&queue.Error{Kind: queue.ErrNoQueue, Err: errors.New("x")}, "queue_not_found"},
		{&queue.Error{Kind: queue.ErrUnavailable, Err: context.DeadlineExceeded}, "queue_unavailable"},
		{&queue.Error{Kind: queue.ErrGone}, "queue_message_gone"},
		{&queue.Error{Err: &smithy.GenericAPIError{Code: "InvalidParameterValue"}}, "queue_refused"},
		{&queue.Error{Err: errors.Join(context.Canceled, errors.New("canceled"))}, "cancelled"},
		{&queue.Error{Err: context.DeadlineExceeded}, "timeout"},
	}
	for _, tt := range tests {
		if got := monitoring.ErrorType(tt.err); got != tt.want {
			t.Errorf("%v: type %q, want %q", tt.err, got, tt.want)
		}
	}
	own := logged(t, monitoring.Options{}, func(log *zap.Logger) {
		log.Error("x", zap.Error(typedError{}), zap.String("error_type", "own"))
		log.Warn("x")
		log.Info("x", zap.Error(typedError{}))
		log.Info("x")
	})
	for i, want := range []any{"own", "other", "quota", nil} {
		if got := own[i]["error_type"]; got != want {
			t.Errorf("line %d has error_type %v, want %v", i+1, got, want)
		}
	}
}

func TestConsoleSaysOnlyWhatThereIs(t *testing.T) {
	var out bytes.Buffer
	log, _, err := monitoring.NewLogger(monitoring.Options{Output: zapcore.AddSync(&out), Format: monitoring.FormatConsole, Component: "runner"})
	if err != nil {
		t.Fatal(err)
	}
	log.Info("chunk committed", zap.String("batch_id", "b"), zap.Int("chunk", 3))
	_, got, _ := strings.Cut(out.String(), "Z\t")
	if want := "info\trunner\tchunk committed\t" + `{"batch_id": "b", "chunk": 3}` + "\n"; got != want {
		t.Errorf("console line %q, want %q", got, want)
	}
}

func TestNoSecretGetsOut(t *testing.T) {
	const secret = "tOpSeCrEt/0123456789+abcdefghij"
	tests := []struct{ name, text, want string }{
		{"bearer", "Authorization: Bearer " + secret, "Authorization: REDACTED"},
		{"a header in Go", "map[Authorization:[Bearer " + secret + "] Accept:[*/*]]", "map[Authorization:[REDACTED] Accept:[*/*]]"},
		{"a header in JSON", `{"authorization": "Basic ` + secret + `", "n": 1}`, `{"authorization": "REDACTED", "n": 1}`},
		{"AWS's header", "authorization=AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20261123/eu/s3/aws4_request, Signature=" + secret, "authorization=REDACTED"},
		{"bearer alone", "sent bearer " + secret + " to it", "sent bearer REDACTED to it"},
		{"api key", "api_key=" + secret + ", n=1", "api_key=REDACTED, n=1"},
		{"x-api-key in JSON", `{"x-api-key":"` + secret + `"}`, `{"x-api-key":"REDACTED"}`},
		{"an argument", "vllm serve --api-key " + secret + " --port 1", "vllm serve --api-key REDACTED --port 1"},
		{"an argument with =", "--hf-token=" + secret + " m", "--hf-token=REDACTED m"},
		{"AWS's variables", "AWS_SECRET_ACCESS_KEY=" + secret + " AWS_SESSION_TOKEN=" + secret, "AWS_SECRET_ACCESS_KEY=REDACTED AWS_SESSION_TOKEN=REDACTED"},
		{"AWS's credentials in JSON", `{"SecretAccessKey":"` + secret + `","SessionToken":"` + secret + `"}`, `{"SecretAccessKey":"REDACTED","SessionToken":"REDACTED"}`},
		{"an access key", "user AKIAIOSFODNN7EXAMPLE is denied", "user REDACTED is denied"},
		{"a key of a temporary session", "user ASIAIOSFODNN7EXAMPLE", "user REDACTED"},
		{"a presigned URL", "GET https://b.s3.amazonaws.com/k?X-Amz-Algorithm=AWS4&X-Amz-Credential=AK%2F1&X-Amz-Signature=" + secret + "&x-id=GetObject failed",
			"GET https://b.s3.amazonaws.com/k?X-Amz-Algorithm=AWS4&X-Amz-Credential=REDACTED&X-Amz-Signature=REDACTED&x-id=GetObject failed"},
		{"a presigned URL, version 2", "https://h/k?AWSAccessKeyId=x&Expires=1&Signature=" + secret, "https://h/k?AWSAccessKeyId=REDACTED&Expires=1&Signature=REDACTED"},
		{"a session's token in a URL", "https://h/k?X-Amz-Security-Token=" + secret, "https://h/k?X-Amz-Security-Token=REDACTED"},
		{"OpenAI's key", "Incorrect key provided: sk-proj-0123456789abcdefghij.", "Incorrect key provided: REDACTED."},
		{"Hugging Face's token", "token hf_abcdefghijklmnopqrstuv", "token REDACTED"},
		{"a user in a URL", "dial https://me:" + strings.ReplaceAll(secret, "/", "") + "@host/x", "dial https://REDACTED@host/x"},
		{"a password in a URL, without a name", "redis://:" + strings.ReplaceAll(secret, "/", "") + "@host/0", "redis://REDACTED@host/0"},
		{"a token in a URL", "clone https://ghp_0123456789@github.com/x?to=a@b", "clone https://REDACTED@github.com/x?to=a@b"},
		{"a password with @ in a URL", "https://me:p@ss@host/x and https://host/a@b", "https://REDACTED@host/x and https://host/a@b"},
		{"Sentry's key", "SENTRY_DSN=https://0123456789abcdef@o1.ingest.sentry.io/1", "SENTRY_DSN=https://REDACTED@o1.ingest.sentry.io/1"},
		{"OAuth's secret", "client_secret=abc&scope=x", "client_secret=REDACTED&scope=x"},
		{"a variable with a token", "HUGGING_FACE_HUB_TOKEN=abcdefghi12345 A=b", "HUGGING_FACE_HUB_TOKEN=REDACTED A=b"},
		{"a token in JSON", `{"token":"abcdef0123456789","n":1}`, `{"token":"REDACTED","n":1}`},
		{"a cookie", "Cookie: session=abcdef; b=c", "Cookie: REDACTED"},
		{"OpenTelemetry's headers", "OTEL_EXPORTER_OTLP_HEADERS=x-team=abc,b=c and", "OTEL_EXPORTER_OTLP_HEADERS=REDACTED and"},
		{"a password of words", "password: two words", "password: REDACTED"},
		{"a password of words in JSON", `{"password":"two \"big\" words","n":1}`, `{"password":"REDACTED","n":1}`},
		{"a password of words in Python", `{'password': 'two words', 'n': 1}`, `{'password': 'REDACTED', 'n': 1}`},
		{"an escaped presigned URL", "u=https%3A%2F%2Fh%3FX-Amz-Signature%3Dabc&b=c", "u=https%3A%2F%2Fh%3FX-Amz-Signature%3DREDACTED&b=c"},
		{"a known secret that JSON escapes", `X: a"b\c<d>&e`, "X: REDACTED"},
		{"a known secret in text that is JSON", `{"x":"a\"b\\c<d>&e"}`, `{"x":"REDACTED"}`},
		{"a known secret in a URL", "?x=my-own%2Bengine%2Fkey&y", "?x=REDACTED&y"},
		{"counts of tokens", `tokens_input=5 max_tokens: 123456789 "completion_tokens":123456789 {"max_tokens": 123456789} first_token=0.25 900 tokens/s`,
			`tokens_input=5 max_tokens: 123456789 "completion_tokens":123456789 {"max_tokens": 123456789} first_token=0.25 900 tokens/s`},
		{"a secret that is known", "header X: my-own+engine/key", "header X: REDACTED"},
		{"words", "the security token is expired; asia-east1 has 3 keys: password is wrong, tokens_input=5", "the security token is expired; asia-east1 has 3 keys: password is wrong, tokens_input=5"},
		{"a path", "in/keys/basketball-secrets.jsonl https://host/in?prefix=a&sign=2", "in/keys/basketball-secrets.jsonl https://host/in?prefix=a&sign=2"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			opt := monitoring.Options{Secrets: []string{"my-own+engine/key", `a"b\c<d>&e`, "short", ""}}
			got := logged(t, opt, func(log *zap.Logger) {
				log.Info("x", zap.String("text", tt.text), zap.Error(errors.New(tt.text)), zap.Any("any", map[string]string{"text": tt.text}))
			})[0]
			for key, text := range map[string]any{"text": got["text"], "error": got["error"], "any": got["any"].(map[string]any)["text"]} {
				if text != tt.want {
					t.Errorf("%s: %q\nwant %q", key, text, tt.want)
				}
			}
		})
	}
}

func TestSecretsInFieldsAndListsDoNotGetOut(t *testing.T) {
	got := logged(t, monitoring.Options{}, func(log *zap.Logger) {
		log.Info("x", zap.String("api_key", "abcdef"), zap.String("Authorization", "Token abc"),
			zap.Strings("args", []string{"serve", "--api-key", "abcdef", "--port", "1"}), zap.String("key", "in/x.jsonl"))
	})[0]
	want := map[string]any{"level": "info", "message": "x", "event": "", "batch_id": "", "request_id": "", "seq": 1.0,
		"api_key": "REDACTED", "Authorization": "REDACTED", "args": []any{"serve", "--api-key", "REDACTED", "--port", "1"}, "key": "in/x.jsonl"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// What is cut out of a line is never a part of its form.
func TestRedactedLinesAreJSON(t *testing.T) {
	names := []string{"authorization", "cookie", "otlp_headers", "password", "client_secret", "token", "api_key", "--api-key", "://a@b", "x-amz-signature"}
	for _, name := range names {
		for _, end := range []string{"", ":", "=", `"`, `:"`, `":"`, `\`, `: '`, `: [`, `": \"`, ": x", `: "x y\"`, `":"x","`, `=abcdefgh`, `\":\"a\\\"b`} {
			text := name + end
			got := logged(t, monitoring.Options{}, func(log *zap.Logger) { // it reads the line as JSON
				log.Info("x", zap.String("text", text), zap.String("last", "kept"))
				log.Info("x", zap.Any("any", map[string]any{"text": text, name: nil, name + "2": 123456789}), zap.Int(name, 123456789), zap.String("last", "kept"))
				log.Info(text, zap.String("last", "kept"))
			})
			for _, line := range got {
				if line["last"] != "kept" {
					t.Errorf("%q made the line %v", text, line)
				}
			}
		}
	}
}

func TestLogFileIsRotatedBySizeAndAge(t *testing.T) {
	rotate := func(t *testing.T, opt monitoring.Options, lines int, text string) (files []string, kept int) {
		t.Helper()
		dir := t.TempDir()
		opt.File = filepath.Join(dir, "spool.log")
		log, closeLog, err := monitoring.NewLogger(opt)
		if err != nil {
			t.Fatal(err)
		}
		for range lines {
			log.Info("line", zap.String("text", text))
		}
		if err := closeLog(); err != nil {
			t.Fatal(err)
		}
		files, _ = filepath.Glob(filepath.Join(dir, "spool*.log"))
		for _, f := range files {
			body, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			if len(body) > 1<<20 {
				t.Errorf("%s has %d bytes, want at most 1 MiB", filepath.Base(f), len(body))
			}
			kept += bytes.Count(body, []byte("\n"))
		}
		return files, kept
	}
	t.Run("size", func(t *testing.T) {
		files, kept := rotate(t, monitoring.Options{FileMiB: 1}, 45, strings.Repeat("x", 100_000))
		if len(files) != 5 || kept != 45 {
			t.Errorf("%d files with %d lines, want 5 with all 45: %v", len(files), kept, files)
		}
	})
	t.Run("the oldest go", func(t *testing.T) {
		files, kept := rotate(t, monitoring.Options{FileMiB: 1}, 150, strings.Repeat("x", 100_000))
		if len(files) != 8 || kept != 80 {
			t.Errorf("%d files with %d lines, want the file and 7 rotated ones with 80: %v", len(files), kept, files)
		}
	})
	t.Run("age", func(t *testing.T) {
		files, kept := rotate(t, monitoring.Options{FileAge: time.Nanosecond}, 3, "x")
		if len(files) != 3 || kept != 3 {
			t.Errorf("%d files with %d lines, want one for each line: %v", len(files), kept, files)
		}
	})
	t.Run("neither", func(t *testing.T) {
		if files, kept := rotate(t, monitoring.Options{}, 3, "x"); len(files) != 1 || kept != 3 {
			t.Errorf("%d files with %d lines, want one with 3: %v", len(files), kept, files)
		}
	})
}

// BenchmarkDisabledLevel is what a line costs that is below the level: to be 0 allocations.
func BenchmarkDisabledLevel(b *testing.B) {
	log, _, err := monitoring.NewLogger(monitoring.Options{Output: zapcore.AddSync(io.Discard)})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if ce := log.Check(zap.DebugLevel, "line"); ce != nil {
			ce.Write(zap.String("request_id", "b-1"))
		}
	}
}

// BenchmarkLine is what a line costs that is written and held for the bucket: one without a hint of secrets, and one with several.
func BenchmarkLine(b *testing.B) {
	for name, field := range map[string]zap.Field{
		"plain": zap.Int64("bytes", 812345),
		"hints": zap.String("text", `GET http://127.0.0.1:8000/v1/models of in/x.jsonl, "key": 3, tokens_output: 12 with secrets of nobody`),
	} {
		b.Run(name, func(b *testing.B) {
			opt := monitoring.Options{Output: zapcore.AddSync(io.Discard), Component: "runner", Instance: "r-1",
				Secrets: []string{"an-engine's-api-key", "another+secret/key"}}
			log, _, err := monitoring.NewLogger(opt)
			if err != nil {
				b.Fatal(err)
			}
			log = log.With(zap.String("batch_id", "baaaaaaaaaaaaaaaaaaaaaaaaaa"))
			b.ReportAllocs()
			for b.Loop() {
				log.Info("chunk committed", zap.String("event", "chunk_committed"), zap.Int("chunk", 3), field)
			}
		})
	}
}
