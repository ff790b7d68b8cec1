package watcher

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"spool/storage/batch"
	"spool/storage/queue"
)

// resendAfter is how long the queues of a pool must have had too few messages before shards are sent
// again, and how old a shard's message must be for that: SQS's counts may need a minute to be right.
const resendAfter = 2 * time.Minute

// sendsAtOnce is for how many batches messages are sent to the fast queue at once.
const sendsAtOnce = 8

// pool keeps the queues of one pool filled.
type pool struct {
	w    *Watcher
	name string

	opening lock
	queues  map[string]Queue

	mu    lock // also held while messages are sent, so that no two give away the same room
	wants map[string]*survey
	full  bool // wants has every open batch of the pool, or had at the last scan
}

func (w *Watcher) pool(name string) *pool {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.pools[name]
	if p == nil {
		p = &pool{
			w: w, name: name, opening: newLock(), queues: map[string]Queue{},
			mu: newLock(), wants: map[string]*survey{}, full: w.surveyed,
		}
		w.pools[name] = p
		w.metrics.begin(name)
	}
	return p
}

// queue opens a queue at its first use.
func (p *pool) queue(ctx context.Context, name string) (Queue, error) {
	p.opening.Lock()
	defer p.opening.Unlock()
	if q := p.queues[name]; q != nil {
		return q, nil
	}
	q, err := p.w.cfg.Queues(ctx, name)
	if err != nil {
		return nil, err
	}
	p.queues[name] = q
	return q, nil
}

// check opens the queues, and fails if one is missing or refused; if they only cannot be reached now,
// that may pass. Without a dead-letter queue a message that is delivered too often is sent again later.
func (p *pool) check(ctx context.Context) error {
	for _, name := range []string{queue.PoolQueue(p.name), queue.FastQueue(p.name)} {
		_, err := p.queue(ctx, name)
		switch {
		case errors.Is(err, queue.ErrNoQueue), errors.Is(err, queue.ErrDenied), err != nil && ctx.Err() != nil:
			return err
		case err != nil:
			p.w.failed("open queue", err, zap.String("queue", name))
		}
	}
	if _, err := p.queue(ctx, queue.DeadQueue(p.name)); err != nil {
		p.w.log.Warn("no dead-letter queue", zap.String("event", "no_dead_queue"), zap.String("queue", queue.DeadQueue(p.name)), zap.Error(err))
	}
	return nil
}

// want notes what an open batch needs.
func (p *pool) want(s *survey) {
	p.mu.Lock()
	defer p.mu.Unlock()
	own := *s // change replaces what it says of sent.json
	if old := p.wants[s.plan.Batch]; old != nil && old.changed.After(s.begun) {
		own.sent, own.sentETag, own.changed, own.stale = old.sent, old.sentETag, old.changed, old.stale
	}
	p.wants[s.plan.Batch] = &own
}

// drop forgets a batch that needs no messages any more. The pool of a rejected plan may be none.
func (w *Watcher) drop(plan *batch.Plan) {
	w.mu.Lock()
	p := w.pools[plan.Pool]
	w.mu.Unlock()
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.wants, plan.Batch)
}

// fast reports whether a batch goes to the fast queue: it has one chunk.
func fast(plan *batch.Plan) bool { return plan.Chunks() == 1 }

func (p *pool) queueName(plan *batch.Plan) string {
	if fast(plan) {
		return queue.FastQueue(p.name)
	}
	return queue.PoolQueue(p.name)
}

func (p *pool) queueOf(ctx context.Context, plan *batch.Plan) (Queue, error) {
	return p.queue(ctx, p.queueName(plan))
}

// topUp sends what the fast queue wants, and as much as the other one has room for. Before the first
// scan has seen all batches, it is not known what room there is.
func (p *pool) topUp(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	err := p.sendFast(ctx)
	if p.full {
		err = errors.Join(err, p.fill(ctx))
	}
	return err
}

// sendFast sends what the fast queue wants, for several batches at once: hundreds may be dropped together.
func (p *pool) sendFast(ctx context.Context) error {
	list := p.ordered()
	errs := make([]error, len(list))
	var group errgroup.Group
	group.SetLimit(sendsAtOnce)
	for i, s := range list {
		if fast(s.plan) {
			group.Go(func() error {
				_, errs[i] = p.send(ctx, s, s.unsent())
				return nil
			})
		}
	}
	_ = group.Wait() // each batch has an error of its own
	return errors.Join(errs...)
}

// fill gives the room in the pool's queue to the batches in turns. All watchers do this in the same order,
// so that of two that do it at once one loses its first compare-and-swap; it then leaves the rest to the
// other.
func (p *pool) fill(ctx context.Context) error {
	var batches []*survey
	room := p.w.cfg.QueueAhead
	for _, s := range p.ordered() {
		if !fast(s.plan) {
			batches = append(batches, s)
			room -= s.unstarted()
		}
	}
	for i, shards := range deal(batches, room) {
		if len(shards) == 0 {
			continue
		}
		if won, err := p.send(ctx, batches[i], shards); !won || err != nil {
			return err
		}
	}
	return nil
}

// deal gives each batch in turn one of its unsent shards, as long as there is room. Whose turn it is follows from
// what is queued or worked on already: of the batches with the fewest such shards the first one is next. So they
// take turns also where each scan finds room for one job only.
func deal(batches []*survey, room int) [][]int {
	dealt := make([][]int, len(batches))
	unsent := make([][]int, len(batches))
	has := make([]int, len(batches))
	for i, s := range batches {
		unsent[i], has[i] = s.unsent(), len(s.outstanding())
	}
	for ; room > 0; room-- {
		next := -1
		for i := range batches {
			if len(unsent[i]) > 0 && (next < 0 || has[i] < has[next]) {
				next = i
			}
		}
		if next < 0 {
			break
		}
		dealt[next] = append(dealt[next], unsent[next][0])
		unsent[next] = unsent[next][1:]
		has[next]++
	}
	return dealt
}

// ordered gives the batches, least left first.
func (p *pool) ordered() []*survey {
	maps.DeleteFunc(p.wants, func(_ string, s *survey) bool { return s.stale })
	list := slices.Collect(maps.Values(p.wants))
	left := func(s *survey) int { return len(s.plan.Shards) - len(s.done) }
	slices.SortFunc(list, func(a, b *survey) int {
		return cmp.Or(cmp.Compare(left(a), left(b)), cmp.Compare(a.plan.CreatedAt, b.plan.CreatedAt), cmp.Compare(a.plan.Batch, b.plan.Batch))
	})
	return list
}

// counted is how many messages the queues of a pool had.
type counted struct {
	messages int
	at       time.Time // by the local clock, before they were asked
}

// count asks both queues how many messages they have.
func (p *pool) count(ctx context.Context) (counted, error) {
	total := counted{at: time.Now()}
	for _, name := range []string{queue.PoolQueue(p.name), queue.FastQueue(p.name)} {
		q, err := p.queue(ctx, name)
		if err != nil {
			return total, err
		}
		counts, err := q.Counts(ctx)
		if err != nil {
			return total, err
		}
		p.w.metrics.depth(p.name, name, roleJobs, counts)
		total.messages += counts.Total()
	}
	return total, nil
}

// resend compares the messages that there were with the shards that should have had one. If there are too few
// now, and were two minutes ago, shards that nobody works on are sent again.
func (p *pool) resend(ctx context.Context, c counted) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := p.ordered()
	outstanding := 0
	for _, s := range list {
		outstanding += s.sentBefore(c.at)
	}
	var errs []error
	for _, s := range list {
		errs = append(errs, p.resendBatch(ctx, s, c.messages < outstanding))
	}
	return errors.Join(errs...)
}

func (p *pool) resendBatch(ctx context.Context, s *survey, missing bool) error {
	now := s.clock().Unix()
	switch {
	case !missing && s.sent.Short != 0:
		_, err := p.change(ctx, s, func(sent *batch.Sent) { sent.Short = 0 })
		return err
	case !missing || len(s.outstanding()) == 0:
		return nil
	case s.sent.Short == 0:
		_, err := p.change(ctx, s, func(sent *batch.Sent) { sent.Short = now })
		return err
	}
	old := now - int64(resendAfter/time.Second)
	if s.sent.Short > old {
		return nil
	}
	var lost []int
	for _, n := range s.outstanding() {
		if !s.fresh(n) && s.sent.Shards[n].At <= old {
			lost = append(lost, n)
		}
	}
	if len(lost) == 0 {
		return nil
	}
	won, err := p.send(ctx, s, lost)
	if won {
		p.w.log.Warn("messages seem lost, sent again", about(ctx, s.plan, zap.String("event", "jobs_resent"), zap.String("error_type", "message_lost"),
			zap.Ints("shards", lost))...)
		p.w.metrics.resent.WithLabelValues(p.name).Add(float64(len(lost)))
	}
	return err
}

// tend is the end of a scan, after all open batches of the pool were surveyed: it takes what is dead, sends again
// what seems lost, and tops up.
func (p *pool) tend(ctx context.Context, c counted) error {
	p.mu.Lock()
	p.full = true
	p.mu.Unlock()
	p.tellDead(ctx)
	err := p.drain(ctx)
	if !c.at.IsZero() {
		err = errors.Join(err, p.resend(ctx, c))
	}
	err = errors.Join(err, p.topUp(ctx))
	p.tellAge()
	return err
}

func (w *Watcher) poolList() []*pool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Collect(maps.Values(w.pools))
}

// countPools counts the messages of each pool, but of those whose queues do not tell.
func (w *Watcher) countPools(ctx context.Context) map[*pool]counted {
	counts := map[*pool]counted{}
	for _, p := range w.poolList() {
		c, err := p.count(ctx)
		switch {
		case err == nil:
			counts[p] = c
		case ctx.Err() == nil:
			w.failed("queue", err, zap.String("pool", p.name))
		}
	}
	return counts
}

// tendPools tends all pools.
func (w *Watcher) tendPools(ctx context.Context, counts map[*pool]counted) {
	w.mu.Lock()
	w.surveyed = true
	w.mu.Unlock()
	for _, p := range w.poolList() {
		if err := p.tend(ctx, counts[p]); err != nil && ctx.Err() == nil {
			w.failed("queue", err, zap.String("pool", p.name))
		}
	}
}
