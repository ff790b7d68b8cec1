package runner

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"spool/storage/batch"
	"spool/storage/queue"
)

// Grace is how long Run may still write after its context has ended: segments, leases, messages. Spot
// instances and container platforms give 30 s or more between SIGTERM and SIGKILL, some only 15 s.
const Grace = 10 * time.Second

// lastTimeout bounds each of the two writes that are made even when the grace is over but for them: the lease
// is released, and the message settled. They are what spares a successor minutes.
const lastTimeout = 2 * time.Second

// outlive gives a context that ends d after ctx does.
func outlive(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	longer, end := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(d, end) })
	return longer, func() { stop(); end() }
}

// Shards that may be on their way into the window at once. Of the main queue one: the next is received
// when the last line of the one before is queued. Fast ones are small, and many may come at a time.
const (
	mainAdmitted = 1
	fastAdmitted = 16
)

// maxFailures in a row end Run: something is wrong that another machine may not have.
const maxFailures = 3

// Runner works on shards. Make it with New, and call Run once.
type Runner struct {
	cfg    Config
	log    *zap.Logger
	fleet  *fleet
	window *window
	meter  *meter

	mu       sync.Mutex
	held     map[shardID]bool
	ledgers  map[string]*ledger // of batches with a shard held
	plans    map[string]*batch.Plan
	active   int       // messages at work
	lastWork time.Time // when one ended
	fastLook time.Time // when the fast lane last had no message
	leaving  error     // why no more messages are taken, if that is no end in order
	failures int       // in a row

	gpusRead time.Time // the last reading of GPUs that was looked at; of the goroutine of countPhases
}

type shardID struct {
	batch string
	shard int
}

// New makes a runner. It registers its metrics and talks to nobody.
func New(cfg Config) (*Runner, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	log := cfg.Log.With(zap.String("runner_id", cfg.Name))
	r := &Runner{
		cfg: cfg, log: log,
		fleet: newFleet(cfg, log),
		meter: newMeter(cfg.Metrics, cfg.Window),
		held:  make(map[shardID]bool), ledgers: make(map[string]*ledger), plans: make(map[string]*batch.Plan),
	}
	r.window = newWindow(cfg, r.fleet, r.meter)
	r.fleet.preempted, r.fleet.cameUp = r.window.halve, r.meter.moved
	r.observe()
	return r, nil
}

// Run works until there has been no message for Config.Idle, or until ctx ends: then it gives back what
// it holds, within Grace, and returns nil too. Other ends are errors, ErrEngineDown, ErrElsewhere and, if the
// main queue does not answer when the runner is idle, its error among them; what was held is given back all the same.
func (r *Runner) Run(ctx context.Context) error {
	stopping, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	working, endWork := outlive(stopping, Grace-2*lastTimeout)
	defer endWork()

	var services errgroup.Group
	services.Go(func() error { return r.window.run(working) })
	services.Go(func() error { r.writeRecords(working); return nil })
	services.Go(func() error { r.countPhases(working, stopping); return nil })
	needed := func(run func(context.Context) error) func() error { // without which there is no work
		return func() error {
			if err := run(working); err != nil {
				stop(err)
			}
			return nil
		}
	}
	services.Go(needed(r.fleet.run))
	if r.cfg.GPUs != nil {
		services.Go(needed(r.cfg.GPUs.Run))
	}

	r.log.Info("runner started", zap.String("event", "runner_started"), zap.Int("slots", r.cfg.Slots), zap.Int("window", r.cfg.Window))
	r.lastWork = time.Now()
	intake, endIntake := context.WithCancel(stopping)
	defer endIntake()
	var lanes sync.WaitGroup
	for _, l := range []lane{{r, r.cfg.Fast, true, fastAdmitted}, {r, r.cfg.Main, false, mainAdmitted}} {
		lanes.Go(func() {
			var shards sync.WaitGroup
			l.run(intake, func(err error) {
				if err != nil {
					stop(err)
				}
				endIntake()
			}, func(j job) {
				shards.Go(func() {
					defer j.fed()
					r.began()
					r.handle(working, stopping, j, stop, func(err error) {
						r.leave(err)
						endIntake()
					})
					r.finished()
				})
			})
			shards.Wait()
		})
	}
	lanes.Wait()
	endWork()
	return r.ended(ctx, stopping, services.Wait())
}

// ended tells why Run ends.
func (r *Runner) ended(ctx, stopping context.Context, err error) error {
	switch {
	case err != nil || ctx.Err() != nil:
	case stopping.Err() != nil:
		err = context.Cause(stopping)
	default:
		err = r.leaving // all jobs have ended: nobody writes it any more
	}
	reason := "idle"
	switch {
	case err != nil:
		reason = "error"
	case ctx.Err() != nil:
		reason = "interrupted"
	}
	r.meter.left(reason)
	r.log.Info("runner ended", zap.String("event", "runner_ended"), zap.String("reason", reason), zap.Error(err))
	return err
}

// lane takes messages of one queue.
type lane struct {
	*Runner
	queue    Queue
	fast     bool
	admitted int
}

// run receives and starts jobs until intake ends. The main lane ends it when the runner is idle; if that is
// because the queue does not answer, with the error.
func (l lane) run(intake context.Context, endIntake func(error), start func(job)) {
	room := make(chan struct{}, l.admitted)
	for {
		select {
		case room <- struct{}{}:
		case <-intake.Done():
			return
		}
		leave := sync.OnceFunc(func() { <-room })
		m, err := l.receive(intake)
		switch {
		case intake.Err() != nil:
			return
		case m != nil:
			start(job{queue: l.queue, fast: l.fast, message: m, fed: leave})
			continue
		case l.fast:
			l.foundNone()
		case l.idle():
			endIntake(err)
		}
		leave()
	}
}

// receive waits for one message; nil if there is none. Errors are logged and waited out, too.
func (l lane) receive(intake context.Context) (*queue.Message, error) {
	// Not cancelled by intake: a message on its way would be hidden from all for two minutes. So the
	// last receive is waited for, and Poll is short.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(intake), l.cfg.Poll+5*time.Second)
	defer cancel()
	got, err := l.queue.Receive(ctx, 1, l.cfg.Poll)
	if err != nil {
		l.meter.received(l.fast, "failed")
		l.log.Warn("queue does not answer", zap.String("event", "receive_failed"), zap.Bool("fast", l.fast), zap.Error(err))
		pause(intake, l.cfg.Poll)
		return nil, err
	}
	if len(got) == 0 {
		l.meter.received(l.fast, "empty")
		if l.cfg.Poll < time.Second { // SQS waits whole seconds only
			pause(intake, l.cfg.Poll)
		}
		return nil, nil
	}
	l.meter.received(l.fast, "message")
	if intake.Err() != nil {
		l.giveBack(ctx, got[0])
		return nil, nil
	}
	return got[0], nil
}

func (l lane) giveBack(ctx context.Context, m *queue.Message) {
	if err := l.queue.Extend(ctx, m, 0); err != nil {
		l.log.Warn("message could not be given back: it comes back by itself", zap.String("event", "give_back_failed"), zap.Error(err))
	}
}

// leave notes why no more messages are taken; the first reason counts.
func (r *Runner) leave(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leaving = cmp.Or(r.leaving, err)
}

// foundNone notes that the fast lane has asked for a message in vain.
func (r *Runner) foundNone() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fastLook = time.Now()
}

// idle reports whether there is nothing to do: the main lane, which asks, has no message, and the fast one had none since the
// last work.
func (r *Runner) idle() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.active == 0 && time.Since(r.lastWork) > r.cfg.Idle && !r.fastLook.Before(r.lastWork)
}

func (r *Runner) began() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.active++; r.active == 1 {
		r.meter.moved()
	}
	r.meter.inProgress.Inc()
}

func (r *Runner) finished() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.active--
	r.meter.inProgress.Dec()
	r.lastWork = time.Now()
}

// take reserves a shard; false if this runner works on it already, by another message.
func (r *Runner) take(id shardID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.held[id] {
		return false
	}
	r.held[id] = true
	return true
}

func (r *Runner) untake(id shardID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.held, id)
}

// tooMany counts failures in a row, and reports whether there were too many.
func (r *Runner) tooMany(failed bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !failed {
		r.failures = 0
		return false
	}
	r.failures++
	return r.failures >= maxFailures
}

// ledgerOf gives the record of a batch, and opens it if there is none.
func (r *Runner) ledgerOf(id string) *ledger {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.ledgers[id]
	if l == nil {
		l = newLedger(&r.cfg, id)
		r.ledgers[id] = l
	}
	return l
}

// writeRecords keeps the runner records up to date.
func (r *Runner) writeRecords(ctx context.Context) {
	for pause(ctx, r.cfg.RecordEvery) {
		r.mu.Lock()
		ledgers := slices.Collect(maps.Values(r.ledgers))
		r.mu.Unlock()
		for _, l := range ledgers {
			if l.held.Load() > 0 {
				r.writeRecord(ctx, l)
			}
		}
	}
}

func (r *Runner) writeRecord(ctx context.Context, l *ledger) {
	if err := l.write(ctx, r.cfg.Bucket, r.environment()); err != nil && ctx.Err() == nil {
		r.log.Warn("runner record could not be written", zap.String("event", "record_failed"), zap.Error(err))
	}
}

func (r *Runner) environment() environment {
	env := environment{engines: r.fleet.describe()}
	if r.cfg.GPUs != nil {
		env.gpus = r.cfg.GPUs.Samples()
	}
	return env
}

// pause waits for d, and reports false if ctx ended before.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// errTooMany says that shard after shard failed.
func errTooMany(err error) error {
	return fmt.Errorf("%d shards in a row failed, the last with: %w", maxFailures, err)
}
