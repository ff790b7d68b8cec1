package e2e

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// sinkTurns is how often each kind of sinks is measured: what is looked for is one part of a hundred.
const sinkTurns = 5

// sinkCost is what runners with sinks of one kind did.
type sinkCost struct{ perSecond, cores, exit series } // lines, CPU seconds a second, seconds

// sinks compares runners all of whose telemetry hangs, or is refused, with ones that have none, in turns: the lines/s of an engine
// that is always busy and little else, as a GPU is, the CPU time, and how long they take to end. The logs go through the same proxy.
func (b *bench) sinks(t *testing.T) {
	const n, tokens, scale = 3840, 100, 0.5 // 22 s a turn: a push, parts of the logs and spans are due in each
	p := newParts(t)
	e := p.simulate(scale)
	plain := p.env
	kinds := []sinkKind{sinksWork, sinksHang, sinksRefuse}
	broken, costs := map[sinkKind]sinks{}, map[sinkKind]*sinkCost{}
	for _, kind := range kinds {
		broken[kind], costs[kind] = p.brokenSinks(kind), &sinkCost{}
	}
	for turn := range sinkTurns {
		for i := range kinds {
			kind := kinds[(turn+i)%len(kinds)] // nobody is always the first
			p.env = broken[kind].env(plain)
			if kind == sinksWork {
				p.env = append(plain[:len(plain):len(plain)], "AWS_ENDPOINT_URL="+broken[kind].s3, "AWS_ENDPOINT_URL_S3="+broken[kind].s3, "ENABLE_PROMETHEUS=false")
			}
			costs[kind].measure(t, p, e, fmt.Sprintf("in/sinks/%d-%s.jsonl", turn, kind), n, tokens)
		}
	}
	broken[sinksHang].wantReached(t)
	none := costs[sinksWork]
	for _, kind := range kinds[1:] {
		c, name := costs[kind], map[sinkKind]string{sinksHang: "hanging", sinksRefuse: "refusing"}[kind]
		b.judge("lines/s with all sinks "+name+" / with none", c.perSecond.by(none.perSecond).median(), "x", atLeast(0.99), 1,
			"median of %d pairs; lines/s: %s; none %s", sinkTurns, c.perSecond, none.perSecond)
		b.add("CPU with all sinks "+name+", less that with none", c.cores.median()-none.cores.median(), "cores", 0, "%s; none %s", c.cores, none.cores)
		b.judge("seconds to the exit of a runner with all sinks "+name, slices.Max(c.exit), "s", atMost(10), none.exit.median(),
			"the longest; all: %s; none %s", c.exit, none.exit)
	}
	b.watcherExit(t, p, broken[sinksHang].env(plain))
}

// measure has a runner of its own do one file, and end.
func (c *sinkCost) measure(t *testing.T, p parts, e *simulated, key string, n, tokens int) {
	t.Helper()
	before := e.Counts()
	r := p.runner(e.engine, "--idle", "4s")
	input := &lines{prompts: prompts(), maxTokens: func(i int) int {
		if i%(n/3) == 0 {
			return 10_000_000 // refused, so that Sentry is told of something
		}
		return tokens
	}, fixed: true}
	p.upload(key, n, input)
	done := p.wait(key, 1)[0]
	used := cpu(r.Process.Pid)
	if done.RequestCounts.Completed != int64(n-3) || done.RequestCounts.Failed != 3 {
		t.Errorf("%s ended with %+v, want 3 of %d lines refused", key, done.RequestCounts, n)
	}
	code, took := r.left(t)
	if code != 0 {
		t.Errorf("the runner of %s ended with %d", key, code)
	}
	after := e.Counts()
	active := after.ActiveSeconds - before.ActiveSeconds
	c.perSecond = append(c.perSecond, float64(n)/active)
	c.cores = append(c.cores, used/active)
	c.exit = append(c.exit, took.Seconds())
	t.Logf("%s: %.2f lines/s, %.3f cores, %.2f s to the exit", key, float64(n)/active, used/active, took.Seconds())
}

// watcherExit is how long a watcher takes to end whose sinks hang.
func (b *bench) watcherExit(t *testing.T, p parts, env []string) {
	t.Helper()
	p.pause()
	p.env = env
	var exit series
	for turn := range sinkTurns {
		w := p.start("watch", "watch", "--scan-every", "1s")
		key := fmt.Sprintf("in/sinks/bad-%d.jsonl", turn)
		p.put(p.write("bad.jsonl", strings.Repeat("no JSON\n", turn+1)), key, nil)
		p.wait(key, 1)
		asked := time.Now()
		w.signal(syscall.SIGTERM)
		if code := w.ended(t); code != 0 {
			t.Errorf("the watcher ended with %d", code)
		}
		exit = append(exit, time.Since(asked).Seconds())
	}
	b.judge("seconds to the exit of a watcher with all sinks hanging", slices.Max(exit), "s", atMost(10), 0, "the longest; all: %s", exit)
}
