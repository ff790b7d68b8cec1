package queue_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"spool/storage/queue"
)

// beats are the heartbeats on the wire, in seconds since start.
func beats(t *testing.T, w *wire, start time.Time) []int {
	t.Helper()
	var at []int
	for _, c := range w.of("ChangeMessageVisibility") {
		if c.In.VisibilityTimeout != 120 || c.In.ReceiptHandle != "r1" {
			t.Errorf("heartbeat asks for %d s of %q", c.In.VisibilityTimeout, c.In.ReceiptHandle)
		}
		at = append(at, int(c.At.Sub(start).Seconds()))
	}
	return at
}

func TestHeldMessageIsExtendedEvery40SecondsUntilReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		q := w.open(t)
		start := time.Now()
		m := w.receive(t, q)
		time.Sleep(15 * time.Second) // the first beat counts from the receive
		h := q.Hold(t.Context(), m)
		time.Sleep(110 * time.Second)
		h.Release()
		h.Release()
		time.Sleep(time.Hour)
		if diff := cmp.Diff([]int{40, 80, 120}, beats(t, w, start)); diff != "" {
			t.Errorf("heartbeats (-want +got):\n%s", diff)
		}
		if h.Err() != nil || closed(h.Lost()) || closed(h.Wall()) {
			t.Errorf("err %v, lost %v, wall %v; want none", h.Err(), closed(h.Lost()), closed(h.Wall()))
		}
	})
}

func TestHeartbeatsStopWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		q := w.open(t)
		start := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		h := q.Hold(ctx, w.receive(t, q))
		time.Sleep(50 * time.Second)
		cancel()
		time.Sleep(time.Hour)
		h.Release()
		if diff := cmp.Diff([]int{40}, beats(t, w, start)); diff != "" {
			t.Errorf("heartbeats (-want +got):\n%s", diff)
		}
	})
}

func TestQueueThatIsDownForThreeMinutesDoesNotEndTheHolding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		q := w.open(t)
		h := q.Hold(t.Context(), w.receive(t, q))
		defer h.Release()
		w.answer("ChangeMessageVisibility", func(request) (int, string) {
			return http.StatusServiceUnavailable, fault("ServiceUnavailable", "down")
		})
		time.Sleep(3 * time.Minute)
		if !errors.Is(h.Err(), queue.ErrUnavailable) || closed(h.Lost()) {
			t.Errorf("err %v, lost %v; want unavailable, not lost", h.Err(), closed(h.Lost()))
		}
		w.answer("ChangeMessageVisibility", nil)
		time.Sleep(time.Minute)
		if h.Err() != nil || closed(h.Lost()) {
			t.Errorf("err %v, lost %v; want it held again", h.Err(), closed(h.Lost()))
		}
	})
}

func TestRefusedHeartbeatMeansThatTheMessageIsLost(t *testing.T) {
	for name, answer := range map[string]string{
		"not in flight":   fault("MessageNotInflight", "gone"),
		"deleted":         fault("InvalidParameterValue", "Value r1 for parameter ReceiptHandle is invalid. Reason: Message does not exist or is not available for visibility timeout change."),
		"unknown receipt": fault("ReceiptHandleIsInvalid", "what?"),
		"twelve hours":    fault("InvalidParameterValue", "Total VisibilityTimeout for the message is beyond the limit [43200 seconds]"),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &wire{}
				q := w.open(t)
				w.answer("ChangeMessageVisibility", func(request) (int, string) { return http.StatusBadRequest, answer })
				start := time.Now()
				h := q.Hold(t.Context(), w.receive(t, q))
				defer h.Release()
				<-h.Lost()
				if got := time.Since(start); got != 40*time.Second || !errors.Is(h.Err(), queue.ErrGone) {
					t.Errorf("lost after %s by %v; want 40s, ErrGone", got, h.Err())
				}
				time.Sleep(time.Hour)
				if diff := cmp.Diff([]int{40}, beats(t, w, start)); diff != "" {
					t.Errorf("heartbeats (-want +got):\n%s", diff)
				}
			})
		})
	}
}

func TestWallComesHalfAnHourBeforeTheTwelvethHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		q := w.open(t)
		m := w.receive(t, q)
		time.Sleep(10 * time.Second)
		h := q.Hold(t.Context(), m)
		<-h.Wall()
		if got := time.Since(m.Received); got != 11*time.Hour+30*time.Minute || m.Wall() != time.Now() {
			t.Errorf("wall after %s, %s from Message.Wall; want 11h30m, 0", got, time.Since(m.Wall()))
		}
		synctest.Wait()
		before := len(w.of("ChangeMessageVisibility"))
		time.Sleep(130 * time.Second)
		if got := len(w.of("ChangeMessageVisibility")) - before; got != 3 {
			t.Errorf("%d heartbeats in the 130 s after the wall, want 3", got)
		}
		h.Release()
	})
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
