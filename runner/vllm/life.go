package vllm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"
)

// Names of what each start makes in Config.Dir.
const (
	socketDirPattern = "spool-vllm-"
	socketName       = "v.sock"
)

// Times of a life that nobody needs to choose.
const (
	pollEvery     = 200 * time.Millisecond // between looks whether it is ready, gone, or has given its memory back
	progressEvery = 30 * time.Second       // between words that it is still starting
	watchEvery    = 5 * time.Second        // between looks at its metrics
	stopGrace     = 10 * time.Second       // beyond Config.ShutdownTimeout: 7.7 s were seen with nothing in flight
	killLimit     = time.Minute            // for what was killed to be gone; a driver may hold it
)

// life is one run of `vllm serve`, from its start to the end of its last descendant.
type life struct {
	cfg    Config
	proc   *process
	out    *output
	client *Client
	dir    string // of its socket
	born   time.Time

	models  []Card
	version string
	orphans int // descendants that outlived vLLM itself; after bury

	inFlight, answered atomic.Int64
	stopping           atomic.Bool
	failOnce           sync.Once
	failed             chan struct{} // closed by fail
	reason             string        // after failed
}

// launch starts the program on a fresh socket: a file that an earlier one left makes vLLM give up.
func launch(cfg Config, refused map[string]bool) (*life, error) {
	dir, err := os.MkdirTemp(cfg.Dir, socketDirPattern)
	if err != nil {
		return nil, fmt.Errorf("make folder for socket: %w", err)
	}
	socket := filepath.Join(dir, socketName)
	l := &life{cfg: cfg, dir: dir, born: time.Now(), failed: make(chan struct{})}
	l.client, err = NewClient("unix://"+socket, Options{})
	if err != nil {
		_ = os.Remove(dir)
		return nil, err
	}
	l.out = &output{log: cfg.Log.Named("vllm")}
	mark := newMark()
	l.proc, err = startProcess(cfg.Command[0], cfg.arguments(socket, refused), cfg.environment(mark), mark, l.out)
	if err != nil {
		_ = os.Remove(dir)
		return nil, notStarted(err)
	}
	return l, nil
}

// notStarted tells a program that is not there, or is none, from a system that has no room for it now, which is nothing against the
// batch: that is tried again until the restarts are used up.
func notStarted(err error) error {
	for _, lasting := range []error{exec.ErrNotFound, fs.ErrNotExist, fs.ErrPermission, syscall.ENOEXEC} {
		if errors.Is(err, lasting) {
			return &StartError{Cause: CauseCommand, Permanent: true, Detail: err.Error()}
		}
	}
	return err
}

// fail says that the engine is of no use any more; the first reason counts.
func (l *life) fail(reason string) {
	l.failOnce.Do(func() {
		l.reason = reason
		close(l.failed)
	})
}

// awaitReady waits until /health answers 200, which comes after the model is loaded: before that, connections are
// refused.
func (l *life) awaitReady(ctx context.Context) error {
	limit := time.NewTimer(l.cfg.StartLimit)
	defer limit.Stop()
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	progress := time.NewTicker(progressEvery)
	defer progress.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-l.proc.exited:
			_ = l.bury() // so that all it wrote is read; the caller's bury says what remains
			return explain(l.out.last(tailLines), l.proc.state)
		case <-limit.C:
			lines := l.out.last(startErrorLines)
			return &StartError{Cause: CauseTimeout, Detail: fmt.Sprintf("not ready after %s", l.cfg.StartLimit), Log: lines}
		case <-progress.C:
			l.cfg.Log.Info("vllm is starting", zap.String("event", "engine_starting"),
				zap.Duration("elapsed", time.Since(l.born)), zap.String("last_line", strings.Join(l.out.last(1), "")))
		case <-poll.C:
			if l.client.Healthy(ctx) == nil {
				return l.introduce(ctx)
			}
		}
	}
}

// introduce asks what the server serves. One that is healthy but does not tell has not started.
func (l *life) introduce(ctx context.Context) (err error) {
	l.models, err = l.client.Cards(ctx)
	switch {
	case err != nil && ctx.Err() != nil:
		return err
	case err != nil:
		return &StartError{Cause: CauseUnknown, Detail: err.Error(), Log: l.out.last(startErrorLines)}
	}
	l.version = l.client.Version(ctx)
	return nil
}

// do calls the engine, and tells the death of the engine from trouble with the request.
func (l *life) do(ctx context.Context, r Request) Answer {
	l.inFlight.Add(1)
	defer l.inFlight.Add(-1)
	a := l.client.Do(ctx, r)
	switch {
	case a.Code == codeEngineDead:
		l.fail("its engine core died")
	case a.Status != 0:
		l.answered.Add(1)
	case a.Code == codeTransport && l.isGone(ctx):
		a.Outcome, a.Code, a.Died = Down, codeEngineGone, true
	case a.Code == codeRefused && !l.stopping.Load(): // else that is as it should be, and what is in flight goes on
		l.fail("it refuses connections")
	}
	a.Died = a.Died && !l.stopping.Load()
	return a
}

// isGone finds out, after a connection broke, whether the engine is there.
func (l *life) isGone(ctx context.Context) bool {
	if l.proc.hasExited() {
		return true
	}
	select {
	case <-l.failed:
		return true
	default:
	}
	return l.client.Healthy(ctx) != nil && ctx.Err() == nil
}

// end ends the life in order, and waits for it: SIGTERM to vLLM alone, time for what is in flight, and at last SIGKILL
// to what remains.
func (l *life) end() error {
	l.stopping.Store(true)
	l.proc.terminate()
	patience := time.NewTimer(l.cfg.ShutdownTimeout + stopGrace)
	defer patience.Stop()
	select {
	case <-l.proc.exited:
	case <-l.failed:
	case <-patience.C:
		l.cfg.Log.Warn("vllm does not end, it is killed", zap.String("event", "engine_killed"), zap.String("error_type", TypeHangs))
	}
	return l.bury()
}

// errUnkillable is of processes that a driver holds.
var errUnkillable error = typed{"vllm's processes do not end", TypeHangs}

// bury kills vLLM and all its descendants, waits until they are gone, and takes the socket away. It counts those that
// outlived vLLM itself. It may be called again.
func (l *life) bury() (err error) {
	limit := time.NewTimer(killLimit)
	defer limit.Stop()
	tick := time.NewTicker(pollEvery / 10)
	defer tick.Stop()
	outlived := l.proc.hasExited()
	for n := l.proc.killAll(); n > 0 || !l.proc.hasExited(); n = l.proc.killAll() {
		if outlived {
			l.orphans = max(l.orphans, n)
		}
		select {
		case <-tick.C:
			continue
		case <-limit.C:
			err = fmt.Errorf("%w: %d of them, %s after SIGKILL", errUnkillable, n, killLimit)
		}
		break
	}
	if err != nil {
		_ = l.proc.pipe.Close() // else those that do not end keep the reader waiting
	}
	<-l.proc.read
	_ = l.proc.pipe.Close()
	l.client.Close()
	_ = os.RemoveAll(l.dir)
	return err
}
