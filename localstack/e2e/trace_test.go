package e2e

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"spool/monitoring/tracing/otlptest"
	"spool/storage/batch"
	"spool/storage/queue"
)

// The span of the user whose trace the tests go on with.
const (
	userTrace = "0af7651916cd43dd8448eb211c80319c"
	userSpan  = "b7ad6b7169203331"
	userPlace = "00-" + userTrace + "-" + userSpan + "-01"
)

// traced is what the processes of a stack tell a collector.
type traced struct {
	otlptest.Collector
	*stack
	url string
}

// trace starts a collector, and tells all processes where it is; call it before any is started.
func (s *stack) trace() *traced {
	s.t.Helper()
	c := &traced{stack: s}
	server := httptest.NewServer(c)
	s.t.Cleanup(server.Close)
	c.url = server.URL
	s.more = append(s.more, "OTEL_EXPORTER_OTLP_ENDPOINT="+server.URL, "OTEL_BSP_SCHEDULE_DELAY=100")
	return c
}

// span waits for the one span that ok accepts.
func (c *traced) span(what string, ok func(otlptest.Span) bool) otlptest.Span {
	c.t.Helper()
	var found []otlptest.Span
	c.until(what, func() bool {
		found = slices.DeleteFunc(c.Spans(), func(s otlptest.Span) bool { return !ok(s) })
		return len(found) > 0
	})
	if len(found) != 1 {
		c.t.Fatalf("%d spans: %s", len(found), what)
	}
	return found[0]
}

// named waits for the one span of a name.
func (c *traced) named(name string) otlptest.Span {
	c.t.Helper()
	return c.span("there is a span "+name, func(s otlptest.Span) bool { return s.Name == name })
}

// headers keeps those of each request for a line.
type headers struct {
	mu   sync.Mutex
	seen map[string]http.Header // by X-Request-Id
}

// before starts a proxy of an engine, and gives its address.
func (h *headers) before(t *testing.T, engine string) string {
	t.Helper()
	transport := unixTransport(strings.TrimPrefix(engine, "unix://"))
	proxy := &httputil.ReverseProxy{
		Rewrite:      func(p *httputil.ProxyRequest) { p.SetURL(&url.URL{Scheme: "http", Host: "engine"}) },
		Transport:    transport,
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if id := r.Header.Get("X-Request-Id"); id != "" {
			h.mu.Lock()
			h.seen[id] = r.Header.Clone()
			h.mu.Unlock()
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(func() { server.Close(); transport.CloseIdleConnections() })
	return server.URL
}

func (h *headers) of(id string) http.Header {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.seen[id]
}

// logLine is a line of a log.
type logLine struct {
	Event   string `json:"event"`
	Batch   string `json:"batch_id"`
	Request string `json:"request_id"`
	Trace   string `json:"trace_id"`
	Span    string `json:"span_id"`
	Flags   string `json:"trace_flags"`
}

// logged reads what the bucket holds of a batch's log.
func (s *stack) logged(key, id string) []logLine {
	s.t.Helper()
	var lines []logLine
	for _, part := range s.keys(batch.LogDir(key, id)) {
		if !strings.HasSuffix(part, ".ndjson.gz") {
			continue
		}
		plain, err := gzip.NewReader(bytes.NewReader(s.get(part)))
		if err != nil {
			s.t.Fatal(err)
		}
		text, err := io.ReadAll(plain)
		if err != nil {
			s.t.Fatal(err)
		}
		for line := range bytes.Lines(text) {
			var l logLine
			if err := json.Unmarshal(line, &l); err != nil {
				s.t.Fatalf("%s: %v", part, err)
			}
			lines = append(lines, l)
		}
	}
	return lines
}

// TestOneLineIsFollowedFromBucketToBucket by its request id and its trace: the upload, the job on its queue, the engine,
// the output, the log and the spans all tell of the same line.
func TestOneLineIsFollowedFromBucketToBucket(t *testing.T) {
	t.Parallel()
	s := emptyStack(t)
	c := s.trace()
	s.more = append(s.more, "LOG_LEVEL=debug")
	s.local("--runners", "0")
	const key = "in/trace.jsonl"
	lines := requests("trace", 5, 7)
	lines[3] = request("refused", 10_000_000) // the fourth: the engine refuses it
	s.put(s.write("trace.jsonl", lines...), key, map[string]string{"traceparent": userPlace, "tracestate": "vendor=1"})

	// The watcher goes on with the user's trace.
	root, send := c.named("batch"), c.named("send spool-default-fast")
	wantBelow(t, root, otlptest.Span{Trace: userTrace, ID: userSpan})
	for _, child := range []otlptest.Span{c.named("validate"), c.named("stage"), send} {
		wantBelow(t, child, root)
	}
	if root.State != "vendor=1" || root.Resource["service.name"] != "spool-watcher" || root.Attributes["aws.s3.key"] != key || send.Kind != "SPAN_KIND_PRODUCER" {
		t.Errorf("the watcher's spans are %+v and %+v", root, send)
	}
	id := root.Attributes["spool.batch.id"]
	want := map[string]string{"traceparent": "00-" + userTrace + "-" + send.ID + "-01", "tracestate": "vendor=1"}
	if diff := cmp.Diff(want, s.peek(queue.FastQueue("default")).Attributes); diff != "" {
		t.Errorf("attributes of the message (-want +got):\n%s", diff)
	}

	// The runner goes on with the watcher's. Of the lines, every other is followed, the third for one.
	e := s.engine("--time-scale", "0")
	seen := headers{seen: map[string]http.Header{}}
	runner := s.start("run", "run", "--engine-url", seen.before(t, e.url), "--trace-every", "2", "--idle", "1s")
	done := s.wait(key, 1)[0]
	if code := runner.ended(t); code != 0 || done.ID != id || done.RequestCounts.Completed != 4 || done.RequestCounts.Failed != 1 {
		t.Fatalf("the runner ended with %d, batch %s with %+v; want %s with 4 and 1 lines", code, done.ID, done.RequestCounts, id)
	}
	receive, process, chunk, final := c.named("receive spool-default-fast"), c.named("process spool-default-fast"), c.named("chunk"), c.named("finalise")
	wantBelow(t, receive, send)
	wantBelow(t, process, send)
	wantBelow(t, chunk, receive)
	wantBelow(t, final, root)
	for _, s := range []otlptest.Span{process, final} { // each has a link to what it came from
		if diff := cmp.Diff([]string{userTrace + "-" + receive.ID}, s.Links); diff != "" {
			t.Errorf("links of %s (-want +got):\n%s", s.Name, diff)
		}
	}
	if receive.Kind != "SPAN_KIND_CLIENT" || process.Kind != "SPAN_KIND_CONSUMER" || receive.Resource["service.name"] != "spool-runner" {
		t.Errorf("the runner's spans are %+v and %+v", receive, process)
	}
	wantHas(t, process, map[string]string{"messaging.system": "aws_sqs", "spool.batch.id": id, "spool.shard": "0", "spool.job.fate": "done"})
	wantHas(t, chunk, map[string]string{"spool.chunk": "0", "spool.chunk.ok": "4", "spool.chunk.errors": "1", "spool.chunk.mine": "true"})
	wantHas(t, final, map[string]string{"spool.batch.outcome": "completed", "spool.batch.completed": "4", "spool.batch.failed": "1"})
	c.wantRequests(&seen, id, chunk)
	s.wantOutput(done)
	s.wantLogged(key, id, root, receive, chunk)
}

// wantRequests checks what the engine was told, and the spans of requests.
func (c *traced) wantRequests(seen *headers, id string, chunk otlptest.Span) {
	c.t.Helper()
	of := func(line int) otlptest.Span {
		request := fmt.Sprintf("%s-%d", id, line)
		return c.span("there is a span of "+request, func(s otlptest.Span) bool { return s.Attributes["spool.request.id"] == request })
	}
	third, refused := of(3), of(4)
	for span, want := range map[*otlptest.Span]map[string]string{
		&third: {"gen_ai.operation.name": "chat", "gen_ai.request.model": "default", "gen_ai.usage.output_tokens": "7",
			"spool.request.attempt": "1", "spool.request.outcome": "ok", "http.response.status_code": "200"},
		&refused: {"error.type": "http_400", "spool.request.outcome": "rejected", "http.response.status_code": "400"},
	} {
		wantBelow(c.t, *span, chunk)
		wantHas(c.t, *span, want)
		if span.Name != "chat default" || span.Kind != "SPAN_KIND_CLIENT" || span.Failed != (span == &refused) {
			c.t.Errorf("span of a request: %+v", *span)
		}
	}
	// An engine that traces makes a span for what is followed, and none for the others.
	want := map[int]string{2: chunk.ID + "-00", 3: third.ID + "-01", 4: chunk.ID + "-00"}
	for line, place := range want {
		got := seen.of(fmt.Sprintf("%s-%d-1", id, line))
		if got.Get("Traceparent") != "00-"+userTrace+"-"+place || got.Get("Tracestate") != "vendor=1" {
			c.t.Errorf("the engine was told of line %d that it is in %q, %q; want %s", line, got.Get("Traceparent"), got.Get("Tracestate"), place)
		}
	}
}

// wantOutput checks that the third line of the output has the request's id, and the engine's answer, too.
func (s *stack) wantOutput(done batch.Object) {
	s.t.Helper()
	out := s.lines(done.OutputFileID)[2]
	var answer struct{ ID string }
	if err := json.Unmarshal(out.Response.Body, &answer); err != nil {
		s.t.Fatal(err)
	}
	if want := done.ID + "-3"; out.CustomID != "trace-00002" || out.Response.RequestID != want || !strings.Contains(answer.ID, want+"-1") {
		s.t.Errorf("the third line is %s of request %s, and the engine calls it %s; want %s", out.CustomID, out.Response.RequestID, answer.ID, want)
	}
}

// wantLogged checks that lines of the log in the bucket lead to their spans.
func (s *stack) wantLogged(key, id string, root, receive, chunk otlptest.Span) {
	s.t.Helper()
	for _, want := range []logLine{
		{Event: "batch_planned", Batch: id, Trace: userTrace, Span: root.ID, Flags: "01"},
		{Event: "shard_taken", Batch: id, Trace: userTrace, Span: receive.ID, Flags: "01"},
		{Event: "request_answered", Batch: id, Request: id + "-3", Trace: userTrace, Span: receive.ID, Flags: "01"},
		{Event: "chunk_committed", Batch: id, Trace: userTrace, Span: chunk.ID, Flags: "01"},
		{Event: "batch_ended", Batch: id, Trace: userTrace, Span: receive.ID, Flags: "01"},
		{Event: "batch_ended", Batch: id, Trace: userTrace, Span: root.ID, Flags: "01"},
	} {
		s.until(fmt.Sprintf("the log has %+v", want), func() bool { return slices.Contains(s.logged(key, id), want) })
	}
}

// TestAKilledRunnerLeavesItsTrace: what hangs below a job that was cut off by kill -9 is not lost, and who goes on with the
// job does so in the same trace.
func TestAKilledRunnerLeavesItsTrace(t *testing.T) {
	t.Parallel()
	s := emptyStack(t)
	c := s.trace()
	s.local("--runners", "0")
	s.put(s.write("killed.jsonl", requests("killed", 3, 100)...), "in/killed.jsonl", nil)
	run := func(e *engine) *process { return s.runner(e, "--lease-ttl", "10s", "--idle", "1h") }
	slow := s.engine("--time-scale", "1000")
	first := run(slow)
	receive, send := c.named("receive spool-default-fast"), c.named("send spool-default-fast")
	s.until("the engine is asked", func() bool { return slow.count("asked") == 3 })
	first.kill()
	run(s.engine("--time-scale", "0"))
	done := s.wait("in/killed.jsonl", 1)[0]
	if done.RequestCounts.Completed != 3 {
		t.Fatalf("batch %+v", done.RequestCounts)
	}
	process, chunk := c.named("process spool-default-fast"), c.named("chunk") // of the second runner: the first ended neither
	again := c.span("the message was received again", func(s otlptest.Span) bool { return s.Name == receive.Name && s.ID != receive.ID })
	for _, s := range []otlptest.Span{receive, again, process} {
		wantBelow(t, s, send)
	}
	wantBelow(t, chunk, again)
	wantHas(t, receive, map[string]string{"spool.message.receive_count": "1"})
	wantHas(t, again, map[string]string{"spool.message.receive_count": "2"})
	for _, s := range c.Spans() {
		if s.Trace != send.Trace {
			t.Errorf("%s is in trace %s, want all in %s", s.Name, s.Trace, send.Trace)
		}
	}
}

func wantBelow(t *testing.T, child, parent otlptest.Span) {
	t.Helper()
	if child.Trace != parent.Trace || child.Parent != parent.ID {
		t.Errorf("%s is in trace %s below %s, want trace %s below %s, %s", child.Name, child.Trace, child.Parent, parent.Trace, parent.Name, parent.ID)
	}
}

func wantHas(t *testing.T, s otlptest.Span, want map[string]string) {
	t.Helper()
	got := map[string]string{}
	for k := range want {
		got[k] = s.Attributes[k]
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", s.Name, diff)
	}
}

// peek looks at the first message of a queue, and gives it back.
func (s *stack) peek(name string) *queue.Message {
	s.t.Helper()
	q, err := s.queues.Open(s.t.Context(), name)
	if err != nil {
		s.t.Fatal(err)
	}
	var got []*queue.Message
	s.until("there is a message in "+name, func() bool {
		if got, err = q.Receive(s.t.Context(), 1, 0); err != nil {
			s.t.Fatal(err)
		}
		return len(got) == 1
	})
	if err := q.Extend(s.t.Context(), got[0], 0); err != nil {
		s.t.Fatal(err)
	}
	return got[0]
}

// TestRealVLLMFollowsOneLine: vLLM's own span of a line is below the runner's, its answer has the line's id, and so has what
// it logs.
func TestRealVLLMFollowsOneLine(t *testing.T) {
	vllmDir(t)
	t.Parallel()
	s := emptyStack(t)
	c := s.trace()
	s.more = append(s.more, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/protobuf")
	o := own(s, "tiny", fmt.Sprintf(`--dtype, bfloat16, --kv-cache-memory-bytes, 256M, --enforce-eager, --max-model-len, "2048", `+
		`--enable-log-requests, --otlp-traces-endpoint, %s/v1/traces`, c.url))
	const key = "in/followed.jsonl"
	s.put(s.write("followed.jsonl", requests("followed", 3, 5)...), key, map[string]string{"traceparent": userPlace})
	output := o.completed(key, 3)

	chunk := c.named("chunk")
	request := output[0].Response.RequestID
	span := c.span("the runner has told of the first line", func(s otlptest.Span) bool { return s.Attributes["spool.request.id"] == request })
	wantBelow(t, span, chunk)
	own := c.span("vLLM has told of the first line", func(s otlptest.Span) bool { return s.Parent == span.ID })
	if own.Trace != userTrace || !strings.Contains(own.Attributes["gen_ai.request.id"], request+"-1") {
		t.Errorf("vLLM's span is %+v, want request %s-1", own, request)
	}
	if n := len(slices.DeleteFunc(c.Spans(), func(s otlptest.Span) bool { return s.Name != own.Name })); n != 1 {
		t.Errorf("vLLM made %d spans %s, want that of the line that is followed", n, own.Name)
	}
	var answer struct{ ID string }
	if err := json.Unmarshal(output[0].Response.Body, &answer); err != nil || !strings.Contains(answer.ID, request+"-1") {
		t.Errorf("vLLM's answer has the id %q, %v; want request %s-1", answer.ID, err, request)
	}
	said := false
	for _, l := range o.events("engine_output") {
		said = said || strings.Contains(l.Message, request+"-1")
	}
	if !said {
		t.Errorf("vLLM's log has no line about request %s-1", request)
	}
	t.Logf("line 1 is request %s: span %s of the runner, span %s (%s) of vLLM, answer %s", request, span.ID, own.ID, own.Name, answer.ID)
}
