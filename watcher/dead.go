package watcher

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"go.uber.org/zap"

	"spool/storage/batch"
	"spool/storage/queue"
)

// deadAtOnce bounds the messages that one scan takes from a dead-letter queue.
const deadAtOnce = 1000

// drain empties the dead-letter queue. A message is there because it was delivered too often, which on
// machines that are taken away says little about its shard: one that still wants work is sent again, with its
// deliveries counted anew.
func (p *pool) drain(ctx context.Context) error {
	q, err := p.queue(ctx, queue.DeadQueue(p.name))
	if errors.Is(err, queue.ErrNoQueue) {
		return nil // check said so
	}
	if err != nil {
		return err
	}
	for taken := 0; taken < deadAtOnce; {
		messages, err := q.Receive(ctx, queue.MaxBatch, 0)
		if err != nil || len(messages) == 0 {
			return err
		}
		taken += len(messages)
		for _, m := range messages {
			if err := p.revive(ctx, q, m); err != nil {
				return err
			}
		}
	}
	return nil
}

// revive marks the shard of a dead message as not sent, if it wants work, and deletes the message. A
// message that this version does not understand is left alone.
func (p *pool) revive(ctx context.Context, q Queue, m *queue.Message) error {
	job, ok := parseDead(m.Body)
	if !ok {
		p.w.log.Warn("dead message not understood", zap.String("event", "dead_message_unknown"), zap.String("error_type", "bad_message"),
			zap.String("pool", p.name), zap.String("message_id", m.ID))
		return nil
	}
	revived, err := p.unsend(ctx, job)
	if err != nil {
		return err
	}
	p.w.log.Info("dead message taken", zap.String("event", "dead_message"), zap.String("pool", p.name), zap.String("batch_id", job.Batch),
		zap.Int("shard", job.Shard), zap.Bool("sent_again", revived))
	if err := q.Delete(ctx, m); err != nil {
		return err // it comes back
	}
	p.w.metrics.dead.WithLabelValues(p.name).Inc()
	return nil
}

// parseDead reports whether it understands a message. What names the batch must be an id: log lines about it are stored
// under it.
func parseDead(body string) (job batch.Message, ok bool) {
	err := json.Unmarshal([]byte(body), &job)
	return job, err == nil && job.V == batch.Version && job.Type == batch.MessageShard && batch.ValidID(job.Batch)
}

// unsend reports whether the shard still wants work. A batch that is not among the open ones of the pool
// wants none; if it is there and was only unknown now, the count check sends what is missing.
func (p *pool) unsend(ctx context.Context, job batch.Message) (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.wants[job.Batch]
	if s == nil || s.stale || s.done[job.Shard] || s.sent.Shards[job.Shard].At == 0 {
		return false, nil
	}
	won, err := p.change(ctx, s, func(sent *batch.Sent) {
		sent.Shards[job.Shard] = batch.SentInfo{Count: sent.Shards[job.Shard].Count}
	})
	if err == nil && !won {
		err = fmt.Errorf("sent.json of batch %q was changed by another watcher", job.Batch)
	}
	return won, err
}
