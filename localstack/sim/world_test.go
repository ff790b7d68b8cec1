package sim

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"spool/localstack/sqs"
	"spool/storage"
	"spool/storage/batch"
	"spool/storage/memstore"
	"spool/storage/queue"
	"spool/storage/storagetest"
)

const (
	bucketName = "sim"
	pool       = "default"
	trouble    = 25 * time.Minute // how long things go wrong
	patience   = 2 * time.Hour    // how long all may take to come to rest after that
)

// world is a bucket, queues, engines, the users, and the processes at work.
type world struct {
	t      testing.TB
	dice   dice
	log    *zap.Logger
	dir    string // for temporary files
	begun  time.Time
	store  *memstore.Store
	queues *sqs.Server
	ledger ledger

	// The nature of this seed.
	storeFaults, queueFaults, engineFaults float64
	storeOut, queueOut, enginesOut         []span
	slowness                               float64           // how many calls of the store take seconds
	sticky                                 string            // part of the keys of which half of the calls take seconds
	outage                                 storagetest.Fault // what the store says when it is not there
	answerTime                             time.Duration
	cancelLate                             bool // a user cancels when a shard is done
	maxRunners                             int

	ctx      context.Context //nolint:containedctx // of the supply of processes
	stop     context.CancelFunc
	supply   sync.WaitGroup // who starts processes
	work     sync.WaitGroup // the processes
	landing  sync.WaitGroup // writes that are late
	mu       sync.Mutex
	started  map[string]int
	running  int
	inputs   map[string]*input // by key and etag
	stopped  map[string]bool   // keys for which a wish to cancel was ever put
	messages []string
}

func newWorld(t testing.TB, seed uint64, log *zap.Logger) *world {
	d := dice{seed}
	w := &world{
		t: t, dice: d, log: log, dir: t.TempDir(), begun: time.Now(),
		store: memstore.New(memstore.Options{Clock: d.clock()}), queues: sqs.New(sqs.Config{}),
		ledger:       ledger{asked: map[string]int{}},
		storeFaults:  [...]float64{0, 0.01, 0.04, 0.1}[d.in(0, 3, "store faults")],
		queueFaults:  [...]float64{0, 0.05, 0.3}[d.in(0, 2, "queue faults")],
		engineFaults: [...]float64{0, 0.02}[d.in(0, 1, "engine faults")],
		slowness:     [...]float64{0, 0.002, 0.03}[d.in(0, 2, "slowness")],
		sticky:       sticky[d.in(0, len(sticky)-1, "sticky")],
		outage:       [...]storagetest.Fault{storagetest.Unavailable, storagetest.Denied}[d.in(0, 1, "outage")],
		answerTime:   d.between(500*time.Millisecond, 25*time.Second, "answer time"),
		maxRunners:   d.in(1, 4, "runners"),
		started:      map[string]int{}, inputs: map[string]*input{}, stopped: map[string]bool{},
	}
	w.cancelLate = w.sticky == "/done/" || d.roll("cancel late") < 0.2
	w.storeOut = w.outages("store", 0.3, 4*time.Minute)
	w.queueOut = w.outages("queue", 0.3, 8*time.Minute)
	w.enginesOut = w.outages("engines", 0.3, 5*time.Minute)
	w.ctx, w.stop = context.WithCancel(context.Background())
	w.makeQueues()
	w.queues.SetFaults(sqs.Faults{
		DropSend: d.in(0, 1, "drop") * d.in(5, 20, "drop n"), LoseMessage: d.in(0, 1, "lose") * d.in(5, 20, "lose n"),
		DuplicateDelivery: d.in(0, 1, "duplicate") * d.in(2, 9, "duplicate n"),
	})
	return w
}

// sticky are steps of the protocol between which others should have time to act.
var sticky = [...]string{
	"nothing", "nothing", "/plan.json", "/manifest.json", "/done/", "/stop.json", "/result.json", "/batch.json",
	"/output.jsonl", "/lease.json", "/sent.json", "/open/", "/ended/", "/c/", "/p/",
}

// outages gives the times at which something is not there at all.
func (w *world) outages(what string, likely float64, longest time.Duration) []span {
	var spans []span
	for i := range 3 {
		if w.dice.roll(what, i, "out") < likely {
			from := w.begun.Add(w.dice.between(0, trouble, what, i, "from"))
			spans = append(spans, span{from, from.Add(w.dice.between(time.Second, longest, what, i, "long"))})
		}
	}
	return spans
}

func (w *world) makeQueues() {
	w.t.Helper()
	client := wire{&link{w: &world{t: w.t, queues: w.queues}, calls: map[string]int{}}}.client(w.ctx)
	if err := client.EnsurePool(w.ctx, pool); err != nil {
		w.t.Fatal(err)
	}
	if _, err := client.Create(w.ctx, queue.EventsQueue, queue.Attributes{}); err != nil {
		w.t.Fatal(err)
	}
}

// troubled reports whether things may still go wrong. The world of makeQueues has no beginning, and no trouble.
func (w *world) troubled() bool { return time.Since(w.begun) < trouble && !w.begun.IsZero() }

// later does something at a later time, whoever is alive then.
func (w *world) later(d time.Duration, do func()) {
	w.landing.Go(func() {
		time.Sleep(d)
		do()
	})
}

// note keeps what happened, for who looks at a seed that failed.
func (w *world) note(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.messages = append(w.messages, fmt.Sprintf("%8.1f ", time.Since(w.begun).Seconds())+fmt.Sprintf(format, args...))
}

// link makes the link of a new process, with a name that is never used again.
func (w *world) link(kind string) (*link, context.Context) {
	w.mu.Lock()
	w.started[kind]++
	name := fmt.Sprintf("%s-%d", kind, w.started[kind])
	w.mu.Unlock()
	ctx, kill := context.WithCancel(w.ctx)
	l := &link{w: w, name: name, kill: kill, calls: map[string]int{}}
	if w.troubled() && w.dice.roll(name, "dies") < 0.5 {
		l.killAt = w.dice.in(1, 50, name, "dies at")
		l.after = w.dice.roll(name, "dies after") < 0.5
	}
	return l, ctx
}

// bucket is the store as a process uses it.
func (l *link) bucket() storage.Bucket { return storage.WithRetry(l, storage.Retry{}) }

// upload puts a file as a user does, and perhaps the event of it.
func (w *world) upload(in *input, rerun int) {
	w.t.Helper()
	meta := map[string]string{}
	for k, v := range in.meta {
		meta[k] = v
	}
	if rerun > 0 {
		meta["rerun"] = fmt.Sprint(rerun)
	}
	obj, err := w.store.Put(w.ctx, in.key, in.stored, storage.PutOptions{Metadata: meta})
	if err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	in.etag = obj.ETag
	w.inputs[in.key+"\n"+obj.ETag] = in
	w.mu.Unlock()
	w.note("upload %s: %d lines, %d bad, skip=%t short=%t rerun=%d", in.key, len(in.lines), in.bad, in.skip, in.short, rerun)
	w.event(in.key)
}

// cancel puts the wish to cancel.
func (w *world) cancel(key string) {
	w.t.Helper()
	w.mu.Lock()
	w.stopped[key] = true
	w.mu.Unlock()
	if _, err := w.store.Put(context.Background(), key+".cancel", nil, storage.PutOptions{}); err != nil {
		w.t.Error(err)
	}
	w.note("cancel %s", key)
	w.event(key + ".cancel")
}

// wrote is told of every write: so a user can cancel in the moment that a shard is done.
func (w *world) wrote(key string) {
	id, _, ok := strings.Cut(strings.TrimPrefix(key, batch.SysPrefix+"b/"), "/done/")
	var plan batch.Plan
	if !ok || !w.cancelLate || !w.troubled() || w.dice.roll("cancel", key) < 0.5 || !w.read(batch.PlanKey(id), &plan) {
		return
	}
	w.later(w.dice.between(0, 15*time.Second, "cancel after", key), func() { w.cancel(plan.Input.Key) })
}

// event sends what S3 would, none to two times.
func (w *world) event(key string) {
	q := fmt.Sprint("event ", key, time.Since(w.begun))
	client := wire{&link{w: w, name: "s3", calls: map[string]int{}}}.client(w.ctx)
	for i := range w.dice.in(0, 2, q) {
		events, err := client.Open(w.ctx, queue.EventsQueue)
		if err == nil {
			body := fmt.Sprintf(`{"Records":[{"s3":{"bucket":{"name":%q},"object":{"key":%q}}}]}`, bucketName, strings.ReplaceAll(key, " ", "+"))
			err = events.Send(w.ctx, []queue.Outgoing{{Body: body, Delay: time.Duration(i) * time.Minute}})
		}
		if err != nil {
			w.note("event of %s lost: %v", key, err)
		}
	}
}

// end stops all processes and waits for them, and for what is still to land.
func (w *world) end() {
	w.stop()
	w.supply.Wait()
	w.work.Wait()
	w.landing.Wait()
}

// ended notes how a process ended.
func (w *world) ended(l *link, err error) {
	if err == nil || errors.Is(err, context.Canceled) {
		w.note("%s ended", l.name)
		return
	}
	w.note("%s ended: %v", l.name, err)
}
