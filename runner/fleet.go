package runner

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"spool/runner/vllm"
)

// probeEvery is how often an engine that is down is asked whether it is back.
const probeEvery = 500 * time.Millisecond

// calmAfter is how long an engine must stay up before its last trouble is forgotten. Without it, one
// that says it is healthy and fails each request would never be found dead.
const calmAfter = 30 * time.Second

// fleet is the engines of a runner: requests go to the one that is up and has the fewest in flight.
type fleet struct {
	limit time.Duration
	log   *zap.Logger

	mu      sync.Mutex
	members []*member
	changed chan struct{} // closed and replaced when a member comes up
	trouble time.Time     // since when there was trouble and no answer; zero if there is none
}

type member struct {
	Engine
	up       bool
	epoch    int // counts the times that it came up
	upSince  time.Time
	inFlight int
	models   []string // nil if the server has no list
	version  string
}

func newFleet(engines []Engine, limit time.Duration, log *zap.Logger) *fleet {
	f := &fleet{limit: limit, log: log, changed: make(chan struct{}), trouble: time.Now()}
	for _, e := range engines {
		f.members = append(f.members, &member{Engine: e})
	}
	return f
}

// run watches the engines until ctx ends, or until none has answered for the limit.
func (f *fleet) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, m := range f.members {
		g.Go(func() error { return f.watch(ctx, m) })
	}
	return g.Wait()
}

// watch probes m whenever it is down.
func (f *fleet) watch(ctx context.Context, m *member) error {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		if !f.isUp(m) {
			f.probe(ctx, m)
		}
		if since := f.troubled(); since > f.limit {
			return fmt.Errorf("%w for %s: %s", ErrEngineDown, since.Round(time.Second), m.Name())
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (f *fleet) isUp(m *member) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return m.up
}

func (f *fleet) probe(ctx context.Context, m *member) {
	if m.Healthy(ctx) != nil {
		return
	}
	models, err := m.Models(ctx)
	if err != nil && !errors.Is(err, vllm.ErrNoModels) {
		return
	}
	version := m.Version(ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	m.up, m.upSince, m.models, m.version = true, time.Now(), models, version
	m.epoch++
	close(f.changed)
	f.changed = make(chan struct{})
	f.log.Info("engine is up", zap.String("event", "engine_up"), zap.String("engine", m.Name()), zap.Strings("models", models))
}

// troubled tells how long no engine has been of use.
func (f *fleet) troubled() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.members {
		if m.up && time.Since(m.upSince) > calmAfter {
			f.trouble = time.Time{}
		}
	}
	if f.trouble.IsZero() {
		return 0
	}
	return time.Since(f.trouble)
}

// ticket is the right to one request.
type ticket struct {
	*member
	epoch int
}

// acquire gives the engine for the next request, and waits while all are down. Give it back by release.
func (f *fleet) acquire(ctx context.Context) (ticket, error) {
	for {
		t, changed := f.pick()
		if t.member != nil {
			return t, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ticket{}, context.Cause(ctx)
		}
	}
}

func (f *fleet) pick() (ticket, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var best *member
	for _, m := range f.members {
		if m.up && (best == nil || m.inFlight < best.inFlight) {
			best = m
		}
	}
	if best == nil {
		return ticket{}, f.changed
	}
	best.inFlight++
	return ticket{member: best, epoch: best.epoch}, nil
}

// release gives a ticket back and learns from the answer.
func (f *fleet) release(t ticket, outcome vllm.Outcome) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t.inFlight--
	switch outcome {
	case vllm.OK, vllm.Rejected:
		f.trouble = time.Time{}
	case vllm.Down:
		if t.up && t.epoch == t.member.epoch {
			t.up = false
			f.log.Warn("engine is down", zap.String("event", "engine_down"), zap.String("engine", t.Name()))
		}
		if f.trouble.IsZero() {
			f.trouble = time.Now()
		}
	}
}

// missing gives the models of want that no engine has, and what the engines serve. It waits for an
// engine. "" stands for the engine's own choice; a server without a list is taken to have all.
func (f *fleet) missing(ctx context.Context, want []string) (missing, served []string, err error) {
	t, err := f.acquire(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer f.release(t, vllm.Ended)
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.members {
		if m.up && m.models == nil {
			return nil, nil, nil
		}
		served = append(served, m.models...)
	}
	slices.Sort(served)
	served = slices.Compact(served)
	for _, w := range want {
		if w != "" && !slices.Contains(served, w) {
			missing = append(missing, w)
		}
	}
	return missing, served, nil
}

// describe tells about the engines, for the runner record.
func (f *fleet) describe() []engineInfo {
	f.mu.Lock()
	defer f.mu.Unlock()
	infos := make([]engineInfo, len(f.members))
	for i, m := range f.members {
		infos[i] = engineInfo{URL: m.Name(), Version: m.version, Models: m.models}
	}
	return infos
}

type engineInfo struct {
	URL     string   `json:"url"`
	Version string   `json:"version,omitempty"`
	Models  []string `json:"models,omitempty"`
}
