package tracing_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"spool/monitoring/tracing"
	"spool/monitoring/tracing/otlptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve starts a collector, and says to the SDK where it is.
func serve(t *testing.T, h http.Handler) {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.URL)
	t.Cleanup(http.DefaultTransport.(*http.Transport).CloseIdleConnections)
}

func start(t *testing.T, cfg tracing.Config) *tracing.Provider {
	t.Helper()
	cfg.Service, cfg.Instance = "spool-runner", "r-1"
	p, err := tracing.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// failures is the counter of spans that were not delivered.
func failures(t *testing.T, reg *prometheus.Registry) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "spool_telemetry_failures_total" && f.GetMetric()[0].GetLabel()[0].GetValue() == "otlp" {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	t.Fatal("no counter of failures")
	return 0
}

func TestSpansReachTheCollector(t *testing.T) {
	var got otlptest.Collector
	serve(t, &got)
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "team=search,service.version=overruled")
	reg := prometheus.NewRegistry()
	p := start(t, tracing.Config{Version: "v1", Env: "production", Registerer: reg})
	ctx, parent := p.Tracer("test").Start(t.Context(), "parent")
	_, child := p.Tracer("test").Start(ctx, "child", trace.WithSpanKind(trace.SpanKindClient))
	child.End()
	parent.End()
	p.Close()
	p.Close()

	spans := got.Spans()
	if len(spans) != 2 {
		t.Fatalf("%d spans, want 2", len(spans))
	}
	c, top := spans[0], spans[1]
	if c.Name != "child" || c.Kind != "SPAN_KIND_CLIENT" || c.Parent != top.ID || c.Trace != top.Trace || top.Parent != "" || top.Trace != parent.SpanContext().TraceID().String() {
		t.Errorf("spans %+v and %+v, want child below parent", c, top)
	}
	resource := map[string]string{}
	for _, k := range []string{"service.name", "service.instance.id", "service.version", "deployment.environment.name", "team"} {
		resource[k] = c.Resource[k]
	}
	want := map[string]string{"service.name": "spool-runner", "service.instance.id": "r-1", "service.version": "overruled",
		"deployment.environment.name": "production", "team": "search"}
	if diff := cmp.Diff(want, resource); diff != "" {
		t.Errorf("resource (-want +got):\n%s", diff)
	}
	if n := failures(t, reg); n != 0 {
		t.Errorf("%v spans were counted as lost", n)
	}
}

func TestServiceNameOfTheEnvironment(t *testing.T) {
	var got otlptest.Collector
	serve(t, &got)
	t.Setenv("OTEL_SERVICE_NAME", "mine")
	p := start(t, tracing.Config{})
	_, span := p.Tracer("test").Start(t.Context(), "span")
	span.End()
	p.Close()
	if spans := got.Spans(); len(spans) != 1 || spans[0].Resource["service.name"] != "mine" {
		t.Errorf("spans %+v, want one of mine", spans)
	}
}

func TestTheSamplerOfTheEnvironment(t *testing.T) {
	var got otlptest.Collector
	serve(t, &got)
	t.Setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
	t.Setenv("OTEL_TRACES_SAMPLER_ARG", "0")
	p := start(t, tracing.Config{})
	_, span := p.Tracer("test").Start(t.Context(), "span")
	if span.IsRecording() || span.SpanContext().IsSampled() {
		t.Error("a span is recorded although none is to be sampled")
	}
	span.End()
	p.Close()
	if spans := got.Spans(); len(spans) != 0 {
		t.Errorf("spans %+v, want none", spans)
	}
}

// A collector that hangs blocks nobody: what finds no room is counted, and so is what is given up in the end.
func TestACollectorThatHangs(t *testing.T) {
	reached, release := make(chan struct{}), make(chan struct{})
	var calls atomic.Int64
	serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if calls.Add(1) == 1 {
			close(reached)
		}
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(func() { close(release) })
	t.Setenv("OTEL_BSP_MAX_QUEUE_SIZE", "10")
	t.Setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4")
	reg := prometheus.NewRegistry()
	core, log := observer.New(zap.InfoLevel)
	p := start(t, tracing.Config{Registerer: reg, Log: zap.New(core), CloseIn: 50 * time.Millisecond})
	end := func(n int) {
		for range n {
			_, span := p.Tracer("test").Start(t.Context(), "span")
			span.End()
		}
	}
	end(4)
	<-reached // these are on their way
	end(96)
	if n := failures(t, reg); n != 90 {
		t.Errorf("%v spans were counted as lost while the collector hung, want 90: 10 have room", n)
	}
	p.Close()
	// What was given up is counted by those who come back from it.
	for deadline := time.Now().Add(time.Minute); failures(t, reg) != 100; {
		if time.Now().After(deadline) {
			t.Fatalf("%v spans were counted as lost, want all 100", failures(t, reg))
		}
		<-time.After(time.Millisecond)
	}
	if n := log.FilterField(zap.String("event", "trace_failing")).Len(); n != 1 {
		t.Errorf("%d lines say that spans cannot be sent, want one", n)
	}
}

func TestACollectorThatRefusesAndRecovers(t *testing.T) {
	var got otlptest.Collector
	var calls atomic.Int64
	serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1) == 1 {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		got.ServeHTTP(w, r)
	}))
	t.Setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1")
	reg := prometheus.NewRegistry()
	core, log := observer.New(zap.InfoLevel)
	p := start(t, tracing.Config{Registerer: reg, Log: zap.New(core)})
	for _, name := range []string{"refused", "taken"} {
		_, span := p.Tracer("test").Start(t.Context(), name)
		span.End()
	}
	p.Close()
	if spans := got.Spans(); len(spans) != 1 || spans[0].Name != "taken" {
		t.Errorf("spans %+v, want the second", spans)
	}
	if n := failures(t, reg); n != 1 {
		t.Errorf("%v spans were counted as lost, want 1", n)
	}
	var events []string
	for _, l := range log.All() {
		events = append(events, l.ContextMap()["event"].(string))
	}
	if diff := cmp.Diff([]string{"trace_failing", "trace_recovered"}, events); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
}

// A variable that no queue can be made from is as if it were not set.
func TestAQueueThatCannotBe(t *testing.T) {
	var got otlptest.Collector
	serve(t, &got)
	for _, name := range []string{"OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "OTEL_BSP_SCHEDULE_DELAY", "OTEL_BSP_EXPORT_TIMEOUT"} {
		t.Setenv(name, "-1")
	}
	p := start(t, tracing.Config{})
	for range 1000 {
		_, span := p.Tracer("test").Start(t.Context(), "span")
		span.End()
	}
	p.Close()
	if n := len(got.Spans()); n != 1000 {
		t.Errorf("%d spans, want 1000", n)
	}
}

// Headers that cannot be read are a warning, which does not say what they are: they are secrets.
func TestHeadersThatCannotBeRead(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "s3cret,x-key=s3cret%zz,other=fine")
	log := logOfASpan(t)
	var problems []string
	for _, l := range log.All() {
		text := fmt.Sprint(l.ContextMap())
		problems = append(problems, fmt.Sprint(l.ContextMap()["error"]))
		if strings.Contains(text, "s3cret") {
			t.Errorf("the log says %s", text)
		}
	}
	if diff := cmp.Diff([]string{"parse headers", "escape header value"}, problems); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}

// logOfASpan is what is logged while one is made and sent, as it must be.
func logOfASpan(t *testing.T) *observer.ObservedLogs {
	t.Helper()
	var got otlptest.Collector
	serve(t, &got)
	core, log := observer.New(zap.DebugLevel)
	p := start(t, tracing.Config{Log: zap.New(core)})
	_, span := p.Tracer("test").Start(t.Context(), "span")
	span.End()
	p.Close()
	if n := len(got.Spans()); n != 1 {
		t.Errorf("%d spans, want 1", n)
	}
	return log
}

// What the SDK cannot make of the variables is in the log, not on standard error, and the rest works.
func TestAVariableThatIsNotUnderstood(t *testing.T) {
	t.Setenv("OTEL_TRACES_SAMPLER", "coin")
	if lines := logOfASpan(t).FilterField(zap.String("event", "trace_problem")).All(); len(lines) != 1 || !strings.Contains(fmt.Sprint(lines[0].ContextMap()["error"]), "coin") {
		t.Errorf("log %v, want one line about the sampler", lines)
	}
}
