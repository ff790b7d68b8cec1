package e2e

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"spool/localstack"
	"spool/runner/vllm/vllmsim"
	"spool/storage/batch"
)

// grown is what a file of some size cost.
type grown struct {
	lines           int
	seconds         float64 // uploaded to batch.json
	watcher, runner float64 // peak RSS, MiB
	puts, gets      int     // of S3: PUT, POST and LIST; GET and HEAD
	sqs             int
	kinds           string
}

// List prices of us-east-1 in USD a request, as docs/PERFORMANCE.md quotes them: S3 Standard and standard queues.
const (
	usdPut = 0.005 / 1000
	usdGet = 0.0004 / 1000
	usdSQS = 0.40 / 1e6
)

func (g grown) thousands() float64 { return float64(g.lines) / 1000 }
func (g grown) calls() float64     { return float64(g.puts+g.gets+g.sqs) / g.thousands() }
func (g grown) usd() float64 {
	return float64(g.puts)*usdPut + float64(g.gets)*usdGet + float64(g.sqs)*usdSQS
}
func (g grown) usdMillion() float64 { return g.usd() * 1e6 / float64(g.lines) }

// growth takes files of growing size through everything, each with fresh processes.
func (b *bench) growth(t *testing.T) {
	var all []grown
	for n := 1000; n <= b.large; n *= 10 {
		t.Run(fmt.Sprint(n), func(t *testing.T) { all = append(all, grow(t, n)) })
	}
	if len(all) < 2 || t.Failed() {
		t.Fatal("there is nothing to compare")
	}
	small, large := all[0], all[len(all)-1]
	of := fmt.Sprintf("%d and %d lines", small.lines, large.lines)
	b.judge("peak RSS of the runner, large file / small", large.runner/small.runner, "x", atMost(1.1), 1,
		"%s: %.1f and %.1f MiB", of, small.runner, large.runner)
	b.judge("peak RSS of the watcher, above 1.1 x that of the small file", max(0, large.watcher-1.1*small.watcher)*(1<<20)/float64(large.lines),
		"B/line", atMost(32), 8, "%s: %.1f and %.1f MiB", of, small.watcher, large.watcher)
	for _, g := range all {
		b.add(fmt.Sprintf("S3 and SQS calls per 1,000 lines, %d lines", g.lines), g.calls(), "calls", 0,
			"S3: %d PUT, POST, LIST, %d GET, HEAD; SQS: %d: %s", g.puts, g.gets, g.sqs, g.kinds)
	}
	b.add("  growth from 10,000 lines", large.calls()/all[1].calls(), "x", 1, "calls per 1,000 lines, of %d and 10,000 lines", large.lines)
	b.add("S3 and SQS requests", large.usdMillion(), "USD/1 M lines", 0, "at %g USD a PUT, %g a GET, %g a call of SQS", usdPut, usdGet, usdSQS)
	b.add(fmt.Sprintf("%d lines, uploaded to batch.json", large.lines), large.seconds, "s", 0, "%.0f lines/s, engine, S3 and SQS on the same machine", float64(large.lines)/large.seconds)
	b.save(t, "growth.svg", growthPlot(all))
}

// grow takes one file through a stack of its own, with a counter before each server.
func grow(t *testing.T, n int) grown {
	s := emptyStack(t)
	stack, err := localstack.Start(t.Context(), localstack.Config{Dir: filepath.Join(s.dir, "data"), Exe: spool}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stack.Close() })
	direct := *s // for the test itself: it goes past the counters
	direct.at(stack.Endpoints.S3, stack.Endpoints.SQS)
	s3, sqs := newCounter(t, stack.Endpoints.S3), newCounter(t, stack.Endpoints.SQS)
	s.at(s3.url, sqs.url)
	w := s.start("watch", "watch", "--create-queues", "--scan-every", "30s").Process.Pid
	s.ready()
	e := s.quiet("--time-scale", "0")
	r := s.runner(e, "--idle", "10m").Process.Pid
	direct.upload("in/size.jsonl", n, newLines(12))
	s3.reset()
	sqs.reset()
	start := time.Now()
	direct.complete("in/size.jsonl", n)
	g := grown{lines: n, seconds: time.Since(start).Seconds(), watcher: peakRSS(w), runner: peakRSS(r), kinds: s3.String() + "; " + sqs.String()}
	for kind, calls := range s3.counts() {
		switch method, _, _ := strings.Cut(kind, " "); method {
		case "GET", "HEAD":
			g.gets += calls
		case "DELETE": // costs nothing
		default:
			g.puts += calls
		}
	}
	for _, calls := range sqs.counts() {
		g.sqs += calls
	}
	return g
}

// counter is a proxy that counts requests.
type counter struct {
	url string

	mu sync.Mutex
	n  map[string]int
}

func newCounter(t *testing.T, target string) *counter {
	t.Helper()
	to, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	c := &counter{n: make(map[string]int)}
	proxy := &httputil.ReverseProxy{
		// The Host stays, because signatures cover it.
		Rewrite:   func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = to.Scheme, to.Host },
		Transport: &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true},
		ErrorLog:  zap.NewStdLog(zap.NewNop()), // clients that end hang up
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.count(kindOf(r))
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	c.url = server.URL
	return c
}

// kindOf names a request: an action of SQS, or a method of S3, where a LIST is one of its own.
func kindOf(r *http.Request) string {
	if target := r.Header.Get("X-Amz-Target"); target != "" {
		return strings.TrimPrefix(target, "AmazonSQS.")
	}
	q := r.URL.Query()
	switch {
	case r.Method == http.MethodGet && q.Has("list-type"):
		return "LIST"
	case q.Has("uploadId") || q.Has("uploads"):
		return r.Method + " of parts"
	}
	return r.Method
}

func (c *counter) count(kind string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n[kind]++
}

func (c *counter) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.n)
}

func (c *counter) counts() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.n)
}

// String lists the counts, the largest first.
func (c *counter) String() string {
	n := c.counts()
	kinds := slices.SortedFunc(maps.Keys(n), func(a, b string) int { return cmp.Or(n[b]-n[a], cmp.Compare(a, b)) })
	var list []string
	for _, kind := range kinds {
		list = append(list, fmt.Sprintf("%s %d", kind, n[kind]))
	}
	return strings.Join(list, ", ")
}

// drop is how long a runner that waits takes to ask for the first line of a file.
func (b *bench) drop(t *testing.T) {
	p := newParts(t)
	e := p.engine("--time-scale", "0")
	p.runner(e, "--idle", "60s")
	var took series
	for i := range 20 {
		took = append(took, p.firstAsked(e, fmt.Sprintf("in/drop/%d.jsonl", i)))
	}
	b.add("drop to first request, a runner waits", took.median(), "ms", 0, "%s", took)
}

// start is the same where `spool local` has to start the runner.
func (b *bench) start(t *testing.T) {
	s := emptyStack(t)
	e := s.engine("--time-scale", "0")
	s.local("--runners", "1", "--idle", "1s", "--engine-url", e.url)
	var took series
	for i := range 5 {
		took = append(took, s.firstAsked(e, fmt.Sprintf("in/cold/%d.jsonl", i)))
		s.until("the runner has gone", func() bool {
			log, _ := os.ReadFile(filepath.Join(s.dir, "data", "logs", fmt.Sprintf("runner-%d.log", i+1)))
			return bytes.Contains(log, []byte("runner_ended"))
		})
	}
	b.add("drop to first request, a runner is started", took.median(), "ms", 0, "%s", took)
}

// firstAsked drops a file of one line, waits until its batch has ended, and tells after how many ms its line was asked.
func (s *stack) firstAsked(e *engine, key string) float64 {
	s.t.Helper()
	path := s.write("drop.jsonl", request("drop", 5))
	asked := len(e.asked())
	s.put(path, key, nil)
	dropped := time.Now()
	s.wait(key, 1)
	entries := e.asked()[asked:]
	if len(entries) == 0 || entries[0].Event != vllmsim.Asked {
		s.t.Fatalf("%s ended, and the engine was asked %+v", key, entries)
	}
	return time.Unix(0, entries[0].Time).Sub(dropped).Seconds() * 1000
}

// small is the time that 200 rejected and 200 tiny files take together.
func (b *bench) small(t *testing.T) {
	p := newParts(t)
	e := p.engine("--time-scale", "0")
	p.runner(e, "--idle", "60s")
	p.dropMany(200)
	start := time.Now()
	var looked time.Time
	p.within(5*time.Minute, "all 400 have ended", func() bool {
		if time.Since(looked) < 250*time.Millisecond { // looking costs the store something, too
			return false
		}
		looked = time.Now()
		n := 0
		for obj, err := range p.bucket.List(t.Context(), "out/many/", "") {
			if err == nil && strings.HasSuffix(obj.Key, "/"+batch.ObjectName) {
				n++
			}
		}
		return n == 400
	})
	took := time.Since(start)
	if n := e.count(vllmsim.Asked); n != 600 {
		t.Errorf("the engine was asked %d times, want 600", n)
	}
	b.add("200 rejected and 200 tiny files", took.Seconds(), "s", 0, "last upload to last batch.json")
}

// behind drops ten lines while the only runner works on a large file.
func (b *bench) behind(t *testing.T) {
	n := b.large
	p := newParts(t)
	e := p.quiet()
	p.runner(e, "--idle", "60s")
	ten := p.write("ten.jsonl", requests("ten", 10, 5)...)
	end := func(key string) float64 {
		start := time.Now()
		p.put(ten, key, nil)
		p.complete(key, 10)
		return time.Since(start).Seconds()
	}
	idle := end("in/idle.jsonl")
	p.upload("in/large.jsonl", n, newLines(0))
	p.within(20*time.Minute, "the slots are full", func() bool { return e.counts().Running == 256 })
	b.add("ten lines behind a large file, drop to batch.json", end("in/worked.jsonl"), "s", idle,
		"%d lines are worked on; limit: nothing else to do", n)
	if n := len(p.batches("in/large.jsonl")); n != 0 {
		t.Error("the large file ended first")
	}
}
