package monitoring

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"spool/storage/batch"
)

// InTrace gives ctx the place in a trace that fields name, traceparent and tracestate of W3C Trace Context. If they name
// none, the place of ctx stays.
func InTrace(ctx context.Context, fields map[string]string) context.Context {
	return propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier(fields))
}

// TraceOf is the opposite of InTrace; nil if ctx is in no trace.
func TraceOf(ctx context.Context) map[string]string {
	fields := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, fields)
	if len(fields) == 0 {
		return nil
	}
	return fields
}

// finalizer ends batches. Try returns nil, nil if it is too early.
type finalizer interface {
	Try(ctx context.Context, plan *batch.Plan) (*batch.Result, error)
}

// Finalise calls f.Try, and records that the batch was finalised, which belongs to the batch. That it was too early for it is
// not worth a span.
func Finalise(ctx context.Context, tracer trace.Tracer, f finalizer, plan *batch.Plan, links ...trace.Link) (*batch.Result, error) {
	begun := time.Now()
	result, err := f.Try(ctx, plan)
	if result == nil && err == nil {
		return nil, nil
	}
	_, span := tracer.Start(InTrace(ctx, plan.Trace), "finalise", trace.WithTimestamp(begun), trace.WithLinks(links...),
		trace.WithAttributes(attribute.String("spool.batch.id", plan.Batch)))
	if result != nil {
		span.SetAttributes(attribute.String("spool.batch.outcome", result.Outcome),
			attribute.Int64("spool.batch.completed", result.Completed), attribute.Int64("spool.batch.failed", result.Failed))
	}
	EndSpan(span, err)
	return result, err
}

// EndSpan ends a span, and says of which type the error was if there was one. Its text is for the log.
func EndSpan(span trace.Span, err error) {
	if err != nil && span.IsRecording() {
		span.SetAttributes(attribute.String("error.type", ErrorType(err)))
		span.SetStatus(codes.Error, "")
	}
	span.End()
}

// TraceFields are the fields of a log line that belongs to the span of ctx, by OpenTelemetry's names; none if there is no
// span.
func TraceFields(ctx context.Context) []zap.Field {
	sc := trace.SpanContextFromContext(ctx)
	if !sc.IsValid() {
		return nil
	}
	return []zap.Field{
		zap.String("trace_id", sc.TraceID().String()), zap.String("span_id", sc.SpanID().String()),
		zap.String("trace_flags", sc.TraceFlags().String()),
	}
}
