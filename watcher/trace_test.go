package watcher_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"spool/watcher"
)

// tracing gives a watcher a tracer, and the spans that it ended.
func tracing() (*tracetest.SpanRecorder, func(*watcher.Config)) {
	spans := tracetest.NewSpanRecorder()
	return spans, func(cfg *watcher.Config) {
		cfg.Tracer = sdk.NewTracerProvider(sdk.WithSpanProcessor(spans)).Tracer("test")
	}
}

// ended finds the one span of a name.
func ended(t *testing.T, spans *tracetest.SpanRecorder, name string) sdk.ReadOnlySpan {
	t.Helper()
	var found []sdk.ReadOnlySpan
	for _, s := range spans.Ended() {
		if s.Name() == name {
			found = append(found, s)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d spans %q among %d, want one", len(found), name, len(spans.Ended()))
	}
	return found[0]
}

// place is what a carrier says of a trace.
func place(fields map[string]string) trace.SpanContext {
	return trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier(fields)))
}

const (
	userTrace = "0af7651916cd43dd8448eb211c80319c"
	userSpan  = "b7ad6b7169203331"
)

// The trace of the user goes on in the watcher; plan, messages and log lead back to it.
func TestABatchIsATrace(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		spans, withTracer := tracing()
		core, log := observer.New(zapcore.InfoLevel)
		id := w.upload("in/x.jsonl", lines(3), "traceparent", "00-"+userTrace+"-"+userSpan+"-01", "tracestate", "a=1")
		w.scan(w.watcher(withTracer, func(cfg *watcher.Config) { cfg.Log = zap.New(core) }))

		root := ended(t, spans, "batch")
		if got := root.Parent(); got.TraceID().String() != userTrace || got.SpanID().String() != userSpan {
			t.Errorf("the parent of the batch is %v, want the user's span", got)
		}
		for _, name := range []string{"validate", "stage", "send spool-default-fast"} {
			if got := ended(t, spans, name); got.Parent().SpanID() != root.SpanContext().SpanID() || got.SpanContext().TraceID() != root.SpanContext().TraceID() {
				t.Errorf("%s is below %v, want the batch's %v", name, got.Parent(), root.SpanContext())
			}
		}
		wantAttributes(t, root, map[string]any{"spool.batch.id": id, "aws.s3.bucket": bucketName, "aws.s3.key": "in/x.jsonl",
			"spool.batch.verdict": "accepted", "spool.batch.lines": int64(3), "spool.batch.shards": int64(1), "spool.plan.stands": true})
		wantAttributes(t, ended(t, spans, "send spool-default-fast"), map[string]any{"messaging.system": "aws_sqs", "messaging.operation.type": "send",
			"messaging.destination.name": "spool-default-fast", "messaging.batch.message_count": int64(1), "spool.batch.id": id})

		plan := w.plan(id)
		if got := place(plan.Trace); got.SpanID() != root.SpanContext().SpanID() || got.TraceID().String() != userTrace || plan.Trace["tracestate"] != "a=1" {
			t.Errorf("the plan names %v, want the batch's span", plan.Trace)
		}
		send := ended(t, spans, "send spool-default-fast")
		if got := place(w.queues.fast().sent[0].Attributes); got.SpanID() != send.SpanContext().SpanID() || got.TraceID().String() != userTrace {
			t.Errorf("the message names %v, want the span that sent it", w.queues.fast().sent[0].Attributes)
		}
		planned := log.FilterField(zap.String("event", "batch_planned")).All()
		want := map[string]any{"trace_id": userTrace, "span_id": root.SpanContext().SpanID().String(), "trace_flags": "01"}
		if len(planned) != 1 {
			t.Fatalf("%d lines batch_planned", len(planned))
		}
		for name, v := range want {
			if got := planned[0].ContextMap()[name]; got != v {
				t.Errorf("the log has %s %v, want %v", name, got, v)
			}
		}
	})
}

func wantAttributes(t *testing.T, s sdk.ReadOnlySpan, want map[string]any) {
	t.Helper()
	got := map[string]any{}
	for _, kv := range s.Attributes() {
		if _, wanted := want[string(kv.Key)]; wanted {
			got[string(kv.Key)] = kv.Value.AsInterface()
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", s.Name(), diff)
	}
}

// Without a trace of the user, that of the process's environment counts, which ctx brings; without that a new one begins.
func TestABatchWithoutAUsersTrace(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		spans, withTracer := tracing()
		ctx := trace.ContextWithRemoteSpanContext(t.Context(), place(map[string]string{"traceparent": "00-" + userTrace + "-" + userSpan + "-01"}))
		w.upload("in/x.jsonl", lines(1))
		if err := w.watcher(withTracer).Scan(ctx); err != nil {
			t.Fatal(err)
		}
		if got := ended(t, spans, "batch").Parent(); got.TraceID().String() != userTrace || got.SpanID().String() != userSpan {
			t.Errorf("the parent of the batch is %v, want that of the environment", got)
		}
	})
	inWorld(t, func(t *testing.T, w *world) {
		spans, withTracer := tracing()
		w.upload("in/x.jsonl", lines(1))
		w.scan(w.watcher(withTracer))
		if got := ended(t, spans, "batch"); got.Parent().IsValid() || !got.SpanContext().IsSampled() {
			t.Errorf("the batch is below %v, want it the first of a trace", got.Parent())
		}
	})
}

// A message that is sent again, by another watcher, which knows nothing but the bucket, belongs to the same trace.
func TestAMessageSentAgainKeepsItsTrace(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		first, withFirst := tracing()
		id := w.upload("in/x.jsonl", lines(1))
		w.scan(w.watcher(withFirst))
		w.queues.fast().lose()
		second, withSecond := tracing()
		other := w.watcher(withSecond)
		sleep(time.Minute)
		w.scan(other)
		sleep(3 * time.Minute)
		w.scan(other)
		sent := w.queues.fast().sent
		if len(sent) != 2 {
			t.Fatalf("%d messages were sent, want the second after the loss of the first", len(sent))
		}
		root := ended(t, first, "batch").SpanContext()
		again := ended(t, second, "send spool-default-fast")
		if again.Parent().SpanID() != root.SpanID() || again.Parent().TraceID() != root.TraceID() {
			t.Errorf("batch %s was sent again below %v, want %v", id, again.Parent(), root)
		}
		if got := place(sent[1].Attributes); got.TraceID() != root.TraceID() || got.SpanID() != again.SpanContext().SpanID() {
			t.Errorf("the message has %v, want a place in trace %s", sent[1].Attributes, root.TraceID())
		}
	})
}

func TestARejectedFileIsAFailedSpan(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		spans, withTracer := tracing()
		id := w.upload("in/x.jsonl", "not JSON\n")
		w.scan(w.watcher(withTracer))
		root := ended(t, spans, "batch")
		if root.Status().Code != codes.Error {
			t.Errorf("status %v, want an error", root.Status())
		}
		wantAttributes(t, root, map[string]any{"error.type": "invalid_json", "spool.batch.verdict": "rejected", "spool.batch.bad_lines": int64(1)})
		final := ended(t, spans, "finalise")
		if final.Parent().SpanID() != root.SpanContext().SpanID() {
			t.Errorf("finalise is below %v, want the batch's %v", final.Parent(), root.SpanContext())
		}
		wantAttributes(t, final, map[string]any{"spool.batch.id": id, "spool.batch.outcome": "failed"})
	})
}
