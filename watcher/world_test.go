package watcher_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"spool/storage"
	"spool/storage/batch"
	"spool/storage/finalize"
	"spool/storage/memstore"
	"spool/storage/queue"
	"spool/watcher"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const bucketName = "spool"

// world is a bucket, queues and a clock: that of the synctest bubble.
type world struct {
	t      testing.TB
	store  *memstore.Store
	queues *queues
}

// inWorld runs f in a bubble of fake time, which begins at a full second.
func inWorld(t *testing.T, f func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f(t, &world{t: t, store: memstore.New(memstore.Options{}), queues: newQueues()})
	})
}

// watcher makes one; change may alter its configuration.
func (w *world) watcher(change ...func(*watcher.Config)) *watcher.Watcher {
	w.t.Helper()
	cfg := watcher.Config{
		Bucket: w.store, Deleter: w.store, BucketName: bucketName, Queues: w.queues.open,
		Finalizer: finalize.New(finalize.Config{Bucket: w.store, By: "w-test"}),
		Name:      "w-test", TempDir: w.t.TempDir(), Log: zaptest.NewLogger(w.t, zaptest.Level(zap.WarnLevel)),
	}
	for _, c := range change {
		c(&cfg)
	}
	wa, err := watcher.New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	return wa
}

func (w *world) scan(wa *watcher.Watcher) {
	w.t.Helper()
	if err := wa.Scan(w.t.Context()); err != nil {
		w.t.Fatalf("scan: %v", err)
	}
}

// upload puts an input and gives the id of its batch (generation 0, rerun 0).
func (w *world) upload(key, body string, meta ...string) string {
	w.t.Helper()
	m := map[string]string{}
	for i := 0; i < len(meta); i += 2 {
		m[meta[i]] = meta[i+1]
	}
	obj, err := w.store.Put(w.t.Context(), key, []byte(body), storage.PutOptions{Metadata: m})
	if err != nil {
		w.t.Fatal(err)
	}
	return batch.Identity{Bucket: bucketName, Key: key, ETag: obj.ETag, Size: obj.Size}.ID()
}

func (w *world) exists(key string) bool {
	w.t.Helper()
	_, err := w.store.Head(w.t.Context(), key)
	if err != nil && !storage.IsNotFound(err) {
		w.t.Fatal(err)
	}
	return err == nil
}

func (w *world) keys(prefix string) []string {
	w.t.Helper()
	var keys []string
	for obj, err := range w.store.List(w.t.Context(), prefix, "") {
		if err != nil {
			w.t.Fatal(err)
		}
		keys = append(keys, strings.TrimPrefix(obj.Key, prefix))
	}
	return keys
}

func (w *world) text(key string) string {
	w.t.Helper()
	body, _, err := storage.ReadAll(w.t.Context(), w.store, key)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(body)
}

// read decodes an object, which must be there.
func read[T any](w *world, key string) *T {
	w.t.Helper()
	v := new(T)
	if err := json.Unmarshal([]byte(w.text(key)), v); err != nil {
		w.t.Fatalf("decode %s: %v", key, err)
	}
	return v
}

func (w *world) plan(id string) *batch.Plan {
	w.t.Helper()
	return read[batch.Plan](w, batch.PlanKey(id))
}

func (w *world) putJSON(key string, v any) {
	w.t.Helper()
	body, err := json.Marshal(v)
	if err == nil {
		_, err = w.store.Put(w.t.Context(), key, body, storage.PutOptions{})
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// staged gives the lines of a shard as a runner reads them, by chunk.
func (w *world) staged(p *batch.Plan, shard int) [][]batch.PieceLine {
	w.t.Helper()
	piece := w.text(batch.PieceKey(p.Batch, p.Folder, shard))
	var chunks [][]batch.PieceLine
	end := int64(0)
	for _, c := range p.Shards[shard].Chunks {
		if c.Offset != end {
			w.t.Fatalf("frame at %d, the one before ends at %d", c.Offset, end)
		}
		end = c.Offset + c.Size
		lines, err := batch.ReadFrame([]byte(piece[c.Offset:end]), c.Lines)
		if err != nil {
			w.t.Fatal(err)
		}
		if lines[0].Number != c.FirstLine {
			w.t.Fatalf("chunk begins with line %d, the plan says %d", lines[0].Number, c.FirstLine)
		}
		chunks = append(chunks, lines)
	}
	if end != int64(len(piece)) {
		w.t.Fatalf("piece has %d bytes, the plan says %d", len(piece), end)
	}
	return chunks
}

// work does what runners do with a shard: chunks, then done.
func (w *world) work(p *batch.Plan, shard int) {
	w.t.Helper()
	bad := w.badLines(p)
	done := batch.Done{V: batch.Version, Batch: p.Batch, Shard: shard, Runner: "r-test"}
	for i, lines := range w.staged(p, shard) {
		n := p.FirstChunk(shard) + i
		var buf bytes.Buffer
		rw, err := batch.NewRecordWriter(&buf, batch.RecordHeader{Kind: "chunk", Batch: p.Batch, Shard: shard, Chunk: n, Runner: "r-test"})
		for _, l := range lines {
			if bad[l.Number] || err != nil {
				continue
			}
			a := batch.Answer{Batch: p.Batch, Line: l.Number, CustomID: fmt.Sprint(l.Number), Status: 200, Body: []byte(`{}`)}
			err = rw.Write(batch.Record{Line: l.Number, JSON: a.AppendLine(nil)})
		}
		if err != nil {
			w.t.Fatal(err)
		}
		info, err := rw.Close(n, batch.Usage{TotalTokens: int64(len(lines))})
		if err != nil {
			w.t.Fatal(err)
		}
		obj, err := w.store.Put(w.t.Context(), batch.ChunkKey(p.Batch, shard, n), buf.Bytes(), storage.PutOptions{Metadata: info.Metadata()})
		if err != nil {
			w.t.Fatal(err)
		}
		info.ETag = obj.ETag
		done.Chunks = append(done.Chunks, info)
	}
	w.putJSON(batch.DoneKey(p.Batch, shard), done)
}

// workAll does all shards and gives the watcher the time after which it finalises.
func (w *world) workAll(p *batch.Plan) {
	w.t.Helper()
	for n := range p.Shards {
		w.work(p, n)
	}
	sleep(time.Minute)
}

func (w *world) badLines(p *batch.Plan) map[int64]bool {
	w.t.Helper()
	bad := map[int64]bool{}
	for _, l := range w.bad(p) {
		bad[l.Line] = true
	}
	return bad
}

func (w *world) bad(p *batch.Plan) []batch.BadLine {
	w.t.Helper()
	if p.Bad == 0 {
		return nil
	}
	r, err := batch.NewBadReader(strings.NewReader(w.text(batch.BadKey(p.Batch, p.Folder))))
	if err != nil {
		w.t.Fatal(err)
	}
	defer r.Close()
	var list []batch.BadLine
	for {
		l, err := r.Next()
		if errors.Is(err, io.EOF) {
			return list
		}
		if err != nil {
			w.t.Fatal(err)
		}
		list = append(list, l)
	}
}

// sleep lets the fake time pass.
func sleep(d time.Duration) { <-time.After(d) }

// lines makes n good lines, whose custom_ids are their numbers.
func lines(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `{"custom_id":"%d","method":"POST","url":"/v1/chat/completions","body":{"model":"m","messages":[]}}`+"\n", i+1)
	}
	return b.String()
}

// queues is SQS without time: a message that was received stays in flight until it is deleted or lost.
type queues struct {
	mu      sync.Mutex
	byName  map[string]*fakeQueue
	fail    error // of Send, once
	missing string
}

type fakeQueue struct {
	all     *queues
	name    string
	visible []*queue.Message
	flying  []*queue.Message
	sent    []queue.Outgoing // ever
	refuse  []int            // indices of the next Send that are not sent

	counting func() // called before the messages are counted
}

var _ watcher.Queue = (*fakeQueue)(nil)

func newQueues() *queues { return &queues{byName: map[string]*fakeQueue{}} }

func (q *queues) open(_ context.Context, name string) (watcher.Queue, error) {
	if name == q.missing {
		return nil, &queue.Error{Op: "open", Queue: name, Kind: queue.ErrNoQueue}
	}
	return q.get(name), nil
}

func (q *queues) get(name string) *fakeQueue {
	q.mu.Lock()
	defer q.mu.Unlock()
	f := q.byName[name]
	if f == nil {
		f = &fakeQueue{all: q, name: name}
		q.byName[name] = f
	}
	return f
}

func (q *queues) pool() *fakeQueue { return q.get(queue.PoolQueue("default")) }
func (q *queues) fast() *fakeQueue { return q.get(queue.FastQueue("default")) }
func (q *queues) dead() *fakeQueue { return q.get(queue.DeadQueue("default")) }

func (f *fakeQueue) Send(ctx context.Context, messages []queue.Outgoing) error {
	f.all.mu.Lock()
	defer f.all.mu.Unlock()
	if err := f.all.fail; err != nil {
		f.all.fail = nil
		return err
	}
	refuse := f.refuse
	f.refuse = nil
	for i, m := range messages {
		if !slices.Contains(refuse, i) {
			f.sent = append(f.sent, m)
			f.visible = append(f.visible, &queue.Message{ID: fmt.Sprint(len(f.sent)), Body: m.Body, Attributes: m.Attributes, ReceiveCount: 0})
		}
	}
	if len(refuse) > 0 {
		return &queue.SendError{Queue: f.name, Unsent: refuse, Err: queue.ErrUnavailable}
	}
	return ctx.Err()
}

func (f *fakeQueue) Receive(ctx context.Context, max int, wait time.Duration) ([]*queue.Message, error) {
	for {
		f.all.mu.Lock()
		n := min(max, len(f.visible))
		got := slices.Clone(f.visible[:n])
		f.visible = f.visible[n:]
		for _, m := range got {
			m.ReceiveCount++
		}
		f.flying = append(f.flying, got...)
		f.all.mu.Unlock()
		if n > 0 || wait <= 0 {
			return got, nil
		}
		step := min(wait, 50*time.Millisecond)
		wait -= step
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(step):
		}
	}
}

func (f *fakeQueue) Delete(_ context.Context, m *queue.Message) error {
	f.all.mu.Lock()
	defer f.all.mu.Unlock()
	f.flying = slices.DeleteFunc(f.flying, func(o *queue.Message) bool { return o == m })
	return nil
}

func (f *fakeQueue) Counts(context.Context) (queue.Counts, error) {
	if f.counting != nil {
		f.counting()
	}
	f.all.mu.Lock()
	defer f.all.mu.Unlock()
	return queue.Counts{Visible: len(f.visible), InFlight: len(f.flying)}, nil
}

// add puts a message that nobody sent.
func (f *fakeQueue) add(body string) {
	f.all.mu.Lock()
	defer f.all.mu.Unlock()
	f.visible = append(f.visible, &queue.Message{ID: "x", Body: body})
}

// lose drops all messages.
func (f *fakeQueue) lose() {
	f.all.mu.Lock()
	defer f.all.mu.Unlock()
	f.visible, f.flying = nil, nil
}

// left is what was not deleted: visible and in flight.
func (f *fakeQueue) left() (visible, flying int) {
	f.all.mu.Lock()
	defer f.all.mu.Unlock()
	return len(f.visible), len(f.flying)
}

// jobs gives the messages that were ever sent, in order.
func (f *fakeQueue) jobs(t testing.TB) []batch.Message {
	t.Helper()
	f.all.mu.Lock()
	defer f.all.mu.Unlock()
	var list []batch.Message
	for _, m := range f.sent {
		var job batch.Message
		if err := json.Unmarshal([]byte(m.Body), &job); err != nil {
			t.Fatal(err)
		}
		list = append(list, job)
	}
	return list
}

// shards gives the shards of jobs, as batch/shard with the batch named by a letter of names.
func shards(jobs []batch.Message, names map[string]string) []string {
	var list []string
	for _, j := range jobs {
		list = append(list, fmt.Sprintf("%s%d", names[j.Batch], j.Shard))
	}
	return list
}
