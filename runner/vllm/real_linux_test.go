package vllm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// realConfig is for a tiny model on a CPU that others use too. SPOOL_VLLM_DIR names a folder that scripts/vllm/setup.sh
// has made, as `make test-vllm` does; without it the test is skipped, unless it is required.
func realConfig(t *testing.T) Config {
	t.Helper()
	dir := os.Getenv("SPOOL_VLLM_DIR")
	switch {
	case dir == "" && os.Getenv("SPOOL_REQUIRE_VLLM") == "1":
		t.Fatal("SPOOL_VLLM_DIR names no folder with vLLM")
	case dir == "":
		t.Skip("SPOOL_VLLM_DIR names no folder with vLLM; make test-vllm sets it up")
	}
	return Config{
		Command: []string{filepath.Join(dir, "venv", "bin", "vllm")}, Model: filepath.Join(dir, "tiny"), Slots: 16, BatchedTokens: 4096, MaxQueued: 64, ServedNames: []string{"tiny"},
		Args: []string{
			"--dtype", "bfloat16", "--kv-cache-memory-bytes", "256M", "--enforce-eager", "--max-model-len", "2048", "--generation-config", "vllm",
		},
		Env: []string{
			"HF_HUB_OFFLINE=1", "TRANSFORMERS_OFFLINE=1", "VLLM_NO_USAGE_STATS=1", "DO_NOT_TRACK=1", "VLLM_CPU_OMP_THREADS_BIND=nobind", "OMP_NUM_THREADS=1",
		},
		Dir: shortDir(t), StartLimit: 10 * time.Minute, StallLimit: 20 * time.Second,
	}
}

// startReal waits for the n-th start.
func (r *running) startReal(n int) {
	r.t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		if s := r.Stats(); s.Ready && s.Starts == n {
			r.t.Logf("start %d: ready after %.0f s of loading in all", n, s.Loading.Seconds())
			return
		}
		select {
		case <-r.done:
			r.t.Fatalf("run: %v", r.stop())
		case <-tick.C:
		}
	}
}

// load asks for n long answers at once.
func (r *running) load(n int) <-chan Answer {
	out := make(chan Answer, n)
	for i := range n {
		go func() {
			body := fmt.Appendf(nil, `{"model":"default","messages":[{"role":"user","content":"%d"}],"max_tokens":1500,"ignore_eos":true,"temperature":0}`, i)
			out <- r.Do(context.Background(), Request{Path: chatPath, Body: body})
		}()
	}
	return out
}

// awaitWork waits until the engine has taken n requests, as its metrics tell.
func (r *running) awaitWork(n int) {
	r.t.Helper()
	eventually(r.t, "all are taken", func() bool {
		l := r.Stats().Load
		return int(l.Running+l.Waiting) >= n
	})
}

// named finds a process of the engine by its title.
func (r *running) named(title string) int {
	r.t.Helper()
	l := r.life.Load()
	for _, q := range processes() {
		if q.group != l.proc.pid() {
			continue
		}
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", q.pid))
		if strings.HasPrefix(string(line), title) {
			return q.pid
		}
	}
	r.t.Fatalf("no process %q", title)
	return 0
}

func TestRealVLLMIsOwnedThroughDeathAndHang(t *testing.T) {
	if testing.Short() {
		t.Skip("the end-to-end tests have a death and a hang, too")
	}
	cfg := realConfig(t)
	r := run(t, cfg)
	r.startReal(1)
	first := r.Do(t.Context(), ask("hello"))
	if first.Outcome != OK || first.Usage.Output == 0 {
		t.Fatalf("answer %+v", first)
	}
	t.Logf("record %+v", r.Record())
	if rec := r.Record(); rec.Version == "" || rec.Models[AnyModel] != 2048 || rec.ModelDigest == "" || rec.TemplateDigest == "" {
		t.Errorf("record %+v", rec)
	}
	for i, c := range []struct {
		what   string
		title  string // of the victim; "" is the process that was started
		signal syscall.Signal
	}{
		{"EngineCore killed", "VLLM::EngineCore", syscall.SIGKILL},
		{"EngineCore stopped", "VLLM::EngineCore", syscall.SIGSTOP},
		{"API server killed", "", syscall.SIGKILL},
	} {
		const n = 24
		answers := r.load(n)
		r.awaitWork(n)
		pid := r.pids()[len(r.pids())-1]
		if c.title != "" {
			pid = r.named(c.title)
		}
		hit := time.Now()
		if err := syscall.Kill(pid, c.signal); err != nil {
			t.Fatal(err)
		}
		for range n {
			if a := <-answers; a.Outcome != Down || !a.Died {
				t.Errorf("%s: %v %s, died %v, %v", c.what, a.Outcome, a.Code, a.Died, a.Err)
			}
		}
		t.Logf("%s: all %d requests came back %.1f s later", c.what, n, time.Since(hit).Seconds())
		r.startReal(i + 2)
		t.Logf("%s: ready again %.0f s later", c.what, time.Since(hit).Seconds())
		again := r.Do(t.Context(), ask("hello"))
		if again.Outcome != OK || again.Usage != first.Usage {
			t.Errorf("%s: afterwards %+v", c.what, again)
		}
	}
	stopping := time.Now()
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	t.Logf("stopped in %.1f s, orphans %v, counters %+v", time.Since(stopping).Seconds(), r.event("engine_orphans"), r.Stats().Counters)
}

func TestRealVLLMStartsThatFail(t *testing.T) {
	cfg := realConfig(t)
	for _, c := range []struct {
		name   string
		change func(*Config)
		cause  Cause
		detail string
	}{
		{"kv cache", func(c *Config) { c.Args = append(slices.Clone(c.Args), "--kv-cache-memory-bytes", "64K") }, CauseKVCache, "To serve at least one request"},
		{"folder", func(c *Config) { c.Model = filepath.Join(c.Dir, "none") }, CauseModel, "Repo id must"},
		{"hub", func(c *Config) { c.Model = "no/such" }, CauseModel, ""},
		{"length", func(c *Config) { c.Args = append(slices.Clone(c.Args), "--max-model-len", "9999999") }, CauseArgument, ""},
		{"value", func(c *Config) { c.Args = append(slices.Clone(c.Args), "--max-model-len", "many") }, CauseArgument, ""},
		{"memory", func(c *Config) { c.Args = append(slices.Clone(c.Args), "--kv-cache-memory-bytes", "900G") }, CauseMemory, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if testing.Short() && c.cause == CauseMemory {
				t.Skip("it loads the model twice")
			}
			cfg := cfg
			cfg.Dir, cfg.Restarts, cfg.MaxQueued = shortDir(t), 1, 0
			c.change(&cfg)
			r := run(t, cfg)
			<-r.done
			err := r.stop()
			t.Log(err)
			if e, ok := errors.AsType[*StartError](err); !ok || e.Cause != c.cause || !strings.Contains(e.Detail, c.detail) {
				t.Errorf("cause of %v, want %s", err, c.cause)
			}
		})
	}
}
