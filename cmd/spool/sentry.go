package main

import (
	"cmp"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/urfave/cli/v2"
	"go.uber.org/zap"

	"spool/monitoring"
	"spool/monitoring/report"
	"spool/monitoring/sentry"
	"spool/storage/batch"
)

func sentryFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "sentry-dsn", Category: logGroup, EnvVars: []string{"SENTRY_DSN"},
			Usage: "`DSN` of a project at Sentry, which is told what fails, see docs/SENTRY.md (default: SENTRY_DSN, else none)"},
		&cli.Float64Flag{Name: "sentry-sample-rate", Category: logGroup, Value: 1, EnvVars: []string{"SENTRY_SAMPLE_RATE"},
			Usage: "`PART` of the events that is sent to Sentry, 0 to 1; also by SENTRY_SAMPLE_RATE"},
	}
}

// track lets Sentry know what a service logs as failed, if there is a DSN. stop sends what is held, within closeTelemetry.
func track(c *cli.Context, opt *monitoring.Options, reg prometheus.Registerer) (stop func(), err error) {
	dsn, rate := strings.TrimSpace(c.String("sentry-dsn")), c.Float64("sentry-sample-rate")
	if dsn == "" || rate == 0 {
		return func() {}, nil
	}
	r, err := sentry.New(sentry.Config{
		DSN: dsn, SampleRate: rate, Release: opt.Version, Environment: opt.Env, Server: opt.Instance,
		Tags: trackerTags(c, opt), Registerer: reg, CloseIn: closeTelemetry})
	if err != nil {
		return nil, failf(exitUsage, "see --sentry-dsn and --sentry-sample-rate, or leave them out: nothing was begun", "%w", err)
	}
	opt.Tracker = r
	return r.Close, nil
}

// trackerTags say which process it is.
func trackerTags(c *cli.Context, opt *monitoring.Options) map[string]string {
	tags := map[string]string{"component": opt.Component, opt.Component + "_id": opt.Instance}
	if opt.Component != "runner" {
		return tags
	}
	tags["pool"] = c.String("pool")
	file, err := readConfig(c)
	if err != nil { // the work reads the same, and says so
		return tags
	}
	if model := cmp.Or(c.String("model"), file.Pools[c.String("pool")].Engine.Model); model != "" {
		tags["model"] = model
	}
	return tags
}

// renderer gives report.Render, which also logs which lines of the batch failed: once for each kind, whoever ends it.
func renderer(log *zap.Logger) func(*batch.Summary) (html, markdown []byte) {
	return func(s *batch.Summary) (html, markdown []byte) {
		for _, class := range s.Errors {
			logClass(log, s, class)
		}
		return report.Render(s)
	}
}

func logClass(log *zap.Logger, s *batch.Summary, class batch.ErrorClass) {
	if class.Code == batch.CodeBatchCancelled { // as somebody wished
		return
	}
	ids := make([]string, len(class.Lines))
	for i, n := range class.Lines {
		ids[i] = batch.RequestID(s.Batch, n)
	}
	log.Error("lines failed", zap.String("event", "lines_failed"), zap.String("batch_id", s.Batch), zap.String("key", s.Input.Key),
		zap.String("error_type", "lines"), zap.String("code", cmp.Or(class.Code, "http_"+strconv.Itoa(class.Status))), zap.Int64("lines", class.Count),
		zap.Strings("request_ids", ids), zap.String("pool", s.Pool), zap.String("model", strings.Join(s.Models, ",")))
}
