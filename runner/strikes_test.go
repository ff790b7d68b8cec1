package runner

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"spool/runner/vllm"
	"spool/storage/batch"
	"spool/storage/lease"
	"spool/storage/memstore"
)

// poison is what kills the engines that get one of its lines, a moment later, with all that is in flight.
// They are back after half a minute.
type poison struct {
	lines []int
	death *vllm.Answer // what those get that are in flight
	died  func(deaths int)

	mu     sync.Mutex
	crowds []map[int]bool // the lines in flight at each death
}

// feedTo makes e an engine that the poison kills.
func (p *poison) feedTo(e *wired) {
	var mu sync.Mutex
	var back time.Time
	dead := make(chan struct{})
	e.down = func() bool {
		mu.Lock()
		defer mu.Unlock()
		return time.Now().Before(back)
	}
	e.do = func(ctx context.Context, line, _ int) *vllm.Answer {
		mu.Lock()
		now := dead
		mu.Unlock()
		if !slices.Contains(p.lines, line) {
			select {
			case <-now:
				return p.death
			case <-time.After(time.Second):
				return nil
			case <-ctx.Done():
				return nil
			}
		}
		pause(ctx, time.Millisecond)
		mu.Lock()
		defer mu.Unlock()
		if now == dead {
			p.kill(e)
			back = time.Now().Add(30 * time.Second)
			close(dead)
			dead = make(chan struct{})
		}
		return p.death
	}
}

func (p *poison) kill(e *wired) {
	e.mu.Lock()
	crowd := maps.Clone(e.inFlight)
	e.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.crowds = append(p.crowds, crowd)
	if p.died != nil {
		p.died(len(p.crowds))
	}
}

// wantIsolated checks that the line was in every crowd, each of which was a quarter of the one before at most, and of
// lines only that had been in the first, until it was alone. How many deaths that takes is chance: which suspects
// enter the ward first is, and if the line enters it last, it may be with few others, or with none. Four are the most.
func (p *poison) wantIsolated(t *testing.T, line int) {
	t.Helper()
	if n := len(p.crowds); n < strikesToConvictForeign || n > 4 || len(p.crowds[0]) > 80 || len(p.crowds[n-1]) != 1 {
		t.Fatalf("the engine died with %v in flight: not of 80 lines at first and of one in the end, in 4 deaths at most", p.crowds)
	}
	for i, crowd := range p.crowds {
		if !crowd[line] {
			t.Errorf("line %d was not in flight at death %d", line, i+1)
		}
		if i > 0 && len(crowd) > max(1, len(p.crowds[i-1])/4) {
			t.Errorf("death %d was of %d lines, after one of %d", i+1, len(crowd), len(p.crowds[i-1]))
		}
		for other := range crowd {
			if !p.crowds[0][other] {
				t.Errorf("line %d was in flight at death %d, not at the first", other, i+1)
			}
		}
	}
}

// wantCrashed checks that these lines of lines are runner_crashed, and all others answered.
func (w *world) wantCrashed(plan *batch.Plan, lines int, crashed ...int) {
	w.t.Helper()
	for line := 1; line <= lines; line++ {
		want := "200"
		if slices.Contains(crashed, line) {
			want = batch.CodeRunnerCrashed
		}
		w.wantEnd(plan, line, want)
	}
}

func TestLineThatKillsEnginesIsFoundAndTheOthersAreAnswered(t *testing.T) {
	for name, death := range map[string]*vllm.Answer{
		"engine says so": dead(), "connection breaks": failure(vllm.Retry, 0),
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world, e *wired) {
				plan := w.batch(200, 50)
				p := &poison{lines: []int{50}, death: death}
				p.feedTo(e)
				cfg := w.defaults(e)
				core, logs := observer.New(zap.WarnLevel)
				cfg.Slots, cfg.Log = 64, zap.New(core)
				if err := w.run(t.Context(), cfg); err != nil {
					t.Fatal(err)
				}
				p.wantIsolated(t, 50)
				w.wantCrashed(plan, 200, 50)
				told := logs.FilterField(zap.String("event", "request_convicted")).All()
				if len(told) != 1 || told[0].ContextMap()["request_id"] != batch.RequestID(plan.Batch, 50) {
					t.Errorf("the log names as what kills engines %v, want line 50", told)
				}
				for line, n := range e.times {
					if n > 4 || n > 1 && !p.crowds[0][line] {
						t.Errorf("line %d was asked %d times", line, n)
					}
				}
			})
		})
	}
}

// checked is an engine that takes its time to say whether it is well, and counts who asks.
type checked struct {
	wired
	asks, now, most int // how often; at this time; at most at a time
}

func (c *checked) Healthy(ctx context.Context) error {
	c.mu.Lock()
	c.asks++
	c.now++
	c.most = max(c.most, c.now)
	c.mu.Unlock()
	pause(ctx, 50*time.Millisecond)
	c.mu.Lock()
	c.now--
	c.mu.Unlock()
	return c.wired.Healthy(ctx)
}

func TestDeathBehindAProxyIsNoAttempt(t *testing.T) {
	for _, status := range []int{500, 502, 504} {
		t.Run(strconv.Itoa(status), func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world, e *wired) {
				plan := w.batch(400, 50)
				c := &checked{wired: wired{begun: e.begun}}
				c.down = func() bool { took := time.Since(e.begun); return took > 5*time.Second && took < 90*time.Second }
				c.do = func(ctx context.Context, _, _ int) *vllm.Answer {
					pause(ctx, 2*time.Second)
					return unless(!c.down(), failure(vllm.Retry, status))
				}
				cfg := w.defaults(c)
				cfg.Slots = 64
				_, ended := w.started(t.Context(), cfg)
				time.Sleep(80 * time.Second)
				synctest.Wait()
				c.mu.Lock()
				asks, most, asked := c.asks, c.most, len(c.asked)
				c.mu.Unlock()
				if asks > 2+80*2 || most > 2 || asked > 240 { // all that were in flight together ask once; a probe comes each half second
					t.Errorf("the engine was asked %d times whether it is well, %d at once, and for %d answers", asks, most, asked)
				}
				if err := ended(); err != nil {
					t.Fatal(err)
				}
				w.wantAll(plan, 1, 400)
				if n := len(c.log()); n > 480 {
					t.Errorf("it was asked for %d answers, want 400, and those in flight again", n)
				}
			})
		})
	}
}

// A line that an engine fails is not the engine's death, however many there are.
func TestErrorsOfAnEngineThatIsWellAreAttempts(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, e *wired) {
		plan := w.batch(400, 50)
		c := &checked{wired: wired{begun: e.begun}}
		c.do = func(ctx context.Context, _, _ int) *vllm.Answer {
			pause(ctx, time.Millisecond)
			return failure(vllm.Retry, 502)
		}
		cfg := w.defaults(c)
		cfg.Slots = 64
		if err := w.run(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		if res := w.result(plan); res.Failed != 400 || len(c.log()) != 5*400 {
			t.Errorf("result %+v after %d requests, want five for each line", res, len(c.log()))
		}
		if c.most != 1 || c.asks > 1000 {
			t.Errorf("the engine was asked %d times whether it is well, %d at once", c.asks, c.most)
		}
	})
}

// A line that kills engines behind a proxy looks like any other, until it has done so more often than chance does.
func TestLineThatKillsEnginesBehindAProxyIsFound(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, e *wired) {
		plan := w.batch(20, 10)
		p := &poison{lines: []int{7}, death: failure(vllm.Retry, 502)}
		p.feedTo(e)
		if err := w.run(t.Context(), w.defaults(e)); err != nil {
			t.Fatal(err)
		}
		w.wantCrashed(plan, 20, 7)
		if n := len(p.crowds); n < 6 || n > 9 {
			t.Errorf("the engine died %d times, want six times and then until the line is alone", n)
		}
	})
}

func TestEachDeathLeavesAQuarterOfTheSuspects(t *testing.T) {
	suspect := &task{line: 50, chunk: &chunk{owner: &shard{strikes: newStrikes(nil)}}}
	crowd := 320
	for n, want := range []int{80, 20, 5, 1} {
		if suspect.strike(crowd, 2) || suspect.group != want {
			t.Fatalf("after death %d of %d lines at most %d are asked at once, want %d", n+1, crowd, suspect.group, want)
		}
		crowd = suspect.group
	}
	if !suspect.strike(crowd, 2) || suspect.chunk.owner.strikes.of(50) != 5 {
		t.Error("the line is not to blame after the fifth death, of it alone")
	}
}

func TestSeveralLinesThatKillEnginesAreFound(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, e *wired) {
		plan := w.batch(100, 50)
		p := &poison{lines: []int{3, 4, 99}, death: dead()}
		p.feedTo(e)
		other := &wired{begun: time.Now()}
		p.feedTo(other)
		cfg := w.defaults(e, other)
		cfg.Slots = 32
		if err := w.run(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		w.wantCrashed(plan, 100, 3, 4, 99)
	})
}

func TestSuccessorKnowsTheSuspects(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, e *wired) {
		plan := w.batch(100, 50) // one shard
		ctx, cancel := context.WithCancel(t.Context())
		p := &poison{lines: []int{50}, death: dead(), died: func(deaths int) {
			if deaths == 2 {
				time.AfterFunc(time.Second, cancel)
			}
		}}
		p.feedTo(e)
		cfg := w.defaults(e)
		cfg.Slots = 64
		if err := w.run(ctx, cfg); err != nil {
			t.Fatal(err)
		}
		seen, err := lease.Read(t.Context(), w.store, batch.LeaseKey(plan.Batch, 0))
		var notes batch.LeaseNotes
		if json.Unmarshal(seen.Record.Notes, &notes) != nil || notes.Strikes[50] != 2 {
			t.Errorf("lease %+v, %v; want two strikes of line 50", seen, err)
		}
		cfg = w.defaults(e)
		cfg.Slots = 64
		if err := w.run(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		p.wantIsolated(t, 50)
		w.wantCrashed(plan, 100, 50)
	})
}

// A runner that hands over right after a death comes to no more writes of its own.
func TestStrikesThatWereNotWrittenAreReleasedWithTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memstore.New(memstore.Options{})
		_, l, err := lease.Acquire(t.Context(), lease.Config{Bucket: store, Key: "lease", Owner: "a"})
		if err != nil {
			t.Fatal(err)
		}
		if err := l.SetNotes(t.Context(), json.RawMessage(`{"causes":[{"code":"model_not_found"}]}`)); err != nil {
			t.Fatal(err)
		}
		s := newStrikes(map[int64]int{3: 1})
		s.add(50, 2)
		if err := s.keep(l); err != nil {
			t.Fatal(err)
		}
		if err := l.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
		seen, err := lease.Read(t.Context(), store, "lease")
		var notes batch.LeaseNotes
		if err != nil || json.Unmarshal(seen.Record.Notes, &notes) != nil || notes.Strikes[3] != 1 || notes.Strikes[50] != 2 || len(notes.Causes) != 1 {
			t.Errorf("lease %+v, %v; want the strikes beside the cause", seen, err)
		}
	})
}

func TestEngineThatIsNotThereStrikesNobody(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, e *wired) {
		plan := w.batch(1, 1)
		e.do = func(_ context.Context, _, ask int) *vllm.Answer { return unless(ask == 9, failure(vllm.Down, 0)) }
		if err := w.run(t.Context(), w.defaults(e)); err != nil {
			t.Fatal(err)
		}
		w.wantAll(plan, 1, 1)
	})
}

// The last line of a batch is alone in flight, whoever ends the engine.
func TestLineThatIsAloneAtSomeDeaths(t *testing.T) {
	for name, c := range map[string]struct {
		own    bool
		deaths int
		want   string
	}{
		"foreign engine, started anew twice": {false, 2, "200"},
		"foreign engine, a third time":       {false, 3, batch.CodeRunnerCrashed},
		"own engine, once":                   {true, 1, "200"},
		"own engine, twice":                  {true, 2, batch.CodeRunnerCrashed},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world, e *wired) {
				plan := w.batch(1, 1)
				o := newOwned(time.Second, nil)
				cfg := w.serving(o)
				if !c.own {
					o.wired.down, cfg = nil, w.defaults(&o.wired)
				}
				o.do = func(_ context.Context, _, ask int) *vllm.Answer { return unless(ask > c.deaths, dead()) }
				if err := w.run(t.Context(), cfg); err != nil {
					t.Fatal(err)
				}
				w.wantEnd(plan, 1, c.want)
			})
		})
	}
}

// dead is the answer to a request with which the engine died.
func dead() *vllm.Answer {
	a := failure(vllm.Down, 500)
	a.Died = true
	return a
}
