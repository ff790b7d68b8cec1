package tracing

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.uber.org/zap"
)

// gate stands before and behind the SDK's queue, which drops without telling: it lets in no more spans than there is room
// for, and counts those that it turns away and those that were not delivered.
type gate struct {
	sdk.SpanProcessor // the queue
	room              int64
	inside            atomic.Int64 // spans that wait or are on their way
	next              sdk.SpanExporter
	failures          prometheus.Counter
	log               *zap.Logger
	failing           bool // the last export; of export, which the queue calls once at a time
}

func newGate(next sdk.SpanExporter, failures prometheus.Counter, log *zap.Logger) *gate {
	g := &gate{next: next, failures: failures, log: log}
	g.SpanProcessor = sdk.NewBatchSpanProcessor(counted{next, g}, func(o *sdk.BatchSpanProcessorOptions) {
		sane(o)
		g.room = int64(o.MaxQueueSize) // 2048, or what OTEL_BSP_MAX_QUEUE_SIZE says
	})
	return g
}

// sane puts the SDK's defaults where the variables say what no queue can do: it would panic, or never rest.
func sane(o *sdk.BatchSpanProcessorOptions) {
	if o.MaxQueueSize <= 0 {
		o.MaxQueueSize = sdk.DefaultMaxQueueSize
	}
	if o.MaxExportBatchSize <= 0 {
		o.MaxExportBatchSize = min(sdk.DefaultMaxExportBatchSize, o.MaxQueueSize)
	}
	if o.BatchTimeout <= 0 {
		o.BatchTimeout = sdk.DefaultScheduleDelay * time.Millisecond
	}
}

// OnEnd never waits.
func (g *gate) OnEnd(s sdk.ReadOnlySpan) {
	if !s.SpanContext().IsSampled() {
		return
	}
	if g.inside.Add(1) > g.room {
		g.inside.Add(-1)
		g.failures.Inc()
		return
	}
	g.SpanProcessor.OnEnd(s)
}

// counted is the exporter as the queue sees it.
type counted struct {
	sdk.SpanExporter
	gate *gate
}

func (c counted) ExportSpans(ctx context.Context, spans []sdk.ReadOnlySpan) error {
	c.gate.export(ctx, spans)
	return nil // the SDK would only log it
}

// export counts spans that are not delivered, and logs when that begins and when it ends.
func (g *gate) export(ctx context.Context, spans []sdk.ReadOnlySpan) {
	defer g.inside.Add(-int64(len(spans)))
	err := g.next.ExportSpans(ctx, spans)
	if err != nil {
		g.failures.Add(float64(len(spans)))
	}
	if failing := err != nil; failing != g.failing {
		g.failing = failing
		if failing {
			g.log.Warn("spans cannot be sent", zap.String("event", "trace_failing"), zap.Error(err))
		} else {
			g.log.Info("spans are sent again", zap.String("event", "trace_recovered"))
		}
	}
}
