package gpu

import (
	"fmt"
	"maps"
	"time"
)

// Device is a GPU by name.
type Device struct {
	Index int    `json:"index"`          // as nvidia-smi counts; of parts of GPUs (MIG), in the list that names them
	UUID  string `json:"uuid,omitempty"` // GPU-… or MIG-…
	Name  string `json:"name,omitempty"` // of the product
}

// Reading is what a GPU says of itself at one time. What it cannot say is nil, not zero: a part of a GPU (MIG), for one,
// knows no utilisation.
type Reading struct {
	Utilization *float64 `json:"utilization,omitzero"`        // 0 to 1, the part of the last second in which a kernel ran
	MemoryUsed  *uint64  `json:"memory_used_bytes,omitzero"`  // allocated; an engine allocates all it may when it starts
	MemoryTotal *uint64  `json:"memory_total_bytes,omitzero"` // built in
	Temperature *float64 `json:"temperature_celsius,omitzero"`
	Power       *float64 `json:"power_watts,omitzero"`
	PowerLimit  *float64 `json:"power_limit_watts,omitzero"` // that is in force
	SMClock     *float64 `json:"sm_clock_hertz,omitzero"`
	MemoryClock *float64 `json:"memory_clock_hertz,omitzero"`

	// Throttle are the reasons why clocks are lower than they could be, in a fixed order: application_clocks, sw_power_cap,
	// hw_slowdown, sync_boost, sw_thermal, hw_thermal, hw_power_brake, display_clocks, board_limit, reliability, other. It is
	// empty if there is none; that the GPU has nothing to do is none. sw_power_cap alone is usual under load.
	Throttle []string `json:"throttle,omitzero"`
}

// Sample is the state of one GPU. Its sums and maxima are over all readings since Run began, so the difference of two
// samples is what happened between them; Busy by Observed is the mean utilisation.
type Sample struct {
	Device
	Reading
	Time  time.Time `json:"time,omitzero"`   // of the reading; zero before the first
	Unfit string    `json:"unfit,omitempty"` // why the GPU must not be used any longer; its reading is empty then, if it is lost

	Observed       float64            `json:"observed_seconds"`      // from the first reading to the last
	Busy           *float64           `json:"busy_seconds,omitzero"` // utilisation × time
	MemoryUsedMax  *uint64            `json:"memory_used_max_bytes,omitzero"`
	TemperatureMax *float64           `json:"temperature_max_celsius,omitzero"`
	Energy         *float64           `json:"energy_joules,omitzero"`              // of the GPU's counter, else power × time
	Throttled      map[string]float64 `json:"throttled_seconds,omitzero"`          // by reason, each counted on its own
	ECCCorrected   *uint64            `json:"ecc_corrected_errors_total,omitzero"` // nil without ECC
	ECCUncorrected *uint64            `json:"ecc_uncorrected_errors_total,omitzero"`
	XIDs           map[int]int        `json:"xids,omitempty"` // how often the driver reported each error, by its number
}

// UnfitError says that a GPU must not be used any longer, whatever it goes on to answer: results may be wrong, or the next
// call never returns. The machine is to be given up.
type UnfitError struct {
	Device Device // Index -1: the driver did not say which
	XID    int    // 0: no XID, the driver says that the GPU is lost or must be reset
	Cause  string
}

func (e *UnfitError) Error() string {
	if e.Device.Index < 0 {
		return "a GPU is unfit: " + e.Cause
	}
	return fmt.Sprintf("GPU %d (%s) is unfit: %s", e.Device.Index, e.Device.UUID, e.Cause)
}

// ErrorType is for logs.
func (e *UnfitError) ErrorType() string { return "gpu_unfit" }

// unfit says what an XID means if it ends the use of the GPU, and is empty if it does not: an XID 13, 31 or 43, say, is the
// fault of the program that it ended. Numbers and meanings: https://docs.nvidia.com/deploy/xid-errors
func unfit(xid int) string {
	switch xid {
	case 48:
		return "XID 48, double-bit ECC error"
	case 79:
		return "XID 79, GPU has fallen off the bus"
	case 95:
		return "XID 95, uncontained memory error"
	case 119:
		return "XID 119, GPU system processor does not answer"
	}
	return ""
}

// raw is a reading with the counters of the device, which started before ours.
type raw struct {
	Reading
	energy                       *uint64 // mJ
	eccCorrected, eccUncorrected *uint64
	lost                         string // why nothing can be read any more
	failed                       int    // calls that should have worked
}

// state is a sample in the making.
type state struct {
	Sample
	last raw // but that a counter stays until there is a new one
}

// add takes the next reading in.
func (s *state) add(r raw, now time.Time) {
	first := s.Time.IsZero()
	var dt float64
	if !first {
		dt = now.Sub(s.Time).Seconds()
	}
	s.Reading, s.Time = r.Reading, now
	s.Observed += dt
	if r.lost != "" {
		s.Unfit = r.lost
	}
	if r.Utilization != nil {
		add(&s.Busy, *r.Utilization*dt)
	}
	highest(&s.MemoryUsedMax, r.MemoryUsed)
	highest(&s.TemperatureMax, r.Temperature)
	s.addThrottled(r.Throttle, dt)
	s.addEnergy(r, dt)
	count(&s.ECCCorrected, &s.last.eccCorrected, r.eccCorrected)
	count(&s.ECCUncorrected, &s.last.eccUncorrected, r.eccUncorrected)
	s.last.Reading = r.Reading
}

func (s *state) addThrottled(reasons []string, dt float64) {
	if reasons != nil && s.Throttled == nil {
		s.Throttled = map[string]float64{}
	}
	for _, reason := range reasons {
		s.Throttled[reason] += dt
	}
}

// addEnergy prefers the counter of the device. A device that never showed one is integrated: between two readings its power
// is taken to be the mean of both.
func (s *state) addEnergy(r raw, dt float64) {
	var counted *uint64
	switch before := s.last.energy; {
	case r.energy != nil:
		count(&counted, &s.last.energy, r.energy)
		if before == nil {
			s.Energy = nil // what was integrated meanwhile is not of this counter
		}
		add(&s.Energy, float64(*counted)/1000)
	case before == nil && r.Power != nil:
		joules := 0.0
		if p := s.last.Power; p != nil {
			joules = (*p + *r.Power) / 2 * dt
		}
		add(&s.Energy, joules)
	}
}

// count adds to a sum what a counter has grown by, and remembers the counter. A counter that is smaller than before has
// started again.
func count(sum, last **uint64, now *uint64) {
	if now == nil {
		return
	}
	var grown uint64
	switch {
	case *last == nil: // the first time: what was before is not ours
	case *now < **last:
		grown = *now
	default:
		grown = *now - **last
	}
	add(sum, grown)
	*last = now
}

// add makes a new number: the old one may be in a sample that was given away.
func add[T float64 | uint64](sum **T, v T) {
	if *sum != nil {
		v += **sum
	}
	*sum = &v
}

func highest[T float64 | uint64](top **T, v *T) {
	if v != nil && (*top == nil || *v > **top) {
		*top = v
	}
}

// sample is a copy that nobody changes.
func (s *state) sample() Sample {
	c := s.Sample
	c.Throttled, c.XIDs = maps.Clone(c.Throttled), maps.Clone(c.XIDs)
	return c
}
