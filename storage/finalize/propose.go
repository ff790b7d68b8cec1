package finalize

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"spool/storage"
	"spool/storage/batch"
	"spool/storage/lease"
)

// StopGrace is how long after stop.json runners may hold on to their shards. Runners see the stop within seconds; one
// that renews its lease and does nothing else must not keep the batch from ending.
const StopGrace = 10 * time.Minute

// propose makes a manifest of what is stored; nil if it is too early for one.
//
// done/ is listed before stop.json is looked for: a runner that commits lines with the stop's code has
// seen stop.json before it puts done, so whoever sees all done and no stop sees answers only. The
// other order would let a manifest say completed over cancelled lines (model: -mut cancel-first).
func (f *Finalizer) propose(ctx context.Context, plan *batch.Plan) (*batch.Manifest, error) {
	m := &batch.Manifest{V: batch.Version, Batch: plan.Batch, By: f.by, Chunks: []batch.ChunkInfo{}}
	if plan.Verdict == batch.Rejected {
		m.Outcome = batch.Failed
		return m, f.stamp(ctx, plan, m)
	}
	done, err := f.listDone(ctx, plan)
	if err != nil {
		return nil, err
	}
	stop, err := f.stop(ctx, plan)
	if err != nil {
		return nil, err
	}
	switch {
	case stop != nil:
		m.Outcome, m.Code, m.Message, m.StoppedAt = stop.Outcome, stop.Code, stop.Message, stop.At
	case len(done) == len(plan.Shards):
		m.Outcome = batch.Completed
	default:
		return nil, nil
	}
	if err := f.stamp(ctx, plan, m); err != nil {
		return nil, err
	}
	if stop != nil && m.FinalizedAt-stop.At < int64(StopGrace/time.Second) {
		busy, err := f.busy(ctx, plan, done)
		if busy || err != nil {
			return nil, err
		}
	}
	return m, f.collect(ctx, plan, m, done)
}

// stamp says when the batch was decided: not before it was created, though a store's Date may lag a second behind its
// Last-Modified, and two of its machines behind each other.
func (f *Finalizer) stamp(ctx context.Context, plan *batch.Plan, m *batch.Manifest) error {
	now, err := f.now(ctx, plan)
	m.FinalizedAt = max(now.Unix(), plan.CreatedAt)
	return err
}

// listDone gives the shards that are done, and when they were.
func (f *Finalizer) listDone(ctx context.Context, plan *batch.Plan) (map[int]time.Time, error) {
	done := map[int]time.Time{}
	for obj, err := range f.bucket.List(ctx, batch.DonePrefix(plan.Batch), "") {
		if err != nil {
			return nil, err
		}
		if shard, ok := batch.ParseDoneKey(plan.Batch, obj.Key); ok && shard < len(plan.Shards) {
			done[shard] = obj.LastModified
		}
	}
	return done, nil
}

func (f *Finalizer) stop(ctx context.Context, plan *batch.Plan) (*batch.Stop, error) {
	key := batch.StopKey(plan.Batch)
	stop, _, err := readJSON[batch.Stop](ctx, f.bucket, key)
	if stop == nil || err != nil {
		return nil, err
	}
	switch stop.Outcome {
	case batch.Cancelled, batch.Expired, batch.Failed:
		return stop, nil
	}
	return nil, corruptf(key, "its outcome is %q", stop.Outcome)
}

// busy reports whether a runner holds a fresh lease on a shard that is not done.
func (f *Finalizer) busy(ctx context.Context, plan *batch.Plan, done map[int]time.Time) (bool, error) {
	var fresh atomic.Bool
	g, ctx := f.group(ctx)
	for shard := range plan.Shards {
		if _, ok := done[shard]; ok || fresh.Load() {
			continue
		}
		g.Go(func() error {
			seen, err := lease.Read(ctx, f.bucket, batch.LeaseKey(plan.Batch, shard))
			if err != nil && !storage.IsNotFound(err) {
				return err
			}
			if err == nil && seen.Fresh() {
				fresh.Store(true)
			}
			return nil
		})
	}
	err := g.Wait()
	return fresh.Load(), err
}

// group bounds the small requests that are under way at once.
func (f *Finalizer) group(ctx context.Context) (*errgroup.Group, context.Context) {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(f.parallel)
	return g, ctx
}

// collect fills in the chunks: those that done/ records, and of shards that are not done those that are stored now.
func (f *Finalizer) collect(ctx context.Context, plan *batch.Plan, m *batch.Manifest, done map[int]time.Time) error {
	shards := make([]shardState, len(plan.Shards))
	g, gctx := f.group(ctx)
	first := 0
	for shard, s := range plan.Shards {
		at := shardAt{plan: plan, shard: shard, first: first, chunks: s.Chunks}
		first += len(s.Chunks)
		g.Go(func() (err error) {
			if modified, ok := done[shard]; ok {
				shards[shard].earliest = modified
				shards[shard].chunks, err = f.readDone(gctx, at)
			} else {
				shards[shard], err = f.findChunks(gctx, at)
			}
			if err != nil {
				return fmt.Errorf("look at shard %d: %w", shard, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	var earliest time.Time
	for _, s := range shards {
		earliest = earlier(earliest, s.earliest)
		m.Chunks = append(m.Chunks, s.chunks...)
		for _, c := range s.chunks {
			m.Counts.Add(c.Counts)
			m.Usage.Add(c.Usage)
		}
	}
	return f.began(ctx, plan, m, earliest)
}

// began sets when work on the batch began, as far as is known: when the first runner says that it did, or else when
// the first result was stored.
func (f *Finalizer) began(ctx context.Context, plan *batch.Plan, m *batch.Manifest, earliest time.Time) error {
	runners, err := f.runners(ctx, plan)
	if err != nil {
		return err
	}
	for _, r := range runners {
		if r.StartedAt > 0 {
			earliest = earlier(earliest, time.Unix(r.StartedAt, 0))
		}
	}
	if !earliest.IsZero() {
		m.InProgress = min(max(earliest.Unix(), plan.CreatedAt), m.FinalizedAt) // runners' clocks may be wrong
	}
	return nil
}

// earlier gives the earlier of two times, of which the zero one is unknown.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// shardAt is a shard of a plan, and the number of its first chunk.
type shardAt struct {
	plan   *batch.Plan
	shard  int
	first  int
	chunks []batch.PlanChunk
}

// shardState is what is stored of a shard.
type shardState struct {
	chunks   []batch.ChunkInfo
	earliest time.Time // when the first of it was stored, zero if nothing is
}

// check holds what is said of a chunk against the plan. at counts the chunks of the shard.
func (s shardAt) check(key string, at int, c batch.ChunkInfo) error {
	want := int64(s.chunks[at].Requests())
	if c.Chunk != s.first+at || c.Missing || c.Counts.OK+c.Counts.Err != want {
		return corruptf(key, "it tells of chunk %d with %d lines, the plan of chunk %d with %d",
			c.Chunk, c.Counts.OK+c.Counts.Err, s.first+at, want)
	}
	return nil
}

func (f *Finalizer) readDone(ctx context.Context, s shardAt) ([]batch.ChunkInfo, error) {
	key := batch.DoneKey(s.plan.Batch, s.shard)
	done, _, err := readJSON[batch.Done](ctx, f.bucket, key)
	switch {
	case err != nil:
		return nil, err
	case done == nil:
		return nil, corruptf(key, "it was listed and is absent")
	case done.Batch != s.plan.Batch || done.Shard != s.shard || len(done.Chunks) != len(s.chunks):
		return nil, corruptf(key, "it is of batch %q, shard %d, with %d chunks", done.Batch, done.Shard, len(done.Chunks))
	}
	for i, c := range done.Chunks {
		if err := s.check(key, i, c); err != nil {
			return nil, err
		}
	}
	return done.Chunks, nil
}

// findChunks looks which chunks of a shard are stored; the others are missing.
func (f *Finalizer) findChunks(ctx context.Context, s shardAt) (shardState, error) {
	state := shardState{chunks: make([]batch.ChunkInfo, len(s.chunks))}
	for i := range state.chunks {
		state.chunks[i] = batch.ChunkInfo{Chunk: s.first + i, Missing: true}
	}
	for obj, err := range f.bucket.List(ctx, batch.ChunkPrefix(s.plan.Batch, s.shard), "") {
		if err != nil {
			return state, err
		}
		key, ok := batch.ParseShardKey(s.plan.Batch, obj.Key)
		i := key.Chunk - s.first
		if !ok || key.Kind != batch.KindChunk || i < 0 || i >= len(s.chunks) {
			continue
		}
		head, err := f.bucket.Head(ctx, obj.Key)
		if err != nil {
			return state, err
		}
		info, err := batch.ParseChunkInfo(key.Chunk, head.ETag, head.Size, head.Metadata)
		if err != nil {
			return state, corruptf(obj.Key, "read metadata: %w", err)
		}
		if err := s.check(obj.Key, i, info); err != nil {
			return state, err
		}
		state.chunks[i] = info
		state.earliest = earlier(state.earliest, obj.LastModified)
	}
	return state, nil
}

// maxRunners bounds how many runner records are read.
const maxRunners = 1000

// runners reads what the runners wrote about their work, in the order of their names. These are hints: one
// that cannot be decoded is left out.
func (f *Finalizer) runners(ctx context.Context, plan *batch.Plan) ([]batch.Runner, error) {
	var keys []string
	for obj, err := range f.bucket.List(ctx, batch.RunnersPrefix(plan.Batch), "") {
		if err != nil {
			return nil, fmt.Errorf("list runner records: %w", err)
		}
		if keys = append(keys, obj.Key); len(keys) == maxRunners {
			break
		}
	}
	found := make([]*batch.Runner, len(keys))
	g, ctx := f.group(ctx)
	for i, key := range keys {
		g.Go(func() error {
			r, _, err := readJSON[batch.Runner](ctx, f.bucket, key)
			if _, corrupt := errors.AsType[*CorruptError](err); corrupt || errors.Is(err, batch.ErrVersion) {
				return nil
			}
			found[i] = r
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("read runner records: %w", err)
	}
	var records []batch.Runner
	for _, r := range found {
		if r != nil {
			records = append(records, *r)
		}
	}
	return records, nil
}
