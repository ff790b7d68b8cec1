package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// plain is a client that does nothing but ask.
type plain struct{ *http.Client }

func newPlain(socket string) plain {
	return plain{&http.Client{Transport: unixTransport(socket)}}
}

func unixTransport(socket string) *http.Transport {
	return &http.Transport{
		MaxIdleConnsPerHost: 2 * vllmSlots,
		IdleConnTimeout:     time.Second, // vLLM ends what is idle for 5 s
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}
}

// answer is what two answers to the same request have in common: not their ids and times.
type answer struct {
	Choices json.RawMessage `json:"choices"`
	Usage   struct {
		Prompt     int `json:"prompt_tokens"`
		Completion int `json:"completion_tokens"`
	} `json:"usage"`
	Data []struct {
		Embedding []float64 `json:"embedding"`
		Score     float64   `json:"score"`
	} `json:"data"`
}

func parseAnswer(t *testing.T, body []byte) answer {
	t.Helper()
	var a answer
	if err := json.Unmarshal(body, &a); err != nil {
		t.Fatalf("%v: %.200s", err, body)
	}
	return a
}

func (a answer) embedding(t *testing.T) []float64 {
	t.Helper()
	if len(a.Data) != 1 {
		t.Fatalf("%d embeddings, want 1", len(a.Data))
	}
	return a.Data[0].Embedding
}

// askAll asks every line, and gives the answers by custom_id.
func (p plain) askAll(t *testing.T, input []byte) map[string]answer {
	t.Helper()
	var mu sync.Mutex
	answers := make(map[string]answer)
	g, ctx := errgroup.WithContext(t.Context())
	g.SetLimit(vllmSlots)
	for text := range bytes.Lines(input) {
		var in inLine
		if err := json.Unmarshal(text, &in); err != nil {
			t.Fatal(err)
		}
		g.Go(func() error {
			var a answer
			body, err := p.do(ctx, http.MethodPost, in.URL, in.Body)
			if err == nil {
				err = json.Unmarshal(body, &a)
			}
			mu.Lock()
			defer mu.Unlock()
			answers[in.CustomID] = a
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	return answers
}

func (p plain) do(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://engine"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := p.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = &url.Error{Op: method, URL: path, Err: &statusError{resp.StatusCode, text}}
	}
	return text, err
}

type statusError struct {
	status int
	body   []byte
}

func (e *statusError) Error() string { return strconv.Itoa(e.status) + ": " + string(e.body) }

// metrics sums vLLM's metrics over their labels, by their names without "vllm:". An engine that is about to die may not
// answer: there are none then.
func (p plain) metrics(t *testing.T) map[string]float64 {
	t.Helper()
	sums := make(map[string]float64)
	text, err := p.do(t.Context(), http.MethodGet, "/metrics", nil)
	if err != nil {
		return sums
	}
	for line := range strings.Lines(string(text)) {
		if series, value, ok := strings.Cut(strings.TrimSpace(line), "} "); ok && strings.HasPrefix(series, "vllm:") {
			name, _, _ := strings.Cut(strings.TrimPrefix(series, "vllm:"), "{")
			v, err := strconv.ParseFloat(value, 64)
			if err != nil {
				t.Fatalf("metric %q: %v", line, err)
			}
			sums[name] += v
		}
	}
	return sums
}

// wantSame checks that the output says what the plain client got, to every line.
func wantSame(t *testing.T, what string, plain map[string]answer, output []outLine) {
	t.Helper()
	if len(output) != len(plain) {
		t.Fatalf("%s: %d lines of output, want %d", what, len(output), len(plain))
	}
	different := 0
	for i, out := range output {
		want, known := plain[out.CustomID]
		got := parseAnswer(t, out.Response.Body)
		if known && len(want.Choices) > 0 && bytes.Equal(got.Choices, want.Choices) && got.Usage == want.Usage {
			continue
		}
		if different++; different <= 3 {
			t.Errorf("%s: line %d, %s: %.300s, %+v\nwant %.300s, %+v", what, i+1, out.CustomID, got.Choices, got.Usage, want.Choices, want.Usage)
		}
	}
	if different > 0 {
		t.Errorf("%s: %d of %d answers are not those of the plain client", what, different, len(output))
	}
}

func cosine(a, b []float64) float64 {
	if len(a) != len(b) {
		return math.NaN()
	}
	var ab, aa, bb float64
	for i := range a {
		ab, aa, bb = ab+a[i]*b[i], aa+a[i]*a[i], bb+b[i]*b[i]
	}
	return ab / math.Sqrt(aa*bb)
}

// recorder stands between runners and an engine, and keeps every body.
type recorder struct {
	t   *testing.T
	url string

	mu   sync.Mutex
	seen map[string][]recording // by the line's request id
	done int
}

// recording is one request and its answer; nil while there is none.
type recording struct{ sent, answered []byte }

func startRecorder(t *testing.T, socket string) *recorder {
	t.Helper()
	path := filepath.Join(shortTempDir(t), "r.sock")
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{t: t, url: "unix://" + path, seen: make(map[string][]recording)}
	transport := unixTransport(socket)
	proxy := &httputil.ReverseProxy{
		Rewrite:      func(p *httputil.ProxyRequest) { p.SetURL(&url.URL{Scheme: "http", Host: "engine"}) },
		Transport:    transport,
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: r.record(proxy)}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Close()
		<-served
		transport.CloseIdleConnections()
	})
	return r
}

// shortTempDir is for sockets, whose paths hold at most 107 bytes.
func shortTempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "spool-rec-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// record passes requests on. Of those for lines it keeps the body, and that of the answer if it is a result.
func (r *recorder) record(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method != http.MethodPost {
			next.ServeHTTP(w, req)
			return
		}
		sent, err := io.ReadAll(req.Body)
		if err != nil {
			return // the runner has gone
		}
		req.Body = io.NopCloser(bytes.NewReader(sent))
		id := req.Header.Get("X-Request-Id")
		line := id[:max(0, strings.LastIndexByte(id, '-'))] // without the attempt
		r.mu.Lock()
		n := len(r.seen[line])
		r.seen[line] = append(r.seen[line], recording{sent: sent})
		r.mu.Unlock()
		kept := &keeper{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(kept, req)
		if req.Context().Err() != nil || kept.status != http.StatusOK {
			return
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.seen[line][n].answered = kept.body.Bytes()
		r.done++
	})
}

// keeper keeps what it passes on.
type keeper struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

func (k *keeper) WriteHeader(status int) {
	k.status = status
	k.ResponseWriter.WriteHeader(status)
}

func (k *keeper) Write(p []byte) (int, error) {
	k.body.Write(p)
	return k.ResponseWriter.Write(p)
}

func (r *recorder) answered() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.done
}

func (r *recorder) asked() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, all := range r.seen {
		n += len(all)
	}
	return n
}

// wantBodies checks that the engine got the bytes of every line's body, and that the output has the bytes of an answer
// that the engine gave to that line.
func (r *recorder) wantBodies(input []byte, output []outLine) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	i := 0
	for text := range bytes.Lines(input) {
		var in inLine
		if err := json.Unmarshal(text, &in); err != nil {
			r.t.Fatal(err)
		}
		out := output[i]
		i++
		recordings, given := r.seen[out.Response.RequestID], false
		for _, rec := range recordings {
			if !bytes.Equal(rec.sent, in.Body) {
				r.t.Errorf("line %d: the engine got %q, want %q", i, rec.sent, in.Body)
			}
			given = given || rec.answered != nil && bytes.Equal(rec.answered, out.Response.Body)
		}
		if out.CustomID != in.CustomID || !given {
			r.t.Errorf("line %d, %s: the output has %.300s, which is no answer to %s, asked %d times", i, out.CustomID, out.Response.Body, in.CustomID, len(recordings))
		}
	}
}
