package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"strings"
	"sync"

	"github.com/urfave/cli/v2"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/zap"

	"spool/monitoring"
	"spool/monitoring/tracing"
)

func traceEveryFlag() cli.Flag {
	return &cli.IntFlag{Name: "trace-every", Category: logGroup, Value: 200,
		Usage: "trace the request of one line in `N`, beside those that fail or are slow, if OTEL_EXPORTER_OTLP_ENDPOINT says where to"}
}

// startTracing begins to send spans, if OpenTelemetry's variables say where to. stop sends what waits, within
// closeTelemetry. That spans cannot be sent is no reason not to work: it is logged.
func startTracing(c *cli.Context, s service) (tracer trace.Tracer, stop func()) {
	on, err := tracesWanted(os.Getenv)
	var p *tracing.Provider
	if on {
		p, err = tracing.Start(c.Context, tracing.Config{
			Service: s.job, Instance: s.name, Version: version(), Env: c.String("environment"),
			Registerer: s.reg, Log: s.log, CloseIn: closeTelemetry,
		})
	}
	if err != nil {
		s.log.Warn("nothing is traced", zap.String("event", "tracing_off"), zap.Error(err))
	}
	if p == nil {
		return noop.Tracer{}, func() {}
	}
	return p.Tracer("spool"), p.Close
}

// tracesWanted reads those of OpenTelemetry's variables that say whether to trace at all. Its SDK would send to a
// collector on this machine if nothing is set; spool then traces nothing. An error says why it does not, though it was asked
// to.
func tracesWanted(getenv func(string) string) (bool, error) {
	set := func(name string) string { return strings.ToLower(strings.TrimSpace(getenv(name))) }
	exporters := set("OTEL_TRACES_EXPORTER")
	switch {
	case set("OTEL_SDK_DISABLED") == "true" || exporters == "none",
		set("OTEL_EXPORTER_OTLP_ENDPOINT") == "" && set("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") == "":
		return false, nil
	case exporters != "" && exporters != "otlp":
		return false, fmt.Errorf("OTEL_TRACES_EXPORTER is %s: want otlp or none", exporters)
	}
	protocol := cmp.Or(set("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"), set("OTEL_EXPORTER_OTLP_PROTOCOL"), "http/protobuf")
	if protocol != "http/protobuf" {
		return false, fmt.Errorf("the protocol of OTEL_EXPORTER_OTLP_… is %s: want http/protobuf, mostly at port 4318", protocol)
	}
	return true, nil
}

// inTrace gives ctx the place in a trace that TRACEPARENT and TRACESTATE name, as programs tell each other.
func inTrace(ctx context.Context, getenv func(string) string) context.Context {
	return monitoring.InTrace(ctx, map[string]string{"traceparent": getenv("TRACEPARENT"), "tracestate": getenv("TRACESTATE")})
}

// passTrace adds the place in a trace that the environment names to the metadata of an upload, unless that has one.
func passTrace(meta map[string]string, getenv func(string) string) {
	if meta["traceparent"] != "" {
		return
	}
	maps.Copy(meta, monitoring.TraceOf(inTrace(context.Background(), getenv)))
}

// together calls all at once, and waits for them.
func together(stops ...func()) {
	var all sync.WaitGroup
	for _, stop := range stops {
		all.Go(stop)
	}
	all.Wait()
}
