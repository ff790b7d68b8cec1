package watcher

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"spool/storage"
	"spool/storage/batch"
)

// lastWrites is how long what must be written after the end of a context may take.
const lastWrites = 10 * time.Second

// Watcher watches one bucket. Run and Scan are called once at a time; any number of Watchers, in any
// number of processes, may watch the same bucket.
type Watcher struct {
	cfg     Config
	log     *zap.Logger
	metrics *metrics
	backlog *backlog // of inputs to be looked at
	finals  *backlog // of batches to be finalised

	ready    atomic.Bool  // the store was probed
	failures atomic.Int64 // logged ones, since New

	mu      sync.Mutex
	index   bool                // ended is what the store has, or more
	ended   map[string]struct{} // names of ended markers, without their prefix
	planned map[string]string   // batch by name of the upload's ended marker: it needs no look while it is open
	open    map[string]*open    // by batch
	closed  map[string]struct{} // batches with a result whose open marker cannot be deleted
	pools   map[string]*pool

	ripening map[string]time.Time // when batches were seen to end whose logs are to be joined, by folder

	surveyed bool // a scan has seen all open batches
}

// New checks the configuration. It sends nothing.
func New(cfg Config) (*Watcher, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	w := &Watcher{
		cfg: cfg, log: cfg.Log, metrics: newMetrics(cfg.Registerer),
		ended: map[string]struct{}{}, planned: map[string]string{}, open: map[string]*open{},
		closed: map[string]struct{}{}, pools: map[string]*pool{}, ripening: map[string]time.Time{},
	}
	w.backlog = newBacklog(cfg.Validators, w.lookLogged)
	w.finals = newBacklog(cfg.Validators, w.finishLogged)
	for _, p := range cfg.Pools {
		w.pool(p.Name)
	}
	return w, nil
}

// ErrUnfit says that the store cannot keep the promises of storage.Bucket, or that it or a queue is missing or
// refuses to be used.
var ErrUnfit = errors.New("store or queue unfit")

// Run watches until ctx ends, and returns nil then. It fails at once, with ErrUnfit, if the store or a queue of a
// pool cannot be used; later errors are logged, counted and tried again.
func (w *Watcher) Run(ctx context.Context) error {
	w.metrics.up.Set(1)
	defer w.metrics.up.Set(0)
	if err := w.prepare(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	var beside sync.WaitGroup
	beside.Go(func() { w.collectLoop(ctx) })
	beside.Go(func() { w.logsLoop(ctx) })
	if w.cfg.Events != nil {
		beside.Go(func() { w.follow(ctx) })
	}
	defer w.settle()
	defer beside.Wait()
	ticker := time.NewTicker(w.cfg.ScanEvery)
	defer ticker.Stop()
	for {
		_ = w.scan(ctx, false) // it is logged, and there is another one
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// Scan does once what Run does all the time, for cron: it looks at every input, validates what is new to the
// end, advances every open batch, and returns. It fails with ErrUnfit as Run does. Another error says how much
// could not be done; that was logged, and is tried again by the next scan, of whatever watcher.
func (w *Watcher) Scan(ctx context.Context) error {
	w.metrics.up.Set(1)
	defer w.metrics.up.Set(0)
	if err := w.prepare(ctx); err != nil {
		return err
	}
	defer w.settle()
	before := w.failures.Load()
	if err := w.scan(ctx, true); err != nil {
		return err
	}
	w.settle()
	w.collectLogged(ctx)
	if n := w.failures.Load() - before; n > 0 {
		return fmt.Errorf("%d inputs, batches or queues could not be dealt with: see the log", n)
	}
	return ctx.Err()
}

// settle waits for all that is under way: looks may ask for finalising, and the end of a batch for a look.
func (w *Watcher) settle() {
	w.backlog.wait()
	w.finals.wait()
	w.backlog.wait()
}

// prepare asks, once, whether store and queues are fit.
func (w *Watcher) prepare(ctx context.Context) error {
	if w.ready.Load() {
		return nil
	}
	if err := w.probe(ctx); err != nil {
		return fmt.Errorf("%w: %w", ErrUnfit, err)
	}
	for _, p := range w.cfg.Pools {
		if err := w.pool(p.Name).check(ctx); err != nil {
			return fmt.Errorf("%w: %w", ErrUnfit, err)
		}
	}
	w.ready.Store(true)
	return nil
}

// probePrefix is where the probe writes.
const probePrefix = batch.SysPrefix + "probe/"

// probe refuses a store on which lines could be lost or doubled. It races small objects only: output that is
// uploaded twice has the same bytes, so that Complete may be weak without harm.
func (w *Watcher) probe(ctx context.Context) error {
	report, err := storage.Probe(ctx, w.cfg.Bucket, probePrefix, storage.ProbeOptions{
		Writers: 8, Uploads: -1, Rounds: 2, Deleter: w.cfg.Deleter,
	})
	if err == nil {
		err = report.Err()
		if err != nil && w.cfg.AllowWeakStore {
			w.log.Warn("the store is unfit: lines may be lost or doubled", zap.String("event", "store_unfit"),
				zap.String("error_type", "store_unfit"), zap.Error(err))
			err = nil
		}
	}
	return err
}

// whatFails lists what failed is told of, and "status".
func whatFails() []string {
	return []string{"advance", "collect", "events", "finalise", "join logs", "look", "open queue", "queue", "scan", "status"}
}

// failed logs and counts a failure after which the watcher goes on with others. what is one of whatFails.
func (w *Watcher) failed(what string, err error, fields ...zap.Field) {
	w.failures.Add(1)
	w.metrics.errors.WithLabelValues(what).Inc()
	event := strings.ReplaceAll(what, " ", "_") + "_failed"
	w.log.Error("failed, will be tried again", append(fields, zap.String("event", event), zap.String("what", what), zap.Error(err))...)
}
