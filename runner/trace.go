package runner

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"spool/monitoring"
	"spool/runner/vllm"
	"spool/storage/batch"
	"spool/storage/queue"
)

// A job has two spans, as OpenTelemetry's conventions for messaging have them: "receive", which ends at once and is above
// all that the job does, and "process", which is made when the job is over. A killed runner thus leaves the spans that
// had ended, and what they hang from, and loses the last one and what was open. Messages are received one by one, so
// that the span that sent the message is the parent, not a link.

// traceReceive records that a job was received; what is done for it is below the context that it gives.
func (r *Runner) traceReceive(ctx context.Context, j job, received time.Time) context.Context {
	name := r.queueName(j)
	ctx, span := r.cfg.Tracer.Start(ctx, "receive "+name, trace.WithSpanKind(trace.SpanKindClient), trace.WithTimestamp(received),
		trace.WithAttributes(messaging(name, "receive", j.message)...))
	span.End(trace.WithTimestamp(received))
	return ctx
}

// traceProcess records what became of a job. parent is above the job, ctx is that of traceReceive. It gives the place of
// the span if it is recorded.
func (r *Runner) traceProcess(parent, ctx context.Context, j job, received time.Time, f fate, err error) trace.SpanContext {
	name := r.queueName(j)
	_, span := r.cfg.Tracer.Start(parent, "process "+name, trace.WithSpanKind(trace.SpanKindConsumer), trace.WithTimestamp(received),
		trace.WithLinks(trace.LinkFromContext(ctx)))
	seen := placeOf(span)
	if seen.IsValid() {
		span.SetAttributes(messaging(name, "process", j.message)...)
		span.SetAttributes(attribute.String("spool.job.fate", f.name))
	}
	monitoring.EndSpan(span, err)
	return seen
}

func (r *Runner) queueName(j job) string {
	if j.fast {
		return queue.FastQueue(r.cfg.Pool)
	}
	return queue.PoolQueue(r.cfg.Pool)
}

func messaging(queueName, operation string, m *queue.Message) []attribute.KeyValue {
	list := []attribute.KeyValue{
		attribute.String("messaging.system", "aws_sqs"), attribute.String("messaging.operation.type", operation),
		attribute.String("messaging.operation.name", operation), attribute.String("messaging.destination.name", queueName),
		attribute.String("messaging.message.id", m.ID), attribute.Int("spool.message.receive_count", m.ReceiveCount),
	}
	if b, ok := subject(m); ok {
		list = append(list, attribute.String("spool.batch.id", b.Batch), attribute.Int("spool.shard", b.Shard))
	}
	return list
}

// placeOf is the place of a span that is recorded, so that others may refer to it.
func placeOf(span trace.Span) (none trace.SpanContext) {
	if span.IsRecording() {
		return span.SpanContext()
	}
	return none
}

// begin starts the span of a chunk, unless it was begun before.
func (c *chunk) begin(ctx context.Context) {
	if c.span != nil {
		return
	}
	_, c.span = c.owner.cfg.Tracer.Start(ctx, "chunk", trace.WithAttributes(
		attribute.String("spool.batch.id", c.batch), attribute.Int("spool.shard", c.shard), attribute.Int("spool.chunk", c.number)))
	if c.traced = c.span.IsRecording(); c.traced { // of a trace that is not sampled nothing is recorded
		c.header = traceHeader(c.span.SpanContext().WithTraceFlags(0))
	}
}

// end says what became of a chunk that is stored.
func (c *chunk) end(mine bool, info batch.ChunkInfo) {
	if c.traced {
		c.span.SetAttributes(attribute.Bool("spool.chunk.mine", mine), attribute.Int64("spool.chunk.ok", info.Counts.OK),
			attribute.Int64("spool.chunk.errors", info.Counts.Err), attribute.Int64("spool.chunk.bytes", info.Size),
			attribute.Int64("gen_ai.usage.input_tokens", info.Usage.InputTokens), attribute.Int64("gen_ai.usage.output_tokens", info.Usage.OutputTokens))
	}
	c.span.End()
}

// giveUp ends the span of a chunk that was not stored; of one that was, it has ended.
func (c *chunk) giveUp() {
	if c.traced {
		c.span.SetAttributes(attribute.Bool("spool.chunk.given_up", true))
		c.span.End()
	}
}

// traceHeader carries a place in a trace to an engine, in the headers of W3C Trace Context.
func traceHeader(sc trace.SpanContext) http.Header {
	h := http.Header{"Traceparent": {"00-" + sc.TraceID().String() + "-" + sc.SpanID().String() + "-" + sc.TraceFlags().String()}}
	if state := sc.TraceState().String(); state != "" {
		h["Tracestate"] = []string{state}
	}
	return h
}

// mostFailures is how many failed requests of one chunk have a span: an engine that fails them all says enough with these.
const mostFailures = 20

// trace begins the span of a request of a chunk that is traced, if its line is one of those that are followed, and gives
// what the engine is told. Without it an engine that traces would begin a trace for each request.
func (t *task) trace() http.Header {
	c := t.chunk
	if !c.traced {
		return nil
	}
	if (t.line-1)%int64(c.owner.cfg.TraceEvery) != 0 {
		return c.header
	}
	t.span = t.startSpan(time.Now())
	return traceHeader(t.span.SpanContext())
}

func (t *task) startSpan(at time.Time) trace.Span {
	operation, model := operationOf(t.path), t.model()
	_, span := t.chunk.owner.cfg.Tracer.Start(trace.ContextWithSpan(t.ctx, t.chunk.span), operation+" "+model, trace.WithTimestamp(at), trace.WithSpanKind(trace.SpanKindClient),
		trace.WithAttributes(attribute.String("gen_ai.operation.name", operation), attribute.String("gen_ai.provider.name", "openai"),
			attribute.String("gen_ai.request.model", model), attribute.String("spool.batch.id", t.chunk.batch),
			attribute.String("spool.request.id", t.requestID()), attribute.Int("spool.request.attempt", t.tries)))
	return span
}

// model is the name that the request asks for: the label of metrics, unless that stands for many.
func (t *task) model() string {
	name := t.series.model
	if name == otherModels {
		_ = json.Unmarshal(read(t.body).Model, &name) // a string, or there would be no task
	}
	return name
}

// operationOf is the name of an endpoint by the conventions for generative AI; of those that they do not know, its path.
func operationOf(path string) string {
	path = strings.TrimPrefix(strings.TrimPrefix(path, "/v1"), "/")
	switch path {
	case "chat/completions", "responses":
		return "chat"
	case "completions":
		return "text_completion"
	}
	return path
}

// traced ends the span of a request. One that was not followed has a span after all if it failed, or was among the
// slowest. It gives the place of the span; none if there is none.
func (t *task) traced(a vllm.Answer, took time.Duration) (seen trace.SpanContext) {
	c := t.chunk
	if !c.traced {
		return seen
	}
	ok := a.Outcome == vllm.OK
	slow := ok && t.series.slow.over(took)
	failed := !ok && a.Outcome != vllm.Ended && c.failed.Add(1) <= mostFailures
	span := t.span
	t.span = nil
	if span == nil && (slow || failed) {
		span = t.startSpan(time.Now().Add(-took))
	}
	if span == nil {
		return seen
	}
	seen = placeOf(span)
	span.SetAttributes(attribute.String("spool.request.outcome", a.Outcome.String()))
	if a.Status != 0 {
		span.SetAttributes(attribute.Int("http.response.status_code", a.Status))
	}
	switch {
	case ok:
		span.SetAttributes(attribute.Int64("gen_ai.usage.input_tokens", a.Usage.Input), attribute.Int64("gen_ai.usage.output_tokens", a.Usage.Output))
	case a.Outcome != vllm.Ended:
		span.SetAttributes(attribute.String("error.type", errorType(a)))
		span.SetStatus(codes.Error, "")
	}
	span.End()
	return seen
}

// observe adds a value to a histogram, and leads from there to its span if there is one.
func observe(h prometheus.Observer, seconds float64, seen trace.SpanContext) {
	if seen.IsSampled() {
		if e, ok := h.(prometheus.ExemplarObserver); ok {
			e.ObserveWithExemplar(seconds, prometheus.Labels{"trace_id": seen.TraceID().String(), "span_id": seen.SpanID().String()})
			return
		}
	}
	h.Observe(seconds)
}

// tail finds the slowest hundredth of times. It follows their 99th percentile: each time above moves it up by 99 steps, each
// below down by one, so that it rests where one in a hundred is above, whatever they are; its steps are a thousandth of
// it. It may be used concurrently.
type tail struct{ limit atomic.Int64 } // nanoseconds

// over reports whether a time is among the slowest.
func (t *tail) over(took time.Duration) bool {
	limit := t.limit.Load()
	step := limit/1000 + 1
	if int64(took) <= limit {
		t.limit.Add(-step)
		return false
	}
	if limit == 0 { // the first one
		t.limit.Store(int64(took))
		return false
	}
	t.limit.Add(99 * step)
	return true
}
