package lease_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"spool/storage"
	"spool/storage/lease"
	"spool/storage/memstore"
)

// flaky fails, delays and forgets replies at random, as seeded.
type flaky struct {
	storage.Bucket
	mu  *sync.Mutex
	rng *rand.Rand
}

func (f flaky) dice(n int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.rng.IntN(n)
}

func (f flaky) trouble(ctx context.Context) error {
	select {
	case <-time.After(time.Duration(f.dice(8000)) * time.Millisecond):
	case <-ctx.Done():
		return ctx.Err()
	}
	if f.dice(4) == 0 {
		return unavailable()
	}
	return nil
}

func (f flaky) Put(ctx context.Context, key string, body []byte, opt storage.PutOptions) (storage.Object, error) {
	if err := f.trouble(ctx); err != nil {
		return storage.Object{}, err
	}
	obj, err := f.Bucket.Put(ctx, key, body, opt)
	if err != nil {
		return obj, err
	}
	return obj, f.trouble(ctx)
}

func (f flaky) Head(ctx context.Context, key string) (storage.Object, error) {
	if err := f.trouble(ctx); err != nil {
		return storage.Object{}, err
	}
	return f.Bucket.Head(ctx, key)
}

// holders counts the live contexts of a lease.
type holders struct {
	mu      sync.Mutex
	live    map[string]context.Context
	tenures int
	both    []string
}

func (h *holders) add(ctx context.Context, owner string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for other, theirs := range h.live {
		if theirs.Err() == nil {
			h.both = append(h.both, other+" and "+owner)
		}
	}
	if ctx.Err() == nil {
		h.tenures++
	}
	h.live[owner] = ctx
}

func TestTwoHoldersNeverBothHaveLiveContexts(t *testing.T) {
	for seed := range uint64(30) {
		synctest.Test(t, func(t *testing.T) {
			store := flaky{memstore.New(memstore.Options{}), new(sync.Mutex), rand.New(rand.NewPCG(seed, 1))}
			h := &holders{live: map[string]context.Context{}}
			end := time.Now().Add(2 * time.Hour)
			var workers sync.WaitGroup
			for _, owner := range []string{"a", "b", "c"} {
				workers.Go(func() { contend(t, store, owner, h, end) })
			}
			workers.Wait()
			if len(h.both) > 0 {
				t.Errorf("seed %d: live at once: %v", seed, h.both)
			}
			if h.tenures < 10 {
				t.Errorf("seed %d: only %d tenures in two hours", seed, h.tenures)
			}
		})
	}
}

// contend takes the lease again and again, and leaves it in one of three ways: by release, by being
// fenced while it does not look (a zombie), or when the time is over.
func contend(t *testing.T, store flaky, owner string, h *holders, end time.Time) {
	for time.Now().Before(end) {
		ctx, l, err := lease.Acquire(context.Background(), lease.Config{Bucket: store, Key: key, Owner: owner})
		if err != nil {
			time.Sleep(time.Duration(store.dice(60)) * time.Second)
			continue
		}
		h.add(ctx, owner)
		work := time.Duration(store.dice(600)) * time.Second
		select {
		case <-time.After(work):
		case <-ctx.Done():
		}
		if store.dice(2) == 0 {
			time.Sleep(time.Duration(store.dice(300)) * time.Second) // a zombie that writes much later
		}
		if err := l.Release(context.Background()); err == nil && !errors.Is(context.Cause(ctx), lease.ErrReleased) && !errors.Is(context.Cause(ctx), lease.ErrLost) {
			t.Errorf("released, but the context ended by %v", context.Cause(ctx))
		}
	}
}

func TestOfManyWhoWantAFreeLeaseOneGetsIt(t *testing.T) {
	store := memstore.New(memstore.Options{})
	abandonReleased(t, store)
	var all sync.WaitGroup
	got := make(chan *lease.Lease, 16)
	for i := range 16 {
		all.Go(func() {
			_, l, err := lease.Acquire(t.Context(), lease.Config{Bucket: store, Key: key, Owner: string(rune('a' + i))})
			if err == nil {
				got <- l
			} else if _, held := errors.AsType[*lease.HeldError](err); !held {
				t.Errorf("got %v, want a HeldError", err)
			}
		})
	}
	all.Wait()
	close(got)
	n := 0
	for l := range got {
		n++
		if l.Gen() != 8 {
			t.Errorf("gen %d, want 8", l.Gen())
		}
		release(t, l)
	}
	if n != 1 {
		t.Errorf("%d hold it, want 1", n)
	}
}
