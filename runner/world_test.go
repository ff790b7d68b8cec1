package runner

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/klauspost/compress/zstd"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"spool/localstack/sqs"
	"spool/runner/vllm"
	"spool/storage"
	"spool/storage/batch"
	"spool/storage/finalize"
	"spool/storage/memstore"
	"spool/storage/queue"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const inputKey = "in/t.jsonl"

// world is a bucket, an SQS server and an engine over HTTP, with runners that the test starts.
type world struct {
	t          *testing.T
	store      *memstore.Store
	bucket     storage.Bucket // what runners see; tests may wrap store
	fast, main *queue.Queue
	queues     *sqs.Server
	engine     *engine
	runners    int
}

func newWorld(t *testing.T) *world {
	t.Helper()
	server := sqs.New(sqs.Config{})
	wire := httptest.NewServer(server)
	transport := &http.Transport{}
	t.Cleanup(func() { transport.CloseIdleConnections(); server.Close(); wire.Close() })
	w := newWorldAt(t, server, wire.URL, transport)
	w.engine = newEngine(t)
	return w
}

// newWorldAt is a world without engine, whose queues are reached by transport.
func newWorldAt(t *testing.T, server *sqs.Server, url string, transport http.RoundTripper) *world {
	t.Helper()
	client, err := queue.New(t.Context(), queue.Config{
		Region: sqs.DefaultRegion, Endpoint: url, HTTPClient: &http.Client{Transport: transport},
		Credentials: credentials.NewStaticCredentialsProvider(sqs.DefaultAccessKey, sqs.DefaultSecretKey, ""),
	})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, store: memstore.New(memstore.Options{}), queues: server}
	w.bucket = w.store
	for name, q := range map[string]**queue.Queue{queue.FastQueue("p"): &w.fast, queue.PoolQueue("p"): &w.main} {
		if *q, err = client.Create(t.Context(), name, queue.Attributes{}); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// config is that of a runner that ends soon after the last message.
func (w *world) config() Config {
	w.t.Helper()
	client, err := vllm.NewClient(w.engine.URL, vllm.Options{})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(client.Close)
	w.runners++
	name := fmt.Sprintf("r-%d", w.runners)
	return Config{
		Bucket: w.bucket, Fast: w.fast, Main: w.main, Engines: []Engine{client},
		Finalizer: finalize.New(finalize.Config{Bucket: w.bucket, By: name}),
		Name:      name, Slots: 16, Scratch: w.t.TempDir(), Idle: 50 * time.Millisecond, Poll: 50 * time.Millisecond,
		SegmentEvery: 20 * time.Millisecond, StopEvery: 20 * time.Millisecond,
		Retry: RetryPolicy{Base: time.Millisecond, Max: 5 * time.Millisecond},
		Log:   zaptest.NewLogger(w.t, zaptest.Level(zap.WarnLevel)),
	}
}

// run runs one runner to its end.
func (w *world) run(ctx context.Context, cfg Config) error {
	w.t.Helper()
	r, err := New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	return r.Run(ctx)
}

// batch plans lines lines as the watcher does, in chunks of perChunk and shards of two chunks, and
// sends the messages. bad are lines of the pieces that turned out bad.
func (w *world) batch(lines, perChunk int, bad ...int64) *batch.Plan {
	w.t.Helper()
	plan := w.planned(inputKey, lines, perChunk, 1, bad...)
	w.send(plan)
	return plan
}

// planned plans a batch whose custom_ids and prompts count from start, and sends nothing.
func (w *world) planned(key string, lines, perChunk, start int, bad ...int64) *batch.Plan {
	w.t.Helper()
	id := batch.Identity{Bucket: "b", Key: key, ETag: w.t.Name(), Size: int64(lines)}.ID()
	plan := &batch.Plan{
		V: batch.Version, Batch: id, Verdict: batch.Accepted, Pool: "p", Window: "24h", OnInvalid: "skip",
		Input:    batch.Input{Bucket: "b", Key: key, LastModified: time.Now().Add(-time.Minute).Unix()},
		Endpoint: "/v1/chat/completions", Models: []string{"m"}, Folder: "f", Lines: int64(lines), Bad: int64(len(bad)),
	}
	var piece []byte
	for first := 1; first <= lines; first += perChunk {
		n := min(perChunk, lines-first+1)
		frame := frameOf(w.t, first, n, start-1)
		pc := batch.PlanChunk{Offset: int64(len(piece)), Size: int64(len(frame)), FirstLine: int64(first), Lines: n}
		for _, b := range bad {
			if b >= pc.FirstLine && b < pc.FirstLine+int64(n) {
				pc.Bad++
			}
		}
		piece = append(piece, frame...)
		if len(plan.Shards) == 0 || len(plan.Shards[len(plan.Shards)-1].Chunks) == 2 {
			piece, pc.Offset = frame, 0
			plan.Shards = append(plan.Shards, batch.Shard{})
		}
		last := len(plan.Shards) - 1
		plan.Shards[last].Chunks = append(plan.Shards[last].Chunks, pc)
		w.put(batch.PieceKey(id, "f", last), piece)
	}
	if len(bad) > 0 {
		w.put(batch.BadKey(id, "f"), badLines(w.t, bad))
	}
	w.putJSON(batch.PlanKey(id), plan)
	return plan
}

func frameOf(t *testing.T, first, n, shift int) []byte {
	t.Helper()
	var plain []byte
	for i := first; i < first+n; i++ {
		plain = batch.AppendPieceLine(plain, int64(i), fmt.Appendf(nil,
			`{"custom_id":"c%d", "method":"POST","url":"/v1/chat/completions", "body": %s }`, i+shift, bodyOf(i+shift)))
	}
	return compress(t, plain)
}

// bodyOf is the body of a request, written as no encoder does. Its bound is that of no other line of 22.
func bodyOf(line int) string {
	return fmt.Sprintf("{ \"messages\" : [{\"role\":\"user\",\"content\":\"%d\"}],\t\"model\":\"\\u006d\", \"max_tokens\":%d, \"x\": 1.0000000000000000001 }",
		line, line*7%23)
}

func compress(t *testing.T, plain []byte) []byte {
	t.Helper()
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	defer enc.Close()
	return enc.EncodeAll(plain, nil)
}

func badLines(t *testing.T, bad []int64) []byte {
	t.Helper()
	var plain bytes.Buffer
	for _, line := range bad {
		id := fmt.Sprintf("c%d", line)
		if err := json.NewEncoder(&plain).Encode(batch.BadLine{Line: line, CustomID: &id, Code: "duplicate_custom_id", Message: "twice"}); err != nil {
			t.Fatal(err)
		}
	}
	return compress(t, plain.Bytes())
}

func (w *world) send(plan *batch.Plan) {
	w.t.Helper()
	q := w.main
	if plan.Chunks() == 1 {
		q = w.fast
	}
	for i := range plan.Shards {
		body, err := json.Marshal(batch.Message{V: batch.Version, Type: batch.MessageShard, Batch: plan.Batch, Shard: i, Pool: "p", N: 1})
		if err != nil {
			w.t.Fatal(err)
		}
		if err := q.Send(w.t.Context(), []queue.Outgoing{{Body: string(body)}}); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) put(key string, body []byte) {
	w.t.Helper()
	if _, err := w.store.Put(context.Background(), key, body, storage.PutOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) putJSON(key string, v any) {
	w.t.Helper()
	body, err := json.Marshal(v)
	if err != nil {
		w.t.Fatal(err)
	}
	w.put(key, body)
}

func (w *world) get(key string) []byte {
	w.t.Helper()
	body, _, err := storage.ReadAll(context.Background(), w.store, key)
	if err != nil {
		w.t.Fatal(err)
	}
	return body
}

// result fails the test unless the batch has ended.
func (w *world) result(plan *batch.Plan) batch.Result {
	w.t.Helper()
	var res batch.Result
	if err := json.Unmarshal(w.get(batch.ResultKey(plan.Batch)), &res); err != nil {
		w.t.Fatal(err)
	}
	return res
}

// outLine is a line of output.jsonl or errors.jsonl.
type outLine struct {
	CustomID string `json:"custom_id"`
	Response *struct {
		Status int             `json:"status_code"`
		Body   json.RawMessage `json:"body"`
	} `json:"response"`
	Error *struct{ Code, Message string } `json:"error"`
	Spool *struct{ Attempts int }         `json:"spool"`
}

func (w *world) lines(plan *batch.Plan, name string) []outLine {
	w.t.Helper()
	var lines []outLine
	for text := range strings.Lines(string(w.get(batch.OutDir(plan.Input.Key, plan.Batch) + name))) {
		var l outLine
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			w.t.Fatalf("%s: %v in %q", name, err, text)
		}
		lines = append(lines, l)
	}
	return lines
}

// wantAll checks that output.jsonl has the right answer to the lines from to to, in order.
func (w *world) wantAll(plan *batch.Plan, from, to int) {
	w.t.Helper()
	lines := w.lines(plan, batch.OutputName)
	if len(lines) != to-from+1 {
		w.t.Fatalf("output has %d lines, want %d", len(lines), to-from+1)
	}
	for i, l := range lines {
		want := fmt.Sprintf(`answer to %d`, from+i)
		if l.CustomID != fmt.Sprintf("c%d", from+i) || !strings.Contains(string(l.Response.Body), want) {
			w.t.Fatalf("line %d of output: %+v, want %s", i+1, l, want)
		}
	}
}

// wantNoMessages checks that nothing is left in the queues.
func (w *world) wantNoMessages() {
	w.t.Helper()
	for _, q := range []*queue.Queue{w.fast, w.main} {
		if c, err := q.Counts(context.Background()); err != nil || c.Total() != 0 {
			w.t.Errorf("queue %s has %+v, %v; want nothing", q.Name(), c, err)
		}
	}
}

// engine answers over HTTP "answer to N" to prompt N, unless script says otherwise.
type engine struct {
	*httptest.Server
	mu     sync.Mutex
	asked  map[string]int                                                            // by prompt
	script func(w http.ResponseWriter, r *http.Request, prompt string, ask int) bool // true: it has answered
}

func newEngine(t *testing.T) *engine {
	e := &engine{asked: make(map[string]int)}
	e.Server = httptest.NewServer(e)
	t.Cleanup(e.Close)
	return e
}

func (e *engine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/health":
	case "/version":
		io.WriteString(w, `{"version":"test"}`)
	case "/v1/models":
		io.WriteString(w, `{"object":"list","data":[{"id":"m"}]}`)
	default:
		e.answer(w, r)
	}
}

func (e *engine) answer(w http.ResponseWriter, r *http.Request) {
	var req struct {
		Messages []struct{ Content string } `json:"messages"`
	}
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	prompt := req.Messages[0].Content
	e.mu.Lock()
	e.asked[prompt]++
	ask, script := e.asked[prompt], e.script
	e.mu.Unlock()
	if script != nil && script(w, r, prompt, ask) {
		return
	}
	fmt.Fprintf(w, `{"choices":[{"message":{"content":"answer to %s"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}`, prompt)
}

func (e *engine) total() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := 0
	for _, k := range e.asked {
		n += k
	}
	return n
}
