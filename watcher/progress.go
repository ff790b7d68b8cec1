package watcher

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"spool/storage"
	"spool/storage/batch"
)

// samplesKept times statusEvery is the time over which the rate of a batch is measured: ten minutes.
const samplesKept = 20

// readsAtOnce is how many small objects are read at once to measure the progress of one batch.
const readsAtOnce = 8

// progress is how far a batch is, from objects that are read once, or again when they have changed.
type progress struct {
	chunks  map[int]batch.Counts // stored ones
	shards  map[int]bool         // whose chunks are all in it
	begun   map[int]bool         // shards that anybody ever held, and that are not done
	read    map[string]record    // the last records of runners, by key
	said    records
	samples []sample
}

func (p *progress) counts() batch.Counts {
	var c batch.Counts
	for _, chunk := range p.chunks {
		c.Add(chunk)
	}
	return c
}

// requests counts lines as batch.json will.
func (p *progress) requests(plan *batch.Plan) batch.RequestCounts {
	c := p.counts()
	if plan.Verdict == batch.Rejected {
		return batch.RequestCounts{}
	}
	return batch.RequestCounts{Total: plan.Lines, Completed: c.OK + p.ahead(plan), Failed: c.Err + plan.Bad}
}

// ahead counts the lines of chunks in the works. It is a hint: a line that two runners answered counts
// twice, and one that failed counts as completed until its chunk is stored.
func (p *progress) ahead(plan *batch.Plan) int64 {
	c := p.counts()
	since := max(0, c.OK+c.Err-p.said.stored) // stored since the records were written, where these lines are open still
	return max(0, min(p.said.open-since, plan.Requests()-c.OK-c.Err))
}

// measure reads what was stored since the last time: done objects of shards, and the metadata of chunks of
// shards in the works.
func (w *Watcher) measure(ctx context.Context, o *open, s *survey) error {
	p := &o.progress
	if p.chunks == nil {
		p.chunks, p.shards, p.read = map[int]batch.Counts{}, map[int]bool{}, map[string]record{}
	}
	m := measurement{w: w, plan: o.plan, chunks: p.chunks}
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(readsAtOnce)
	for n := range s.done {
		if !p.shards[n] {
			group.Go(func() error { return m.done(gctx, n) })
		}
	}
	for n := range s.leases {
		if !s.done[n] {
			group.Go(func() error { return m.shard(gctx, n) })
		}
	}
	if err := group.Wait(); err != nil {
		return err
	}
	maps.Copy(p.shards, s.done)
	p.begun = map[int]bool{}
	for n := range s.leases {
		p.begun[n] = !s.done[n]
	}
	said, err := w.records(ctx, p, s)
	if err != nil {
		return err
	}
	p.sample(time.Now(), o.plan, said)
	return nil
}

// records sums up what runners say, so that people see a batch of one large chunk move.
func (w *Watcher) records(ctx context.Context, p *progress, s *survey) (said records, err error) {
	if len(s.leases) == 0 {
		return said, nil
	}
	for obj, err := range w.cfg.Bucket.List(ctx, batch.RunnersPrefix(s.plan.Batch), "") {
		if err != nil {
			return said, err
		}
		rec, err := w.record(ctx, p, obj)
		if err != nil {
			return said, err
		}
		said.add(rec, s.clock().Sub(obj.LastModified))
	}
	return said, nil
}

// record gives what a runner last said. A record that has its ETag still is not read again.
func (w *Watcher) record(ctx context.Context, p *progress, obj storage.Object) (record, error) {
	if rec, ok := p.read[obj.Key]; ok && rec.etag == obj.ETag {
		return rec, nil
	}
	r, err := readJSON[batch.Runner](ctx, w.cfg.Bucket, obj.Key)
	if r == nil || err != nil {
		return record{}, err
	}
	rec := recordOf(r)
	rec.etag = obj.ETag
	p.read[obj.Key] = rec
	return rec, nil
}

// recordFresh is how old a runner record may be that counts: runners renew theirs every 30 s.
const recordFresh = 90 * time.Second

// measurement collects the counts of chunks.
type measurement struct {
	w    *Watcher
	plan *batch.Plan

	mu     sync.Mutex
	chunks map[int]batch.Counts
}

// done takes the chunks of a shard from its done object.
func (m *measurement) done(ctx context.Context, shard int) error {
	done, err := readJSON[batch.Done](ctx, m.w.cfg.Bucket, batch.DoneKey(m.plan.Batch, shard))
	if err != nil || done == nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range done.Chunks {
		m.chunks[c.Chunk] = c.Counts
	}
	return nil
}

// shard asks for the metadata of the chunks that are stored and not known.
func (m *measurement) shard(ctx context.Context, shard int) error {
	for obj, err := range m.w.cfg.Bucket.List(ctx, batch.ChunkPrefix(m.plan.Batch, shard), "") {
		if err != nil {
			return err
		}
		key, ok := batch.ParseShardKey(m.plan.Batch, obj.Key)
		if !ok || key.Kind != batch.KindChunk || m.known(key.Chunk) {
			continue
		}
		head, err := m.w.cfg.Bucket.Head(ctx, obj.Key)
		if err != nil {
			return err
		}
		info, err := batch.ParseChunkInfo(key.Chunk, head.ETag, head.Size, head.Metadata)
		if err != nil {
			return fmt.Errorf("head %q: %w", obj.Key, err)
		}
		m.mu.Lock()
		m.chunks[key.Chunk] = info.Counts
		m.mu.Unlock()
	}
	return nil
}

func (m *measurement) known(chunk int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, known := m.chunks[chunk]
	return known
}
