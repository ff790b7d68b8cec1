package watcher

import (
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"spool/monitoring"
	"spool/storage/batch"
	"spool/storage/queue"
)

// metrics are the watcher's own, as monitoring.Catalogue has them: what it did since it started, and what the queues
// hold, which must be known when no runner is there. What is true of the bucket is told by status.json and the report.
type metrics struct {
	up          prometheus.Gauge
	scans       prometheus.Counter
	scanSeconds prometheus.Histogram
	scanTime    prometheus.Gauge
	plans       *prometheus.CounterVec
	batches     *prometheus.CounterVec
	lines       prometheus.Counter
	badLines    prometheus.Counter
	bytes       prometheus.Counter
	seconds     prometheus.Histogram
	sent        *prometheus.CounterVec
	resent      *prometheus.CounterVec
	dead        *prometheus.CounterVec
	events      *prometheus.CounterVec
	collected   prometheus.Counter
	errors      *prometheus.CounterVec

	queued     *prometheus.GaugeVec
	oldest     *prometheus.GaugeVec
	success    *prometheus.GaugeVec
	completion *prometheus.GaugeVec
	duration   *prometheus.GaugeVec

	mu         sync.Mutex
	batchLines *prometheus.GaugeVec
	batchETA   *prometheus.GaugeVec
	told       map[string]bool // batches with gauges
}

// maxToldBatches bounds the values of the label batch_id.
const maxToldBatches = 50

func newMetrics(reg prometheus.Registerer) *metrics {
	set := monitoring.NewSet(reg)
	counter := func(name string) prometheus.Counter { return set.Counter("spool_watcher_" + name) }
	counters := func(name string) *prometheus.CounterVec { return set.Counters("spool_watcher_" + name) }
	m := &metrics{
		up: set.Gauge("spool_watcher_up"), scans: counter("scans_total"), scanSeconds: set.Histogram("spool_watcher_scan_seconds"),
		scanTime: set.Gauge("spool_watcher_last_scan_timestamp_seconds"),
		plans:    counters("plans_total"), batches: counters("batches_total"), lines: counter("lines_validated_total"),
		badLines: counter("bad_lines_total"), bytes: counter("validated_bytes_total"),
		seconds: set.Histogram("spool_watcher_validation_seconds"),
		sent:    counters("jobs_sent_total"), resent: counters("jobs_resent_total"), dead: counters("dead_jobs_total"),
		events: counters("events_total"), collected: counter("collected_objects_total"), errors: counters("errors_total"),
		queued: set.Gauges("spool_queue_messages"), oldest: set.Gauges("spool_queue_oldest_message_age_seconds"),
		success: set.Gauges("spool_last_success_timestamp_seconds"), completion: set.Gauges("spool_last_completion_timestamp_seconds"),
		duration: set.Gauges("spool_last_run_duration_seconds"), batchLines: set.Gauges("spool_batch_lines"),
		batchETA: set.Gauges("spool_batch_eta_seconds"), told: map[string]bool{},
	}
	set.Gauge("spool_watcher_start_timestamp_seconds").SetToCurrentTime()
	for _, outcome := range []string{batch.Completed, batch.Failed, batch.Cancelled, batch.Expired} {
		m.batches.WithLabelValues(outcome)
	}
	for _, verdict := range []string{batch.Accepted, batch.Rejected} {
		m.plans.WithLabelValues(verdict)
	}
	for _, kind := range eventKinds() {
		m.events.WithLabelValues(kind)
	}
	for _, what := range whatFails() {
		m.errors.WithLabelValues(what)
	}
	return m
}

// begin has the counters of a pool begin at 0: with what a counter has when it is first seen, Prometheus sees no increase.
func (m *metrics) begin(pool string) {
	for _, c := range []*prometheus.CounterVec{m.sent, m.resent, m.dead} {
		c.WithLabelValues(pool)
	}
}

func (m *metrics) scanned(took time.Duration) {
	m.scans.Inc()
	m.scanSeconds.Observe(took.Seconds())
	m.scanTime.SetToCurrentTime()
}

func (m *metrics) validated(lines, bytes int64, took time.Duration) {
	m.lines.Add(float64(lines))
	m.bytes.Add(float64(bytes))
	m.seconds.Observe(took.Seconds())
}

func (m *metrics) planned(plan *batch.Plan, mine bool) {
	if mine {
		m.plans.WithLabelValues(plan.Verdict).Inc()
		m.badLines.Add(float64(plan.Bad))
	}
}

// Values of the label queue_role.
const (
	roleJobs = "jobs"
	roleDead = "dlq"
)

func (m *metrics) depth(pool, name, role string, c queue.Counts) {
	m.queued.WithLabelValues(pool, name, role, "visible").Set(float64(c.Visible))
	m.queued.WithLabelValues(pool, name, role, "in_flight").Set(float64(c.InFlight))
	m.queued.WithLabelValues(pool, name, role, "delayed").Set(float64(c.Delayed))
}

// progressed tells how far an open batch is; of 50 at most, so that a flood of batches is none of series.
func (m *metrics) progressed(id string, c batch.RequestCounts, eta *int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.told[id] && len(m.told) >= maxToldBatches {
		return
	}
	m.told[id] = true
	m.batchLines.WithLabelValues(id, "total").Set(float64(c.Total))
	m.batchLines.WithLabelValues(id, "completed").Set(float64(c.Completed))
	m.batchLines.WithLabelValues(id, "failed").Set(float64(c.Failed))
	m.batchETA.DeleteLabelValues(id)
	if eta != nil {
		m.batchETA.WithLabelValues(id).Set(float64(*eta))
	}
}

// over forgets the progress of a batch that is open no more.
func (m *metrics) over(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.told, id)
	m.batchLines.DeletePartialMatch(prometheus.Labels{"batch_id": id})
	m.batchETA.DeleteLabelValues(id)
}

// ended notes the end of a batch, and counts it if no other watcher did. Its pool is one of the configuration's, or is not named: users name pools.
func (m *metrics) ended(pools []Pool, plan *batch.Plan, r *batch.Result, first bool) {
	if first {
		m.batches.WithLabelValues(r.Outcome).Inc()
	}
	if !slices.ContainsFunc(pools, func(p Pool) bool { return p.Name == plan.Pool }) {
		return
	}
	m.completion.WithLabelValues(plan.Pool).Set(float64(r.ObjectTime))
	m.duration.WithLabelValues(plan.Pool).Set(float64(max(0, r.ObjectTime-plan.Input.LastModified)))
	if r.Outcome == batch.Completed {
		m.success.WithLabelValues(plan.Pool).Set(float64(r.ObjectTime))
	}
}
