package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"spool/monitoring/sentry/sentrytest"
	"spool/runner/vllm/vllmsim"
	"spool/storage/batch"
)

// sinks are where telemetry goes.
type sinks struct {
	gateway, traces, sentry *hole
	s3                      string // the store, with its logs; "" is another one
}

// sinkKind is what is wrong with sinks.
type sinkKind string

const (
	sinksHang   sinkKind = "hang"   // they take every connection and request, and never answer
	sinksRefuse sinkKind = "refuse" // nothing listens; the store breaks off when a log is put
	sinksWork   sinkKind = "work"   // logs are stored; there are no others
)

// brokenSinks are all sinks of a stack, of one kind, until the test ends.
func (s *stack) brokenSinks(kind sinkKind) sinks {
	s.t.Helper()
	k := newSinks(s.t, kind)
	k.s3 = s.storeWithout(kind)
	return k
}

func newSinks(t *testing.T, kind sinkKind) sinks {
	t.Helper()
	closed := &hole{url: "http://127.0.0.1:1"} // a port that nothing listens on
	if kind != sinksHang {
		return sinks{gateway: closed, traces: closed, sentry: closed}
	}
	return sinks{gateway: newHole(t), traces: newHole(t), sentry: newHole(t)}
}

// hole is a server that takes every connection, and never answers.
type hole struct {
	url   string
	taken atomic.Int64
}

func newHole(t *testing.T) *hole {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &hole{url: "http://" + l.Addr().String()}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			h.taken.Add(1)
			defer c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return h
}

// storeWithout is the store of the stack, through a proxy that deals with logs as the kind says.
func (s *stack) storeWithout(kind sinkKind) string {
	s.t.Helper()
	target, err := url.Parse(s.s3)
	if err != nil {
		s.t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { // the signature is about the host that the client knows
			r.SetURL(target)
			r.Out.Host = r.In.Host
		},
		Transport: &http.Transport{MaxIdleConnsPerHost: 64},
	}
	ctx, stop := context.WithCancel(context.Background())
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPut || !strings.HasPrefix(r.URL.Path, "/spool/"+batch.LogsPrefix) || kind == sinksWork {
			proxy.ServeHTTP(w, r)
			return
		}
		if kind == sinksHang {
			_, _ = io.Copy(io.Discard, r.Body) // else the server does not notice that the client has gone
			select {
			case <-r.Context().Done():
			case <-ctx.Done():
			}
		}
		panic(http.ErrAbortHandler)
	}))
	s.t.Cleanup(func() { stop(); server.Close() })
	return server.URL
}

// env is that of a process whose telemetry goes to the sinks. Tracing is on for each line.
func (k sinks) env(env []string) []string {
	env = append(env[:len(env):len(env)], "PUSHGATEWAY_URL="+k.gateway.url, "OTEL_EXPORTER_OTLP_ENDPOINT="+k.traces.url, "OTEL_TRACES_SAMPLER=always_on",
		"SENTRY_DSN="+strings.Replace(k.sentry.url, "://", "://"+sentrytest.Key+"@", 1)+"/"+sentrytest.Project)
	if k.s3 == "" {
		return env
	}
	return append(env, "AWS_ENDPOINT_URL="+k.s3, "AWS_ENDPOINT_URL_S3="+k.s3)
}

// wantReached checks that processes tried the sinks, so that it was them that did not matter.
func (k sinks) wantReached(t *testing.T) {
	t.Helper()
	for name, h := range map[string]*hole{"Pushgateway": k.gateway, "collector of traces": k.traces, "Sentry": k.sentry} {
		if h.taken.Load() == 0 {
			t.Errorf("nobody tried the %s", name)
		}
	}
}

// refused is a line that every engine of vllmsim refuses.
func refused(id string) string { return request(id, 10_000_000) }

// brokenParts is a stack whose own watcher rests, and in whose place there is one with broken sinks; all processes that
// are started have them.
func brokenParts(t *testing.T, kind sinkKind) (parts, sinks, *process) {
	t.Helper()
	p := newParts(t)
	p.pause()
	k := p.brokenSinks(kind)
	p.env = k.env(p.env)
	return p, k, p.start("watch", "watch", "--scan-every", "1s")
}

// exitBound is how long a process may take to end whose sinks are broken: 10 s are promised, which the benchmark measures, and the
// rest is for a machine that has other things to do.
const exitBound = 90 * time.Second

// The batch ends as it should, and who worked on it ends too, although nothing arrives that they tell of themselves.
func TestBrokenSinksStopNeitherWorkNorExit(t *testing.T) {
	for _, kind := range []sinkKind{sinksHang, sinksRefuse} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			p, k, watcher := brokenParts(t, kind)
			good := requests("sink", 400, 20)
			input := append(good[:len(good):len(good)], refused("r-1"), refused("r-2"))
			p.put(p.write("sink.jsonl", input...), "in/sink.jsonl", nil)
			p.openBatch("in/sink.jsonl")
			runner := p.runner(p.engine("--time-scale", "0.1"), "--idle", "5s")
			done := p.wait("in/sink.jsonl", 1)[0]
			wantRight(t, vllmsim.Config{}, []byte(strings.Join(good, "\n")), p.lines(done.OutputFileID))
			if want := (batch.RequestCounts{Total: 402, Completed: 400, Failed: 2}); done.RequestCounts != want {
				t.Errorf("batch ended with %+v, want %+v", done.RequestCounts, want)
			}
			code, took := runner.left(t)
			if code != 0 || took > exitBound {
				t.Errorf("the runner ended with %d, %s after its work", code, took)
			}
			t.Logf("the runner took %s to end", took)
			p.until("the watcher has closed the batch", func() bool { return logs(watcher, "batch_ended") })
			asked := time.Now()
			watcher.signal(syscall.SIGTERM)
			code, took = watcher.ended(t), time.Since(asked)
			if code != 0 || took > exitBound {
				t.Errorf("the watcher ended with %d, %s after SIGTERM", code, took)
			}
			t.Logf("the watcher took %s to end", took)
			if kind == sinksHang {
				k.wantReached(t)
			}
			if stored := p.keys(batch.LogsPrefix); len(stored) > 0 {
				t.Errorf("logs were stored: %v", stored)
			}
		})
	}
}

// left waits for a runner, and says how long it took to end after it had said so.
func (p *process) left(t *testing.T) (code int, took time.Duration) {
	t.Helper()
	code = p.ended(t)
	now := time.Now()
	var l struct {
		Event string    `json:"event"`
		At    time.Time `json:"timestamp"`
	}
	text, err := os.ReadFile(p.log)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if err := json.Unmarshal([]byte(line), &l); err == nil && l.Event == "runner_ended" {
			return code, now.Sub(l.At)
		}
	}
	t.Fatalf("the runner did not say that it ended:\n%s", tail(p.log, 5))
	return code, 0
}

// logs reports whether a process has logged an event.
func logs(p *process, event string) bool { return timesLogged(p, event) > 0 }

func timesLogged(p *process, event string) (times int) {
	text, _ := os.ReadFile(p.log) // it was created before the process
	return strings.Count(string(text), `"event":"`+event+`"`)
}

// spool local, too, with all that it starts.
func TestLocalWithHangingSinks(t *testing.T) {
	t.Parallel()
	s := emptyStack(t)
	k := newSinks(t, sinksHang)
	s.env = k.env(os.Environ())
	good := requests("x", 100, 20)
	path := s.write("x.jsonl", append(good[:len(good):len(good)], refused("r"))...)
	out := filepath.Join(s.dir, "out")
	p := s.start("local", "local", "--data", filepath.Join(s.dir, "data"), "--port-base", "0", "--sim-time-scale", "0.1", "--",
		"sh", "-c", `"$0" submit "$1" --wait; code=$?; "$0" results in/x.jsonl > "$2"; exit $code`, spool, path, out)
	if code := p.ended(t); code != 3 { // some lines failed
		t.Fatalf("spool local ended with %d", code)
	}
	k.wantReached(t)
	text, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	wantRight(t, vllmsim.Config{}, []byte(strings.Join(good, "\n")), parseLines(t, bytes.NewReader(text)))
}

// What is told by what spool local starts.
func TestSentryIsToldBySpoolLocal(t *testing.T) {
	t.Parallel()
	s, server := emptyStack(t), sentrytest.New(t)
	s.env = append(os.Environ(), "SENTRY_DSN="+server.DSN(), "ENVIRONMENT=laptop")
	path := s.write("x.jsonl", append(requests("x", 10, 20), refused("r-1"), refused("r-2"), refused("r-3"))...)
	p := s.start("local", "local", "--data", filepath.Join(s.dir, "data"), "--port-base", "0", "--sim-time-scale", "0.1", "--", spool, "submit", path, "--wait")
	if code := p.ended(t); code != 3 { // some lines failed
		t.Fatalf("spool local ended with %d", code)
	}
	events := server.Events()
	if len(events) != 1 || events[0].Count() != 3 || events[0].Environment != "laptop" {
		t.Fatalf("events are %+v, want one about 3 lines", events)
	}
	if tags := events[0].Tags; tags["stage"] != "lines_failed" || tags["error_type"] != "http_400" || !batch.ValidID(tags["batch_id"]) {
		t.Errorf("the event has the tags %v", tags)
	}
}

// secret is a text that stands in prompts and in what the engine answers, and nowhere else.
const secret = "the secret plan of my company"

// echo is an engine that refuses the lines that hold the secret, and repeats them when it does.
func echo(t *testing.T) string {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /v1/models", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"object":"list","data":[{"id":"default","object":"model"}]}`)
	})
	mux.HandleFunc("POST /v1/chat/completions", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if bytes.Contains(body, []byte(secret)) {
			w.WriteHeader(http.StatusBadRequest)
			_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{"message": "cannot do " + string(body), "type": "BadRequestError", "code": 400}})
			return
		}
		fmt.Fprint(w, `{"id":"c","object":"chat.completion","model":"default","choices":[{"index":0,"message":{"role":"assistant","content":"yes"},`+
			`"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}`)
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s.URL
}

// Lines that fail, an engine that lacks a model, and the end of a runner make one event each, with the count, and without a word of a
// prompt. Without a DSN nothing is sent, wherever the SDK might think that it should be.
func TestSentryIsToldOnceABatchStageAndKind(t *testing.T) {
	s := newStack(t)
	server := sentrytest.New(t)
	plain := append(s.env, "SPOOL_ENGINE_API_KEY=sk-0123456789abcdefABCDEF")
	s.env = append(plain[:len(plain):len(plain)], "SENTRY_DSN="+server.DSN(), "ENVIRONMENT=staging")
	var input []string
	for i := range 30 {
		text := fmt.Sprintf("question %d", i)
		if i%4 == 1 { // 8 of them
			text = secret
		}
		input = append(input, fmt.Sprintf(`{"custom_id":"c-%d","method":"POST","url":"/v1/chat/completions","body":{"model":"default","messages":[{"role":"user","content":%q}]}}`, i, text))
	}
	s.put(s.write("plan.jsonl", input...), "in/plan.jsonl", nil)
	s.openBatch("in/plan.jsonl")
	engine := echo(t)
	if code := s.start("run", "run", "--engine-url", engine, "--idle", "10s").ended(t); code != 0 {
		t.Fatalf("the runner ended with %d", code)
	}
	done := s.wait("in/plan.jsonl", 1)[0]
	if want := (batch.RequestCounts{Total: 30, Completed: 22, Failed: 8}); done.RequestCounts != want {
		t.Errorf("batch ended with %+v, want %+v", done.RequestCounts, want)
	}
	s.put(s.write("absent.jsonl", strings.ReplaceAll(strings.Join(input, "\n"), `"model":"default"`, `"model":"absent"`)), "in/absent.jsonl", nil)
	if code := s.start("run", "run", "--engine-url", engine, "--pool", "default", "--idle", "60s").ended(t); code != 1 {
		t.Fatalf("the runner whose engine lacks the model ended with %d, want 1", code)
	}
	absent := s.openBatch("in/absent.jsonl")
	want := map[string]int64{
		done.ID + " lines_failed http_400":       8,
		absent + " shard_failed model_not_found": 1,
		" ended_with_error model_not_found":      1,
	}
	if diff := cmp.Diff(want, server.Counts()); diff != "" {
		t.Errorf("events and their counts:\n%s", diff)
	}
	for _, e := range server.Events() {
		tags := e.Tags
		if tags["component"] != "runner" || !strings.HasPrefix(tags["runner_id"], "r-") || tags["runner_id"] != e.Server || tags["pool"] != "default" {
			t.Errorf("%s has the tags %v, the server %s", e.Key(), tags, e.Server)
		}
		if e.Environment != "staging" || e.Release == "" || len(e.Fingerprint) != 4 {
			t.Errorf("%s has environment %q, release %q, fingerprint %v", e.Key(), e.Environment, e.Release, e.Fingerprint)
		}
		for _, never := range []string{secret, "question", "sk-0123456789abcdefABCDEF", "messages", "uthorization"} {
			if strings.Contains(e.Raw, never) {
				t.Errorf("%s holds %q:\n%s", e.Key(), never, e.Raw)
			}
		}
	}
	if !bytes.Contains(s.get(*done.ErrorFileID), []byte(secret)) {
		t.Error("errors.jsonl lacks the secret: nothing was planted")
	}

	before := len(server.Events())
	s.env = append(plain, "SENTRY_DSN=", "HTTPS_PROXY="+server.URL(), "HTTP_PROXY="+server.URL()) // what leaves this machine, the proxy would see
	if code := s.start("run", "run", "--engine-url", engine, "--idle", "60s").ended(t); code != 1 {
		t.Fatalf("the runner without a DSN ended with %d, want 1", code)
	}
	if after := len(server.Events()); after != before {
		t.Errorf("%d events without a DSN", after-before)
	}
}

// openBatch is the id of the batch of an input that has a plan.
func (s *stack) openBatch(key string) (id string) {
	s.t.Helper()
	s.until(key+" is planned", func() bool { id = s.planned(key); return id != "" })
	return id
}
