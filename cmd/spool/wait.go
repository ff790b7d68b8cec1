package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sync/errgroup"

	"spool/storage"
)

// How wait waits.
const (
	appearWithin = time.Minute      // for an input that is not there yet: uploads take their time
	pickUpWithin = 2 * time.Minute  // before it says that nothing happens
	replaceGrace = 2 * time.Minute  // for signs of life of a batch whose input was replaced
	outageLimit  = 10 * time.Minute // of a store that fails all the time, retries of each call not counted
	pollEvery    = 2 * time.Second  // at first, growing to
	pollAtMost   = 10 * time.Second
)

func waitFlags() []cli.Flag {
	return []cli.Flag{&cli.DurationFlag{Name: "timeout", DefaultText: "for ever", Usage: "wait no longer than `TIME`, then exit 7"}}
}

// waitable refuses a --timeout that leaves no time.
func waitable(c *cli.Context) error {
	if !c.IsSet("timeout") {
		return nil
	}
	return positive(c, "timeout")
}

func (p *program) waitCommand() *cli.Command {
	return &cli.Command{
		Name:      "wait",
		Usage:     "wait for the end of batches; the exit code tells the outcome",
		ArgsUsage: "KEY...",
		Category:  forUsers,
		Description: "Waits for an input to appear (60 s, else it exits 8), and from then on for the batch that it means then, even if\n" +
			"the input is replaced. Exits 0 if all lines succeeded, 3 if some failed, 4 rejected, 5 cancelled, 6 expired,\n" +
			"7 time-out, 10 failed otherwise; of several KEYs, with the code of the first that is not 0.\n\n" +
			"Examples:\n   spool wait in/evals/prompts.jsonl --timeout 2h\n   spool wait in/a.jsonl in/b.jsonl --json | jq -r '.batches[].output_file_id'",
		Flags:  append(append(storeFlags(), waitFlags()...), jsonFlag()),
		Action: p.wait,
	}
}

func (p *program) wait(c *cli.Context) error {
	if err := waitable(c); err != nil {
		return err
	}
	r, err := p.openKeys(c, 1, -1)
	if err != nil {
		return err
	}
	defer r.close()
	return p.waitFor(c, p.newWaiter(c, r.finder, len(r.targets)), r.targets)
}

// waiter waits for batches.
type waiter struct {
	finder *finder
	say    func(format string, args ...any)
	show   progress
	pinned map[string]*found // by input key: batches that are known already
}

func (p *program) newWaiter(c *cli.Context, f *finder, batches int) *waiter {
	w := &waiter{finder: f, say: p.sayf, show: newLines(p.sayf)}
	if p.terminal && batches == 1 {
		p.bar = &bar{out: p.stderr}
		w.show = p.bar
	}
	return w
}

// waitFor waits for all targets, prints what became of them, and returns the first that did not end well.
func (p *program) waitFor(c *cli.Context, w *waiter, targets []target) error {
	ctx := c.Context
	if d := c.Duration("timeout"); c.IsSet("timeout") {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, d, failf(exitTimeout, "spool status shows how far it is", "not ended within %s", d))
		defer cancel()
	}
	views := make([]*view, len(targets))
	errs := make([]error, len(targets))
	var group errgroup.Group
	for i, t := range targets {
		group.Go(func() error {
			if views[i], errs[i] = w.wait(ctx, t); errs[i] != nil && explain(errs[i]).code == exitTimeout {
				errs[i] = fmt.Errorf("%s: %w", t, errs[i])
			}
			return nil
		})
	}
	_ = group.Wait() // its errors are in errs
	w.show.end()
	if err := p.waited(c, w.finder.name, views); err != nil {
		return err
	}
	if c.Context.Err() != nil && errors.Join(errs...) != nil {
		for _, err := range errs {
			if err != nil && !errors.Is(err, context.Canceled) {
				p.report(err)
			}
		}
		return interrupted(targets, views)
	}
	for i, v := range views {
		if errs[i] == nil {
			errs[i] = v.verdict(w.finder.name)
		}
	}
	return p.firstOf(errs)
}

// interrupted is the error of a wait that was interrupted before all batches had ended. What became of those that had was
// printed.
func interrupted(targets []target, views []*view) error {
	var keys []string
	for i, v := range views {
		if v != nil && v.ended == nil {
			keys = append(keys, targets[i].String())
		}
	}
	switch len(keys) {
	case 0:
		return failf(exitInterrupted, "", "interrupted")
	case 1:
		return failf(exitInterrupted, "spool wait "+keys[0]+", or spool cancel "+keys[0], "interrupted; the batch goes on")
	default:
		return failf(exitInterrupted, "spool wait "+strings.Join(keys, " ")+", or spool cancel KEY", "interrupted; the batches go on")
	}
}

// waited prints the batches as far as they are known.
func (p *program) waited(c *cli.Context, bucket string, views []*view) error {
	if c.Bool("json") {
		return p.printJSON(map[string]any{"batches": inStates(views, nil)})
	}
	for _, v := range views {
		if v == nil || v.ended == nil {
			continue
		}
		if err := p.printf("%s\t%s\ts3://%s/%s\n", v.State, v.Input, bucket, v.Output); err != nil {
			return err
		}
	}
	return nil
}

// firstOf says all errors but the first, which it returns.
func (p *program) firstOf(errs []error) error {
	var first error
	for _, err := range errs {
		switch {
		case err == nil:
		case first == nil:
			first = err
		default:
			p.report(err)
		}
	}
	return first
}

// wait waits for one batch. With an error, the view is what was known last; it may be nil.
func (w *waiter) wait(ctx context.Context, t target) (*view, error) {
	b := w.pinned[t.key]
	if b == nil {
		var err error
		if b, err = w.appear(ctx, t); err != nil {
			return nil, err
		}
	}
	return w.follow(ctx, b)
}

// appear waits for the input, and pins the batch that it means.
func (w *waiter) appear(ctx context.Context, t target) (*found, error) {
	began := time.Now()
	said := false
	for {
		b, err := w.pin(ctx, t)
		if err == nil || explain(err).code != exitNoInput || time.Since(began) >= appearWithin {
			return b, err
		}
		if !said {
			said = true
			w.say("%s: not there yet; waiting %s for it", t, appearWithin)
		}
		if err := pause(ctx, pollEvery); err != nil {
			if explain(err).code == exitTimeout {
				err = failf(exitTimeout, "spool list shows what is there", "not there, and so %w", err)
			}
			return nil, err
		}
	}
}

// pin finds the batch of an input that is there. An input that was deleted will not do, although status may know
// its last batch: it may be about to be uploaded anew.
func (w *waiter) pin(ctx context.Context, t target) (*found, error) {
	if t.id != "" {
		return w.finder.byID(ctx, t.id)
	}
	in, err := w.finder.bucket.Head(ctx, t.key)
	if storage.IsNotFound(err) {
		return nil, w.finder.noInput(ctx, t.key)
	}
	if err != nil {
		return nil, err
	}
	return w.finder.ofUpload(ctx, in)
}

// follow waits for the end of a batch.
func (w *waiter) follow(ctx context.Context, b *found) (*view, error) {
	f := follower{waiter: w, b: b, began: time.Now(), replaced: time.Time{}}
	for every := pollEvery; ; every = min(every*5/4, pollAtMost) {
		v := b.view()
		w.show.update(v)
		if b.object != nil {
			return v, nil
		}
		if err := f.alive(ctx); err != nil {
			return v, err
		}
		if err := pause(ctx, every); err != nil {
			return v, err
		}
		if err := f.look(ctx); err != nil {
			return v, err
		}
	}
}

// follower remembers since when things are as they are.
type follower struct {
	*waiter
	b        *found
	began    time.Time
	failing  time.Time // since when the store fails; zero if it does not
	replaced time.Time // since when the input is another one; zero if it is not known to be
	warned   bool
}

// look reads batch.json and status.json anew. What may pass is waited for.
func (f *follower) look(ctx context.Context) error {
	_, err := f.finder.loadObject(ctx, f.b)
	if err == nil {
		err = f.finder.loadStatus(ctx, f.b)
	}
	if err == nil {
		f.failing = time.Time{}
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if f.failing.IsZero() {
		f.failing = time.Now()
		f.say("%s: %v; waiting on", f.b.key, err)
	}
	if !storage.Temporary(err) || time.Since(f.failing) > outageLimit {
		return err
	}
	return nil
}

// alive says so when nothing picks the batch up, and ends the wait for one that never will be: its input
// was replaced before.
func (f *follower) alive(ctx context.Context) error {
	if f.b.status != nil || f.b.input == nil || time.Since(f.began) < pickUpWithin {
		return nil
	}
	if !f.warned {
		f.warned = true
		f.say("%s: nothing has picked it up for %s; is a watcher running? (spool doctor; spool watch)", f.b.key, pickUpWithin)
	}
	in, err := f.finder.bucket.Head(ctx, f.b.key)
	if err == nil && uploadID(f.finder.name, in, 0) == uploadID(f.finder.name, *f.b.input, 0) {
		f.replaced = time.Time{}
		return nil
	}
	if err != nil && !storage.IsNotFound(err) {
		return nil // look will meet it too
	}
	if f.replaced.IsZero() {
		f.replaced = time.Now()
	}
	if time.Since(f.replaced) < replaceGrace {
		return nil
	}
	return failf(exitNoInput, "wait for it again", "%s was replaced or deleted before its batch %s was picked up", f.b.key, f.b.id)
}

// pause waits, or tells why ctx ended.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
			return cause
		}
		return ctx.Err()
	}
}
