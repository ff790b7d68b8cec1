package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/urfave/cli/v2"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"spool/monitoring"
	"spool/storage/batch"
	"spool/storage/finalize"
	"spool/storage/queue"
	"spool/watcher"
)

func (p *program) watchCommand() *cli.Command {
	return &cli.Command{
		Name:     "watch",
		Usage:    "turn files under in/ into jobs on the queues",
		Category: forOperators,
		Description: "Runs until SIGTERM; any number may run on one bucket. With --once it looks at everything once and exits, for cron.\n" +
			"S3 events on the queue spool-events, if that exists, make it fast; listing makes it complete. Exits 9 if the\n" +
			"store cannot keep the promises that spool relies on (spool doctor says which). Logs to standard output, and\n" +
			"under logs/ in the bucket.\n\n" +
			"Examples:\n   spool watch --bucket my-bucket --create-queues\n   spool watch --bucket my-bucket --once",
		Flags: append(slices.Concat(storeFlags(), queueFlags(), sentryFlags()), configFlag(), pushgatewayFlag("none"), prometheusFlag(), environmentFlag(),
			&cli.BoolFlag{Name: "once", Usage: "scan once, and exit"},
			&cli.BoolFlag{Name: "create-queues", Usage: "create the queues that are missing, that of the events too"},
			&cli.IntFlag{Name: "queue-ahead", Value: watcher.DefaultQueueAhead, Usage: "unstarted jobs kept queued a pool; at least the number of runners wanted"},
			&cli.DurationFlag{Name: "scan-every", Value: watcher.DefaultScanEvery, Usage: "`TIME` between scans"},
			&cli.StringFlag{Name: "ignore-before", Usage: "leave inputs alone that are older than `TIME`, RFC 3339 or a date"},
			&cli.BoolFlag{Name: "queues-lost", Hidden: true, Usage: "the queues are new: send again what was sent before (spool local)"},
			&cli.BoolFlag{Name: "allow-weak-store", Usage: "run on a store that fails the probe: lines may be lost or doubled"}),
		Action: p.watch,
	}
}

func (p *program) watch(c *cli.Context) (err error) {
	if _, err := exactArgs(c, 0, 0); err != nil {
		return err
	}
	if err := positive(c, "queue-ahead", "scan-every"); err != nil {
		return err
	}
	name := instanceName("w")
	reg := prometheus.NewRegistry()
	calls := newStoreMeter(reg)
	log, closeLog, err := p.serviceLog(c, "watcher", name, reg, calls)
	if err != nil {
		return err
	}
	defer closeLog()
	defer func() { err = logged(log, err) }()
	about := service{component: "watcher", job: monitoring.WatcherJob, name: name, reg: reg, log: log}
	tracer, stopTracing := startTracing(c, about)
	defer stopTracing()
	w, err := p.newWatcher(c, watchOptions{name: name, log: log, reg: reg, calls: calls, tracer: tracer})
	if err != nil {
		return err
	}
	stop, err := p.pushMetrics(c, about)
	if err != nil {
		return err
	}
	defer together(stop, stopTracing)
	ctx := inTrace(c.Context, os.Getenv)
	log.Info("watcher starts", zap.String("event", "watcher_started"), zap.String("version", version()), zap.String("bucket", c.String("bucket")))
	if c.Bool("once") {
		return w.Scan(ctx)
	}
	return w.Run(ctx)
}

// finishPatience is left to a runner whose manifest stands, so that a large output is not read and
// uploaded twice.
const finishPatience = 2 * time.Minute

// watchOptions are what a watcher gets beside its flags.
type watchOptions struct {
	name  string
	log   *zap.Logger
	reg   prometheus.Registerer
	calls *storeMeter

	tracer trace.Tracer
}

func (p *program) newWatcher(c *cli.Context, opt watchOptions) (*watcher.Watcher, error) {
	cfg, err := readConfig(c)
	if err != nil {
		return nil, err
	}
	before, err := parseDay(c.String("ignore-before"))
	if err != nil {
		return nil, err
	}
	s, err := p.openStore(c, "", opt.log)
	if err != nil {
		return nil, err
	}
	if _, err := firstKey(c.Context, s, batch.InPrefix); err != nil {
		return nil, err // that of the probe would be about each of its parts
	}
	s = opt.calls.of(s)
	queues, err := openQueues(c)
	if err != nil {
		return nil, err
	}
	if c.Bool("create-queues") {
		if err := createQueues(c.Context, queues, cfg.names(), s.name); err != nil {
			return nil, err
		}
	}
	if c.Bool("queues-lost") {
		if err := watcher.ForgetSent(c.Context, s.Bucket); err != nil {
			return nil, err
		}
	}
	events, err := openEvents(c.Context, queues, opt.log)
	if err != nil {
		return nil, err
	}
	w, err := watcher.New(watcher.Config{
		Bucket: s.Bucket, Deleter: s.Deleter, BucketName: s.name,
		Queues: watcher.SQS(queues), Events: events,
		Finalizer: finalize.New(finalize.Config{Bucket: s.Bucket, By: opt.name, Patience: finishPatience, Render: renderer(opt.log)}),
		Pools:     cfg.watched(), Name: opt.name,
		QueueAhead: c.Int("queue-ahead"), ScanEvery: c.Duration("scan-every"), IgnoreBefore: before,
		AllowWeakStore: c.Bool("allow-weak-store"), Log: opt.log, Registerer: opt.reg, Tracer: opt.tracer,
	})
	if err != nil {
		return nil, failf(exitUsage, "", "%w", err)
	}
	return w, nil
}

func openQueues(c *cli.Context) (*queue.Client, error) {
	client, err := queue.New(c.Context, queue.Config{Region: c.String("region"), Endpoint: c.String("sqs-endpoint")})
	if err != nil {
		return nil, failf(exitUsage, "", "%w", err)
	}
	return client, nil
}

func createQueues(ctx context.Context, client *queue.Client, pools []string, bucket string) error {
	for _, pool := range pools {
		if err := client.EnsurePool(ctx, pool); err != nil {
			return err
		}
	}
	return client.EnsureEvents(ctx, bucket)
}

// openEvents gives the queue of events, or nil if there is none: listing finds everything, only later.
func openEvents(ctx context.Context, client *queue.Client, log *zap.Logger) (watcher.Source, error) {
	q, err := client.Open(ctx, queue.EventsQueue)
	if isNoQueue(err) {
		log.Warn("no queue for events: new files are found by listing only", zap.String("event", "no_events_queue"),
			zap.String("error_type", "queue_not_found"), zap.String("queue", queue.EventsQueue))
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return q, nil
}

// instanceName names a process, never to be used again: r-host-1f3a9c42.
func instanceName(prefix string) string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "unknown"
	}
	host, _, _ = strings.Cut(host, ".")
	return fmt.Sprintf("%s-%s-%s", prefix, host, uuid.NewString()[:8])
}

// parseDay reads --ignore-before.
func parseDay(s string) (time.Time, error) {
	t, err := parseTime(s)
	if err != nil {
		return t, usagef("--ignore-before %q: want a date like 2026-11-23, or RFC 3339", s)
	}
	return t, nil
}

// parseTime reads RFC 3339, or a date, which begins in UTC; "" is the zero time.
func parseTime(s string) (t time.Time, err error) {
	if s == "" {
		return t, nil
	}
	if t, err = time.Parse(time.DateOnly, s); err != nil {
		t, err = time.Parse(time.RFC3339, s)
	}
	return t, err
}
