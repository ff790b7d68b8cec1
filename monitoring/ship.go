package monitoring

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"spool/storage/batch"
)

// Sink is where a Shipper puts logs. Its methods are called one at a time.
type Sink interface {
	// Put stores a part. It may be called again with the same key and the same bytes.
	Put(ctx context.Context, key string, body []byte) error
	// LogDir gives batch.LogDir of a batch. As long as that is not known it gives "", and is asked again. The id is valid.
	LogDir(ctx context.Context, id string) (string, error)
}

// ShipperConfig says how logs are shipped. Component and Instance must be set.
type ShipperConfig struct {
	Component string
	Instance  string // of this process alone, and never used again: with the seq of a line it makes the part's key

	Registerer prometheus.Registerer // default none

	Every   time.Duration // the most that a line waits; default 10 s
	Soon    time.Duration // the most that it waits after an error; default 1 s
	Part    int           // bytes of lines of one batch that are shipped at once; default 1 MiB
	Limit   int           // the most bytes that are held; default 8 MiB
	Timeout time.Duration // of one round of puts; default 10 s
	CloseIn time.Duration // the most that Close takes; default 5 s
}

// Shipper stores log lines in a bucket, as immutable parts: one a batch every few seconds. It holds what it cannot
// store, up to a limit, and drops lines beyond it: debug and info first, so that room for errors is left. Who logs
// never waits for it. A line that was dropped is counted, and seen as a gap of seq.
type Shipper struct {
	cfg     ShipperConfig
	metrics *shipMetrics

	mu      sync.Mutex
	open    map[string]*stream // by batch
	size    int                // bytes held, in open and in pending
	due     time.Time          // when open is to be shipped; zero: it is empty
	waiting time.Time          // since when the oldest line in pending that is stored nowhere waits; zero: there is none
	cancel  context.CancelFunc // ends what Close cannot wait for; nil: not started
	closed  bool

	wake    chan struct{} // due is earlier than it was; holds one
	closing chan struct{}
	done    chan struct{}

	// Owned by the loop.
	sink    Sink
	log     *zap.Logger
	pending []part            // not in their folder, in the order of their lines
	dirs    map[string]string // of batches
	failing bool
}

// stream is lines of one batch that are to be one part.
type stream struct {
	first, last int64
	since       time.Time // of the first line
	lines       []byte
	count       [levels]int
}

// part is a compressed stream.
type part struct {
	batch       string
	first, last int64
	body        []byte
	since       time.Time
	count       [levels]int
	elsewhere   bool // stored, with the other logs
}

const (
	// dirsKept bounds the cache of folders.
	dirsKept = 1000
	// folderWait is how long a part waits for the folder of its batch before it is stored with the other logs.
	folderWait = time.Minute
	// folderHope is how long it is held all the same: if there is a folder at last it is stored there, too, since lines that
	// are not there seem lost.
	folderHope = time.Hour
)

// NewShipper returns a Shipper that holds lines until it is started. Give it to NewLogger.
func NewShipper(cfg ShipperConfig) (*Shipper, error) {
	if cfg.Component == "" || cfg.Instance == "" {
		return nil, fmt.Errorf("ship logs: no component or instance")
	}
	cfg.Every = cmp.Or(cfg.Every, 10*time.Second)
	cfg.Soon = cmp.Or(cfg.Soon, time.Second)
	cfg.Part = cmp.Or(cfg.Part, 1<<20)
	cfg.Limit = cmp.Or(cfg.Limit, 8<<20)
	cfg.Timeout = cmp.Or(cfg.Timeout, 10*time.Second)
	cfg.CloseIn = cmp.Or(cfg.CloseIn, 5*time.Second)
	s := &Shipper{
		cfg: cfg, open: map[string]*stream{}, dirs: map[string]string{},
		wake: make(chan struct{}, 1), closing: make(chan struct{}), done: make(chan struct{}),
	}
	var err error
	s.metrics, err = newShipMetrics(cfg.Registerer, s.age)
	return s, err
}

// Start ships what was held and what comes, in a goroutine that Close ends. log is told when that begins to fail and
// when it works again. It is called once at most, and not after Close.
func (s *Shipper) Start(sink Sink, log *zap.Logger) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	s.sink, s.log, s.cancel = sink, log, cancel
	go func() {
		defer close(s.done)
		s.loop(ctx)
	}()
}

// Close ships what is left, in CloseIn at the most, and drops what comes later. It may be called twice.
func (s *Shipper) Close() {
	s.mu.Lock()
	cancel := s.cancel
	if !s.closed {
		s.closed = true
		close(s.closing)
	}
	s.mu.Unlock()
	if cancel == nil {
		return
	}
	defer cancel()
	defer time.AfterFunc(s.cfg.CloseIn, cancel).Stop()
	<-s.done
}

// add takes a copy of a line. It does not wait.
func (s *Shipper) add(id string, seq int64, level zapcore.Level, line []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.size+len(line) > s.room(level) {
		s.metrics.dropped[index(level)].Inc()
		return
	}
	now := time.Now()
	st := s.open[id]
	if st == nil {
		st = &stream{first: seq, since: now}
		s.open[id] = st
	}
	st.last = seq
	st.lines = append(st.lines, line...)
	st.count[index(level)]++
	s.size += len(line)
	wait := s.cfg.Every
	switch {
	case len(st.lines) >= s.cfg.Part:
		wait = 0
	case level >= zapcore.ErrorLevel:
		wait = s.cfg.Soon
	}
	if due := now.Add(wait); s.due.IsZero() || due.Before(s.due) {
		s.due = due
		signal(s.wake)
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// room is up to how many held bytes a line of a level is still taken.
func (s *Shipper) room(level zapcore.Level) int {
	switch {
	case level <= zapcore.DebugLevel:
		return s.cfg.Limit / 2
	case level == zapcore.InfoLevel:
		return s.cfg.Limit / 4 * 3
	}
	return s.cfg.Limit
}

// age is how long the oldest line waits.
func (s *Shipper) age() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	oldest := s.waiting
	for _, st := range s.open {
		if oldest.IsZero() || st.since.Before(oldest) {
			oldest = st.since
		}
	}
	if oldest.IsZero() {
		return 0
	}
	return time.Since(oldest)
}

func (s *Shipper) loop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	retry := time.Time{} // of what is pending
	for {
		timer.Stop()
		if at := s.next(retry); !at.IsZero() {
			timer.Reset(time.Until(at))
		}
		select {
		case <-s.wake:
			continue
		case <-s.closing:
			s.last(ctx)
			return
		case <-timer.C:
		}
		s.take()
		s.ship(ctx, folderWait)
		if retry = (time.Time{}); len(s.pending) > 0 {
			retry = time.Now().Add(s.cfg.Every)
		}
	}
}

// next is when the next round is due; zero if there is nothing to ship.
func (s *Shipper) next(retry time.Time) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.due.IsZero() || !retry.IsZero() && retry.Before(s.due) {
		return retry
	}
	return s.due
}

// last ships what is left, in two tries. What belongs to a batch whose folder is still not known goes to the other logs.
func (s *Shipper) last(ctx context.Context) {
	s.take()
	for range 2 {
		s.ship(ctx, 0)
	}
	for _, p := range s.pending {
		if !p.elsewhere {
			s.metrics.lost(p.count)
		}
	}
}

// take makes parts of the open streams.
func (s *Shipper) take() {
	s.mu.Lock()
	open := s.open
	s.open, s.due = map[string]*stream{}, time.Time{}
	s.mu.Unlock()
	for id, st := range open {
		p := part{batch: id, first: st.first, last: st.last, since: st.since, body: compress(st.lines), count: st.count}
		s.pending = append(s.pending, p)
		s.hold(len(p.body) - len(st.lines))
	}
}

func (s *Shipper) hold(more int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.size += more
}

func compress(lines []byte) []byte {
	var buf bytes.Buffer
	z, _ := gzip.NewWriterLevel(&buf, gzip.DefaultCompression) // the level is good
	_, _ = z.Write(lines)                                      // a buffer takes all
	_ = z.Close()
	return buf.Bytes()
}

// ship stores what is pending. After a failure the later parts of the same batch wait, so that what is stored of a
// process has gaps only where lines are lost. What has waited for its folder for long enough goes to the other logs.
func (s *Shipper) ship(ctx context.Context, wait time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	places := map[string]*place{}
	var left []part
	var oldest time.Time
	for _, p := range s.pending {
		to := places[p.batch]
		if to == nil {
			to = s.place(ctx, &p)
			places[p.batch] = to
		}
		if s.store(ctx, &p, to, wait) {
			s.hold(-len(p.body))
			continue
		}
		left = append(left, p)
		if !p.elsewhere && (oldest.IsZero() || p.since.Before(oldest)) {
			oldest = p.since
		}
	}
	s.pending = left
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = oldest
}

// place is where the parts of one batch go in one round.
type place struct {
	dir    string // "" if it is not known
	failed bool   // a part could not be stored
}

// place finds the folder for the first part of a batch. That it cannot be asked for is told until that part is stored
// elsewhere: it may be so for ever.
func (s *Shipper) place(ctx context.Context, first *part) *place {
	dir, err := s.dir(ctx, first.batch)
	if err != nil && !first.elsewhere {
		s.tell(err)
	}
	return &place{dir: dir}
}

// store reports whether the part is done with.
func (s *Shipper) store(ctx context.Context, p *part, to *place, wait time.Duration) bool {
	age := time.Since(p.since)
	switch {
	case to.failed:
		return false
	case to.dir != "":
		to.failed = !s.put(ctx, to.dir, p)
		return !to.failed
	case !p.elsewhere && age >= wait:
		p.elsewhere = s.put(ctx, s.other(p.batch), p)
		to.failed = !p.elsewhere
	}
	return p.elsewhere && age >= folderHope
}

// put reports whether the part is in the folder now. Its lines are counted once.
func (s *Shipper) put(ctx context.Context, dir string, p *part) bool {
	err := s.sink.Put(ctx, dir+batch.LogPart(p.first, p.last), p.body)
	s.tell(err)
	if err == nil && !p.elsewhere {
		s.metrics.stored(p.count)
	}
	return err == nil
}

// tell counts failures, and says when they begin and end.
func (s *Shipper) tell(err error) {
	switch {
	case err != nil && !s.failing:
		s.log.Warn("logs cannot be stored", zap.String("event", "log_failing"), zap.Error(err))
	case err == nil && s.failing:
		s.log.Info("logs are stored again", zap.String("event", "log_recovered"))
	}
	if s.failing = err != nil; s.failing {
		s.metrics.failures.Inc()
	}
}

// dir is the folder of this process for a batch.
func (s *Shipper) dir(ctx context.Context, id string) (string, error) {
	if id == "" {
		return batch.OtherLogDir(s.cfg.Component, s.cfg.Instance), nil
	}
	if !batch.ValidID(id) { // of a message that somebody forged: it has no folder ever
		return s.other(id), nil
	}
	if dir, ok := s.dirs[id]; ok {
		return dir, nil
	}
	dir, err := s.sink.LogDir(ctx, id)
	if dir == "" || err != nil {
		return "", err
	}
	if len(s.dirs) >= dirsKept {
		clear(s.dirs)
	}
	s.dirs[id] = dir + s.cfg.Instance + "/"
	return s.dirs[id], nil
}

// other is the folder of this process for a batch that has none. What is no batch id may be no part of a key either.
func (s *Shipper) other(id string) string {
	if !batch.ValidID(id) {
		sum := sha256.Sum256([]byte(id))
		id = "invalid-" + hex.EncodeToString(sum[:8])
	}
	return batch.OtherLogDir(s.cfg.Component, s.cfg.Instance) + id + "/"
}

const levels = 4

// index gives debug, info, warn and error a place; what is worse counts as an error.
func index(level zapcore.Level) int {
	return int(min(max(level, zapcore.DebugLevel), zapcore.ErrorLevel) - zapcore.DebugLevel)
}

type shipMetrics struct {
	written, dropped [levels]prometheus.Counter
	failures         prometheus.Counter
}

func newShipMetrics(reg prometheus.Registerer, age func() time.Duration) (*shipMetrics, error) {
	lines := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "spool_log_lines_total",
		Help: "Log lines by level and what became of them in the bucket."}, []string{"level", "outcome"})
	m := &shipMetrics{failures: prometheus.NewCounter(prometheus.CounterOpts{
		Name: "spool_telemetry_failures_total", Help: "Telemetry that could not be delivered, by sink.",
		ConstLabels: prometheus.Labels{"sink": "s3log"}})}
	for i := range levels {
		level := (zapcore.DebugLevel + zapcore.Level(i)).String()
		m.written[i], m.dropped[i] = lines.WithLabelValues(level, "written"), lines.WithLabelValues(level, "dropped")
	}
	if reg == nil {
		return m, nil
	}
	oldest := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "spool_log_oldest_unflushed_age_seconds",
		Help: "How long the oldest log line waits for its way into the bucket."}, func() float64 { return age().Seconds() })
	for _, c := range []prometheus.Collector{lines, m.failures, oldest} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register log metrics: %w", err)
		}
	}
	return m, nil
}

func (m *shipMetrics) stored(count [levels]int) {
	for i, n := range count {
		m.written[i].Add(float64(n))
	}
}

func (m *shipMetrics) lost(count [levels]int) {
	for i, n := range count {
		m.dropped[i].Add(float64(n))
	}
}
