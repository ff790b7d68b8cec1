package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/urfave/cli/v2"
	"go.uber.org/zap"

	"spool/monitoring"
	"spool/storage"
	"spool/storage/batch"
)

// closeTelemetry is left at the exit to what may hang: first to metrics, then, since the end is logged, to logs and Sentry. With
// two seconds for all else it is the 10 s that telemetry may cost.
const closeTelemetry = 4 * time.Second

// serviceLog is the logger of a watcher or a runner: to standard output, and into the bucket. Close it at the end, last
// of all.
func (p *program) serviceLog(
	c *cli.Context, component, name string, reg prometheus.Registerer, calls *storeMeter,
) (*zap.Logger, func(), error) {
	ship, err := monitoring.NewShipper(monitoring.ShipperConfig{
		Component: component, Instance: name, Registerer: reg, CloseIn: closeTelemetry})
	if err != nil {
		return nil, nil, err
	}
	opt := monitoring.Options{Component: component, Instance: name, Version: version(), Env: c.String("environment"), Shipper: ship}
	untrack, err := track(c, &opt, reg)
	if err != nil {
		return nil, nil, err
	}
	log, closeSinks, err := p.logTo(c, p.stdout, opt)
	if err != nil {
		untrack()
		return nil, nil, err
	}
	closeLog := func() {
		var both sync.WaitGroup
		both.Go(closeSinks)
		both.Go(untrack)
		both.Wait()
	}
	// A client of its own, which logs nothing: logs about how logs are stored would never end, and a store that hangs
	// with them holds no connection of the work.
	s, err := p.openStore(c, "", zap.NewNop())
	if err != nil { // the work opens the same, and says so
		return log, closeLog, nil
	}
	ship.Start(logSink{calls.of(s)}, log)
	return log, closeLog, nil
}

// logSink is a bucket as a monitoring.Shipper sees it.
type logSink struct{ storage.Bucket }

func (s logSink) Put(ctx context.Context, key string, body []byte) error {
	_, err := s.Bucket.Put(ctx, key, body, storage.PutOptions{ContentType: "application/gzip"})
	return err
}

// LogDir knows from the plan to which input a batch belongs.
func (s logSink) LogDir(ctx context.Context, id string) (string, error) {
	if !batch.ValidID(id) {
		return "", fmt.Errorf("batch id %q of a log line is none", id)
	}
	body, _, err := storage.ReadAll(ctx, s.Bucket, batch.PlanKey(id))
	if storage.IsNotFound(err) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	var plan struct{ Input struct{ Key string } }
	if err := json.Unmarshal(body, &plan); err != nil {
		return "", fmt.Errorf("read %q: %w", batch.PlanKey(id), err)
	}
	return batch.LogDir(plan.Input.Key, id), nil
}

func environmentFlag() cli.Flag {
	return &cli.StringFlag{Name: "environment", Category: logGroup, EnvVars: []string{"ENVIRONMENT"}, Usage: "`NAME` of where this is, in the log and at Sentry: production"}
}

// secrets are what this process knows and no log may hold.
func secrets(c *cli.Context) []string {
	list := []string{c.String("engine-api-key")}
	for _, name := range []string{"AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "VLLM_API_KEY"} {
		list = append(list, os.Getenv(name))
	}
	for _, name := range []string{"OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"} {
		for header := range strings.SplitSeq(os.Getenv(name), ",") {
			_, value, _ := strings.Cut(header, "=")
			list = append(list, withoutEscapes(strings.TrimSpace(value))...)
		}
	}
	return append(list, slices.Concat(userOf(c.String("pushgateway")), userOf(c.String("sentry-dsn")))...)
}

// userOf gives what is secret of a URL with a password, or with a key alone in the place of a name.
func userOf(text string) []string {
	u, err := url.Parse(strings.TrimSpace(text))
	if err != nil || u.User == nil {
		return nil
	}
	if password, ok := u.User.Password(); ok {
		return []string{password}
	}
	return []string{u.User.Username()}
}

// withoutEscapes gives a value as it is written, and as it is sent.
func withoutEscapes(s string) []string {
	if sent, err := url.PathUnescape(s); err == nil {
		return []string{s, sent}
	}
	return []string{s}
}
