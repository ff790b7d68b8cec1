package watcher

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"spool/monitoring"
	"spool/storage"
	"spool/storage/batch"
	"spool/storage/queue"
)

// readSent reads sent.json; without one it is empty, with ETag "".
func readSent(ctx context.Context, b storage.Bucket, id string) (*batch.Sent, string, error) {
	key := batch.SentKey(id)
	sent := &batch.Sent{}
	body, obj, err := storage.ReadAll(ctx, b, key)
	if storage.IsNotFound(err) {
		return sent, "", nil
	}
	if err != nil {
		return nil, "", err
	}
	if err := json.Unmarshal(body, sent); err != nil {
		return nil, "", fmt.Errorf("decode %q: %w", key, err)
	}
	if sent.V > batch.Version {
		return nil, "", fmt.Errorf("read %q: %w", key, batch.ErrVersion)
	}
	return sent, obj.ETag, nil
}

// change replaces sent.json, unless somebody else did since s was made; then it reports false, and s must
// be made anew before anything is sent.
func (p *pool) change(ctx context.Context, s *survey, edit func(*batch.Sent)) (bool, error) {
	next := *s.sent
	next.V, next.Batch = batch.Version, s.plan.Batch
	next.Shards = maps.Clone(s.sent.Shards)
	if next.Shards == nil {
		next.Shards = map[int]batch.SentInfo{}
	}
	edit(&next)
	body, err := json.Marshal(next)
	if err != nil {
		return false, fmt.Errorf("encode sent: %w", err)
	}
	stored, err := storage.Swap(ctx, p.w.cfg.Bucket, batch.SentKey(s.plan.Batch), s.sentETag, body)
	if err != nil {
		return false, err
	}
	if !stored.Mine {
		s.stale = true
		return false, nil
	}
	s.sent, s.sentETag, s.changed = &next, stored.ETag, time.Now()
	return true, nil
}

// send claims shards in sent.json and then sends a message for each. What could not be sent is given back;
// after a crash between the two the count check finds it.
func (p *pool) send(ctx context.Context, s *survey, shards []int) (won bool, err error) {
	if len(shards) == 0 {
		return true, nil
	}
	q, err := p.queueOf(ctx, s.plan)
	if err != nil {
		return false, err
	}
	now := s.clock().Unix()
	won, err = p.change(ctx, s, func(sent *batch.Sent) {
		for _, n := range shards {
			if sent.Shards[n].At > 0 { // what was missing is on its way
				sent.Short = 0
			}
			sent.Shards[n] = batch.SentInfo{At: now, Count: sent.Shards[n].Count + 1}
		}
	})
	if !won || err != nil {
		return won, err
	}
	sending, span := p.startSend(ctx, s.plan, len(shards))
	messages, err := p.messages(sending, s, shards)
	if err == nil {
		err = q.Send(sending, messages)
	}
	monitoring.EndSpan(span, err)
	if err == nil {
		p.w.metrics.sent.WithLabelValues(p.name).Add(float64(len(shards)))
		return true, nil
	}
	return true, errors.Join(err, p.giveBack(ctx, s, unsent(shards, err)))
}

// giveBack marks shards as not sent.
func (p *pool) giveBack(ctx context.Context, s *survey, shards []int) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWrites)
	defer cancel()
	_, err := p.change(ctx, s, func(sent *batch.Sent) {
		for _, n := range shards {
			sent.Shards[n] = batch.SentInfo{Count: sent.Shards[n].Count}
		}
	})
	return err
}

// unsent gives those of the shards whose messages were not sent, as far as err tells.
func unsent(shards []int, err error) []int {
	partial, ok := errors.AsType[*queue.SendError](err)
	if !ok {
		return shards
	}
	list := make([]int, 0, len(partial.Unsent))
	for _, i := range partial.Unsent {
		list = append(list, shards[i])
	}
	return list
}

// messages are children of the span of ctx.
func (p *pool) messages(ctx context.Context, s *survey, shards []int) ([]queue.Outgoing, error) {
	attributes := monitoring.TraceOf(ctx)
	list := make([]queue.Outgoing, 0, len(shards))
	for _, n := range shards {
		body, err := json.Marshal(batch.Message{
			V: batch.Version, Type: batch.MessageShard, Batch: s.plan.Batch, Shard: n, Pool: p.name,
			Enqueued: s.clock().UnixMilli(), By: p.w.cfg.Name, N: s.sent.Shards[n].Count,
		})
		if err != nil {
			return nil, fmt.Errorf("encode message: %w", err)
		}
		list = append(list, queue.Outgoing{Body: string(body), Attributes: attributes})
	}
	return list, nil
}

// ForgetSent marks the shards of all open batches as not sent, so that the next scan sends those that are not done.
// It is for queues that lost every message at once, as those of a local stack do when it ends; without it, that shows
// after two minutes. Call it before a watcher runs on b. Called needlessly it doubles messages, which harms nothing.
func ForgetSent(ctx context.Context, b storage.Bucket) error {
	for obj, err := range b.List(ctx, batch.OpenPrefix, "") {
		if err != nil {
			return err
		}
		if err := forgetSent(ctx, b, strings.TrimPrefix(obj.Key, batch.OpenPrefix)); err != nil {
			return err
		}
	}
	return nil
}

func forgetSent(ctx context.Context, b storage.Bucket, id string) error {
	sent, etag, err := readSent(ctx, b, id)
	if err != nil || etag == "" {
		return err
	}
	sent.Short = 0
	for n, info := range sent.Shards {
		sent.Shards[n] = batch.SentInfo{Count: info.Count}
	}
	body, err := json.Marshal(sent)
	if err != nil {
		return fmt.Errorf("encode sent: %w", err)
	}
	_, err = storage.Swap(ctx, b, batch.SentKey(id), etag, body) // who was faster knows better
	return err
}
