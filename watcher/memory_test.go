package watcher_test

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"

	"spool/storage"
	"spool/storage/batch"
	"spool/storage/finalize"
	"spool/storage/memstore"
	"spool/watcher"
)

// generated is a bucket with one input that is made up as it is read, and a hole for its pieces; it looks at
// the heap every four megabytes.
type generated struct {
	storage.Bucket
	lines int
	peak  uint64
}

const generatedKey = "in/generated.jsonl"

// A line of some 600 bytes, of which the text does not compress to nothing.
func (g *generated) line(n int) string {
	return fmt.Sprintf(`{"custom_id":"request-%d","method":"POST","url":"/v1/chat/completions","body":{"model":"m","messages":[{"role":"user","content":"%x %s"}]}}`+"\n",
		n, n*2654435761, strings.Repeat("the quick brown fox ", 22))
}

func (g *generated) size() int64 {
	var total int64
	for n := range g.lines {
		total += int64(len(g.line(n)))
	}
	return total
}

func (g *generated) object(size int64) storage.Object {
	return storage.Object{Key: generatedKey, Size: size, ETag: "generated", LastModified: time.Now().UTC().Add(-time.Minute), Date: time.Now().UTC()}
}

func (g *generated) Head(ctx context.Context, key string) (storage.Object, error) {
	if key == generatedKey {
		return g.object(1 << 40), nil
	}
	return g.Bucket.Head(ctx, key)
}

func (g *generated) Get(ctx context.Context, key string, opt storage.GetOptions) (io.ReadCloser, storage.Object, error) {
	if key == generatedKey {
		return io.NopCloser(&generator{g: g}), g.object(1 << 40), nil
	}
	return g.Bucket.Get(ctx, key, opt)
}

func (g *generated) Upload(ctx context.Context, key string, r io.Reader, opt storage.PutOptions) (storage.Object, error) {
	n, err := io.Copy(io.Discard, r)
	return storage.Object{Key: key, Size: n}, err
}

type generator struct {
	g    *generated
	n    int
	read int
	rest string
}

func (r *generator) Read(p []byte) (int, error) {
	total := 0
	for total < len(p) {
		if r.rest == "" {
			if r.n == r.g.lines {
				if total == 0 {
					return 0, io.EOF
				}
				break
			}
			r.rest = r.g.line(r.n)
			r.n++
		}
		n := copy(p[total:], r.rest)
		r.rest = r.rest[n:]
		total += n
	}
	if r.read += total; r.read > 4<<20 {
		r.read = 0
		runtime.GC() // what counts is what is held, not when it was collected
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		r.g.peak = max(r.g.peak, m.HeapAlloc)
	}
	return total, nil
}

// validate plans a file of n lines, and gives the most memory that was held meanwhile.
func validate(tb testing.TB, n int) uint64 {
	tb.Helper()
	store := memstore.New(memstore.Options{})
	g := &generated{Bucket: store, lines: n}
	wa, err := watcher.New(watcher.Config{
		Bucket: g, Deleter: store, BucketName: bucketName, Queues: newQueues().open, TempDir: tb.TempDir(),
		Finalizer: finalize.New(finalize.Config{Bucket: g}), Name: "w", AllowWeakStore: true,
	})
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := store.Put(tb.Context(), generatedKey, nil, storage.PutOptions{}); err != nil {
		tb.Fatal(err)
	}
	runtime.GC()
	if err := wa.Scan(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	id := batch.Identity{Bucket: bucketName, Key: generatedKey, ETag: "generated", Size: 1 << 40}.ID()
	plan := read[batch.Plan](&world{t: tb, store: store}, batch.PlanKey(id))
	if plan.Lines != int64(n) || plan.Bad != 0 {
		tb.Fatalf("plan has %d lines, %d bad, want %d and 0", plan.Lines, plan.Bad, n)
	}
	return g.peak
}

func TestMemoryDoesNotGrowWithTheFile(t *testing.T) {
	small, large := 20_000, 200_000
	if testing.Short() {
		t.Skip("reads 120 MB")
	}
	few, many := validate(t, small), validate(t, large)
	allowed := few + few/10 + 32*uint64(large-small)
	if many > allowed {
		t.Errorf("%d lines took %d bytes, %d lines %d: more than a tenth and 32 bytes a line more (%d)", small, few, large, many, allowed)
	}
	t.Logf("peak heap %.1f MB for %d lines, %.1f MB for %d", float64(few)/1e6, small, float64(many)/1e6, large)
}

func BenchmarkValidate(b *testing.B) {
	const n = 100_000
	b.SetBytes((&generated{lines: n}).size())
	b.ReportAllocs()
	for b.Loop() {
		b.ReportMetric(float64(validate(b, n))/1e6, "peak-MB")
	}
}
