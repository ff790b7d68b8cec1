package monitoring

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// When a group is deleted. Prometheus has scraped the last state of a process many times after the first of these; the
// second leaves time to see what a killed process did last.
const (
	reapEnded  = 10 * time.Minute // after the last push of a process that said that it ended
	reapSilent = 2 * time.Hour    // after the last push, whatever it said
)

// ReaperConfig says which Pushgateway is kept clean. URL must be set.
type ReaperConfig struct {
	URL        string
	Registerer prometheus.Registerer // default none
	Log        *zap.Logger           // default none
	Every      time.Duration         // default 1 min
	Timeout    time.Duration         // of one request; default 3 s
}

// Reaper deletes the groups of runners and watchers that are gone: a Pushgateway never forgets one by itself. Any number
// of them may run; that a group is deleted twice is no harm. Groups of other jobs are left alone.
type Reaper struct {
	cfg     ReaperConfig
	base    string
	user    *url.Userinfo
	client  *http.Client
	deleted prometheus.Counter
	failed  prometheus.Counter

	stop context.CancelFunc
	done chan struct{}
	once sync.Once
	down bool // owned by the loop
}

// StartReaper looks at once and then at every interval, in a goroutine of its own that Close ends. Failures are counted,
// and logged when they begin.
func StartReaper(cfg ReaperConfig) (*Reaper, error) {
	r, err := newReaper(cfg)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	go r.loop(ctx)
	return r, nil
}

func newReaper(cfg ReaperConfig) (*Reaper, error) {
	u, err := gatewayURL(cfg.URL)
	if err != nil {
		return nil, err
	}
	cfg.Every = cmp.Or(cfg.Every, time.Minute)
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	r := &Reaper{cfg: cfg, user: u.User, client: &http.Client{Timeout: cmp.Or(cfg.Timeout, 3*time.Second)},
		failed: telemetryFailures("reaper"), done: make(chan struct{})}
	u.User = nil
	r.base = strings.TrimRight(u.String(), "/")
	r.deleted = NewSet(cfg.Registerer).Counter("spool_pushgateway_groups_deleted_total")
	if cfg.Registerer != nil {
		if err := cfg.Registerer.Register(r.failed); err != nil {
			return nil, fmt.Errorf("register reaper: %w", err)
		}
	}
	return r, nil
}

// Close ends the loop, and waits for it. It may be called twice.
func (r *Reaper) Close() {
	r.once.Do(func() {
		r.stop()
		r.client.CloseIdleConnections()
	})
	<-r.done
}

func (r *Reaper) loop(ctx context.Context) {
	defer close(r.done)
	tick := time.NewTicker(r.cfg.Every)
	defer tick.Stop()
	for {
		err := r.reap(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			r.failed.Inc()
			if !r.down {
				r.cfg.Log.Warn("groups at the Pushgateway cannot be looked through", zap.String("event", "reap_failing"), zap.Error(err))
			}
		}
		r.down = err != nil
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// reap looks at all groups once.
func (r *Reaper) reap(ctx context.Context) error {
	groups, now, err := r.groups(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, g := range groups {
		if !g.isOver(now) {
			continue
		}
		if err := r.delete(ctx, g); err != nil {
			errs = append(errs, err)
			continue
		}
		r.deleted.Inc()
		r.cfg.Log.Info("group of a process that is gone deleted", zap.String("event", "group_deleted"),
			zap.String("job", g.Labels["job"]), zap.String("instance", g.Labels["instance"]))
	}
	return errors.Join(errs...)
}

// pushedGroup is what matters of a group in the answer of /api/v1/metrics (README of prometheus/pushgateway).
type pushedGroup struct {
	Labels    map[string]string `json:"labels"`
	PushTime  pushedFamily      `json:"push_time_seconds"`
	RunnerUp  pushedFamily      `json:"spool_runner_up"`
	WatcherUp pushedFamily      `json:"spool_watcher_up"`
}

type pushedFamily struct {
	Metrics []struct {
		Value string `json:"value"`
	} `json:"metrics"`
}

// value gives that of the only metric of the family.
func (f pushedFamily) value() (float64, bool) {
	if len(f.Metrics) != 1 {
		return 0, false
	}
	v, err := strconv.ParseFloat(f.Metrics[0].Value, 64)
	return v, err == nil
}

// isOver reports whether the process of a group has ended or is silent for long enough. A group that never took a push
// has the time 0, which is long ago; it holds nothing.
func (g pushedGroup) isOver(now time.Time) bool {
	up := g.RunnerUp
	switch g.Labels["job"] {
	case RunnerJob:
	case WatcherJob:
		up = g.WatcherUp
	default:
		return false
	}
	pushed, ok := g.PushTime.value()
	if !ok {
		return false
	}
	age := now.Sub(time.UnixMilli(int64(pushed * 1000)))
	isUp, said := up.value()
	return age > reapSilent || said && isUp == 0 && age > reapEnded
}

// groups gives all groups, and the time by the gateway's clock, which is the one that stamped the pushes.
func (r *Reaper) groups(ctx context.Context) ([]pushedGroup, time.Time, error) {
	resp, err := r.do(ctx, http.MethodGet, "/api/v1/metrics")
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("list groups: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, time.Time{}, fmt.Errorf("list groups: status %d", resp.StatusCode)
	}
	var answer struct {
		Data []pushedGroup `json:"data"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return nil, time.Time{}, fmt.Errorf("list groups: %w", err)
	}
	now, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		now = time.Now()
	}
	return answer.Data, now, nil
}

func (r *Reaper) delete(ctx context.Context, g pushedGroup) error {
	path := "/metrics/job/" + url.PathEscape(g.Labels["job"])
	for name, value := range g.Labels {
		if name != "job" {
			path += "/" + name + "/" + url.PathEscape(value)
		}
	}
	resp, err := r.do(ctx, http.MethodDelete, path)
	if err != nil {
		return fmt.Errorf("delete group: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted {
		return fmt.Errorf("delete group: status %d", resp.StatusCode)
	}
	return nil
}

func (r *Reaper) do(ctx context.Context, method, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, r.base+path, nil)
	if err != nil {
		return nil, err
	}
	if password, ok := r.user.Password(); ok {
		req.SetBasicAuth(r.user.Username(), password)
	}
	return r.client.Do(req)
}
