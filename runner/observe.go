package runner

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strconv"
	"time"

	"spool/monitoring"
	"spool/runner/gpu"
	"spool/runner/vllm"
	"spool/storage/batch"
)

// phaseEvery is how often it is looked at what the runner does. The time since the last look is taken to be all of one
// phase, so that the phases add up to the whole.
const phaseEvery = 250 * time.Millisecond

// countPhases gives the runner's time names until ctx ends.
func (r *Runner) countPhases(ctx, stopping context.Context) {
	last := time.Now()
	for more := true; more; {
		more = pause(ctx, phaseEvery)
		now := time.Now()
		phase := r.phase(stopping)
		r.meter.phases.WithLabelValues(phase).Add(now.Sub(last).Seconds())
		r.look(now, phase)
		last = now
	}
}

// look tells the records of the batches that are held what the runner did up to now.
func (r *Runner) look(now time.Time, phase string) {
	r.mu.Lock()
	ledgers := slices.Collect(maps.Values(r.ledgers))
	r.mu.Unlock()
	gpus, fresh := r.gpuPoint()
	for _, l := range ledgers {
		if l.held.Load() > 0 {
			l.look(now, phase)
			if fresh {
				l.lookAtGPUs(now, gpus)
			}
		}
	}
}

// gpuPoint sums up how the GPUs are, and tells whether they were read since the last call. It is called by one goroutine.
func (r *Runner) gpuPoint() (p batch.GPUPoint, fresh bool) {
	if r.cfg.GPUs == nil {
		return p, false
	}
	samples := r.cfg.GPUs.Samples()
	for _, s := range samples {
		if s.Time.After(r.gpusRead) {
			r.gpusRead, fresh = s.Time, true
		}
	}
	return pointOf(samples), fresh
}

// pointOf gives the means, the hottest, and the power of all together, each of the GPUs that say it.
func pointOf(samples []gpu.Sample) batch.GPUPoint {
	var busy, memory, power []float64
	var p batch.GPUPoint
	for _, s := range samples {
		if s.Utilization != nil {
			busy = append(busy, *s.Utilization)
		}
		if s.MemoryUsed != nil {
			memory = append(memory, float64(*s.MemoryUsed))
		}
		if s.Power != nil {
			power = append(power, *s.Power)
		}
		if s.Temperature != nil && (p.Temperature == nil || *s.Temperature > *p.Temperature) {
			p.Temperature = s.Temperature
		}
	}
	p.Utilization, p.MemoryUsed, p.Power = sumOver(busy, len(busy)), sumOver(memory, len(memory)), sumOver(power, 1)
	return p
}

// sumOver divides the sum of what is known by n; nil if nothing is.
func sumOver(values []float64, n int) *float64 {
	if len(values) == 0 {
		return nil
	}
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	sum /= float64(n)
	return &sum
}

// phase tells what the runner does now.
func (r *Runner) phase(stopping context.Context) string {
	r.mu.Lock()
	active := r.active
	r.mu.Unlock()
	switch {
	case stopping.Err() != nil:
		return batch.PhaseDrain
	case active == 0:
		return batch.PhaseIdle
	case r.meter.asked.Load() > 0:
		return batch.PhaseGenerate
	case !r.fleet.ready():
		return batch.PhaseEngine
	}
	return batch.PhaseStore
}

// observe registers what is read from engines and GPUs when somebody looks.
func (r *Runner) observe() {
	set := monitoring.NewSet(r.cfg.Metrics)
	set.Collect(r.collectInfo, "spool_runner_info")
	set.Collect(r.fleet.collect, "spool_engine_ready", "spool_engine_starts_total", "spool_engine_load_start_timestamp_seconds",
		"spool_engine_load_duration_seconds", "spool_engine_tokens_total", "spool_engine_preemptions_total",
		"spool_engine_prefix_cache_tokens_total", "spool_engine_sequences", "spool_engine_kv_cache_usage_ratio")
	set.Collect(func(emit monitoring.Emit) { collectHost(emit, r.cfg.Scratch) }, hostMetrics()...)
	if r.cfg.GPUs != nil {
		set.Collect(func(emit monitoring.Emit) { collectGPUs(emit, r.cfg.GPUs.Samples()) }, gpuMetrics()...)
	}
}

func hostMetrics() []string {
	return []string{"spool_host_memory_used_bytes", "spool_host_memory_available_bytes", "spool_host_disk_free_bytes",
		"spool_host_cpu_seconds_total"}
}

func gpuMetrics() []string {
	return []string{"spool_gpu_utilization_ratio", "spool_gpu_memory_used_bytes", "spool_gpu_memory_total_bytes",
		"spool_gpu_memory_used_max_bytes", "spool_gpu_temperature_celsius", "spool_gpu_temperature_max_celsius",
		"spool_gpu_energy_joules_total", "spool_gpu_clock_throttle_seconds_total", "spool_gpu_xid_errors_total",
		"spool_gpu_ecc_errors_total", "spool_runner_idle_gpu_seconds_total"}
}

func (r *Runner) collectInfo(emit monitoring.Emit) {
	engine, gpuName := "", ""
	for _, e := range r.fleet.describe() {
		engine = cmp.Or(engine, e.Version)
	}
	if r.cfg.GPUs != nil {
		for _, s := range r.cfg.GPUs.Samples() {
			gpuName = cmp.Or(gpuName, s.Name)
		}
	}
	emit("spool_runner_info", 1, r.cfg.Version, r.cfg.Pool, engine, gpuName)
}

// ready reports whether an engine is up.
func (f *fleet) ready() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.members {
		if m.up {
			return true
		}
	}
	return false
}

// collect tells about the engines, from the last looks at them.
func (f *fleet) collect(emit monitoring.Emit) {
	ready := 0.0
	if f.ready() {
		ready = 1
	}
	emit("spool_engine_ready", ready)
	f.mu.Lock()
	defer f.mu.Unlock()
	if since := f.waitsSince(); ready == 0 && !since.IsZero() {
		emit("spool_engine_load_start_timestamp_seconds", float64(since.UnixNano())/1e9)
	}
	starts := 0
	var total vllm.Counters
	var load vllm.Load
	for _, m := range f.members {
		starts += m.epoch
		if m.counters != nil {
			total = total.Plus(m.earlier).Plus(*m.counters)
		}
		if m.up {
			load.Running += m.load.Running
			load.Waiting += m.load.Waiting
			load.KVCache = max(load.KVCache, m.load.KVCache)
		}
		if r, ok := m.Engine.(recorded); ok {
			emit("spool_engine_load_duration_seconds", r.Record().LoadSeconds)
		}
	}
	emit("spool_engine_starts_total", float64(starts))
	emit("spool_engine_tokens_total", total.PromptTokens, "prompt")
	emit("spool_engine_tokens_total", total.GenerationTokens, "generation")
	emit("spool_engine_preemptions_total", total.Preemptions)
	emit("spool_engine_prefix_cache_tokens_total", total.PrefixQueries, "queried")
	emit("spool_engine_prefix_cache_tokens_total", total.PrefixHits, "hit")
	emit("spool_engine_sequences", load.Running, "running")
	emit("spool_engine_sequences", load.Waiting, "waiting")
	emit("spool_engine_kv_cache_usage_ratio", load.KVCache)
}

// waitsSince is when the trouble began, or when somebody first asked for an engine, if that is later; zero if nobody has, or
// if there is no trouble. It works under mu.
func (f *fleet) waitsSince() time.Time {
	switch {
	case f.wantedAt.IsZero(), f.trouble.IsZero():
		return time.Time{}
	case f.trouble.After(f.wantedAt):
		return f.trouble
	}
	return f.wantedAt
}

// collectGPUs tells what each GPU says; what it cannot say is absent, not zero.
func collectGPUs(emit monitoring.Emit, samples []gpu.Sample) {
	for _, s := range samples {
		id := strconv.Itoa(s.Index)
		number(emit, "spool_gpu_utilization_ratio", s.Utilization, id)
		number(emit, "spool_gpu_memory_used_bytes", s.MemoryUsed, id)
		number(emit, "spool_gpu_memory_total_bytes", s.MemoryTotal, id)
		number(emit, "spool_gpu_memory_used_max_bytes", s.MemoryUsedMax, id)
		number(emit, "spool_gpu_temperature_celsius", s.Temperature, id)
		number(emit, "spool_gpu_temperature_max_celsius", s.TemperatureMax, id)
		number(emit, "spool_gpu_energy_joules_total", s.Energy, id)
		number(emit, "spool_gpu_ecc_errors_total", s.ECCCorrected, id, "corrected")
		number(emit, "spool_gpu_ecc_errors_total", s.ECCUncorrected, id, "uncorrected")
		for reason, seconds := range s.Throttled {
			emit("spool_gpu_clock_throttle_seconds_total", seconds, id, reason)
		}
		for xid, n := range s.XIDs {
			emit("spool_gpu_xid_errors_total", float64(n), id, strconv.Itoa(xid))
		}
		if s.Busy != nil {
			emit("spool_runner_idle_gpu_seconds_total", max(0, s.Observed-*s.Busy), id)
		}
	}
}

func number[T float64 | uint64](emit monitoring.Emit, name string, v *T, labels ...string) {
	if v != nil {
		emit(name, float64(*v), labels...)
	}
}
