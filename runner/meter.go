package runner

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"spool/runner/vllm"
)

// meter is the runner's metrics. Labels are bounded: outcomes and codes are those of package vllm.
type meter struct {
	inFlight   prometheus.Gauge
	retries    prometheus.Counter
	requests   [vllm.Ended + 1]prometheus.Counter // by outcome: looked up once, not with each answer
	duration   prometheus.Histogram
	input      prometheus.Counter // tokens
	cached     prometheus.Counter
	output     prometheus.Counter
	chunks     *prometheus.CounterVec
	segments   *prometheus.CounterVec
	shards     *prometheus.CounterVec
	inProgress prometheus.Gauge
}

func newMeter(reg prometheus.Registerer, window int) *meter {
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "spool_requests_total", Help: "Answers of the engine by what they mean."}, []string{"outcome"})
	tokens := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "spool_tokens_total", Help: "Tokens of results by type."}, []string{"type"})
	m := &meter{
		inFlight:   prometheus.NewGauge(prometheus.GaugeOpts{Name: "spool_requests_in_flight", Help: "Requests at the engine now."}),
		retries:    prometheus.NewCounter(prometheus.CounterOpts{Name: "spool_request_retries_total", Help: "Requests that are to be asked again."}),
		input:      tokens.WithLabelValues("input"),
		cached:     tokens.WithLabelValues("cached"),
		output:     tokens.WithLabelValues("output"),
		duration:   prometheus.NewHistogram(prometheus.HistogramOpts{Name: "spool_request_duration_seconds", Help: "Time of requests that got a result.", Buckets: prometheus.ExponentialBuckets(0.01, 2, 18)}),
		chunks:     prometheus.NewCounterVec(prometheus.CounterOpts{Name: "spool_chunks_total", Help: "Chunks that were committed by this runner, or adopted because another one was faster."}, []string{"state"}),
		segments:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "spool_segments_total", Help: "Attempts to save finished lines of open chunks."}, []string{"outcome"}),
		shards:     prometheus.NewCounterVec(prometheus.CounterOpts{Name: "spool_shards_total", Help: "Messages by what became of them."}, []string{"outcome"}),
		inProgress: prometheus.NewGauge(prometheus.GaugeOpts{Name: "spool_shards_in_progress", Help: "Shards that are held now."}),
	}
	size := prometheus.NewGauge(prometheus.GaugeOpts{Name: "spool_window_size", Help: "Requests that the runner keeps in flight."})
	size.Set(float64(window))
	reg.MustRegister(m.inFlight, m.retries, requests, m.duration, tokens, m.chunks, m.segments, m.shards, m.inProgress, size)
	for o := range m.requests {
		m.requests[o] = requests.WithLabelValues(vllm.Outcome(o).String())
	}
	return m
}

func (m *meter) answered(a vllm.Answer, took time.Duration) {
	m.requests[a.Outcome].Inc()
	if a.Outcome != vllm.OK {
		return
	}
	m.duration.Observe(took.Seconds())
	m.input.Add(float64(a.Usage.Input))
	m.cached.Add(float64(a.Usage.Cached))
	m.output.Add(float64(a.Usage.Output))
}

func (m *meter) committed(mine bool) {
	state := "committed"
	if !mine {
		state = "adopted"
	}
	m.chunks.WithLabelValues(state).Inc()
}

func (m *meter) segment(err error) {
	outcome := "written"
	if err != nil {
		outcome = "failed"
	}
	m.segments.WithLabelValues(outcome).Inc()
}
