package vllmsim

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Buckets of vLLM's histograms (vllm/v1/metrics/buckets.py).
func latencyBuckets() []float64 {
	return []float64{0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680}
}

func firstTokenBuckets() []float64 {
	return []float64{0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560}
}

// tokenBuckets are 1, 2, 5, 10, … up to the model's length.
func tokenBuckets(maxModelLen int) []float64 {
	var out []float64
	for decade := 1; ; decade *= 10 {
		for _, m := range []int{1, 2, 5} {
			if m*decade > maxModelLen {
				return out
			}
			out = append(out, float64(m*decade))
		}
	}
}

// metrics are vLLM's, under its names and labels. What is a total or a state of the engine is read from
// it when it is scraped, so the token counters move while answers are being generated.
type metrics struct {
	success                                            *prometheus.CounterVec
	firstToken, e2e, queue, inference, prefill, decode prometheus.Histogram
	promptTokens, generationTokens                     prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer, maxModelLen int) *metrics {
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "vllm:" + name, Help: help, Buckets: buckets})
		reg.MustRegister(h)
		return h
	}
	m := &metrics{
		success:          prometheus.NewCounterVec(prometheus.CounterOpts{Name: "vllm:request_success_total", Help: "Count of successfully processed requests."}, []string{"finished_reason"}),
		firstToken:       histogram("time_to_first_token_seconds", "Histogram of time to first token in seconds.", firstTokenBuckets()),
		e2e:              histogram("e2e_request_latency_seconds", "Histogram of e2e request latency in seconds.", latencyBuckets()),
		queue:            histogram("request_queue_time_seconds", "Histogram of time spent in WAITING phase for request.", latencyBuckets()),
		inference:        histogram("request_inference_time_seconds", "Histogram of time spent in RUNNING phase for request.", latencyBuckets()),
		prefill:          histogram("request_prefill_time_seconds", "Histogram of time spent in PREFILL phase for request.", latencyBuckets()),
		decode:           histogram("request_decode_time_seconds", "Histogram of time spent in DECODE phase for request.", latencyBuckets()),
		promptTokens:     histogram("request_prompt_tokens", "Number of prefill tokens processed.", tokenBuckets(maxModelLen)),
		generationTokens: histogram("request_generation_tokens", "Number of generation tokens processed.", tokenBuckets(maxModelLen)),
	}
	reg.MustRegister(m.success)
	for _, reason := range []string{reasonStop, reasonLength, reasonAbort, reasonError, "repetition"} {
		m.success.WithLabelValues(reason)
	}
	return m
}

// ended counts a sequence. vLLM counts aborted ones among the successes too, and observes whatever started.
func (m *metrics) ended(s *sequence, at time.Time) {
	m.success.WithLabelValues(s.reason).Inc()
	if s.started.IsZero() {
		return
	}
	first := s.first
	if first.After(at) {
		first = at // aborted before its first token, or so short that the estimate is late
	}
	m.queue.Observe(s.started.Sub(s.job.arrived).Seconds())
	m.firstToken.Observe(first.Sub(s.job.arrived).Seconds())
	m.e2e.Observe(at.Sub(s.job.arrived).Seconds())
	m.inference.Observe(at.Sub(s.started).Seconds())
	m.prefill.Observe(first.Sub(s.started).Seconds())
	m.decode.Observe(at.Sub(first).Seconds())
	m.promptTokens.Observe(float64(s.prompt))
	m.generationTokens.Observe(float64(s.tokens))
}

// engineCollector reads the engine at the time of a scrape.
type engineCollector struct {
	snapshot func() snapshot
	capacity int // of the KV cache, in tokens: every slot at the model's full length
	descs    []engineMetric
}

var _ prometheus.Collector = (*engineCollector)(nil)

type engineMetric struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(snapshot) float64
}

func newEngineCollector(e *engine, maxModelLen int) *engineCollector {
	c := &engineCollector{snapshot: e.told, capacity: e.pace.slots * maxModelLen}
	add := func(kind prometheus.ValueType, name, help string, value func(snapshot) float64) {
		c.descs = append(c.descs, engineMetric{prometheus.NewDesc("vllm:"+name, help, nil, nil), kind, value})
	}
	none := func(snapshot) float64 { return 0 }
	add(prometheus.GaugeValue, "num_requests_running", "Number of requests in model execution batches.", func(s snapshot) float64 { return float64(s.running) })
	add(prometheus.GaugeValue, "num_requests_waiting", "Number of requests waiting to be processed.", func(s snapshot) float64 { return float64(s.waiting) })
	add(prometheus.GaugeValue, "kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", func(s snapshot) float64 { return float64(s.cached) / float64(c.capacity) })
	add(prometheus.CounterValue, "prompt_tokens_total", "Number of prefill tokens processed.", func(s snapshot) float64 { return float64(s.promptTokens) })
	add(prometheus.CounterValue, "generation_tokens_total", "Number of generation tokens processed.", func(s snapshot) float64 { return float64(s.generatedTokens) })
	add(prometheus.CounterValue, "num_preemptions_total", "Cumulative number of preemption from the engine.", none)
	add(prometheus.CounterValue, "prefix_cache_queries_total", "Prefix cache queries, in terms of number of queried tokens.", none)
	add(prometheus.CounterValue, "prefix_cache_hits_total", "Prefix cache hits, in terms of number of cached tokens.", none)
	return c
}

// Describe is part of prometheus.Collector.
func (c *engineCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range c.descs {
		ch <- m.desc
	}
}

// Collect is part of prometheus.Collector.
func (c *engineCollector) Collect(ch chan<- prometheus.Metric) {
	now := c.snapshot()
	for _, m := range c.descs {
		ch <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value(now))
	}
}
