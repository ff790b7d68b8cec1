package e2e

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"

	"spool/runner/vllm/vllmsim"
	"spool/storage"
	"spool/storage/batch"
)

// TestMeasure prints what a run costs, as one table. It fails where a result is wrong, not where a figure is bad: the
// machine may be busy, so each figure stands beside the load. SPOOL_MEASURE_LINES makes the large file smaller than a
// million lines.
//
//	SPOOL_MEASURE=1 go test -run Measure -timeout 2h -v ./localstack/e2e
func TestMeasure(t *testing.T) {
	if os.Getenv("SPOOL_MEASURE") == "" {
		t.Skip("takes minutes: set SPOOL_MEASURE=1")
	}
	m := &measure{large: 1_000_000}
	if n, err := strconv.Atoi(os.Getenv("SPOOL_MEASURE_LINES")); err == nil {
		m.large = n
	}
	t.Run("Size", m.size)
	t.Run("Drop", m.drop)
	t.Run("ColdDrop", m.coldDrop)
	t.Run("ManySmallFiles", m.manySmallFiles)
	t.Run("TenBehindMany", m.tenBehindMany)
	t.Run("ClientCost", m.clientCost)
	t.Run("Occupancy", m.occupancy)
	t.Log("\n" + m.table())
}

// measure collects figures.
type measure struct {
	large   int // lines
	figures []figure
}

type figure struct{ name, value, goal, load string }

func (m *measure) add(name, value, goal string) {
	load, _, _ := strings.Cut(strings.TrimSpace(procFile("loadavg")), " ")
	m.figures = append(m.figures, figure{name, value, goal, load})
}

func (m *measure) table() string {
	var buf bytes.Buffer
	w := tabwriter.NewWriter(&buf, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "figure\tvalue\tgoal\tload") //nolint:errcheck // a buffer never fails, here and below
	for _, f := range m.figures {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", f.name, f.value, f.goal, f.load) //nolint:errcheck
	}
	w.Flush() //nolint:errcheck
	return buf.String()
}

// parts are the processes of a stack that are measured.
type parts struct {
	*stack
	watcher, s3, local int // process ids
}

func newParts(t *testing.T) parts {
	t.Helper()
	s := emptyStack(t)
	pid := s.local("--runners", "0").Process.Pid
	return parts{stack: s, local: pid, watcher: childOf(t, pid, "watch"), s3: childOf(t, pid, "local-s3")}
}

// quiet is an engine without a ledger, which a million requests would wait for.
func (s *stack) quiet(args ...string) *engine {
	s.t.Helper()
	dir, err := os.MkdirTemp("", "spool-sim-")
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { os.RemoveAll(dir) })
	e := &engine{s: s, url: "unix://" + filepath.Join(dir, "v.sock")}
	e.process = s.start("vllmsim", append([]string{"vllmsim", "--listen", e.url}, args...)...)
	return e
}

// size compares memory for a small and a large file, and measures the large one's way through.
func (m *measure) size(t *testing.T) {
	type peak struct{ watcher, runner float64 }
	peaks := make(map[int]peak)
	for _, n := range []int{1000, m.large} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			p := newParts(t)
			e := p.quiet("--time-scale", "0")
			r := p.runner(e, "--idle", "60s")
			before := cpus(p.watcher, p.s3, p.local)
			start := time.Now()
			p.upload("in/size.jsonl", n, 12)
			uploaded := time.Since(start)
			p.ended("in/size.jsonl", n)
			took := time.Since(start) - uploaded
			peaks[n] = peak{peakRSS(p.watcher), peakRSS(r.Process.Pid)}
			if n == m.large {
				used := cpus(p.watcher, p.s3, p.local)
				m.add(fmt.Sprintf("%d lines, uploaded to batch.json", n), took.Round(100*time.Millisecond).String(), "")
				m.add("  lines/s", fmt.Sprintf("%.0f", float64(n)/took.Seconds()), "")
				m.add("  CPU s: runner", fmt.Sprintf("%.1f", cpu(r.Process.Pid)), "")
				m.add("  CPU s: watcher, S3, SQS", fmt.Sprintf("%.1f, %.1f, %.1f", used[0]-before[0], used[1]-before[1], used[2]-before[2]), "")
				m.add("  CPU s: engine", fmt.Sprintf("%.1f", cpu(e.Process.Pid)), "")
			}
		})
	}
	small, large := peaks[1000], peaks[m.large]
	m.add(fmt.Sprintf("peak RSS of runner, 1000 and %d lines", m.large), fmt.Sprintf("%.1f, %.1f MiB (%+.0f %%)", small.runner, large.runner, 100*(large.runner/small.runner-1)), "±10 %")
	m.add(fmt.Sprintf("peak RSS of watcher, 1000 and %d lines", m.large), fmt.Sprintf("%.1f, %.1f MiB (%+.0f %%, %+.1f B a line)", small.watcher, large.watcher,
		100*(large.watcher/small.watcher-1), (large.watcher-small.watcher)*(1<<20)/float64(m.large-1000)), "±10 %, or 32 B a line")
}

// drop is how long a runner that waits takes to ask for the first line of a file.
func (m *measure) drop(t *testing.T) {
	p := newParts(t)
	e := p.engine("--time-scale", "0")
	p.runner(e, "--idle", "60s")
	took := make([]time.Duration, 20)
	for i := range took {
		took[i] = p.firstAsked(e, fmt.Sprintf("in/drop/%d.jsonl", i))
	}
	m.add("drop to first request, runner waits", spread(took), "")
}

// coldDrop is the same where `spool local` has to start the runner.
func (m *measure) coldDrop(t *testing.T) {
	s := emptyStack(t)
	e := s.engine("--time-scale", "0")
	s.local("--runners", "1", "--idle", "1s", "--engine-url", e.url)
	took := make([]time.Duration, 5)
	for i := range took {
		took[i] = s.firstAsked(e, fmt.Sprintf("in/cold/%d.jsonl", i))
		s.until("the runner has gone", func() bool {
			log, _ := os.ReadFile(filepath.Join(s.dir, "data", "logs", fmt.Sprintf("runner-%d.log", i+1)))
			return bytes.Contains(log, []byte("runner_ended"))
		})
	}
	m.add("drop to first request, runner is started", spread(took), "")
}

// firstAsked drops a file of one line, waits until its batch has ended, and tells when its line was asked.
func (s *stack) firstAsked(e *engine, key string) time.Duration {
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
	return time.Unix(0, entries[0].Time).Sub(dropped)
}

// manySmallFiles is the time that 200 rejected and 200 tiny files take together.
func (m *measure) manySmallFiles(t *testing.T) {
	p := newParts(t)
	e := p.engine("--time-scale", "0")
	r := p.runner(e, "--idle", "60s")
	before := cpus(p.watcher, p.s3, p.local, r.Process.Pid)
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
	after := cpus(p.watcher, p.s3, p.local, r.Process.Pid)
	if n := e.count(vllmsim.Asked); n != 600 {
		t.Errorf("the engine was asked %d times, want 600", n)
	}
	m.add("200 rejected and 200 tiny files, last upload to last batch.json", took.Round(10*time.Millisecond).String(), "")
	m.add("  CPU s: watcher, S3, SQS, runner", fmt.Sprintf("%.1f, %.1f, %.1f, %.1f",
		after[0]-before[0], after[1]-before[1], after[2]-before[2], after[3]-before[3]), "")
}

// tenBehindMany drops ten lines while the only runner works on a large file.
func (m *measure) tenBehindMany(t *testing.T) {
	p := newParts(t)
	e := p.quiet()
	p.runner(e, "--idle", "60s")
	ten := p.write("ten.jsonl", requests("ten", 10, 5)...)
	end := func(key string) time.Duration {
		start := time.Now()
		p.put(ten, key, nil)
		p.ended(key, 10)
		return time.Since(start)
	}
	idle := end("in/idle.jsonl")
	p.upload("in/large.jsonl", m.large, 0)
	validated := end("in/validated.jsonl")
	p.within(10*time.Minute, "the slots are full", func() bool { return e.counts().Running == 256 })
	worked := end("in/worked.jsonl")
	if n := len(p.batches("in/large.jsonl")); n != 0 {
		t.Error("the large file ended first")
	}
	round := func(d time.Duration) string { return d.Round(10 * time.Millisecond).String() }
	m.add("ten lines, drop to batch.json: nothing else to do", round(idle), "")
	m.add(fmt.Sprintf("  while %d lines are validated", m.large), round(validated), "")
	m.add(fmt.Sprintf("  while %d lines are worked on", m.large), round(worked), "")
}

// clientCost compares the CPU time of the runner with that of a loop that does nothing but ask the same engine.
func (m *measure) clientCost(t *testing.T) {
	const n, concurrency = 100_000, 320 // the runner's window
	for _, scale := range []string{"0", "0.1"} {
		p := newParts(t)
		e := p.quiet("--time-scale", scale)
		bare := bareClient(t, e, n, concurrency)
		r := p.runner(e, "--idle", "60s")
		p.upload("in/cost.jsonl", n, 12)
		p.ended("in/cost.jsonl", n)
		used := cpu(r.Process.Pid)
		m.add("CPU µs a line at time scale "+scale+": bare loop, runner", fmt.Sprintf("%.1f, %.1f (%.2f×)", bare*1e6/n, used*1e6/n, used/bare), "1.15×")
	}
}

// bareClient asks n requests and gives the seconds of CPU that it took: net/http with a time-out, and nothing
// done with the answers.
func bareClient(t *testing.T, e *engine, n, concurrency int) float64 {
	t.Helper()
	lines := newLines(12)
	bodies := make([][]byte, 1000)
	for i := range bodies {
		var l inLine
		if err := json.Unmarshal(lines.append(nil, i), &l); err != nil {
			t.Fatal(err)
		}
		bodies[i] = l.Body
	}
	client := e.client(concurrency)
	defer client.CloseIdleConnections()
	e.s.until("the engine answers", func() bool { return e.ready(client) })
	before := cpu(os.Getpid())
	var next atomic.Int64
	var g errgroup.Group
	for range concurrency {
		g.Go(func() error {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				if err := ask(t.Context(), client, bodies[i%1000]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	return cpu(os.Getpid()) - before
}

func ask(ctx context.Context, client *http.Client, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://engine/v1/chat/completions", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	answer, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || len(answer) == 0) {
		err = fmt.Errorf("status %d: %.200s", resp.StatusCode, answer)
	}
	return errors.Join(err, resp.Body.Close())
}

// occupancy is how much of the slots' time is used over a job whose answers have the lengths of real ones.
func (m *measure) occupancy(t *testing.T) {
	const n = 20_000
	p := newParts(t)
	e := p.quiet("--time-scale", "0.05")
	p.runner(e, "--idle", "60s")
	p.upload("in/tail.jsonl", n, 0)
	var first, last vllmsim.Counts
	var full, empty time.Time
	p.within(10*time.Minute, "the slots are full", func() bool {
		first, full = e.counts(), time.Now()
		return first.Running == 256
	})
	p.within(10*time.Minute, "the last line is asked", func() bool {
		c := e.counts()
		if c.Asked < n && c.Running > 0 {
			last, empty = c, time.Now()
		}
		return c.Asked >= n
	})
	p.ended("in/tail.jsonl", n)
	all := e.counts()
	m.add("slots busy: from the first fill to the last line asked", fmt.Sprintf("%.2f %%", 100*(last.SlotSeconds-first.SlotSeconds)/256/empty.Sub(full).Seconds()), "≥ 99 %")
	m.add(fmt.Sprintf("  over all of %d lines", n), fmt.Sprintf("%.2f %% of %.1f s", 100*all.SlotSeconds/256/all.ActiveSeconds, all.ActiveSeconds), "≥ 97 % of 100 k lines")
}

// lines makes input lines of some 550 bytes of the example's questions.
type lines struct {
	prompts   []string
	maxTokens int
}

func newLines(maxTokens int) *lines { return &lines{prompts: prompts(), maxTokens: maxTokens} }

var prompts = sync.OnceValue(func() []string { //nolint:gochecknoglobals // read once
	text, err := os.ReadFile("../../examples/gsm8k.jsonl")
	if err != nil {
		panic(err)
	}
	var list []string
	for line := range bytes.Lines(text) {
		_, rest, _ := bytes.Cut(line, []byte(`"messages":`))
		messages, _, ok := bytes.Cut(rest, []byte(`, "max_tokens"`))
		if !ok {
			panic(fmt.Sprintf("examples/gsm8k.jsonl has another form: %s", line))
		}
		list = append(list, string(messages))
	}
	return list
})

// append appends line i, with its newline.
func (l *lines) append(dst []byte, i int) []byte {
	dst = fmt.Appendf(dst, `{"custom_id":"measure-%08d","method":"POST","url":"/v1/chat/completions","body":{"model":"default","messages":%s`, i, l.prompts[i%len(l.prompts)])
	if l.maxTokens > 0 {
		dst = fmt.Appendf(dst, `,"max_tokens":%d`, l.maxTokens)
	}
	return fmt.Appendf(dst, `,"temperature":0,"user":"%032d"}}`+"\n", i)
}

// upload streams n lines to a key; maxTokens 0 leaves the lengths of the answers to the engine.
func (s *stack) upload(key string, n, maxTokens int) {
	s.t.Helper()
	r, w := io.Pipe()
	l := newLines(maxTokens)
	go func() {
		var buf []byte
		for i := range n {
			if buf = l.append(buf, i); len(buf) > 1<<20 || i == n-1 {
				if _, err := w.Write(buf); err != nil {
					return
				}
				buf = buf[:0]
			}
		}
		w.Close()
	}()
	defer r.Close()
	if _, err := s.bucket.Upload(s.t.Context(), key, r, storage.PutOptions{}); err != nil {
		s.t.Fatal(err)
	}
}

// ended waits for the one batch of an input and checks that all its lines have answers.
func (s *stack) ended(key string, n int) {
	s.t.Helper()
	pause := 20 * time.Millisecond
	if n > 1000 {
		pause = 500 * time.Millisecond // looking costs the store something, too
	}
	var found []batch.Object
	var looked time.Time
	s.within(40*time.Minute, key+" has ended", func() bool {
		if time.Since(looked) < pause {
			return false
		}
		looked = time.Now()
		found = s.batches(key)
		return len(found) > 0
	})
	if c := found[0].RequestCounts; c.Completed != int64(n) || c.Total != int64(n) {
		s.t.Errorf("%s ended with %+v, want %d lines completed", key, c, n)
	}
}

// client is net/http on the engine's socket.
func (e *engine) client(idle int) *http.Client {
	path := strings.TrimPrefix(e.url, "unix://")
	return &http.Client{Transport: &http.Transport{
		MaxIdleConns: idle, MaxIdleConnsPerHost: idle, DisableCompression: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		},
	}}
}

func (e *engine) ready(client *http.Client) bool {
	return ask(e.s.t.Context(), client, []byte(`{"model":"default","messages":[{"role":"user","content":"?"}],"max_tokens":1}`)) == nil
}

// counts asks the engine what it has done.
func (e *engine) counts() vllmsim.Counts {
	e.s.t.Helper()
	client := e.client(1)
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(e.s.t.Context(), http.MethodGet, "http://engine/sim/ledger", nil)
	if err != nil {
		e.s.t.Fatal(err)
	}
	var c vllmsim.Counts
	resp, err := client.Do(req)
	if err != nil {
		return c // it is starting
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&c); err != nil {
		e.s.t.Fatal(err)
	}
	return c
}

// cpu is the CPU time of a process, in seconds; the kernel counts in hundredths.
func cpu(pid int) float64 {
	if pid == os.Getpid() {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err == nil {
			return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
		}
	}
	fields := procStat(pid)
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseFloat(fields[11], 64)
	system, _ := strconv.ParseFloat(fields[12], 64)
	return (user + system) / 100
}

func cpus(pids ...int) []float64 {
	list := make([]float64, len(pids))
	for i, pid := range pids {
		list[i] = cpu(pid)
	}
	return list
}

// peakRSS is the most memory that a process had, in MiB.
func peakRSS(pid int) float64 {
	_, rest, _ := strings.Cut(procFile(fmt.Sprintf("%d/status", pid)), "VmHWM:")
	kib, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	n, _ := strconv.ParseFloat(kib, 64)
	return n / 1024
}

// childOf finds the child of a process that runs a command of spool.
func childOf(t *testing.T, parent int, command string) int {
	t.Helper()
	for pid, runs := range children(t, parent) {
		if runs == command {
			return pid
		}
	}
	t.Fatalf("process %d has no child that runs spool %s", parent, command)
	return 0
}

// spread describes durations by median, least and most.
func spread(d []time.Duration) string {
	slices.SortFunc(d, cmp.Compare)
	ms := func(d time.Duration) string { return fmt.Sprintf("%.0f", float64(d)/float64(time.Millisecond)) }
	return fmt.Sprintf("median %s ms (%s to %s, n = %d)", ms(d[len(d)/2]), ms(d[0]), ms(d[len(d)-1]), len(d))
}
