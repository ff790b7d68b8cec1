package vllm

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestAnswersMeanWhatVLLMMeansByThem(t *testing.T) {
	for _, c := range []struct {
		name       string
		status     int
		body       string
		retryAfter string
		want       Answer
	}{
		{"result", 200, `{"choices":[{"finish_reason":"stop","message":{"content":"hi"}}],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10,"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":2}}}`, "",
			Answer{Outcome: OK, Code: "http_200", Usage: Usage{7, 4, 3, 2, 10}}},
		{"result of /v1/responses", 200, `{"output":[],"usage":{"input_tokens":5,"output_tokens":6,"total_tokens":11}}`, "",
			Answer{Outcome: OK, Code: "http_200", Usage: Usage{Input: 5, Output: 6, Total: 11}}},
		{"embedding", 200, `{"data":[{"embedding":[0.5]}],"usage":{"prompt_tokens":2,"total_tokens":2}}`, "",
			Answer{Outcome: OK, Code: "http_200", Usage: Usage{Input: 2, Total: 2}}},
		{"pooling server that answers a list", 200, `[{"score":1}]`, "", Answer{Outcome: OK, Code: "http_200"}},
		{"list that is cut off", 200, `[{"score":1}`, "", Answer{Outcome: Retry, Code: "bad_json"}},
		{"choices and usage of unknown shapes", 200, `{"choices":["a",{"finish_reason":3}],"usage":{"prompt_tokens":"x","completion_tokens":2.5,"total_tokens":4,"prompt_tokens_details":[1]}}`, "",
			Answer{Outcome: OK, Code: "http_200", Usage: Usage{Total: 4}}},
		{"length is a result", 200, `{"choices":[{"finish_reason":"length"}],"usage":null}`, "", Answer{Outcome: OK, Code: "http_200"}},
		{"abort", 200, `{"choices":[{"finish_reason":"stop"},{"index":1,"finish_reason":"abort"}]}`, "", Answer{Outcome: Aborted, Code: "abort"}},
		{"cut off", 200, `{"choices":[`, "", Answer{Outcome: Retry, Code: "bad_json"}},
		{"two values", 200, `{} {}`, "", Answer{Outcome: Retry, Code: "bad_json"}},
		{"too long", 400, `{"error":{"message":"max_tokens=2400 cannot be greater than max_model_len=2048.","type":"BadRequestError","param":"max_tokens","code":400}}`, "", Answer{Outcome: Rejected, Code: "http_400"}},
		{"wrong route", 404, `{"detail":"Not Found"}`, "", Answer{Outcome: Rejected, Code: "http_404"}},
		{"unknown model", 404, "{\"error\":{\"message\":\"The model `x` does not exist.\",\"type\":\"NotFoundError\",\"param\":\"model\",\"code\":404}}", "", Answer{Outcome: Fatal, Code: CodeModelNotFound}},
		{"bad key", 401, `{"error":"Unauthorized"}`, "", Answer{Outcome: Fatal, Code: CodeEngineDenied}},
		{"unprocessable", 422, `{"error":{"message":"media"}}`, "", Answer{Outcome: Rejected, Code: "http_422"}},
		{"not implemented", 501, `{"error":{"message":"no"}}`, "", Answer{Outcome: Rejected, Code: "http_501"}},
		{"generation error", 500, `{"error":{"message":"Internal server error","type":"InternalServerError","param":null,"code":500}}`, "", Answer{Outcome: Retry, Code: "http_500"}},
		{"engine death", 500, `{"error":{"message":"EngineCore encountered an issue. See stack trace (above) for the root cause.","type":"InternalServerError","param":null,"code":500}}`, "", Answer{Outcome: Down, Code: "engine_dead"}},
		{"queue overflow", 503, `{"error":"The model is currently scaling"}`, "7", Answer{Outcome: Busy, Code: "http_503", RetryAfter: 7 * time.Second}},
		{"rate limit", 429, `slow down`, "", Answer{Outcome: Busy, Code: "http_429"}},
		{"gateway", 504, `<html>`, "", Answer{Outcome: Retry, Code: "http_504"}},
		{"conflict", 409, `{}`, "", Answer{Outcome: Retry, Code: "http_409"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := http.Header{}
			if c.retryAfter != "" {
				h.Set("Retry-After", c.retryAfter)
			}
			got := classify(&http.Response{StatusCode: c.status, Header: h}, []byte(c.body))
			if got.Outcome != c.want.Outcome || got.Code != c.want.Code || got.Usage != c.want.Usage || got.RetryAfter != c.want.RetryAfter {
				t.Errorf("got %v %s %+v %v, want %v %s %+v %v", got.Outcome, got.Code, got.Usage, got.RetryAfter,
					c.want.Outcome, c.want.Code, c.want.Usage, c.want.RetryAfter)
			}
			if (got.Err == nil) != (c.want.Outcome == OK) {
				t.Errorf("error %v with outcome %v", got.Err, got.Outcome)
			}
		})
	}
}

func TestBodyOfARejectionIsAlwaysJSON(t *testing.T) {
	a := classify(&http.Response{StatusCode: 413}, []byte("<b>\"\xff"))
	if string(a.Body) != `"\u003cb\u003e\"`+"\uFFFD"+`"` {
		t.Errorf("body %s", a.Body)
	}
}

// serve answers on a unix socket and gives a client of it.
func serve(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "v.sock")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: h}}
	s.Start()
	t.Cleanup(s.Close)
	c, err := NewClient("unix://"+path, Options{APIKey: "k"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestRequestReachesTheEngineByteForByte(t *testing.T) {
	body := "{ \"model\" : \"m\",\t\"x\": 1.0000000000000001, \"s\":\"\\ud800\" }"
	var got string
	var header http.Header
	var path string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got, header, path = string(b), r.Header, r.URL.Path
		io.WriteString(w, `{"usage":{"total_tokens":1}}`)
	})
	a := c.Do(t.Context(), Request{Path: "/v1/completions", Body: []byte(body), ID: "b-1-1"})
	if a.Outcome != OK || a.Usage.Total != 1 {
		t.Fatalf("answer %+v", a)
	}
	if got != body || path != "/v1/completions" {
		t.Errorf("the engine got %q at %s", got, path)
	}
	if header.Get("X-Request-Id") != "b-1-1" || header.Get("Content-Type") != "application/json" || header.Get("Authorization") != "Bearer k" {
		t.Errorf("headers %v", header)
	}
}

func TestModelsHealthAndVersion(t *testing.T) {
	models := `{"object":"list","data":[{"id":"a"},{"id":"b"}]}`
	healthy := 200
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/v1/models":
			if models == "" {
				w.WriteHeader(404)
			}
			io.WriteString(w, models)
		case "/health":
			w.WriteHeader(healthy)
		case "/version":
			io.WriteString(w, `{"version":"0.32.0"}`)
		}
	})
	if got, err := c.Models(t.Context()); err != nil || !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("models %v, %v", got, err)
	}
	models = ""
	if _, err := c.Models(t.Context()); !errors.Is(err, ErrNoModels) {
		t.Errorf("models of a server without list: %v", err)
	}
	broken := func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(500)
		io.WriteString(w, "the prompt was: secret")
	}
	_, err := serve(t, broken).Models(t.Context())
	var quotes interface{ Quotes() bool }
	if !errors.As(err, &quotes) || !quotes.Quotes() || !strings.HasSuffix(err.Error(), "/v1/models: status 500: the prompt was: secret") {
		t.Errorf("error %v, want one that quotes the server and says so", err)
	}
	if a := serve(t, broken).Do(t.Context(), Request{Path: "/v1/completions"}); !errors.As(a.Err, &quotes) || !quotes.Quotes() {
		t.Errorf("error %v of an answer does not say that it quotes", a.Err)
	}
	if got := c.Version(t.Context()); got != "0.32.0" {
		t.Errorf("version %q", got)
	}
	if err := c.Healthy(t.Context()); err != nil {
		t.Error(err)
	}
	healthy = 503
	if err := c.Healthy(t.Context()); err == nil {
		t.Error("503 is healthy")
	}
}

func TestTransportFailures(t *testing.T) {
	none, err := NewClient("unix://"+filepath.Join(t.TempDir(), "none"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if a := none.Do(t.Context(), Request{Path: "/x", Body: []byte("{}")}); a.Outcome != Down || a.Code != "refused" {
		t.Errorf("no socket: %+v", a)
	}
	cut := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		conn, _, _ := http.NewResponseController(w).Hijack()
		conn.Close()
	})
	if a := cut.Do(t.Context(), Request{Path: "/x", Body: []byte("{}")}); a.Outcome != Retry || a.Code != "transport" {
		t.Errorf("cut connection: %+v", a)
	}
	hang := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		io.ReadAll(r.Body)
		<-r.Context().Done()
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if a := hang.Do(ctx, Request{Path: "/x", Body: []byte("{}")}); a.Outcome != Retry || a.Code != "timeout" {
		t.Errorf("time-out: %+v", a)
	}
	cause := errors.New("stopped")
	ended, stop := context.WithCancelCause(t.Context())
	stop(cause)
	if a := hang.Do(ended, Request{Path: "/x", Body: []byte("{}")}); a.Outcome != Ended || !errors.Is(a.Err, cause) {
		t.Errorf("ended: %+v", a)
	}
}

func TestOrigins(t *testing.T) {
	for origin, want := range map[string]string{
		"http://127.0.0.1:8000": "http://127.0.0.1:8000/v1/x", "http://h:1/v1": "http://h:1/v1/x", "http://h:1/v1/": "http://h:1/v1/x",
		"https://h/prefix": "https://h/prefix/v1/x",
	} {
		c, err := NewClient(origin, Options{})
		if err != nil {
			t.Errorf("%s: %v", origin, err)
			continue
		}
		if r, err := c.newRequest(t.Context(), "POST", "/v1/x", nil); err != nil || r.URL.String() != want {
			t.Errorf("%s: %v, %v; want %s", origin, r.URL, err, want)
		}
	}
	for _, origin := range []string{"", "h:1", "ftp://h", "unix://relative", "http://"} {
		if _, err := NewClient(origin, Options{}); err == nil {
			t.Errorf("%q was taken", origin)
		}
	}
	if c, _ := NewClient("http://u:secret@h", Options{}); c.Name() != "http://u:xxxxx@h" {
		t.Errorf("name %q shows the password", c.Name())
	}
}

func TestRetryAfterThatIsADateIsIgnored(t *testing.T) {
	if got := retryAfter(http.Header{"Retry-After": {"Wed, 21 Oct 2026 07:28:00 GMT"}}); got != 0 {
		t.Errorf("a date gave %v", got)
	}
}

// BenchmarkScanBody reads an answer of some 600 bytes, and one of 300 tokens with five log probabilities each.
func BenchmarkScanBody(b *testing.B) {
	logprob := `{"token":"word","logprob":-0.1234,"bytes":[119,111,114,100]}`
	token := `{"token":"word","logprob":-0.1234,"bytes":[119,111,114,100],"top_logprobs":[` + strings.Repeat(logprob+",", 4) + logprob + `]}`
	for _, kind := range [][2]string{{"plain", "null"}, {"logprobs", `{"content":[` + strings.Repeat(token+",", 299) + token + `]}`}} {
		b.Run(kind[0], func(b *testing.B) {
			body := []byte(`{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"` +
				strings.Repeat("word ", 30) + `","refusal":null,"annotations":null,"audio":null,"function_call":null,"tool_calls":[],"reasoning":null},"logprobs":` + kind[1] +
				`,"finish_reason":"stop","stop_reason":null,"token_ids":null}],"service_tier":null,"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}`)
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := scanBody(body); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// pipes is a listener in this process.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	c, ok := <-p
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (p pipes) Close() error   { close(p); return nil }
func (p pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

// dial is for a client's transport.
func (p pipes) dial(context.Context, string, string) (net.Conn, error) {
	here, there := net.Pipe()
	p <- there
	return here, nil
}

// TestConnectionsThatRestAreNotUsed: vLLM closes a connection that has rested for 5 s, and what is sent at that moment is lost.
func TestConnectionsThatRestAreNotUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type lastUse struct{}
		used := false
		l := make(pipes)
		srv := &http.Server{
			ConnContext: func(ctx context.Context, _ net.Conn) context.Context {
				return context.WithValue(ctx, lastUse{}, new(bool))
			},
			Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				before := r.Context().Value(lastUse{}).(*bool)
				used, *before = *before, true
				io.WriteString(w, `{"choices":[]}`)
			}),
		}
		go srv.Serve(l)
		c, err := NewClient("http://vllm", Options{})
		if err != nil {
			t.Fatal(err)
		}
		c.http.DialContext, c.http.Proxy = l.dial, nil
		for i, rest := range []time.Duration{0, time.Second, 2900 * time.Millisecond, 4 * time.Second, 4990 * time.Millisecond, time.Second} {
			time.Sleep(rest)
			if a := c.Do(t.Context(), Request{Path: "/v1/completions", Body: []byte(`{"prompt":"x"}`)}); a.Outcome != OK {
				t.Fatalf("request %d: %v %s, %v", i, a.Outcome, a.Code, a.Err)
			}
			if want := i > 0 && rest < 3*time.Second; used != want {
				t.Errorf("after %v of rest: the same connection %v, want %v", rest, used, want)
			}
		}
		c.Close()
		srv.Close()
	})
}
