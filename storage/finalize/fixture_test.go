package finalize

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"go.uber.org/goleak"

	"spool/monitoring/report"
	"spool/storage"
	"spool/storage/batch"
	"spool/storage/lease"
	"spool/storage/memstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	testID    = "bpicclhpxbn2qqhb5uxmxo6zjly"
	testInput = "in/math/x.jsonl"
	testDir   = "out/math/x.jsonl/" + testID + "/"
	folder    = "w-1"
)

// Fates of a line.
type fate int

const (
	answered fate = iota
	refused       // by the engine, HTTP 400
	crashed       // no answer: runner_crashed
	badEarly      // found bad before it was staged
	badLate       // a repeated custom_id, found when it was staged already
)

type testLine struct {
	number int64
	id     string
	fate   fate
}

func (l testLine) bad() bool { return l.fate == badEarly || l.fate == badLate }

func (l testLine) text() string {
	return fmt.Sprintf(`{"custom_id":%q,"method":"POST","url":"/v1/chat/completions","body":{"model":"m","n":%d}}`, l.id, l.number)
}

func (l testLine) badLine() batch.BadLine {
	code := "invalid_json"
	if l.fate == badLate {
		code = "duplicate_custom_id"
	}
	b := batch.BadLine{Line: l.number, Offset: l.number * 100, Code: code, Message: "line is bad"}
	if l.fate == badLate {
		b.CustomID = &l.id
	}
	return b
}

func (l testLine) answer() batch.Answer {
	a := batch.Answer{Batch: testID, Line: l.number, CustomID: l.id, Status: 200, Body: fmt.Appendf(nil, `{"answer":"to %d ünder <20>"}`, l.number),
		Spool: &batch.Extension{Attempts: 1, Runner: "r-1"}}
	switch l.fate {
	case refused:
		a.Status, a.Body = 400, []byte(`{"error":{"message":"too long"}}`)
	case crashed:
		a.Status, a.Body, a.Code, a.Message = 0, nil, batch.CodeRunnerCrashed, "the engine died of it"
	}
	return a
}

func (l testLine) result() batch.Record {
	a := l.answer()
	return batch.Record{Line: l.number, Err: !a.OK(), JSON: a.AppendLine(nil)}
}

// world is a batch whose lines have a known fate.
type world struct {
	plan  *batch.Plan
	parts [][][]testLine // shard, chunk, lines as they are staged
	bad   []testLine     // in order, early and late
	base  time.Time
}

// shape says how many shards, chunks and lines a world has, at most, and of which fates.
type shape struct {
	shards, chunks, lines int
	fates                 []fate
}

var anyFate = []fate{answered, answered, answered, refused, crashed, badEarly, badLate}

func newWorld(t testing.TB, rng *rand.Rand, s shape, base time.Time) *world {
	t.Helper()
	w := &world{base: base, plan: &batch.Plan{
		V: batch.Version, Batch: testID, Verdict: batch.Accepted, Pool: "default", OnInvalid: "skip", Window: "24h",
		Input:     batch.Input{Bucket: "spool", Key: testInput, ETag: "e", Size: 1000, LastModified: base.Unix()},
		CreatedAt: base.Unix() + 1, ExpiresAt: base.Unix() + 86400, Endpoint: "/v1/chat/completions",
		Models: []string{"m"}, Folder: folder, Watcher: "w",
	}}
	number := int64(0)
	for range 1 + rng.IntN(s.shards) {
		var shard [][]testLine
		for range 1 + rng.IntN(s.chunks) {
			var chunk []testLine
			for n := 1 + rng.IntN(s.lines); len(chunk) < n; {
				number += 1 + int64(rng.IntN(2)) // blank lines between
				l := testLine{number, fmt.Sprintf("id-%d \"é\"", number), s.fates[rng.IntN(len(s.fates))]}
				w.plan.Lines++
				if l.bad() {
					w.bad = append(w.bad, l)
				}
				if l.fate != badEarly {
					chunk = append(chunk, l)
				}
			}
			shard = append(shard, chunk)
		}
		w.parts = append(w.parts, shard)
	}
	w.plan.Bad = int64(len(w.bad))
	return w
}

// stage stores what the watcher makes: pieces, bad lines, plan.
func (w *world) stage(t testing.TB, b storage.Bucket) {
	t.Helper()
	w.plan.Shards = nil
	for shard, chunks := range w.parts {
		var piece []byte
		var s batch.Shard
		for _, lines := range chunks {
			var plain []byte
			pc := batch.PlanChunk{Offset: int64(len(piece)), FirstLine: lines[0].number, Lines: len(lines)}
			for _, l := range lines {
				plain = batch.AppendPieceLine(plain, l.number, []byte(l.text()))
				if l.bad() {
					pc.Bad++
				}
			}
			piece = compress(t, piece, plain)
			pc.Size = int64(len(piece)) - pc.Offset
			s.Chunks = append(s.Chunks, pc)
		}
		w.plan.Shards = append(w.plan.Shards, s)
		put(t, b, batch.PieceKey(testID, folder, shard), piece, nil)
	}
	if len(w.bad) > 0 {
		put(t, b, batch.BadKey(testID, folder), compress(t, nil, w.invalid(t)), nil)
	}
	putJSON(t, b, batch.PlanKey(testID), w.plan)
}

func compress(t testing.TB, dst, plain []byte) []byte {
	t.Helper()
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(1<<15))
	if err != nil {
		t.Fatal(err)
	}
	return enc.EncodeAll(plain, dst)
}

// invalid is invalid.jsonl.
func (w *world) invalid(t testing.TB) []byte {
	t.Helper()
	var text []byte
	for _, l := range w.bad {
		text = append(text, marshal(t, l.badLine())...)
		text = append(text, '\n')
	}
	return text
}

// commit stores a chunk as a runner does; left lines end with the code instead, if one is given.
func (w *world) commit(t testing.TB, b storage.Bucket, shard, chunk int, code string) batch.ChunkInfo {
	t.Helper()
	n := w.plan.FirstChunk(shard) + chunk
	var text bytes.Buffer
	rw, err := batch.NewRecordWriter(&text, batch.RecordHeader{Kind: "chunk", Batch: testID, Shard: shard, Chunk: n, Runner: "r-1"})
	if err != nil {
		t.Fatal(err)
	}
	usage := batch.Usage{InputTokens: int64(10 + n), OutputTokens: 5, TotalTokens: int64(15 + n)}
	for _, l := range w.parts[shard][chunk] {
		if l.bad() {
			continue
		}
		rec := l.result()
		if code != "" {
			rec = unanswered(l, code, "stopped")
		}
		if err := rw.Write(rec); err != nil {
			t.Fatal(err)
		}
	}
	info, err := rw.Close(n, usage)
	if err != nil {
		t.Fatal(err)
	}
	key := batch.ChunkKey(testID, shard, n)
	if _, err := storage.PutOnce(t.Context(), b, key, text.Bytes(), storage.PutOptions{Metadata: info.Metadata()}); err != nil {
		t.Fatal(err)
	}
	head, err := b.Head(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	info, err = batch.ParseChunkInfo(n, head.ETag, head.Size, head.Metadata)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func unanswered(l testLine, code, message string) batch.Record {
	a := batch.Answer{Batch: testID, Line: l.number, CustomID: l.id, Code: code, Message: message}
	return batch.Record{Line: l.number, Err: true, JSON: a.AppendLine(nil)}
}

// finish commits the chunks of a shard, with code as commit, and puts its done.
func (w *world) finish(t testing.TB, b storage.Bucket, shard int, code string) {
	t.Helper()
	done := batch.Done{V: batch.Version, Batch: testID, Shard: shard, Runner: "r-1"}
	for chunk := range w.parts[shard] {
		done.Chunks = append(done.Chunks, w.commit(t, b, shard, chunk, code))
	}
	putJSON(t, b, batch.DoneKey(testID, shard), done)
}

func (w *world) finishAll(t testing.TB, b storage.Bucket) {
	t.Helper()
	for shard := range w.parts {
		w.finish(t, b, shard, "")
	}
}

func (w *world) stop(t testing.TB, b storage.Bucket, outcome, code string) {
	t.Helper()
	putJSON(t, b, batch.StopKey(testID), batch.Stop{
		V: batch.Version, Batch: testID, Outcome: outcome, Code: code, Message: "stopped", At: time.Now().Unix(),
	})
}

// hold puts a lease, perhaps with a TTL in seconds.
func (w *world) hold(t testing.TB, b storage.Bucket, shard int, state lease.State, ttl ...int64) {
	t.Helper()
	rec := lease.Record{V: 1, Gen: 1, Owner: "r-1", State: state}
	if len(ttl) > 0 {
		rec.TTL = ttl[0]
	}
	putJSON(t, b, batch.LeaseKey(testID, shard), rec)
}

// expect is the text of output.jsonl and errors.jsonl, made from the fates alone. Chunks of which stored says
// no are missing, their lines end with code.
func (w *world) expect(stored func(shard, chunk int) bool, code string) (output, errors string) {
	bad := w.bad
	var out, errs []byte
	badUpTo := func(number int64) {
		for len(bad) > 0 && bad[0].number <= number {
			b := bad[0].badLine()
			errs = append(b.Failed(testID).AppendLine(errs), '\n')
			bad = bad[1:]
		}
	}
	for shard, chunks := range w.parts {
		for chunk, lines := range chunks {
			for _, l := range lines {
				badUpTo(l.number)
				rec := l.result()
				if !stored(shard, chunk) {
					rec = unanswered(l, code, "stopped")
				}
				switch {
				case l.bad():
				case rec.Err:
					errs = append(append(errs, rec.JSON...), '\n')
				default:
					out = append(append(out, rec.JSON...), '\n')
				}
			}
		}
	}
	badUpTo(1 << 60)
	return string(out), string(errs)
}

func all(int, int) bool { return true }

// check holds the files of the store against what is expected, and asks that all was written once.
func (w *world) check(t testing.TB, s *memstore.Store, output, errs string) {
	t.Helper()
	if got, want := get(t, s, testDir+batch.OutputName), output; got != want {
		t.Errorf("output.jsonl: %s", cmp.Diff(want, got))
	}
	checkOptional(t, s, testDir+batch.ErrorsName, errs)
	checkOptional(t, s, testDir+batch.InvalidName, string(w.invalid(t)))
	checkReport(t, s)
	m := getJSON[batch.Manifest](t, s, batch.ManifestKey(testID))
	if diff := cmp.Diff(Object(w.plan, &m), getJSON[batch.Object](t, s, testDir+batch.ObjectName)); diff != "" {
		t.Errorf("batch.json: %s", diff)
	}
	result := getJSON[batch.Result](t, s, batch.ResultKey(testID))
	head, err := s.Head(t.Context(), testDir+batch.ObjectName)
	if err != nil {
		t.Fatal(err)
	}
	if result.ObjectTime != head.LastModified.Unix() || result.ObjectTime <= w.plan.Input.LastModified {
		t.Errorf("batch_json_last_modified = %d, want %d, later than %d", result.ObjectTime, head.LastModified.Unix(), w.plan.Input.LastModified)
	}
	if lines := int64(bytes.Count([]byte(output+errs), []byte("\n"))); result.Total != lines || result.Total != w.plan.Lines {
		t.Errorf("result counts %d lines, output and errors have %d, the plan %d", result.Total, lines, w.plan.Lines)
	}
	checkWrites(t, s)
}

// checkReport holds summary.md and report.html to summary.json.
func checkReport(t testing.TB, s *memstore.Store) {
	t.Helper()
	summary := getJSON[batch.Summary](t, s, testDir+batch.SummaryName)
	html, markdown := report.Render(&summary)
	checkOptional(t, s, testDir+batch.ReportName, string(html))
	checkOptional(t, s, testDir+batch.MarkdownName, string(markdown))
}

func checkOptional(t testing.TB, s *memstore.Store, key, want string) {
	t.Helper()
	if want == "" {
		if _, err := s.Head(t.Context(), key); !storage.IsNotFound(err) {
			t.Errorf("Head(%q) = %v, want not found", key, err)
		}
		return
	}
	if got := get(t, s, key); got != want {
		t.Errorf("%s: %s", key, cmp.Diff(want, got))
	}
}

// rebuilt are the files that may be written again.
var rebuilt = []string{testDir + batch.SummaryName, testDir + batch.MarkdownName, testDir + batch.ReportName}

// checkWrites asks that each object but the summary and the report has had one version.
func checkWrites(t testing.TB, s *memstore.Store) {
	t.Helper()
	for obj, err := range s.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		if n := s.Writes(obj.Key); n != 1 && !slices.Contains(rebuilt, obj.Key) {
			t.Errorf("%q was written %d times", obj.Key, n)
		}
	}
}

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func put(t testing.TB, b storage.Bucket, key string, body []byte, meta map[string]string) {
	t.Helper()
	if _, err := b.Put(context.WithoutCancel(t.Context()), key, body, storage.PutOptions{Metadata: meta}); err != nil {
		t.Fatal(err)
	}
}

func putJSON(t testing.TB, b storage.Bucket, key string, v any) {
	t.Helper()
	put(t, b, key, marshal(t, v), nil)
}

func get(t testing.TB, b storage.Bucket, key string) string {
	t.Helper()
	body, _, err := storage.ReadAll(t.Context(), b, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func getJSON[T any](t testing.TB, b storage.Bucket, key string) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(get(t, b, key)), &v); err != nil {
		t.Fatalf("%s: %v", key, err)
	}
	return v
}

// try runs a finaliser that must not fail.
func try(t testing.TB, b storage.Bucket, w *world) *batch.Result {
	t.Helper()
	r, err := New(Config{Bucket: b, By: "f", Render: report.Render}).Try(t.Context(), w.plan)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
