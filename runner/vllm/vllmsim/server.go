package vllmsim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
)

// Version is what GET /version says: the vLLM that the bodies were compared with.
const Version = "0.32.0"

const fingerprint = "vllm-" + Version + "-vllmsim"

// ErrEngineDead is returned by Serve after a fault of kind FaultDie. vLLM's own process exits 0 then
// (vllm-project/vllm#48966), so that is what a command that stands in for it should do.
var ErrEngineDead = errors.New("engine core died")

// flushTime is how long Serve waits for replies that are ready to be read by their clients.
const flushTime = 5 * time.Second

// Server is the stand-in. Its methods may be called concurrently.
type Server struct {
	cfg     Config
	log     *zap.Logger
	engine  *engine
	faults  faultPlan
	ledger  *Ledger
	gather  *prometheus.Registry
	routes  map[string]route
	created int64

	dead    chan struct{} // closed when EngineCore has died
	dieOnce sync.Once

	mu     sync.Mutex
	counts Counts
}

// New validates the configuration and opens the ledger. A nil logger logs nothing. Close the Server when
// it is no longer used.
func New(cfg Config, log *zap.Logger) (*Server, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("configure vllmsim: %w", err)
	}
	if log == nil {
		log = zap.NewNop()
	}
	s := &Server{
		cfg: cfg, log: log, created: time.Now().Unix(),
		gather: prometheus.NewRegistry(), dead: make(chan struct{}), counts: Counts{Statuses: map[int]int{}},
	}
	if err := s.faults.replace(cfg.Faults); err != nil {
		return nil, fmt.Errorf("configure vllmsim: %w", err)
	}
	if cfg.LedgerPath != "" {
		l, err := OpenLedger(cfg.LedgerPath)
		if err != nil {
			return nil, err
		}
		s.ledger = l
	}
	reg := prometheus.WrapRegistererWith(prometheus.Labels{"model_name": cfg.Model, "engine": "0"}, s.gather)
	s.engine = newEngine(cfg.pace(), newMetrics(reg, cfg.MaxModelLen).ended)
	reg.MustRegister(newEngineCollector(s.engine, cfg.MaxModelLen))
	s.routes = s.makeRoutes()
	return s, nil
}

// Close closes the ledger. Call it once, after Serve has returned.
func (s *Server) Close() error { return s.ledger.Close() }

func (c Config) pace() pace {
	p := pace{slots: c.Slots, queue: c.MaxQueued}
	if !c.Instant {
		scale := func(d time.Duration) time.Duration { return time.Duration(float64(d) * c.TimeScale) }
		p.one, p.full, p.prefill = scale(c.TokenTime), scale(c.TokenTimeFull), scale(c.PrefillTime)
	}
	return p
}

// Serve answers on l until ctx ends, and returns nil then: with Config.ShutdownTimeout what is in flight
// gets that much time, and the rest is answered with finish_reason "abort". It returns ErrEngineDead
// after FaultDie, and the listener's error if that fails. Call it once; it closes l.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler:           s.Handler(),
		IdleTimeout:       s.cfg.KeepAlive,
		ReadHeaderTimeout: time.Minute,
		ErrorLog:          zap.NewStdLog(s.log),
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		var cause error
		select {
		case <-s.dead:
			cause = ErrEngineDead
		case <-gctx.Done():
			s.drain(context.WithoutCancel(ctx))
		}
		flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTime)
		defer cancel()
		if srv.Shutdown(flush) != nil {
			_ = srv.Close() // of clients that do not read their replies
		}
		return cause
	})
	return g.Wait()
}

// drain lets what is in flight end, for as long as Config.ShutdownTimeout.
func (s *Server) drain(ctx context.Context) {
	s.log.Info("shutting down", zap.Duration("timeout", s.cfg.ShutdownTimeout))
	idle := s.engine.drain()
	ctx, cancel := context.WithTimeout(ctx, s.cfg.ShutdownTimeout)
	defer cancel()
	select {
	case <-idle:
	case <-s.dead:
	case <-ctx.Done():
		s.engine.halt(reasonAbort)
	}
}

// die is the death of EngineCore.
func (s *Server) die() {
	s.dieOnce.Do(func() {
		s.engine.halt(reasonError)
		close(s.dead)
	})
}

func (s *Server) isDead() bool {
	select {
	case <-s.dead:
		return true
	default:
		return false
	}
}

// Run is a whole process: it binds the address as Bind does, loads for Config.LoadTime, in which
// connections are refused, calls ready (unless nil) with the address once it listens, and serves as
// Serve does until ctx ends. If ctx ends while it loads, that is an error, as with vLLM.
func Run(ctx context.Context, cfg Config, addr string, log *zap.Logger, ready func(net.Addr)) (err error) {
	bound, err := Bind(addr)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, bound.Close()) }()
	s, err := New(cfg, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	load := time.NewTimer(cfg.LoadTime)
	defer load.Stop()
	select {
	case <-load.C:
	case <-ctx.Done():
		return fmt.Errorf("load model: %w", context.Cause(ctx))
	}
	l, err := bound.Listen()
	if err != nil {
		return err
	}
	s.log.Info("ready", zap.Stringer("address", l.Addr()), zap.Int("slots", s.cfg.Slots))
	if ready != nil {
		ready(l.Addr())
	}
	return s.Serve(ctx, l)
}
