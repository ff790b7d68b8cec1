package runner

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"spool/localstack/sqs"
	"spool/runner/vllm"
	"spool/storage/finalize"
)

// bubble runs a test in a world without wires, where time passes when all wait: the intervals and limits of
// a runner with default settings can be seen.
func bubble(t *testing.T, test func(t *testing.T, w *world, e *wired)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		server := sqs.New(sqs.Config{})
		t.Cleanup(server.Close)
		test(t, newWorldAt(t, server, "http://sqs", wireless{server}), &wired{begun: time.Now()})
	})
}

// wireless is a transport that calls a handler.
type wireless struct{ http.Handler }

func (h wireless) RoundTrip(r *http.Request) (*http.Response, error) {
	got := r.Clone(r.Context()) // what a server would see of it
	got.Host = cmp.Or(r.Host, r.URL.Host)
	got.Header.Set("Content-Length", strconv.FormatInt(r.ContentLength, 10))
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, got)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return rec.Result(), nil
}

// defaults is a configuration in which nothing is set that has a default, but for four slots, which make a window of five.
func (w *world) defaults(engines ...Engine) Config {
	w.runners++
	name := fmt.Sprintf("r-%d", w.runners)
	return Config{
		Bucket: w.bucket, Fast: w.fast, Main: w.main, Engines: engines,
		Finalizer: finalize.New(finalize.Config{Bucket: w.bucket, By: name}), Name: name, Slots: 4, Scratch: w.t.TempDir(),
	}
}

// wired is an engine in the same process, which answers right and at once, unless do says otherwise.
type wired struct {
	do    func(ctx context.Context, line, ask int) *vllm.Answer // nil: the right answer
	down  func() bool
	model string // "m" if it is ""
	begun time.Time

	mu       sync.Mutex
	asked    []asked
	times    map[int]int // by line
	inFlight map[int]bool
	bodies   map[int]string
}

// asked is one request.
type asked struct {
	line int
	at   time.Duration
}

func (e *wired) Do(ctx context.Context, r vllm.Request) vllm.Answer {
	var body struct{ Messages []struct{ Content string } }
	if err := json.Unmarshal(r.Body, &body); err != nil {
		panic(err)
	}
	line, _ := strconv.Atoi(body.Messages[0].Content)
	ask := e.enter(line, r.Body)
	var a *vllm.Answer
	if e.do != nil {
		a = e.do(ctx, line, ask)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.inFlight, line)
	if ctx.Err() != nil && !errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
		return vllm.Answer{Outcome: vllm.Ended, Err: context.Cause(ctx)}
	}
	if a != nil {
		return *a
	}
	return vllm.Answer{Status: 200, Body: fmt.Appendf(nil, `"answer to %d"`, line), Usage: vllm.Usage{Total: 5}, Finish: 1}
}

func (e *wired) enter(line int, body []byte) (ask int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.times == nil {
		e.times, e.inFlight, e.bodies = map[int]int{}, map[int]bool{}, map[int]string{}
	}
	e.asked = append(e.asked, asked{line, time.Since(e.begun)})
	e.times[line]++
	e.bodies[line] = string(body)
	e.inFlight[line] = true
	return e.times[line]
}

func (e *wired) Healthy(context.Context) error {
	if e.down != nil && e.down() {
		return errors.New("down")
	}
	return nil
}

func (e *wired) Models(context.Context) ([]string, error) { return []string{cmp.Or(e.model, "m")}, nil }
func (e *wired) Version(context.Context) string           { return "test" }
func (e *wired) Name() string                             { return "wired" }

// log is a copy of what was asked.
func (e *wired) log() []asked {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]asked(nil), e.asked...)
}

// failure is an answer that is none.
func failure(o vllm.Outcome, status int) *vllm.Answer {
	return &vllm.Answer{Outcome: o, Status: status, Code: "test", Err: errors.New("test"), Body: []byte(`{"error":"test"}`)}
}

// takes lets an answer take d, less if ctx ends.
func takes(d time.Duration) func(ctx context.Context, _, _ int) *vllm.Answer {
	return func(ctx context.Context, _, _ int) *vllm.Answer {
		pause(ctx, cmp.Or(d, time.Hour))
		return nil
	}
}

// open counts the requests in flight.
func (e *wired) open() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.inFlight)
}
