package vllmsim

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// seqs makes sequences with the given numbers of tokens.
func seqs(tokens ...int) []*sequence {
	out := make([]*sequence, len(tokens))
	for i, n := range tokens {
		out[i] = &sequence{prompt: 10, target: n, reason: reasonStop}
	}
	return out
}

// flat is an engine whose steps take 10 ms, however many sequences run.
func flat(slots int) pace {
	return pace{slots: slots, one: 10 * time.Millisecond, full: 10 * time.Millisecond}
}

// elapse lets fake time go by.
func elapse(d time.Duration) { <-time.After(d) }

func ignoreEnd(*sequence, time.Time) {}

func TestStepsTakeLongerTheMoreSequencesRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(pace{slots: 3, one: 10 * time.Millisecond, full: 30 * time.Millisecond}, ignoreEnd)
		start := time.Now()
		short, long := submit(e, seqs(4)), submit(e, seqs(10))
		<-short.done
		if got := time.Since(start); got != 80*time.Millisecond {
			t.Errorf("4 steps of two sequences took %v, want 80 ms", got)
		}
		<-long.done
		if got := time.Since(start); got != 140*time.Millisecond {
			t.Errorf("4 steps of two and 6 of one took %v, want 140 ms", got)
		}
	})
}

func TestPrefillHoldsUpWhatRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := flat(2)
		p.prefill = 5 * time.Millisecond
		e := newEngine(p, ignoreEnd)
		start := time.Now()
		first := submit(e, seqs(10))
		elapse(55 * time.Millisecond) // 5 of prefill, 5 steps
		second := submit(e, seqs(1))
		<-second.done
		if got := time.Since(start); got != 70*time.Millisecond {
			t.Errorf("second ended after %v, want 70 ms", got)
		}
		<-first.done
		if got := time.Since(start); got != 110*time.Millisecond {
			t.Errorf("first ended after %v, want 100 ms of steps and two prefills", got)
		}
	})
}

func TestQueueIsFirstComeFirstServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var started []int
		e := newEngine(flat(1), func(s *sequence, _ time.Time) { started = append(started, s.prompt) })
		var last *job
		for i := range 20 {
			s := seqs(1 + i%3)
			s[0].prompt = i
			last = submit(e, s)
		}
		<-last.done
		if !slices.IsSorted(started) || len(started) != 20 {
			t.Errorf("order %v, want that of submission", started)
		}
	})
}

func TestSlotsAreNeverExceededAndNeverLeftEmpty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const slots, jobs = 7, 200
		e := newEngine(flat(slots), ignoreEnd)
		rng := rand.New(rand.NewPCG(1, 2))
		var all []*job
		total := 0
		for range jobs {
			n := 1 + rng.IntN(50)
			total += n
			all = append(all, submit(e, seqs(n)))
			if s := e.snapshot(); s.running != min(slots, s.running+s.waiting) {
				t.Fatalf("%d run and %d wait in %d slots", s.running, s.waiting, slots)
			}
			elapse(time.Duration(rng.IntN(20)) * time.Millisecond)
		}
		for _, j := range all {
			<-j.done
		}
		s := e.snapshot()
		if s.maxRunning != slots || s.generatedTokens != total || s.promptTokens != 10*jobs {
			t.Errorf("max running %d, tokens %d + %d, want %d, %d + %d", s.maxRunning, s.promptTokens, s.generatedTokens, slots, 10*jobs, total)
		}
		if want := time.Duration(total) * 10 * time.Millisecond; (s.busy - want).Abs() > time.Millisecond {
			t.Errorf("slots were busy for %v, want %v", s.busy, want)
		}
		if s.active < s.full || s.full <= 0 {
			t.Errorf("active %v, full %v", s.active, s.full)
		}
	})
}

func TestCancelFreesSlotsAndPlacesInTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(flat(2), ignoreEnd)
		start := time.Now()
		running, queued, third := submit(e, seqs(100, 100)), submit(e, seqs(50)), submit(e, seqs(3))
		elapse(40 * time.Millisecond)
		e.cancel(queued)
		e.cancel(running)
		e.cancel(running)
		<-running.done
		<-queued.done
		<-third.done
		if got := time.Since(start); got != 70*time.Millisecond {
			t.Errorf("third ended after %v, want 40 + 30 ms", got)
		}
		for i, s := range running.seqs {
			if s.tokens != 4 || s.reason != reasonAbort {
				t.Errorf("sequence %d: %d tokens, reason %q, want 4, abort", i, s.tokens, s.reason)
			}
		}
		if s := queued.seqs[0]; s.tokens != 0 || s.reason != reasonAbort {
			t.Errorf("queued: %d tokens, reason %q, want 0, abort", s.tokens, s.reason)
		}
		if s := e.snapshot(); s.generatedTokens != 4+4+3 || s.running+s.waiting != 0 {
			t.Errorf("%d tokens, %d running, %d waiting, want 11, 0, 0", s.generatedTokens, s.running, s.waiting)
		}
	})
}

func TestTokenCounterMovesWhileGenerating(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(flat(4), ignoreEnd)
		j := submit(e, seqs(100, 100))
		for i := range 99 {
			elapse(10 * time.Millisecond)
			s := e.snapshot()
			if want := 2 * (i + 1); s.generatedTokens != want || s.cached != 20+want {
				t.Fatalf("after %d steps: %d tokens, %d cached, want %d, %d", i+1, s.generatedTokens, s.cached, want, 20+want)
			}
		}
		<-j.done
	})
}

func TestHungSequenceHoldsItsSlotAndMakesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(flat(2), ignoreEnd)
		hung := seqs(5)
		hung[0].hung = true
		j := submit(e, hung)
		<-submit(e, seqs(3)).done
		elapse(time.Hour)
		if s := e.snapshot(); s.running != 1 || s.generatedTokens != 3 {
			t.Errorf("%d running, %d tokens, want 1, 3", s.running, s.generatedTokens)
		}
		e.cancel(j)
		if s := e.snapshot(); s.running != 0 || s.generatedTokens != 3 {
			t.Errorf("after cancel: %d running, %d tokens, want 0, 3", s.running, s.generatedTokens)
		}
	})
}

func TestDrainWaitsAndHaltDoesNot(t *testing.T) {
	for _, halt := range []bool{false, true} {
		t.Run(fmt.Sprintf("halt=%v", halt), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEngine(flat(1), ignoreEnd)
				hung := seqs(1)
				running, waiting := submit(e, seqs(10)), submit(e, hung)
				hung[0].hung = halt
				idle := e.drain()
				if _, err := e.submit(seqs(1)); !errors.Is(err, errHalted) {
					t.Error("took a job while draining")
				}
				start, want, tokens := time.Now(), 110*time.Millisecond, 10
				if halt {
					elapse(25 * time.Millisecond)
					e.halt(reasonAbort)
					want, tokens = 25*time.Millisecond, 2
				}
				<-idle
				<-running.done
				<-waiting.done
				if got := time.Since(start); got != want || running.seqs[0].tokens != tokens {
					t.Errorf("idle after %v with %d tokens, want %v, %d", got, running.seqs[0].tokens, want, tokens)
				}
			})
		})
	}
}

func TestInstantEngineEndsJobsAtOnce(t *testing.T) {
	e := newEngine(Config{Instant: true, Slots: 2, TokenTime: time.Hour}.pace(), ignoreEnd)
	j := submit(e, seqs(5, 6, 7))
	select {
	case <-j.done:
	default:
		t.Fatal("job is not done when submit returns")
	}
	if s := e.snapshot(); s.generatedTokens != 18 || s.maxRunning != 2 || s.maxWaiting != 1 {
		t.Errorf("%d tokens, at most %d running, %d waiting, want 18, 2, 1", s.generatedTokens, s.maxRunning, s.maxWaiting)
	}
}

// BenchmarkChat asks the handler without a network: what a request costs besides net/http.
func BenchmarkChat(b *testing.B) {
	for _, busy := range []bool{false, true} {
		b.Run(fmt.Sprintf("busy=%v", busy), func(b *testing.B) {
			s, err := New(Config{Instant: !busy, Slots: 1024, TokenTime: time.Nanosecond, TokenTimeFull: 2 * time.Nanosecond}, nil)
			if err != nil {
				b.Fatal(err)
			}
			h := s.Handler()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					if w := ask(h, "POST", chatPath, chat(fmt.Sprint(i), "")); w.Code != 200 {
						b.Errorf("status %d", w.Code)
					}
				}
			})
		})
	}
}

// submit is engine.submit that is not refused.
func submit(e *engine, seqs []*sequence) *job {
	j, err := e.submit(seqs)
	if err != nil {
		panic(err)
	}
	return j
}
