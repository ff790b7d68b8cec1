package runner

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"spool/runner/vllm"
	"spool/storage/batch"
	"spool/storage/queue"
)

// recording gives a tracer, and the spans that ended.
func recording() (*tracetest.SpanRecorder, trace.Tracer) {
	spans := tracetest.NewSpanRecorder()
	return spans, sdk.NewTracerProvider(sdk.WithSpanProcessor(spans)).Tracer("test")
}

// attributesOf are those of a span, as text.
func attributesOf(s sdk.ReadOnlySpan) map[string]string {
	out := map[string]string{}
	for _, kv := range s.Attributes() {
		out[string(kv.Key)] = kv.Value.String()
	}
	return out
}

// named gives the spans that ended under a name.
func named(spans *tracetest.SpanRecorder, name string) []sdk.ReadOnlySpan {
	return slices.DeleteFunc(spans.Ended(), func(s sdk.ReadOnlySpan) bool { return s.Name() != name })
}

// requestsOf are the spans of requests, by id and attempt.
func requestsOf(spans *tracetest.SpanRecorder) map[string]sdk.ReadOnlySpan {
	out := map[string]sdk.ReadOnlySpan{}
	for _, s := range spans.Ended() {
		if a := attributesOf(s); a["spool.request.id"] != "" {
			out[a["spool.request.id"]+"-"+a["spool.request.attempt"]] = s
		}
	}
	return out
}

// keepHeaders is a script of the engine that keeps the place in a trace of each request.
func keepHeaders(seen map[string]string) func(http.ResponseWriter, *http.Request, string, int) bool {
	var mu sync.Mutex
	return func(_ http.ResponseWriter, r *http.Request, _ string, _ int) bool {
		mu.Lock()
		defer mu.Unlock()
		seen[r.Header.Get("X-Request-Id")] = r.Header.Get("Traceparent")
		return false
	}
}

func TestRequestsAreTracedOneInSoManyAndAllThatFail(t *testing.T) {
	w := newWorld(t)
	seen := map[string]string{}
	keep := keepHeaders(seen)
	w.engine.script = func(w http.ResponseWriter, r *http.Request, prompt string, ask int) bool {
		keep(w, r, prompt, ask)
		if prompt != "7" || ask > 2 {
			return false
		}
		w.WriteHeader(http.StatusInternalServerError)
		return true
	}
	plan := w.batch(25, 10)
	spans, tracer := recording()
	reg := prometheus.NewRegistry()
	cfg := w.config()
	cfg.Tracer, cfg.TraceEvery, cfg.Metrics, cfg.Pool = tracer, 10, reg, "p"
	if err := w.run(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	requests := requestsOf(spans)
	id := func(line, attempt int) string { return fmt.Sprintf("%s-%d-%d", plan.Batch, line, attempt) }
	for _, want := range []string{id(1, 1), id(11, 1), id(21, 1), id(7, 1), id(7, 2)} {
		if requests[want] == nil {
			t.Errorf("no span of %s among %v", want, slices.Sorted(maps.Keys(requests)))
		}
	}
	if a := attributesOf(requests[id(7, 2)]); a["error.type"] != "http_500" || a["spool.request.outcome"] != "retry" {
		t.Errorf("the second try of line 7: %v", a)
	}
	chunks := map[string]trace.SpanContext{}
	for _, c := range named(spans, "chunk") {
		chunks[attributesOf(c)["spool.chunk"]] = c.SpanContext()
	}
	if len(chunks) != 3 {
		t.Fatalf("%d chunks have spans, want 3", len(chunks))
	}
	for request, place := range seen {
		line := strings.Split(request, "-")[1]
		chunk := chunks[map[int]string{1: "0", 2: "1", 3: "2"}[chunkOf(line)]]
		want := traceHeader(chunk.WithTraceFlags(0)).Get("Traceparent")
		if line == "1" || line == "11" || line == "21" {
			want = traceHeader(requests[request].SpanContext()).Get("Traceparent")
		}
		if place != want {
			t.Errorf("the engine was told that %s is in %q, want %q", request, place, want)
		}
	}
	if len(seen) != 27 {
		t.Errorf("%d requests, want those of 25 lines and 2 more", len(seen))
	}
	wantExemplars(t, reg, spans)
}

// chunkOf counts chunks of ten lines from 1.
func chunkOf(line string) int {
	n := 0
	fmt.Sscan(line, &n)
	return (n + 9) / 10
}

// wantExemplars checks that histograms lead to spans that there are.
func wantExemplars(t *testing.T, reg *prometheus.Registry, spans *tracetest.SpanRecorder) {
	t.Helper()
	known := map[string]string{}
	for _, s := range spans.Ended() {
		known[s.SpanContext().TraceID().String()+"-"+s.SpanContext().SpanID().String()] = s.Name()
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	leads := map[string]string{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, b := range m.GetHistogram().GetBucket() {
				labels := map[string]string{}
				for _, l := range b.GetExemplar().GetLabel() {
					labels[l.GetName()] = l.GetValue()
				}
				if len(labels) > 0 {
					leads[f.GetName()] = known[labels["trace_id"]+"-"+labels["span_id"]]
				}
			}
		}
	}
	want := map[string]string{"spool_request_duration_seconds": "chat m", "spool_chunk_duration_seconds": "chunk", "spool_job_duration_seconds": "process spool-p"}
	if diff := cmp.Diff(want, leads); diff != "" {
		t.Errorf("spans that histograms lead to (-want +got):\n%s", diff)
	}
}

// An engine that fails every request of a chunk has no more than mostFailures spans there.
func TestFailuresOfAChunkAreTracedUpToANumber(t *testing.T) {
	w := newWorld(t)
	w.engine.script = func(w http.ResponseWriter, _ *http.Request, _ string, _ int) bool {
		w.WriteHeader(http.StatusBadRequest)
		return true
	}
	w.batch(60, 30)
	spans, tracer := recording()
	cfg := w.config()
	cfg.Tracer, cfg.TraceEvery = tracer, 1000
	if err := w.run(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	byChunk := map[trace.SpanID]int{}
	for _, s := range requestsOf(spans) {
		byChunk[s.Parent().SpanID()]++
	}
	if got := slices.Sorted(maps.Values(byChunk)); !slices.Equal(got, []int{mostFailures, mostFailures + 1}) && // line 1 is followed in any case
		!slices.Equal(got, []int{mostFailures, mostFailures}) {
		t.Errorf("the chunks have %v spans of failed requests, want %d each", got, mostFailures)
	}
}

// Without a tracer nothing is recorded and engines are told nothing, but the place that a message names is in the log.
func TestWithoutATracerTheTraceIsPassedOn(t *testing.T) {
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	w := newWorld(t)
	seen := map[string]string{}
	w.engine.script = keepHeaders(seen)
	plan := w.planned(inputKey, 5, 10, 1)
	body, err := json.Marshal(batch.Message{V: batch.Version, Type: batch.MessageShard, Batch: plan.Batch, Pool: "p", N: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.fast.Send(t.Context(), []queue.Outgoing{{Body: string(body), Attributes: map[string]string{"traceparent": parent}}}); err != nil {
		t.Fatal(err)
	}
	cfg := w.config()
	core, log := observer.New(zap.InfoLevel)
	cfg.Log = zap.New(core)
	if err := w.run(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if len(seen) != 5 || seen[plan.Batch+"-1-1"] != "" {
		t.Errorf("the engine was told %v, want nothing", seen)
	}
	for _, event := range []string{"shard_taken", "chunk_committed", "shard_left"} {
		lines := log.FilterField(zap.String("event", event)).All()
		if len(lines) != 1 {
			t.Fatalf("%d lines %s", len(lines), event)
		}
		got := lines[0].ContextMap()
		if got["trace_id"] != "0af7651916cd43dd8448eb211c80319c" || got["span_id"] != "b7ad6b7169203331" || got["trace_flags"] != "01" {
			t.Errorf("%s has %v, want the place of the message", event, got)
		}
	}
}

// A shard that finds no engine has a span of its waiting, below its receive; the next, whose engine is up, has none.
func TestWaitingForAnEngineIsASpan(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, e *wired) {
		const late = 7 * time.Second
		e.down = func() bool { return time.Since(e.begun) < late }
		w.batch(60, 10) // three shards
		spans, tracer := recording()
		cfg := w.defaults(e)
		cfg.Tracer, cfg.Pool = tracer, "p"
		if err := w.run(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		waits, receives := named(spans, "wait for engine"), named(spans, "receive spool-p")
		if len(waits) != 1 || len(receives) != 3 {
			t.Fatalf("%d spans of waiting and %d of receives, want 1 and 3", len(waits), len(receives))
		}
		if waits[0].Parent().SpanID() != receives[0].SpanContext().SpanID() || waits[0].EndTime().Before(e.begun.Add(late)) {
			t.Errorf("it waited until %v below %v, want until the engine is up, below the first receive", waits[0].EndTime(), waits[0].Parent())
		}
	})
}

// The span of a request names its model, however many models metrics have put together as one.
func TestASpanNamesItsModel(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	cfg := &Config{TraceEvery: 1, Tracer: sdk.NewTracerProvider(sdk.WithSpanProcessor(spans)).Tracer("test")}
	m := newMeter(nil, 1)
	var want, got []string
	for i := range maxModels + 2 {
		name := fmt.Sprintf("model \"%d\"", i)
		want = append(want, name)
		line := &task{ctx: t.Context(), chunk: &chunk{owner: &shard{cfg: cfg}}, line: 1, path: "/v1/completions",
			body: fmt.Appendf(nil, `{"model":%q}`, name), series: m.of(name, "/v1/completions")}
		line.chunk.begin(t.Context())
		line.trace()
		line.traced(vllm.Answer{Outcome: vllm.OK, Status: 200}, time.Second)
		span := spans.Ended()[len(spans.Ended())-1]
		if want := "text_completion " + name; span.Name() != want {
			t.Errorf("span %s, want %s", span.Name(), want)
		}
		for _, a := range span.Attributes() {
			if a.Key == "gen_ai.request.model" {
				got = append(got, a.Value.AsString())
			}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("models (-want +got):\n%s", diff)
	}
}

// Tracing that is off costs a request nothing.
func TestTracingThatIsOffAllocatesNothing(t *testing.T) {
	c := &chunk{owner: &shard{cfg: &Config{TraceEvery: 1}}}
	line := &task{chunk: c, line: 1, series: &series{}}
	var seen trace.SpanContext
	n := testing.AllocsPerRun(1000, func() {
		if h := line.trace(); h != nil {
			t.Error("the engine is told something")
		}
		seen = line.traced(vllm.Answer{Outcome: vllm.OK}, time.Second)
		observe(discard{}, 1, seen)
	})
	if n != 0 || seen.IsValid() {
		t.Errorf("%v allocations a request, span %v; want none", n, seen)
	}
}

type discard struct{}

func (discard) Observe(float64) {}

// Whatever the times are, the slowest are about one in a hundred of them.
func TestTheTailIsOneInAHundred(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for name, next := range map[string]func(i int) time.Duration{
		"exponential": func(int) time.Duration { return time.Duration(random.ExpFloat64() * float64(time.Second)) },
		"uniform":     func(int) time.Duration { return time.Duration(random.Int64N(int64(time.Second))) },
		"two kinds": func(int) time.Duration {
			return time.Duration(1+59*random.IntN(2))*time.Second + time.Duration(random.Int64N(int64(time.Second)))
		},
		"ever slower": func(i int) time.Duration {
			return time.Duration(float64(i) * random.Float64() * float64(time.Millisecond))
		},
	} {
		const n = 100_000
		var slow tail
		over := 0
		for i := range n {
			if slow.over(next(i)) {
				over++
			}
		}
		if over < n/200 || over > n/50 {
			t.Errorf("%s: %d of %d are among the slowest, want about %d", name, over, n, n/100)
		}
	}
}

// BenchmarkTracing is what tracing costs a request.
func BenchmarkTracing(b *testing.B) {
	for name, every := range map[string]int{"off": 0, "one in 200": 200, "each": 1} {
		b.Run(name, func(b *testing.B) {
			cfg := &Config{TraceEvery: every, Tracer: noop.Tracer{}}
			if every > 0 {
				cfg.Tracer = sdk.NewTracerProvider().Tracer("test") // makes spans, and keeps none
			}
			c := &chunk{owner: &shard{cfg: cfg}}
			ctx, root := cfg.Tracer.Start(b.Context(), "root")
			c.begin(ctx)
			line := &task{ctx: ctx, chunk: c, series: &series{model: "m"}, path: "/v1/chat/completions"}
			b.ReportAllocs()
			for b.Loop() {
				line.line++
				line.trace()
				observe(discard{}, 1, line.traced(vllm.Answer{Outcome: vllm.OK, Status: 200}, time.Second))
			}
			root.End()
		})
	}
}
