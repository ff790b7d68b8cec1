package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"spool/monitoring"
	"spool/runner/vllm"
	"spool/storage"
	"spool/storage/batch"
	"spool/storage/lease"
	"spool/storage/queue"
)

// job is one message at work.
type job struct {
	queue   Queue
	fast    bool
	message *queue.Message
	fed     func() // tells the lane that it may receive the next; may be called again
}

// fate is what becomes of a message.
type fate struct {
	action action
	delay  time.Duration // of actDefer
	name   string        // for metrics and logs
}

// nameHandedOver is of the fate that says that somebody else goes on.
const nameHandedOver = "handed_over"

func handedOver() fate { return fate{actHandOver, 0, nameHandedOver} }

type action int

const (
	actLeave    action = iota // it comes back when its visibility ends
	actDelete                 // its work is done, by whomever
	actDefer                  // others should see it after a delay
	actHandOver               // somebody else should have it at once
)

const (
	unknownDelay = 5 * time.Minute  // of messages of a later version
	failureDelay = 30 * time.Second // after a failure here
)

// handle works on one message from receive to its fate.
//
// stop ends the runner's work, leave its intake.
func (r *Runner) handle(working, stopping context.Context, j job, stop context.CancelCauseFunc, leave func(error)) {
	received := time.Now()
	r.meter.jobs.WithLabelValues("started").Inc()
	if wait := received.Sub(j.message.Sent); j.message.ReceiveCount == 1 && !j.message.Sent.IsZero() {
		r.meter.jobWait.WithLabelValues(queueLabel(j.fast)).Observe(max(0, wait.Seconds()))
	}
	parent := monitoring.InTrace(working, j.message.Attributes)
	ctx := r.traceReceive(parent, j, received)
	held := j.queue.Hold(working, j.message)
	handOver, give := context.WithCancel(stopping)
	var wall sync.WaitGroup
	wall.Go(func() {
		select {
		case <-held.Wall():
			give()
		case <-handOver.Done():
		}
	})
	f, err := r.process(ctx, handOver, j)
	if err != nil && working.Err() != nil { // there was no time left
		f, err = handedOver(), nil
	}
	give()
	wall.Wait()
	held.Release()

	var cause *causeError
	switch {
	case errors.As(err, &cause) && cause.Code == vllm.CodeModelNotFound: // other batches may be well
		leave(fmt.Errorf("%w: %w", ErrElsewhere, err))
	case errors.As(err, &cause):
		stop(fmt.Errorf("%w: %w", ErrElsewhere, err))
	case storage.Temporary(err): // a store that is out for a while: a loaded model is worth the wait
	case err != nil && r.tooMany(true):
		stop(errTooMany(err))
	case err == nil:
		r.tooMany(false)
	}
	if err != nil {
		r.log.With(monitoring.TraceFields(ctx)...).Error("shard failed", append(about(j.message), zap.String("event", "shard_failed"), zap.String("fate", f.name), zap.Error(err))...)
	}
	r.meter.jobs.WithLabelValues(f.name).Inc()
	seen := r.traceProcess(parent, ctx, j, received, f, err)
	observe(r.meter.jobTime.WithLabelValues(f.name), time.Since(received).Seconds(), seen)
	brief, cancel := outlive(working, lastTimeout)
	defer cancel()
	if err := f.apply(brief, j); err != nil {
		r.log.Warn("message could not be settled: it comes back by itself", zap.String("event", "settle_failed"), zap.String("fate", f.name), zap.Error(err))
	}
}

// about says in a log line of which shard a message is.
func about(m *queue.Message) []zap.Field {
	if b, ok := subject(m); ok {
		return []zap.Field{zap.String("batch_id", b.Batch), zap.Int("shard", b.Shard)}
	}
	return nil
}

// subject reads what a message names, whether or not it is a job of this version.
func subject(m *queue.Message) (b batch.Message, ok bool) {
	err := json.Unmarshal([]byte(m.Body), &b)
	return b, err == nil && batch.ValidID(b.Batch)
}

func (f fate) apply(ctx context.Context, j job) error {
	switch f.action {
	case actDelete:
		return j.queue.Delete(ctx, j.message)
	case actDefer:
		return j.queue.Extend(ctx, j.message, f.delay)
	case actHandOver:
		return j.queue.HandOver(ctx, j.message)
	}
	return nil
}

// process decides what a message asks for, and does it. With an error the fate is still good.
func (r *Runner) process(ctx, handOver context.Context, j job) (fate, error) {
	var m batch.Message
	if err := json.Unmarshal([]byte(j.message.Body), &m); err != nil || m.V > batch.Version || m.Type != batch.MessageShard || !batch.ValidID(m.Batch) {
		r.log.Warn("message is not for this version", zap.String("event", "message_unknown"), zap.String("error_type", "bad_message"), zap.String("message_id", j.message.ID))
		return fate{actDefer, unknownDelay, "unknown"}, nil
	}
	plan, f, err := r.lookUp(ctx, handOver, m)
	switch {
	case errors.Is(err, errHandOver):
		return handedOver(), nil
	case errors.Is(err, batch.ErrVersion):
		r.log.Warn("batch is not for this version", zap.String("event", "batch_unknown"), zap.String("batch_id", m.Batch), zap.Error(err))
		return fate{actDefer, unknownDelay, "unknown"}, nil
	case plan == nil || err != nil:
		return f, err
	}
	id := shardID{m.Batch, m.Shard}
	if !r.take(id) {
		return fate{actDefer, lease.DefaultTTL, "duplicate"}, nil
	}
	defer r.untake(id)
	return r.lead(ctx, handOver, j, plan, m.Shard)
}

// lookUp finds the plan of a message. No plan means that there is nothing to work on, and what becomes
// of the message.
func (r *Runner) lookUp(ctx, handOver context.Context, m batch.Message) (*batch.Plan, fate, error) {
	failed := fate{actDefer, failureDelay, "failed"}
	if ended, err := r.exists(ctx, batch.ResultKey(m.Batch)); err != nil || ended {
		return nil, pick(err, failed, fate{actDelete, 0, "ended"}), err
	}
	plan, err := r.plan(ctx, m.Batch)
	switch {
	case storage.IsNotFound(err):
		return nil, fate{actLeave, 0, "no_plan"}, nil
	case err != nil:
		return nil, failed, err
	case m.Shard < 0 || m.Shard >= len(plan.Shards):
		r.log.Warn("message names a shard that the plan does not have", zap.String("event", "message_forged"), zap.String("error_type", "bad_message"),
			zap.String("batch_id", m.Batch), zap.Int("shard", m.Shard))
		return nil, fate{actDelete, 0, "forged"}, nil
	}
	for _, key := range []string{batch.DoneKey(m.Batch, m.Shard), batch.StopKey(m.Batch)} {
		there, err := r.exists(ctx, key)
		if err != nil {
			return nil, failed, err
		}
		if there {
			_, err := r.finalize(ctx, handOver, plan)
			return nil, pick(err, failed, fate{actDelete, 0, "done_before"}), err
		}
	}
	return plan, fate{}, nil
}

func pick(err error, failed, good fate) fate {
	if err != nil {
		return failed
	}
	return good
}

// lead takes the lease of the shard, works under it, and finalises.
func (r *Runner) lead(ctx, handOver context.Context, j job, plan *batch.Plan, index int) (fate, error) {
	log := r.log.With(append(monitoring.TraceFields(ctx), zap.String("batch_id", plan.Batch), zap.Int("shard", index))...)
	leaseCtx, l, err := lease.Acquire(ctx, lease.Config{
		Bucket: r.cfg.Bucket, Key: batch.LeaseKey(plan.Batch, index), Owner: r.cfg.Name, TTL: r.cfg.LeaseTTL,
	})
	if held, ok := errors.AsType[*lease.HeldError](err); ok {
		return fate{actDefer, held.Remaining + time.Second + rand.N(5*time.Second), "leased"}, nil
	}
	if err != nil {
		return fate{actDefer, failureDelay, "failed"}, err
	}
	notes := r.ledgerOf(plan.Batch)
	if notes.held.Add(1) == 1 {
		notes.resume(time.Now())
	}
	log.Info("shard taken", zap.String("event", "shard_taken"), zap.Int64("gen", l.Gen()), zap.Bool("predecessor_crashed", l.Predecessor().Crashed))
	err = r.workUnder(leaseCtx, handOver, newShard(shard{
		cfg: &r.cfg, log: log, window: r.window, plan: plan, index: index, fast: j.fast, fed: j.fed, notes: notes,
		lease: l, strikes: newStrikes(readNotes(l).Strikes),
	}))
	if cause := context.Cause(leaseCtx); err != nil && errors.Is(cause, lease.ErrLost) {
		err = cause
	}
	f, err := r.verdict(ctx, l, err)
	notes.held.Add(-1)
	r.writeRecord(ctx, notes)
	brief, cancel := outlive(ctx, lastTimeout)
	defer cancel()
	if releaseErr := l.Release(brief); releaseErr != nil && !errors.Is(releaseErr, lease.ErrLost) {
		log.Warn("lease could not be released: it ends by itself", zap.String("event", "release_failed"), zap.Error(releaseErr))
	}
	log.Info("shard left", zap.String("event", "shard_left"), zap.String("fate", f.name))
	return f, err
}

// workUnder works on the shard and tries to end the batch.
func (r *Runner) workUnder(ctx, handOver context.Context, s *shard) error {
	if err := s.work(ctx, handOver); err != nil {
		return err
	}
	s.notes.shardDone()
	r.writeRecord(ctx, s.notes)
	result, err := r.finalize(ctx, handOver, s.plan)
	if err != nil {
		return err
	}
	if result != nil {
		s.log.Info("batch ended", zap.String("event", "batch_ended"), zap.String("outcome", result.Outcome),
			zap.Int64("completed", result.Completed), zap.Int64("failed", result.Failed))
	}
	return nil
}

// finalize ends the batch if this was its last shard. Assembling a large output takes minutes, more than
// there is when a runner is stopped: then somebody else goes on where this one is.
func (r *Runner) finalize(ctx, handOver context.Context, plan *batch.Plan) (*batch.Result, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(handOver, cancel)()
	defer r.meter.finalising()()
	result, err := monitoring.Finalise(ctx, r.cfg.Tracer, r.cfg.Finalizer, plan, trace.LinkFromContext(ctx)) // the job that came to do it
	switch {
	case err != nil && handOver.Err() != nil:
		return nil, errHandOver
	case err != nil:
		return nil, fmt.Errorf("finalise: %w", err)
	}
	return result, nil
}

// verdict makes a fate of how the work ended.
func (r *Runner) verdict(ctx context.Context, l *lease.Lease, err error) (fate, error) {
	var cause *causeError
	switch {
	case err == nil:
		return fate{actDelete, 0, "done"}, nil
	case errors.Is(err, errHandOver):
		return handedOver(), nil
	case errors.Is(err, lease.ErrLost):
		return fate{actLeave, 0, "lease_lost"}, nil
	case errors.As(err, &cause):
		if noteErr := r.noteCause(ctx, l, cause.Cause); noteErr != nil {
			err = errors.Join(err, noteErr)
		}
		return fate{actHandOver, 0, "elsewhere"}, err
	}
	return fate{actDefer, failureDelay, "failed"}, err
}

// noteCause leaves the reason in the lease, where the watcher counts them.
func (r *Runner) noteCause(ctx context.Context, l *lease.Lease, c batch.Cause) error {
	c.Runner, c.At = r.cfg.Name, time.Now().Unix()
	notes, err := changedNotes(l, func(n *batch.LeaseNotes) { n.Causes = append(n.Causes, c) })
	if err != nil {
		return err
	}
	return l.SetNotes(ctx, notes)
}

// plan reads a plan, or remembers it: a runner often holds several shards of a batch.
func (r *Runner) plan(ctx context.Context, id string) (*batch.Plan, error) {
	r.mu.Lock()
	plan := r.plans[id]
	r.mu.Unlock()
	if plan != nil {
		return plan, nil
	}
	body, _, err := storage.ReadAll(ctx, r.cfg.Bucket, batch.PlanKey(id))
	if err != nil {
		return nil, err
	}
	plan = new(batch.Plan)
	if err := json.Unmarshal(body, plan); err != nil {
		return nil, fmt.Errorf("read plan of %s: %w", id, err)
	}
	if plan.V > batch.Version {
		return nil, fmt.Errorf("read plan of %s: %w", id, batch.ErrVersion)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.plans) >= maxPlans {
		clear(r.plans)
	}
	r.plans[id] = plan
	return plan, nil
}

// maxPlans bounds what is remembered; a plan of a million lines is some 100 kB.
const maxPlans = 64

func (r *Runner) exists(ctx context.Context, key string) (bool, error) {
	_, err := r.cfg.Bucket.Head(ctx, key)
	if storage.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}
