//go:build nvml

package gpu

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// library is NVIDIA's, after a successful Init.
type library struct {
	nvml.Interface
	description
	handles []nvml.Device
	events  nvml.EventSet // nil: none

	// Calls that older drivers lack. To call one ends the process, so they are looked up first.
	memoryV2     bool // since R510
	eventReasons bool // since R535
}

var _ source = (*library)(nil)

func open(visible string) (source, error) {
	return openLibrary(nvml.New(), visible)
}

func openLibrary(lib nvml.Interface, visible string) (source, error) {
	if ret := lib.Init(); ret == nvml.ERROR_LIBRARY_NOT_FOUND {
		return nil, errors.New("no NVIDIA driver: libnvidia-ml.so.1 was not found")
	} else if ret != nvml.SUCCESS {
		return nil, fmt.Errorf("start NVML: %w", ret)
	}
	l := &library{Interface: lib}
	if err := l.find(visible); err != nil {
		l.close()
		return nil, err
	}
	l.driver, _ = lib.SystemGetDriverVersion()
	l.memoryV2 = lib.Extensions().LookupSymbol("nvmlDeviceGetMemoryInfo_v2") == nil
	l.eventReasons = lib.Extensions().LookupSymbol("nvmlDeviceGetCurrentClocksEventReasons") == nil
	if ret := l.register(); ret != nvml.SUCCESS {
		l.blind = fmt.Sprintf("XID errors are not seen: %v", ret)
	}
	return l, nil
}

// find keeps the handles of the devices that are to be watched.
func (l *library) find(visible string) error {
	n, ret := l.DeviceGetCount()
	if ret != nvml.SUCCESS {
		return fmt.Errorf("count GPUs: %w", ret)
	}
	var all library
	for i := range n {
		h, ret := l.DeviceGetHandleByIndex(i)
		if ret != nvml.SUCCESS {
			return fmt.Errorf("open GPU %d: %w", i, ret)
		}
		all.keep(i, h)
	}
	if visible == "" {
		l.handles, l.devices = all.handles, all.devices
	} else {
		l.choose(visible, &all)
	}
	switch {
	case n == 0:
		return errors.New("the driver has no GPU")
	case len(l.handles) == 0:
		return fmt.Errorf("no GPU of the %d is named by %q", n, visible)
	}
	return nil
}

// choose keeps what visible names, up to the first name that is nobody's.
func (l *library) choose(visible string, all *library) {
	for name := range strings.SplitSeq(visible, ",") {
		name = strings.TrimSpace(name)
		if strings.HasPrefix(name, "MIG-") { // a part of a GPU, which has no index
			h, ret := l.DeviceGetHandleByUUID(name)
			if ret != nvml.SUCCESS {
				return
			}
			l.keep(len(l.handles), h)
			continue
		}
		i := all.named(name)
		if i < 0 {
			return
		}
		l.keep(i, all.handles[i])
	}
}

// named gives the device with an index or the start of a UUID, or -1.
func (l *library) named(name string) int {
	if i, err := strconv.Atoi(name); err == nil {
		if i < 0 || i >= len(l.devices) {
			return -1
		}
		return i
	}
	for i, d := range l.devices {
		if strings.HasPrefix(name, "GPU-") && strings.HasPrefix(d.UUID, name) {
			return i
		}
	}
	return -1
}

func (l *library) keep(index int, h nvml.Device) {
	d := Device{Index: index}
	d.UUID, _ = h.GetUUID()
	d.Name, _ = h.GetName()
	l.handles, l.devices = append(l.handles, h), append(l.devices, d)
}

// register asks for the XIDs of all devices.
func (l *library) register() nvml.Return {
	set, ret := l.EventSetCreate()
	if ret != nvml.SUCCESS {
		return ret
	}
	for _, h := range l.handles {
		if ret := h.RegisterEvents(nvml.EventTypeXidCriticalError, set); ret != nvml.SUCCESS {
			set.Free()
			return ret
		}
	}
	l.events = set
	return nvml.SUCCESS
}

func (l *library) describe() description { return l.description }

func (l *library) close() {
	if l.events != nil {
		l.events.Free()
	}
	l.Shutdown()
}

func (l *library) wait(d time.Duration) (event, error) {
	if l.events == nil {
		return event{}, errBlind
	}
	data, ret := l.events.Wait(uint32((d + time.Millisecond - 1) / time.Millisecond))
	switch ret {
	case nvml.SUCCESS:
		return event{device: l.device(data.Device), xid: int(data.EventData)}, nil
	case nvml.ERROR_TIMEOUT:
		return event{}, errNoEvent
	case nvml.ERROR_GPU_IS_LOST:
		return event{device: -1}, nil
	}
	return event{}, fmt.Errorf("wait for XID errors: %w", ret)
}

// device finds the device of an event, by the handle or, if it has another one, by UUID; -1 if it is none.
func (l *library) device(h nvml.Device) int {
	for i := range l.handles {
		if l.handles[i] == h {
			return i
		}
	}
	if uuid, ret := h.GetUUID(); ret == nvml.SUCCESS {
		for i, d := range l.devices {
			if d.UUID == uuid {
				return i
			}
		}
	}
	return -1
}

func (l *library) read(i int) raw {
	var r raw
	h := l.handles[i]
	if u := ask(&r, h.GetUtilizationRates); u != nil {
		r.Utilization = new(float64(u.Gpu) / 100) // %
	}
	l.readMemory(&r, h)
	r.Temperature = times(1, ask(&r, func() (uint32, nvml.Return) { return h.GetTemperature(nvml.TEMPERATURE_GPU) }))
	r.Power = times(1e-3, ask(&r, h.GetPowerUsage)) // mW
	r.PowerLimit = times(1e-3, ask(&r, h.GetEnforcedPowerLimit))
	r.energy = ask(&r, h.GetTotalEnergyConsumption)
	r.SMClock = times(1e6, ask(&r, func() (uint32, nvml.Return) { return h.GetClockInfo(nvml.CLOCK_SM) })) // MHz
	r.MemoryClock = times(1e6, ask(&r, func() (uint32, nvml.Return) { return h.GetClockInfo(nvml.CLOCK_MEM) }))
	reasons := h.GetCurrentClocksThrottleReasons
	if l.eventReasons {
		reasons = h.GetCurrentClocksEventReasons
	}
	if bits := ask(&r, reasons); bits != nil {
		r.Throttle = throttle(*bits)
	}
	r.eccCorrected, r.eccUncorrected = ecc(&r, h, nvml.MEMORY_ERROR_TYPE_CORRECTED), ecc(&r, h, nvml.MEMORY_ERROR_TYPE_UNCORRECTED)
	if r.lost != "" {
		return raw{lost: r.lost, failed: r.failed} // what was read before belongs to no GPU
	}
	return r
}

// readMemory prefers the call that does not count what the driver keeps for itself as used.
func (l *library) readMemory(r *raw, h nvml.Device) {
	if l.memoryV2 {
		if m := ask(r, h.GetMemoryInfo_v2); m != nil {
			r.MemoryUsed, r.MemoryTotal = &m.Used, &m.Total
		}
	} else if m := ask(r, h.GetMemoryInfo); m != nil {
		r.MemoryUsed, r.MemoryTotal = &m.Used, &m.Total
	}
}

func ecc(r *raw, h nvml.Device, kind nvml.MemoryErrorType) *uint64 {
	return ask(r, func() (uint64, nvml.Return) { return h.GetTotalEccErrors(kind, nvml.VOLATILE_ECC) })
}

// ask calls, and gives nil if there is no value. A lost device is not asked again: it might not answer.
func ask[T any](r *raw, call func() (T, nvml.Return)) *T {
	if r.lost != "" {
		return nil
	}
	v, ret := call()
	switch ret {
	case nvml.SUCCESS:
		return &v
	case nvml.ERROR_GPU_IS_LOST:
		r.lost = lost
	case nvml.ERROR_RESET_REQUIRED:
		r.lost = reset
	case nvml.ERROR_NOT_SUPPORTED, nvml.ERROR_NO_PERMISSION, nvml.ERROR_FUNCTION_NOT_FOUND: // and never will be
	default:
		r.failed++
	}
	return nil
}

// times converts a unit.
func times(factor float64, v *uint32) *float64 {
	if v == nil {
		return nil
	}
	return new(factor * float64(*v))
}

// throttle names the bits of nvmlClocksEventReasons (nvml.h).
func throttle(bits uint64) []string {
	names := []struct {
		bit  uint64
		name string
	}{
		{nvml.ClocksEventReasonApplicationsClocksSetting, "application_clocks"},
		{nvml.ClocksEventReasonSwPowerCap, "sw_power_cap"},
		{nvml.ClocksThrottleReasonHwSlowdown, "hw_slowdown"},
		{nvml.ClocksEventReasonSyncBoost, "sync_boost"},
		{nvml.ClocksEventReasonSwThermalSlowdown, "sw_thermal"},
		{nvml.ClocksThrottleReasonHwThermalSlowdown, "hw_thermal"},
		{nvml.ClocksThrottleReasonHwPowerBrakeSlowdown, "hw_power_brake"},
		{nvml.ClocksEventReasonDisplayClockSetting, "display_clocks"},
		{nvml.ClocksEventReasonBoardLimit, "board_limit"},
		{nvml.ClocksEventReasonReliability, "reliability"},
	}
	reasons := []string{}
	bits &^= nvml.ClocksEventReasonGpuIdle
	for _, n := range names {
		if bits&n.bit != 0 {
			reasons = append(reasons, n.name)
		}
		bits &^= n.bit
	}
	if bits != 0 {
		reasons = append(reasons, "other")
	}
	return reasons
}
