package queue

import (
	"context"
	"errors"
	"sync"
	"time"
)

const (
	// beatEvery leaves two more tries before DefaultVisibility is over.
	beatEvery = 40 * time.Second
	// beatRetry is the pause after a heartbeat that got no answer, beatTimeout what one may take.
	beatRetry   = 10 * time.Second
	beatTimeout = 30 * time.Second
)

// Held keeps a message hidden from others while somebody works on it.
type Held struct {
	Message *Message

	queue  *Queue
	cancel context.CancelFunc
	done   chan struct{}
	lost   chan struct{}
	wall   chan struct{}

	mu  sync.Mutex
	err error
}

// Hold starts to extend the message's visibility to 120 s, every 40 s counted from its receive, until
// Release is called or ctx ends. Call Release in any case: it waits for the goroutine.
//
// Losing the message does not make the work under it wrong, only perhaps doubled: Held reports it, and
// what is done about it is the caller's choice.
func (q *Queue) Hold(ctx context.Context, m *Message) *Held {
	ctx, cancel := context.WithCancel(ctx)
	h := &Held{
		Message: m, queue: q, cancel: cancel,
		done: make(chan struct{}), lost: make(chan struct{}), wall: make(chan struct{}),
	}
	go h.beat(ctx)
	return h
}

// Release stops the heartbeats and waits for the one under way. The message stays hidden for what is left
// of its time: delete it, hand it over, or Extend it to 0 now. It may be called twice, and concurrently.
func (h *Held) Release() {
	h.cancel()
	<-h.done
}

// Lost is closed when SQS refuses to extend the message: it is delivered to somebody else, deleted, or
// over SQS's limit of 12 h. There are no more heartbeats then.
func (h *Held) Lost() <-chan struct{} { return h.lost }

// Wall is closed at Message.Wall, unless Release was called before: hand the message over.
func (h *Held) Wall() <-chan struct{} { return h.wall }

// Err is the outcome of the last heartbeat: nil, why the message was lost, or why SQS could not be asked.
func (h *Held) Err() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.err
}

func (h *Held) beat(ctx context.Context) {
	defer close(h.done)
	wall := time.NewTimer(time.Until(h.Message.Wall()))
	defer wall.Stop()
	next := time.NewTimer(beatEvery - time.Since(h.Message.Received))
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-wall.C:
			close(h.wall)
			continue
		case <-next.C:
		}
		switch err := h.extend(ctx); {
		case ctx.Err() != nil:
			return
		case err == nil:
			next.Reset(beatEvery)
		case errors.Is(err, ErrUnavailable), errors.Is(err, ErrDenied): // credentials may be renewed
			next.Reset(beatRetry)
		default:
			close(h.lost)
			return
		}
	}
}

func (h *Held) extend(ctx context.Context) error {
	beat, cancel := context.WithTimeoutCause(ctx, beatTimeout, ErrUnavailable)
	defer cancel()
	err := h.queue.Extend(beat, h.Message, DefaultVisibility)
	if ctx.Err() == nil {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.err = err
	}
	return err
}
