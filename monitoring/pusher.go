package monitoring

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/push"
	"go.uber.org/zap"
)

// PusherConfig says what is pushed where. Fields without a default must be set.
type PusherConfig struct {
	URL      string // of the Pushgateway
	Job      string
	Instance string // of this process alone, and never used again: one group a process keeps totals exact

	Gatherer   prometheus.Gatherer
	Registerer prometheus.Registerer // for the count of failures; default none
	Log        *zap.Logger           // default none

	Interval time.Duration // between pushes, ± 10 %; default 15 s
	Timeout  time.Duration // of one push; default 3 s
	CloseIn  time.Duration // the most that Close takes; default 8 s, below the 10 s that telemetry may cost at exit
}

// closeTries is how often the final push is tried.
const closeTries = 3

// Pusher pushes a registry to a Pushgateway until it is closed. Its group is never deleted by it: a group
// that goes with its process takes its last values along before they are scraped.
type Pusher struct {
	cfg      PusherConfig
	pusher   *push.Pusher
	last     *push.Pusher // of the push that Close makes
	failures prometheus.Counter

	stop   context.CancelFunc
	done   chan struct{}
	once   sync.Once
	failed bool // the last push; owned by the loop, and by Close after it
}

// StartPusher pushes at once, then at every interval, in a goroutine of its own that Close ends. Failures
// are counted, and logged when they begin and when they end; each push carries the whole state, so that
// the next one repairs all.
func StartPusher(cfg PusherConfig) (*Pusher, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	cfg.Interval = cmp.Or(cfg.Interval, 15*time.Second)
	cfg.Timeout = cmp.Or(cfg.Timeout, 3*time.Second)
	cfg.CloseIn = cmp.Or(cfg.CloseIn, 8*time.Second)
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	p := &Pusher{cfg: cfg, done: make(chan struct{}), failures: telemetryFailures("pushgateway")}
	unread := telemetryFailures("collectors")
	if cfg.Registerer != nil {
		if err := errors.Join(cfg.Registerer.Register(p.failures), cfg.Registerer.Register(unread)); err != nil {
			return nil, fmt.Errorf("register push failures: %w", err)
		}
	}
	readable := tolerant(cfg.Gatherer, unread)
	p.pusher, p.last = cfg.pusher(readable), cfg.pusher(WithoutLive(readable))
	ctx, stop := context.WithCancel(context.Background())
	p.stop = stop
	go p.loop(ctx)
	return p, nil
}

func (c PusherConfig) validate() error {
	_, err := gatewayURL(c.URL)
	switch {
	case err != nil:
		return err
	case c.Job == "" || c.Instance == "":
		return errors.New("pusher: job and instance must be set")
	case c.Gatherer == nil:
		return errors.New("pusher: no gatherer")
	}
	return nil
}

// gatewayURL reads the address of a Pushgateway.
func gatewayURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return nil, errors.New("pushgateway: not an address") // which may hold a password
	case (u.Scheme != "http" && u.Scheme != "https") || u.Host == "":
		return nil, fmt.Errorf("pushgateway %q: want an address like http://host:9091", s)
	}
	return u, nil
}

// pusher gives client_golang's, with a time-out, which it lacks, and with the password of the address in a
// header, since its errors quote the address.
func (c PusherConfig) pusher(g prometheus.Gatherer) *push.Pusher {
	u, _ := url.Parse(c.URL) // validate has done so before
	user := u.User
	u.User = nil
	p := push.New(u.String(), c.Job).Grouping("instance", c.Instance).Gatherer(g).
		Client(&http.Client{Timeout: c.Timeout})
	if password, ok := user.Password(); ok {
		p.BasicAuth(user.Username(), password)
	}
	return p
}

func (p *Pusher) loop(ctx context.Context) {
	defer close(p.done)
	for {
		_ = p.push(ctx, p.pusher) // counted and logged there
		jitter := 0.9 + 0.2*rand.Float64()
		timer := time.NewTimer(time.Duration(float64(p.cfg.Interval) * jitter))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// push replaces the group by what the gatherer has now.
func (p *Pusher) push(ctx context.Context, pusher *push.Pusher) error {
	err := pusher.PushContext(ctx)
	if ctx.Err() != nil { // Close pushes again
		return err
	}
	if err != nil {
		p.failures.Inc()
	}
	if failed := err != nil; failed != p.failed {
		p.failed = failed
		if failed {
			p.cfg.Log.Warn("metrics cannot be pushed", zap.String("event", "push_failing"), zap.Error(err))
		} else {
			p.cfg.Log.Info("metrics are pushed again", zap.String("event", "push_recovered"))
		}
	}
	return err
}

// Close stops the loop and pushes the last state without live gauges, in three tries and within PusherConfig.CloseIn. It may
// be called twice. That the push failed is logged, and is no error of anything else.
func (p *Pusher) Close() {
	p.once.Do(func() {
		p.stop()
		<-p.done
		ctx, cancel := context.WithTimeout(context.Background(), p.cfg.CloseIn)
		defer cancel()
		for range closeTries {
			if p.push(ctx, p.last) == nil || ctx.Err() != nil {
				return
			}
		}
	})
}
