package runner

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"go.uber.org/zap"

	"spool/runner/vllm"
	"spool/storage"
	"spool/storage/batch"
)

// Segments are a cache: losing one costs asking again, doubling one costs nothing.

// resume learns what others have done: which chunks are stored, and which lines of the others stand in
// segments.
func (s *shard) resume(ctx context.Context) error {
	for obj, err := range s.cfg.Bucket.List(ctx, batch.ChunkPrefix(s.plan.Batch, s.index), "") {
		if err != nil {
			return fmt.Errorf("list chunks: %w", err)
		}
		if k, ok := batch.ParseShardKey(s.plan.Batch, obj.Key); ok && k.Kind == batch.KindChunk {
			s.committed[k.Chunk] = true
		}
	}
	if len(s.committed) == s.size() {
		return nil
	}
	for number := s.first; number < s.first+s.size(); number++ {
		if s.committed[number] {
			continue
		}
		c, err := newChunk(s, number)
		if err != nil {
			return err
		}
		s.chunks[number] = c
	}
	if err := s.loadBad(ctx); err != nil {
		return err
	}
	return s.readSegments(ctx)
}

func (s *shard) readSegments(ctx context.Context) error {
	for obj, err := range s.cfg.Bucket.List(ctx, batch.SegmentPrefix(s.plan.Batch, s.index), "") {
		if err != nil {
			return fmt.Errorf("list segments: %w", err)
		}
		n, err := s.readSegment(ctx, obj.Key)
		s.notes.resumed.Add(int64(n))
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			s.log.Warn("segment is not usable, its lines are asked again", zap.String("event", "segment_unusable"), zap.String("key", obj.Key), zap.Error(err))
		}
	}
	return nil
}

// readSegment takes the results of lines whose chunk is open.
func (s *shard) readSegment(ctx context.Context, key string) (taken int, err error) {
	r, _, err := s.cfg.Bucket.Get(ctx, key, storage.GetOptions{})
	if err != nil {
		return 0, err
	}
	defer r.Close()
	rr, err := batch.NewRecordReader(r)
	if err != nil {
		return 0, err
	}
	for {
		rec, err := rr.Next()
		if err == io.EOF { // not wrapped: a request that broke may wrap it
			return taken, nil
		}
		if err != nil {
			return taken, err
		}
		if c := s.chunkOf(rec.Line); c != nil && !s.bad[rec.Line] && !c.has(rec.Line) {
			c.restore(rec, usageOfLine(rec))
			taken++
		}
	}
}

// chunkOf gives the open chunk of a line, nil if it is committed or the line is not the shard's.
func (s *shard) chunkOf(line int64) *chunk {
	for number := s.first + s.size() - 1; number >= s.first; number-- {
		if s.planChunk(number).FirstLine <= line {
			return s.chunks[number]
		}
	}
	return nil
}

// usageOfLine takes the tokens from an output line.
func usageOfLine(rec batch.Record) batch.Usage {
	var line struct {
		Response struct {
			Body json.RawMessage `json:"body"`
		} `json:"response"`
	}
	if rec.Err || json.Unmarshal(rec.JSON, &line) != nil {
		return batch.Usage{}
	}
	return usageOf(vllm.UsageOf(line.Response.Body))
}

// loadBad finds the lines of the pieces that turned out bad after they were staged.
func (s *shard) loadBad(ctx context.Context) error {
	first, last, some := s.lineRange()
	if !some {
		return nil
	}
	r, _, err := s.cfg.Bucket.Get(ctx, batch.BadKey(s.plan.Batch, s.plan.Folder), storage.GetOptions{})
	if err != nil {
		return fmt.Errorf("read bad lines: %w", err)
	}
	defer r.Close()
	br, err := batch.NewBadReader(r)
	if err != nil {
		return err
	}
	defer br.Close()
	s.bad = make(map[int64]bool)
	for {
		l, err := br.Next()
		switch {
		case err == io.EOF || err == nil && l.Line >= last: // not wrapped: a request that broke may wrap it
			return nil
		case err != nil:
			return err
		case l.Line >= first:
			s.bad[l.Line] = true
		}
	}
}

// lineRange gives the lines from first to before last that hold the shard's bad lines, if it has some.
func (s *shard) lineRange() (first, last int64, some bool) {
	chunks := s.plan.Shards[s.index].Chunks
	for _, c := range chunks {
		some = some || c.Bad > 0
	}
	last = 1<<63 - 1
	if s.index+1 < len(s.plan.Shards) {
		last = s.plan.Shards[s.index+1].Chunks[0].FirstLine
	}
	return chunks[0].FirstLine, last, some
}

// save writes what was finished since the last time. A failure is no reason to stop: the lines are
// tried again with the next segment, and a metric and a warning tell.
func (s *shard) save(ctx context.Context, all bool) {
	ctx, cancel := context.WithTimeout(ctx, segmentTimeout)
	defer cancel()
	err := s.writeSegments(ctx, all)
	s.window.meter.segment(err)
	if err != nil {
		s.log.Warn("segment could not be written: a crash would lose finished lines", zap.String("event", "segment_failed"), zap.Error(err))
	}
}

// segmentTimeout bounds one time of saving, in which full chunks, strikes and stops wait: a segment must come through a slow line,
// which one try of the store has a second a MiB for.
const segmentTimeout = 30*time.Second + storage.PartSize>>20*time.Second

// saveTimeout bounds the last segment, which is written while a runner is being stopped.
const saveTimeout = 5 * time.Second

// saveLast writes a segment although ctx may have ended.
func (s *shard) saveLast(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTimeout)
	defer cancel()
	s.save(ctx, true)
}

// writeSegments saves what is not saved, in segments of about a part: memory does not grow with the answers. Those that come
// meanwhile are left for the next time, unless all are wanted because there is none.
func (s *shard) writeSegments(ctx context.Context, all bool) error {
	for {
		taken, size, err := s.unsaved(storage.PartSize)
		if err != nil || len(taken) == 0 {
			return err
		}
		if err := s.writeSegment(ctx, taken, size); err != nil || size < storage.PartSize && !all {
			return err
		}
	}
}

func (s *shard) writeSegment(ctx context.Context, taken []unsavedRefs, size int64) error {
	buf := bytes.NewBuffer(make([]byte, 0, size))
	rw, err := batch.NewRecordWriter(buf, batch.RecordHeader{
		Kind: "segment", Batch: s.plan.Batch, Shard: s.index, Chunk: -1, Runner: s.cfg.Name,
	})
	if err != nil {
		return err
	}
	for _, t := range taken {
		if err := t.copyRefs(rw, t.refs); err != nil {
			return err
		}
	}
	if _, err := rw.Close(-1, batch.Usage{}); err != nil {
		return err
	}
	// A new name each time: one that failed may stand there nevertheless, and so may those of an earlier time
	// that this runner had the shard.
	key := batch.SegmentKey(s.plan.Batch, s.index, s.cfg.Name, int(s.notes.segments.Add(1)))
	stored, err := storage.PutOnce(ctx, s.cfg.Bucket, key, buf.Bytes(), storage.PutOptions{})
	if err == nil && !stored.Mine {
		err = fmt.Errorf("the name %q is taken", key)
	}
	if err != nil {
		return fmt.Errorf("write segment: %w", err)
	}
	for _, t := range taken {
		t.markSaved(len(t.refs))
	}
	return nil
}

// unsavedRefs is what no segment has of a chunk.
type unsavedRefs struct {
	*chunk
	refs []ref
}

// unsaved gives what no segment has of the open chunks, in the order of lines, and about the size of a
// segment of it: not much more than most, and at least one result, if there is any.
func (s *shard) unsaved(most int64) (list []unsavedRefs, size int64, err error) {
	for number := s.first; number < s.first+s.size() && size < most; number++ {
		c := s.chunks[number]
		if c == nil {
			continue
		}
		refs, err := c.unsaved(most - size)
		if err != nil {
			return nil, 0, err
		}
		if len(refs) > 0 {
			list = append(list, unsavedRefs{c, refs})
			size += recordsSize(refs)
		}
	}
	return list, size, nil
}
