package main

import (
	"bytes"
	"context"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/urfave/cli/v2"
	"go.uber.org/zap"

	"spool/monitoring"
	"spool/storage"
	"spool/storage/batch"
)

// metricsFile is the name of the last metrics of a process, beside its logs.
const metricsFile = "metrics.prom"

func prometheusFlag() cli.Flag {
	return &cli.BoolFlag{Name: "enable-prometheus", Value: true, EnvVars: []string{"ENABLE_PROMETHEUS"},
		Usage: "push metrics, and leave " + metricsFile + " beside the logs at the end; on unless it is false"}
}

// service is a watcher or a runner as its telemetry sees it.
type service struct {
	component string // as in the keys of logs
	job       string // of its group at the Pushgateway
	name      string
	reg       *prometheus.Registry
	log       *zap.Logger
}

// pushMetrics starts to push metrics, if a Pushgateway is given. stop pushes the last ones and stores them in the bucket,
// within closeTelemetry.
func (p *program) pushMetrics(c *cli.Context, s service) (stop func(), err error) {
	if !c.Bool("enable-prometheus") {
		return func() {}, nil
	}
	bucket, err := p.openStore(c, "", zap.NewNop()) // now: at the end c.Context may be over
	if err != nil {
		return nil, err
	}
	stopPush, err := s.push(c.String("pushgateway"))
	if err != nil {
		return nil, failf(exitUsage, "", "%w", err)
	}
	return func() {
		var both sync.WaitGroup
		both.Go(stopPush)
		both.Go(func() { s.store(c.Context, bucket) })
		both.Wait()
	}, nil
}

// push starts the pusher and, in watchers, which are there when no runner is, the reaper.
func (s service) push(url string) (stop func(), err error) {
	if url == "" {
		return func() {}, nil
	}
	reaper := func() {}
	if s.job == monitoring.WatcherJob {
		r, err := monitoring.StartReaper(monitoring.ReaperConfig{URL: url, Registerer: s.reg, Log: s.log})
		if err != nil {
			return nil, err
		}
		reaper = r.Close
	}
	pusher, err := monitoring.StartPusher(monitoring.PusherConfig{
		URL: url, Job: s.job, Instance: s.name, Gatherer: s.reg, Registerer: s.reg, Log: s.log, CloseIn: closeTelemetry})
	if err != nil {
		reaper()
		return nil, err
	}
	return func() { reaper(); pusher.Close() }, nil
}

// store leaves the last metrics beside the logs: totals that need no Prometheus, and survive the Pushgateway.
func (s service) store(ctx context.Context, bucket storage.Bucket) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTelemetry)
	defer cancel()
	var body bytes.Buffer
	err := monitoring.WriteText(&body, monitoring.WithoutLive(s.reg))
	if err == nil {
		_, err = bucket.Put(ctx, batch.OtherLogDir(s.component, s.name)+metricsFile, body.Bytes(),
			storage.PutOptions{ContentType: "text/plain; version=0.0.4"})
	}
	if err != nil {
		s.log.Warn("last metrics not stored", zap.String("event", "metrics_not_stored"), zap.Error(err))
	}
}
