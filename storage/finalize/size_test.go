package finalize

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"strings"
	"testing"

	"spool/storage"
	"spool/storage/batch"
	"spool/storage/batch/jsonl"
	"spool/storage/memstore"
)

func TestPartsAreSmallUnlessTheFileMayBeLarge(t *testing.T) {
	const mib, gib = 1 << 20, 1 << 30
	for most, want := range map[int64]int64{
		0: 5 * mib, gib: 5 * mib, 9_500 * 5 * mib: 5 * mib, 9_500*5*mib + 1: 6 * mib, 100 * gib: 11 * mib, 5 << 40: 552 * mib,
	} {
		got := partSize(most)
		if got != want || got*storage.MaxParts < most {
			t.Errorf("a file of up to %d bytes has parts of %d, want %d", most, got, want)
		}
	}
}

// A file of bad or missing lines, whose size is not known, has parts that are large enough for it.
func TestPartsOfErrorsFollowFromTheCounts(t *testing.T) {
	const mib = 1 << 20
	for name, tc := range map[string]struct {
		counts batch.Counts
		lines  int // of the missing chunk
		bad    int64
		want   storage.PutOptions // of errors.jsonl
		inv    int64              // part size of invalid.jsonl; 0: there is none
	}{
		"errors only, known":     {batch.Counts{Err: 9, ErrBytes: 60 << 30}, 0, 0, storage.PutOptions{Size: 60 << 30, PartSize: 7 * mib}, 0},
		"few missing lines":      {batch.Counts{Err: 9, ErrBytes: 100}, 1000, 0, storage.PutOptions{PartSize: 5 * mib}, 0},
		"and many errors":        {batch.Counts{Err: 9, ErrBytes: 60 << 30}, 1, 0, storage.PutOptions{PartSize: 7 * mib}, 0},
		"many missing lines":     {batch.Counts{}, 20_000_000, 0, storage.PutOptions{PartSize: 8 * mib}, 0}, // 20e6 × (3,584 + 6 × 19) / 9,500
		"many bad lines":         {batch.Counts{}, 0, 20_000_000, storage.PutOptions{PartSize: 10 * mib}, 10 * mib},
		"missing, bad and wrong": {batch.Counts{Err: 1, ErrBytes: 30 << 30}, 5_000_000, 5_000_000, storage.PutOptions{PartSize: 8 * mib}, 5 * mib},
	} {
		t.Run(name, func(t *testing.T) {
			plan := &batch.Plan{V: 1, Batch: testID, Verdict: batch.Accepted, Bad: tc.bad, Folder: folder, Input: batch.Input{Key: testInput}}
			m := &batch.Manifest{Batch: testID, Code: "batch_cancelled", Message: "why", Counts: tc.counts}
			if tc.lines > 0 {
				plan.Shards = []batch.Shard{{Chunks: []batch.PlanChunk{{Lines: tc.lines}}}}
				m.Chunks = []batch.ChunkInfo{{Missing: true}}
			}
			b := &noUploads{Bucket: memstore.New(memstore.Options{}), asked: map[string]storage.PutOptions{}}
			if tc.bad > 0 {
				w := &world{bad: []testLine{{number: 1, fate: badEarly}}}
				put(t, b, batch.BadKey(testID, folder), compress(t, nil, w.invalid(t)), nil)
			}
			j := job{New(Config{Bucket: b}), plan, m}
			if err := errors.Join(j.errors(t.Context()), j.invalid(t.Context())); !errors.Is(err, errNoUploads) {
				t.Fatalf("got %v", err)
			}
			got := b.asked[testDir+batch.ErrorsName]
			if got.Size != tc.want.Size || got.PartSize != tc.want.PartSize {
				t.Errorf("errors.jsonl: size %d, parts of %d; want %d, %d", got.Size, got.PartSize, tc.want.Size, tc.want.PartSize)
			}
			if got := b.asked[testDir+batch.InvalidName].PartSize; got != tc.inv {
				t.Errorf("invalid.jsonl: parts of %d, want %d", got, tc.inv)
			}
		})
	}
}

var errNoUploads = errors.New("no uploads")

// noUploads notes what uploads are asked for, and refuses them.
type noUploads struct {
	storage.Bucket
	asked map[string]storage.PutOptions
}

func (b *noUploads) Upload(_ context.Context, key string, _ io.Reader, opt storage.PutOptions) (storage.Object, error) {
	b.asked[key] = opt
	return storage.Object{}, &storage.Error{Op: "upload", Key: key, Kind: storage.KindInvalid, Err: errNoUploads}
}

func TestNoLineIsLongerThanItsBound(t *testing.T) {
	id := strings.Repeat("\x00", jsonl.MaxCustomIDBytes)
	m := &batch.Manifest{Code: strings.Repeat("<", 30), Message: strings.Repeat("\x01", 1000)}
	a := batch.Answer{Batch: testID, Line: math.MaxInt64, CustomID: id, Code: m.Code, Message: m.Message}
	if got, most := int64(len(a.AppendLine(nil))+1), mostErrors(tally{missing: 1}, m); got > most {
		t.Errorf("a missing line has %d bytes, the most should be %d", got, most)
	}
	checker, err := jsonl.NewChecker(jsonl.Config{MaxDepth: 100})
	if err != nil {
		t.Fatal(err)
	}
	long := 0
	for _, odd := range []string{strings.Repeat("\\u0000", 100), strings.Repeat("\\\\", 100), strings.Repeat("\U0001f600", 100), strings.Repeat("\u00fc", 100)} {
		for _, text := range []string{
			`{"custom_id":"a","method":"` + odd + `"}`, `{"custom_id":"a","url":"` + odd + `"}`, `{"` + odd + `":1}`,
			`{"custom_id":"` + odd + odd + odd + odd + odd + odd + `"}`, `{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"` + odd + `","max_tokens":"` + odd + `"}}`,
		} {
			_, p := checker.Check(jsonl.Line{Number: math.MaxInt64, Offset: math.MaxInt64, Bytes: []byte(text)})
			if p == nil {
				continue
			}
			bad := batch.BadLine{Line: p.Line, Offset: p.Offset, CustomID: &id, Code: string(p.Code), Message: p.Message}
			line, err := json.Marshal(bad)
			if err != nil {
				t.Fatal(err)
			}
			long = max(long, len(line)+1, len(bad.Failed(testID).AppendLine(nil))+1)
		}
	}
	if long > longestBad || long < 6*jsonl.MaxCustomIDBytes+400 {
		t.Errorf("the longest bad line has %d bytes, the most should be %d", long, longestBad)
	}
}
