package sim

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"regexp"
	"strings"
	"sync"
	"time"

	"spool/storage"
	"spool/storage/batch"
	"spool/storage/storagetest"
)

// link is how one process reaches the store and the queues.
type link struct {
	w      *world
	name   string
	zombie bool // its heartbeats to the queue are lost
	killAt int  // the write at which the process dies, counted from 1; 0: none
	after  bool // it dies when that write has happened
	kill   context.CancelFunc

	mu     sync.Mutex
	calls  map[string]int
	writes int
	dead   bool
}

var (
	_ storage.Bucket  = (*link)(nil)
	_ storage.Deleter = (*link)(nil)
)

// What may happen to a call.
type fault int

const (
	none   fault = iota
	before       // it fails, and nothing happened
	after        // it happened, and the reply is lost
	late         // it fails, and happens within minutes
)

// unique is what is random in keys: staging folders and the names of probes.
var unique = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f-]{27}`)

// ask counts a call and says its number, which with its name is the question to the dice.
func (l *link) ask(op, key string) string {
	key = unique.ReplaceAllString(key, "*")
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls[op+key]++
	return fmt.Sprint(l.name, " ", op, " ", key, " ", l.calls[op+key])
}

// enter lets a call take its time, and says what is to happen to it.
func (l *link) enter(ctx context.Context, op, key string) (fault, error) {
	if l.isDead() {
		return none, storagetest.Denied(op, key)
	}
	if strings.Contains(key, "/probe/") {
		return none, nil // what the probe makes of faults is tested where it is
	}
	q := l.ask(op, key)
	took := l.w.dice.between(time.Millisecond, 40*time.Millisecond, q, "takes")
	if l.w.troubled() && l.w.dice.roll(q, "slow") < l.w.slowness {
		took = l.w.dice.between(time.Second, 40*time.Second, q, "slow")
	}
	if l.w.troubled() && strings.Contains(key, l.w.sticky) && l.w.dice.roll(q, "sticky") < 0.5 {
		took = l.w.dice.between(time.Second, 25*time.Second, q, "sticky")
	}
	if err := sleep(ctx, took); err != nil {
		return none, fmt.Errorf("%s %q: %w", op, key, err)
	}
	if l.isDead() {
		return none, storagetest.Denied(op, key)
	}
	if during(l.w.storeOut, time.Now()) {
		return before, l.w.outage(op, key)
	}
	return l.draw(op, key, q)
}

// draw throws the dice.
func (l *link) draw(op, key, q string) (fault, error) {
	if !l.w.troubled() || l.w.dice.roll(q, "fails") >= l.w.storeFaults {
		return none, nil
	}
	kind := storagetest.Unavailable
	if l.w.dice.roll(q, "kind") < 0.3 && op != storagetest.OpGet && op != storagetest.OpHead && op != storagetest.OpList {
		kind = storagetest.Conflict
	}
	switch p := l.w.dice.roll(q, "when"); {
	case p < 0.4:
		return before, kind(op, key)
	case p < 0.6:
		return after, storagetest.Lost(op, key)
	case p < 0.8:
		return after, storagetest.Unavailable(op, key)
	}
	return late, storagetest.Unavailable(op, key)
}

// write does a write, unless the process dies before it or the dice say no.
func (l *link) write(ctx context.Context, op, key string, do func(context.Context) (storage.Object, error)) (storage.Object, error) {
	f, failure := l.enter(ctx, op, key)
	if failure != nil && f == none || f == before {
		return storage.Object{}, failure
	}
	if l.dies(key, false) {
		return storage.Object{}, storagetest.Denied(op, key)
	}
	if f == late {
		l.w.later(l.w.dice.between(time.Second, 3*time.Minute, l.ask(op, key), "late"), func() {
			_, _ = do(context.Background()) // nobody hears what became of it
		})
		return storage.Object{}, failure
	}
	obj, err := do(ctx)
	if err != nil {
		return storage.Object{}, err
	}
	l.w.wrote(key)
	if l.dies(key, true) {
		return storage.Object{}, storagetest.Denied(op, key)
	}
	return obj, failure
}

// dies counts a write, and reports whether it is the process's last moment.
func (l *link) dies(key string, after bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if strings.Contains(key, "/probe/") {
		return l.dead
	}
	if !after {
		l.writes++
	}
	if l.writes == l.killAt && l.after == after && !l.dead {
		l.dead = true
		l.w.note("%s killed at write %d of %s, after=%t", l.name, l.writes, key, after)
		l.kill()
	}
	return l.dead
}

func (l *link) isDead() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dead
}

// Put stores in one request. The lease of a zombie does not tell that it believes in it for longer.
func (l *link) Put(ctx context.Context, key string, body []byte, opt storage.PutOptions) (storage.Object, error) {
	body = bytes.Clone(body)
	if l.zombie && strings.HasSuffix(key, "/lease.json") {
		body = bytes.Replace(body, []byte(`,"ttl":600`), nil, 1)
	}
	return l.write(ctx, storagetest.OpPut, key, func(ctx context.Context) (storage.Object, error) {
		return l.w.store.Put(ctx, key, body, opt)
	})
}

// Upload stores what r yields; objects here are small.
func (l *link) Upload(ctx context.Context, key string, r io.Reader, opt storage.PutOptions) (storage.Object, error) {
	body, err := io.ReadAll(r)
	if err != nil {
		return storage.Object{}, fmt.Errorf("upload %q: read source: %w", key, err)
	}
	return l.write(ctx, storagetest.OpUpload, key, func(ctx context.Context) (storage.Object, error) {
		return l.w.store.Upload(ctx, key, bytes.NewReader(body), opt)
	})
}

// Delete is a write, which needs no second try to be done.
func (l *link) Delete(ctx context.Context, key string) error {
	_, err := l.write(ctx, storagetest.OpDelete, key, func(ctx context.Context) (storage.Object, error) {
		return storage.Object{}, l.w.store.Delete(ctx, key)
	})
	return err
}

// Get opens an object, whose body may break off.
func (l *link) Get(ctx context.Context, key string, opt storage.GetOptions) (io.ReadCloser, storage.Object, error) {
	f, err := l.enter(ctx, storagetest.OpGet, key)
	if err != nil && f != after {
		return nil, storage.Object{}, err
	}
	r, obj, getErr := l.w.store.Get(ctx, key, opt)
	if getErr != nil || f != after {
		return r, obj, getErr
	}
	q := l.ask("tear", key)
	at := int64(l.w.dice.roll(q, "at") * float64(obj.Size))
	torn := &storagetest.Torn{Bucket: opened{r: r, obj: obj}, At: at, Times: 1, Quiet: l.w.dice.roll(q, "quiet") < 0.5}
	return torn.Get(ctx, key, opt)
}

// opened is a store whose Get was done already.
type opened struct {
	storage.Bucket
	r   io.ReadCloser
	obj storage.Object
}

func (o opened) Get(context.Context, string, storage.GetOptions) (io.ReadCloser, storage.Object, error) {
	return o.r, o.obj, nil
}

// Head describes an object.
func (l *link) Head(ctx context.Context, key string) (storage.Object, error) {
	if _, err := l.enter(ctx, storagetest.OpHead, key); err != nil {
		return storage.Object{}, err
	}
	return l.w.store.Head(ctx, key)
}

// List may break off.
func (l *link) List(ctx context.Context, prefix, startAfter string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		f, err := l.enter(ctx, storagetest.OpList, prefix)
		if err != nil && f != after {
			yield(storage.Object{}, err)
			return
		}
		n := 0
		for obj, listErr := range l.w.store.List(ctx, prefix, startAfter) {
			if n++; err != nil && n > 3 {
				break
			}
			if !yield(obj, listErr) {
				return
			}
		}
		if err != nil {
			yield(storage.Object{}, storagetest.Unavailable(storagetest.OpList, prefix))
		}
	}
}

// once reports whether a key is never to be written a second time, by storage/FORMAT.md.
func once(key string) bool {
	rest, ok := strings.CutPrefix(key, batch.SysPrefix+"b/")
	if ok {
		_, rest, _ = strings.Cut(rest, "/")
		return rest != "sent.json" && !strings.HasPrefix(rest, "r/") && !strings.HasSuffix(rest, "/lease.json")
	}
	for _, name := range []string{batch.OutputName, batch.ErrorsName, batch.InvalidName, batch.ObjectName} {
		if strings.HasPrefix(key, batch.OutPrefix) && strings.HasSuffix(key, "/"+name) {
			return true
		}
	}
	return strings.HasPrefix(key, batch.EndedPrefix)
}

// sleep lets virtual time pass.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
