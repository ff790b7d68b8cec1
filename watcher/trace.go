package watcher

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"spool/monitoring"
	"spool/storage/batch"
)

// A batch is one trace, or a part of its user's. Its first span, "batch", ends when the plan stands, which carries the
// span's place in the trace: so every message about the batch, one that is sent again too, leads back to it, whoever dies.
// A span that lasted as long as the batch would be lost with the process that began it, and its children would hang in
// the air.

// startBatch begins the span of the planning of an upload: below that of the upload's metadata, else of the process's
// environment, else as the first of a trace.
func (w *Watcher) startBatch(ctx context.Context, up *upload, id string) (context.Context, trace.Span) {
	return w.cfg.Tracer.Start(monitoring.InTrace(ctx, up.Metadata), "batch", trace.WithAttributes(
		attribute.String("spool.batch.id", id), attribute.String("aws.s3.bucket", w.cfg.BucketName), attribute.String("aws.s3.key", up.Key)))
}

// describePlan says on its span what was planned.
func describePlan(span trace.Span, plan *batch.Plan, mine bool) {
	span.SetAttributes(attribute.String("spool.batch.verdict", plan.Verdict), attribute.String("spool.pool", plan.Pool),
		attribute.Int64("spool.batch.lines", plan.Lines), attribute.Int64("spool.batch.bad_lines", plan.Bad),
		attribute.Int("spool.batch.shards", len(plan.Shards)), attribute.Bool("spool.plan.stands", mine))
	if len(plan.Errors) > 0 && plan.Verdict == batch.Rejected {
		span.SetAttributes(attribute.String("error.type", plan.Errors[0].Code))
		span.SetStatus(codes.Error, "rejected")
	}
}

// startSend begins the span of one call that sends messages, which are its children.
func (p *pool) startSend(ctx context.Context, plan *batch.Plan, messages int) (context.Context, trace.Span) {
	name := p.queueName(plan)
	return p.w.cfg.Tracer.Start(monitoring.InTrace(ctx, plan.Trace), "send "+name, trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(
		attribute.String("messaging.system", "aws_sqs"), attribute.String("messaging.operation.type", "send"),
		attribute.String("messaging.operation.name", "send"), attribute.String("messaging.destination.name", name),
		attribute.Int("messaging.batch.message_count", messages), attribute.String("spool.batch.id", plan.Batch)))
}

// about says in a log line to which batch and trace it belongs.
func about(ctx context.Context, plan *batch.Plan, fields ...zap.Field) []zap.Field {
	fields = append(fields, zap.String("batch_id", plan.Batch), zap.String("key", plan.Input.Key))
	return append(fields, monitoring.TraceFields(monitoring.InTrace(ctx, plan.Trace))...)
}
