package watcher

import (
	"context"
	"sync"
)

// smallFile is the most bytes of a file that is validated in the lane of small ones.
const smallFile = 4 << 20

// smallAtOnce is how many small files are looked at at once: mostly they wait for the store.
const smallAtOnce = 8

// backlog runs one function for keys, each key at most once at a time, and so many keys at once. Large
// files have a lane of their own, so that small ones never wait for them. A key that is added while its
// function runs is run once more after that.
type backlog struct {
	run func(ctx context.Context, key string)

	mu    sync.Mutex
	idle  *sync.Cond       // no lane runs
	tasks map[string]*task // waiting or running
	small lane
	large lane
}

type task struct {
	key     string
	run     func() // under the context of the Run or Scan that asked for it, which also waits for it
	running bool
	again   bool
}

type lane struct {
	limit   int
	running int
	waiting []*task
}

func newBacklog(large int, run func(context.Context, string)) *backlog {
	b := &backlog{
		run: run, tasks: map[string]*task{},
		small: lane{limit: smallAtOnce}, large: lane{limit: large},
	}
	b.idle = sync.NewCond(&b.mu)
	return b
}

// add asks for key, whose object has size bytes.
func (b *backlog) add(ctx context.Context, key string, size int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if t := b.tasks[key]; t != nil {
		t.again = t.again || t.running
		return
	}
	t := &task{key: key, run: func() { b.run(ctx, key) }}
	b.tasks[key] = t
	l := &b.small
	if size > smallFile {
		l = &b.large
	}
	l.waiting = append(l.waiting, t)
	if l.running < l.limit {
		l.running++
		go b.work(l)
	}
}

// wait returns when nothing is left to do, and no goroutine is left to do it.
func (b *backlog) wait() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.small.running+b.large.running > 0 {
		b.idle.Wait()
	}
}

// work runs the tasks of a lane until there are none.
func (b *backlog) work(l *lane) {
	for t := b.next(l, nil); t != nil; t = b.next(l, t) {
		t.run()
	}
}

// next ends a task, and gives the next one of the lane.
func (b *backlog) next(l *lane, ended *task) *task {
	b.mu.Lock()
	defer b.mu.Unlock()
	if ended != nil {
		delete(b.tasks, ended.key)
		if ended.again {
			ended.running, ended.again = false, false
			b.tasks[ended.key] = ended
			l.waiting = append(l.waiting, ended)
		}
	}
	if len(l.waiting) == 0 {
		l.running--
		b.idle.Broadcast()
		return nil
	}
	t := l.waiting[0]
	l.waiting[0], l.waiting = nil, l.waiting[1:]
	t.running = true
	return t
}
