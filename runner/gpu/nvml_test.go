//go:build nvml

package gpu

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/dgxa100"
	"github.com/google/go-cmp/cmp"
)

const noGPUs = "no NVIDIA driver: libnvidia-ml.so.1 was not found"

// machine is go-nvml's DGX A100 with some of its eight GPUs, all busy.
type machine struct {
	*dgxa100.Server
	gpus   []*dgxa100.Device
	set    *mock.EventSet
	events chan nvml.EventData
}

func newMachine(gpus int) *machine {
	m := &machine{Server: dgxa100.New(), events: make(chan nvml.EventData)}
	m.Devices = m.Devices[:gpus]
	m.set = &mock.EventSet{
		FreeFunc: func() nvml.Return { return nvml.SUCCESS },
		WaitFunc: func(ms uint32) (nvml.EventData, nvml.Return) {
			select {
			case e := <-m.events:
				return e, nvml.SUCCESS
			case <-time.After(time.Duration(ms) * time.Millisecond):
				return nvml.EventData{}, nvml.ERROR_TIMEOUT
			}
		},
	}
	m.EventSetCreateFunc = func() (nvml.EventSet, nvml.Return) { return m.set, nvml.SUCCESS }
	for i := range m.Devices {
		d := m.Devices[i].(*dgxa100.Device)
		d.UUID = []string{"GPU-aa00", "GPU-ab11", "GPU-b222"}[i]
		m.gpus = append(m.gpus, d)
		d.RegisterEventsFunc = func(uint64, nvml.EventSet) nvml.Return { return nvml.SUCCESS }
		answer(&d.Device, nvml.SUCCESS)
	}
	return m
}

// answer makes every call that is asked for readings return ret and, whatever ret is, a value.
func answer(d *mock.Device, ret nvml.Return) {
	d.GetUtilizationRatesFunc = func() (nvml.Utilization, nvml.Return) { return nvml.Utilization{Gpu: 87, Memory: 12}, ret }
	d.GetMemoryInfo_v2Func = func() (nvml.Memory_v2, nvml.Return) {
		return nvml.Memory_v2{Total: 40 << 30, Reserved: 1 << 30, Free: 2 << 30, Used: 37 << 30}, ret
	}
	d.GetTemperatureFunc = func(s nvml.TemperatureSensors) (uint32, nvml.Return) {
		return map[nvml.TemperatureSensors]uint32{nvml.TEMPERATURE_GPU: 64}[s], ret
	}
	d.GetPowerUsageFunc = func() (uint32, nvml.Return) { return 312_450, ret }
	d.GetEnforcedPowerLimitFunc = func() (uint32, nvml.Return) { return 400_000, ret }
	d.GetTotalEnergyConsumptionFunc = func() (uint64, nvml.Return) { return 5_000_000_000_123, ret }
	d.GetClockInfoFunc = func(c nvml.ClockType) (uint32, nvml.Return) {
		return map[nvml.ClockType]uint32{nvml.CLOCK_SM: 1410, nvml.CLOCK_MEM: 1215, nvml.CLOCK_GRAPHICS: 1}[c], ret
	}
	d.GetCurrentClocksEventReasonsFunc = func() (uint64, nvml.Return) { return 0x44, ret }
	d.GetTotalEccErrorsFunc = func(e nvml.MemoryErrorType, c nvml.EccCounterType) (uint64, nvml.Return) {
		if c != nvml.VOLATILE_ECC {
			return 999, ret
		}
		return map[nvml.MemoryErrorType]uint64{nvml.MEMORY_ERROR_TYPE_CORRECTED: 17, nvml.MEMORY_ERROR_TYPE_UNCORRECTED: 2}[e], ret
	}
}

// full is what answer says, in base units.
func full() raw {
	return raw{
		Reading: Reading{
			Utilization: new(0.87), MemoryUsed: new(uint64(39_728_447_488)), MemoryTotal: new(uint64(42_949_672_960)),
			Temperature: new(64.0), Power: new(312.45), PowerLimit: new(400.0), SMClock: new(1.41e9), MemoryClock: new(1.215e9),
			Throttle: []string{"sw_power_cap", "hw_thermal"},
		},
		energy: new(uint64(5_000_000_000_123)), eccCorrected: new(uint64(17)), eccUncorrected: new(uint64(2)),
	}
}

func (m *machine) open(t *testing.T, visible string) *library {
	t.Helper()
	src, err := openLibrary(m, visible)
	if err != nil {
		t.Fatal(err)
	}
	return src.(*library)
}

func checkRaw(t *testing.T, got, want raw) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(raw{})); diff != "" {
		t.Errorf("reading (-want +got):\n%s", diff)
	}
}

func TestReadingHasBaseUnits(t *testing.T) {
	m := newMachine(2)
	l := m.open(t, "")
	checkRaw(t, l.read(1), full())
	want := description{driver: "550.54.15", devices: []Device{{0, "GPU-aa00", "Mock NVIDIA A100-SXM4-40GB"}, {1, "GPU-ab11", "Mock NVIDIA A100-SXM4-40GB"}}}
	m.gpus[0].GetNameFunc = nil // asked once
	if diff := cmp.Diff(want, l.describe(), cmp.AllowUnexported(description{})); diff != "" {
		t.Errorf("description (-want +got):\n%s", diff)
	}
}

func TestReadingWithoutAValue(t *testing.T) {
	tests := []struct {
		ret  nvml.Return
		want raw
	}{
		{nvml.ERROR_NOT_SUPPORTED, raw{}},
		{nvml.ERROR_NO_PERMISSION, raw{}},
		{nvml.ERROR_FUNCTION_NOT_FOUND, raw{}},
		{nvml.ERROR_UNKNOWN, raw{failed: 11}}, // every call
		{nvml.ERROR_GPU_IS_LOST, raw{lost: "the driver has lost it"}},
		{nvml.ERROR_RESET_REQUIRED, raw{lost: "the driver says that it must be reset"}},
	}
	for _, tt := range tests {
		m := newMachine(1)
		answer(&m.gpus[0].Device, tt.ret)
		t.Log(tt.ret)
		checkRaw(t, m.open(t, "").read(0), tt.want)
	}
}

func TestOneCallWithoutAValue(t *testing.T) {
	tests := []struct {
		name string
		set  func(d *dgxa100.Device)
		want func(r *raw)
	}{
		{"MIG has no utilisation", func(d *dgxa100.Device) {
			d.GetUtilizationRatesFunc = func() (nvml.Utilization, nvml.Return) { return nvml.Utilization{}, nvml.ERROR_NOT_SUPPORTED }
		}, func(r *raw) { r.Utilization = nil }},
		{"before Volta no energy", func(d *dgxa100.Device) {
			d.GetTotalEnergyConsumptionFunc = func() (uint64, nvml.Return) { return 0, nvml.ERROR_NOT_SUPPORTED }
		}, func(r *raw) { r.energy = nil }},
		{"ECC is off", func(d *dgxa100.Device) {
			d.GetTotalEccErrorsFunc = func(nvml.MemoryErrorType, nvml.EccCounterType) (uint64, nvml.Return) {
				return 0, nvml.ERROR_NOT_SUPPORTED
			}
		}, func(r *raw) { r.eccCorrected, r.eccUncorrected = nil, nil }},
		{"power fails", func(d *dgxa100.Device) {
			d.GetPowerUsageFunc = func() (uint32, nvml.Return) { return 0, nvml.ERROR_UNKNOWN }
		}, func(r *raw) { r.Power, r.failed = nil, 1 }},
		{"lost on the way", func(d *dgxa100.Device) {
			d.GetPowerUsageFunc = func() (uint32, nvml.Return) { return 0, nvml.ERROR_GPU_IS_LOST }
			d.GetEnforcedPowerLimitFunc, d.GetTotalEccErrorsFunc = nil, nil // would panic: a lost GPU is not asked again
		}, func(r *raw) { *r = raw{lost: lost} }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(1)
			tt.set(m.gpus[0])
			want := full()
			tt.want(&want)
			checkRaw(t, m.open(t, "").read(0), want)
		})
	}
}

func TestOldDriver(t *testing.T) {
	m := newMachine(1)
	m.LookupSymbolFunc = func(symbol string) error {
		switch symbol {
		case "nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetCurrentClocksEventReasons":
			return errors.New("undefined symbol")
		}
		return nil
	}
	d := m.gpus[0]
	d.GetMemoryInfo_v2Func, d.GetCurrentClocksEventReasonsFunc = nil, nil // would panic, as a process with the real library ends
	d.MemoryInfo = nvml.Memory{Total: 40 << 30, Free: 2 << 30, Used: 38 << 30}
	d.GetCurrentClocksThrottleReasonsFunc = func() (uint64, nvml.Return) { return 0x8, nvml.SUCCESS }
	want := full()
	want.MemoryUsed, want.Throttle = new(uint64(38<<30)), []string{"hw_slowdown"}
	checkRaw(t, m.open(t, "").read(0), want)
}

func TestThrottleReasons(t *testing.T) {
	tests := []struct {
		bits uint64
		want string
	}{
		{0, ""},
		{0x1, ""}, // idle
		{0x2, "application_clocks"},
		{0x4, "sw_power_cap"},
		{0x8, "hw_slowdown"},
		{0x10, "sync_boost"},
		{0x20, "sw_thermal"},
		{0x40, "hw_thermal"},
		{0x80, "hw_power_brake"},
		{0x100, "display_clocks"},
		{0x200, "board_limit"},
		{0x400, "reliability"},
		{0x800, "other"},
		{0x1 | 0x8 | 0x40 | 0x10000 | 0x20000, "hw_slowdown hw_thermal other"},
	}
	for _, tt := range tests {
		got := throttle(tt.bits)
		if got == nil || strings.Join(got, " ") != tt.want {
			t.Errorf("%#x: %q, want %q", tt.bits, got, tt.want)
		}
	}
}

func TestVisible(t *testing.T) {
	tests := []struct{ visible, want string }{
		{"", "GPU-aa00 GPU-ab11 GPU-b222"},
		{"1", "GPU-ab11"},
		{"2,0", "GPU-b222 GPU-aa00"},
		{" 2 , 0", "GPU-b222 GPU-aa00"},
		{"0,3,1", "GPU-aa00"}, // ends before what is not there
		{"0,-1,1", "GPU-aa00"},
		{"GPU-b222", "GPU-b222"},
		{"GPU-b", "GPU-b222"},
		{"GPU-ab11,GPU-c,0", "GPU-ab11"},
		{"-1", `no GPU of the 3 is named by "-1"`},
		{"none", `no GPU of the 3 is named by "none"`},
		{"MIG-1,MIG-2,MIG-1", "MIG-1"},
	}
	for _, tt := range tests {
		m := newMachine(3)
		m.DeviceGetHandleByUUIDFunc = func(uuid string) (nvml.Device, nvml.Return) {
			if uuid != "MIG-1" {
				return nil, nvml.ERROR_NOT_FOUND
			}
			part := dgxa100.NewDevice(0)
			part.UUID = uuid
			part.RegisterEventsFunc = func(uint64, nvml.EventSet) nvml.Return { return nvml.ERROR_NOT_SUPPORTED }
			return part, nvml.SUCCESS
		}
		src, err := openLibrary(m, tt.visible)
		if err != nil {
			if err.Error() != tt.want {
				t.Errorf("%q: %v, want %q", tt.visible, err, tt.want)
			}
			continue
		}
		var got []string
		for _, d := range src.describe().devices {
			got = append(got, d.UUID)
			if strings.HasPrefix(d.UUID, "GPU-") && m.gpus[d.Index].UUID != d.UUID {
				t.Errorf("%q: %s has index %d", tt.visible, d.UUID, d.Index)
			}
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%q: %q, want %q", tt.visible, got, tt.want)
		}
	}
}

func TestOpenSaysWhyNot(t *testing.T) {
	tests := []struct {
		name      string
		set       func(m *machine)
		want      string
		shutdowns int
	}{
		{"no library", func(m *machine) { m.InitFunc = func() nvml.Return { return nvml.ERROR_LIBRARY_NOT_FOUND } }, noGPUs, 0},
		{"no driver", func(m *machine) { m.InitFunc = func() nvml.Return { return nvml.ERROR_DRIVER_NOT_LOADED } },
			"start NVML: ERROR_DRIVER_NOT_LOADED", 0},
		{"no GPU", func(m *machine) { m.Devices = nil }, "the driver has no GPU", 1},
		{"no count", func(m *machine) { m.DeviceGetCountFunc = func() (int, nvml.Return) { return 0, nvml.ERROR_UNKNOWN } },
			"count GPUs: ERROR_UNKNOWN", 1},
		{"no handle", func(m *machine) {
			m.DeviceGetHandleByIndexFunc = func(int) (nvml.Device, nvml.Return) { return nil, nvml.ERROR_GPU_IS_LOST }
		}, "open GPU 0: ERROR_GPU_IS_LOST", 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(1)
			tt.set(m)
			src, err := openLibrary(m, "")
			if src != nil || err == nil || err.Error() != tt.want {
				t.Errorf("got %v, %v; want %q", src, err, tt.want)
			}
			if got := len(m.ShutdownCalls()); got != tt.shutdowns {
				t.Errorf("%d shutdowns, want %d", got, tt.shutdowns)
			}
		})
	}
}

func TestEventsAreAskedForAndGivenBack(t *testing.T) {
	m := newMachine(2)
	l := m.open(t, "")
	for i, d := range m.gpus {
		calls := d.RegisterEventsCalls()
		if len(calls) != 1 || calls[0].V != nvml.EventTypeXidCriticalError || calls[0].EventSet != m.set {
			t.Errorf("GPU %d: registered %+v", i, calls)
		}
	}
	if l.blind != "" {
		t.Errorf("blind: %s", l.blind)
	}
	l.close()
	if len(m.set.FreeCalls()) != 1 || len(m.ShutdownCalls()) != 1 {
		t.Errorf("freed %d times, shut down %d times", len(m.set.FreeCalls()), len(m.ShutdownCalls()))
	}
}

func TestEventsAreNotSupported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(2)
		m.gpus[1].RegisterEventsFunc = func(uint64, nvml.EventSet) nvml.Return { return nvml.ERROR_NOT_SUPPORTED }
		l := m.open(t, "")
		if want := "XID errors are not seen: ERROR_NOT_SUPPORTED"; l.blind != want {
			t.Errorf("blind %q, want %q", l.blind, want)
		}
		s, stop := start(t, l)
		if got := after(s, 4)[1]; got.Observed != 3 || *got.Utilization != 0.87 {
			t.Errorf("observed for %v s, utilisation %v", got.Observed, *got.Utilization)
		}
		if err := stop(); err != nil || s.Failures() != 0 {
			t.Errorf("Run: %v, %d failures", err, s.Failures())
		}
		s.Close()
		if len(m.set.FreeCalls()) != 1 || len(m.set.WaitCalls()) != 0 || len(m.ShutdownCalls()) != 1 {
			t.Errorf("freed %d times, waited %d times, shut down %d times", len(m.set.FreeCalls()), len(m.set.WaitCalls()), len(m.ShutdownCalls()))
		}
	})
}

// TestXIDsOfTheDriver sends events with the handle that was registered, and with another one of the same GPU.
func TestXIDsOfTheDriver(t *testing.T) {
	for _, xid := range []int{13, 31, 43, 63, 94, 48, 79, 95, 119} {
		synctest.Test(t, func(t *testing.T) {
			m := newMachine(3)
			s, stop := start(t, m.open(t, "0,2"))
			another := &mock.Device{GetUUIDFunc: func() (string, nvml.Return) { return "GPU-b222", nvml.SUCCESS }}
			event := nvml.EventData{Device: another, EventType: nvml.EventTypeXidCriticalError, EventData: uint64(xid)}
			m.events <- event
			times := 1
			if unfit(xid) == "" {
				event.Device = m.gpus[2]
				m.events <- event
				times = 2
			}
			synctest.Wait()
			got := s.Samples()
			if got[0].XIDs != nil || got[0].Unfit != "" {
				t.Errorf("XID %d: GPU 0 has %v, unfit %q", xid, got[0].XIDs, got[0].Unfit)
			}
			if diff := cmp.Diff(map[int]int{xid: times}, got[1].XIDs); diff != "" || got[1].Unfit != unfit(xid) {
				t.Errorf("XID %d: GPU 2: unfit %q; XIDs (-want +got):\n%s", xid, got[1].Unfit, diff)
			}
			checkUnfit(t, stop(), &UnfitError{Device: Device{2, "GPU-b222", "Mock NVIDIA A100-SXM4-40GB"}, XID: xid, Cause: unfit(xid)})
			s.Close()
		})
	}
}

func TestEventsThatCannotBePlaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(1)
		_, stop := start(t, m.open(t, ""))
		mute := &mock.Device{GetUUIDFunc: func() (string, nvml.Return) { return "", nvml.ERROR_GPU_IS_LOST }}
		m.events <- nvml.EventData{Device: mute, EventData: 79}
		checkUnfit(t, stop(), &UnfitError{Device: Device{Index: -1}, XID: 79, Cause: unfit(79)})
	})
}

func TestWaitFails(t *testing.T) {
	tests := []struct {
		ret      nvml.Return
		want     *UnfitError
		failures int // in 1 s
	}{
		{nvml.ERROR_GPU_IS_LOST, &UnfitError{Device: Device{Index: -1}, Cause: lost}, 0},
		{nvml.ERROR_UNKNOWN, &UnfitError{}, 4},
	}
	for _, tt := range tests {
		synctest.Test(t, func(t *testing.T) {
			m := newMachine(1)
			m.set.WaitFunc = func(uint32) (nvml.EventData, nvml.Return) { return nvml.EventData{}, tt.ret }
			s, stop := start(t, m.open(t, ""))
			time.Sleep(time.Second - time.Millisecond)
			if got := s.Failures(); got != tt.failures {
				t.Errorf("%v: %d failures, want %d", tt.ret, got, tt.failures)
			}
			checkUnfit(t, stop(), tt.want)
		})
	}
}
