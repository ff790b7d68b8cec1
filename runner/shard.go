package runner

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"spool/monitoring"
	"spool/runner/vllm"
	"spool/storage"
	"spool/storage/batch"
	"spool/storage/batch/jsonl"
	"spool/storage/lease"
)

// shard is the work on one shard under its lease. The goroutine that calls work owns it, but for full
// and failed, by which the window's workers report.
type shard struct {
	cfg    *Config
	log    *zap.Logger
	window *window
	plan   *batch.Plan
	index  int
	first  int // number in the batch of its first chunk
	fast   bool
	fed    func() // called when all lines are in the window, or none will be
	notes  *ledger
	lease  *lease.Lease
	start  time.Time

	chunks    map[int]*chunk // open ones, by number in the batch
	committed map[int]bool
	bad       map[int64]bool // lines of the piece that are not to be asked; nil until loaded
	strikes   *strikes

	full   chan *chunk // complete ones; never blocks, see newShard
	stored chan int    // numbers of committed ones; never blocks
	failed chan error  // the first failure of a worker; holds one
}

func newShard(s shard) *shard {
	n := s.size()
	s.first = s.plan.FirstChunk(s.index)
	s.start = time.Now()
	s.chunks, s.committed = make(map[int]*chunk, n), make(map[int]bool, n)
	// A chunk is reported full at most twice: by its last answer, and by a load that finds it so.
	s.full, s.stored = make(chan *chunk, 2*n), make(chan int, n)
	s.failed = make(chan error, 1)
	return &s
}

// Reasons why a shard's asking ends early, as causes of its context.
var (
	errStopped  = errors.New("the batch is stopped")
	errHandOver = errors.New("handed over")
)

// causeError says that this runner cannot work on the batch.
type causeError struct {
	batch.Cause
	why error
}

func because(code string, why error) *causeError {
	return &causeError{batch.Cause{Code: code, Message: why.Error()}, why}
}

func (e *causeError) Unwrap() error { return e.why }

func (e *causeError) Error() string { return e.Code + ": " + e.Message }

// ErrorType is the code that the batch would end with.
func (e *causeError) ErrorType() string { return e.Code }

// Quotes says that Message may be what an engine answered, which may repeat a prompt.
func (e *causeError) Quotes() bool { return true }

func (s *shard) size() int { return len(s.plan.Shards[s.index].Chunks) }

func (s *shard) planChunk(number int) batch.PlanChunk {
	return s.plan.Shards[s.index].Chunks[number-s.first]
}

// fail ends the work; the first failure counts.
func (s *shard) fail(err error) {
	select {
	case s.failed <- err:
	default:
	}
}

// work answers, commits and finishes the shard. ctx is the lease's; when handOver ends, it saves
// what is finished and returns errHandOver.
func (s *shard) work(ctx, handOver context.Context) error {
	defer s.closeChunks()
	stop, err := s.begin(ctx, handOver)
	if err == nil && stop == nil {
		stop, err = s.answer(ctx, handOver)
	}
	if err != nil {
		return err
	}
	if stop != nil {
		if err := s.fill(ctx, stop); err != nil {
			return fmt.Errorf("end the lines that are left: %w", err)
		}
	}
	return s.finish(ctx)
}

// begin finds out what there is to do.
func (s *shard) begin(ctx, handOver context.Context) (*batch.Stop, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(handOver, cancel)()
	stop, err := s.readStop(ctx)
	if err == nil {
		err = s.resume(ctx)
	}
	switch {
	case err != nil && handOver.Err() != nil:
		return nil, errHandOver
	case err != nil:
		return nil, fmt.Errorf("begin: %w", err)
	}
	return stop, nil
}

// answer has every line asked and every chunk committed, unless the batch is stopped.
func (s *shard) answer(ctx, handOver context.Context) (*batch.Stop, error) {
	asking, stopAsking := context.WithCancelCause(ctx)
	defer stopAsking(context.Canceled)
	todo := slices.Collect(maps.Values(s.chunks))
	slices.SortFunc(todo, func(a, b *chunk) int { return cmp.Compare(a.number, b.number) })
	var feeder errgroup.Group
	feeder.Go(func() error { return s.feed(asking, todo) })

	commits, commitCtx := errgroup.WithContext(ctx)
	stop, err := s.tend(commitCtx, handOver, commits)
	stopAsking(errStopped)
	if feedErr := feeder.Wait(); err == nil && stop == nil {
		err = feedErr
	}
	if err != nil {
		s.saveLast(ctx) // before the commits, which may outlast what time is left
	}
	if commitErr := commits.Wait(); commitErr != nil && err == nil {
		err = commitErr
	}
	s.settle()
	if err != nil {
		err = errors.Join(err, s.strikes.keep(s.lease))
	}
	return stop, err
}

// tend reacts until all chunks are being committed, the batch is stopped, or the shard is to be given up.
func (s *shard) tend(ctx, handOver context.Context, commits *errgroup.Group) (*batch.Stop, error) {
	save := time.NewTicker(s.cfg.SegmentEvery)
	defer save.Stop()
	look := time.NewTicker(s.cfg.StopEvery)
	defer look.Stop()
	brief, endBrief := context.WithCancel(ctx) // of requests that need not succeed now
	defer endBrief()
	defer context.AfterFunc(handOver, endBrief)()
	for len(s.committed) < s.size() {
		select {
		case c := <-s.full:
			commits.Go(func() error { return s.commit(ctx, c) })
		case number := <-s.stored:
			s.settled(number)
		case <-save.C:
			s.save(brief, false)
		case <-look.C:
			if stop, err := s.lookForStop(brief); err != nil || stop != nil {
				return stop, err
			}
		case err := <-s.failed:
			return nil, err
		case <-s.strikes.news:
			s.strikes.write(brief, s.lease, s.log)
		case <-handOver.Done():
			return nil, errHandOver
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	return nil, nil
}

// settled notes that a chunk is stored.
func (s *shard) settled(number int) {
	s.committed[number] = true
	if c := s.chunks[number]; c != nil {
		c.close() //nolint:errcheck // the file is unlinked: there is nothing to lose
		delete(s.chunks, number)
	}
}

// settle takes the commits that tend did not wait for.
func (s *shard) settle() {
	for {
		select {
		case number := <-s.stored:
			s.settled(number)
		default:
			return
		}
	}
}

// feed puts every line of chunks that has no answer into the window. It runs beside tend, which it tells
// of a failure by failed.
func (s *shard) feed(ctx context.Context, chunks []*chunk) error {
	defer s.fed()
	atOnce := 1
	if s.plan.Order != "" {
		atOnce = s.size()
	}
	for part := range slices.Chunk(chunks, atOnce) {
		if err := s.feedPart(ctx, part); err != nil {
			s.fail(err)
			return err
		}
	}
	return nil
}

// feedPart loads the chunks of a part, and pushes their lines in the order of the batch.
func (s *shard) feedPart(ctx context.Context, part []*chunk) error {
	var tasks []*task
	for _, c := range part {
		loaded, err := s.load(ctx, c)
		if err != nil {
			return err
		}
		if len(loaded) > 0 {
			s.window.meter.opened(c)
		}
		tasks = append(tasks, loaded...)
	}
	arrange(s.plan.Order, tasks)
	return s.push(ctx, tasks)
}

// push puts lines into the window, once there is an engine for them.
func (s *shard) push(ctx context.Context, tasks []*task) error {
	if len(tasks) == 0 {
		return nil
	}
	if err := s.checkModels(ctx); err != nil {
		return err
	}
	for _, t := range tasks {
		t.suspect(s.strikes.of(t.line), s.window.size)
		if err := s.window.push(t, s.fast); err != nil {
			return err
		}
	}
	return nil
}

// checkModels waits for an engine, and fails with a causeError if one lacks a model of the batch.
func (s *shard) checkModels(ctx context.Context) error {
	if !s.window.fleet.ready() {
		var span trace.Span
		ctx, span = s.cfg.Tracer.Start(ctx, "wait for engine")
		defer span.End()
	}
	missing, served, err := s.window.fleet.missing(ctx, s.plan.Models)
	if err != nil || len(missing) == 0 {
		return err
	}
	return because(vllm.CodeModelNotFound, fmt.Errorf("an engine lacks %s; served are: %s", strings.Join(missing, ", "), strings.Join(served, ", ")))
}

// load reads the lines of a chunk and gives those without an answer as tasks. If there is none, the
// chunk is reported full.
func (s *shard) load(ctx context.Context, c *chunk) ([]*task, error) {
	c.begin(ctx)
	pc := s.planChunk(c.number)
	lines, err := s.readFrame(ctx, pc)
	if err != nil {
		return nil, fmt.Errorf("load chunk %d: %w", c.number, err)
	}
	checker, err := jsonl.NewChecker(jsonl.Config{Endpoints: []string{s.plan.Endpoint}, MaxLineBytes: maxLine, MaxDepth: maxDepth})
	if err != nil {
		return nil, err
	}
	lines = slices.DeleteFunc(lines, func(l batch.PieceLine) bool { return s.bad[l.Number] })
	if len(lines) != pc.Requests() {
		return nil, fmt.Errorf("load chunk %d: %d lines to ask, but the plan has %d", c.number, len(lines), pc.Requests())
	}
	var tasks []*task
	for _, l := range lines {
		if c.has(l.Number) {
			continue
		}
		req, problem := checker.Check(jsonl.Line{Bytes: l.Text, Number: l.Number})
		if problem != nil { // cannot be: the watcher found it good; but a batch must end
			c.add(&batch.Answer{Batch: c.batch, Line: l.Number, CustomID: string(req.CustomID), Code: batch.CodeInvalidRequest, Message: problem.Error()}, batch.Usage{})
			continue
		}
		tasks = append(tasks, &task{
			ctx: ctx, chunk: c, line: l.Number, customID: string(req.CustomID),
			path: s.plan.Endpoint, body: req.Body, series: s.window.meter.of(string(req.Model), s.plan.Endpoint), queued: s.start,
		})
	}
	if c.expect(pc.Requests()) {
		s.full <- c
	}
	return tasks, nil
}

// The watcher has checked the lines by its own limits; these are the most that jsonl takes.
const (
	maxLine  = 1 << 30
	maxDepth = 10_000
)

func (s *shard) readFrame(ctx context.Context, pc batch.PlanChunk) ([]batch.PieceLine, error) {
	key := batch.PieceKey(s.plan.Batch, s.plan.Folder, s.index)
	r, _, err := s.cfg.Bucket.Get(ctx, key, storage.GetOptions{Offset: pc.Offset, Length: pc.Size})
	if err != nil {
		return nil, err
	}
	defer r.Close()
	frame := make([]byte, pc.Size)
	if _, err := io.ReadFull(r, frame); err != nil {
		return nil, fmt.Errorf("read %q: %w", key, err)
	}
	return batch.ReadFrame(frame, pc.Lines)
}

// commit stores a chunk. If another runner was faster, its chunk stands, and ours is dropped.
func (s *shard) commit(ctx context.Context, c *chunk) error {
	store := s.storeLarge
	if c.bytes() <= storage.PartSize {
		store = s.storeSmall
	}
	stored, info, err := store(ctx, c)
	if err != nil {
		s.window.meter.chunks.WithLabelValues("failed").Inc()
		return fmt.Errorf("commit chunk %d: %w", c.number, err)
	}
	took := s.window.meter.committed(c, stored.Mine, info.Counts)
	c.end(stored.Mine, info)
	s.stored <- c.number
	if stored.Mine {
		s.notes.commit(info, took)
	}
	log := s.log.With(monitoring.TraceFields(trace.ContextWithSpan(ctx, c.span))...)
	log.Info("chunk committed", zap.String("event", "chunk_committed"), zap.Int("chunk", c.number), zap.Bool("mine", stored.Mine),
		zap.Int64("ok", info.Counts.OK), zap.Int64("err", info.Counts.Err), zap.Int64("bytes", info.Size))
	return nil
}

// storeSmall makes the chunk object in memory.
func (s *shard) storeSmall(ctx context.Context, c *chunk) (storage.Stored, batch.ChunkInfo, error) {
	buf := bytes.NewBuffer(make([]byte, 0, c.bytes()))
	info, err := c.write(buf)
	if err != nil {
		return storage.Stored{}, info, err
	}
	stored, err := storage.PutOnce(ctx, s.cfg.Bucket, c.key(), buf.Bytes(), chunkOptions(info))
	return stored, info, err
}

// storeLarge makes the chunk object in a file.
func (s *shard) storeLarge(ctx context.Context, c *chunk) (storage.Stored, batch.ChunkInfo, error) {
	file, err := os.CreateTemp(s.cfg.Scratch, "spool-commit-*")
	if err != nil {
		return storage.Stored{}, batch.ChunkInfo{}, err
	}
	defer file.Close()
	if err := os.Remove(file.Name()); err != nil {
		return storage.Stored{}, batch.ChunkInfo{}, err
	}
	info, err := c.write(file)
	if err != nil {
		return storage.Stored{}, info, err
	}
	stored, err := storage.UploadOnce(ctx, s.cfg.Bucket, c.key(), func() (io.Reader, error) {
		return io.NewSectionReader(file, 0, info.Size), nil
	}, chunkOptions(info))
	return stored, info, err
}

func chunkOptions(info batch.ChunkInfo) storage.PutOptions {
	return storage.PutOptions{Metadata: info.Metadata(), Size: info.Size, ContentType: "application/x-spool-records"}
}

// fill ends every line that has no answer with the stop's code.
func (s *shard) fill(ctx context.Context, stop *batch.Stop) error {
	for number := s.first; number < s.first+s.size(); number++ {
		if s.committed[number] {
			continue
		}
		c := s.chunks[number]
		tasks, err := s.load(ctx, c)
		if err != nil {
			return err
		}
		for _, t := range tasks {
			c.add(&batch.Answer{Batch: c.batch, Line: t.line, CustomID: t.customID, Code: stop.Code, Message: stop.Message}, batch.Usage{})
		}
		if err := s.commit(ctx, c); err != nil {
			return err
		}
		s.settle()
	}
	return nil
}

// finish stores done, made from a HEAD of each chunk.
func (s *shard) finish(ctx context.Context) error {
	done := batch.Done{V: batch.Version, Batch: s.plan.Batch, Shard: s.index, Runner: s.cfg.Name}
	done.Chunks = make([]batch.ChunkInfo, s.size())
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i := range done.Chunks {
		g.Go(func() error {
			number := s.first + i
			obj, err := s.cfg.Bucket.Head(gctx, batch.ChunkKey(s.plan.Batch, s.index, number))
			if err != nil {
				return err
			}
			done.Chunks[i], err = batch.ParseChunkInfo(number, obj.ETag, obj.Size, obj.Metadata)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("look at chunks: %w", err)
	}
	body, err := json.Marshal(done)
	if err != nil {
		return fmt.Errorf("encode done: %w", err)
	}
	if _, err := storage.PutOnce(ctx, s.cfg.Bucket, batch.DoneKey(s.plan.Batch, s.index), body, storage.PutOptions{ContentType: "application/json"}); err != nil {
		return fmt.Errorf("store done: %w", err)
	}
	return nil
}

// lookForStop is readStop while lines are being asked. That the store does not answer is no reason to give
// them up: if it lasts, the lease ends.
func (s *shard) lookForStop(ctx context.Context) (*batch.Stop, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	stop, err := s.readStop(ctx)
	if err != nil && (storage.Temporary(err) || ctx.Err() != nil) {
		s.log.Warn("it is not known whether the batch is stopped", zap.String("event", "stop_unknown"), zap.Error(err))
		return nil, nil
	}
	return stop, err
}

// lookTimeout bounds one look for a stop: chunks that are full wait for its end.
const lookTimeout = 5 * time.Second

// readStop gives stop.json, nil if there is none.
func (s *shard) readStop(ctx context.Context) (*batch.Stop, error) {
	body, _, err := storage.ReadAll(ctx, s.cfg.Bucket, batch.StopKey(s.plan.Batch))
	if storage.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for a stop: %w", err)
	}
	var stop batch.Stop
	if err := json.Unmarshal(body, &stop); err != nil {
		return nil, fmt.Errorf("read stop of %s: %w", s.plan.Batch, err)
	}
	return &stop, nil
}

func (s *shard) closeChunks() {
	for _, c := range s.chunks {
		c.close() //nolint:errcheck // the file is unlinked: there is nothing to lose
	}
}
