package vllm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"spool/runner/vllm/vllmsim"
)

// running is a Server whose Run is under way.
type running struct {
	*Server
	t    *testing.T
	logs *observer.ObservedLogs
	mark string        // in the environment of all that it starts
	done chan struct{} // closed when Run has returned
	stop func() error  // ends Run and gives what it returned; may be called again
}

// run starts a Server in a folder of its own, and stops it when the test ends: nothing may be left then.
func run(t *testing.T, cfg Config) *running {
	t.Helper()
	core, logs := observer.New(zap.DebugLevel)
	cfg.Log = zap.New(core)
	if cfg.Dir == "" {
		cfg.Dir = shortDir(t)
	}
	r := &running{t: t, logs: logs, mark: "TEST_ID=" + uuid.NewString(), done: make(chan struct{})}
	cfg.Env = append(slices.Clone(cfg.Env), r.mark)
	var err error
	if r.Server, err = NewServer(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var result error
	go func() {
		defer close(r.done)
		result = r.Run(ctx)
	}()
	r.stop = func() error { cancel(); <-r.done; return result }
	t.Cleanup(func() {
		_ = r.stop()
		if left, _ := filepath.Glob(filepath.Join(cfg.Dir, "*")); len(left) > 0 {
			t.Errorf("files left: %q", left)
		}
		r.checkNothingIsLeft()
		if t.Failed() {
			for _, e := range logs.All() {
				t.Log(e.Level, e.LoggerName, e.Message, e.ContextMap())
			}
		}
	})
	return r
}

// shortDir is for sockets: t.TempDir is too long for some.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "v")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// pids are those of the engines that were started.
func (r *running) pids() []int {
	var pids []int
	for _, e := range r.logs.FilterField(zap.String("event", "engine_start")).All() {
		pids = append(pids, int(e.ContextMap()["pid"].(int64)))
	}
	return pids
}

func (r *running) checkNothingIsLeft() {
	for _, q := range processes() {
		dead := q.state == 'Z' && q.parent != os.Getpid() // left to a parent that does not reap
		if !dead && (slices.Contains(r.pids(), q.group) || hasMark(q.pid, r.mark)) {
			r.t.Errorf("process %d of group %d is left", q.pid, q.group)
		}
	}
}

func (r *running) awaitStarts(n int) {
	r.t.Helper()
	eventually(r.t, fmt.Sprintf("%d starts", n), func() bool { s := r.Stats(); return s.Ready && s.Starts == n })
}

// events tells how often each event was logged.
func (r *running) event(name string) []observer.LoggedEntry {
	return r.logs.FilterField(zap.String("event", name)).All()
}

const chatPath = "/v1/chat/completions"

func ask(content string) Request {
	return Request{Path: chatPath, Body: fmt.Appendf(nil, `{"model":"default","messages":[{"role":"user","content":%q}]}`, content)}
}

// start asks in the background; the channel has one answer.
func (r *running) start(content string) <-chan Answer {
	out := make(chan Answer, 1)
	go func() { out <- r.Do(context.Background(), ask(content)) }()
	return out
}

// counts are the engine's own.
func (r *running) counts() (c vllmsim.Counts) {
	if l := r.life.Load(); l != nil {
		_, body, _ := l.client.get(r.t.Context(), "/sim/ledger")
		_ = json.Unmarshal(body, &c) // until it is one
	}
	return c
}

// fault sets the fault plan of the engine that runs.
func (r *running) fault(faults ...vllmsim.Fault) {
	r.t.Helper()
	body, err := json.Marshal(faults)
	if err != nil {
		r.t.Fatal(err)
	}
	if a := r.life.Load().client.Do(r.t.Context(), Request{Path: "/sim/faults", Body: body}); a.Status != http.StatusOK && a.Code != "bad_json" {
		r.t.Fatalf("set faults: %+v %s", a, a.Body)
	}
}

// slow is an engine that answers when the test has ended.
func slow() vllmsim.Config {
	return vllmsim.Config{TokenTime: time.Minute, KeepAlive: time.Hour}
}

// stallLimit of tests leaves a busy machine the time to see what it is about, before it is over.
const stallLimit = 3 * time.Second

func instant() vllmsim.Config { return vllmsim.Config{Instant: true, KeepAlive: time.Hour} }

func TestServerStartsAndStopsAnEngine(t *testing.T) {
	cfg := owned(instant())
	cfg.LoRA = []LoRA{{Name: "l", Path: "/l"}}
	cfg.ServedNames, cfg.BatchedTokens, cfg.MaxQueued = []string{"a", "b"}, 4096, 9
	cfg.Args, cfg.StartLimit = []string{"--max-model-len", "512"}, 7*time.Minute
	r := run(t, cfg)
	if a := r.Do(t.Context(), ask("early")); a.Outcome != Down || a.Died || !errors.Is(a.Err, ErrNotReady) || r.Healthy(t.Context()) == nil {
		t.Errorf("before it is ready: %+v", a)
	}
	r.awaitStarts(1)
	body := ask("hello")
	a := r.Do(t.Context(), body)
	if a.Outcome != OK || a.Usage.Output == 0 {
		t.Fatalf("answer %+v", a)
	}
	if err := (vllmsim.Config{Model: "a", MaxModelLen: 512}).Check(chatPath, body.Body, a.Body); err != nil {
		t.Error(err)
	}
	models, err := r.Models(t.Context())
	if want := []string{"a", "b", "default", "l"}; err != nil || !cmp.Equal(models, want) {
		t.Errorf("models %q, %v, want %q", models, err, want)
	}
	if err := r.Healthy(t.Context()); err != nil || r.Version(t.Context()) != vllmsim.Version || r.Name() != "vllm serve a" {
		t.Errorf("healthy %v, version %q, name %q", err, r.Version(t.Context()), r.Name())
	}
	for _, entry := range []string{"VLLM_HTTP_TIMEOUT_KEEP_ALIVE=300\x00", "VLLM_ENGINE_READY_TIMEOUT_S=421\x00"} { // longer than ours
		if !hasMark(r.pids()[0], entry) {
			t.Errorf("its environment lacks %q", entry)
		}
	}
	rec := r.Record()
	wantArgs := []string{"serve", "m", "--max-num-seqs", "2", "--max-num-batched-tokens", "4096", "--served-model-name", "a", "b", "default", "--enable-lora", "--lora-modules", "l=/l",
		"--shutdown-timeout", "1", "--disable-uvicorn-access-log", "--max-num-queued-reqs", "9", "--max-model-len", "512"}
	if diff := cmp.Diff(wantArgs, rec.Args); diff != "" {
		t.Errorf("arguments (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]int{"a": 512, "b": 512, "default": 512, "l": 512}, rec.Models); diff != "" || rec.LoadSeconds <= 0 || rec.Version != vllmsim.Version {
		t.Errorf("record %+v", rec)
	}
	if err := r.stop(); err != nil {
		t.Errorf("run: %v", err)
	}
	if s := r.Stats(); s.Ready || s.Starts != 1 || s.Deaths != 0 || s.Failures != 0 {
		t.Errorf("stats %+v", s)
	}
	if a := r.Do(t.Context(), ask("late")); a.Outcome != Down || a.Died {
		t.Errorf("after the end: %+v", a)
	}
	if n := len(r.event("engine_killed")); n != 0 {
		t.Errorf("it was killed")
	}
	if lines := r.logs.FilterLoggerName("vllm").FilterMessage("Application startup complete.").All(); len(lines) != 1 || lines[0].ContextMap()["process"] != "APIServer" {
		t.Errorf("its output in the log: %v", lines)
	}
}

func TestRunEndsWhileTheModelLoads(t *testing.T) {
	cfg := owned(vllmsim.Config{LoadTime: time.Hour})
	r := run(t, cfg)
	eventually(t, "it loads", func() bool { return len(r.logs.FilterLoggerName("vllm").All()) > 0 })
	if err := r.stop(); err != nil {
		t.Errorf("run: %v", err)
	}
	if s := r.Stats(); s != (Stats{}) {
		t.Errorf("stats %+v", s)
	}
}

func TestStartsThatFailHaveACause(t *testing.T) {
	for _, c := range []struct {
		name      string
		sim       vllmsim.Config
		change    func(*Config)
		cause     Cause
		detail    string
		permanent bool
		tries     int
	}{
		{"memory", vllmsim.Config{FailStart: vllmsim.FailMemory}, nil, CauseMemory, "ValueError: Free memory on device cuda:0 (1.2/79.1 GiB) on startup is less than", true, 3},
		{"kv cache", vllmsim.Config{FailStart: vllmsim.FailKVCache}, nil, CauseKVCache, "ValueError: To serve at least one request", true, 1},
		{"model", vllmsim.Config{FailStart: vllmsim.FailModel}, nil, CauseModel, "OSError: no/such is not a local folder", true, 1},
		{"access", vllmsim.Config{FailStart: vllmsim.FailAccess}, nil, CauseAccess, "huggingface_hub.errors.GatedRepoError: 401", true, 1},
		{"unknown", vllmsim.Config{FailStart: vllmsim.FailUnknown}, nil, CauseUnknown, "AssertionError: something else", true, 3},
		{"argument", instant(), func(c *Config) { c.Args = []string{"--no-such-flag", "3"} }, CauseArgument, "vllm: error: unrecognized arguments: --no-such-flag 3", true, 1},
		{"time", vllmsim.Config{LoadTime: time.Hour}, func(c *Config) { c.StartLimit = 300 * time.Millisecond }, CauseTimeout, "not ready after 300ms", true, 3},
		{"command", instant(), func(c *Config) { c.Command = []string{"/no/such/vllm"} }, CauseCommand, "start /no/such/vllm: fork/exec /no/such/vllm: no such file or directory", true, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cfg := owned(c.sim)
			cfg.Restarts = 4
			if c.change != nil {
				c.change(&cfg)
			}
			r := run(t, cfg)
			err := r.awaitEnd()
			e, ok := errors.AsType[*StartError](err)
			if !ok {
				t.Fatalf("run: %v", err)
			}
			if e.Cause != c.cause || !strings.HasPrefix(e.Detail, c.detail) || e.Permanent != c.permanent {
				t.Errorf("%s, permanent %v: %q", e.Cause, e.Permanent, e.Detail)
			}
			if errors.Is(err, ErrBudget) != !c.permanent || r.Stats().Failures != c.tries {
				t.Errorf("run: %v after %d tries, want %d", err, r.Stats().Failures, c.tries)
			}
		})
	}
}

func TestOrphansOfAStartThatFailedAreKilledAndTold(t *testing.T) {
	r := run(t, owned(vllmsim.Config{FailStart: vllmsim.FailModel, Orphans: 2}))
	if e, ok := errors.AsType[*StartError](r.awaitEnd()); !ok || e.Cause != CauseModel {
		t.Errorf("run: %v", r.stop())
	}
	if o := r.event("engine_orphans"); len(o) != 1 || o[0].ContextMap()["processes"] != int64(2) {
		t.Errorf("orphans %v, want 2", o)
	}
}

// awaitEnd waits until Run ends by itself.
func (r *running) awaitEnd() error {
	<-r.done
	return r.stop()
}

func TestOptionsThatAnEarlierVersionLacksAreLeftOut(t *testing.T) {
	sim := instant()
	sim.Lacks = []string{"--max-num-queued-reqs", "--shutdown-timeout"}
	cfg := owned(sim)
	cfg.MaxQueued = 4
	r := run(t, cfg)
	r.awaitStarts(1)
	if args := r.Record().Args; slices.Contains(args, "--shutdown-timeout") || slices.Contains(args, "4") || !slices.Contains(args, "--disable-uvicorn-access-log") {
		t.Errorf("arguments %q", args)
	}
	if s := r.Stats(); s.Failures != 1 || len(r.event("engine_restart")) != 0 {
		t.Errorf("stats %+v: a lesson was taken for a death", s)
	}
}

func TestEngineDeathIsNoticedAndTheEngineStartedAgain(t *testing.T) {
	sim := slow()
	sim.Orphans = 2
	cfg := owned(sim)
	r := run(t, cfg)
	r.awaitStarts(1)
	r.fault(vllmsim.Fault{Kind: vllmsim.FaultDie, Match: "poison"})
	innocent := []<-chan Answer{r.start("a"), r.start("b"), r.start("c")}
	eventually(t, "two run and one waits", func() bool { n := r.counts(); return n.Running == 2 && n.Waiting == 1 })
	answers := []Answer{r.Do(t.Context(), ask("poison"))}
	for _, ch := range innocent {
		answers = append(answers, <-ch)
	}
	for i, a := range answers {
		if a.Outcome != Down || !a.Died {
			t.Errorf("request %d: %v %s, died %v, %v", i, a.Outcome, a.Code, a.Died, a.Err)
		}
	}
	r.awaitStarts(2)
	if s := r.Stats(); s.Deaths != 1 || s.Failures != 0 {
		t.Errorf("stats %+v", s)
	}
	if pids := r.pids(); len(pids) != 2 || pids[0] == pids[1] {
		t.Errorf("processes %v", pids)
	}
}

func TestKilledServerIsADeathAndItsOrphansAreKilled(t *testing.T) {
	sim := slow()
	sim.Orphans = 3
	r := run(t, owned(sim))
	r.awaitStarts(1)
	inFlight := []<-chan Answer{r.start("a"), r.start("b")}
	eventually(t, "both run", func() bool { return r.counts().Running == 2 })
	if err := syscall.Kill(r.pids()[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for i, ch := range inFlight {
		if a := <-ch; a.Outcome != Down || !a.Died {
			t.Errorf("request %d: %v %s, died %v, %v", i, a.Outcome, a.Code, a.Died, a.Err)
		}
	}
	r.awaitStarts(2)
	died := r.event("engine_died")
	if len(died) != 1 || !strings.Contains(died[0].ContextMap()["error"].(string), "signal: killed") {
		t.Errorf("deaths %v", died)
	}
	if o := r.event("engine_orphans"); len(o) != 1 || o[0].ContextMap()["processes"] != int64(3) {
		t.Errorf("orphans %v, want 3", o)
	}
}

func TestEngineThatHangsIsKilledAlthoughItIsHealthy(t *testing.T) {
	t.Parallel() // it waits most of the time
	cfg := owned(slow())
	cfg.StallLimit = stallLimit
	r := run(t, cfg)
	r.awaitStarts(1)
	r.fault(vllmsim.Fault{Kind: vllmsim.FaultStall})
	l := r.life.Load()
	stuck := r.start("a")
	eventually(t, "it waits", func() bool { return r.counts().Waiting == 1 })
	if err := l.client.Healthy(t.Context()); err != nil {
		t.Errorf("health: %v, want 200", err)
	}
	if a := <-stuck; a.Outcome != Down || !a.Died {
		t.Errorf("%v %s, died %v, %v", a.Outcome, a.Code, a.Died, a.Err)
	}
	r.awaitStarts(2)
	if died := r.event("engine_died"); len(died) != 1 || !strings.Contains(died[0].ContextMap()["error"].(string), "no token and no answer for") {
		t.Errorf("deaths %v", died)
	}
}

func TestStoppedProcessIsAHang(t *testing.T) {
	t.Parallel() // it waits most of the time
	cfg := owned(slow())
	cfg.StallLimit = stallLimit
	r := run(t, cfg)
	r.awaitStarts(1)
	stuck := r.start("a")
	eventually(t, "it runs", func() bool { return r.counts().Running == 1 })
	if err := syscall.Kill(r.pids()[0], syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if a := <-stuck; a.Outcome != Down || !a.Died {
		t.Errorf("%v %s, died %v, %v", a.Outcome, a.Code, a.Died, a.Err)
	}
	r.awaitStarts(2)
}

func TestTroubleWithARequestIsNoDeath(t *testing.T) {
	r := run(t, owned(instant()))
	r.awaitStarts(1)
	for _, c := range []struct {
		fault vllmsim.Fault
		want  Outcome
		code  string
	}{
		{vllmsim.Fault{Kind: vllmsim.FaultDrop}, Retry, "transport"},
		{vllmsim.Fault{Kind: vllmsim.FaultAbort}, Aborted, "abort"},
		{vllmsim.Fault{Kind: vllmsim.FaultStatus, Status: 429, RetryAfter: 3}, Busy, "http_429"},
		{vllmsim.Fault{Kind: vllmsim.FaultStatus, Status: 503, Shape: vllmsim.ShapeString}, Busy, "http_503"},
		{vllmsim.Fault{Kind: vllmsim.FaultStatus, Status: 500, Message: "Internal server error", Shape: vllmsim.ShapeDetail}, Retry, "http_500"},
		{vllmsim.Fault{Kind: vllmsim.FaultStatus, Status: 400, Shape: vllmsim.ShapeDetail}, Rejected, "http_400"},
		{vllmsim.Fault{Kind: vllmsim.FaultStatus, Status: 401, Shape: vllmsim.ShapeString}, Fatal, CodeEngineDenied},
		{vllmsim.Fault{Kind: vllmsim.FaultStatus, Status: 504}, Retry, "http_504"},
	} {
		r.fault(c.fault)
		a := r.Do(t.Context(), ask("x"))
		if a.Outcome != c.want || a.Code != c.code || a.Died || a.RetryAfter != time.Duration(c.fault.RetryAfter)*time.Second {
			t.Errorf("%+v: %v %s, died %v, after %v, %v", c.fault, a.Outcome, a.Code, a.Died, a.RetryAfter, a.Err)
		}
	}
	r.fault()
	if a := r.Do(t.Context(), ask("x")); a.Outcome != OK {
		t.Errorf("after all: %+v", a)
	}
	if s := r.Stats(); !s.Ready || s.Starts != 1 || s.Deaths != 0 {
		t.Errorf("stats %+v", s)
	}
}

// TestConnectionThatTheServerClosesIsNoDeath, even if a request meets its end. TestConnectionsThatRestAreNotUsed is about
// how that is avoided.
func TestConnectionThatTheServerClosesIsNoDeath(t *testing.T) {
	sim := instant()
	sim.KeepAlive = time.Millisecond
	r := run(t, owned(sim))
	r.awaitStarts(1)
	l := r.life.Load()
	for range 50 {
		if a := r.Do(t.Context(), ask("x")); a.Outcome != OK && a.Outcome != Retry {
			t.Errorf("%v %s, %v", a.Outcome, a.Code, a.Err)
		}
	}
	if r.life.Load() != l || r.Stats().Deaths != 0 {
		t.Errorf("stats %+v: a closed connection was taken for a death", r.Stats())
	}
}

func TestQueueThatOverflowsIsBusy(t *testing.T) {
	cfg := owned(slow())
	cfg.MaxQueued = 3
	r := run(t, cfg)
	r.awaitStarts(1)
	inFlight := []<-chan Answer{r.start("a"), r.start("b"), r.start("c")}
	eventually(t, "the queue is full", func() bool { n := r.counts(); return n.Running == 2 && n.Waiting == 1 })
	if a := r.Do(t.Context(), ask("d")); a.Outcome != Busy || a.Code != "http_503" {
		t.Errorf("%v %s, %v", a.Outcome, a.Code, a.Err)
	}
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	for i, ch := range inFlight { // the engine's own drain was too short for them
		if a := <-ch; a.Outcome != Aborted || a.Died {
			t.Errorf("request %d: %v %s, died %v", i, a.Outcome, a.Code, a.Died)
		}
	}
}

func TestWhatIsInFlightMayEndWhenRunIsEnded(t *testing.T) {
	t.Parallel() // it waits most of the time
	cfg := owned(vllmsim.Config{TokenTime: 10 * time.Millisecond, Lengths: []int{300}, KeepAlive: time.Hour})
	cfg.ShutdownTimeout = time.Minute
	r := run(t, cfg)
	r.awaitStarts(1)
	inFlight := r.start("a")
	eventually(t, "it runs", func() bool { return r.counts().Running == 1 })
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	if a := <-inFlight; a.Outcome != OK || a.Usage.Output != 300 {
		t.Errorf("%v %s %+v, want a whole answer", a.Outcome, a.Code, a.Usage)
	}
}

// TestRequestThatComesTooLateSpoilsNoDrain: it had the engine before the end was known, and meets a server that writes
// its last answers and does not listen any more.
func TestRequestThatComesTooLateSpoilsNoDrain(t *testing.T) {
	t.Parallel() // it waits most of the time
	cfg := owned(vllmsim.Config{TokenTime: 20 * time.Millisecond, Lengths: []int{200}, KeepAlive: time.Hour})
	cfg.ShutdownTimeout = time.Minute
	r := run(t, cfg)
	r.awaitStarts(1)
	l := r.life.Load()
	inFlight := r.start("a")
	eventually(t, "it runs", func() bool { return r.counts().Running == 1 })
	ended := make(chan error, 1)
	go func() { ended <- r.stop() }()
	eventually(t, "it is to end", l.stopping.Load)
	if err := os.Remove(filepath.Join(l.dir, socketName)); err != nil && !errors.Is(err, os.ErrNotExist) { // all may be over already
		t.Fatal(err)
	}
	l.client.Close() // connections that rest
	if a := l.do(t.Context(), ask("late")); a.Code != codeRefused || a.Died {
		t.Errorf("late: %s, died %v, %v", a.Code, a.Died, a.Err)
	}
	if a := <-inFlight; a.Outcome != OK || a.Usage.Output != 200 {
		t.Errorf("%v %s %+v, want a whole answer", a.Outcome, a.Code, a.Usage)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestCountersOutliveTheEngine(t *testing.T) {
	t.Parallel() // it waits most of the time
	cfg := owned(vllmsim.Config{Instant: true, Lengths: []int{10}, KeepAlive: time.Hour})
	cfg.StallLimit = stallLimit // looks come a quarter of it apart
	r := run(t, cfg)
	generated := func() float64 { return r.Stats().Counters.GenerationTokens }
	for i := range 3 {
		r.awaitStarts(i + 1)
		if a := r.Do(t.Context(), ask("x")); a.Outcome != OK {
			t.Fatalf("answer %+v", a)
		}
		want := float64(10 * (i + 1))
		eventually(t, fmt.Sprint(want, " tokens"), func() bool { return generated() == want })
		if err := syscall.Kill(r.pids()[i], syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	r.awaitStarts(4)
	if got := generated(); got != 30 {
		t.Errorf("%v tokens, want 30", got)
	}
	if pause := r.event("engine_restart")[2].ContextMap()["pause"]; pause != time.Duration(0) {
		t.Errorf("pause %v after an engine that answered, want none", pause)
	}
}

func TestMemoryIsAwaitedBeforeTheNextStart(t *testing.T) {
	var mu sync.Mutex
	readings := []int64{1 << 30, 9 << 30, 5 << 30, 1 << 30}
	cfg := owned(instant())
	cfg.GPUMemory = func(context.Context) (int64, error) {
		mu.Lock()
		defer mu.Unlock()
		used := readings[0]
		readings = readings[1:]
		return used, nil
	}
	r := run(t, cfg)
	r.awaitStarts(1)
	if err := syscall.Kill(r.pids()[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.awaitStarts(2)
	mu.Lock()
	defer mu.Unlock()
	if len(readings) != 0 {
		t.Errorf("%d readings left: it did not wait until the memory was free", len(readings))
	}
}
