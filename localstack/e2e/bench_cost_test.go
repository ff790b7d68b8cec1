package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"spool/localstack"
	"spool/storage"
	"spool/storage/batch"
	"spool/storage/finalize"
	"spool/storage/s3store"
)

// validation runs the benchmarks of storage/batch/jsonl, which measure CPU time against what they name, and takes
// their figures.
func (b *bench) validation(t *testing.T) {
	figures := microbench(t, "spool/storage/batch/jsonl", "^Benchmark(Check|Dups)$")
	for _, kind := range []string{"short", "long", "tools"} {
		f := figures["Check/"+kind]
		note := fmt.Sprintf("%s MB/s, %s with reading", digits(f["MB/s"]), digits(f["MB/s_with_Reader"]))
		b.judge("validation / newline scan, "+kind, f["x_newlines"], "x", atLeast(0.05), 1, "%s", note)
		b.judge("validation / encoding/json, "+kind, f["x_encoding_json"], "x", atLeast(8), 0, "%s", note)
	}
	dups := figures["Dups"]
	b.judge("duplicate check, 10 M ids: memory", dups["B/id"], "B/id", atMost(32), 8, "all that is allocated; a hash has 8 bytes")
	b.add("duplicate check, 10 M ids: time", dups["ns/id"], "ns/id", dups["ns/id_hash"], "limit: hashing alone")
}

// microbench runs benchmarks of a package, and gives what each reports by unit.
func microbench(t *testing.T, pkg, pattern string) map[string]map[string]float64 {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "test", "-run", "^$", "-bench", pattern, "-benchtime", "1x", pkg).CombinedOutput()
	if err != nil {
		t.Fatalf("go test -bench: %v\n%s", err, out)
	}
	found := make(map[string]map[string]float64)
	sc := bufio.NewScanner(bytes.NewReader(out))
	for sc.Scan() { // BenchmarkCheck/short-2  5  0 ns/op  1830 MB/s
		f := strings.Fields(sc.Text())
		if len(f) < 4 || !strings.HasPrefix(f[0], "Benchmark") {
			continue
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(f[0], "Benchmark"), "-")
		found[name] = make(map[string]float64)
		for i := 2; i+1 < len(f); i += 2 {
			if found[name][f[i+1]], err = strconv.ParseFloat(f[i], 64); err != nil {
				t.Fatalf("%v in %q", err, sc.Text())
			}
		}
	}
	if len(found) == 0 {
		t.Fatalf("no benchmark ran:\n%s", out)
	}
	return found
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
	e := &engine{s: s, url: "unix://" + socketPath(s.t)}
	e.process = s.start("vllmsim", append([]string{"vllmsim", "--listen", e.url}, args...)...)
	return e
}

// socketPath is a path that is short: a socket's has at most 107 bytes.
func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "spool-sim-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "v.sock")
}

// turns is how often what is compared is measured, each in turn with the others.
const turns = 3

// watcher compares the CPU time in which the watcher validates and stages a file with that of a plain GET of it, by
// the same client of S3.
func (b *bench) watcher(t *testing.T) {
	const n = 300_000
	p := newParts(t)
	var ours, plain, speed series
	for turn := range turns {
		key := fmt.Sprintf("in/watch/%d.jsonl", turn)
		before := cpu(p.watcher)
		size := p.upload(key, n, newLines(12))
		uploaded := time.Now()
		p.within(10*time.Minute, key+" is planned", func() bool { return p.planned(key) != "" })
		gb := float64(size) / 1e9
		speed = append(speed, gb*1e3/time.Since(uploaded).Seconds())
		ours = append(ours, (cpu(p.watcher)-before)/gb)
		plain = append(plain, plainGet(t, p.bucket, key)/gb)
	}
	b.add("watcher (validate, stage) / plain GET", ours.median()/plain.median(), "x CPU", 1,
		"CPU s/GB: %s; GET %s; MB/s: %s", ours, plain, speed)
}

// planned is the id of an input's batch, "" until its plan is there.
func (s *stack) planned(key string) string {
	s.t.Helper()
	obj, err := s.bucket.Head(s.t.Context(), key)
	if err != nil {
		s.t.Fatal(err)
	}
	id := batch.Identity{Bucket: "spool", Key: key, ETag: obj.ETag, Size: obj.Size}.ID()
	_, err = s.bucket.Head(s.t.Context(), batch.PlanKey(id))
	if err != nil && !storage.IsNotFound(err) {
		s.t.Fatal(err)
	}
	if err != nil {
		return ""
	}
	return id
}

// plainGet is the CPU time in which an object is read.
func plainGet(t *testing.T, bucket storage.Bucket, key string) float64 {
	t.Helper()
	runtime.GC()
	before := cpu(os.Getpid())
	body, _, err := bucket.Get(t.Context(), key, storage.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if _, err := io.Copy(io.Discard, body); err != nil {
		t.Fatal(err)
	}
	return cpu(os.Getpid()) - before
}

// output compares the CPU time in which a batch is finalised with that of an upload of the same output.
func (b *bench) output(t *testing.T) {
	const n = 100_000
	p := newParts(t)
	p.runner(p.quiet("--time-scale", "0"), "--idle", "60s")
	p.upload("in/output.jsonl", n, newLines(100))
	o := p.complete("in/output.jsonl", n)
	p.until("the batch is closed", func() bool {
		_, err := p.bucket.Head(t.Context(), batch.ResultKey(o.ID))
		return err == nil
	})
	store, err := s3store.New(t.Context(), s3store.Config{Bucket: "spool", Region: "us-east-1", Endpoint: p.stack.s3})
	if err != nil {
		t.Fatal(err)
	}
	var plan batch.Plan
	if err := json.Unmarshal(p.get(batch.PlanKey(o.ID)), &plan); err != nil {
		t.Fatal(err)
	}
	text := p.get(*o.OutputFileID)
	p.pause()
	var ours, plain series
	for range turns {
		before := cpu(os.Getpid())
		if _, err := store.Upload(t.Context(), "out/plain", bytes.NewReader(text), storage.PutOptions{Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		plain = append(plain, cpu(os.Getpid())-before)
		for _, key := range []string{*o.OutputFileID, batch.OutDir("in/output.jsonl", o.ID) + batch.ObjectName, batch.ResultKey(o.ID)} {
			if err := store.Delete(t.Context(), key); err != nil {
				t.Fatal(err)
			}
		}
		before = cpu(os.Getpid())
		result, err := finalize.New(finalize.Config{Bucket: p.bucket, By: "bench"}).Try(t.Context(), &plan)
		if result == nil || err != nil {
			t.Fatalf("finalise: %v, %v", result, err)
		}
		ours = append(ours, cpu(os.Getpid())-before)
	}
	if !bytes.Equal(p.get(*o.OutputFileID), text) {
		t.Error("the output is another one when it is made again")
	}
	gb := float64(len(text)) / 1e9
	b.add("output assembly / plain PUT", ours.median()/plain.median(), "x CPU", 1, "CPU s for %.3f GB: %s; PUT %s", gb, ours, plain)
}

// pause stops the watcher to the end of the test, so that it does not do what the test does.
func (p parts) pause() {
	p.t.Helper()
	if err := syscall.Kill(p.watcher, syscall.SIGSTOP); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = syscall.Kill(p.watcher, syscall.SIGCONT) })
}

// windows are slots, and what is in flight for them.
var windows = []struct{ slots, window int }{{51, 64}, {205, 257}, {819, 1024}, {3277, 4097}}

// clientTurns are many, since what is left of a ratio to 1 is about as large as what other guests of a machine change from
// one turn to the next; each is held against its neighbour.
const clientTurns = 9

// client compares the CPU time of the runner with that of a loop that does nothing but ask the same engine.
func (b *bench) client(t *testing.T) {
	for _, w := range windows {
		t.Run(strconv.Itoa(w.window), func(t *testing.T) {
			n := max(30_000, 15*w.window)
			p := newParts(t)
			e := p.quiet("--time-scale", "0", "--slots", strconv.Itoa(w.slots))
			r := p.runner(e, "--idle", "10m", "--slots", strconv.Itoa(w.slots)).Process.Pid
			bareLoop(t, e, 2*w.window, w.window) // the engine has its connections
			p.upload("in/cost/warm.jsonl", 2*w.window, newLines(12))
			p.complete("in/cost/warm.jsonl", 2*w.window)
			var ours, bare series
			for turn := range clientTurns {
				bare = append(bare, bareLoop(t, e, n, w.window)*1e6/float64(n))
				before := cpu(r)
				key := fmt.Sprintf("in/cost/%d.jsonl", turn)
				p.upload(key, n, newLines(12))
				p.complete(key, n)
				ours = append(ours, (cpu(r)-before)*1e6/float64(n))
			}
			b.judge(fmt.Sprintf("CPU a request / bare net/http, %d in flight", w.window), ours.by(bare).median(), "x",
				atMost(1.15), 1, "%s; µs: %s; bare %s", ours.by(bare), ours, bare)
		})
	}
}

// bareLoop asks n requests and gives the seconds of CPU that it took: net/http with a time-out, and nothing done with
// the answers.
func bareLoop(t *testing.T, e *engine, n, concurrency int) float64 {
	t.Helper()
	l := newLines(12)
	bodies := make([][]byte, 1000)
	for i := range bodies {
		bodies[i] = l.body(nil, i)
	}
	client := socketClient(e.url, concurrency)
	defer client.CloseIdleConnections()
	e.s.until("the engine answers", func() bool { return ask(t.Context(), client, bodies[0]) == nil })
	runtime.GC()
	before := cpu(os.Getpid())
	if err := askAll(t.Context(), client, n, concurrency, func(i int) []byte { return bodies[i%1000] }); err != nil {
		t.Fatal(err)
	}
	return cpu(os.Getpid()) - before
}

// askAll asks n requests, so many at once.
func askAll(ctx context.Context, client *http.Client, n, concurrency int, body func(i int) []byte) error {
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for range concurrency {
		g.Go(func() error {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				err := ask(ctx, client, body(int(i)))
				for again := 0; errors.Is(err, errConnection) && again < 3; again++ { // as the server closed it while it was idle
					err = ask(ctx, client, body(int(i)))
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// errConnection says that there was no answer at all.
var errConnection = errors.New("connection")

func ask(ctx context.Context, client *http.Client, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://engine/v1/chat/completions", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("%w: %w", errConnection, err)
	}
	answer, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || len(answer) == 0) {
		err = fmt.Errorf("status %d: %.200s", resp.StatusCode, answer)
	}
	return errors.Join(err, resp.Body.Close())
}

// socketClient is net/http on a socket. It closes connections that rest before vLLM does, and dials again if the
// socket's backlog is full, as the runner does.
func socketClient(url string, idle int) *http.Client {
	path := strings.TrimPrefix(url, "unix://")
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		for {
			conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
			if !errors.Is(err, syscall.EAGAIN) {
				return conn, err
			}
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-time.After(time.Millisecond):
			}
		}
	}
	return &http.Client{Transport: &http.Transport{
		MaxIdleConns: idle, MaxIdleConnsPerHost: idle, IdleConnTimeout: 3 * time.Second, DisableCompression: true, DialContext: dial,
	}}
}

// TestProfile records where the runner, with 4,097 requests in flight, and the watcher, while it validates and stages 160 MB,
// spend their time and what they allocate, each from its start to its end, in the folder that SPOOL_BENCH_PROFILE names.
//
//	make profile
func TestProfile(t *testing.T) {
	dir := os.Getenv("SPOOL_BENCH_PROFILE")
	if dir == "" {
		t.Skip("takes a minute: make profile")
	}
	plain := spool
	t.Cleanup(func() { spool = plain })
	spool = filepath.Join(t.TempDir(), "spool")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-tags", "profile", "-o", spool, "spool/cmd/spool").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	const n = 300_000
	t.Run("Runner", func(t *testing.T) {
		slots := strconv.Itoa(windows[len(windows)-1].slots)
		p := newParts(t)
		e := p.quiet("--time-scale", "0", "--slots", slots)
		p.env = append(p.env, "SPOOL_PROFILE="+dir)
		p.runner(e, "--idle", "10m", "--slots", slots)
		p.upload("in/profile.jsonl", n, newLines(12))
		p.complete("in/profile.jsonl", n)
	})
	t.Run("Watcher", func(t *testing.T) {
		s := emptyStack(t)
		stack, err := localstack.Start(t.Context(), localstack.Config{Dir: filepath.Join(s.dir, "data"), Exe: spool}, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { stack.Close() })
		s.at(stack.Endpoints.S3, stack.Endpoints.SQS)
		s.env = append(s.env, "SPOOL_PROFILE="+dir)
		s.start("watch", "watch", "--create-queues", "--scan-every", "5s")
		s.ready()
		s.upload("in/profile.jsonl", n, newLines(12))
		s.within(10*time.Minute, "the file is planned", func() bool { return s.planned("in/profile.jsonl") != "" })
	})
}
