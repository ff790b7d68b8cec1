package engine

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// get unpacks a result: get(f())(t).
func get[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		must(t, err)
		return v
	}
}

func newEngine(t *testing.T, queues ...string) *Engine {
	t.Helper()
	e := New(SystemClock{}, "us-east-1", "000000000000")
	for _, q := range queues {
		must(t, e.CreateQueue(q, nil, nil))
	}
	return e
}

// TestNoMessageIsLostOrDoubled plays random operations against a plain model of who holds what: under the clock of a
// synctest bubble leases run out when the model says so, to the nanosecond.
func TestNoMessageIsLostOrDoubled(t *testing.T) {
	for seed := range uint64(50) {
		synctest.Test(t, func(t *testing.T) {
			m := &model{T: t, e: newEngine(t, "q"), rand: rand.New(rand.NewPCG(seed, 0)), held: map[string]hold{}, visible: map[string]bool{}}
			for range 400 {
				m.step()
			}
			m.drain()
		})
	}
}

// hold is a lease as the model sees it.
type hold struct {
	handle string
	until  time.Time
}

type model struct {
	*testing.T
	e       *Engine
	rand    *rand.Rand
	visible map[string]bool
	held    map[string]hold
}

func (m *model) step() {
	switch m.rand.IntN(6) {
	case 0, 1:
		sent := get(m.e.Send("q", Send{Body: "x"}))(m.T)
		m.visible[sent.ID] = true
	case 2:
		m.receive(1 + m.rand.IntN(MaxBatch))
	case 3:
		for id, h := range m.held {
			must(m.T, m.e.Delete("q", h.handle))
			delete(m.held, id)
			break
		}
	case 4:
		for id, h := range m.held {
			seconds := m.rand.IntN(40)
			must(m.T, m.e.ChangeVisibility("q", h.handle, seconds))
			m.held[id] = hold{h.handle, time.Now().Add(time.Duration(seconds) * time.Second)}
			break
		}
	case 5:
		<-time.After(time.Duration(m.rand.IntN(20)) * time.Second)
	}
	m.expire()
	if got, want := get(m.e.Counts("q"))(m.T), (Counts{Visible: len(m.visible), InFlight: len(m.held)}); got != want {
		m.Fatalf("counts %+v, want %+v", got, want)
	}
}

// expire lets the leases of the model run out.
func (m *model) expire() {
	for id, h := range m.held {
		if !h.until.After(time.Now()) {
			delete(m.held, id)
			m.visible[id] = true
		}
	}
}

func (m *model) receive(limit int) {
	seconds := m.rand.IntN(40)
	got := get(m.e.Receive(context.Background(), "q", Receive{Max: limit, Visibility: &seconds}))(m.T)
	if want := min(limit, len(m.visible)); len(got) != want {
		m.Fatalf("received %d messages, want %d", len(got), want)
	}
	for _, d := range got {
		if !m.visible[d.ID] {
			m.Fatalf("received %s, which is held or gone", d.ID)
		}
		delete(m.visible, d.ID)
		m.held[d.ID] = hold{d.Handle, time.Now().Add(time.Duration(seconds) * time.Second)}
	}
}

// drain receives all that must still be there.
func (m *model) drain() {
	<-time.After(time.Minute)
	m.expire()
	for len(m.visible) > 0 {
		m.receive(MaxBatch)
		m.expire()
		for id, h := range m.held {
			must(m.T, m.e.Delete("q", h.handle))
			delete(m.held, id)
		}
	}
	if got := get(m.e.Counts("q"))(m.T); got != (Counts{}) {
		m.Fatalf("counts %+v at the end", got)
	}
}

func TestWaitingReceiversGetEachMessageAtTheInstantItBecomesVisible(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t, "q")
		begin := time.Now()
		got := make(chan string, 3)
		for range 3 {
			go func() {
				wait := 20
				messages, err := e.Receive(t.Context(), "q", Receive{Max: 1, Wait: &wait})
				if err != nil || len(messages) == 0 {
					got <- fmt.Sprintf("nothing after %s, %v", time.Since(begin), err)
					return
				}
				got <- fmt.Sprintf("%s after %s", messages[0].Body, time.Since(begin))
			}()
		}
		synctest.Wait()
		five, three := 5, 3
		get(e.Send("q", Send{Body: "five", Delay: &five}))(t)
		get(e.Send("q", Send{Body: "three", Delay: &three}))(t)
		for _, want := range []string{"three after 3s", "five after 5s", "nothing after 20s, <nil>"} {
			if text := <-got; text != want {
				t.Errorf("%s, want %s", text, want)
			}
		}
	})
}

func TestDeadLetterKeepsItsAgeAndCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t, "dead")
		policy := `{"deadLetterTargetArn":"` + e.ARN("dead") + `","maxReceiveCount":1}`
		must(t, e.CreateQueue("q", map[string]string{"RedrivePolicy": policy, "VisibilityTimeout": "1"}, nil))
		get(e.Send("q", Send{Body: "x"}))(t)
		sent := millis(time.Now())
		get(e.Receive(t.Context(), "q", Receive{Max: 1}))(t)
		<-time.After(time.Second)
		if got := get(e.Receive(t.Context(), "q", Receive{Max: 1}))(t); len(got) != 0 {
			t.Fatal("received a dead letter from its source")
		}
		got := get(e.Receive(t.Context(), "dead", Receive{Max: 1}))(t)
		if len(got) != 1 {
			t.Fatal("no dead letter")
		}
		for name, want := range map[string]string{
			"SentTimestamp": sent, "ApproximateReceiveCount": "2", "DeadLetterQueueSourceArn": e.ARN("q"),
		} {
			if got[0].System[name] != want {
				t.Errorf("%s = %s, want %s", name, got[0].System[name], want)
			}
		}
	})
}

func TestQueueCannotBeItsOwnDeadLetterQueue(t *testing.T) {
	e := newEngine(t, "q")
	err := e.SetAttributes("q", map[string]string{"RedrivePolicy": `{"deadLetterTargetArn":"` + e.ARN("q") + `","maxReceiveCount":1}`})
	if err == nil {
		t.Error("accepted")
	}
}
