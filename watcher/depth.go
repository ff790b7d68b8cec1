package watcher

import (
	"context"
	"time"

	"spool/storage/queue"
)

// tellDead tells how many messages the dead-letter queue has before they are taken. Whether it can be asked matters to
// nothing else.
func (p *pool) tellDead(ctx context.Context) {
	name := queue.DeadQueue(p.name)
	q, err := p.queue(ctx, name)
	if err != nil {
		return // check said so
	}
	if counts, err := q.Counts(ctx); err == nil {
		p.w.metrics.depth(p.name, name, roleDead, counts)
	}
}

// tellAge tells how long the oldest job of each queue waits that nobody works on. SQS itself tells its age in CloudWatch
// only.
func (p *pool) tellAge() {
	p.mu.Lock()
	defer p.mu.Unlock()
	ages := map[string]time.Duration{queue.PoolQueue(p.name): 0, queue.FastQueue(p.name): 0}
	for _, s := range p.ordered() {
		name := queue.PoolQueue(p.name)
		if fast(s.plan) {
			name = queue.FastQueue(p.name)
		}
		for _, n := range s.outstanding() {
			if !s.fresh(n) {
				ages[name] = max(ages[name], s.clock().Sub(s.waitingSince(n)))
			}
		}
	}
	for name, age := range ages {
		p.w.metrics.oldest.WithLabelValues(p.name, name, roleJobs).Set(age.Seconds())
	}
}
