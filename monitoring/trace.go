package monitoring

import (
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
)

// TraceFields are the fields of a log line that belongs to a span, by OpenTelemetry's names; none if there is no span.
func TraceFields(sc trace.SpanContext) []zap.Field {
	if !sc.IsValid() {
		return nil
	}
	return []zap.Field{
		zap.String("trace_id", sc.TraceID().String()), zap.String("span_id", sc.SpanID().String()),
		zap.String("trace_flags", sc.TraceFlags().String()),
	}
}
