package finalize

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"spool/storage"
	"spool/storage/batch"
	"spool/storage/memstore"
)

// bigJob is a batch of chunks of 1,000 answers of 700 bytes, in a store in memory.
func bigJob(b *testing.B, chunks int) job {
	b.Helper()
	s := memstore.New(memstore.Options{})
	body := []byte(`{"choices":[{"message":{"content":"` + strings.Repeat("word ", 100) + `"}}]}`)
	j := job{New(Config{Bucket: s}), &batch.Plan{Batch: testID, Verdict: batch.Accepted, Shards: []batch.Shard{{}}}, &batch.Manifest{Batch: testID}}
	for n := range chunks {
		var text bytes.Buffer
		w, err := batch.NewRecordWriter(&text, batch.RecordHeader{Kind: "chunk", Batch: testID, Chunk: n})
		if err != nil {
			b.Fatal(err)
		}
		for i := range int64(batch.ChunkLines) {
			number := int64(n)*batch.ChunkLines + i + 1
			a := batch.Answer{Batch: testID, Line: number, CustomID: fmt.Sprint("id-", number), Status: 200, Body: body}
			if err := w.Write(batch.Record{Line: number, JSON: a.AppendLine(nil)}); err != nil {
				b.Fatal(err)
			}
		}
		info, err := w.Close(n, batch.Usage{})
		if err != nil {
			b.Fatal(err)
		}
		put(b, s, batch.ChunkKey(testID, 0, n), text.Bytes(), nil)
		j.plan.Shards[0].Chunks = append(j.plan.Shards[0].Chunks, batch.PlanChunk{Lines: batch.ChunkLines})
		j.manifest.Chunks = append(j.manifest.Chunks, info)
		j.manifest.Counts.Add(info.Counts)
	}
	return j
}

// BenchmarkOutput compares the assembly of output.jsonl, 14 MB of 20 chunks, with an upload of the same bytes.
// What an upload costs here is a copy and an MD5, about as much as the checksum of a real one.
func BenchmarkOutput(b *testing.B) {
	j := bigJob(b, 20)
	key := j.key(batch.OutputName)
	if err := j.output(b.Context()); err != nil {
		b.Fatal(err)
	}
	plain := []byte(get(b, j.bucket, key))
	var upload float64
	b.Run("upload", func(b *testing.B) {
		b.SetBytes(int64(len(plain)))
		for b.Loop() {
			if _, err := j.bucket.Upload(b.Context(), key, bytes.NewReader(plain), storage.PutOptions{Size: int64(len(plain))}); err != nil {
				b.Fatal(err)
			}
		}
		upload = float64(b.Elapsed()) / float64(b.N)
	})
	b.Run("assemble", func(b *testing.B) {
		b.SetBytes(int64(len(plain)))
		b.ReportAllocs()
		for b.Loop() {
			f := &file{key: "manifest", lines: newOrdered(b.Context(), j.outputParts()), want: j.manifest.Counts.OK}
			_, err := j.bucket.Upload(b.Context(), key, f, storage.PutOptions{Size: int64(len(plain))})
			if err != nil {
				b.Fatal(err)
			}
			if err := f.Close(); err != nil {
				b.Fatal(err)
			}
		}
		if upload > 0 {
			b.ReportMetric(float64(b.Elapsed())/float64(b.N)/upload, "x-upload")
		}
	})
}
