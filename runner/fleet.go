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

// observeEvery is how often an engine's metrics are looked at.
const observeEvery = 5 * time.Second

// calmAfter is how long an engine must stay up before its last trouble is forgotten. Without it, one
// that says it is healthy and fails each request would never be found dead.
const calmAfter = 30 * time.Second

// fleet is the engines of a runner: requests go to the one that is up and has the fewest in flight. Lines
// under suspicion of having killed an engine go to one that does nothing else meanwhile: the ward.
type fleet struct {
	limit  time.Duration
	server Server // the runner's own engine, one of the members; nil if it has none
	wanted func() // has it started
	start  <-chan struct{}
	log    *zap.Logger

	mu      sync.Mutex
	members []*member
	refusal error // why the runner's own engine cannot start, here or anywhere; acquire fails with it

	preempted func()        // called when an engine threw out a sequence for want of memory
	cameUp    func()        // called when an engine has come up
	changed   chan struct{} // closed and replaced when one that waits in acquire may go on
	wantedAt  time.Time     // when an engine was first wanted; zero before
	trouble   time.Time     // since when there was trouble and no answer; zero if there is none
	suspects  int           // that wait in acquire or are in flight
	ward      *member       // of the suspects; nil if there are none
}

type member struct {
	Engine
	up       bool
	epoch    int // counts the times that it came up
	upSince  time.Time
	inFlight int
	suspects int      // of these
	group    int      // how many of them may be in flight: what the most suspicious one allows
	crowd    int      // how many requests were in flight when it was last found down
	models   []string // nil if the server has no list
	version  string
	why      error // it is not up, if that has been logged

	asking  chan struct{} // holds one while well asks it; who put that in owns the others
	asked   time.Time     // when well asked last
	healthy bool          // what it learned

	counters *vllm.Counters // of the last look at its metrics
	load     vllm.Load      // likewise
	earlier  vllm.Counters  // of those of its processes that have been replaced meanwhile
}

func newFleet(cfg Config, log *zap.Logger) *fleet {
	start := make(chan struct{})
	f := &fleet{
		limit: cfg.EngineLimit, server: cfg.Server, start: start,
		log: log, changed: make(chan struct{}), trouble: time.Now(),
	}
	f.wanted = sync.OnceFunc(func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.wantedAt = time.Now()
		close(start)
	})
	for _, e := range cfg.Engines {
		f.members = append(f.members, newMember(e))
	}
	if cfg.Server != nil {
		f.members = append(f.members, newMember(cfg.Server))
	}
	return f
}

func newMember(e Engine) *member { return &member{Engine: e, asking: make(chan struct{}, 1)} }

// enough is how many strikes it takes to convict a line.
func (f *fleet) enough() int {
	if f.server == nil {
		return strikesToConvictForeign
	}
	return strikesToConvict
}

// run watches the engines, and keeps the runner's own one running, until ctx ends, or until none has answered
// for the limit.
func (f *fleet) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, m := range f.members {
		g.Go(func() error { return f.watch(ctx, m) })
	}
	if f.server != nil {
		g.Go(func() error { return f.serve(ctx) })
	}
	return g.Wait()
}

// serve starts the runner's own engine when there is first something to ask: a runner that finds no work
// should not load a model. If it cannot start for a cause that other runners would find too, that is left to
// those who ask.
func (f *fleet) serve(ctx context.Context) error {
	select {
	case <-f.start:
	case <-ctx.Done():
		return nil
	}
	err := f.server.Run(ctx)
	failed, ok := errors.AsType[*vllm.StartError](err)
	switch {
	case ctx.Err() != nil:
		return err
	case ok && failed.Permanent:
		f.refuse(because(string(failed.Cause), failed))
		return nil
	}
	return fmt.Errorf("%w: %w", ErrEngineDown, err)
}

// refuse makes acquire fail from now on.
func (f *fleet) refuse(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refusal = err
	f.wake()
}

// watch probes m whenever it is down, and looks at its metrics while it is up.
func (f *fleet) watch(ctx context.Context, m *member) error {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	var observed time.Time
	for {
		switch {
		case !f.isUp(m):
			f.probe(ctx, m)
		case time.Since(observed) >= observeEvery:
			observed = time.Now()
			f.observe(ctx, m)
		}
		if since := f.troubled(); since > f.limit && f.server == nil { // which has limits of its own
			return f.givenUp(m, since)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// observe looks at the metrics of m. An engine without them is as good as any.
func (f *fleet) observe(ctx context.Context, m *member) {
	o, ok := m.Engine.(observed)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, observeEvery)
	defer cancel()
	counters, load, err := o.Metrics(ctx)
	if err != nil {
		return
	}
	f.mu.Lock()
	before := m.counters
	if before != nil && counters.Below(*before) {
		m.earlier = m.earlier.Plus(*before)
	}
	m.counters, m.load = &counters, load
	f.mu.Unlock()
	if before != nil && counters.Preemptions > before.Preemptions {
		f.preempted()
	}
}

func (f *fleet) isUp(m *member) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return m.up
}

func (f *fleet) givenUp(m *member, since time.Duration) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	err := fmt.Errorf("%w for %s: %s", ErrEngineDown, since.Round(time.Second), m.Name())
	if m.why != nil {
		err = fmt.Errorf("%w: %w", err, m.why)
	}
	return err
}

// probe asks m whether it is there, and logs the first of several times that it is not.
func (f *fleet) probe(ctx context.Context, m *member) {
	models, err := look(ctx, m)
	if ctx.Err() != nil {
		return
	}
	var version string
	if err == nil {
		version = m.Version(ctx)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil && m.why == nil {
		f.log.Warn("engine is not up", zap.String("event", "engine_not_up"), zap.String("engine", m.Name()), zap.Error(err))
	}
	if m.why = err; err != nil {
		return
	}
	m.up, m.upSince, m.models, m.version = true, time.Now(), models, version
	m.epoch++
	f.cameUp()
	f.wake()
	f.log.Info("engine is up", zap.String("event", "engine_up"), zap.String("engine", m.Name()), zap.Strings("models", models))
}

// look asks an engine whether it is well and for its models, nil if it has no list.
func look(ctx context.Context, e Engine) ([]string, error) {
	if err := e.Healthy(ctx); err != nil {
		return nil, err
	}
	models, err := e.Models(ctx)
	if errors.Is(err, vllm.ErrNoModels) {
		return nil, nil
	}
	return models, err
}

// wake works under mu and lets all that wait in acquire look again.
func (f *fleet) wake() {
	close(f.changed)
	f.changed = make(chan struct{})
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
	epoch   int
	suspect bool
}

// acquire gives the engine for the next request, and waits while all are down. Give it back by release. A
// line under suspicion has a group: it waits until it is in flight with that many at most, itself included,
// and all of them under suspicion. 0 means that there is none.
func (f *fleet) acquire(ctx context.Context, group int) (ticket, error) {
	f.wanted()
	if group > 0 {
		f.suspect(1)
	}
	t, err := f.await(ctx, group)
	if err != nil && group > 0 {
		f.suspect(-1)
	}
	return t, err
}

func (f *fleet) await(ctx context.Context, group int) (ticket, error) {
	for {
		t, changed, err := f.pick(group)
		if t.member != nil || err != nil {
			return t, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ticket{}, context.Cause(ctx)
		}
	}
}

// suspect counts the lines under suspicion. When there are none any more, the ward is an engine like the others.
func (f *fleet) suspect(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.suspects += n
	if f.suspects == 0 {
		f.ward = nil
	}
	f.wake()
}

func (f *fleet) pick(group int) (ticket, <-chan struct{}, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refusal != nil {
		return ticket{}, nil, f.refusal
	}
	var m *member
	if group > 0 {
		m = f.admit(group)
	} else {
		m = f.idlest(f.ward)
	}
	if m == nil {
		return ticket{}, f.changed, nil
	}
	m.inFlight++
	return ticket{member: m, epoch: m.epoch, suspect: group > 0}, nil, nil
}

// idlest works under mu.
func (f *fleet) idlest(except *member) *member {
	var best *member
	for _, m := range f.members {
		if m.up && m != except && (best == nil || m.inFlight < best.inFlight) {
			best = m
		}
	}
	return best
}

// admit works under mu and gives the ward if one more suspect may enter it.
func (f *fleet) admit(group int) *member {
	if f.ward == nil || !f.ward.up {
		f.ward = f.idlest(nil)
	}
	m := f.ward
	if m == nil || m.inFlight > m.suspects {
		return nil
	}
	if m.suspects > 0 {
		group = min(group, m.group)
	}
	if m.suspects >= group {
		return nil
	}
	m.group = group
	m.suspects++
	return m
}

// release gives a ticket back and learns from the answer. It tells how many requests were in flight, this one
// included, when the engine was last found down.
func (f *fleet) release(t ticket, outcome vllm.Outcome) (crowd int) {
	if t.suspect {
		defer f.suspect(-1)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch outcome {
	case vllm.OK, vllm.Rejected:
		f.trouble = time.Time{}
	case vllm.Down:
		if t.up && t.epoch == t.member.epoch {
			t.up = false
			t.crowd = t.inFlight
			f.log.Warn("engine is down", zap.String("event", "engine_down"), zap.String("error_type", vllm.TypeDown), zap.String("engine", t.Name()), zap.Int("in_flight", t.crowd))
		}
		if f.trouble.IsZero() {
			f.trouble = time.Now()
		}
	}
	t.inFlight--
	if t.suspect {
		t.suspects--
	} else if f.ward == t.member {
		f.wake()
	}
	return t.crowd
}

// well reports whether the engine of a request that failed is well, and has been since the request was sent. However many
// fail, the engine is asked once at a time, for all that failed before, and not at all if it is known to be down.
func (f *fleet) well(ctx context.Context, t ticket) bool {
	failed := time.Now()
	select {
	case t.asking <- struct{}{}:
		defer func() { <-t.asking }()
	case <-ctx.Done():
		return false
	}
	if !f.stayed(t) {
		return false
	}
	if now := time.Now(); t.asked.Before(failed) {
		healthy := t.Healthy(ctx) == nil
		if ctx.Err() != nil {
			return false
		}
		t.asked, t.healthy = now, healthy
	}
	return t.healthy
}

// stayed reports whether an engine was not found down since a ticket for it was given.
func (f *fleet) stayed(t ticket) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return t.up && t.epoch == t.member.epoch
}

// missing gives the models of want that an engine lacks, and what the engines serve. It waits for an engine.
// As each line goes to any engine, all must have the model. "" stands for the engine's own choice; a server
// without a list is taken to have all.
func (f *fleet) missing(ctx context.Context, want []string) (missing, served []string, err error) {
	t, err := f.acquire(ctx, 0)
	if err != nil {
		return nil, nil, err
	}
	defer f.release(t, vllm.Ended)
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.members {
		if !m.up || m.models == nil {
			continue
		}
		served = append(served, m.models...)
		for _, w := range want {
			if w != "" && !slices.Contains(m.models, w) && !slices.Contains(missing, w) {
				missing = append(missing, w)
			}
		}
	}
	slices.Sort(served)
	return missing, slices.Compact(served), nil
}

// describe tells about the engines, for the runner record.
func (f *fleet) describe() []engineInfo {
	f.mu.Lock()
	defer f.mu.Unlock()
	infos := make([]engineInfo, len(f.members))
	for i, m := range f.members {
		infos[i] = engineInfo{URL: m.Name(), Version: m.version, Models: m.models}
		if r, ok := m.Engine.(recorded); ok {
			record := r.Record()
			infos[i].Record = &record
		}
	}
	return infos
}

type engineInfo struct {
	URL     string       `json:"url"`
	Version string       `json:"version,omitempty"`
	Models  []string     `json:"models,omitempty"`
	Record  *vllm.Record `json:"record,omitempty"` // of an engine of the runner's own
}
