package gpu

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Interval is the time between two readings.
const Interval = time.Second

// patience is how long a wait for an event may take that nothing can interrupt, and so how long Run may outlive its context
// while the driver answers.
const patience = 250 * time.Millisecond

// hangLimit is how long a call to the driver is waited for when it is not wanted any more.
const hangLimit = 2 * time.Second

// openLimit is how long Open waits for the driver. Without persistence mode it starts each GPU anew, which takes seconds.
// (https://docs.nvidia.com/deploy/driver-persistence/)
const openLimit = time.Minute

// source is a driver that was opened. Read and wait may be called at once, each by one goroutine.
type source interface {
	describe() description
	read(i int) raw                      // of the i-th device
	wait(d time.Duration) (event, error) // for an event; errNoEvent after d, errBlind at once if there never will be one
	close()
}

type description struct {
	driver  string
	devices []Device
	blind   string // why events are not seen; empty if they are
}

// event is an XID, or a loss.
type event struct {
	device int // -1: unknown
	xid    int // 0: the driver says that a device is lost
}

var (
	errNoEvent = errors.New("no event")
	errBlind   = errors.New("events are not reported")
)

// Sampler watches GPUs. Make one with Open. Run and Close are for one goroutine, the other methods may be called
// concurrently, at any time.
type Sampler struct {
	src     source // nil: no GPUs
	driver  string
	devices []Device
	done    chan struct{} // closed when no call of Run's is under way any more; nil before Run

	mu       sync.Mutex
	states   []state
	failures int
}

// Open looks for GPUs, for openLimit at most, or until ctx ends. The Sampler can always be used and must be closed; the reason
// is empty, or says for a log line why there are no GPUs, or what of them is not seen.
//
// If visible is not empty, only these GPUs are watched: it is a list as in CUDA_VISIBLE_DEVICES, of indexes and UUIDs, which
// may be abbreviated, and ends before the first that is not there. Indexes are taken in the order of the PCI bus: CUDA's own,
// if the GPUs are of one kind or CUDA_DEVICE_ORDER is PCI_BUS_ID.
// (https://docs.nvidia.com/cuda/cuda-c-programming-guide/#env-vars)
func Open(ctx context.Context, visible string) (s *Sampler, reason string) {
	return openWithin(ctx, func() (source, error) { return open(visible) })
}

// openWithin calls open, and leaves it alone when openLimit has passed or ctx has ended; a driver that answers later is closed.
func openWithin(ctx context.Context, open func() (source, error)) (*Sampler, string) {
	type answer struct {
		source
		err error
	}
	begun := time.Now()
	ctx, cancel := context.WithTimeout(ctx, openLimit)
	defer cancel()
	answered := make(chan answer)
	go func() {
		src, err := open()
		select {
		case answered <- answer{src, err}:
		case <-ctx.Done():
			if err == nil {
				src.close()
			}
		}
	}()
	select {
	case a := <-answered:
		if a.err != nil {
			return &Sampler{}, a.err.Error()
		}
		return newSampler(a.source)
	case <-ctx.Done():
		return &Sampler{}, fmt.Sprintf("the driver did not answer within %v", time.Since(begun).Round(time.Second))
	}
}

func newSampler(src source) (*Sampler, string) {
	d := src.describe()
	s := &Sampler{src: src, driver: d.driver, devices: d.devices, states: make([]state, len(d.devices))}
	for i, device := range d.devices {
		s.states[i].Device = device
	}
	return s, d.blind
}

// Driver is the version of the driver; empty without GPUs.
func (s *Sampler) Driver() string { return s.driver }

// Samples gives the state of each GPU as of the last reading. It waits for no GPU. None: nil.
func (s *Sampler) Samples() []Sample {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Sample
	for i := range s.states {
		all = append(all, s.states[i].sample())
	}
	return all
}

// Failures is the number of calls to the driver that failed although the GPU can do what they ask for.
func (s *Sampler) Failures() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failures
}

// Run reads the GPUs every Interval and counts their errors, until the context ends: nil, or until a GPU must not be used
// any longer: *UnfitError. It may be called once. Calls to the driver of a broken GPU may take for ever: errors are seen
// meanwhile, and Run leaves such a call alone when hangLimit has passed.
func (s *Sampler) Run(ctx context.Context) error {
	if s.src == nil {
		<-ctx.Done()
		return nil
	}
	src := s.src
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.readings(ctx, src) })
	g.Go(func() error { return s.events(ctx, src) })
	s.done = make(chan struct{})
	go func() {
		defer close(s.done)
		_ = g.Wait() // the first error is the cause of the context's end, too
	}()
	<-ctx.Done()
	within(hangLimit, s.done)
	if u, ok := errors.AsType[*UnfitError](context.Cause(ctx)); ok {
		return u
	}
	return nil
}

// within waits for done, but not longer than d.
func within(d time.Duration, done <-chan struct{}) {
	limit := time.NewTimer(d)
	defer limit.Stop()
	select {
	case <-done:
	case <-limit.C:
	}
}

// Close ends the use of the driver, after Run has returned. Samples stay. It may be called again. A driver in which a call
// hangs is left as it is: the process is to end.
func (s *Sampler) Close() {
	src := s.src
	s.src = nil
	if src == nil || s.hangs() {
		return
	}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		src.close()
	}()
	within(hangLimit, closed)
}

// hangs says whether a call to the driver has outlived Run.
func (s *Sampler) hangs() bool {
	if s.done == nil {
		return false
	}
	select {
	case <-s.done:
		return false
	default:
		return true
	}
}

// readings reads until the context ends or a GPU is lost.
func (s *Sampler) readings(ctx context.Context, src source) error {
	tick := time.NewTicker(Interval)
	defer tick.Stop()
	for {
		if err := s.read(ctx, src, time.Now()); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// read reads all GPUs, and fails with the first that is lost.
func (s *Sampler) read(ctx context.Context, src source, now time.Time) error {
	var lost error
	for i, device := range s.devices {
		if ctx.Err() != nil {
			return nil
		}
		r := src.read(i) // not under the mutex: it may take long
		s.mu.Lock()
		s.failures += r.failed
		s.states[i].add(r, now)
		s.mu.Unlock()
		if r.lost != "" && lost == nil {
			lost = &UnfitError{Device: device, Cause: r.lost}
		}
	}
	return lost
}

// events waits for events and counts them, until the context ends or one makes a GPU unfit.
func (s *Sampler) events(ctx context.Context, src source) error {
	for ctx.Err() == nil {
		e, err := src.wait(patience)
		switch {
		case err == nil:
			if err := s.count(e); err != nil {
				return err
			}
			continue
		case errors.Is(err, errNoEvent):
			continue
		case errors.Is(err, errBlind):
			return nil
		}
		s.mu.Lock()
		s.failures++
		s.mu.Unlock()
		select { // the call did not wait
		case <-ctx.Done():
		case <-time.After(patience):
		}
	}
	return nil
}

// count counts an event, and fails if it makes a GPU unfit.
func (s *Sampler) count(e event) error {
	u := &UnfitError{Device: Device{Index: -1}, XID: e.xid, Cause: unfit(e.xid)}
	if e.xid == 0 {
		u.Cause = lost
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.device < 0 && u.Cause == "" {
		s.failures++ // an error that nobody can place
		return nil
	}
	if e.device >= 0 {
		u.Device = s.devices[e.device]
		st := &s.states[e.device]
		if e.xid != 0 {
			if st.XIDs == nil {
				st.XIDs = map[int]int{}
			}
			st.XIDs[e.xid]++
		}
		if u.Cause != "" {
			st.Unfit = u.Cause
		}
	}
	if u.Cause == "" {
		return nil
	}
	return u
}

// lost is the cause of a GPU that the driver cannot reach, reset of one that it can.
const (
	lost  = "the driver has lost it"
	reset = "the driver says that it must be reset"
)
