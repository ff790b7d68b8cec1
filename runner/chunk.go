package runner

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"

	"spool/runner/vllm"
	"spool/storage/batch"
)

// chunk is a chunk that is being answered. Its answers go to a temporary file as they come, so that
// memory does not grow with them; what stays in memory is where each stands, and a tail of them, so that
// not each costs a system call.
type chunk struct {
	batch  string
	shard  int
	number int // in the batch
	runner string
	owner  *shard

	// Of its trace: set before its first line is in the window.
	span   trace.Span
	traced bool         // the span is recorded
	header http.Header  // of requests that have no span
	failed atomic.Int32 // requests of a chunk that is traced

	mu    sync.Mutex
	file  *os.File // nil after close
	size  int64    // of all answers
	tail  []byte   // the last of them, which are not in the file yet
	refs  []ref    // in the order of arrival
	saved int      // refs[:saved] are in segments
	have  map[int64]struct{}
	todo  int // lines without an answer; -1 until the lines are known
	usage batch.Usage
}

// tailSize is how long the tail may grow. Segments, and with them flush, come every few seconds, so that a
// chunk that waits for its last lines holds none.
const tailSize = 32 << 10

// ref says where in the file the output line of an input line stands.
type ref struct {
	line   int64
	offset int64
	size   int
	err    bool
}

func newChunk(s *shard, number int) (*chunk, error) {
	file, err := os.CreateTemp(s.cfg.Scratch, "spool-chunk-*")
	if err != nil {
		return nil, fmt.Errorf("open chunk %d: %w", number, err)
	}
	// Unlinked at once: whatever ends this process, nothing is left on the disk.
	if err := os.Remove(file.Name()); err != nil {
		return nil, errors.Join(fmt.Errorf("open chunk %d: %w", number, err), file.Close())
	}
	lines := s.planChunk(number).Requests()
	return &chunk{
		batch: s.plan.Batch, shard: s.index, number: number, runner: s.cfg.Name, owner: s,
		file: file, refs: make([]ref, 0, lines), have: make(map[int64]struct{}, lines), todo: -1,
	}, nil
}

func (c *chunk) key() string { return batch.ChunkKey(c.batch, c.shard, c.number) }

// close frees the file. Answers that still come are dropped.
func (c *chunk) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.file == nil {
		return nil
	}
	err := c.file.Close()
	c.file, c.tail = nil, nil
	c.giveUp()
	c.owner.window.meter.closed(c)
	c.owner.notes.open.Add(-int64(len(c.refs)))
	return err
}

// expect tells how many lines the chunk needs, and reports whether it has them already.
func (c *chunk) expect(lines int) (full bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.todo = lines - len(c.have)
	return c.todo <= 0
}

func (c *chunk) has(line int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.have[line]
	return ok
}

// deliver takes the final answer to a line. It is called by the window's workers.
func (c *chunk) deliver(t *task, a vllm.Answer, took time.Duration) {
	answer := batch.Answer{
		Batch: c.batch, Line: t.line, CustomID: t.customID, Status: a.Status, Body: a.Body,
		Spool: &batch.Extension{
			Attempts: t.tries, QueuedMS: t.first.Sub(t.queued).Milliseconds(), RunMS: took.Milliseconds(),
			Chunk: c.number, Runner: c.runner,
		},
	}
	if a.Status == 0 {
		answer.Code, answer.Message = a.Code, a.Err.Error()
	}
	c.owner.window.meter.ended(t.series, answer.OK())
	c.owner.notes.answered(took, &a)
	c.add(&answer, usageOf(a.Usage))
}

// add records one result; a second one for the same line is dropped.
func (c *chunk) add(a *batch.Answer, usage batch.Usage) {
	c.keep(a.Line, !a.OK(), usage, a.AppendLine)
}

// restore records a result that a segment kept.
func (c *chunk) restore(r batch.Record, usage batch.Usage) {
	c.keep(r.Line, r.Err, usage, func(dst []byte) []byte { return append(dst, r.JSON...) })
	c.mu.Lock()
	defer c.mu.Unlock()
	c.saved = len(c.refs)
}

// keep takes the output line that text appends, and reports when it was the last one, or cannot be kept.
func (c *chunk) keep(line int64, isErr bool, usage batch.Usage, text func([]byte) []byte) {
	c.mu.Lock()
	full, err := c.append(ref{line: line, err: isErr}, usage, text)
	c.mu.Unlock()
	c.report(full, err)
}

func (c *chunk) report(full bool, err error) {
	switch {
	case err != nil:
		c.owner.fail(fmt.Errorf("keep answer of chunk %d: %w", c.number, err))
	case full:
		c.owner.full <- c // has room for every chunk of the shard
	}
}

// append works under mu; full is true once, when the last line came.
func (c *chunk) append(r ref, usage batch.Usage, text func([]byte) []byte) (full bool, err error) {
	if _, dup := c.have[r.line]; dup || c.file == nil {
		return false, nil
	}
	if c.tail == nil {
		c.tail = make([]byte, 0, tailSize)
	}
	before := len(c.tail)
	c.tail = text(c.tail)
	r.offset, r.size = c.size, len(c.tail)-before
	c.refs = append(c.refs, r)
	c.size += int64(r.size)
	c.have[r.line] = struct{}{}
	c.usage.Add(usage)
	c.owner.notes.open.Add(1)
	if len(c.tail) > tailSize-1<<10 { // the next one may not fit
		if err := c.flush(); err != nil {
			return false, err
		}
	}
	if c.todo > 0 {
		c.todo--
		return c.todo == 0, nil
	}
	return false, nil
}

// flush works under mu and writes the tail to the file.
func (c *chunk) flush() error {
	if len(c.tail) == 0 {
		return nil
	}
	if _, err := c.file.WriteAt(c.tail, c.size-int64(len(c.tail))); err != nil {
		return err
	}
	c.tail = c.tail[:0]
	if cap(c.tail) > 2*tailSize {
		c.tail = nil
	}
	return nil
}

// refuse ends the work on the whole batch by this runner.
func (c *chunk) refuse(a vllm.Answer) {
	c.owner.fail(because(a.Code, a.Err))
}

// unsaved gives the oldest results that no segment has, of most bytes or one more. The slice is the caller's.
func (c *chunk) unsaved(most int64) ([]ref, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.flush(); err != nil {
		return nil, err
	}
	c.tail = nil
	n := c.saved
	for ; n < len(c.refs) && most > 0; n++ {
		most -= int64(c.refs[n].size)
	}
	return slices.Clone(c.refs[c.saved:n]), nil
}

// markSaved says that the first n results that unsaved gave are in a segment.
func (c *chunk) markSaved(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.saved += n
}

// write writes the chunk object to w. All lines must have come.
func (c *chunk) write(w io.Writer) (batch.ChunkInfo, error) {
	c.mu.Lock()
	refs, usage, err := slices.Clone(c.refs), c.usage, c.flush()
	c.mu.Unlock()
	if err != nil {
		return batch.ChunkInfo{}, err
	}
	rw, err := batch.NewRecordWriter(w, batch.RecordHeader{
		Kind: "chunk", Batch: c.batch, Shard: c.shard, Chunk: c.number, Runner: c.runner,
	})
	if err != nil {
		return batch.ChunkInfo{}, err
	}
	if err := c.copyRefs(rw, refs); err != nil {
		return batch.ChunkInfo{}, err
	}
	return rw.Close(c.number, usage)
}

// copyRefs writes results in the order of their lines.
func (c *chunk) copyRefs(rw *batch.RecordWriter, refs []ref) error {
	slices.SortFunc(refs, func(a, b ref) int { return cmp.Compare(a.line, b.line) })
	var buf []byte
	for _, r := range refs {
		buf = slices.Grow(buf[:0], r.size)[:r.size]
		if _, err := c.file.ReadAt(buf, r.offset); err != nil {
			return fmt.Errorf("read back line %d: %w", r.line, err)
		}
		if err := rw.Write(batch.Record{Line: r.line, Err: r.err, JSON: buf}); err != nil {
			return err
		}
	}
	return nil
}

// bytes is the size of the chunk object, or a little more.
func (c *chunk) bytes() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return recordsSize(c.refs)
}

// recordsSize bounds the size of a chunk object or segment of refs.
func recordsSize(refs []ref) int64 {
	const (
		frame = 2 << 10 // first and last line
		extra = len("9223372036854775807\to\t\n")
	)
	size := int64(frame)
	for _, r := range refs {
		size += int64(r.size + extra)
	}
	return size
}

func usageOf(u vllm.Usage) batch.Usage {
	return batch.Usage{
		InputTokens: u.Input, InputTokensDetails: batch.InputDetails{CachedTokens: u.Cached},
		OutputTokens: u.Output, OutputDetails: batch.OutputDetails{ReasoningTokens: u.Reasoning},
		TotalTokens: u.Total,
	}
}
