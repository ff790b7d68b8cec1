package vllm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"
)

// AnyModel is a name under which every Server serves its model.
const AnyModel = "default"

// LoRA is an adapter that is served under a name of its own.
type LoRA struct {
	Name string
	Path string // or a name at the model hub
}

// Config describes one `vllm serve`. Fields without a default must be set.
type Config struct {
	Command       []string // program and what stands before "serve"; default vllm
	Model         string   // a folder, or a name at the model hub
	Revision      string   // of the model, at the hub; "" is vLLM's choice
	ServedNames   []string // the first is the name in vLLM's metrics; default Model; AnyModel is always one of them
	LoRA          []LoRA
	Slots         int      // sequences that run at once, --max-num-seqs: of each rank, with --data-parallel-size in Args; default 256
	BatchedTokens int      // --max-num-batched-tokens; default vLLM's, which is low for batches: 2048 on most GPUs
	MaxQueued     int      // --max-num-queued-reqs, where it exists: running and waiting together, of all ranks; default no limit
	Args          []string // more arguments of `vllm serve`; what the fields above set is refused
	Env           []string // "NAME=value", added to the environment of this process

	Dir             string        // where each start makes a folder for its socket; default the system's; short: see maxSocketPath
	HubCache        string        // folder of the model hub's cache, where Record looks for the revision; default none
	Image           string        // of the container, for Record
	StartLimit      time.Duration // from the start to readiness; default 20 min
	ShutdownTimeout time.Duration // for what is in flight when Run is ended, whole seconds; default 10 s
	StallLimit      time.Duration // without a token or an answer while requests are in flight; default 10 min

	Restarts int           // more deaths than that in Span end Run, or at all before the first engine was ready; default 20
	Span     time.Duration // over which they count; default 1 h
	Backoff  time.Duration // before the second start in a row of which nothing came, doubled each time up to 1 min; default 1 s

	// GPUMemory tells how many bytes are in use on the GPUs. After a death the next start waits until it is
	// back to what it was before the first; nil if there is no driver.
	GPUMemory func(context.Context) (int64, error)

	Log *zap.Logger // vLLM's own lines go to its child "vllm"; default none
}

// maxSocketPath is what fits into sockaddr_un.sun_path on Linux with its end; BSD has four bytes less.
const maxSocketPath = 103

// reserved are the flags that a Config sets, or that would lead vLLM away from its socket.
func reserved() []string {
	return []string{
		"--uds", "--host", "--port", "--api-key", "--ssl-keyfile", "--ssl-certfile", "--root-path", "--headless",
		"--model", "--revision", "--served-model-name", "--enable-lora", "--lora-modules",
		"--max-num-seqs", "--max-num-batched-tokens", "--max-num-queued-reqs", "--shutdown-timeout",
	}
}

func (c Config) withDefaults() (Config, error) {
	if len(c.Command) == 0 {
		c.Command = []string{"vllm"}
	}
	c.Slots = cmp.Or(c.Slots, 256)
	c.Dir = cmp.Or(c.Dir, os.TempDir())
	c.StartLimit = cmp.Or(c.StartLimit, 20*time.Minute)
	c.ShutdownTimeout = cmp.Or(c.ShutdownTimeout, 10*time.Second)
	c.StallLimit = cmp.Or(c.StallLimit, 10*time.Minute)
	c.Restarts = cmp.Or(c.Restarts, 20)
	c.Span = cmp.Or(c.Span, time.Hour)
	c.Backoff = cmp.Or(c.Backoff, time.Second)
	if c.Log == nil {
		c.Log = zap.NewNop()
	}
	if len(c.ServedNames) == 0 {
		c.ServedNames = []string{c.Model}
	}
	if !slices.Contains(c.ServedNames, AnyModel) {
		c.ServedNames = append(slices.Clip(c.ServedNames), AnyModel)
	}
	return c, c.validate()
}

func (c Config) validate() error {
	switch {
	case c.Model == "":
		return errors.New("vllm: no model")
	case min(c.Slots, c.BatchedTokens, c.MaxQueued, c.Restarts) < 0:
		return errors.New("vllm: slots, batched tokens, queue and restarts must not be negative")
	case min(c.StartLimit, c.ShutdownTimeout, c.StallLimit, c.Span, c.Backoff) < 0:
		return errors.New("vllm: times must not be negative")
	case c.MaxQueued > 0 && c.MaxQueued < c.Slots*c.ranks():
		return fmt.Errorf("vllm: a queue of %d does not fill %d slots: running requests count, of all copies of the model", c.MaxQueued, c.Slots*c.ranks())
	case len(filepath.Join(c.Dir, socketDirPattern+"0123456789", socketName)) > maxSocketPath:
		return fmt.Errorf("vllm: folder for sockets: %q is too long, a socket's path holds %d bytes", c.Dir, maxSocketPath)
	}
	for _, e := range c.Env {
		if strings.HasPrefix(e, apiKey) && e != apiKey {
			return errors.New("vllm: VLLM_API_KEY: requests go through a socket that nobody else can open, and have no key")
		}
	}
	for _, a := range c.Args {
		name, _, _ := strings.Cut(a, "=")
		if slices.Contains(reserved(), hyphens(name)) {
			return fmt.Errorf("vllm: argument %s: spool sets it itself", name)
		}
	}
	return nil
}

// ranks is how many copies of the model work side by side, each with slots of its own. vLLM itself complains of what is no number.
func (c Config) ranks() int {
	n, _ := strconv.Atoi(argument(c.Args, "--data-parallel-size", "-dp"))
	return max(n, 1)
}

// option is an argument that not every vLLM knows. None changes what answers say.
type option struct{ flag, value string }

func (c Config) options() []option {
	all := []option{
		{"--shutdown-timeout", strconv.Itoa(int(c.ShutdownTimeout.Seconds()))}, // 0.18
		{"--disable-uvicorn-access-log", ""},
	}
	if c.MaxQueued > 0 {
		all = append(all, option{"--max-num-queued-reqs", strconv.Itoa(c.MaxQueued)}) // 0.29
	}
	return all
}

// arguments are those of the program, less the options that this vLLM has refused.
func (c Config) arguments(socket string, refused map[string]bool) []string {
	args := append(slices.Clone(c.Command[1:]), "serve", c.Model, "--uds", socket, "--max-num-seqs", strconv.Itoa(c.Slots))
	if c.BatchedTokens > 0 {
		args = append(args, "--max-num-batched-tokens", strconv.Itoa(c.BatchedTokens))
	}
	if c.Revision != "" {
		args = append(args, "--revision", c.Revision)
	}
	args = append(append(args, "--served-model-name"), c.ServedNames...)
	if len(c.LoRA) > 0 {
		args = append(args, "--enable-lora", "--lora-modules")
		for _, l := range c.LoRA {
			args = append(args, l.Name+"="+l.Path)
		}
	}
	for _, o := range c.options() {
		if refused[o.flag] {
			continue
		}
		args = append(args, o.flag)
		if o.value != "" {
			args = append(args, o.value)
		}
	}
	return append(args, c.Args...)
}

// apiKey is the variable that makes vLLM ask for a key; it asks for none if that is empty.
const apiKey = "VLLM_API_KEY="

// environment is what vLLM gets besides that of this process.
func (c Config) environment(mark string) []string {
	return append([]string{
		"VLLM_HTTP_TIMEOUT_KEEP_ALIVE=300",                                           // its 5 s would now and then close a connection under a request
		"VLLM_ENGINE_READY_TIMEOUT_S=" + strconv.Itoa(int(c.StartLimit.Seconds())+1), // its 600 s would end a slow start
		"VLLM_LOGGING_COLOR=0", "NO_COLOR=1", "PYTHONUNBUFFERED=1",
		"SPT_NOENV=1", // else setproctitle overwrites the mark
		apiKey,        // what this process has is for an engine that runs elsewhere
		mark,
	}, c.Env...)
}
