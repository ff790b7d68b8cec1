//go:build !nolocal

package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"
	"go.uber.org/zap"

	"spool/localstack"
	"spool/localstack/s3"
	"spool/monitoring"
	"spool/runner/vllm"
)

func (p *program) localCommands() []*cli.Command {
	return []*cli.Command{{
		Name:      "local",
		Usage:     "run everything on this machine: store, queues, watcher, runners",
		ArgsUsage: "[-- CMD ARGS...]",
		Description: "Starts S3, SQS, their events and a Pushgateway on 127.0.0.1, a watcher, and runners that come with the work and go\n" +
			"without it. Runs until SIGINT, or for as long as CMD, whose exit code it takes; CMD finds AWS_* and SPOOL_BUCKET\n" +
			"set. Objects are kept in --data, queues in memory: after a restart the watcher fills them again. Without\n" +
			"--engine-url, --model, or a model for the pool in --config, the answers are made up by a stand-in for vLLM.\n\n" +
			"Examples:\n   spool local\n   spool local --engine-url http://127.0.0.1:8000 --slots 64\n" +
			"   spool local --model Qwen/Qwen3-8B --vllm /opt/venv/bin/vllm\n" +
			"   spool local -- spool submit prompts.jsonl --wait",
		Flags: append(engineFlags("; default: the stand-in"),
			&cli.StringFlag{Name: "data", Value: ".spool", Usage: "keep objects and logs in `DIR`"},
			&cli.IntFlag{Name: "runners", Value: 2, Usage: "the most runners at once, with --model 1; 0 starts none"},
			&cli.IntFlag{Name: "slots", Value: 256, Usage: "requests that an engine works on at once"},
			&cli.Float64Flag{Name: "sim-time-scale", Value: 1, Usage: "multiplies the times of the stand-in; 0 takes no time"},
			&cli.DurationFlag{Name: "idle", Value: 10 * time.Second, Usage: "runners go after `TIME` without work, with --model after 10m"},
			&cli.IntFlag{Name: "port-base", Value: localstack.DefaultPortBase, Usage: "S3 is on `PORT`, SQS on the next, the Pushgateway on the one after; 0: any that are free"},
			pushgatewayFlag("the one that it starts"),
			configFlag(),
			&cli.BoolFlag{Name: "verbose", Usage: "show the logs on standard error too"},
		),
		Action: p.local,
	}, {
		Name:   localstack.S3Command,
		Usage:  "serve S3 for spool local",
		Hidden: true,
		Action: func(c *cli.Context) error { return s3.RunChild(c.Context, p.stdin, p.stdout) },
	}}
}

// mostPortBase leaves two ports above it.
const mostPortBase = 65533

// local is what spool local runs.
type local struct {
	p     *program
	exe   string
	log   *zap.Logger
	dirs  localDirs
	env   []string // of all children
	stack *localstack.Stack

	gateway  string // takes the metrics of all that is started
	config   string
	pools    *fileConfig
	slots    int
	idle     time.Duration
	runners  int
	engine   []string       // arguments of spool run that choose it; nil: the pool's, else the stand-in
	engines  []*vllm.Client // those of --engine-url
	simScale float64
	verbose  bool
}

// localDirs are the folders of --data.
type localDirs struct{ data, logs string }

func (p *program) local(c *cli.Context) (err error) {
	args, cmd := splitArgs(c)
	if len(args) > 0 {
		return usagef("argument %q: a command goes behind --: spool local -- CMD ARGS", args[0])
	}
	if err := positive(c, "slots", "idle"); err != nil {
		return err
	}
	if n := c.Int("port-base"); n < 0 || n > mostPortBase {
		return usagef("--port-base %d: want 0 to %d", n, mostPortBase)
	}
	l, err := p.newLocal(c)
	if err != nil {
		return err
	}
	log, closeLog, err := p.localLog(c, l.dirs)
	if err != nil {
		return err
	}
	defer closeLog()
	l.log = log
	l.stack, err = localstack.Start(c.Context, localstack.Config{Dir: l.dirs.data, PortBase: c.Int("port-base"), Exe: l.exe}, log)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return failf(exitUnfit, "end it, or give --data DIR and --port-base N", "%w", err)
	}
	if err != nil {
		return failf(exitUnfit, "", "%w", err)
	}
	defer func() { err = errors.Join(err, l.stack.Close()) }()
	l.gateway = cmp.Or(c.String("pushgateway"), l.stack.Endpoints.Pushgateway)
	l.env = append(childEnv(os.Environ()), l.stack.Env()...)
	if key := c.String("engine-api-key"); key != "" {
		l.env = append(l.env, envName("engine-api-key")+"="+key)
	}
	return l.run(c.Context, cmd)
}

func (p *program) newLocal(c *cli.Context) (*local, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find own binary: %w", err)
	}
	data, err := filepath.Abs(c.String("data"))
	if err != nil {
		return nil, fmt.Errorf("find folder of --data: %w", err)
	}
	if c.Int("runners") < 0 {
		return nil, usagef("--runners %d: must not be negative", c.Int("runners"))
	}
	dirs := localDirs{data: data, logs: filepath.Join(data, "logs")}
	config := c.String("config")
	if config != "" {
		if config, err = filepath.Abs(config); err != nil {
			return nil, fmt.Errorf("find --config: %w", err)
		}
	}
	pools, err := readConfig(c)
	if err != nil {
		return nil, err
	}
	l := &local{
		pools: pools, p: p, exe: exe, dirs: dirs, config: config, slots: c.Int("slots"), idle: c.Duration("idle"), runners: c.Int("runners"),
		simScale: c.Float64("sim-time-scale"), verbose: c.Bool("verbose"),
	}
	if err := l.chooseEngine(c); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dirs.logs, 0o755); err != nil {
		return nil, failf(exitUsage, "", "make folder of --data: %w", err)
	}
	return l, nil
}

// A model takes minutes to load, and memory that this machine hardly has twice.
const (
	modelRunners = 1
	modelIdle    = 10 * time.Minute
)

func (l *local) chooseEngine(c *cli.Context) error {
	model, urls := c.String("model"), engineURLs(c)
	switch {
	case model != "" && len(urls) > 0:
		return usagef("--engine-url and --model: give one of them")
	case model == "":
		for _, u := range urls {
			l.engine = append(l.engine, "--engine-url", u)
		}
		var err error
		l.engines, err = engineClients(c, urls)
		return err
	}
	if _, err := os.Stat(model); err == nil { // else it is a name at the hub
		if model, err = filepath.Abs(model); err != nil {
			return fmt.Errorf("find --model: %w", err)
		}
	}
	l.engine = []string{"--model", model}
	if program := c.String("vllm"); program != "" {
		l.engine = append(l.engine, "--vllm", program)
	}
	if !c.IsSet("runners") {
		l.runners = modelRunners
	}
	if !c.IsSet("idle") {
		l.idle = modelIdle
	}
	return nil
}

// localLog is the log of the stack itself: a file, and standard error with --verbose.
func (p *program) localLog(c *cli.Context, dirs localDirs) (*zap.Logger, func(), error) {
	opt := monitoring.Options{Component: "local", File: filepath.Join(dirs.logs, "local.log")}
	return p.logTo(c, verboseOnly(p.stderr, c.Bool("verbose")), opt)
}
