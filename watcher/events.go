package watcher

import (
	"context"
	"encoding/json"
	"net/url"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"spool/storage"
	"spool/storage/batch"
	"spool/storage/queue"
)

const (
	eventsAtOnce = queue.MaxBatch
	eventsWait   = queue.MaxWait
	// eventsPause is the pause after the event queue could not be asked.
	eventsPause = 5 * time.Second
	// malformedTries is how often a message that is no event is left to others before it is deleted.
	malformedTries = 3
)

// notification is what S3 puts into the event queue, whatever its 2.x version: only the names count
// ("Event message structure", Amazon S3 User Guide). The body of a test event has Event and no records.
type notification struct {
	Event   string `json:"Event"`
	Records []struct {
		S3 struct {
			Bucket struct {
				Name string `json:"name"`
			} `json:"bucket"`
			Object struct {
				Key string `json:"key"`
			} `json:"object"`
		} `json:"s3"`
	} `json:"Records"`
}

// What a message of the event queue may be.
const (
	eventHint      = "hint"
	eventTest      = "test"
	eventForeign   = "foreign"   // of another bucket: for another watcher
	eventMalformed = "malformed" // not understood
)

func eventKinds() []string { return []string{eventHint, eventTest, eventForeign, eventMalformed} }

// follow takes events until ctx ends. They are hints: none is needed, and all that any does is to ask for a
// look at what it names.
func (w *Watcher) follow(ctx context.Context) {
	for ctx.Err() == nil {
		messages, err := w.cfg.Events.Receive(ctx, eventsAtOnce, eventsWait)
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			w.failed("events", err)
			pause(ctx, eventsPause)
			continue
		}
		var group sync.WaitGroup
		for _, m := range messages {
			group.Go(func() { w.event(ctx, m) })
		}
		group.Wait()
	}
}

// event deals with one message. Its deletion need not succeed: the message comes again, and does no harm.
func (w *Watcher) event(ctx context.Context, m *queue.Message) {
	kind, keys := w.parseEvent(m.Body)
	w.metrics.events.WithLabelValues(kind).Inc()
	for _, key := range keys {
		w.hint(ctx, key)
	}
	switch {
	case kind == eventForeign:
		return
	case kind == eventMalformed && m.ReceiveCount < malformedTries:
		return
	case kind == eventMalformed:
		w.log.Warn("event not understood, deleted", zap.String("event", "event_unknown"), zap.String("error_type", "bad_message"),
			zap.String("message_id", m.ID), zap.String("body", clip(m.Body, 500)))
	}
	if err := w.cfg.Events.Delete(ctx, m); err != nil && ctx.Err() == nil {
		w.log.Warn("event not deleted", zap.String("event", "event_not_deleted"), zap.String("message_id", m.ID), zap.Error(err))
	}
}

func (w *Watcher) parseEvent(body string) (kind string, keys []string) {
	var n notification
	if json.Unmarshal([]byte(body), &n) != nil {
		return eventMalformed, nil
	}
	if n.Event == "s3:TestEvent" {
		return eventTest, nil
	}
	kind = eventMalformed
	for _, r := range n.Records {
		switch {
		case r.S3.Object.Key == "" || r.S3.Bucket.Name == "":
		case r.S3.Bucket.Name != w.cfg.BucketName:
			kind = eventForeign
		default:
			keys = append(keys, r.S3.Object.Key)
		}
	}
	if len(keys) > 0 {
		kind = eventHint
	}
	return kind, keys
}

// hint asks for a look at an input that may be named by key, as it stands and, since AWS escapes keys and
// others do not, unescaped.
func (w *Watcher) hint(ctx context.Context, key string) {
	candidates := []string{key}
	if plain, err := url.QueryUnescape(key); err == nil && plain != key {
		candidates = append(candidates, plain)
	}
	for _, k := range candidates {
		found, err := w.heed(ctx, k)
		if err != nil && ctx.Err() == nil {
			w.failed("events", err, zap.String("key", k))
		}
		if found {
			return
		}
	}
}

// heed asks for a look at the input that a key is about, and reports whether the key exists.
func (w *Watcher) heed(ctx context.Context, key string) (bool, error) {
	input, isWish := strings.CutSuffix(key, batch.CancelSuffix)
	if !isInput(input) {
		return false, nil
	}
	if !isWish {
		return w.ask(ctx, input)
	}
	if _, err := w.cfg.Bucket.Head(ctx, key); storage.IsNotFound(err) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	if id, ok := batch.ParseLongCancelKey(key); ok && w.remembered()[id] {
		w.advanceLogged(ctx, id)
		return true, nil
	}
	found, err := w.ask(ctx, input)
	if err == nil && !found {
		w.advanceInput(ctx, input)
	}
	return true, err
}

// advanceInput advances the open batches of an input that is gone.
func (w *Watcher) advanceInput(ctx context.Context, key string) {
	for _, id := range w.openOf(key) {
		w.advanceLogged(ctx, id)
	}
}

func (w *Watcher) openOf(key string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var ids []string
	for id, o := range w.open {
		if o.input.Load() != nil && *o.input.Load() == key {
			ids = append(ids, id)
		}
	}
	return ids
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
