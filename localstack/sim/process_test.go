package sim

import (
	"context"
	"time"

	"spool/runner"
	"spool/storage/finalize"
	"spool/storage/queue"
	"spool/watcher"
)

// watch keeps a watcher running, one after the other: some die, some are cron jobs.
func (w *world) watch(kind string, shardChunks int) {
	for w.ctx.Err() == nil {
		l, ctx := w.link(kind)
		err := w.watchOnce(ctx, l, shardChunks, w.dice.roll(l.name, "cron") < 0.3)
		l.kill()
		w.ended(l, err)
		_ = sleep(w.ctx, w.dice.between(time.Second, 20*time.Second, l.name, "restarts"))
	}
}

func (w *world) watchOnce(ctx context.Context, l *link, shardChunks int, cron bool) error {
	client := wire{l}.client(ctx)
	events, err := client.Open(ctx, queue.EventsQueue)
	if err != nil {
		return err
	}
	wa, err := watcher.New(watcher.Config{
		Bucket: l.bucket(), Deleter: l, BucketName: bucketName, Queues: watcher.SQS(client), Events: events,
		Finalizer: finalize.New(finalize.Config{Bucket: l.bucket(), By: l.name}),
		Pools:     []watcher.Pool{{Name: pool, ShardChunks: shardChunks}},
		Name:      l.name, TempDir: w.dir, QueueAhead: w.dice.in(1, 8, "queue ahead"), Log: w.log.Named(l.name),
	})
	if err != nil {
		return err
	}
	if cron {
		return wa.Scan(ctx)
	}
	return wa.Run(ctx)
}

// scale starts runners while there are messages, as KEDA does.
func (w *world) scale() {
	client := wire{&link{w: &world{t: w.t, queues: w.queues}, name: "keda", calls: map[string]int{}}}.client(w.ctx)
	for n := 0; sleep(w.ctx, w.dice.between(time.Second, 30*time.Second, "scale", n)) == nil; n++ {
		waiting := 0
		for _, name := range []string{queue.PoolQueue(pool), queue.FastQueue(pool)} {
			q, err := client.Open(w.ctx, name)
			if err != nil {
				continue
			}
			if c, err := q.Counts(w.ctx); err == nil {
				waiting += c.Visible
			}
		}
		w.mu.Lock()
		start := waiting > 0 && w.running < w.maxRunners
		if start {
			w.running++
		}
		w.mu.Unlock()
		if start {
			w.work.Go(w.runner)
		}
	}
}

// runner is a runner's life.
func (w *world) runner() {
	l, ctx := w.link("r")
	defer l.kill()
	err := w.runOnce(ctx, l)
	w.ended(l, err)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.running--
}

func (w *world) runOnce(ctx context.Context, l *link) error {
	client := wire{l}.client(ctx)
	fast, err := client.Open(ctx, queue.FastQueue(pool))
	if err != nil {
		return err
	}
	main, err := client.Open(ctx, queue.PoolQueue(pool))
	if err != nil {
		return err
	}
	cfg := runner.Config{
		Bucket: l.bucket(), Fast: fast, Main: main,
		Engines:   []runner.Engine{&engine{w: w, name: "e-" + l.name, wrong: w.wrong(l.name)}},
		Finalizer: finalize.New(finalize.Config{Bucket: l.bucket(), By: l.name}),
		Name:      l.name, Slots: w.dice.in(40, 300, "slots"), Scratch: w.dir, Log: w.log.Named(l.name),
	}
	if w.troubled() && w.dice.roll(l.name, "zombie") < 0.25 {
		l.zombie, cfg.LeaseTTL = true, 10*time.Minute // it believes in its lease long after the others do
	}
	if w.troubled() && w.dice.roll(l.name, "evicted") < 0.3 {
		var evict context.CancelFunc
		ctx, evict = context.WithTimeout(ctx, w.dice.between(10*time.Second, 8*time.Minute, l.name, "evicted after"))
		defer evict()
	}
	w.note("%s starts, zombie=%t", l.name, l.zombie)
	r, err := runner.New(cfg)
	if err != nil {
		return err
	}
	return r.Run(ctx)
}

// wrong reports whether a runner has the wrong model: at most two of a seed, since a third opinion stops batches.
func (w *world) wrong(name string) bool {
	return (name == "r-2" || name == "r-4") && w.dice.roll(name, "wrong") < 0.3
}

// users put, replace, cancel and delete files during the time of trouble.
func (w *world) users() {
	for file := range w.dice.in(2, 4, "files") {
		w.supply.Go(func() { w.user(file) })
	}
}

func (w *world) user(file int) {
	if sleep(w.ctx, w.dice.between(0, 6*time.Minute, "user", file, "comes")) != nil {
		return
	}
	in := w.makeInput(file, 0)
	w.upload(in, 0)
	for act := range w.dice.in(0, 3, "user", file, "acts") {
		if sleep(w.ctx, w.dice.between(0, 5*time.Minute, "user", file, act)) != nil {
			return
		}
		switch p := w.dice.roll("user", file, act, "what"); {
		case p < 0.3:
			w.cancel(in.key)
		case p < 0.5:
			in = w.makeInput(file, act+1)
			w.upload(in, 0)
		case p < 0.7:
			w.upload(in, 0)
		case p < 0.85:
			w.upload(in, act+1)
		default:
			if err := w.store.Delete(w.ctx, in.key); err != nil {
				w.t.Error(err)
			}
			w.note("delete %s", in.key)
		}
	}
}
