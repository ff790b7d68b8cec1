package vllmsim

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestServeTakesVLLMsArguments(t *testing.T) {
	c := Config{Slots: 1, ServedNames: []string{"extra"}}
	addr, err := c.parse([]string{
		"serve", "/models/m", "--uds", "/tmp/v.sock", "--max-num-seqs", "7", "--max-num-queued-reqs=9", "--max-num-batched-tokens", "4096",
		"--served-model-name", "a", "b", "default", "--enable-lora", "--lora-modules", "l=/l", "k=/k", "--shutdown-timeout", "3", "--max-model-len", "100",
		"--enable-per-request-metrics",
	})
	if err != nil || addr != "unix:///tmp/v.sock" {
		t.Fatalf("address %q, error %v", addr, err)
	}
	want := Config{
		Model: "a", ServedNames: []string{"b", "default", "extra", "l", "k"}, Slots: 7, MaxQueued: 9, MaxModelLen: 100, ShutdownTimeout: 3 * time.Second, RequestMetrics: true,
	}
	if diff := cmp.Diff(want, c); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
	if addr, err := new(Config).parse([]string{"serve", "m", "--host", "127.0.0.1", "--port", "1"}); err != nil || addr != "127.0.0.1:1" {
		t.Errorf("address %q, error %v", addr, err)
	}
}

func TestServeRefusesWhatItDoesNotKnowAsArgparseDoes(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"serve", "m", "--no-such-flag", "3", "--enforce-eager"}, "vllm: error: unrecognized arguments: --no-such-flag 3\n"},
		{[]string{"serve", "m", "--shutdown-timeout", "3"}, "vllm: error: unrecognized arguments: --shutdown-timeout 3\n"},
		{[]string{"serve", "m", "--max-num-seqs", "many"}, "vllm: error: argument --max-num-seqs: invalid int value: 'many'\n"},
		{[]string{"serve", "m", "--uds"}, "vllm: error: argument --uds: expected one argument\n"},
		{[]string{"bench"}, "vllm: error: argument subparser"},
	} {
		var out bytes.Buffer
		if code := Serve(t.Context(), Config{Lacks: []string{"--shutdown-timeout"}}, c.args, &out); code != 2 || !strings.Contains(out.String(), c.want) {
			t.Errorf("%v: exit %d, %q, want 2 and %q", c.args, code, out.String(), c.want)
		}
	}
	var out bytes.Buffer
	if code := Serve(t.Context(), Config{}, []string{"--version"}, &out); code != 0 || out.String() != Version+"\n" {
		t.Errorf("version: exit %d, %q", code, out.String())
	}
}

func TestServeFailsToStartOnASocketThatWasLeft(t *testing.T) {
	path := filepath.Join(t.TempDir(), "v.sock")
	l, err := new(net.ListenConfig).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	var out bytes.Buffer
	if code := Serve(t.Context(), Config{}, []string{"serve", "m", "--uds", path}, &out); code != 1 || !strings.Contains(out.String(), "OSError: [Errno 98] Address already in use\n") {
		t.Errorf("exit %d, %q", code, out.String())
	}
}

func TestServeFailsToStartAfterItsLoadTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var out bytes.Buffer
		code := Serve(t.Context(), Config{FailStart: FailMemory, LoadTime: time.Hour}, []string{"serve", "m", "--uds", "/v"}, &out)
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		if code != 1 || time.Since(start) != time.Hour || len(lines) != 6 || !strings.Contains(lines[3], "ValueError: Free memory on device cuda:0") || !strings.HasPrefix(lines[5], "(APIServer pid=") {
			t.Errorf("exit %d after %v:\n%s", code, time.Since(start), out.String())
		}
	})
}

func TestServeExitsWith0WhenItsEngineDied(t *testing.T) {
	path := filepath.Join(t.TempDir(), "v.sock")
	out, written := net.Pipe()
	defer out.Close()
	done := make(chan int, 1)
	go func() {
		defer written.Close()
		done <- Serve(context.Background(), Config{Instant: true, Faults: []Fault{{Kind: FaultDie}}}, []string{"serve", "m", "--uds", path}, written)
	}()
	lines := make(chan string, 16)
	go func() {
		defer close(lines)
		buf := make([]byte, 4096)
		for n, err := out.Read(buf); err == nil; n, err = out.Read(buf) {
			lines <- string(buf[:n])
		}
	}()
	var seen []string
	for line := range lines {
		seen = append(seen, line)
		if strings.Contains(line, "startup complete") {
			c := newClient(t, "http://engine", unixTransport(path))
			if a := c.post(chatPath, "", chat("x", "")); a.status != 500 || !strings.Contains(a.body, "EngineCore encountered an issue") {
				t.Errorf("status %d, error %v, body %s", a.status, a.err, a.body)
			}
		}
	}
	if code := <-done; code != 0 || !slices.ContainsFunc(seen, func(s string) bool { return strings.Contains(s, "EngineCore encountered a fatal error.") }) {
		t.Errorf("exit %d, %q", code, seen)
	}
}

func unixTransport(path string) *http.Transport {
	return &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}
}

func TestAStalledEngineLooksHealthy(t *testing.T) {
	s := newServer(t, Config{Slots: 1, TokenTime: time.Millisecond, Faults: []Fault{{Kind: FaultStall, Match: "stop"}}})
	c, _ := serve(t, s)
	if a := c.post(chatPath, "", chat("x", `,"max_tokens":3,"ignore_eos":true`)); a.status != 200 {
		t.Fatalf("before: %d, %v", a.status, a.err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var stuck []<-chan answered
	for i, content := range []string{"stop", "later"} {
		stuck = append(stuck, c.start(ctx, chatPath, "", chat(content, "")))
		eventually(t, "it waits", func() bool { return s.Counts().Waiting == i+1 })
	}
	if w := ask(s.Handler(), "GET", "/health", ""); w.Code != 200 {
		t.Errorf("health %d, want 200", w.Code)
	}
	for _, want := range []string{`vllm:num_requests_running{engine="0",model_name="vllmsim"} 0`, `vllm:num_requests_waiting{engine="0",model_name="vllmsim"} 0`, `vllm:generation_tokens_total{engine="0",model_name="vllmsim"} 3`} {
		if w := ask(s.Handler(), "GET", "/metrics", ""); !strings.Contains(w.Body.String(), want+"\n") {
			t.Errorf("metrics lack %s", want)
		}
	}
	cancel()
	for _, ch := range stuck {
		if a := <-ch; a.err == nil {
			t.Errorf("answered with %d", a.status)
		}
	}
}

func TestQueueOverflowIs503(t *testing.T) {
	s := newServer(t, Config{Slots: 1, MaxQueued: 2, TokenTime: time.Minute})
	c, stop := serve(t, s)
	replies := []<-chan answered{c.start(t.Context(), chatPath, "", chat("a", "")), c.start(t.Context(), chatPath, "", chat("b", ""))}
	eventually(t, "one runs and one waits", func() bool { n := s.Counts(); return n.Running == 1 && n.Waiting == 1 })
	const want = `{"error":{"message":"The engine is currently busy and cannot accept new requests. Please try again later or on a different instance.","type":"Service Unavailable","param":null,"code":503}}`
	if a := c.post(chatPath, "", chat("c", "")); a.status != 503 || a.body != want {
		t.Errorf("third: %d %s", a.status, a.body)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	for _, r := range replies {
		if a := <-r; a.status != 200 || !strings.Contains(a.body, `"finish_reason":"abort"`) {
			t.Errorf("%d %s", a.status, a.body)
		}
	}
}

func TestStatusFaultsComeInThreeShapes(t *testing.T) {
	for shape, want := range map[string]string{
		"":          `{"error":{"message":"no","type":"ServiceUnavailableError","param":null,"code":503}}`,
		ShapeString: `{"error":"no"}`,
		ShapeDetail: `{"detail":"no"}`,
	} {
		s := newServer(t, Config{Instant: true, Faults: []Fault{{Kind: FaultStatus, Status: 503, Message: "no", Shape: shape}}})
		if w := ask(s.Handler(), "POST", chatPath, chat("x", "")); w.Code != 503 || w.Body.String() != want {
			t.Errorf("%q: %d %s", shape, w.Code, w.Body)
		}
	}
	if _, err := New(Config{Faults: []Fault{{Kind: FaultStatus, Status: 503, Shape: "round"}}}, nil); err == nil {
		t.Error("took an unknown shape")
	}
}
