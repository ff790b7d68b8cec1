package finalize

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"

	"spool/storage"
	"spool/storage/batch"
	"spool/storage/batch/jsonl"
)

// chunkAt is a chunk of a plan, and what the manifest says of it.
type chunkAt struct {
	batch.PlanChunk
	info  batch.ChunkInfo
	shard int
}

// chunks goes through the chunks of the batch, in order.
func (j job) chunks() iter.Seq[chunkAt] {
	return func(yield func(chunkAt) bool) {
		n := 0
		for shard, s := range j.plan.Shards {
			for _, c := range s.Chunks {
				if !yield(chunkAt{PlanChunk: c, info: j.manifest.Chunks[n], shard: shard}) {
					return
				}
				n++
			}
		}
	}
}

// outputParts reads the chunks that have lines for output.jsonl.
func (j job) outputParts() iter.Seq[part] {
	return func(yield func(part) bool) {
		for c := range j.chunks() {
			if c.info.Counts.OK > 0 && !yield(j.stored(c, false)) {
				return
			}
		}
	}
}

// errorParts reads the chunks that have lines for errors.jsonl, and makes those of the missing chunks.
func (j job) errorParts() iter.Seq[part] {
	return func(yield func(part) bool) {
		for c := range j.chunks() {
			switch {
			case c.info.Missing && !yield(j.missing(c)):
				return
			case c.info.Counts.Err > 0 && !yield(j.stored(c, true)):
				return
			}
		}
	}
}

// stored reads a chunk object and emits its lines of one kind. It fails behind the last line if the object is not
// the one that the manifest names: all its bytes count, also those of lines that are not wanted. Not pinned by
// ETag: the SHA-256 says more, and a store may give an ETag anew when it encrypts or replicates.
func (j job) stored(c chunkAt, wantErr bool) part {
	key := batch.ChunkKey(j.plan.Batch, c.shard, c.info.Chunk)
	return func(ctx context.Context, emit func(int64, []byte) error) error {
		body, obj, err := j.bucket.Get(ctx, key, storage.GetOptions{})
		if storage.IsNotFound(err) {
			return &CorruptError{Key: key, Err: fmt.Errorf("the manifest names it: %w", err)}
		}
		if err != nil {
			return err
		}
		defer body.Close()
		sum := &summing{r: body, hash: sha256.New(), left: obj.Size}
		err = j.records(sum, c, func(r batch.Record) error {
			if r.Err != wantErr {
				return nil
			}
			return emit(r.Line, r.JSON)
		})
		return sum.judge(key, c.info.SHA256, err)
	}
}

// records reads a chunk object to its end.
func (j job) records(r io.Reader, c chunkAt, emit func(batch.Record) error) error {
	rr, err := batch.NewRecordReader(r)
	if err != nil {
		return err
	}
	if h := rr.Header(); h.Kind != "chunk" || h.Batch != j.plan.Batch || h.Shard != c.shard || h.Chunk != c.info.Chunk {
		return fmt.Errorf("header is of %s %d of shard %d of batch %q: %w", h.Kind, h.Chunk, h.Shard, h.Batch, errOther)
	}
	for {
		rec, err := rr.Next()
		if err == io.EOF { // not wrapped: a request that broke may wrap it
			break
		}
		if err != nil {
			return err
		}
		if err := emit(rec); err != nil {
			return err
		}
	}
	if rr.Counts() != c.info.Counts {
		return fmt.Errorf("it has %+v, the manifest says %+v: %w", rr.Counts(), c.info.Counts, errOther)
	}
	return nil
}

// errOther says that a chunk object is whole, and another one than was expected.
var errOther = errors.New("not the object that the manifest names")

// summing takes the SHA-256 of what is read.
type summing struct {
	r    io.Reader
	hash hash.Hash
	left int64 // bytes still to come, as the store said
}

func (s *summing) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.hash.Write(p[:n])
	s.left -= int64(n)
	return n, err
}

// judge tells an object that is bad from a request that failed. err is what reading the records ended with.
func (s *summing) judge(key, want string, err error) error {
	switch got := hex.EncodeToString(s.hash.Sum(nil)); {
	case errors.Is(err, batch.ErrTorn) && s.left > 0:
		return fmt.Errorf("read %q: %d bytes are missing: %w", key, s.left, io.ErrUnexpectedEOF)
	case errors.Is(err, batch.ErrTorn), errors.Is(err, errOther):
		return &CorruptError{Key: key, Err: err}
	case err != nil:
		return fmt.Errorf("read %q: %w", key, err)
	case got != want:
		return corruptf(key, "its sha256 is %q, the manifest says %q", got, want)
	case s.left != 0: // what a reader that stops at the end line did not ask for
		return corruptf(key, "%d bytes follow the end line", s.left)
	}
	return nil
}

// missing makes the error lines of a chunk that nobody committed, from the lines as they were staged.
// Lines that turned out bad are among them: whoever merges the bad lines drops them.
func (j job) missing(c chunkAt) part {
	key := batch.PieceKey(j.plan.Batch, j.plan.Folder, c.shard)
	return func(ctx context.Context, emit func(int64, []byte) error) error {
		lines, err := j.frame(ctx, key, c)
		if err != nil {
			return err
		}
		checker, err := jsonl.NewChecker(jsonl.Config{MaxLineBytes: 1 << 30, MaxDepth: 10_000})
		if err != nil {
			return err
		}
		answer := batch.Answer{Batch: j.plan.Batch, Code: j.manifest.Code, Message: j.manifest.Message}
		var text []byte
		for _, l := range lines {
			req, _ := checker.Check(jsonl.Line{Bytes: l.Text}) // good once; only its custom_id is wanted
			answer.Line, answer.CustomID = l.Number, string(req.CustomID)
			text = answer.AppendLine(text[:0])
			if err := emit(l.Number, text); err != nil {
				return err
			}
		}
		return nil
	}
}

// frame reads the staged lines of a chunk.
func (j job) frame(ctx context.Context, key string, c chunkAt) ([]batch.PieceLine, error) {
	body, _, err := j.bucket.Get(ctx, key, storage.GetOptions{Offset: c.Offset, Length: c.Size})
	if storage.IsNotFound(err) {
		return nil, &CorruptError{Key: key, Err: fmt.Errorf("the plan names it: %w", err)}
	}
	if err != nil {
		return nil, err
	}
	defer body.Close()
	frame := make([]byte, c.Size)
	if _, err := io.ReadFull(body, frame); err != nil {
		return nil, fmt.Errorf("read %q: %w", key, err)
	}
	lines, err := batch.ReadFrame(frame, c.Lines)
	if err != nil {
		return nil, &CorruptError{Key: key, Err: err}
	}
	return lines, nil
}
