package runner

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"spool/runner/gpu"
	"spool/storage"
	"spool/storage/batch"
)

// ledger is what this runner did for one batch: the runner record. It is safe for concurrent use.
type ledger struct {
	resumed, requests, open atomic.Int64
	segments                atomic.Int64 // tried, of all shards, so that no name is used twice
	held                    atomic.Int64 // shards of the batch that the runner holds
	*history

	mu  sync.Mutex
	rec batch.Runner

	// writing is held over the request, so that no record replaces a later one. A channel, since a mutex would
	// keep the virtual time of testing/synctest from passing, and with it the request.
	writing chan struct{}
}

func newLedger(cfg *Config, id string) *ledger {
	now := time.Now()
	return &ledger{writing: make(chan struct{}, 1), history: newHistory(now), rec: batch.Runner{
		V: batch.Version, Batch: id, Runner: cfg.Name, Host: cfg.Host, Version: cfg.Version, StartedAt: now.Unix(),
		HourPrice: cfg.HourPrice, Currency: cfg.Currency,
	}}
}

// commit counts a chunk that this runner stored, so long after it was begun; 0 if none of its lines was asked.
func (l *ledger) commit(c batch.ChunkInfo, took time.Duration) {
	l.committed(c, took)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rec.Chunks++
	l.rec.OK += c.Counts.OK
	l.rec.Err += c.Counts.Err
	l.rec.Usage.Add(c.Usage)
}

func (l *ledger) shardDone() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rec.Shards++
}

// environment is what a runner works with.
type environment struct {
	engines []engineInfo
	gpus    []gpu.Sample
}

// write puts the record. It says ended when the runner holds no shard of the batch.
func (l *ledger) write(ctx context.Context, b storage.Bucket, env environment) error {
	select {
	case l.writing <- struct{}{}:
		defer func() { <-l.writing }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	l.mu.Lock()
	rec := l.rec
	l.mu.Unlock()
	rec.Retries, rec.Resumed, rec.Requests = l.retries.Load(), l.resumed.Load(), l.requests.Load()
	rec.Open = l.open.Load()
	now := time.Now()
	rec.UpdatedAt = now.Unix()
	l.fill(&rec, now, rec.Requests > 0)
	if l.held.Load() == 0 {
		rec.EndedAt = rec.UpdatedAt
	}
	var err error
	if rec.Engine, err = json.Marshal(env.engines); err != nil {
		return fmt.Errorf("encode runner record: %w", err)
	}
	if len(env.gpus) > 0 {
		if rec.GPUs, err = json.Marshal(env.gpus); err != nil {
			return fmt.Errorf("encode runner record: %w", err)
		}
	}
	body, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("encode runner record: %w", err)
	}
	if _, err := b.Put(ctx, batch.RunnerKey(rec.Batch, rec.Runner), body, storage.PutOptions{ContentType: "application/json"}); err != nil {
		return fmt.Errorf("write runner record: %w", err)
	}
	return nil
}
