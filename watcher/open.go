package watcher

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"spool/monitoring"
	"spool/storage"
	"spool/storage/batch"
	"spool/storage/lease"
)

// finishGrace is left to the runner that did the last shard, which finalises by itself: two who assemble
// the same output do no harm, but the work twice.
const finishGrace = time.Minute

// leasesAtOnce is how many leases of one batch are read at once.
const leasesAtOnce = 4

// open is what this watcher remembers of a batch without a result: objects that never change, and what
// people were told.
type open struct {
	id    string
	input atomic.Pointer[string] // key, once the plan is known

	mu       lock // one advance of a batch at a time
	plan     *batch.Plan
	progress progress
	told     told
}

// survey is what the bucket says of an open batch at one moment.
type survey struct {
	plan     *batch.Plan
	now      time.Time // by the store's clock, when it was begun
	begun    time.Time // by the local one
	done     map[int]bool
	lastDone time.Time
	stop     *batch.Stop
	sent     *batch.Sent
	sentETag string
	leases   map[int]lease.Observed // of outstanding shards that anybody ever held
	changed  time.Time              // when this watcher last changed sent.json, by the local clock
	stale    bool                   // somebody else changed sent.json: the next survey knows better
}

// clock is the store's time now.
func (s *survey) clock() time.Time { return s.now.Add(time.Since(s.begun)) }

func (s *survey) allDone() bool { return len(s.done) == len(s.plan.Shards) }

// outstanding gives the shards that have a message, as far as is known, and are not done.
func (s *survey) outstanding() []int {
	return s.shards(func(n int) bool { return !s.done[n] && s.sent.Shards[n].At > 0 })
}

// sentBefore counts the outstanding shards whose message was sent before a time of the local clock.
func (s *survey) sentBefore(t time.Time) int {
	before := s.now.Add(t.Sub(s.begun)).Unix()
	return len(s.shards(func(n int) bool { return !s.done[n] && s.sent.Shards[n].At > 0 && s.sent.Shards[n].At < before }))
}

// unsent gives the shards that want a message.
func (s *survey) unsent() []int {
	return s.shards(func(n int) bool { return !s.done[n] && s.sent.Shards[n].At == 0 })
}

// unstarted counts the jobs in the queue that nobody has begun.
func (s *survey) unstarted() int {
	return len(s.shards(func(n int) bool {
		_, leased := s.leases[n]
		return !s.done[n] && s.sent.Shards[n].At > 0 && !leased
	}))
}

func (s *survey) fresh(shard int) bool {
	seen, ok := s.leases[shard]
	return ok && seen.Fresh()
}

// waitingSince is from when on nobody works on an outstanding shard whose lease is not fresh: it was sent then, or a runner
// that held it since gave it back or last said that it lives.
func (s *survey) waitingSince(shard int) time.Time {
	since := unix(s.sent.Shards[shard].At)
	if seen, ok := s.leases[shard]; ok {
		if left := s.now.Add(-seen.Age); left.After(since) {
			return left
		}
	}
	return since
}

func (s *survey) runners() int {
	owners := map[string]bool{}
	for n, seen := range s.leases {
		if s.fresh(n) {
			owners[seen.Record.Owner] = true
		}
	}
	return len(owners)
}

func (s *survey) shards(wanted func(int) bool) []int {
	var list []int
	for n := range s.plan.Shards {
		if wanted(n) {
			list = append(list, n)
		}
	}
	return list
}

// advance does what is to be done for a batch now, but for the sending of messages, which is its pool's
// matter: it stops, has it finalised, closes what is over, and tells people.
func (w *Watcher) advance(ctx context.Context, id string) error {
	o := w.remember(id)
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.plan == nil {
		plan, err := readJSON[batch.Plan](ctx, w.cfg.Bucket, batch.PlanKey(id))
		if err != nil {
			return err
		}
		if plan == nil {
			w.forget(id)
			return w.unplanned(ctx, id)
		}
		o.plan = plan
		o.input.Store(&plan.Input.Key)
	}
	result, err := readJSON[batch.Result](ctx, w.cfg.Bucket, batch.ResultKey(id))
	if err != nil {
		return err
	}
	if result != nil {
		return w.close(ctx, o, result)
	}
	s, err := w.survey(ctx, o.plan)
	if err != nil {
		return err
	}
	return w.step(ctx, o, s)
}

// step advances a batch that has no result.
func (w *Watcher) step(ctx context.Context, o *open, s *survey) error {
	if o.plan.Verdict == batch.Rejected {
		w.finals.add(ctx, o.id, 0)
		return nil
	}
	if s.stop == nil && !s.allDone() {
		if err := w.judge(ctx, s); err != nil {
			return err
		}
	}
	switch {
	case s.stop != nil || len(o.plan.Shards) == 0:
		w.drop(o.plan)
		w.finals.add(ctx, o.id, o.plan.Input.Size)
	case s.allDone():
		w.drop(o.plan)
		if s.now.Sub(s.lastDone) >= finishGrace {
			w.finals.add(ctx, o.id, o.plan.Input.Size)
		}
	default:
		w.pool(o.plan.Pool).want(s)
	}
	w.sayProgress(ctx, o, s)
	return nil
}

// finishLogged finalises a batch, which may take long, and closes it.
func (w *Watcher) finishLogged(ctx context.Context, id string) {
	o := w.remember(id)
	o.mu.Lock()
	plan := o.plan
	o.mu.Unlock()
	if plan == nil { // closed by somebody else in the meantime
		w.forget(id)
		return
	}
	result, err := monitoring.Finalise(ctx, w.cfg.Tracer, w.cfg.Finalizer, plan)
	if err == nil && result != nil {
		o.mu.Lock()
		err = w.close(ctx, o, result)
		o.mu.Unlock()
	}
	if err != nil && ctx.Err() == nil {
		w.failed("finalise", err, about(ctx, plan)...)
	}
}

// close tells people how a batch ended, and takes it off the list of open ones. The look at its upload, which
// follows, puts the ended marker.
func (w *Watcher) close(ctx context.Context, o *open, result *batch.Result) error {
	w.sayEnded(ctx, o, result)
	w.ripen(o.plan)
	w.drop(o.plan)
	first, err := w.unlist(ctx, o.id)
	if err != nil {
		return err
	}
	if w.forget(o.id) {
		w.metrics.ended(w.cfg.Pools, o.plan, result, first)
		w.log.Info("batch ended", about(ctx, o.plan, zap.String("event", "batch_ended"),
			zap.String("outcome", result.Outcome), zap.Int64("total", result.Total),
			zap.Int64("completed", result.Completed), zap.Int64("failed", result.Failed))...)
	}
	_, err = w.ask(ctx, o.plan.Input.Key)
	return err
}

// unlist takes a batch off the list of open ones, and reports whether no other watcher did, as far as can be told: two that do it
// at once both think so.
func (w *Watcher) unlist(ctx context.Context, id string) (first bool, err error) {
	if w.cfg.Deleter == nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.closed[id] = struct{}{}
		return true, nil
	}
	_, err = w.cfg.Bucket.Head(ctx, batch.OpenKey(id))
	if storage.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, w.cfg.Deleter.Delete(ctx, batch.OpenKey(id))
}

func (w *Watcher) remember(id string) *open {
	w.mu.Lock()
	defer w.mu.Unlock()
	o := w.open[id]
	if o == nil {
		o = &open{id: id, mu: newLock()}
		w.open[id] = o
	}
	return o
}

// forget reports whether the batch was remembered.
func (w *Watcher) forget(id string) bool {
	w.metrics.over(id)
	w.mu.Lock()
	defer w.mu.Unlock()
	_, known := w.open[id]
	delete(w.open, id)
	maps.DeleteFunc(w.planned, func(_, planned string) bool { return planned == id })
	return known
}

// survey reads what decides about an open batch. What runners finish is listed before stop.json is
// looked for, as everywhere.
func (w *Watcher) survey(ctx context.Context, plan *batch.Plan) (*survey, error) {
	s := &survey{plan: plan, begun: time.Now(), done: map[int]bool{}, sent: &batch.Sent{}}
	head, err := w.cfg.Bucket.Head(ctx, batch.PlanKey(plan.Batch))
	if err != nil {
		return nil, err
	}
	if s.now = head.Date; s.now.IsZero() {
		return nil, fmt.Errorf("head %q: the store's answer has no Date", head.Key)
	}
	if plan.Verdict == batch.Rejected {
		return s, nil
	}
	for obj, err := range w.cfg.Bucket.List(ctx, batch.DonePrefix(plan.Batch), "") {
		if err != nil {
			return nil, err
		}
		if n, ok := batch.ParseDoneKey(plan.Batch, obj.Key); ok && n < len(plan.Shards) {
			s.done[n] = true
			if obj.LastModified.After(s.lastDone) {
				s.lastDone = obj.LastModified
			}
		}
	}
	if s.stop, err = readJSON[batch.Stop](ctx, w.cfg.Bucket, batch.StopKey(plan.Batch)); err != nil {
		return nil, err
	}
	if s.allDone() {
		return s, nil
	}
	if s.sent, s.sentETag, err = readSent(ctx, w.cfg.Bucket, plan.Batch); err != nil {
		return nil, err
	}
	return s, w.readLeases(ctx, s)
}

func (w *Watcher) readLeases(ctx context.Context, s *survey) error {
	s.leases = map[int]lease.Observed{}
	var mu sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(leasesAtOnce)
	for _, n := range s.outstanding() {
		group.Go(func() error {
			seen, err := lease.Read(ctx, w.cfg.Bucket, batch.LeaseKey(s.plan.Batch, n))
			if storage.IsNotFound(err) {
				return nil
			}
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			s.leases[n] = seen
			return nil
		})
	}
	return group.Wait()
}

// judge stops the batch if it is to be stopped, and then sets s.stop to what is stored.
func (w *Watcher) judge(ctx context.Context, s *survey) error {
	stop, err := w.verdict(ctx, s)
	if stop == nil || err != nil {
		return err
	}
	stop.V, stop.Batch, stop.At = batch.Version, s.plan.Batch, s.now.Unix()
	body, err := json.Marshal(stop)
	if err != nil {
		return fmt.Errorf("encode stop: %w", err)
	}
	stored, err := storage.PutOnce(ctx, w.cfg.Bucket, batch.StopKey(s.plan.Batch), body, jsonObject())
	if err != nil {
		return err
	}
	if stored.Mine {
		w.log.Info("batch stopped", about(ctx, s.plan, zap.String("event", "batch_stopped"),
			zap.String("outcome", stop.Outcome), zap.String("code", stop.Code))...)
	}
	s.stop, err = readJSON[batch.Stop](ctx, w.cfg.Bucket, batch.StopKey(s.plan.Batch))
	return err
}

// verdict says why the batch is to be stopped; nil if it is not.
func (w *Watcher) verdict(ctx context.Context, s *survey) (*batch.Stop, error) {
	wish, err := w.wish(ctx, s.plan)
	switch {
	case err != nil:
		return nil, err
	case wish != "":
		return &batch.Stop{Outcome: batch.Cancelled, Code: batch.CodeBatchCancelled, Message: "cancelled by " + wish}, nil
	case s.now.Unix() >= s.plan.ExpiresAt:
		return &batch.Stop{Outcome: batch.Expired, Code: batch.CodeBatchExpired, Message: fmt.Sprintf(
			"the window of %s was over at %s", s.plan.Window, unix(s.plan.ExpiresAt).Format(time.RFC3339))}, nil
	}
	if cause := permanentCause(s.leases); cause != nil {
		return &batch.Stop{Outcome: batch.Failed, Code: cause.Code, Message: cause.Message}, nil
	}
	return nil, nil
}

// wish gives the key of the wish to cancel a batch, "" if there is none. A store that refuses the key beside the input, or would
// refuse to store it, since it is too long, is asked for the one that names the batch: so whatever else it may refuse for good is
// still an error.
func (w *Watcher) wish(ctx context.Context, plan *batch.Plan) (string, error) {
	key := batch.CancelKey(plan.Input.Key)
	obj, err := w.cfg.Bucket.Head(ctx, key)
	if storage.KindOf(err) == storage.KindInvalid || storage.IsNotFound(err) && isLong(key) {
		key = batch.LongCancelKey(plan.Batch)
		obj, err = w.cfg.Bucket.Head(ctx, key)
	}
	switch {
	case storage.IsNotFound(err), err == nil && obj.LastModified.Unix() < plan.Input.LastModified:
		return "", nil
	case err != nil:
		return "", err
	}
	return key, nil
}

// isLong reports whether there are stores that keep no such key: those of objects take 1,024 bytes, those of files 255 of a name.
func isLong(key string) bool { return len(key) > 1024 || len(path.Base(key)) > 255 }

// permanentCause finds a code that enough runners gave for one shard; of several the one of the lowest
// shard, with the last message.
func permanentCause(leases map[int]lease.Observed) *batch.Cause {
	var found *batch.Cause
	lowest := -1
	for shard, seen := range leases {
		var notes batch.LeaseNotes
		if json.Unmarshal(seen.Record.Notes, &notes) != nil || found != nil && shard > lowest {
			continue
		}
		given := map[string]int{}
		for i, c := range notes.Causes {
			if given[c.Code]++; given[c.Code] >= batch.CausesToStop {
				found, lowest = &notes.Causes[i], shard
			}
		}
	}
	return found
}
