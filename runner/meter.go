package runner

import (
	"cmp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"spool/monitoring"
	"spool/runner/vllm"
	"spool/storage/batch"
)

// meter is the runner's metrics, as monitoring.Catalogue has them. Labels are bounded: outcomes and codes are those of
// package vllm, and of models there are maxModels. What is counted with each request is looked up once, not each time.
type meter struct {
	up, start  prometheus.Gauge
	end        *prometheus.GaugeVec
	phases     *prometheus.CounterVec
	inProgress prometheus.Gauge
	answers    [vllm.Ended + 1]prometheus.Counter // by outcome
	requests   *prometheus.CounterVec
	errors     *prometheus.CounterVec
	duration   *prometheus.HistogramVec
	firstToken prometheus.Histogram // of these three, only what an engine tells
	queued     prometheus.Histogram
	decode     prometheus.Histogram
	tokens     *prometheus.CounterVec
	lengths    *prometheus.HistogramVec
	lines      *prometheus.CounterVec
	chunks     *prometheus.CounterVec
	chunkTime  prometheus.Histogram
	segments   *prometheus.CounterVec
	jobs       *prometheus.CounterVec
	jobTime    *prometheus.HistogramVec
	jobWait    *prometheus.HistogramVec
	receives   *prometheus.CounterVec

	asked    atomic.Int64 // requests in flight
	progress atomic.Int64 // Unix nanoseconds of the last call of moved
	endings  atomic.Int64 // batches that are being finalised

	mu     sync.Mutex
	models map[string]bool
	series map[seriesKey]*series
	open   map[*chunk]time.Time // since when its lines are asked
}

// maxModels bounds the values of the label model; further ones are "other". An engine without a list of models would
// take any name that a user thinks of, and each is about 60 series of the 800 that a runner may push.
const maxModels = 5

// otherModels is the label of the models beyond maxModels.
const otherModels = "other"

type seriesKey struct{ model, operation string }

// series is what is counted with each request for one model and one kind of request.
type series struct {
	model             string
	ok, failed, again prometheus.Counter
	duration          prometheus.Observer
	input, cached     prometheus.Counter // tokens
	output            prometheus.Counter
	lengthIn          prometheus.Observer
	lengthOut         prometheus.Observer
	slow              tail // of requests that are traced
}

func newMeter(reg prometheus.Registerer, window int) *meter {
	set := monitoring.NewSet(reg)
	m := &meter{
		up: set.Gauge("spool_runner_up"), start: set.Gauge("spool_runner_start_timestamp_seconds"),
		end: set.Gauges("spool_runner_end_timestamp_seconds"), phases: set.Counters("spool_runner_phase_seconds_total"),
		inProgress: set.Gauge("spool_runner_jobs_in_progress"),
		requests:   set.Counters("spool_requests_total"), errors: set.Counters("spool_request_errors_total"),
		duration: set.Histograms("spool_request_duration_seconds"), firstToken: set.Histogram("spool_request_time_to_first_token_seconds"),
		queued: set.Histogram("spool_request_engine_queue_seconds"), decode: set.Histogram("spool_request_decode_seconds"),
		tokens:  set.Counters("spool_tokens_total"),
		lengths: set.Histograms("spool_request_tokens"), lines: set.Counters("spool_lines_total"),
		chunks: set.Counters("spool_chunks_total"), chunkTime: set.Histogram("spool_chunk_duration_seconds"),
		segments: set.Counters("spool_segments_total"), jobs: set.Counters("spool_jobs_total"),
		jobTime: set.Histograms("spool_job_duration_seconds"), jobWait: set.Histograms("spool_job_queue_wait_seconds"),
		receives: set.Counters("spool_queue_receives_total"),
		models:   map[string]bool{}, series: map[seriesKey]*series{}, open: map[*chunk]time.Time{},
	}
	set.Gauge("spool_window_size").Set(float64(window))
	answers := set.Counters("spool_engine_answers_total")
	for o := range m.answers {
		m.answers[o] = answers.WithLabelValues(vllm.Outcome(o).String())
	}
	m.begin()
	set.Collect(m.collect, "spool_requests_in_flight", "spool_runner_last_progress_timestamp_seconds", "spool_chunk_start_timestamp_seconds")
	return m
}

// begin starts what is known to come from zero: a rate over a series that is first seen at 5 has lost 5.
func (m *meter) begin() {
	m.up.Set(1)
	m.start.SetToCurrentTime()
	m.moved()
	for vec, values := range map[*prometheus.CounterVec][]string{
		m.phases: {batch.PhaseIdle, batch.PhaseEngine, batch.PhaseGenerate, batch.PhaseStore, batch.PhaseDrain},
		m.lines:  {"ok", "error"}, m.chunks: {"committed", "adopted", "failed"}, m.segments: {"written", "failed"},
		m.jobs: {"started", "done", "done_before", "ended", nameHandedOver, "elsewhere", "leased", "lease_lost", "failed"},
	} {
		for _, v := range values {
			vec.WithLabelValues(v)
		}
	}
	m.jobTime.WithLabelValues("done") // few end otherwise, and each is 20 series
	for _, queue := range []string{queueFast, queuePool} {
		m.jobWait.WithLabelValues(queue)
		for _, outcome := range []string{"message", "empty", "failed"} {
			m.receives.WithLabelValues(queue, outcome)
		}
	}
}

// Values of the label queue.
const (
	queueFast = "fast"
	queuePool = "pool"
)

func queueLabel(fast bool) string {
	if fast {
		return queueFast
	}
	return queuePool
}

// collect tells what is only worth knowing when somebody looks.
func (m *meter) collect(emit monitoring.Emit) {
	emit("spool_requests_in_flight", float64(m.asked.Load()))
	progress := m.progress.Load()
	if m.endings.Load() > 0 { // it copies, and has no results
		progress = time.Now().UnixNano()
	}
	emit("spool_runner_last_progress_timestamp_seconds", float64(progress)/1e9)
	m.mu.Lock()
	defer m.mu.Unlock()
	var oldest time.Time
	for _, began := range m.open {
		if oldest.IsZero() || began.Before(oldest) {
			oldest = began
		}
	}
	if !oldest.IsZero() {
		emit("spool_chunk_start_timestamp_seconds", float64(oldest.UnixNano())/1e9)
	}
}

// of gives the series of a model and an endpoint.
func (m *meter) of(model, endpoint string) *series {
	m.mu.Lock()
	defer m.mu.Unlock()
	model = cmp.Or(strings.ToValidUTF8(model, "?"), "default")
	if !m.models[model] && len(m.models) >= maxModels {
		model = otherModels
	}
	m.models[model] = true
	key := seriesKey{model, strings.ReplaceAll(strings.TrimPrefix(strings.TrimPrefix(endpoint, "/v1/"), "/"), "/", ".")}
	s := m.series[key]
	if s == nil {
		s = m.newSeries(key)
		m.series[key] = s
	}
	return s
}

func (m *meter) newSeries(key seriesKey) *series {
	count := func(status string) prometheus.Counter {
		return m.requests.WithLabelValues(key.model, key.operation, status)
	}
	tokens := func(kind string) prometheus.Counter { return m.tokens.WithLabelValues(key.model, kind) }
	return &series{
		model: key.model, ok: count("ok"), failed: count("error"), again: count("retried"),
		duration: m.duration.WithLabelValues(key.model, key.operation),
		input:    tokens("input"), cached: tokens("cached"), output: tokens("output"),
		lengthIn: m.lengths.WithLabelValues(key.model, "input"), lengthOut: m.lengths.WithLabelValues(key.model, "output"),
	}
}

// answered counts what an engine said, good or not. seen is the span of the request, if it has one.
func (m *meter) answered(s *series, a vllm.Answer, took time.Duration, seen trace.SpanContext) {
	m.answers[a.Outcome].Inc()
	switch a.Outcome {
	case vllm.OK:
		observe(s.duration, took.Seconds(), seen)
		s.input.Add(float64(a.Usage.Input))
		s.cached.Add(float64(a.Usage.Cached))
		s.output.Add(float64(a.Usage.Output))
		s.lengthIn.Observe(float64(a.Usage.Input))
		s.lengthOut.Observe(float64(a.Usage.Output))
		if a.Timing != nil {
			m.told(a.Timing)
		}
	case vllm.Ended:
	default:
		m.errors.WithLabelValues(s.model, errorType(a)).Inc()
	}
}

// told counts what an engine said of its own time.
func (m *meter) told(t *vllm.Timing) {
	observeTold(m.queued, t.Queue)
	observeTold(m.firstToken, t.FirstToken)
	observeTold(m.decode, t.Decode)
}

// observeTold leaves out what the engine did not say, which is below 0.
func observeTold(h prometheus.Histogram, d time.Duration) {
	if d >= 0 {
		h.Observe(d.Seconds())
	}
}

// errorType is one of few words.
func errorType(a vllm.Answer) string {
	switch {
	case a.Code != "":
		return a.Code
	case a.Status >= 300:
		return "http_" + strconv.Itoa(a.Status)
	}
	return a.Outcome.String()
}

// moved notes that the runner is not stuck.
func (m *meter) moved() { m.progress.Store(time.Now().UnixNano()) }

// finalising notes that a batch is being finalised, until what it returns is called.
func (m *meter) finalising() (done func()) {
	m.endings.Add(1)
	return func() {
		m.moved()
		m.endings.Add(-1)
	}
}

// ended counts the result of a line.
func (m *meter) ended(s *series, ok bool) {
	m.moved()
	if ok {
		s.ok.Inc()
	} else {
		s.failed.Inc()
	}
}

// received counts a receive.
func (m *meter) received(fast bool, outcome string) {
	m.receives.WithLabelValues(queueLabel(fast), outcome).Inc()
}

// opened notes that the lines of a chunk are asked; closed that they are no more.
func (m *meter) opened(c *chunk) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.open[c] = time.Now()
}

func (m *meter) closed(c *chunk) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.open, c)
}

// committed counts a chunk that is stored, and tells how long ago its lines were first asked; 0 if none was, or if it is
// another runner's.
func (m *meter) committed(c *chunk, mine bool, counts batch.Counts) time.Duration {
	if !mine {
		m.chunks.WithLabelValues("adopted").Inc()
		return 0
	}
	m.chunks.WithLabelValues("committed").Inc()
	m.lines.WithLabelValues("ok").Add(float64(counts.OK))
	m.lines.WithLabelValues("error").Add(float64(counts.Err))
	m.mu.Lock()
	began, asked := m.open[c]
	m.mu.Unlock()
	if !asked {
		return 0
	}
	took := time.Since(began)
	observe(m.chunkTime, took.Seconds(), placeOf(c.span))
	return took
}

func (m *meter) segment(err error) {
	outcome := "written"
	if err != nil {
		outcome = "failed"
	}
	m.segments.WithLabelValues(outcome).Inc()
}

// left notes that the runner has ended.
func (m *meter) left(reason string) {
	m.up.Set(0)
	m.end.WithLabelValues(reason).SetToCurrentTime()
}
