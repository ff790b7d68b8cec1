package sim

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"spool/localstack/sqs"
	"spool/storage/batch"
	"spool/storage/queue"
)

// usualSeeds are run if nothing else is said.
const usualSeeds = 40

func TestEveryLineOnceWhateverFails(t *testing.T) {
	if one := os.Getenv("SPOOL_SEED"); one != "" {
		run(t, number(t, one), zaptest.NewLogger(t))
		return
	}
	seeds := uint64(usualSeeds)
	if n := os.Getenv("SPOOL_SIM_SEEDS"); n != "" {
		seeds = number(t, n)
	}
	if testing.Short() {
		seeds = 4
	}
	for seed := range seeds {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			run(t, seed, zap.NewNop())
		})
	}
}

func number(t *testing.T, s string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// run plays one seed from the first upload until all is at rest, and judges what is in the bucket then.
func run(t *testing.T, seed uint64, log *zap.Logger) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, seed, log)
		defer func() {
			w.end()
			if t.Failed() {
				t.Logf("replay with SPOOL_SEED=%d:\n%s", seed, strings.Join(w.messages, "\n"))
			}
		}()
		w.supply.Go(func() { w.watch("wa", 1) })
		w.supply.Go(func() { w.watch("wb", 3) })
		w.supply.Go(w.scale)
		w.users()
		w.rest()
		w.end()
		w.abandonRest()
		w.judge()
		t.Log(w.tale())
	})
}

// rest lets the time of trouble pass, and then time until nothing is left to do.
func (w *world) rest() {
	w.t.Helper()
	time.Sleep(trouble)
	w.note("the trouble is over")
	w.queues.SetFaults(sqs.Faults{})
	for range int(patience / (10 * time.Second)) {
		if len(w.undone()) == 0 {
			w.note("at rest")
			return
		}
		time.Sleep(10 * time.Second)
	}
	w.t.Fatalf("not at rest %s after the end of all faults:\n%s", patience, strings.Join(w.undone(), "\n"))
}

// undone names what keeps the world from rest.
func (w *world) undone() []string {
	var list []string
	for key := range w.keys(batch.InPrefix) {
		if !strings.HasSuffix(key, batch.CancelSuffix) {
			if id, ended := w.batchOf(key); !ended {
				list = append(list, key+" has not ended: batch "+id)
			}
		}
	}
	for key := range w.keys(batch.OpenPrefix) {
		id := strings.TrimPrefix(key, batch.OpenPrefix)
		if w.has(batch.PlanKey(id)) {
			list = append(list, "marked as open: "+id)
		}
	}
	for _, name := range []string{queue.PoolQueue(pool), queue.FastQueue(pool), queue.DeadQueue(pool), queue.EventsQueue} {
		if c, err := w.queues.Counts(name); err != nil || c.Visible+c.InFlight+c.Delayed > 0 {
			list = append(list, fmt.Sprintf("queue %s: %+v, %v", name, c, err))
		}
	}
	return list
}

// tale sums up what this seed was about.
func (w *world) tale() string {
	outcomes := map[string]int{}
	for key := range w.keys(batch.SysPrefix + "b/") {
		var r batch.Result
		if strings.HasSuffix(key, "/result.json") && w.read(key, &r) {
			outcomes[r.Outcome]++
		}
	}
	asked := 0
	for _, n := range w.ledger.asked {
		asked += n
	}
	killed := 0
	for _, m := range w.messages {
		if strings.Contains(m, " killed at ") {
			killed++
		}
	}
	return fmt.Sprintf("batches %v, lines asked %d, requests %d, processes %v, killed %d", outcomes, len(w.ledger.asked), asked, w.started, killed)
}

// abandonRest has a watcher look again a day later: uploads that were gone before they had a plan end then.
func (w *world) abandonRest() {
	w.t.Helper()
	for range 2 {
		time.Sleep(25 * time.Hour)
		w.ctx, w.stop = context.WithCancel(context.Background())
		l, ctx := w.link("last")
		if err := w.watchOnce(ctx, l, 2, true); err != nil {
			w.t.Errorf("the last scan: %v", err)
		}
		w.end()
	}
	for key := range w.keys(batch.OpenPrefix) {
		w.t.Errorf("still marked as open: %s", key)
	}
}
