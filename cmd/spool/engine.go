package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"go.uber.org/zap"

	"spool/runner"
	"spool/runner/gpu"
	"spool/runner/vllm"
)

// engineConfig is the vLLM that runners of a pool start themselves; what is left out has the defaults of vllm.Config.
type engineConfig struct {
	Model         string            `yaml:"model"`    // a folder, or a name at the model hub
	Revision      string            `yaml:"revision"` // of the model at the hub
	Names         []string          `yaml:"names"`    // under which it is served, besides "default"
	LoRA          map[string]string `yaml:"lora"`     // adapters: a name for requests, and a folder or a name at the hub
	Slots         int               `yaml:"slots"`
	BatchedTokens int               `yaml:"batched_tokens"`
	MaxQueued     int               `yaml:"max_queued"`
	Args          []string          `yaml:"args"` // more arguments of vllm serve
	Env           map[string]string `yaml:"env"`
	Command       []string          `yaml:"command"` // program, and what stands before "serve"
	StartLimit    time.Duration     `yaml:"start_limit"`
	StallLimit    time.Duration     `yaml:"stall_limit"`
}

// engineFlags choose the engine of spool run and spool local.
func engineFlags(without string) []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "engine-url", Usage: "`URL` of an inference server that runs already (repeatable" + without + ")"},
		&cli.StringFlag{Name: "engine-api-key", Hidden: true, Usage: "`KEY` for the engine; better in SPOOL_ENGINE_API_KEY, which ps does not show"},
		&cli.StringFlag{Name: "model", Usage: "start vLLM with `MODEL`, a folder or a name at the model hub, instead of --engine-url"},
		&cli.StringFlag{Name: "vllm", Usage: "`PATH` of the vllm to start (default: vllm, as PATH finds it)"},
	}
}

// withFlags is the pool's engine, changed by --model, --vllm and --slots.
func (e engineConfig) withFlags(c *cli.Context) engineConfig {
	if model := c.String("model"); model != "" {
		e.Model, e.Revision, e.Names = model, "", nil
	}
	if program := c.String("vllm"); program != "" {
		e.Command = []string{program}
	}
	if c.IsSet("slots") || e.Slots == 0 {
		e.Slots = c.Int("slots")
	}
	return e
}

func (e engineConfig) vllm(log *zap.Logger, gpus runner.GPUs) vllm.Config {
	cfg := vllm.Config{
		Command: e.Command, Model: e.Model, Revision: e.Revision, ServedNames: e.Names, Slots: e.Slots,
		BatchedTokens: e.BatchedTokens, MaxQueued: e.MaxQueued, Args: e.Args, StartLimit: e.StartLimit, StallLimit: e.StallLimit,
		HubCache: hubCache(e.lookupEnv), Image: os.Getenv("SPOOL_IMAGE"), GPUMemory: memoryInUse(gpus), Log: log,
	}
	if len(e.Names) == 0 {
		cfg.ServedNames = []string{e.Model}
	}
	for _, name := range slices.Sorted(maps.Keys(e.LoRA)) {
		cfg.LoRA = append(cfg.LoRA, vllm.LoRA{Name: name, Path: e.LoRA[name]})
	}
	for _, name := range slices.Sorted(maps.Keys(e.Env)) {
		cfg.Env = append(cfg.Env, name+"="+e.Env[name])
	}
	return cfg
}

// lookupEnv looks a variable of the engine up: what env does not set is this process's.
func (e engineConfig) lookupEnv(name string) (value string, ok bool) {
	if value, ok := e.Env[name]; ok {
		return value, true
	}
	return os.LookupEnv(name)
}

// engineEnv looks variables of the engine up that setEngine gives the runner, as far as they are known here.
func engineEnv(c *cli.Context, pool poolConfig) func(string) (string, bool) {
	if len(engineURLs(c)) > 0 {
		return os.LookupEnv
	}
	return pool.Engine.lookupEnv
}

// hubCache is where the model hub's library keeps what it has fetched, by its own variables.
func hubCache(lookupEnv func(string) (string, bool)) string {
	if dir, _ := lookupEnv("HF_HUB_CACHE"); dir != "" {
		return dir
	}
	if home, _ := lookupEnv("HF_HOME"); home != "" {
		return home + "/hub"
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return ""
	}
	return home + "/.cache/huggingface/hub"
}

// memoryWait is how long a reading of the GPUs is waited for, and how old it may be.
const memoryWait = 5 * time.Second

// memoryInUse gives a function that tells how many bytes are in use on all GPUs together, as of their last reading, for
// vllm.Config.GPUMemory; nil without GPUs.
func memoryInUse(gpus runner.GPUs) func(context.Context) (int64, error) {
	if gpus == nil || len(gpus.Samples()) == 0 {
		return nil
	}
	return func(ctx context.Context) (int64, error) {
		ctx, cancel := context.WithTimeout(ctx, memoryWait)
		defer cancel()
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			used, err := sumOfMemory(gpus.Samples())
			if err == nil {
				return used, nil
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return 0, err
			}
		}
	}
}

func sumOfMemory(samples []gpu.Sample) (used int64, err error) {
	for _, s := range samples {
		if s.MemoryUsed == nil || time.Since(s.Time) > memoryWait {
			return 0, fmt.Errorf("GPU %d does not tell what is in use", s.Index)
		}
		used += int64(*s.MemoryUsed)
	}
	return used, nil
}

// setEngine gives the runner the engines of --engine-url, else one of its own.
func setEngine(c *cli.Context, pool poolConfig, cfg *runner.Config) error {
	own := pool.Engine.withFlags(c)
	cfg.Slots = own.Slots
	urls := engineURLs(c)
	switch {
	case len(urls) > 0 && c.String("model") != "":
		return usagef("--engine-url and --model: give one of them")
	case len(urls) > 0:
		return setClients(c, urls, cfg)
	case own.Model == "":
		return failf(exitUsage, "start one, for instance vllm serve MODEL --port 8000, and give --engine-url http://127.0.0.1:8000, or let spool start it: --model MODEL",
			"no engine: spool run needs --engine-url, --model, or a model for the pool in --config")
	}
	server, err := vllm.NewServer(own.vllm(cfg.Log, cfg.GPUs))
	if err != nil {
		return failf(exitUsage, "see the pool's engine in --config, --model and --vllm", "%w", err)
	}
	cfg.Server, cfg.Slots = server, server.Slots()
	return nil
}

func engineURLs(c *cli.Context) []string {
	urls := strings.FieldsFunc(strings.Join(c.StringSlice("engine-url"), ","), func(r rune) bool { return r == ',' || r == ' ' })
	slices.Sort(urls)
	return slices.Compact(urls)
}

func setClients(c *cli.Context, urls []string, cfg *runner.Config) error {
	clients, err := engineClients(c, urls)
	for _, e := range clients {
		cfg.Engines = append(cfg.Engines, e)
	}
	return err
}

// engineClients makes a client for each engine of --engine-url. It asks none of them.
func engineClients(c *cli.Context, urls []string) (clients []*vllm.Client, err error) {
	for _, u := range urls {
		e, err := vllm.NewClient(u, vllm.Options{APIKey: c.String("engine-api-key")})
		if err != nil {
			return nil, failf(exitUsage, "an engine is http://host:port, https://host, or unix:///path", "%w", err)
		}
		clients = append(clients, e)
	}
	return clients, nil
}

// watchGPUs opens the GPUs that the engine may use, if there are any that this binary can watch. The caller closes the result.
func watchGPUs(ctx context.Context, lookupEnv func(string) (string, bool), log *zap.Logger) *gpu.Sampler {
	visible, limited := lookupEnv("CUDA_VISIBLE_DEVICES")
	s, reason := &gpu.Sampler{}, "CUDA_VISIBLE_DEVICES is empty: none may be used"
	if visible != "" || !limited {
		s, reason = gpu.Open(ctx, visible)
	}
	if reason != "" {
		log.Info("GPUs are not fully watched", zap.String("event", "gpus_not_watched"), zap.String("reason", reason))
	}
	return s
}
