package main

import (
	"errors"
	"os"
	"runtime/debug"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/urfave/cli/v2"
	"go.uber.org/zap"

	"spool/monitoring"
	"spool/runner"
	"spool/runner/gpu"
	"spool/runner/vllm"
	"spool/storage/finalize"
	"spool/storage/lease"
	"spool/storage/queue"
	"spool/watcher"
)

func isNoQueue(err error) bool { return errors.Is(err, queue.ErrNoQueue) }

func (p *program) runCommand() *cli.Command {
	return &cli.Command{
		Name:     "run",
		Usage:    "work on jobs until there are none",
		Category: forOperators,
		Description: "Takes jobs from the queues of a pool, asks an inference server for every line, writes the results to the bucket,\n" +
			"and exits when it was idle for --idle. SIGTERM hands over what it holds and exits 0. Exits 1 if its engine cannot\n" +
			"do the work: another runner may. Logs to standard output, and under logs/ in the bucket.\n\n" +
			"An engine is any server that speaks OpenAI's HTTP API: http://host:port, https://host, or unix:///path; a trailing\n" +
			"/v1 is taken off. Its key is in SPOOL_ENGINE_API_KEY. Without --engine-url the runner starts vLLM itself, once there is\n" +
			"something to ask: the model of --model, or of the pool's engine in --config.\n\n" +
			"Examples:\n   spool run --bucket my-bucket --engine-url http://127.0.0.1:8000\n" +
			"   spool run --bucket my-bucket --pool big --engine-url unix:///run/v0.sock --engine-url unix:///run/v1.sock --idle 10m",
		Flags: append(slices.Concat(storeFlags(), queueFlags(), engineFlags(""), sentryFlags()), configFlag(), pushgatewayFlag("none"), prometheusFlag(), environmentFlag(),
			traceEveryFlag(),
			&cli.IntFlag{Name: "slots", Value: 256, Usage: "requests that the engines work on at once, all together; of the runner's own vLLM, each data-parallel rank"},
			&cli.StringFlag{Name: "pool", Value: watcher.DefaultPool, Usage: "`NAME` of the pool"},
			&cli.DurationFlag{Name: "idle", Value: time.Minute, Usage: "exit after `TIME` without work"},
			&cli.DurationFlag{Name: "lease-ttl", Value: lease.DefaultTTL, Usage: "this runner's leases are stale when not renewed for `TIME`"},
			&cli.StringFlag{Name: "scratch", Usage: "`DIR` for the answers of unfinished chunks (default: TMPDIR)"},
			hourPriceFlag()),
		Action: p.run,
	}
}

func (p *program) run(c *cli.Context) (err error) {
	if _, err := exactArgs(c, 0, 0); err != nil {
		return err
	}
	if err := positive(c, "slots", "idle", "lease-ttl", "trace-every"); err != nil {
		return err
	}
	name := instanceName("r")
	reg := prometheus.NewRegistry()
	calls := newStoreMeter(reg)
	log, closeLog, err := p.serviceLog(c, "runner", name, reg, calls)
	if err != nil {
		return err
	}
	defer closeLog()
	defer func() { err = logged(log, elsewhere(err)) }()
	about := service{component: "runner", job: monitoring.RunnerJob, name: name, reg: reg, log: log}
	tracer, stopTracing := startTracing(c, about)
	defer stopTracing()
	pool, err := poolFor(c)
	if err != nil {
		return err
	}
	gpus := watchGPUs(c.Context, engineEnv(c, pool), log)
	defer gpus.Close()
	if c.Context.Err() != nil {
		return nil // it was told to end before it had begun
	}
	cfg, err := p.runnerConfig(c, name, pool, gpus, reg, calls, log)
	if err != nil {
		return err
	}
	cfg.Tracer, cfg.TraceEvery = tracer, c.Int("trace-every")
	trade(cfg.Slots)
	r, err := runner.New(cfg)
	if err != nil {
		return failf(exitUsage, "", "%w", err)
	}
	stop, err := p.pushMetrics(c, about)
	if err != nil {
		return err
	}
	defer together(stop, stopTracing)
	return r.Run(inTrace(c.Context, os.Getenv))
}

// manySlots is from how many slots on a runner trades memory for CPU time.
const manySlots = 512

// trade lets the heap of a runner with many slots grow to three times of what lives, instead of twice, before the
// collector runs: at 1,024 requests in flight it takes 8 % less CPU time and 26 MiB more (docs/PERFORMANCE.md). GOGC
// has the last word.
func trade(slots int) {
	if slots >= manySlots && os.Getenv("GOGC") == "" {
		debug.SetGCPercent(200)
	}
}

// elsewhere gives advice where another runner may do better.
func elsewhere(err error) error {
	if failed, ok := errors.AsType[*vllm.StartError](err); ok {
		return failf(exitInternal, "docs/ENGINE.md says what to do about "+string(failed.Cause)+"; the log has the last lines of vLLM", "%w", err)
	}
	switch {
	case errors.Is(err, runner.ErrEngineDown):
		return failf(exitInternal, "check --engine-url or --model, and the log of the engine", "%w", err)
	case errors.Is(err, runner.ErrElsewhere):
		return failf(exitInternal, "start the engine with the model that the batch names, or use another pool", "%w", err)
	}
	if _, ok := errors.AsType[*gpu.UnfitError](err); ok {
		return failf(exitGPU, "give this machine up, and start a runner on another one", "%w", err)
	}
	return err
}

func (p *program) runnerConfig(
	c *cli.Context, name string, pool poolConfig, gpus runner.GPUs, reg *prometheus.Registry, calls *storeMeter, log *zap.Logger,
) (runner.Config, error) {
	s, err := p.openStore(c, "", log)
	if err != nil {
		return runner.Config{}, err
	}
	s = calls.of(s)
	fast, main, err := openPool(c, c.String("pool"))
	if err != nil {
		return runner.Config{}, err
	}
	host, _ := os.Hostname() // a label for people
	price, currency, err := parsePrice(c.String("hour-price"))
	if err != nil {
		return runner.Config{}, err
	}
	cfg := runner.Config{
		Bucket: s.Bucket, Fast: fast, Main: main,
		Finalizer: finalize.New(finalize.Config{Bucket: s.Bucket, By: name, Render: renderer(log)}),
		Name:      name, Version: version(), Host: host, Pool: c.String("pool"), HourPrice: price, Currency: currency,
		Scratch: c.String("scratch"), Idle: c.Duration("idle"), LeaseTTL: c.Duration("lease-ttl"),
		Retry: pool.Retry.policy(), GPUs: gpus, Log: log, Metrics: reg,
	}
	return cfg, setEngine(c, pool, &cfg)
}

// poolFor gives the pool of --pool. Without a configuration every name will do: its queues decide.
func poolFor(c *cli.Context) (poolConfig, error) {
	if c.String("config") == "" {
		return poolConfig{}, nil
	}
	file, err := readConfig(c)
	if err != nil {
		return poolConfig{}, err
	}
	return file.pool(c.String("pool"))
}

func openPool(c *cli.Context, pool string) (fast, main *queue.Queue, err error) {
	client, err := openQueues(c)
	if err != nil {
		return nil, nil, err
	}
	if fast, err = client.Open(c.Context, queue.FastQueue(pool)); err != nil {
		return nil, nil, err
	}
	main, err = client.Open(c.Context, queue.PoolQueue(pool))
	return fast, main, err
}
