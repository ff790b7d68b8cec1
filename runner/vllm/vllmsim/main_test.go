package vllmsim

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// processEnv makes the test binary run a server, as the hidden command of spool does: the Config is its
// value. It prints its address when it is ready.
const processEnv = "VLLMSIM_TEST_PROCESS"

func TestMain(m *testing.M) {
	if cfg, ok := os.LookupEnv(processEnv); ok {
		os.Exit(process(cfg))
	}
	goleak.VerifyTestMain(m)
}

func process(arg string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var cfg Config
	if err := json.Unmarshal([]byte(arg), &cfg); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	err := Run(ctx, cfg, "127.0.0.1:0", nil, func(a net.Addr) { fmt.Fprintln(os.Stdout, a) })
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// eventually polls until ok holds, and fails the test after 10 s.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(10 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

// newServer makes a server. Unless told otherwise it keeps idle connections: on a busy machine a client
// may else meet one just as it is closed, as it may with vLLM.
func newServer(t *testing.T, cfg Config) *Server {
	t.Helper()
	if cfg.KeepAlive == 0 {
		cfg.KeepAlive = time.Hour
	}
	s, err := New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// client talks to a server over the network.
type client struct {
	t    *testing.T
	base string
	http *http.Client
}

// serve runs a server on a port of 127.0.0.1 until the test ends or stop is called, which returns what
// Serve returned.
func serve(t *testing.T, s *Server) (c *client, stop func() error) {
	t.Helper()
	l, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	var result error
	waited := false
	stop = func() error {
		cancel()
		if !waited {
			result, waited = <-done, true
		}
		return result
	}
	t.Cleanup(func() { _ = stop() })
	return newClient(t, "http://"+l.Addr().String(), &http.Transport{MaxIdleConnsPerHost: 64}), stop
}

func newClient(t *testing.T, base string, tr *http.Transport) *client {
	t.Cleanup(tr.CloseIdleConnections)
	return &client{t: t, base: base, http: &http.Client{Transport: tr}}
}

type answered struct {
	status int
	header http.Header
	body   string
	err    error
}

func (c *client) do(ctx context.Context, method, path, id, body string) answered {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, strings.NewReader(body))
	if err != nil {
		return answered{err: err}
	}
	req.Header.Set("Content-Type", "application/json")
	if id != "" {
		req.Header.Set("X-Request-Id", id)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return answered{err: err}
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	return answered{resp.StatusCode, resp.Header, string(data), err}
}

func (c *client) post(path, id, body string) answered {
	return c.do(c.t.Context(), http.MethodPost, path, id, body)
}

// start posts in the background; the channel has one answer.
func (c *client) start(ctx context.Context, path, id, body string) <-chan answered {
	out := make(chan answered, 1)
	go func() { out <- c.do(ctx, http.MethodPost, path, id, body) }()
	return out
}

// ask posts to the handler without a network.
func ask(h http.Handler, method, path, body string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-Request-Id", "rid-1")
	h.ServeHTTP(w, r)
	return w
}

const chatPath = "/v1/chat/completions"

func chat(content, more string) string {
	return fmt.Sprintf(`{"model":"default","messages":[{"role":"user","content":%q}]%s}`, content, more)
}
