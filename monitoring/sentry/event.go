package sentry

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"time"

	sdk "github.com/getsentry/sentry-go"
)

// event says what failed, how often, and where its log is.
func (r *Reporter) event(k key, h failures) *sdk.Event {
	f := h.last
	e := sdk.NewEvent()
	e.Level, e.Timestamp, e.Logger, e.Message = sdk.LevelError, f.At, f.Logger, f.Message
	e.Tags = maps.Clone(r.cfg.Tags)
	if e.Tags == nil {
		e.Tags = map[string]string{}
	}
	for name, value := range map[string]string{"batch_id": k.batch, "stage": k.stage, "error_type": k.errorType, "pool": f.Pool, "model": f.Model} {
		if value != "" {
			e.Tags[name] = value
		}
	}
	for name, value := range e.Tags {
		e.Tags[name] = cut(strings.ReplaceAll(value, "\n", " "), maxTag)
	}
	// What is grouped to one issue: without batch and text, which differ with every batch.
	e.Fingerprint = []string{e.Tags["component"], k.stage, k.errorType, e.Tags["model"]}
	e.Exception = []sdk.Exception{{Type: k.stage, Value: cut(cmp.Or(f.Text, f.Message+": "+k.errorType), maxText)}}
	spool := sdk.Context{"count": h.count, "first": h.first.UTC(), "last": f.At.UTC()}
	if len(h.requests) > 0 {
		spool["request_ids"] = h.requests
	}
	if k.batch != "" {
		spool["log"] = "spool logs " + k.batch + " --level error"
	}
	e.Contexts = map[string]sdk.Context{"spool": spool}
	if f.Lines > 0 { // a fact of the batch: Sentry drops the event of a second process that tells it
		e.EventID = sdk.EventID(fmt.Sprintf("%x", sha256.Sum256([]byte(k.batch+"\n"+k.stage+"\n"+k.errorType)))[:32])
	}
	return e
}

// cut gives the beginning of a text, of n bytes at the most.
func cut(s string, n int) string { return strings.ToValidUTF8(s[:min(len(s), n)], "") }

// post is the SDK's client, its way to the server apart, so that each event has a deadline and a fate. It is used by one
// goroutine.
type post struct {
	client *sdk.Client
	basket *basket
	wire   *sdk.HTTPSyncTransport
	fate   *fate
}

func newPost(cfg Config) (*post, error) {
	p := &post{basket: &basket{}, wire: sdk.NewHTTPSyncTransport(), fate: &fate{RoundTripper: cfg.Transport}}
	if cfg.Transport == nil { // an event is rare: no connection is kept for the next one
		p.fate.RoundTripper = &http.Transport{Proxy: http.ProxyFromEnvironment, IdleConnTimeout: time.Second}
	}
	opt := sdk.ClientOptions{
		Dsn: cfg.DSN, Release: cfg.Release, Environment: cfg.Environment, ServerName: cfg.Server, SampleRate: cfg.SampleRate,
		Transport: p.basket, HTTPTransport: p.fate, DisableClientReports: true,
		Integrations: func([]sdk.Integration) []sdk.Integration { return nil },
	}
	p.wire.Timeout = cfg.Timeout
	p.wire.Configure(opt)
	var err error
	if p.client, err = sdk.NewClient(opt); err != nil {
		return nil, fmt.Errorf("sentry: %w", err)
	}
	return p, nil
}

// send reports whether the server took the event, or sampling left it out.
func (p *post) send(ctx context.Context, e *sdk.Event, timeout time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if p.client.CaptureEvent(e, nil, nil) == nil {
		return true
	}
	p.fate.taken = false // and stays so if the server asked to be left alone for a while
	p.wire.SendEventWithContext(ctx, p.basket.event)
	return p.fate.taken
}

func (p *post) close() {
	p.client.Close()
	(&http.Client{Transport: p.fate.RoundTripper}).CloseIdleConnections()
}

// basket is a transport of the SDK that goes no further.
type basket struct{ event *sdk.Event }

func (b *basket) SendEvent(e *sdk.Event)                { b.event = e }
func (b *basket) Configure(sdk.ClientOptions)           {}
func (b *basket) Flush(time.Duration) bool              { return true }
func (b *basket) FlushWithContext(context.Context) bool { return true }
func (b *basket) Close()                                {}

// fate notes whether the server took the last event, which the SDK does not say.
type fate struct {
	http.RoundTripper
	taken bool
}

func (f *fate) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := f.RoundTripper.RoundTrip(req)
	f.taken = err == nil && resp.StatusCode/100 == 2
	return resp, err
}
