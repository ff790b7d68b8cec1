// Package finalize ends a batch: it proposes the manifest, adopts the one that is stored, assembles
// output.jsonl and errors.jsonl from the chunks that it names, and writes batch.json and the tombstone.
//
// Any number of finalisers may work on a batch at once, in any processes, and any of them may die
// anywhere. That is harmless, because there is one decision, the manifest, which is written once; because
// all that follows is a pure function of it and of objects that never change; and because each of these
// results is written once, too. So there is nothing to lock and nothing to clean up: whoever looks next
// skips what is there and does what is not. The order is output, errors, invalid, summary and report, batch.json, result:
// the user's signal comes after the data, and the tombstone, after which nobody looks, comes last.
//
// Memory is bounded by read-ahead buffers and by the part that is uploaded, not by the batch; only the plan and
// the manifest, a few hundred bytes a thousand lines, are held whole.
package finalize

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"spool/storage"
	"spool/storage/batch"
)

// Config says where, and for whom.
type Config struct {
	Bucket   storage.Bucket // must not be nil, should retry (storage.WithRetry)
	By       string         // who finalises, for the manifest: the name of a runner or watcher
	Parallel int            // the most small requests at once; 0: 16

	// Patience is how long a manifest that somebody else proposed is left to them: so a watcher that looks
	// every 30 s does not read a large batch a second time while its runner assembles it. By the store's
	// clock, from the manifest's Last-Modified; then Try goes on with it. 0: at once.
	Patience time.Duration

	// Render makes report.html and summary.md of the summary. It must not fail, since no batch may stay open for it, and
	// may be called concurrently. nil: neither is written.
	Render func(*batch.Summary) (html, markdown []byte)
}

// Finalizer ends batches. It holds no state of any batch: its methods may be called at any time, any number of
// times, concurrently, for the same batch too.
type Finalizer struct {
	bucket   storage.Bucket
	by       string
	parallel int
	patience time.Duration
	render   func(*batch.Summary) (html, markdown []byte)
}

// New returns a Finalizer.
func New(cfg Config) *Finalizer {
	return &Finalizer{bucket: cfg.Bucket, by: cfg.By, parallel: cmp.Or(cfg.Parallel, 16), patience: cfg.Patience, render: cfg.Render}
}

// Try ends the batch of a stored plan if it can be ended, and returns its result: the one that is
// there, or the one that this call brought about. Without result and error it is too early: shards are not
// done, or the batch was stopped and runners still hold leases, or somebody else is at it (Config.Patience). It
// costs four small requests to find that out, and after a stop one for each shard that is not done, so it may be
// asked at every scan and after every shard.
//
// It may wait a second, by the store's clock, before it writes batch.json, and takes as long as it takes to
// read all chunks and upload the output; ctx ends it at any point without harm.
//
// Errors of the store are returned as they are; trying again later goes on where this call ended. A
// *CorruptError says that an object is not what the plan or the manifest says of it; trying again does not help.
// An error that is batch.ErrVersion says that a later version of spool wrote an object: leave the batch to it.
func (f *Finalizer) Try(ctx context.Context, plan *batch.Plan) (*batch.Result, error) {
	result, err := f.try(ctx, plan)
	if err != nil {
		return nil, fmt.Errorf("finalise batch %q: %w", plan.Batch, err)
	}
	return result, nil
}

func (f *Finalizer) try(ctx context.Context, plan *batch.Plan) (*batch.Result, error) {
	if plan.V > batch.Version {
		return nil, fmt.Errorf("plan has version %d: %w", plan.V, batch.ErrVersion)
	}
	result, err := f.result(ctx, plan)
	if result != nil || err != nil {
		return result, err
	}
	m, err := f.decide(ctx, plan)
	if m == nil || err != nil {
		return nil, err
	}
	result, err = f.finish(ctx, plan, m)
	if err == nil {
		return result, nil
	}
	// Somebody else may have been faster, and what this call was reading been collected since.
	if ended, again := f.result(ctx, plan); again == nil && ended != nil {
		return ended, nil
	}
	return nil, err
}

// result reads the tombstone; nil if there is none.
func (f *Finalizer) result(ctx context.Context, plan *batch.Plan) (*batch.Result, error) {
	key := batch.ResultKey(plan.Batch)
	r, _, err := readJSON[batch.Result](ctx, f.bucket, key)
	if r != nil && r.Batch != plan.Batch {
		return nil, corruptf(key, "it is of batch %q", r.Batch)
	}
	return r, err
}

// decide gives the manifest that is stored: the one that is there, or the one that stands after this
// call has proposed its own; nil if it is too early.
func (f *Finalizer) decide(ctx context.Context, plan *batch.Plan) (*batch.Manifest, error) {
	m, obj, err := f.manifest(ctx, plan)
	if err != nil {
		return nil, err
	}
	if m != nil {
		if m.By != f.by && obj.Date.Sub(obj.LastModified) < f.patience {
			return nil, nil
		}
		return m, nil
	}
	proposal, err := f.propose(ctx, plan)
	if proposal == nil || err != nil {
		return nil, err
	}
	body, err := encode(proposal)
	if err != nil {
		return nil, err
	}
	if _, err := storage.PutOnce(ctx, f.bucket, batch.ManifestKey(plan.Batch), body, jsonObject()); err != nil {
		return nil, fmt.Errorf("put manifest: %w", err)
	}
	m, _, err = f.manifest(ctx, plan) // never one's own proposal
	return m, err
}

// manifest reads the manifest, nil if there is none, and checks that it is one of the plan.
func (f *Finalizer) manifest(ctx context.Context, plan *batch.Plan) (*batch.Manifest, storage.Object, error) {
	key := batch.ManifestKey(plan.Batch)
	m, obj, err := readJSON[batch.Manifest](ctx, f.bucket, key)
	if m == nil || err != nil {
		return nil, obj, err
	}
	if m.Batch != plan.Batch || len(m.Chunks) != plan.Chunks() {
		return nil, obj, corruptf(key, "it is of batch %q with %d chunks, the plan has %d", m.Batch, len(m.Chunks), plan.Chunks())
	}
	for i, c := range m.Chunks {
		if c.Chunk != i {
			return nil, obj, corruptf(key, "chunk %d stands in place of chunk %d", c.Chunk, i)
		}
	}
	return m, obj, nil
}

// finish writes all that follows from the manifest, as far as it is not there yet.
func (f *Finalizer) finish(ctx context.Context, plan *batch.Plan, m *batch.Manifest) (*batch.Result, error) {
	j := job{f, plan, m}
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"assemble output", j.output},
		{"assemble errors", j.errors},
		{"copy invalid lines", j.invalid},
		{"write summary and report", j.summary},
		{"write batch object", j.object},
		{"write result", j.tombstone},
	} {
		if err := step.do(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return f.result(ctx, plan)
}

// job is one batch being finished: what its steps share.
type job struct {
	*Finalizer
	plan     *batch.Plan
	manifest *batch.Manifest
}

// key names an object in the folder of the results.
func (j job) key(name string) string {
	return batch.OutDir(j.plan.Input.Key, j.plan.Batch) + name
}
