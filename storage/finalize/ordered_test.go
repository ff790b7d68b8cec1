package finalize

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func parts(ps ...part) iter.Seq[part] { return slices.Values(ps) }

// texts makes a part of lines, numbered from first.
func texts(first int64, lines ...string) part {
	return func(_ context.Context, emit func(int64, []byte) error) error {
		for i, l := range lines {
			if err := emit(first+int64(i), []byte(l)); err != nil {
				return err
			}
		}
		return nil
	}
}

func collect(o *ordered) (string, error) {
	defer o.close()
	var b strings.Builder
	for {
		l, err := o.next()
		if err != nil {
			return b.String(), err
		}
		fmt.Fprintf(&b, "%d %s", l.number, l.text)
	}
}

func TestOrderedKeepsOrderWhoeverIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ps []part
		var want strings.Builder
		long := strings.Repeat("x", blockSize/3)
		for i := range int64(20) {
			p := texts(10*i, "a", long, "", long, "b")
			ps = append(ps, func(ctx context.Context, emit func(int64, []byte) error) error {
				time.Sleep(time.Duration(i*7%5) * time.Second) // of the bubble
				return p(ctx, emit)
			})
			fmt.Fprintf(&want, "%d a\n%d %s\n%d \n%d %s\n%d b\n", 10*i, 10*i+1, long, 10*i+2, 10*i+3, long, 10*i+4)
		}
		got, err := collect(newOrdered(t.Context(), parts(ps...)))
		if err != io.EOF || got != want.String() {
			t.Errorf("%d bytes, %v; want %d bytes, EOF", len(got), err, want.Len())
		}
	})
}

func TestOrderedGivesTheErrorOfThePartThatFailed(t *testing.T) {
	broken := func(_ context.Context, emit func(int64, []byte) error) error {
		return errors.Join(emit(2, []byte("b")), errDead)
	}
	o := newOrdered(t.Context(), parts(texts(1, "a"), broken, texts(3, "c")))
	got, err := collect(o)
	if got != "1 a\n" || !errors.Is(err, errDead) {
		t.Errorf("%q, %v; want the line before the broken part and its error", got, err)
	}
	if _, err := o.next(); !errors.Is(err, errDead) {
		t.Errorf("asked again: %v, want the same error", err)
	}
}

func TestOrderedDoesNotEndWellWhenItIsCancelled(t *testing.T) {
	for name, after := range map[string]int{"at once": 0, "in the middle": 3} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			endless := func(yield func(part) bool) {
				for yield(texts(1, "a")) {
				}
			}
			o := newOrdered(ctx, endless)
			defer o.close()
			for range after {
				if _, err := o.next(); err != nil {
					t.Fatal(err)
				}
			}
			cancel(errDead)
			var err error
			for err == nil {
				_, err = o.next()
			}
			if !errors.Is(err, errDead) {
				t.Errorf("next = %v, want the cause", err)
			}
		})
	}
}

func TestOrderedReadsAheadButNotFar(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 100 << 10
		var emitted atomic.Int64
		endless := func(ctx context.Context, emit func(int64, []byte) error) error {
			text := make([]byte, size)
			for i := int64(1); ; i++ {
				if err := emit(i, text); err != nil {
					return err
				}
				emitted.Add(size)
			}
		}
		o := newOrdered(t.Context(), func(yield func(part) bool) {
			for yield(endless) {
			}
		})
		synctest.Wait() // all are blocked
		got := emitted.Load()
		if most := int64(aheadParts * (aheadBlocks + 1) * blockSize); got > most || got < most/2 {
			t.Errorf("%d bytes were read ahead, want about %d", got, most)
		}
		o.close()
	})
}
