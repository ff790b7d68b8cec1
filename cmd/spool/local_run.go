//go:build !nolocal

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"spool/runner/vllm"
	"spool/storage/queue"
)

// run starts the watcher and the runners, and waits for CMD, or for the end.
func (l *local) run(ctx context.Context, cmd []string) error {
	work, stop := context.WithCancel(ctx)
	defer stop()
	group, work := errgroup.WithContext(work)
	watching, err := l.startWatcher()
	if err != nil {
		return err
	}
	defer watching.stop()
	group.Go(func() error { return l.mind(work, watching) })
	group.Go(func() error { return l.scaling(work) })
	if len(cmd) == 0 {
		l.greet()
	}
	group.Go(func() error {
		l.askEngines(work)
		return nil
	})
	group.Go(func() error {
		defer stop()
		if len(cmd) > 0 {
			return l.command(work, cmd)
		}
		<-work.Done()
		return nil
	})
	err = group.Wait()
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func (l *local) startWatcher() (*child, error) {
	args := []string{"watch", "--create-queues", "--queues-lost", "--scan-every", "5s", "--pushgateway", l.gateway}
	return l.start("watcher", append(args, l.configArgs()...)...)
}

func (l *local) configArgs() []string {
	if l.config == "" {
		return nil
	}
	return []string{"--config", l.config}
}

// mind says when the watcher or a server is gone: without it nothing happens any more.
func (l *local) mind(ctx context.Context, w *child) error {
	select {
	case <-w.done:
		return failf(exitInternal, "see "+w.logFile, "the watcher ended: %s", w.state())
	case err := <-l.stack.Failed():
		return failf(exitInternal, "see "+filepath.Join(l.dirs.logs, "local.log"), "%w", err)
	case <-ctx.Done():
		return nil
	}
}

// command runs CMD, and takes its exit code.
func (l *local) command(ctx context.Context, cmd []string) error {
	c := exec.CommandContext(ctx, cmd[0], cmd[1:]...)
	c.Env = append(commandEnv(os.Environ()), l.stack.Env()...)
	c.Stdin, c.Stdout, c.Stderr = l.p.stdin, l.p.stdout, l.p.stderr
	c.Cancel = func() error { return c.Process.Signal(syscall.SIGTERM) }
	c.WaitDelay = stopPatience
	err := c.Run()
	exit, ended := errors.AsType[*exec.ExitError](err)
	switch {
	case err == nil:
		return nil
	case !ended:
		return failf(exitUsage, "", "start %s: %w", cmd[0], err)
	}
	code := exit.ExitCode()
	if s, ok := exit.Sys().(syscall.WaitStatus); ok && s.Signaled() {
		code = 128 + int(s.Signal()) // as shells do
	}
	return &failure{code: exitCode(code), err: err, said: true}
}

// greet says what to type.
func (l *local) greet() {
	env := append(l.stack.Env(), "PATH=$PATH:"+filepath.Dir(l.exe))
	l.p.sayf(`spool is up: bucket s3://%[2]s, objects and logs in %[3]s, up to %[4]d runners. End it with Ctrl-C.

In another terminal:

  export %[5]s

  aws s3 cp prompts.jsonl s3://%[2]s/in/prompts.jsonl --endpoint-url %[1]s
  aws s3 cp --recursive s3://%[2]s/out/prompts.jsonl/ results/ --endpoint-url %[1]s

or, with progress and an exit code:

  spool submit prompts.jsonl --wait && spool results in/prompts.jsonl

Metrics of all processes, for Prometheus: %[6]s/metrics
`, l.stack.Endpoints.S3, l.stack.Bucket(), l.dirs.data, l.runners, strings.Join(env, " "), l.gateway)
}

// engineWait is how long the engines of --engine-url have for the one answer that is asked of them at the start.
const engineWait = 3 * time.Second

// askEngines says which engines of --engine-url do not answer: runners would wait for them in their logs alone.
func (l *local) askEngines(ctx context.Context) {
	for _, e := range l.engines {
		if err := healthy(ctx, e); err != nil && ctx.Err() == nil {
			l.p.sayf("engine %s does not answer: %s; runners wait for it", e.Name(), cmp.Or(cause(err), err.Error()))
		}
		e.Close()
	}
}

func healthy(ctx context.Context, e *vllm.Client) error {
	ctx, cancel := context.WithTimeout(ctx, engineWait)
	defer cancel()
	return e.Healthy(ctx)
}

// Scaling.
const (
	scaleEvery   = time.Second
	failurePause = 5 * time.Second // after a runner that failed, doubled each time
	failureMost  = time.Minute
)

// fleet is the runners that run now.
type fleet struct {
	*local
	sim     *child // the stand-in, from the first work on
	socket  string
	running map[string][]*child // by pool
	started int
	failed  int       // in a row
	resume  time.Time // no start before
}

// scaling starts runners while there is work for more of them; they end by themselves.
func (l *local) scaling(ctx context.Context) error {
	f, err := l.newFleet()
	if err != nil {
		return err
	}
	defer f.stop()
	tick := time.NewTicker(scaleEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for _, pool := range f.pools.names() {
			if err := f.scale(pool); err != nil {
				return err
			}
		}
	}
}

func (l *local) newFleet() (*fleet, error) {
	dir, err := os.MkdirTemp("", "spool-") // short: the path of a socket has at most 107 bytes
	if err != nil {
		return nil, fmt.Errorf("make folder for the engine's socket: %w", err)
	}
	return &fleet{local: l, socket: filepath.Join(dir, "engine.sock"), running: map[string][]*child{}}, nil
}

// stop ends all runners at once, then the engine, so that they can hand over.
func (f *fleet) stop() {
	for _, runners := range f.running {
		for _, r := range runners {
			r.interrupt()
		}
	}
	for _, runners := range f.running {
		for _, r := range runners {
			r.stop()
		}
	}
	if f.sim != nil {
		f.sim.stop()
	}
	_ = os.RemoveAll(filepath.Dir(f.socket)) // temporary
}

// scale starts one runner for a pool if its queues have more for it than its runners can hold.
func (f *fleet) scale(pool string) error {
	if err := f.reap(pool); err != nil {
		return err
	}
	if f.total() >= f.runners || time.Now().Before(f.resume) {
		return nil
	}
	visible, all := f.messages(pool)
	if visible == 0 || len(f.running[pool]) >= all {
		return nil
	}
	return f.startRunner(pool)
}

func (f *fleet) total() (n int) {
	for _, r := range f.running {
		n += len(r)
	}
	return n
}

// reap forgets runners that ended. One that failed puts off the next; one whose command line or configuration is
// wrong is the end, since the next one's would be too.
func (f *fleet) reap(pool string) error {
	var left []*child
	for _, r := range f.running[pool] {
		if r.alive() {
			left = append(left, r)
			continue
		}
		if r.err == nil {
			f.failed = 0
			continue
		}
		if err := r.refusal(); err != nil {
			return err
		}
		wait := min(failurePause<<min(f.failed, 8), failureMost)
		f.failed++
		f.resume = time.Now().Add(wait)
		f.p.sayf("%s ended: %s; the next one starts in %s; see %s", r.name, r.state(), wait, r.logFile)
	}
	f.running[pool] = left
	return nil
}

// messages counts those of a pool. Queues that the watcher has yet to create have none.
func (f *fleet) messages(pool string) (visible, all int) {
	for _, name := range []string{queue.FastQueue(pool), queue.PoolQueue(pool)} {
		n, err := f.stack.SQS.Counts(name)
		if err != nil {
			continue
		}
		visible += n.Visible
		all += n.Visible + n.InFlight + n.Delayed
	}
	return visible, all
}

func (f *fleet) startRunner(pool string) error {
	engine, err := f.engineArgs(pool)
	if err != nil {
		return err
	}
	f.started++
	args := []string{"run", "--pool", pool, "--idle", f.idle.String(), "--pushgateway", f.gateway}
	args = slices.Concat(args, engine, f.configArgs())
	r, err := f.start(fmt.Sprintf("runner-%d", f.started), args...)
	if err == nil {
		f.running[pool] = append(f.running[pool], r)
	}
	return err
}

// engineArgs gives the arguments that choose a runner's engine. It starts the stand-in, again if it died, for a pool
// that has no other.
func (f *fleet) engineArgs(pool string) ([]string, error) {
	slots := []string{"--slots", fmt.Sprint(f.slots)}
	if len(f.engine) > 0 {
		return append(slots, f.engine...), nil
	}
	if f.pools.Pools[pool].Engine.Model != "" {
		return nil, nil
	}
	url := "unix://" + f.socket
	args := append(slots, "--engine-url", url)
	if f.sim != nil && f.sim.alive() {
		return args, nil
	}
	if err := os.Remove(f.socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove old socket: %w", err)
	}
	var err error
	f.sim, err = f.start("engine", simCommandName, "--listen", url, "--slots", fmt.Sprint(f.slots), "--time-scale", fmt.Sprint(f.simScale))
	return args, err
}

// verboseOnly is w, or nothing.
func verboseOnly(w io.Writer, verbose bool) io.Writer {
	if verbose {
		return w
	}
	return io.Discard
}
