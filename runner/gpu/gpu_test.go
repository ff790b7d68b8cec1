package gpu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a driver whose GPUs show the same reading from the last one on.
type fake struct {
	description
	readings [][]raw // by device
	events   chan event
	waitErr  error // if set, wait fails with it at once
	waits    int
	closed   int
}

func (f *fake) describe() description { return f.description }
func (f *fake) close()                { f.closed++ }

func (f *fake) read(i int) raw {
	r := f.readings[i][0]
	if len(f.readings[i]) > 1 {
		f.readings[i] = f.readings[i][1:]
	}
	return r
}

func (f *fake) wait(d time.Duration) (event, error) {
	f.waits++
	if f.waitErr != nil {
		return event{}, f.waitErr
	}
	select {
	case e := <-f.events:
		return e, nil
	case <-time.After(d):
		return event{}, errNoEvent
	}
}

// newFake has one device for each list of readings.
func newFake(readings ...[]raw) *fake {
	f := &fake{readings: readings, events: make(chan event)}
	f.driver = "580.95.05"
	for i := range readings {
		f.devices = append(f.devices, Device{Index: i, UUID: fmt.Sprintf("GPU-%d", i), Name: "Test"})
	}
	return f
}

// start runs a sampler in a bubble. What it returns ends Run and gives its error.
func start(t *testing.T, src source) (s *Sampler, stop func() error) {
	t.Helper()
	s, _ = newSampler(src)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	return s, func() error {
		cancel()
		return <-done
	}
}

// after gives the samples once n readings were taken.
func after(s *Sampler, n int) []Sample {
	time.Sleep(time.Duration(n-1)*Interval + Interval/2)
	synctest.Wait()
	return s.Samples()
}

func TestDriverThatDoesNotStartIsNotWaitedForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, answer, start := newFake([]raw{{}}), make(chan struct{}), time.Now()
		s, reason := openWithin(t.Context(), func() (source, error) { <-answer; return f, nil })
		if took := time.Since(start); took != time.Minute || reason != "the driver did not answer within 1m0s" || s.Samples() != nil {
			t.Errorf("%d GPUs after %v: %q", len(s.Samples()), took, reason)
		}
		s.Close()
		close(answer)
		synctest.Wait()
		if f.closed != 1 {
			t.Errorf("a driver that started late was closed %d times, want once", f.closed)
		}
	})
}

func TestOpenEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		answer := make(chan struct{})
		if _, reason := openWithin(ctx, func() (source, error) { <-answer; return newFake(), nil }); reason != "the driver did not answer within 3s" {
			t.Errorf("reason %q", reason)
		}
		close(answer)
	})
}

func TestOpen(t *testing.T) {
	f := newFake([]raw{{}})
	f.blind = "no events"
	if s, reason := openWithin(t.Context(), func() (source, error) { return f, nil }); reason != "no events" || len(s.Samples()) != 1 {
		t.Errorf("%d GPUs: %q, want 1 and what is not seen", len(s.Samples()), reason)
	}
	if s, reason := openWithin(t.Context(), func() (source, error) { return nil, errors.New("no driver") }); reason != "no driver" || s.Samples() != nil {
		t.Errorf("%d GPUs: %q, want none and why", len(s.Samples()), reason)
	}
}

func TestSumsAreOverTime(t *testing.T) {
	reading := func(util, temp, watts float64, used uint64, throttle ...string) raw {
		return raw{Reading: Reading{Utilization: &util, Temperature: &temp, Power: &watts, MemoryUsed: &used, MemoryTotal: new(uint64(100)), Throttle: append([]string{}, throttle...)}}
	}
	synctest.Test(t, func(t *testing.T) {
		s, stop := start(t, newFake([]raw{
			reading(1, 40, 100, 10, "sw_power_cap"), // ends a second that nobody saw
			reading(0.5, 70, 200, 30, "sw_power_cap"),
			reading(1, 60, 300, 20, "sw_power_cap", "hw_thermal"),
			reading(0, 50, 300, 20),
		}))
		got := after(s, 4)
		want := []Sample{{
			Device:         Device{Index: 0, UUID: "GPU-0", Name: "Test"},
			Reading:        reading(0, 50, 300, 20).Reading,
			Time:           got[0].Time,
			Observed:       3,
			Busy:           new(1.5),
			MemoryUsedMax:  new(uint64(30)),
			TemperatureMax: new(70.0),
			Energy:         new(150.0 + 250 + 300),
			Throttled:      map[string]float64{"sw_power_cap": 2, "hw_thermal": 1},
		}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("samples (-want +got):\n%s", diff)
		}
		if age := time.Since(got[0].Time); age != Interval/2 {
			t.Errorf("the reading is %v old, want %v", age, Interval/2)
		}
		if err := stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

func TestCountersStartAtZeroAndSurviveARestart(t *testing.T) {
	reading := func(energy, corrected, uncorrected *uint64) raw {
		// The power would give another result: a counter goes before it.
		return raw{Reading: Reading{Power: new(5000.0)}, energy: energy, eccCorrected: corrected, eccUncorrected: uncorrected}
	}
	n := func(v uint64) *uint64 { return &v }
	tests := []struct {
		name                   string
		readings               []raw
		energy                 float64
		corrected, uncorrected *uint64
	}{
		{"first", []raw{reading(n(7_000_000), n(3), n(1))}, 0, n(0), n(0)},
		{"grown", []raw{reading(n(7_000_000), n(3), n(1)), reading(n(7_000_500), n(5), n(1)), reading(n(7_002_500), n(6), n(2))}, 2.5, n(3), n(1)},
		{"missed once", []raw{reading(n(1000), n(1), n(0)), reading(nil, nil, nil), reading(n(4000), n(2), n(0))}, 3, n(1), n(0)},
		{"restarted", []raw{reading(n(1000), n(9), n(9)), reading(n(2000), n(9), n(9)), reading(n(300), n(2), n(0))}, 1.3, n(2), n(0)},
		{"no ECC", []raw{reading(n(1000), nil, nil), reading(n(2000), nil, nil)}, 1, nil, nil},
		{"late", []raw{reading(nil, nil, nil), reading(nil, nil, nil), reading(n(2000), nil, nil), reading(n(2500), nil, nil)}, 0.5, nil, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, stop := start(t, newFake(tt.readings))
				got := after(s, len(tt.readings))[0]
				want := Sample{Energy: &tt.energy, ECCCorrected: tt.corrected, ECCUncorrected: tt.uncorrected}
				if diff := cmp.Diff(want, Sample{Energy: got.Energy, ECCCorrected: got.ECCCorrected, ECCUncorrected: got.ECCUncorrected}); diff != "" {
					t.Errorf("counters (-want +got):\n%s", diff)
				}
				if err := stop(); err != nil {
					t.Errorf("Run: %v", err)
				}
			})
		})
	}
}

func TestUnknownIsNotZero(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, stop := start(t, newFake([]raw{{}}))
		got := after(s, 3)[0]
		got.Time = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
		text, err := json.Marshal(got)
		want := `{"index":0,"uuid":"GPU-0","name":"Test","time":"2026-01-02T03:04:05Z","observed_seconds":2}`
		if err != nil || string(text) != want {
			t.Errorf("got %s, %v; want %s", text, err, want)
		}
		if err := stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

func TestJSON(t *testing.T) {
	idle := Sample{
		Device: Device{Index: 1, UUID: "GPU-1", Name: "Test"},
		Reading: Reading{
			Utilization: new(0.0), MemoryUsed: new(uint64(0)), MemoryTotal: new(uint64(85899345920)), Temperature: new(0.0),
			Power: new(61.5), PowerLimit: new(400.0), SMClock: new(210e6), MemoryClock: new(1215e6), Throttle: []string{},
		},
		Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Unfit: unfit(79), Observed: 2.5,
		Busy: new(0.0), MemoryUsedMax: new(uint64(0)), TemperatureMax: new(31.0), Energy: new(0.0), Throttled: map[string]float64{},
		ECCCorrected: new(uint64(0)), ECCUncorrected: new(uint64(2)), XIDs: map[int]int{79: 1},
	}
	text, err := json.MarshalIndent(idle, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	want := `{
  "index": 1,
  "uuid": "GPU-1",
  "name": "Test",
  "utilization": 0,
  "memory_used_bytes": 0,
  "memory_total_bytes": 85899345920,
  "temperature_celsius": 0,
  "power_watts": 61.5,
  "power_limit_watts": 400,
  "sm_clock_hertz": 210000000,
  "memory_clock_hertz": 1215000000,
  "throttle": [],
  "time": "2026-01-02T03:04:05Z",
  "unfit": "XID 79, GPU has fallen off the bus",
  "observed_seconds": 2.5,
  "busy_seconds": 0,
  "memory_used_max_bytes": 0,
  "temperature_max_celsius": 31,
  "energy_joules": 0,
  "throttled_seconds": {},
  "ecc_corrected_errors_total": 0,
  "ecc_uncorrected_errors_total": 2,
  "xids": {
    "79": 1
  }
}`
	if diff := cmp.Diff(want, string(text)); diff != "" {
		t.Errorf("JSON (-want +got):\n%s", diff)
	}
	var back Sample
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(idle, back); diff != "" {
		t.Errorf("read again (-want +got):\n%s", diff)
	}
}

func TestXIDs(t *testing.T) {
	tests := []struct {
		xid   int
		cause string // empty: only counted
	}{
		{13, ""}, {31, ""}, {43, ""}, {45, ""}, {63, ""}, {64, ""}, {74, ""}, {92, ""}, {94, ""}, {120, ""},
		{48, "XID 48, double-bit ECC error"},
		{79, "XID 79, GPU has fallen off the bus"},
		{95, "XID 95, uncontained memory error"},
		{119, "XID 119, GPU system processor does not answer"},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.xid), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake([]raw{{}}, []raw{{}})
				s, stop := start(t, f)
				times := 2
				if tt.cause != "" {
					times = 1 // Run ends with the first
				}
				for range times {
					f.events <- event{device: 1, xid: tt.xid}
				}
				synctest.Wait()
				got := s.Samples()
				if got[0].XIDs != nil || got[0].Unfit != "" {
					t.Errorf("GPU 0 has %v, unfit %q", got[0].XIDs, got[0].Unfit)
				}
				if diff := cmp.Diff(map[int]int{tt.xid: times}, got[1].XIDs); diff != "" || got[1].Unfit != tt.cause {
					t.Errorf("GPU 1: unfit %q, want %q; XIDs (-want +got):\n%s", got[1].Unfit, tt.cause, diff)
				}
				checkUnfit(t, stop(), &UnfitError{Device: Device{1, "GPU-1", "Test"}, XID: tt.xid, Cause: tt.cause})
			})
		})
	}
}

// checkUnfit compares Run's error; a want without cause stands for none.
func checkUnfit(t *testing.T, err error, want *UnfitError) {
	t.Helper()
	if want.Cause == "" {
		if err != nil {
			t.Errorf("Run: %v", err)
		}
		return
	}
	var got *UnfitError
	if !errors.As(err, &got) {
		t.Fatalf("Run: %v, want %v", err, want)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Run's error (-want +got):\n%s", diff)
	}
}

func TestEventsThatNoDeviceIsNamedIn(t *testing.T) {
	tests := []struct {
		event    event
		cause    string
		text     string
		failures int
	}{
		{event{device: -1, xid: 13}, "", "", 1},
		{event{device: -1, xid: 79}, unfit(79), "a GPU is unfit: XID 79, GPU has fallen off the bus", 0},
		{event{device: -1}, lost, "a GPU is unfit: the driver has lost it", 0},
	}
	for _, tt := range tests {
		synctest.Test(t, func(t *testing.T) {
			f := newFake([]raw{{}}, []raw{{}})
			s, stop := start(t, f)
			f.events <- tt.event
			synctest.Wait()
			if got := s.Failures(); got != tt.failures {
				t.Errorf("%+v: %d failures, want %d", tt.event, got, tt.failures)
			}
			for _, g := range s.Samples() {
				if g.XIDs != nil || g.Unfit != "" {
					t.Errorf("%+v: GPU %d has %v, unfit %q", tt.event, g.Index, g.XIDs, g.Unfit)
				}
			}
			err := stop()
			checkUnfit(t, err, &UnfitError{Device: Device{Index: -1}, XID: tt.event.xid, Cause: tt.cause})
			if err != nil && err.Error() != tt.text {
				t.Errorf("%+v: %q, want %q", tt.event, err, tt.text)
			}
		})
	}
}

func TestLostDeviceKeepsItsSums(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		well := raw{Reading: Reading{Utilization: new(1.0), MemoryUsed: new(uint64(7)), Throttle: []string{}}}
		f := newFake([]raw{well}, []raw{well, well, {lost: lost, failed: 1}})
		s, stop := start(t, f)
		got := after(s, 5)
		want := Sample{
			Device: Device{1, "GPU-1", "Test"}, Time: got[1].Time, Unfit: lost,
			Observed: 2, Busy: new(1.0), MemoryUsedMax: new(uint64(7)), Throttled: map[string]float64{},
		}
		if diff := cmp.Diff(want, got[1]); diff != "" {
			t.Errorf("lost GPU (-want +got):\n%s", diff)
		}
		if got[0].Unfit != "" || got[0].Observed != 2 {
			t.Errorf("the other GPU: unfit %q, observed for %v s, want 2: Run has ended", got[0].Unfit, got[0].Observed)
		}
		if s.Failures() != 1 {
			t.Errorf("%d failures, want 1", s.Failures())
		}
		err := stop()
		checkUnfit(t, err, &UnfitError{Device: Device{1, "GPU-1", "Test"}, Cause: lost})
		if text := "GPU 1 (GPU-1) is unfit: the driver has lost it"; err.Error() != text {
			t.Errorf("%q, want %q", err, text)
		}
	})
}

func TestRunEndsSoonAfterItsContext(t *testing.T) {
	failed := errors.New("Unknown Error")
	tests := []struct {
		name     string
		waitErr  error
		most     time.Duration
		failures int // in the 10 s before
	}{
		{"waiting for events", nil, patience, 0},
		{"events are not reported", errBlind, 0, 0},
		{"waiting fails", failed, 0, 40}, // and is tried again with a pause
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake([]raw{{}})
				f.waitErr = tt.waitErr
				s, stop := start(t, f)
				time.Sleep(10*time.Second - time.Millisecond)
				synctest.Wait()
				if got := s.Failures(); got != tt.failures {
					t.Errorf("%d failures, want %d", got, tt.failures)
				}
				if f.waits > 40 {
					t.Errorf("waited %d times in 10 s", f.waits)
				}
				if got := s.Samples()[0].Observed; got != 9 {
					t.Errorf("observed for %v s, want 9", got)
				}
				begin := time.Now()
				if err := stop(); err != nil {
					t.Errorf("Run: %v", err)
				}
				if took := time.Since(begin); took > tt.most {
					t.Errorf("Run ended after %v, want %v", took, tt.most)
				}
				if f.closed != 0 {
					t.Error("Run has closed the driver")
				}
				s.Close()
				s.Close()
				if f.closed != 1 {
					t.Errorf("closed %d times", f.closed)
				}
				if got := s.Samples(); len(got) != 1 || got[0].Observed != 9 {
					t.Errorf("samples after Close: %+v", got)
				}
			})
		})
	}
}

// hanging is a driver in which some calls never come back: until the test releases them.
type hanging struct {
	*fake
	release         chan struct{}
	reads, closings bool // these hang
}

func (h *hanging) read(i int) raw {
	if h.reads {
		<-h.release
	}
	return h.fake.read(i)
}

func (h *hanging) close() {
	if h.closings {
		<-h.release
	}
	h.fake.close()
}

func TestDriverThatHangsKeepsNobody(t *testing.T) {
	for _, tt := range []struct {
		name            string
		reads, closings bool
		xid             int
		most            time.Duration // that Run and Close take together
		closed          int
	}{
		{"reading", true, false, 0, hangLimit, 0},
		{"reading, and the driver tells why", true, false, 119, hangLimit, 0},
		{"closing", false, true, 0, patience + hangLimit, 0},
		{"nothing", false, false, 0, patience, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &hanging{newFake([]raw{{}}, []raw{{}}), make(chan struct{}), tt.reads, tt.closings}
				s, stop := start(t, h)
				time.Sleep(time.Minute)
				want := &UnfitError{Device: Device{1, "GPU-1", "Test"}, XID: tt.xid, Cause: unfit(tt.xid)}
				begin := time.Now()
				if tt.xid != 0 {
					h.events <- event{device: 1, xid: tt.xid}
					synctest.Wait()
					if got := s.Samples()[1].Unfit; got != want.Cause {
						t.Errorf("unfit %q, want %q", got, want.Cause)
					}
				}
				checkUnfit(t, stop(), want)
				s.Close()
				if took := time.Since(begin); took > tt.most || h.closed != tt.closed {
					t.Errorf("ended after %v, want %v; closed %d times, want %d", took, tt.most, h.closed, tt.closed)
				}
				close(h.release)
			})
		})
	}
}

func TestSamplesAreTheCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake([]raw{{Reading: Reading{Utilization: new(1.0), Throttle: []string{"hw_slowdown"}}}})
		s, stop := start(t, f)
		f.events <- event{xid: 13}
		before := after(s, 2)[0]
		f.events <- event{xid: 13}
		next := after(s, 2)[0]
		if *before.Busy != 1 || before.Throttled["hw_slowdown"] != 1 || before.XIDs[13] != 1 {
			t.Errorf("a sample has changed: busy %v, throttled %v, XIDs %v", *before.Busy, before.Throttled, before.XIDs)
		}
		next.XIDs[13], next.Throttled["hw_slowdown"] = 100, 100
		if again := s.Samples()[0]; again.XIDs[13] != 2 || again.Throttled["hw_slowdown"] == 100 {
			t.Errorf("the sampler has changed: throttled %v, XIDs %v", again.Throttled, again.XIDs)
		}
		if err := stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

func TestNewSamplerSaysWhatItHas(t *testing.T) {
	f := newFake([]raw{{}})
	f.blind = "XID errors are not seen: Not Supported"
	s, reason := newSampler(f)
	if s.Driver() != "580.95.05" || reason != f.blind {
		t.Errorf("driver %q, reason %q", s.Driver(), reason)
	}
	if diff := cmp.Diff([]Sample{{Device: f.devices[0]}}, s.Samples()); diff != "" {
		t.Errorf("samples before Run (-want +got):\n%s", diff)
	}
}

// TestNoGPUs: on a machine without GPUs, and without the tag on any.
func TestNoGPUs(t *testing.T) {
	s, reason := Open(t.Context(), "")
	defer s.Close()
	if s.Samples() != nil {
		t.Skip("this machine has GPUs")
	}
	if reason != noGPUs {
		t.Errorf("reason %q, want %q", reason, noGPUs)
	}
	if s.Driver() != "" || s.Failures() != 0 {
		t.Errorf("driver %q, %d failures", s.Driver(), s.Failures())
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		time.Sleep(time.Hour)
		if len(done) != 0 {
			t.Error("Run ended before its context")
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}
