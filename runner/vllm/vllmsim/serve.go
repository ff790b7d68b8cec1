package vllmsim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Failures of the start, for Config.FailStart. Each writes what vLLM 0.32 does, shortened, and exits with its status.
const (
	FailMemory  = "memory"
	FailKVCache = "kv_cache"
	FailModel   = "model"
	FailAccess  = "access"
	FailUnknown = "unknown"
)

// startFailure gives the last lines of each process.
func startFailure(kind string) []string {
	core := func(text string) []string {
		return []string{
			"(EngineCore pid=%d) ERROR %s [core.py:1146] EngineCore failed to start.",
			"(EngineCore pid=%d) ERROR %s [core.py:1146] Traceback (most recent call last):",
			"(EngineCore pid=%d) ERROR %s [core.py:1146] " + text,
			"(APIServer pid=%d) Traceback (most recent call last):",
			"(APIServer pid=%d) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}",
		}
	}
	switch kind {
	case FailMemory:
		return core("ValueError: Free memory on device cuda:0 (1.2/79.1 GiB) on startup is less than desired GPU memory utilization (0.92, 72.8 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes.")
	case FailKVCache:
		return core("ValueError: To serve at least one request with the model's max seq len (2048), (0.12 GiB KV cache is needed, which is larger than the available KV cache memory (0.0 GiB). Try increasing `gpu_memory_utilization` or decreasing `max_model_len` when initializing the engine.")
	case FailModel:
		return []string{"(APIServer pid=%d) OSError: no/such is not a local folder and is not a valid model identifier listed on 'https://huggingface.co/models'"}
	case FailAccess:
		return []string{"(APIServer pid=%d) huggingface_hub.errors.GatedRepoError: 401 Client Error. Cannot access gated repo for url"}
	case FailUnknown:
		return core("AssertionError: something else")
	}
	return nil
}

// Exit statuses of vLLM.
const (
	exitOK        = 0 // also after the death of EngineCore: vllm-project/vllm#48966
	exitTraceback = 1
	exitUsage     = 2 // argparse's
)

// Serve is a whole process with the command line of vLLM, from "serve" on, or "--version"; cfg has what no flag of
// vLLM sets. It writes to out what vLLM would, and gives the exit status. SIGTERM is the end of ctx.
func Serve(ctx context.Context, cfg Config, args []string, out io.Writer) int {
	if len(args) == 1 && args[0] == "--version" {
		fmt.Fprintln(out, Version)
		return exitOK
	}
	addr, err := cfg.parse(args)
	if err != nil {
		fmt.Fprintf(out, "usage: vllm serve [model_tag] [options]\nvllm: error: %v\n", err)
		return exitUsage
	}
	c := console{out}
	c.line("APIServer", "INFO", "version %s, model %s", Version, cfg.Model)
	orphans, err := startOrphans(cfg.Orphans)
	defer func() { orphans.stop() }()
	if err == nil && cfg.FailStart != "" {
		orphans = nil
		return c.failStart(ctx, cfg)
	}
	if err == nil {
		err = Run(ctx, cfg, addr, nil, func(net.Addr) { c.line("APIServer", "INFO", "Application startup complete.") })
	}
	switch {
	case errors.Is(err, ErrEngineDead):
		orphans = nil
		c.line("EngineCore", "ERROR", "EngineCore encountered a fatal error.")
		c.line("APIServer", "INFO", "Application shutdown complete.")
	case errors.Is(err, syscall.EADDRINUSE):
		fmt.Fprintf(out, "(APIServer pid=%d) OSError: [Errno 98] Address already in use\n", os.Getpid())
		return exitTraceback
	case err != nil:
		fmt.Fprintf(out, "(APIServer pid=%d) RuntimeError: %v\n", os.Getpid(), err)
		return exitTraceback
	}
	return exitOK
}

// console writes lines as vLLM's loggers do.
type console struct{ out io.Writer }

func (c console) line(process, level, format string, args ...any) {
	head := fmt.Sprintf("(%s pid=%d) %s %s [vllmsim.go:1] ", process, os.Getpid(), level, stamp())
	fmt.Fprintf(c.out, head+format+"\n", args...)
}

func stamp() string { return time.Now().Format("01-02 15:04:05") }

func (c console) failStart(ctx context.Context, cfg Config) int {
	load := time.NewTimer(cfg.LoadTime)
	defer load.Stop()
	select {
	case <-load.C:
	case <-ctx.Done():
	}
	for _, line := range startFailure(cfg.FailStart) {
		line = strings.Replace(line, "%d", strconv.Itoa(os.Getpid()), 1)
		fmt.Fprintln(c.out, strings.Replace(line, "%s", stamp(), 1))
	}
	return exitTraceback
}

// orphans are processes that only an orderly end takes along.
type orphans []*exec.Cmd

// startOrphans starts n processes that do nothing, every second one in a session of its own.
func startOrphans(n int) (orphans, error) {
	var all orphans
	for i := range n {
		cmd := exec.Command("sleep", "86400") //nolint:noctx // it is to outlive us
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: i%2 == 1}
		if err := cmd.Start(); err != nil {
			return all, fmt.Errorf("start child: %w", err)
		}
		all = append(all, cmd)
	}
	return all, nil
}

func (o orphans) stop() {
	for _, cmd := range o {
		_ = cmd.Process.Kill() // it may have been killed already
		_ = cmd.Wait()
	}
}

// flags are those of `vllm serve` that are taken.
type flags struct {
	numbers  map[string]*int
	texts    map[string]*string
	lists    map[string]func([]string)
	switches map[string]*bool
}

// parse takes the flags of `vllm serve` that mean something here, and passes over some that do not.
func (c *Config) parse(args []string) (addr string, err error) {
	if len(args) < 2 || args[0] != "serve" || strings.HasPrefix(args[1], "-") {
		return "", fmt.Errorf("argument subparser: want serve and a model: %q", args)
	}
	c.Model = args[1]
	host, port, timeout := "0.0.0.0", "8000", 0
	known := flags{
		numbers: map[string]*int{
			"--max-num-seqs": &c.Slots, "--max-num-queued-reqs": &c.MaxQueued, "--max-model-len": &c.MaxModelLen,
			"--max-num-batched-tokens": new(int), "--shutdown-timeout": &timeout,
		},
		texts: map[string]*string{
			"--host": &host, "--port": &port, "--api-key": &c.APIKey, "--uds": &addr,
			"--revision": new(string), "--dtype": new(string), "--chat-template": new(string),
		},
		lists: map[string]func([]string){
			"--served-model-name": func(v []string) { c.Model, c.ServedNames = v[0], append(v[1:], c.ServedNames...) },
			"--lora-modules": func(v []string) {
				for _, m := range v {
					name, _, _ := strings.Cut(m, "=")
					c.ServedNames = append(c.ServedNames, name)
				}
			},
		},
		switches: map[string]*bool{
			"--enable-lora": new(bool), "--enforce-eager": new(bool), "--disable-uvicorn-access-log": new(bool),
			"--enable-per-request-metrics": &c.RequestMetrics,
		},
	}
	if err := known.set(groupFlags(args[2:]), c.Lacks); err != nil {
		return "", err
	}
	c.ShutdownTimeout = time.Duration(timeout) * time.Second
	if addr != "" {
		return unixPrefix + addr, nil
	}
	return net.JoinHostPort(host, port), nil
}

// set takes the flags; it complains as argparse does.
func (k flags) set(given []flagGroup, lacks []string) (err error) {
	var unknown []string
	for _, f := range given {
		number, text, list, on := k.numbers[f.name], k.texts[f.name], k.lists[f.name], k.switches[f.name]
		switch {
		case slices.Contains(lacks, f.name):
			unknown = append(append(unknown, f.name), f.values...)
		case number != nil && len(f.values) == 1:
			if *number, err = strconv.Atoi(f.values[0]); err != nil {
				return fmt.Errorf("argument %s: invalid int value: '%s'", f.name, f.values[0])
			}
		case text != nil && len(f.values) == 1:
			*text = f.values[0]
		case list != nil && len(f.values) > 0:
			list(f.values)
		case number != nil || text != nil || list != nil:
			return fmt.Errorf("argument %s: expected one argument", f.name)
		case on != nil:
			*on = true
		default:
			unknown = append(append(unknown, f.name), f.values...)
		}
	}
	if len(unknown) > 0 {
		return fmt.Errorf("unrecognized arguments: %s", strings.Join(unknown, " "))
	}
	return nil
}

// flagGroup is a flag and what follows it up to the next one.
type flagGroup struct {
	name   string
	values []string
}

func groupFlags(args []string) []flagGroup {
	var all []flagGroup
	for _, a := range args {
		if name, value, ok := strings.Cut(a, "="); ok && strings.HasPrefix(a, "--") {
			all = append(all, flagGroup{name, []string{value}})
		} else if strings.HasPrefix(a, "--") || len(all) == 0 {
			all = append(all, flagGroup{name: a})
		} else {
			all[len(all)-1].values = append(all[len(all)-1].values, a)
		}
	}
	return all
}
