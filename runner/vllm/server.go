package vllm

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// maxBackoff bounds the pause between starts.
const maxBackoff = time.Minute

// reapEvery is how often the dead that were left to this process are looked for.
const reapEvery = 2 * time.Second

// startTries is how many starts may fail before a cause that may pass is held to be permanent: in a row those that lack
// memory, for what an earlier process held may come back; and those of an engine that never once was ready, if nobody
// knows why, or if it takes too long.
const startTries = 3

// Server owns one `vllm serve`: Run starts it, watches it, and starts it again when it dies. To its callers it is an
// engine that is down now and then. All methods may be called concurrently.
type Server struct {
	cfg  Config
	life atomic.Pointer[life] // nil while no engine is ready

	mu      sync.Mutex
	stats   Stats
	earlier Counters        // of lives that have ended
	refused map[string]bool // options that this vLLM does not know
	record  Record
}

// Stats are what a Server can tell about its engine at one moment.
type Stats struct {
	Ready    bool
	Starts   int           // that became ready
	Deaths   int           // of ready engines
	Failures int           // starts that did not become ready
	Loading  time.Duration // all the time from starts to readiness
	Counters Counters      // of all lives; what an engine did between the last look, 5 s apart, and its death is missing
	Load     Load          // of the last look; zero while no engine is ready
}

// NewServer validates the configuration. It starts nothing.
func NewServer(cfg Config) (*Server, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Server{cfg: cfg, refused: map[string]bool{}}, nil
}

// Run starts vLLM and keeps it running until ctx ends, when it stops it in order and returns nil. It returns a
// *StartError if vLLM cannot start for a permanent cause, ErrBudget with the last failure if it died too often, and
// another error if dead processes could not be removed. No process is left when it returns, but in the last case.
// Call it once.
func (s *Server) Run(ctx context.Context) error {
	var reaper sync.WaitGroup
	defer reaper.Wait()
	reaping, endReaping := context.WithCancel(context.WithoutCancel(ctx))
	defer endReaping()
	reaper.Go(func() {
		for reaping.Err() == nil {
			reapOrphans()
			sleep(reaping, reapEvery)
		}
	})
	baseline := s.gpuMemory(ctx)
	b := budget{cfg: s.cfg}
	for {
		served, err := s.live(ctx)
		if ctx.Err() != nil && !errors.Is(err, errUnkillable) {
			return nil
		}
		if s.learn(err) {
			continue
		}
		pause, err := b.spend(time.Now(), served, err)
		if err != nil {
			return err
		}
		s.cfg.Log.Info("vllm is started again", zap.String("event", "engine_restart"), zap.Duration("pause", pause), zap.Int("deaths", len(b.deaths)))
		sleep(ctx, pause)
		s.awaitMemory(ctx, baseline)
	}
}

// live is one life. It tells whether anything was answered in it, and how it ended: nil only if ctx ended it.
func (s *Server) live(ctx context.Context) (served bool, err error) {
	l, err := launch(s.cfg, s.refused)
	if err != nil {
		s.failed(err)
		return false, err
	}
	s.cfg.Log.Info("vllm starts", zap.String("event", "engine_start"), zap.Int("pid", l.proc.pid()), zap.Strings("args", l.proc.cmd.Args))
	err = l.awaitReady(ctx)
	if err == nil {
		s.enter(l)
		err = s.watch(ctx, l)
		s.leave(l, err)
	} else if ctx.Err() == nil {
		s.failed(err)
	}
	if err == nil { // ctx ended it while it was ready
		return l.answered.Load() > 0, l.end()
	}
	buryErr := l.bury()
	if l.orphans > 0 {
		s.cfg.Log.Warn("vllm left processes behind, they were killed", zap.String("event", "engine_orphans"), zap.String("error_type", TypeHangs),
			zap.Int("processes", l.orphans))
	}
	if buryErr != nil {
		err = errors.Join(buryErr, err)
	}
	return l.answered.Load() > 0, err
}

func (s *Server) failed(err error) {
	s.count(func(t *Stats) { t.Failures++ })
	s.cfg.Log.Error("vllm did not start", zap.String("event", "engine_start_failed"), zap.Error(err))
}

// enter makes a life the one that requests go to.
func (s *Server) enter(l *life) {
	took := time.Since(l.born)
	record := s.describe(l)
	s.count(func(t *Stats) {
		t.Ready, t.Starts, t.Loading = true, t.Starts+1, t.Loading+took
		s.record = record
	})
	s.life.Store(l)
	s.cfg.Log.Info("vllm is ready", zap.String("event", "engine_ready"), zap.Duration("took", took), zap.String("version", l.version))
}

func (s *Server) leave(l *life, err error) {
	s.life.Store(nil)
	s.count(func(t *Stats) {
		t.Ready, t.Load = false, Load{}
		s.earlier = t.Counters
		if err != nil {
			t.Deaths++
		}
	})
	if err != nil {
		s.cfg.Log.Error("vllm died", zap.String("event", "engine_died"), zap.Error(err),
			zap.Int64("in_flight", l.inFlight.Load()), zap.Strings("last_lines", l.out.last(startErrorLines)))
	}
}

// errDied wraps why an engine that was ready is of no use any more.
var errDied error = typed{"vllm died", TypeDied}

// watch waits until the life ends, by ctx, which is nil, or otherwise. Any end of the process is a death, whatever its
// exit status: vLLM exits 0 when its engine was killed.
func (s *Server) watch(ctx context.Context, l *life) error {
	every := min(watchEvery, max(s.cfg.StallLimit/4, time.Millisecond))
	tick := time.NewTicker(every)
	defer tick.Stop()
	p := progress{moved: time.Now()}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-l.proc.exited:
			l.fail("its process ended")
			return fmt.Errorf("%w: its process ended: %s", errDied, l.proc.state)
		case <-l.failed:
			return fmt.Errorf("%w: %s", errDied, l.reason)
		case <-tick.C:
			s.look(ctx, l, &p, every)
			if stalled := p.stalled(time.Now()); stalled > s.cfg.StallLimit {
				l.fail("it hangs")
				return fmt.Errorf("%w: no token and no answer for %s with %d requests in flight", errDied, stalled.Round(time.Millisecond), l.inFlight.Load())
			}
		}
	}
}

// look reads the metrics, which may take until the next look, and notes whether there was progress. /health is not
// asked: it stays 200 while EngineCore hangs.
func (s *Server) look(ctx context.Context, l *life, p *progress, limit time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	counters, load, err := l.client.Metrics(ctx)
	if err == nil {
		s.count(func(t *Stats) { t.Counters, t.Load = s.earlier.Plus(counters), load })
	}
	p.note(time.Now(), l.inFlight.Load(), l.answered.Load(), counters.PromptTokens+counters.GenerationTokens)
}

// progress is what the watchdog remembers.
type progress struct {
	moved    time.Time // when something last moved, or nothing was to be done
	answered int64
	tokens   float64
}

// note takes what was done up to now; of metrics that could not be read, tokens is 0. In flight counts what this
// process has asked: vLLM's own gauge stays at 0 if its engine hung before the request came.
func (p *progress) note(now time.Time, inFlight, answered int64, tokens float64) {
	if inFlight == 0 || answered != p.answered || tokens > p.tokens {
		p.moved = now
	}
	p.answered, p.tokens = answered, max(tokens, p.tokens)
}

func (p *progress) stalled(now time.Time) time.Duration { return now.Sub(p.moved) }

// learn takes from a start that was refused which options this vLLM does not know; it tells whether that was all.
func (s *Server) learn(err error) bool {
	failed, ok := errors.AsType[*StartError](err)
	if !ok {
		return false
	}
	unknown := failed.refusedOptions(s.cfg.options())
	for _, flag := range unknown {
		if s.refused[flag] {
			return false
		}
		s.refused[flag] = true
	}
	if len(unknown) > 0 {
		s.cfg.Log.Warn("this vllm lacks options, it is started without them", zap.String("event", "engine_options_refused"),
			zap.String("error_type", string(CauseArgument)), zap.Strings("options", unknown))
	}
	return len(unknown) > 0
}

// budget decides whether there is another start, and when.
type budget struct {
	cfg    Config
	deaths []time.Time // within cfg.Span, all before the first engine was ready
	barren int         // lives in a row in which nothing was answered
	memory int         // starts in a row that lacked memory
	blind  int         // starts that failed for a cause that nobody knows, before the first engine was ready
	ready  bool        // an engine has been
}

// spend takes one death and gives the pause before the next start, or why there is none.
func (b *budget) spend(now time.Time, served bool, death error) (time.Duration, error) {
	b.barren++
	if served {
		b.barren = 0
	}
	if b.isPermanent(death) || errors.Is(death, errUnkillable) {
		return 0, death
	}
	if b.ready { // else starts that each take minutes would go on for ever
		b.deaths = slices.DeleteFunc(b.deaths, func(t time.Time) bool { return now.Sub(t) > b.cfg.Span })
	}
	if b.deaths = append(b.deaths, now); len(b.deaths) > b.cfg.Restarts {
		return 0, fmt.Errorf("%w: %d times within %s, at last: %w", ErrBudget, len(b.deaths), now.Sub(b.deaths[0]).Round(time.Second), death)
	}
	if b.barren == 0 {
		return 0, nil
	}
	return min(b.cfg.Backoff<<min(b.barren-1, 16), maxBackoff), nil
}

// isPermanent says whether the next start would fail in the same way, and notes that in the error, too.
func (b *budget) isPermanent(death error) bool {
	b.ready = b.ready || errors.Is(death, errDied)
	failed, _ := errors.AsType[*StartError](death)
	if failed == nil || failed.Cause != CauseMemory {
		b.memory = 0
	}
	if failed == nil {
		return false
	}
	switch failed.Cause {
	case CauseMemory:
		b.memory++
		failed.Permanent = b.memory >= startTries
	case CauseUnknown, CauseTimeout:
		b.blind++
		failed.Permanent = !b.ready && b.blind >= startTries
	}
	return failed.Permanent
}

// sleep waits, or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func (s *Server) count(f func(*Stats)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.stats)
}

// Stats tells about the engine.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats
}

// Record tells with what the answers are made; zero before the first engine was ready.
func (s *Server) Record() Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.record
	r.Args, r.GPUs, r.Models = slices.Clone(r.Args), slices.Clone(r.GPUs), maps.Clone(r.Models)
	return r
}

// ErrNotReady is why a Server without a ready engine asks nothing.
var ErrNotReady error = typed{"vllm is not ready", TypeDown}

// Do is Client.Do on the engine that is ready. Without one the answer is Down, at once. A request whose engine dies is
// Down with Died, whichever way it learns that: unlike a Client, a Server can tell that from a broken connection.
func (s *Server) Do(ctx context.Context, r Request) Answer {
	l := s.life.Load()
	if l == nil {
		return Answer{Outcome: Down, Code: codeEngineDown, Err: ErrNotReady}
	}
	return l.do(ctx, r)
}

// Healthy gives nil while an engine is ready. It asks nobody.
func (s *Server) Healthy(context.Context) error {
	if s.life.Load() == nil {
		return ErrNotReady
	}
	return nil
}

// Models are the names under which the engine answers.
func (s *Server) Models(context.Context) ([]string, error) {
	l := s.life.Load()
	if l == nil {
		return nil, ErrNotReady
	}
	names := make([]string, len(l.models))
	for i, m := range l.models {
		names[i] = m.ID
	}
	return names, nil
}

// Metrics gives the totals of all engines that this Server has had, and what the present one works on, as of the last
// look, at most 5 s ago. It asks nobody.
func (s *Server) Metrics(context.Context) (Counters, Load, error) {
	st := s.Stats()
	return st.Counters, st.Load, nil
}

// Version is that of the ready engine, or of the one before.
func (s *Server) Version(context.Context) string { return s.Record().Version }

// Slots is how many sequences run at once, on all ranks together.
func (s *Server) Slots() int { return s.cfg.Slots * s.cfg.ranks() }

// Name is the first name of the model, for people.
func (s *Server) Name() string { return "vllm serve " + s.cfg.ServedNames[0] }
