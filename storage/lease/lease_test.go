package lease_test

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"spool/storage"
	"spool/storage/lease"
	"spool/storage/memstore"
)

const key = "sys/v1/b/b1/s/00000/lease.json"

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestFirstHolderCreatesTheRecordAndRenewsItEvery20Seconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memstore.New(memstore.Options{})
		ctx, l := acquire(t, store, "a")
		defer release(t, l)
		if l.Gen() != 1 || l.Predecessor() != (lease.Predecessor{}) || l.Notes() != nil {
			t.Errorf("gen %d, predecessor %+v, notes %s; want 1 and nothing", l.Gen(), l.Predecessor(), l.Notes())
		}
		time.Sleep(10*time.Minute + time.Second)
		if ctx.Err() != nil {
			t.Fatalf("context ended: %v", context.Cause(ctx))
		}
		want := lease.Record{V: 1, Gen: 1, Owner: "a", State: lease.Held, Renewed: 30}
		o := read(t, store)
		if diff := cmp.Diff(want, o.Record); diff != "" {
			t.Errorf("record (-want +got):\n%s", diff)
		}
		if o.Age != time.Second || !o.Fresh() {
			t.Errorf("age %s, fresh %v; want 1s, true", o.Age, o.Fresh())
		}
	})
}

func TestFreshLeaseOfAnotherIsRefusedWithItsOwnerAndAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memstore.New(memstore.Options{})
		_, l := acquire(t, store, "a")
		defer release(t, l)
		time.Sleep(7 * time.Second)
		_, _, err := lease.Acquire(t.Context(), lease.Config{Bucket: store, Key: key, Owner: "b"})
		held, ok := errors.AsType[*lease.HeldError](err)
		if !ok {
			t.Fatalf("got %v, want a HeldError", err)
		}
		want := lease.HeldError{Key: key, Owner: "a", Gen: 1, Age: 7 * time.Second, Remaining: 83 * time.Second}
		if *held != want {
			t.Errorf("got %+v, want %+v", *held, want)
		}
	})
}

func TestReleasedLeaseIsTakenAtOnceWithItsNotes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memstore.New(memstore.Options{})
		ctx, l := acquire(t, store, "a")
		if err := l.SetNotes(t.Context(), json.RawMessage(`{"strikes":{"7":1}}`)); err != nil {
			t.Fatal(err)
		}
		release(t, l)
		release(t, l) // twice is once
		if !errors.Is(context.Cause(ctx), lease.ErrReleased) {
			t.Errorf("cause %v, want ErrReleased", context.Cause(ctx))
		}
		if o := read(t, store); o.Record.State != lease.Released || o.Fresh() || o.Record.Renewed != 2 {
			t.Errorf("got %+v; want released by the third write of the tenure", o.Record)
		}
		_, next := acquire(t, store, "b")
		defer release(t, next)
		if want := (lease.Predecessor{Owner: "a", Gen: 1}); next.Predecessor() != want || next.Gen() != 2 {
			t.Errorf("gen %d, predecessor %+v; want 2, %+v", next.Gen(), next.Predecessor(), want)
		}
		if got := string(next.Notes()); got != `{"strikes":{"7":1}}` {
			t.Errorf("notes %s", got)
		}
	})
}

func TestStaleLeaseIsStolenAfterTheTTLAndNotBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memstore.New(memstore.Options{})
		abandon(t, store, "a")
		time.Sleep(89 * time.Second)
		if _, _, err := lease.Acquire(t.Context(), lease.Config{Bucket: store, Key: key, Owner: "b"}); err == nil {
			t.Fatal("taken after 89 s")
		}
		time.Sleep(time.Second)
		_, l := acquire(t, store, "b")
		defer release(t, l)
		want := lease.Predecessor{Owner: "a", Gen: 1, Crashed: true, Age: 90 * time.Second}
		if l.Gen() != 2 || l.Predecessor() != want || string(l.Notes()) != `{"from":"a"}` {
			t.Errorf("gen %d, predecessor %+v, notes %s; want 2, %+v", l.Gen(), l.Predecessor(), l.Notes(), want)
		}
	})
}

func TestALeaseIsHeldAsLongAsItsHolderSays(t *testing.T) {
	for name, tc := range map[string]struct {
		holder, other time.Duration
		recorded      int64
		stale         time.Duration
	}{
		"longer than another's":  {10 * time.Minute, 0, 600, 10 * time.Minute},
		"shorter than another's": {9 * time.Second, 10 * time.Minute, 9, 9 * time.Second},
		"of parts of a second":   {9*time.Second + 1, 0, 10, 10 * time.Second},
		"the default":            {0, 10 * time.Minute, 0, 90 * time.Second},
		"about the default":      {90*time.Second - 1, 9 * time.Second, 0, 90 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := &hooked{Bucket: memstore.New(memstore.Options{})}
				ctx, _, err := lease.Acquire(t.Context(), lease.Config{Bucket: store, Key: key, Owner: "a", TTL: tc.holder})
				if err != nil {
					t.Fatal(err)
				}
				renewed := time.Now()
				store.set(func(h *hooked) { h.before = func(context.Context) error { return unavailable() } })
				<-ctx.Done()
				time.Sleep(tc.stale - time.Second - time.Since(renewed))
				store.set(func(h *hooked) { h.before = nil })
				if o := read(t, store); o.Record.TTL != tc.recorded || !o.Fresh() {
					t.Errorf("recorded %d, fresh %t a second before the end; want %d, true", o.Record.TTL, o.Fresh(), tc.recorded)
				}
				other := lease.Config{Bucket: store, Key: key, Owner: "b", TTL: tc.other}
				_, _, err = lease.Acquire(t.Context(), other)
				if held, ok := errors.AsType[*lease.HeldError](err); !ok || held.Remaining != time.Second {
					t.Fatalf("got %v, want held for another second", err)
				}
				time.Sleep(time.Second)
				if read(t, store).Fresh() {
					t.Error("fresh after the TTL")
				}
				_, l, err := lease.Acquire(t.Context(), other)
				if err != nil {
					t.Fatal(err)
				}
				release(t, l)
			})
		})
	}
}

func TestATTLThatMakesNoSenseDoesNoHarm(t *testing.T) {
	for ttl, fresh := range map[int64]bool{-1: false, math.MaxInt64: true} {
		o := lease.Observed{Record: lease.Record{State: lease.Held, TTL: ttl}, Age: lease.DefaultTTL}
		if o.Fresh() != fresh {
			t.Errorf("ttl %d: fresh %t after the default, want %t", ttl, o.Fresh(), fresh)
		}
	}
}

func TestStoreWithAnotherClockChangesNothing(t *testing.T) {
	for _, skew := range []time.Duration{-time.Hour, time.Hour} {
		t.Run(skew.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := memstore.New(memstore.Options{Clock: func() time.Time { return time.Now().Add(skew) }})
				ctx, l := acquire(t, store, "a")
				time.Sleep(5*time.Minute + 10*time.Second)
				_, _, err := lease.Acquire(t.Context(), lease.Config{Bucket: store, Key: key, Owner: "b"})
				held, ok := errors.AsType[*lease.HeldError](err)
				if !ok || held.Age != 10*time.Second || ctx.Err() != nil {
					t.Fatalf("got %v, context %v; want held for 10 s, and alive", err, ctx.Err())
				}
				release(t, l)
				_, l = acquire(t, store, "b")
				release(t, l)
			})
		})
	}
}

func TestStoreThatIsDownForAMinuteLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &hooked{Bucket: memstore.New(memstore.Options{})}
		ctx, l := acquire(t, store, "a")
		defer release(t, l)
		down := func(context.Context) error { return unavailable() }
		store.set(func(h *hooked) { h.before, h.head = down, down })
		time.Sleep(65 * time.Second)
		store.set(func(h *hooked) { h.before, h.head = nil, nil })
		time.Sleep(time.Hour)
		if ctx.Err() != nil {
			t.Fatalf("context ended: %v", context.Cause(ctx))
		}
		if o := read(t, store); !o.Fresh() || o.Record.Gen != 1 {
			t.Errorf("got %+v, age %s; want it fresh", o.Record, o.Age)
		}
	})
}

func TestHolderThatCannotRenewStopsAfter75Seconds(t *testing.T) {
	hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	refuse := func(context.Context) error { return unavailable() }
	for name, fault := range map[string]func(context.Context) error{"refuses": refuse, "hangs": hang} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := &hooked{Bucket: memstore.New(memstore.Options{})}
				start := time.Now()
				ctx, l := acquire(t, store, "a")
				store.set(func(h *hooked) { h.before, h.head = fault, fault })
				<-ctx.Done()
				if got := time.Since(start); got != 75*time.Second || !errors.Is(context.Cause(ctx), lease.ErrLost) {
					t.Errorf("ended after %s by %v; want 75s, ErrLost", got, context.Cause(ctx))
				}
				// Nobody took it: once the store is back it can still be released.
				store.set(func(h *hooked) { h.before, h.head = nil, nil })
				release(t, l)
				if o := read(t, store); o.Record.State != lease.Released {
					t.Errorf("state %q, want released", o.Record.State)
				}
			})
		})
	}
}

func TestSlowRenewalCountsFromBeforeItWasSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &hooked{Bucket: memstore.New(memstore.Options{})}
		start := time.Now()
		ctx, l := acquire(t, store, "a")
		defer release(t, l)
		// The renewal at 20 s is stored at once, its reply takes 9 s; then the store is gone.
		down := func(context.Context) error { return unavailable() }
		store.set(func(h *hooked) {
			h.after = func() error {
				time.Sleep(9 * time.Second)
				store.set(func(h *hooked) { h.before, h.head = down, down })
				return nil
			}
		})
		<-ctx.Done()
		if got := time.Since(start); got != 95*time.Second {
			t.Errorf("fenced after %s, want 95s: 75s after the renewal was sent", got)
		}
		store.set(func(h *hooked) { h.before, h.after, h.head = nil, nil, nil })
	})
}

func TestLostRepliesOfRenewalsAreNoLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &hooked{Bucket: memstore.New(memstore.Options{})}
		ctx, l := acquire(t, store, "a")
		// For 50 s every write lands and nothing is ever answered: neither put id nor ETag can be learnt.
		down := func(context.Context) error { return unavailable() }
		store.set(func(h *hooked) { h.after, h.head = unavailable, down })
		time.Sleep(50 * time.Second)
		landed := read(t, store).Record.Renewed
		store.set(func(h *hooked) { h.after, h.head = nil, nil })
		time.Sleep(10 * time.Minute)
		if ctx.Err() != nil || landed == 0 {
			t.Fatalf("context %v, %d lost replies; want it alive, and some", context.Cause(ctx), landed)
		}
		release(t, l)
	})
}

func TestNotesWhoseReplyWasLostAreStoredByTheNextRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &hooked{Bucket: memstore.New(memstore.Options{})}
		_, l := acquire(t, store, "a")
		defer release(t, l)
		down := func(context.Context) error { return unavailable() }
		store.set(func(h *hooked) { h.before, h.head = down, down })
		err := l.SetNotes(t.Context(), json.RawMessage(`[1]`))
		if storage.KindOf(err) != storage.KindUnavailable || errors.Is(err, lease.ErrLost) {
			t.Errorf("got %v, want unavailable and not lost", err)
		}
		store.set(func(h *hooked) { h.before, h.head = nil, nil })
		time.Sleep(30 * time.Second)
		if got := string(read(t, store).Record.Notes); got != "[1]" {
			t.Errorf("stored notes %q, want [1]", got)
		}
		if err := l.SetNotes(t.Context(), json.RawMessage(`{`)); err == nil || string(l.Notes()) != "[1]" {
			t.Errorf("notes that are not JSON: error %v, notes %s", err, l.Notes())
		}
	})
}

func TestHolderWhoseRecordIsTakenLearnsItAtTheNextWrite(t *testing.T) {
	taken := []byte(`{"v":1,"gen":2,"owner":"b","state":"held","renewed":0}`)
	for name, take := range map[string]func(*memstore.Store) error{
		"replaced": func(s *memstore.Store) error {
			_, err := s.Put(context.Background(), key, taken, storage.PutOptions{})
			return err
		},
		"deleted": func(s *memstore.Store) error { return s.Delete(context.Background(), key) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := memstore.New(memstore.Options{})
				start := time.Now()
				ctx, l := acquire(t, store, "a")
				if err := take(store); err != nil {
					t.Fatal(err)
				}
				<-ctx.Done()
				if got := time.Since(start); got != 20*time.Second || !errors.Is(context.Cause(ctx), lease.ErrLost) {
					t.Errorf("ended after %s by %v; want 20s, ErrLost", got, context.Cause(ctx))
				}
				if err := l.SetNotes(t.Context(), nil); !errors.Is(err, lease.ErrLost) {
					t.Errorf("SetNotes: %v, want ErrLost", err)
				}
				if err := l.Release(t.Context()); !errors.Is(err, lease.ErrLost) {
					t.Errorf("Release: %v, want ErrLost", err)
				}
				if body, _, err := storage.ReadAll(t.Context(), store, key); name == "replaced" && string(body) != string(taken) {
					t.Errorf("the successor's record became %s (%v)", body, err)
				}
			})
		})
	}
}

func TestEndOfTheCallersContextEndsTheLeaseContextAndReleaseStillWorks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memstore.New(memstore.Options{})
		cause := errors.New("terminated")
		parent, cancel := context.WithCancelCause(t.Context())
		ctx, l, err := lease.Acquire(parent, lease.Config{Bucket: store, Key: key, Owner: "a"})
		if err != nil {
			t.Fatal(err)
		}
		cancel(cause)
		<-ctx.Done()
		if context.Cause(ctx) != cause {
			t.Errorf("cause %v, want %v", context.Cause(ctx), cause)
		}
		release(t, l)
		if o := read(t, store); o.Record.State != lease.Released {
			t.Errorf("state %q, want released", o.Record.State)
		}
	})
}

func TestOwnerTakesOverWhatItsLostAcquireLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &hooked{Bucket: memstore.New(memstore.Options{})}
		down := func(context.Context) error { return unavailable() }
		store.set(func(h *hooked) { h.after, h.head = unavailable, down })
		if _, _, err := lease.Acquire(t.Context(), lease.Config{Bucket: store, Key: key, Owner: "a"}); err == nil {
			t.Fatal("acquired without an answer")
		}
		store.set(func(h *hooked) { h.after, h.head = nil, nil })
		_, l := acquire(t, store, "a")
		defer release(t, l)
		if l.Gen() != 2 {
			t.Errorf("gen %d, want 2", l.Gen())
		}
	})
}

func TestUnreadableRecordIsRespectedWhileFreshAndReplacedWhenStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memstore.New(memstore.Options{})
		if _, err := store.Put(t.Context(), key, []byte(`{"v":`), storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, _, err := lease.Acquire(t.Context(), lease.Config{Bucket: store, Key: key, Owner: "a"}); err == nil {
			t.Fatal("taken while fresh")
		}
		time.Sleep(90 * time.Second)
		_, l := acquire(t, store, "a")
		release(t, l)
		if l.Gen() != 1 {
			t.Errorf("gen %d, want 1", l.Gen())
		}
	})
}

func TestRecordOfANewerVersionIsNeverTouched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memstore.New(memstore.Options{})
		if _, err := store.Put(t.Context(), key, []byte(`{"v":2}`), storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		_, _, err := lease.Acquire(t.Context(), lease.Config{Bucket: store, Key: key, Owner: "a"})
		if err == nil || store.Writes(key) != 1 {
			t.Errorf("error %v, %d writes; want an error and 1", err, store.Writes(key))
		}
	})
}

func TestUnusableConfigIsRefused(t *testing.T) {
	store := memstore.New(memstore.Options{})
	for name, cfg := range map[string]lease.Config{
		"no bucket": {Key: key, Owner: "a"},
		"no key":    {Bucket: store, Owner: "a"},
		"no owner":  {Bucket: store, Key: key},
		"short ttl": {Bucket: store, Key: key, Owner: "a", TTL: 8 * time.Second},
	} {
		if _, _, err := lease.Acquire(t.Context(), cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if store.Writes(key) != 0 {
		t.Errorf("%d writes, want 0", store.Writes(key))
	}
}
