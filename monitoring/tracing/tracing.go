// Package tracing sends spans to an OpenTelemetry collector by OTLP over HTTP. It is the only one that knows the SDK: all
// others take a trace.Tracer of the API, of which the one that does nothing is the default, and record what they like
// without waiting.
//
// What the variables OTEL_* say is read by the SDK itself: where and how to send (OTEL_EXPORTER_OTLP_…), what to sample
// (OTEL_TRACES_SAMPLER…), how many spans may wait and for how long (OTEL_BSP_…), and the resource. Whether to trace at all
// is the caller's to decide.
package tracing

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"spool/monitoring"
)

// Config says who traces. Service and Instance must be set.
type Config struct {
	Service  string // service.name, unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES say otherwise
	Instance string // service.instance.id
	Version  string // service.version; "": none
	Env      string // deployment.environment.name; "": none

	Registerer prometheus.Registerer // for the count of spans that were not delivered; default none
	Log        *zap.Logger           // default none
	CloseIn    time.Duration         // the most that Close takes; default 5 s
}

// Provider makes tracers. Its methods may be called concurrently.
type Provider struct {
	*sdk.TracerProvider
	gate    *gate
	closeIn time.Duration
	once    sync.Once
}

var _ trace.TracerProvider = (*Provider)(nil)

// Start begins to send spans in the background, in goroutines that Close ends. It connects to nobody: a collector that is
// down or hangs costs the spans that find no room, which are counted, and nothing else. It takes over the logger of
// OpenTelemetry and the handler of its errors, of which a process has one each.
func Start(ctx context.Context, cfg Config) (*Provider, error) {
	if cfg.Service == "" || cfg.Instance == "" {
		return nil, errors.New("tracing: service and instance must be set")
	}
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	failures, err := monitoring.SinkFailures(cfg.Registerer, "otlp")
	if err != nil {
		return nil, err
	}
	otel.SetLogger(logr.New(complaints{cfg.Log}))
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		cfg.Log.Warn("tracing has a problem", zap.String("event", "trace_problem"), zap.Error(err))
	}))
	res, err := describe(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("tracing: %w", err)
	}
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, fmt.Errorf("tracing: %w", err)
	}
	g := newGate(exporter, failures, cfg.Log)
	return &Provider{
		TracerProvider: sdk.NewTracerProvider(sdk.WithSpanProcessor(g), sdk.WithResource(res)),
		gate:           g, closeIn: cmp.Or(cfg.CloseIn, 5*time.Second),
	}, nil
}

// describe is the resource of all spans. What the variables say counts.
func describe(ctx context.Context, cfg Config) (*resource.Resource, error) {
	own := []attribute.KeyValue{attribute.String("service.name", cfg.Service), attribute.String("service.instance.id", cfg.Instance)}
	if cfg.Version != "" {
		own = append(own, attribute.String("service.version", cfg.Version))
	}
	if cfg.Env != "" {
		own = append(own, attribute.String("deployment.environment.name", cfg.Env))
	}
	return resource.New(ctx, resource.WithTelemetrySDK(), resource.WithAttributes(own...), resource.WithFromEnv())
}

// Close sends what waits, within Config.CloseIn, and gives up the rest, which is counted but for what a collector that
// hangs may have got. It may be called twice. Spans that end after it are lost.
func (p *Provider) Close() {
	p.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), p.closeIn)
		defer cancel()
		if p.Shutdown(ctx) != nil { // told by the exports, whose failure it is
			_ = p.gate.next.Shutdown(ctx) // ends the export that is under way
		}
	})
}
