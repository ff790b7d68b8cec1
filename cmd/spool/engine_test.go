package main

import (
	"context"
	"errors"
	"flag"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/urfave/cli/v2"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"spool/runner"
	"spool/runner/gpu"
	"spool/runner/vllm"
)

// seenGPUs counts how often it was asked for samples.
type seenGPUs struct {
	samples func() []gpu.Sample
	asked   int
}

func (*seenGPUs) Run(context.Context) error { return nil }

func (g *seenGPUs) Samples() []gpu.Sample {
	g.asked++
	return g.samples()
}

func using(bytes uint64) gpu.Sample {
	return gpu.Sample{Reading: gpu.Reading{MemoryUsed: &bytes}, Time: time.Now()}
}

// engineContext is a command line of spool run, as far as engines go.
func engineContext(t *testing.T, args ...string) *cli.Context {
	t.Helper()
	set := flag.NewFlagSet("run", flag.ContinueOnError)
	for _, f := range append(engineFlags(""), &cli.IntFlag{Name: "slots", Value: 256}) {
		if err := f.Apply(set); err != nil {
			t.Fatal(err)
		}
	}
	if err := set.Parse(args); err != nil {
		t.Fatal(err)
	}
	return cli.NewContext(cli.NewApp(), set, nil)
}

func TestMemoryInUseIsTheSumOfAllGPUs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		g := &seenGPUs{samples: func() []gpu.Sample {
			switch age := time.Since(begin); {
			case age < time.Second: // nothing was read yet
				return []gpu.Sample{{}, {}}
			case age < time.Minute:
				return []gpu.Sample{using(3 << 30), using(4 << 30)}
			}
			old := using(1)
			old.Time = begin
			return []gpu.Sample{using(1), old}
		}}
		memory := memoryInUse(g)
		if used, err := memory(t.Context()); used != 7<<30 || err != nil || time.Since(begin) != time.Second {
			t.Errorf("%d bytes, %v, after %v, want 7 GiB after 1s", used, err, time.Since(begin))
		}
		time.Sleep(2 * time.Minute)
		asked := time.Now()
		if used, err := memory(t.Context()); err == nil || time.Since(asked) != memoryWait {
			t.Errorf("of a reading that is old: %d bytes, nil, after %v", used, time.Since(asked))
		}
	})
}

func TestWithoutGPUsNobodyIsAskedForMemory(t *testing.T) {
	for name, gpus := range map[string]runner.GPUs{"none": nil, "no driver": &gpu.Sampler{}} {
		if memoryInUse(gpus) != nil {
			t.Errorf("%s: it is asked", name)
		}
	}
}

func TestOwnEngineIsToldWhatTheGPUsHold(t *testing.T) {
	g := &seenGPUs{samples: func() []gpu.Sample { return []gpu.Sample{using(1)} }}
	cfg := runner.Config{GPUs: g, Log: zap.NewNop()}
	if err := setEngine(engineContext(t, "--model", "m", "--vllm", "/no/such/vllm"), poolConfig{}, &cfg); err != nil {
		t.Fatal(err)
	}
	before := g.asked
	if _, ok := errors.AsType[*vllm.StartError](cfg.Server.Run(t.Context())); !ok || g.asked == before {
		t.Errorf("the engine's start has looked at the GPUs %d times", g.asked-before)
	}
}

func TestARunnerHasTheSlotsOfAllRanks(t *testing.T) {
	pool := poolConfig{Engine: engineConfig{Model: "m", Slots: 128, Args: []string{"--data-parallel-size", "4"}}}
	for args, want := range map[string]int{"": 512, "--slots=64": 256, "--engine-url=http://e --slots=64": 64} {
		cfg := runner.Config{Log: zap.NewNop()}
		if err := setEngine(engineContext(t, strings.Fields(args)...), pool, &cfg); err != nil {
			t.Fatal(err)
		}
		if cfg.Slots != want {
			t.Errorf("%q: %d slots, want %d", args, cfg.Slots, want)
		}
	}
}

func TestNoGPUIsWatchedIfNoneMayBeUsed(t *testing.T) {
	const none = "CUDA_VISIBLE_DEVICES is empty: none may be used"
	own, others := poolConfig{Engine: engineConfig{Env: map[string]string{"CUDA_VISIBLE_DEVICES": ""}}}, poolConfig{}
	for _, tc := range []struct {
		process string // its CUDA_VISIBLE_DEVICES
		args    string
		pool    poolConfig
		none    bool
	}{
		{"", "--model=m", others, true},
		{"0", "--model=m", others, false},
		{"0", "--model=m", own, true},
		{"0", "--engine-url=http://e", own, false}, // which runs already, and not with the pool's variables
	} {
		t.Setenv("CUDA_VISIBLE_DEVICES", tc.process)
		core, logs := observer.New(zap.InfoLevel)
		s := watchGPUs(t.Context(), engineEnv(engineContext(t, strings.Fields(tc.args)...), tc.pool), zap.New(core))
		s.Close()
		var reasons []string
		for _, e := range logs.All() {
			reasons = append(reasons, e.ContextMap()["reason"].(string))
		}
		if got := slices.Contains(reasons, none); got != tc.none {
			t.Errorf("%+v: log %q", tc, reasons)
		}
	}
}

func TestHubCacheIsTheEngines(t *testing.T) {
	t.Setenv("HF_HUB_CACHE", "")
	t.Setenv("HF_HOME", "/home")
	for env, want := range map[string]string{"": "/home/hub", "HF_HOME": "/pool/hub", "HF_HUB_CACHE": "/pool"} {
		if got := hubCache(engineConfig{Env: map[string]string{env: "/pool"}}.lookupEnv); got != want {
			t.Errorf("%s in env: %q, want %q", env, got, want)
		}
	}
}

func TestEngineOfAPoolIsTheOneThatIsStarted(t *testing.T) {
	t.Setenv("HF_HUB_CACHE", "/cache")
	t.Setenv("SPOOL_IMAGE", "spool-runner:1")
	file, _, err := configured(t, `
pools:
  big:
    engine:
      model: org/m
      revision: 9c925d64
      names: [m, n]
      lora: {polite: /models/polite, blunt: org/blunt}
      slots: 128
      batched_tokens: 8192
      max_queued: 512
      args: [--max-model-len, "8192"]
      env: {B: "2", A: "1"}
      command: [python, -m, vllm]
      start_limit: 30m
      stall_limit: 5m
`)
	if err != nil {
		t.Fatal(err)
	}
	whole := vllm.Config{
		Command: []string{"python", "-m", "vllm"}, Model: "org/m", Revision: "9c925d64", ServedNames: []string{"m", "n"},
		LoRA:  []vllm.LoRA{{Name: "blunt", Path: "org/blunt"}, {Name: "polite", Path: "/models/polite"}},
		Slots: 128, BatchedTokens: 8192, MaxQueued: 512, Args: []string{"--max-model-len", "8192"}, Env: []string{"A=1", "B=2"},
		StartLimit: 30 * time.Minute, StallLimit: 5 * time.Minute, HubCache: "/cache", Image: "spool-runner:1",
	}
	flagged := whole
	flagged.Command, flagged.Model, flagged.Revision, flagged.ServedNames, flagged.Slots = []string{"/bin/vllm"}, "other", "", []string{"other"}, 64
	for args, want := range map[string]vllm.Config{"": whole, "--model=other --vllm=/bin/vllm --slots=64": flagged} {
		got := file.Pools["big"].Engine.withFlags(engineContext(t, strings.Fields(args)...)).vllm(nil, nil)
		if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(vllm.Config{}, "GPUMemory", "Log")); diff != "" {
			t.Errorf("%q (-want +got):\n%s", args, diff)
		}
	}
}
