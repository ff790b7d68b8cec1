package runner

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"spool/monitoring"
	"spool/runner/gpu"
	"spool/runner/vllm"
)

// values reads all counters and gauges, and counts and sums of histograms, by name and labels.
func values(t *testing.T, g prometheus.Gatherer) map[string]float64 {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			key := fmt.Sprintf("%s{%s}", f.GetName(), strings.Join(labels, ","))
			if f.GetType() == dto.MetricType_HISTOGRAM {
				all[key+"_count"], all[key+"_sum"] = float64(m.GetHistogram().GetSampleCount()), m.GetHistogram().GetSampleSum()
				continue
			}
			all[key] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return all
}

func wantValues(t *testing.T, got, want map[string]float64) {
	t.Helper()
	for key, v := range want {
		if g, ok := got[key]; !ok || g != v {
			t.Errorf("%s is %v (there: %t), want %v", key, g, ok, v)
		}
	}
}

func TestMetricsAreTheTruth(t *testing.T) {
	w := newWorld(t)
	w.engine.script = func(w http.ResponseWriter, _ *http.Request, prompt string, ask int) bool {
		switch {
		case prompt == "1":
			w.WriteHeader(http.StatusBadRequest)
		case prompt == "2" && ask < 3:
			w.WriteHeader(http.StatusInternalServerError)
		default:
			return false
		}
		io.WriteString(w, `{"error":{"message":"no"}}`)
		return true
	}
	w.batch(25, 10, 7) // line 7 is bad: nobody asks for it
	reg := prometheus.NewRegistry()
	cfg := w.config()
	cfg.Metrics, cfg.Version, cfg.Pool = reg, "v1", "p"
	if err := w.run(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	got := values(t, reg)
	const requests = "spool_requests_total{model=m,operation=chat.completions,status="
	wantValues(t, got, map[string]float64{
		requests + "ok}": 23, requests + "error}": 1, requests + "retried}": 2,
		"spool_request_errors_total{error_type=http_400,model=m}":                  1,
		"spool_request_errors_total{error_type=http_500,model=m}":                  2,
		"spool_request_duration_seconds{model=m,operation=chat.completions}_count": 23,
		"spool_engine_answers_total{outcome=ok}":                                   23,
		"spool_engine_answers_total{outcome=retry}":                                2,
		"spool_engine_answers_total{outcome=rejected}":                             1,
		"spool_tokens_total{model=m,type=input}":                                   69,
		"spool_tokens_total{model=m,type=output}":                                  46,
		"spool_request_tokens{model=m,type=input}_sum":                             69,
		"spool_request_tokens{model=m,type=output}_count":                          23,
		"spool_lines_total{status=ok}":                                             23,
		"spool_lines_total{status=error}":                                          1,
		"spool_chunks_total{state=committed}":                                      3,
		"spool_chunks_total{state=adopted}":                                        0,
		"spool_chunk_duration_seconds{}_count":                                     3,
		"spool_jobs_total{state=started}":                                          2,
		"spool_jobs_total{state=done}":                                             2,
		"spool_job_duration_seconds{state=done}_count":                             2,
		"spool_job_queue_wait_seconds{queue=pool}_count":                           2,
		"spool_queue_receives_total{outcome=message,queue=pool}":                   2,
		"spool_requests_in_flight{}":                                               0,
		"spool_runner_jobs_in_progress{}":                                          0,
		"spool_window_size{}":                                                      20,
		"spool_engine_ready{}":                                                     1,
		"spool_engine_starts_total{}":                                              1,
		"spool_runner_info{engine_version=test,gpu_name=,pool=p,version=v1}":       1,
		"spool_runner_up{}":                                                        0,
	})
	now := float64(time.Now().Unix())
	for _, key := range []string{"spool_runner_start_timestamp_seconds{}", "spool_runner_end_timestamp_seconds{reason=idle}", "spool_runner_last_progress_timestamp_seconds{}"} {
		if v := got[key]; v < now-60 || v > now+1 {
			t.Errorf("%s is %v, now is %v", key, v, now)
		}
	}
	if v, open := got["spool_chunk_start_timestamp_seconds{}"]; open {
		t.Errorf("a chunk is open since %v", v)
	}
}

// Series of a runner's process beside those of the runner: of its store, its logs and its telemetry, and what a Pushgateway
// adds. The end-to-end test of Prometheus' totals counts all together.
const (
	processSeries      = 35
	processWithBuckets = 130
)

// counted is how many series there are without and with classic buckets, as Prometheus stores them.
func counted(families []*dto.MetricFamily) (plain, withBuckets int) {
	for _, f := range families {
		for _, s := range f.GetMetric() {
			plain++
			if h := s.GetHistogram(); h != nil {
				plain++                               // _sum and _count
				withBuckets += len(h.GetBucket()) + 1 // and le="+Inf"
			}
		}
	}
	return plain, withBuckets + plain
}

// wantBounded holds the values of labels against the catalogue's bounds.
func wantBounded(t *testing.T, families []*dto.MetricFamily) {
	t.Helper()
	for _, f := range families {
		values := map[string]map[string]bool{}
		for _, s := range f.GetMetric() {
			for _, l := range s.GetLabel() {
				if values[l.GetName()] == nil {
					values[l.GetName()] = map[string]bool{}
				}
				values[l.GetName()][l.GetValue()] = true
			}
		}
		for _, l := range monitoring.Labels() {
			if n := len(values[l.Name]); n > l.Most && l.Most != monitoring.Configured {
				t.Errorf("%s has %d values of %s, want %d at most", f.GetName(), n, l.Name, l.Most)
			}
		}
	}
}

// eightGPUs have had no trouble but one.
func eightGPUs() fixedGPUs {
	var list fixedGPUs
	for i := range 8 {
		s := fullSample()
		if s.Index = i; i > 0 {
			s.Throttled, s.XIDs = nil, nil
		}
		list = append(list, s)
	}
	return list
}

// TestMetricsAreThoseOfTheCatalogue includes how many series a runner of one model with eight GPUs pushes: 200 and, with classic
// buckets, 800 at most, in 100 KiB.
func TestMetricsAreThoseOfTheCatalogue(t *testing.T) {
	reg := prometheus.NewRegistry()
	w := newWorld(t)
	cfg := w.config()
	cfg.Metrics, cfg.GPUs = reg, eightGPUs()
	w.batch(25, 10)
	if err := w.run(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("lint: %v %v", problems, err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var push bytes.Buffer
	encoder := expfmt.NewEncoder(&push, expfmt.NewFormat(expfmt.TypeProtoDelim)) // as client_golang pushes
	for _, f := range families {
		if err := encoder.Encode(f); err != nil {
			t.Fatal(err)
		}
		if m, ok := monitoring.Lookup(f.GetName()); !ok || !slices.Contains(m.By, monitoring.ByRunner) {
			t.Errorf("the catalogue has no %s of a runner", f.GetName())
		}
	}
	wantBounded(t, families)
	plain, withBuckets := counted(families)
	if plain+processSeries > 200 || withBuckets+processWithBuckets > 800 {
		t.Errorf("%d series, %d with classic buckets; want 200 and 800 at most with those of the process", plain, withBuckets)
	}
	if push.Len() > 100<<10 {
		t.Errorf("a push has %d bytes, want 100 KiB at most", push.Len())
	}
	t.Logf("%d series, %d with classic buckets, %d bytes", plain, withBuckets, push.Len())
}

// However many models, operations of one kind, and errors of five kinds each there are, the series stay within 800.
func TestManyModelsStayWithinTheBudget(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := newMeter(reg, 1)
	monitoring.NewSet(reg).Collect(func(emit monitoring.Emit) { collectGPUs(emit, eightGPUs()) }, gpuMetrics()...)
	for i := range 1000 {
		s := m.of(fmt.Sprint("model-", i), "/v1/chat/completions")
		m.answered(s, vllm.Answer{Outcome: vllm.OK}, time.Second, trace.SpanContext{})
		for _, code := range []string{"timeout", "transport", "abort", "http_429", "http_500"} {
			m.answered(s, vllm.Answer{Outcome: vllm.Retry, Code: code}, time.Second, trace.SpanContext{})
		}
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	wantBounded(t, families)
	plain, withBuckets := counted(families)
	if withBuckets+processWithBuckets > 800 {
		t.Errorf("%d series with classic buckets, want 800 at most with those of the process", withBuckets)
	}
	t.Logf("%d series, %d with classic buckets", plain, withBuckets)
}

func TestMetricsKnowWhatEnginesTellOfTheirTime(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := newMeter(reg, 1)
	s := m.of("m", "/v1/chat/completions")
	timing := func(queue, firstToken, decode time.Duration) *vllm.Timing {
		return &vllm.Timing{Queue: queue, FirstToken: firstToken, Decode: decode, InterToken: -1}
	}
	for _, a := range []vllm.Answer{
		{Outcome: vllm.OK, Timing: timing(0, 250*time.Millisecond, 2*time.Second)},
		{Outcome: vllm.OK, Timing: timing(500*time.Millisecond, 500*time.Millisecond, -1)},
		{Outcome: vllm.OK},
		{Outcome: vllm.Rejected, Status: 400, Timing: timing(time.Hour, time.Hour, time.Hour)},
	} {
		m.answered(s, a, time.Second, trace.SpanContext{})
	}
	wantValues(t, values(t, reg), map[string]float64{
		"spool_request_engine_queue_seconds{}_count":        2,
		"spool_request_engine_queue_seconds{}_sum":          0.5,
		"spool_request_time_to_first_token_seconds{}_count": 2,
		"spool_request_time_to_first_token_seconds{}_sum":   0.75,
		"spool_request_decode_seconds{}_count":              1,
		"spool_request_decode_seconds{}_sum":                2,
	})
}

func TestPhasesAddUpToTheLifeOfARunner(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, _ *wired) {
		w.batch(20, 10)
		cfg := w.serving(newOwned(15*time.Minute, nil))
		reg := prometheus.NewRegistry()
		cfg.Metrics = reg
		start := time.Now()
		if err := w.run(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		life := time.Since(start).Seconds()
		got := values(t, reg)
		sum := 0.0
		for key, v := range got {
			if strings.HasPrefix(key, "spool_runner_phase_seconds_total") {
				sum += v
			}
		}
		if sum < 0.99*life || sum > 1.01*life {
			t.Errorf("phases are %v s, the runner lived %v s", sum, life)
		}
		if engine := got["spool_runner_phase_seconds_total{phase=engine}"]; engine < 15*60-1 || engine > 15*60+5 {
			t.Errorf("%v s of waiting for the engine, want 900", engine)
		}
		if idle := got["spool_runner_phase_seconds_total{phase=idle}"]; idle < cfg.Idle.Seconds()-1 {
			t.Errorf("%v s idle, want %v at least", idle, cfg.Idle)
		}
	})
}

func TestARunnerThatIsInterruptedSaysSo(t *testing.T) {
	w := newWorld(t)
	cfg := w.config()
	reg := prometheus.NewRegistry()
	cfg.Metrics = reg
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.run(ctx, cfg); err != nil {
		t.Fatal(err)
	}
	got := values(t, reg)
	if _, ok := got["spool_runner_end_timestamp_seconds{reason=interrupted}"]; !ok || got["spool_runner_up{}"] != 0 {
		t.Errorf("no end for the reason interrupted, or still up")
	}
}

func TestModelsBeyondTheBoundAreOther(t *testing.T) {
	m := newMeter(prometheus.NewRegistry(), 1)
	for i := range maxModels + 5 {
		m.of(fmt.Sprint("m", i), "/v1/embeddings")
	}
	if got := m.of("m36", "/v1/embeddings").model; got != "other" {
		t.Errorf("model %q, want other", got)
	}
	if got := m.of("m0", "/v2/rerank").model; got != "m0" {
		t.Errorf("model %q, want m0", got)
	}
	if got := m.of("", "/score"); got.model != "other" { // default is one more
		t.Errorf("model %q, want other", got.model)
	}
	if a, b := m.of("m1", "/v1/embeddings"), m.of("m1", "/v1/embeddings"); a != b {
		t.Error("the series of a model were made twice")
	}
}

func TestErrorTypesAreFew(t *testing.T) {
	for want, a := range map[string]vllm.Answer{
		"timeout":  {Outcome: vllm.Retry, Code: "timeout", Err: errors.New("x")},
		"http_503": {Outcome: vllm.Busy, Status: 503},
		"down":     {Outcome: vllm.Down},
	} {
		if got := errorType(a); got != want {
			t.Errorf("%+v: %s, want %s", a, got, want)
		}
	}
}

// fixedGPUs always tells the same.
type fixedGPUs []gpu.Sample

func (fixedGPUs) Run(ctx context.Context) error { <-ctx.Done(); return nil }
func (g fixedGPUs) Samples() []gpu.Sample       { return g }

func fullSample() gpu.Sample {
	return gpu.Sample{
		Device: gpu.Device{Index: 1, Name: "H100"},
		Reading: gpu.Reading{
			Utilization: new(0.5), MemoryUsed: new(uint64(3)), MemoryTotal: new(uint64(8)), Temperature: new(60.0),
		},
		Observed: 100, Busy: new(40.0), MemoryUsedMax: new(uint64(4)), TemperatureMax: new(70.0), Energy: new(5000.0),
		Throttled: map[string]float64{"hw_thermal": 2}, ECCCorrected: new(uint64(6)), ECCUncorrected: new(uint64(1)), XIDs: map[int]int{13: 2},
	}
}

func TestGPUsTellWhatTheyCan(t *testing.T) {
	w := newWorld(t)
	cfg := w.config()
	cfg.GPUs = fixedGPUs{fullSample(), {Device: gpu.Device{Index: 2}}}
	_, reg := w.metered(cfg)
	got := values(t, reg)
	want := map[string]float64{
		"utilization_ratio{gpu=1}": 0.5, "memory_used_bytes{gpu=1}": 3, "memory_total_bytes{gpu=1}": 8, "memory_used_max_bytes{gpu=1}": 4,
		"temperature_celsius{gpu=1}": 60, "temperature_max_celsius{gpu=1}": 70, "energy_joules_total{gpu=1}": 5000,
		"clock_throttle_seconds_total{gpu=1,reason=hw_thermal}": 2, "xid_errors_total{gpu=1,xid=13}": 2,
		"ecc_errors_total{gpu=1,type=corrected}": 6, "ecc_errors_total{gpu=1,type=uncorrected}": 1,
	}
	for key, v := range want {
		if g, ok := got["spool_gpu_"+key]; !ok || g != v {
			t.Errorf("%s is %v, want %v", key, g, v)
		}
	}
	wantValues(t, got, map[string]float64{"spool_runner_idle_gpu_seconds_total{gpu=1}": 60, "spool_runner_info{engine_version=,gpu_name=H100,pool=,version=}": 1})
	for key := range got {
		if strings.Contains(key, "gpu=2") {
			t.Errorf("GPU 2 said nothing, and there is %s", key)
		}
	}
}

// metered makes a runner, and gives the registry of its metrics.
func (w *world) metered(cfg Config) (*Runner, *prometheus.Registry) {
	w.t.Helper()
	reg := prometheus.NewRegistry()
	cfg.Metrics = reg
	r, err := New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	return r, reg
}

func TestEngineCountersAreRelayed(t *testing.T) {
	w := newWorld(t)
	r, reg := w.metered(w.config())
	m := r.fleet.members[0]
	m.up, m.epoch = true, 3
	m.counters = &vllm.Counters{PromptTokens: 10, GenerationTokens: 20, Preemptions: 2, PrefixQueries: 8, PrefixHits: 6}
	m.load = vllm.Load{Running: 5, Waiting: 1, KVCache: 0.25}
	wantValues(t, values(t, reg), map[string]float64{
		"spool_engine_tokens_total{type=prompt}": 10, "spool_engine_tokens_total{type=generation}": 20, "spool_engine_preemptions_total{}": 2,
		"spool_engine_prefix_cache_tokens_total{result=queried}": 8, "spool_engine_prefix_cache_tokens_total{result=hit}": 6,
		"spool_engine_sequences{state=running}": 5, "spool_engine_sequences{state=waiting}": 1, "spool_engine_kv_cache_usage_ratio{}": 0.25,
		"spool_engine_starts_total{}": 3, "spool_engine_ready{}": 1,
	})
}

// restarted is an engine whose metrics begin anew.
type restarted struct {
	Engine
	counters []vllm.Counters
}

func (e *restarted) Metrics(context.Context) (vllm.Counters, vllm.Load, error) {
	c := e.counters[0]
	e.counters = e.counters[1:]
	return c, vllm.Load{}, nil
}

func TestEngineCountersRiseOverARestart(t *testing.T) {
	w := newWorld(t)
	cfg := w.config()
	cfg.Engines = []Engine{
		&restarted{cfg.Engines[0], []vllm.Counters{{PromptTokens: 100, GenerationTokens: 10}, {PromptTokens: 150, GenerationTokens: 20}, {PromptTokens: 160, GenerationTokens: 30}}},
		&restarted{cfg.Engines[0], []vllm.Counters{{PromptTokens: 100, GenerationTokens: 10}, {PromptTokens: 5, GenerationTokens: 10}, {PromptTokens: 7, GenerationTokens: 11}}},
	}
	r, reg := w.metered(cfg)
	for _, want := range [][2]float64{{200, 20}, {255, 40}, {267, 51}} {
		for _, m := range r.fleet.members {
			r.fleet.observe(t.Context(), m)
		}
		wantValues(t, values(t, reg), map[string]float64{"spool_engine_tokens_total{type=prompt}": want[0], "spool_engine_tokens_total{type=generation}": want[1]})
	}
}

func TestAnEngineIsWaitedForFromTheFirstWishOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(Config{}, zap.NewNop())
		time.Sleep(time.Hour)
		if since := f.waitsSince(); !since.IsZero() {
			t.Errorf("nobody wants an engine, but it is waited for since %v", since)
		}
		first := time.Now()
		f.wanted()
		time.Sleep(time.Minute)
		f.wanted()
		if since := f.waitsSince(); !since.Equal(first) {
			t.Errorf("waits since %v, want the first wish, %v", since, first)
		}
		f.trouble = time.Time{} // it is there, and calm
		if since := f.waitsSince(); !since.IsZero() {
			t.Errorf("an engine is there, but it is waited for since %v", since)
		}
		f.trouble = time.Now()
		if since := f.waitsSince(); !since.Equal(f.trouble) {
			t.Errorf("waits since %v, want the new trouble, %v", since, f.trouble)
		}
	})
}

func TestARunnerWhoseEngineCameUpOrThatFinalisesIsNotStuck(t *testing.T) {
	w := newWorld(t)
	r, reg := w.metered(w.config())
	stuck := func() bool {
		moved := values(t, reg)["spool_runner_last_progress_timestamp_seconds{}"]
		r.meter.progress.Store(0)
		return moved == 0
	}
	r.meter.progress.Store(0)
	if !stuck() {
		t.Error("nothing happened, and the runner moved")
	}
	r.fleet.probe(t.Context(), r.fleet.members[0])
	if stuck() {
		t.Error("the engine came up, and the runner is stuck")
	}
	done := r.meter.finalising()
	if stuck() {
		t.Error("a batch is finalised, and the runner is stuck")
	}
	done()
	if stuck() {
		t.Error("a batch was finalised, and the runner is stuck")
	}
	if !stuck() {
		t.Error("nothing is finalised any more, and the runner moved")
	}
}

// BenchmarkMeter is what metrics cost each request.
func BenchmarkMeter(b *testing.B) {
	m := newMeter(prometheus.NewRegistry(), 1)
	s := m.of("m", "/v1/chat/completions")
	a := vllm.Answer{Outcome: vllm.OK, Usage: vllm.Usage{Input: 300, Output: 200, Total: 500}}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		m.asked.Add(1)
		m.answered(s, a, time.Duration(i%1000)*time.Millisecond, trace.SpanContext{})
		m.ended(s, true)
		m.asked.Add(-1)
	}
}
