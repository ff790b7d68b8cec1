// Package sentry tells Sentry what failed: one event for each batch, stage and kind of error, with a count.
//
// A line of a log that is an error is no event. A store that is out for an hour makes thousands of them, and a tracker
// that gets them all is switched off by its quota or by its readers. So failures that are alike are counted here, and sent
// when their batch ends, when the process ends, or, since a batch may take a day, when they have waited for Config.Hold; the
// longer a failure goes on, the longer the next event about it waits.
//
// An event holds what a monitoring.Failure holds, and no more: the SDK's integrations, which add what they find in the
// process, are off.
package sentry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"sync"
	"time"

	sdk "github.com/getsentry/sentry-go"
	"github.com/prometheus/client_golang/prometheus"

	"spool/monitoring"
)

// Config says where failures go. DSN must be set.
type Config struct {
	DSN         string            // https://KEY@HOST/PROJECT
	Release     string            // version of the program
	Environment string            // "production"; default: SENTRY_ENVIRONMENT, else none, which Sentry takes for production
	Server      string            // name of this process
	Tags        map[string]string // of all events: component, runner_id
	SampleRate  float64           // the part of the events that is sent, above 0 and up to 1; default 1

	Registerer prometheus.Registerer // for the count of events that could not be sent; default none
	Transport  http.RoundTripper     // default: one of its own, through the proxy that HTTPS_PROXY names

	Hold    time.Duration // the most that a failure waits; default 10 min
	Timeout time.Duration // of one event; default 3 s
	CloseIn time.Duration // the most that Close takes; default 5 s
}

// Limits of what is held and sent.
const (
	maxKeys     = 200 // kinds of failures at once; those beyond are counted as not sent
	maxHold     = 9   // doublings: for ever is 10 min · 2⁹, 3.6 days
	maxRequests = 3   // examples of an event
	maxTag      = 200 // bytes, Sentry's own limit
	maxText     = 1 << 10
)

// Reporter is a monitoring.Tracker that sends to Sentry. Its methods may be called concurrently.
type Reporter struct {
	cfg      Config
	post     *post
	failures prometheus.Counter

	mu     sync.Mutex
	held   map[key]*failures
	closed bool

	wake    chan struct{} // something is due earlier than it was; holds one
	closing chan struct{}
	done    chan struct{}
	cancel  context.CancelFunc // ends what Close cannot wait for
}

var _ monitoring.Tracker = (*Reporter)(nil)

// key is what failures have in common that are one event.
type key struct{ batch, stage, errorType string }

// failures are those of one key.
type failures struct {
	last     monitoring.Failure
	first    time.Time
	count    int64 // since the last event
	requests []string
	due      time.Time
	sent     int // events
}

// New returns a Reporter that sends in a goroutine of its own, which Close ends. Nothing is sent before there is a failure. An
// error says that the configuration is of no use, and does not quote it.
func New(cfg Config) (*Reporter, error) {
	if cfg.SampleRate < 0 || cfg.SampleRate > 1 {
		return nil, fmt.Errorf("sentry: sample rate %v: want more than 0, and 1 at the most", cfg.SampleRate)
	}
	cfg.SampleRate = cmp.Or(cfg.SampleRate, 1)
	cfg.Hold = cmp.Or(cfg.Hold, 10*time.Minute)
	cfg.Timeout = cmp.Or(cfg.Timeout, 3*time.Second)
	cfg.CloseIn = cmp.Or(cfg.CloseIn, 5*time.Second)
	if _, err := sdk.NewDsn(cfg.DSN); err != nil {
		return nil, errors.New("sentry: that is no DSN: want one like https://KEY@HOST/PROJECT")
	}
	counter, err := monitoring.SinkFailures(cfg.Registerer, "sentry")
	if err != nil {
		return nil, err
	}
	r := &Reporter{
		cfg: cfg, failures: counter, held: map[key]*failures{},
		wake: make(chan struct{}, 1), closing: make(chan struct{}), done: make(chan struct{}),
	}
	if r.post, err = newPost(cfg); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	go func() {
		defer close(r.done)
		r.loop(ctx)
	}()
	return r, nil
}

// Track counts a failure.
func (r *Reporter) Track(f monitoring.Failure) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := key{f.Batch, f.Stage, f.ErrorType}
	h := r.held[k]
	if h == nil && len(r.held) >= maxKeys { // what has been told makes room
		maps.DeleteFunc(r.held, func(_ key, h *failures) bool { return h.count == 0 })
	}
	if r.closed || h == nil && len(r.held) >= maxKeys {
		r.failures.Inc()
		return
	}
	if h == nil {
		h = &failures{due: f.At.Add(r.cfg.Hold)}
		r.held[k] = h
		r.signal()
	}
	if f.Lines > 0 && h.sent > 0 { // it is told again if a report had to be written again
		return
	}
	h.add(f)
}

func (h *failures) add(f monitoring.Failure) {
	if h.count == 0 {
		h.first = f.At
	}
	h.last = f
	if f.Lines > 0 {
		h.count, h.requests = f.Lines, nil
	} else {
		h.count++
	}
	h.requests = append(h.requests, f.Requests...)
	h.requests = h.requests[:min(len(h.requests), maxRequests)]
}

// Ended makes what was held of a batch due.
func (r *Reporter) Ended(batch string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for k, h := range r.held {
		if k.batch == batch && batch != "" && h.count > 0 {
			h.due = time.Time{}
			r.signal()
		}
	}
}

func (r *Reporter) signal() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Close sends what is held, in Config.CloseIn at the most, and counts what could not be sent. It may be called twice.
func (r *Reporter) Close() {
	r.mu.Lock()
	if !r.closed {
		r.closed = true
		close(r.closing)
	}
	r.mu.Unlock()
	defer time.AfterFunc(r.cfg.CloseIn, r.cancel).Stop()
	<-r.done
	r.cancel()
}

func (r *Reporter) loop(ctx context.Context) {
	defer r.post.close()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Stop()
		if at, any := r.next(); any {
			timer.Reset(time.Until(at))
		}
		select {
		case <-r.wake:
			continue
		case <-r.closing:
			r.send(ctx, r.take(true))
			return
		case <-timer.C:
			r.send(ctx, r.take(false))
		}
	}
}

// next is when something is due, if anything is held.
func (r *Reporter) next() (at time.Time, any bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, h := range r.held {
		if !any || h.due.Before(at) {
			at, any = h.due, true
		}
	}
	return at, any
}

// take gives the failures that are due, or all, and holds their keys for longer than before. A key that had no failure for
// so long is forgotten.
func (r *Reporter) take(all bool) map[key]failures {
	r.mu.Lock()
	defer r.mu.Unlock()
	now, taken := time.Now(), map[key]failures{}
	for k, h := range r.held {
		switch {
		case !all && h.due.After(now):
		case h.count == 0:
			delete(r.held, k)
		default:
			taken[k] = *h
			h.sent++
			h.count, h.requests = 0, nil
			h.due = now.Add(r.cfg.Hold << min(h.sent, maxHold))
		}
	}
	return taken
}

// send sends events. What cannot be sent is counted, and held again.
func (r *Reporter) send(ctx context.Context, list map[key]failures) {
	for k, h := range list {
		if !r.post.send(ctx, r.event(k, h), r.cfg.Timeout) {
			r.failures.Inc()
			r.putBack(k, h)
		}
	}
}

// putBack holds failures as if they had not been taken.
func (r *Reporter) putBack(k key, h failures) {
	r.mu.Lock()
	defer r.mu.Unlock()
	since := r.held[k]
	if since == nil { // it made room
		since = &failures{}
	}
	h.count, h.requests = h.count+since.count, append(h.requests, since.requests...)
	h.requests = h.requests[:min(len(h.requests), maxRequests)]
	if since.count > 0 {
		h.last = since.last
	}
	h.due = time.Now().Add(r.cfg.Hold << min(h.sent, maxHold))
	r.held[k] = &h
}
