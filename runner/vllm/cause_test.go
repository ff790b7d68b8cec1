package vllm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

func TestCauseIsFoundInTheLog(t *testing.T) {
	for _, c := range []struct {
		name  string
		lines string
		state string
		want  Cause
		line  string
	}{
		{"folder that is not there",
			"Traceback (most recent call last):\n    raise HFValidationError(\nhuggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name' or 'namespace/repo_name': '/nonexistent/model'. Use `repo_type` argument if needed.", "exit status 1",
			CauseModel, "huggingface_hub.errors.HFValidationError: Repo id must be in the form"},
		{"socket that was left", "    sock.bind(path)\nOSError: [Errno 98] Address already in use", "exit status 1", CauseAddress, "OSError: [Errno 98] Address"},
		{"flag", "usage: vllm [-h] [-v]\nvllm: error: unrecognized arguments: --no-such-flag 3", "exit status 2", CauseArgument, "vllm: error: unrecognized"},
		{"gated", "    raise GatedRepoError(\nhuggingface_hub.errors.GatedRepoError: 401 Client Error.\nOSError: You are trying to access a gated repo.", "exit status 1", CauseAccess, "huggingface_hub.errors.GatedRepoError: 401"},
		{"memory while it loads", "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20 MiB\nRuntimeError: Engine core initialization failed.", "exit status 1", CauseMemory, "torch.OutOfMemoryError: CUDA"},
		{"memory that is held by another", "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when initializing the engine.", "exit status 1", CauseMemory, "ValueError: No available"},
		{"no GPU", "    raise RuntimeError(\nRuntimeError: Failed to infer device type, please set the environment variable `VLLM_LOGGING_LEVEL=DEBUG` to turn on verbose logging", "exit status 1", CauseDevice, "RuntimeError: Failed to infer"},
		{"no driver", "    import vllm._C\nImportError: libcuda.so.1: cannot open shared object file: No such file or directory", "exit status 1", CauseDevice, "ImportError: libcuda.so.1"},
		{"another CUDA", "ImportError: libcudart.so.12: cannot open shared object file: No such file or directory\nRuntimeError: Engine core initialization failed.", "exit status 1", CauseDevice, "ImportError: libcudart.so.12"},
		{"network", "LocalEntryNotFoundError: no snapshot. Please check your internet connection and try again.", "exit status 1", CauseHub, "LocalEntryNotFoundError: no"},
		{"killed by the kernel", "INFO loading", "signal: killed", CauseMemory, ""},
		{"root cause before its consequence", "Traceback\nzmq.error.ZMQError: no device\nRuntimeError: Engine core initialization failed.", "exit status 1", CauseUnknown, "zmq.error.ZMQError: no device"},
		{"nothing", "", "exit status 0", CauseUnknown, ""},
	} {
		e := explain(strings.Split(c.lines, "\n"), c.state)
		if e.Cause != c.want || !strings.HasPrefix(e.Detail, c.line) || c.line == "" && e.Detail != "" || e.State != c.state || e.Permanent != c.want.permanent() {
			t.Errorf("%s: %+v, want %s, %q", c.name, e, c.want, c.line)
		}
	}
}

func TestStartErrorTellsTheCause(t *testing.T) {
	e := &StartError{Cause: CauseModel, Detail: "OSError: x", State: "exit status 1"}
	if got := e.Error(); got != "vllm did not start: model_not_found (exit status 1): OSError: x" {
		t.Errorf("%q", got)
	}
	if n := len(explain(make([]string, 100), "").Log); n != startErrorLines {
		t.Errorf("%d lines quoted, want %d", n, startErrorLines)
	}
}

func TestOnlyOwnOptionsAreLearnedToBeUnknown(t *testing.T) {
	ours := []option{{"--shutdown-timeout", "10"}, {"--disable-uvicorn-access-log", ""}}
	for list, want := range map[string][]string{
		"--shutdown-timeout 10":                               {"--shutdown-timeout"},
		"--disable-uvicorn-access-log --shutdown-timeout 10":  {"--disable-uvicorn-access-log", "--shutdown-timeout"},
		"--shutdown-timeout 10 --no-such-flag":                nil,
		"--no-such-flag 10":                                   nil,
		"--disable-uvicorn-access-log 10 --shutdown-timeout ": nil,
	} {
		e := explain([]string{"vllm: error: unrecognized arguments: " + list}, "exit status 2")
		if got := e.refusedOptions(ours); !cmp.Equal(got, want) {
			t.Errorf("%q: %q, want %q", list, got, want)
		}
	}
}

func TestLinesAreTakenApart(t *testing.T) {
	for raw, want := range map[string]logLine{
		"(EngineCore pid=7) ERROR 11-23 10:00:00 [core.py:105] it  broke \n":   {"EngineCore", "core.py:105", "it  broke", zapcore.ErrorLevel},
		"(APIServer pid=1) \x1b[1;33mWARNING 11-23 10:00:00 [a.py:1]\x1b[0m w": {"APIServer", "a.py:1", "w", zapcore.WarnLevel},
		"(APIServer pid=1) INFO:     Started server process [1]":               {"APIServer", "", "Started server process [1]", zapcore.InfoLevel},
		"(Worker_TP0 pid=9)   File \"x.py\", line 3":                           {"Worker_TP0", "", "  File \"x.py\", line 3", zapcore.InfoLevel},
		"DEBUG 11-23 10:00:00.123 [b.py:2] d":                                  {"", "b.py:2", "d", zapcore.DebugLevel},
		"Loading:   0%|  | 0/2\rLoading: 100%|##| 2/2\n":                       {"", "", "Loading: 100%|##| 2/2", zapcore.InfoLevel},
		"a (b) c": {"", "", "a (b) c", zapcore.InfoLevel},
		"CRITICAL 11-23 10:00:00 [c.py:3] bad \xff byte": {"", "c.py:3", "bad \uFFFD byte", zapcore.ErrorLevel},
	} {
		core, logs := observer.New(zap.DebugLevel)
		o := &output{log: zap.New(core)}
		o.read(strings.NewReader(raw))
		if logs.Len() != 1 {
			t.Errorf("%q: %d entries", raw, logs.Len())
			continue
		}
		e := logs.All()[0]
		text := func(key string) string { s, _ := e.ContextMap()[key].(string); return s }
		if got := (logLine{text("process"), text("source"), e.Message, e.Level}); got != want {
			t.Errorf("%q: %+v, want %+v", raw, got, want)
		}
	}
}

func TestWarningsAndErrorsOfVLLMHaveAType(t *testing.T) {
	for raw, want := range map[string]any{
		"ERROR 11-23 10:00:00 [core.py:105] torch.OutOfMemoryError: CUDA out of memory. Tried": "out_of_memory",
		"ERROR 11-23 10:00:00 [core.py:105] EngineCore hit an exception":                       "engine",
		"WARNING:  slow":     "engine",
		"INFO:     all well": nil,
	} {
		core, logs := observer.New(zap.DebugLevel)
		o := &output{log: zap.New(core)}
		o.read(strings.NewReader(raw))
		if got := logs.All()[0].ContextMap()["error_type"]; got != want {
			t.Errorf("%q: error_type %v, want %v", raw, got, want)
		}
	}
}

func TestAStartThatTakesLongIsToldEveryHalfMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.InfoLevel)
		client, err := NewClient("http://vllm", Options{})
		if err != nil {
			t.Fatal(err)
		}
		client.http.Proxy = nil
		client.http.DialContext = func(context.Context, string, string) (net.Conn, error) { return nil, syscall.ECONNREFUSED }
		l := &life{
			cfg: Config{StartLimit: 100 * time.Second, Log: zap.New(core)}, born: time.Now(), client: client,
			proc: &process{exited: make(chan struct{})}, out: &output{log: zap.NewNop()},
		}
		l.out.read(strings.NewReader("(EngineCore pid=7) INFO 11-23 10:00:00 [core.py:105] Loading weights\n"))
		if e, ok := errors.AsType[*StartError](l.awaitReady(t.Context())); !ok || e.Cause != CauseTimeout {
			t.Errorf("%v", e)
		}
		told := logs.FilterField(zap.String("event", "engine_starting")).All()
		if len(told) != 3 {
			t.Fatalf("told %d times, want 3: %v", len(told), told)
		}
		for i, entry := range told {
			want := map[string]any{"event": "engine_starting", "elapsed": time.Duration(i+1) * 30 * time.Second, "last_line": "Loading weights"}
			if diff := cmp.Diff(want, entry.ContextMap()); diff != "" {
				t.Errorf("entry %d (-want +got):\n%s", i, diff)
			}
		}
	})
}

func TestOutputIsReadWhateverItIsLike(t *testing.T) {
	o := &output{log: zap.NewNop()}
	o.read(strings.NewReader(strings.Repeat("x", 1<<20) + "\n\n\r\n" + strings.Repeat("line\n", 1000) + "end"))
	if last := o.last(2); !slices.Equal(last, []string{"line", "end"}) || len(o.last(10000)) != tailLines {
		t.Errorf("last %q, %d kept", last, len(o.last(10000)))
	}
}

func TestBudget(t *testing.T) {
	b := budget{cfg: Config{Restarts: 3, Span: time.Hour, Backoff: time.Second}}
	death := fmt.Errorf("%w: it hangs", errDied)
	now := time.Now()
	for i, c := range []struct {
		after  time.Duration
		served bool
		want   time.Duration
		ends   bool
	}{
		{0, true, 0, false},
		{0, false, time.Second, false},
		{0, false, 2 * time.Second, false},
		{2 * time.Hour, false, 4 * time.Second, false}, // the others are forgotten
		{0, true, 0, false},
		{0, false, time.Second, false},
		{0, false, 0, true},
	} {
		now = now.Add(c.after)
		pause, err := b.spend(now, c.served, death)
		if pause != c.want || errors.Is(err, ErrBudget) != c.ends || c.ends && !errors.Is(err, death) {
			t.Errorf("death %d: pause %v, %v, want %v", i, pause, err, c.want)
		}
	}
	b = budget{cfg: Config{Restarts: 100, Span: time.Hour, Backoff: time.Second}, barren: 40}
	if pause, _ := b.spend(now, false, death); pause != maxBackoff {
		t.Errorf("pause %v after many, want %v", pause, maxBackoff)
	}
	b = budget{cfg: Config{Restarts: 2, Span: time.Hour}}
	for i := range 3 { // each takes long, and none was ever ready
		now = now.Add(time.Hour)
		if _, err := b.spend(now, false, &StartError{Cause: CauseHub}); errors.Is(err, ErrBudget) != (i == 2) {
			t.Errorf("start %d: %v", i, err)
		}
	}
	if _, err := b.spend(now, true, errUnkillable); !errors.Is(err, errUnkillable) {
		t.Errorf("started beside processes that do not end: %v", err)
	}
}

func TestLackOfMemoryIsPermanentInTheThirdStart(t *testing.T) {
	b := budget{cfg: Config{Restarts: 100, Span: time.Hour, Backoff: time.Second}}
	lack := func() error { return &StartError{Cause: CauseMemory} }
	for i, err := range []error{lack(), lack(), errDied, lack(), lack()} { // the death between starts the count anew
		if _, err := b.spend(time.Now(), false, err); err != nil {
			t.Errorf("start %d: %v", i, err)
		}
	}
	_, err := b.spend(time.Now(), false, lack())
	if e, ok := errors.AsType[*StartError](err); !ok || !e.Permanent {
		t.Errorf("%v", err)
	}
}

func TestEngineThatNeverWasReadyIsGivenUpInTheThirdStart(t *testing.T) {
	failed := func(c Cause) error { return &StartError{Cause: c} }
	died := fmt.Errorf("%w: it hangs", errDied)
	for name, c := range map[string]struct {
		ends      []error
		permanent bool // the last of them
	}{
		"unknown":                   {[]error{failed(CauseUnknown), failed(CauseUnknown), failed(CauseUnknown)}, true},
		"too slow":                  {[]error{failed(CauseTimeout), failed(CauseUnknown), failed(CauseTimeout)}, true},
		"twice":                     {[]error{failed(CauseUnknown), failed(CauseUnknown)}, false},
		"the hub may come back":     {[]error{failed(CauseHub), failed(CauseHub), failed(CauseHub)}, false},
		"it was ready once":         {[]error{died, failed(CauseUnknown), failed(CauseUnknown), failed(CauseUnknown)}, false},
		"it was ready in the midst": {[]error{failed(CauseUnknown), failed(CauseUnknown), died, failed(CauseUnknown)}, false},
	} {
		b := budget{cfg: Config{Restarts: 100, Span: time.Hour, Backoff: time.Second}}
		for i, end := range c.ends {
			_, err := b.spend(time.Now(), false, end)
			e, _ := errors.AsType[*StartError](err)
			if want := c.permanent && i == len(c.ends)-1; (err != nil) != want || want && !e.Permanent {
				t.Errorf("%s, start %d: %v", name, i, err)
			}
		}
	}
}

func TestProgressIsTokensOrAnswersOrNothingToDo(t *testing.T) {
	start := time.Now()
	p := progress{moved: start}
	for i, c := range []struct {
		inFlight, answered int64
		tokens             float64
		want               time.Duration // stalled
	}{
		{0, 0, 0, 0},
		{5, 0, 0, time.Second}, // taken, and nothing happens
		{5, 0, 9, 0},           // a prefill
		{5, 0, 9, time.Second},
		{5, 0, 0, 2 * time.Second}, // metrics that cannot be read are no progress, nor is their return
		{5, 0, 9, 3 * time.Second},
		{5, 1, 9, 0}, // a refusal is an answer
		{5, 1, 9, time.Second},
		{0, 1, 9, 0},
	} {
		now := start.Add(time.Duration(i+1) * time.Second)
		p.note(now, c.inFlight, c.answered, c.tokens)
		if got := p.stalled(now); got != c.want {
			t.Errorf("look %d: stalled for %v, want %v", i, got, c.want)
		}
	}
}

func TestConfigsThatCannotWork(t *testing.T) {
	for want, c := range map[string]Config{
		"no model":                {},
		"must not be negative":    {Model: "m", Slots: -1},
		"times must not":          {Model: "m", StallLimit: -1},
		"does not fill 4 slots":   {Model: "m", Slots: 4, MaxQueued: 3},
		"does not fill 16 slots":  {Model: "m", Slots: 4, MaxQueued: 15, Args: []string{"-dp", "4"}},
		"VLLM_API_KEY":            {Model: "m", Env: []string{"VLLM_API_KEY=secret"}},
		"is too long":             {Model: "m", Dir: "/" + strings.Repeat("d", 80)},
		"argument --port":         {Model: "m", Args: []string{"--port=80"}},
		"argument --max_num_seqs": {Model: "m", Args: []string{"--max_num_seqs", "3"}},
	} {
		if _, err := NewServer(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", c, err, want)
		}
	}
	s, err := NewServer(Config{Model: "m"})
	if err != nil || s.cfg.Slots != 256 || s.cfg.StartLimit != 20*time.Minute || !slices.Equal(s.cfg.ServedNames, []string{"m", "default"}) {
		t.Errorf("%+v, %v", s.cfg, err)
	}
}

func TestOwnEngineAsksForNoKey(t *testing.T) {
	cfg := Config{Env: []string{"A=1"}}
	if env := cfg.environment("MARK=m"); !slices.Contains(env, "VLLM_API_KEY=") || !slices.Contains(env, "A=1") || !slices.Contains(env, "MARK=m") {
		t.Errorf("environment %q", env)
	}
}

func TestServerThatTellsNoModelsHasNotStarted(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer srv.Close()
	client, err := NewClient(srv.URL, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	l := &life{client: client, out: &output{log: zap.NewNop()}}
	failed, ok := errors.AsType[*StartError](l.introduce(t.Context()))
	if !ok || failed.Cause != CauseUnknown || !strings.Contains(failed.Detail, "401") {
		t.Errorf("%+v, want a start that failed, and the status", failed)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.introduce(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want that nobody waits any more", err)
	}
}

func TestOnlyAProgramThatIsNotThereIsPermanentlyNotStarted(t *testing.T) {
	for err, lasts := range map[error]bool{
		exec.ErrNotFound: true, syscall.ENOENT: true, syscall.EACCES: true, syscall.ENOEXEC: true,
		syscall.EAGAIN: false, syscall.ENOMEM: false, syscall.EMFILE: false,
	} {
		got := notStarted(fmt.Errorf("start vllm: %w", err))
		failed, ok := errors.AsType[*StartError](got)
		if ok != lasts || ok && (failed.Cause != CauseCommand || !failed.Permanent || failed.Detail != "start vllm: "+err.Error()) || !ok && !errors.Is(got, err) {
			t.Errorf("%v: %+v", err, got)
		}
		b := budget{cfg: Config{Restarts: 20, Span: time.Hour, Backoff: time.Second}}
		if _, err := b.spend(time.Now(), false, got); (err != nil) != lasts {
			t.Errorf("%v: given up with %v", got, err)
		}
	}
}

func TestSlotsAreThoseOfAllRanks(t *testing.T) {
	for args, want := range map[string]int{
		"": 64, "--data-parallel-size 4": 256, "--data-parallel-size=2": 128, "-dp 8": 512, "--data_parallel_size=3 --dtype auto": 192,
		"--data-parallel-size-local 2": 64, "-dp 4 -dp 2": 128, "-dp many": 64, "-dp": 64,
	} {
		s, err := NewServer(Config{Model: "m", Slots: 64, Args: strings.Fields(args)})
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Slots(); got != want {
			t.Errorf("%q: %d slots, want %d", args, got, want)
		}
	}
}

// TestPageOfTheEngineIsComplete: docs/ENGINE.md has each cause, and each argument that is refused.
func TestPageOfTheEngineIsComplete(t *testing.T) {
	page, errPage := os.ReadFile("../../docs/ENGINE.md")
	source, errSource := os.ReadFile("cause.go")
	if err := errors.Join(errPage, errSource); err != nil {
		t.Fatal(err)
	}
	want := reserved()
	causes := regexp.MustCompile(`Cause = "(\w+)"`).FindAllSubmatch(source, -1)
	for _, m := range causes {
		want = append(want, string(m[1]))
	}
	for _, name := range want {
		if !strings.Contains(string(page), "`"+name+"`") {
			t.Errorf("it lacks %s", name)
		}
	}
	if len(causes) != 11 {
		t.Errorf("found %d causes, want 11", len(causes))
	}
}

// write makes files below a new folder.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestRecordNamesModelAndTemplate(t *testing.T) {
	cache := write(t, map[string]string{
		"models--org--m/refs/main":                            "abc\n",
		"models--org--m/snapshots/abc/config.json":            "{}",
		"models--org--m/snapshots/abc/tokenizer_config.json":  `{"chat_template":"T"}`,
		"models--org--m/snapshots/def/config.json":            "{}",
		"models--org--m/snapshots/def/chat_template.jinja":    "T",
		"models--org--m/snapshots/def/tokenizer_config.json":  `{"chat_template":"other"}`,
		"models--org--n/snapshots/xyz/sub/tokenizer_config.x": "",
	})
	template := digest([]byte("T"))
	for _, c := range []struct{ model, revision, wantCommit, wantTemplate string }{
		{"org/m", "", "abc", template},
		{"org/m", "main", "abc", template},
		{"org/m", "def", "def", template},
		{"org/m", "gone", "", ""},
		{"org/none", "", "", ""},
		{"org/n", "xyz", "xyz", ""},
		{filepath.Join(cache, "models--org--m/snapshots/abc"), "mine", "mine", template},
	} {
		root, commit := findModel(c.model, c.revision, cache)
		if got := templateDigest(root, nil); commit != c.wantCommit || got != c.wantTemplate {
			t.Errorf("%s@%s: commit %q, template %s", c.model, c.revision, commit, got)
		}
	}
	file := filepath.Join(cache, "models--org--m/snapshots/def/chat_template.jinja")
	for _, args := range [][]string{{"--chat-template", file}, {"--chat-template=x", "--chat-template=T"}} {
		if got := templateDigest("", args); got != template {
			t.Errorf("%q: %s", args, got)
		}
	}
}

func TestModelDigestChangesWithTheModel(t *testing.T) {
	seen := map[string]bool{}
	for _, files := range []map[string]string{
		{"config.json": "{}", "w.safetensors": "12"}, {"config.json": "{ }", "w.safetensors": "12"},
		{"config.json": "{}", "w.safetensors": "13"}, {"config.json": "{}", "v.safetensors": "12"}, {"config.json": "{}"},
	} {
		a, errA := modelDigest(write(t, files))
		b, errB := modelDigest(write(t, files))
		if a != b || len(a) != 64 || errA != nil || errB != nil || seen[a] {
			t.Errorf("%v: %s, %s, %v, %v", files, a, b, errA, errB)
		}
		seen[a] = true
	}
}

func TestDriverAndGPUs(t *testing.T) {
	root := write(t, map[string]string{
		"version":                       "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.124.06  Release Build\nGCC version: 12\n",
		"gpus/0000:01:00.0/information": "Model: \t\t NVIDIA H100 80GB HBM3\nIRQ: 3\n",
		"gpus/0000:02:00.0/information": "Model: \t\t NVIDIA A100\n",
	})
	if driver, gpus := nvidia(root); driver != "570.124.06" || !slices.Equal(gpus, []string{"NVIDIA H100 80GB HBM3", "NVIDIA A100"}) {
		t.Errorf("driver %q, GPUs %q", driver, gpus)
	}
	if driver, gpus := nvidia(t.TempDir()); driver != "" || gpus != nil {
		t.Errorf("without a driver: %q, %q", driver, gpus)
	}
}
