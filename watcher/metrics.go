package watcher

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"spool/storage/batch"
	"spool/storage/queue"
)

// metrics are the watcher's own: what it did since it started. What is true of the bucket is told by status.json
// and the report.
type metrics struct {
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
	queued      *prometheus.GaugeVec
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "spool", Subsystem: "watcher", Name: name, Help: help})
	}
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "spool", Subsystem: "watcher", Name: name, Help: help}, labels)
	}
	seconds := func(name, help string) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "spool", Subsystem: "watcher", Name: name, Help: help,
			Buckets: prometheus.ExponentialBuckets(0.01, 4, 10), NativeHistogramBucketFactor: 1.1})
	}
	m := &metrics{
		scans:       counter("scans_total", "Scans that saw all inputs and open batches."),
		scanSeconds: seconds("scan_seconds", "Time of a scan, without validation and finalising."),
		scanTime: prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "spool", Subsystem: "watcher",
			Name: "last_scan_timestamp_seconds", Help: "When the last scan that saw everything ended."}),
		plans:     vec("plans_total", "Plans of this watcher that stand, by verdict.", "verdict"),
		batches:   vec("batches_total", "Batches that this watcher saw end, by outcome.", "outcome"),
		lines:     counter("lines_validated_total", "Lines that were checked, bad ones too."),
		badLines:  counter("bad_lines_total", "Bad lines in plans of this watcher."),
		bytes:     counter("validated_bytes_total", "Bytes of input files as stored that were validated."),
		seconds:   seconds("validation_seconds", "Time of the first pass over a file: read, check, cut, compress."),
		sent:      vec("jobs_sent_total", "Messages sent, repetitions too.", "pool"),
		resent:    vec("jobs_resent_total", "Messages sent again because too few were found in the queues.", "pool"),
		dead:      vec("dead_jobs_total", "Messages taken from the dead-letter queue.", "pool"),
		events:    vec("events_total", "Messages of the event queue, by what they were.", "kind"),
		collected: counter("collected_objects_total", "Objects deleted after their time."),
		errors:    vec("errors_total", "Failures after which the watcher went on, by what failed.", "what"),
		queued: prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "spool", Subsystem: "watcher",
			Name: "queue_messages", Help: "Messages in a queue as SQS counts them."}, []string{"pool", "lane", "state"}),
	}
	for _, outcome := range []string{batch.Completed, batch.Failed, batch.Cancelled, batch.Expired} {
		m.batches.WithLabelValues(outcome)
	}
	for _, verdict := range []string{batch.Accepted, batch.Rejected} {
		m.plans.WithLabelValues(verdict)
	}
	if reg == nil {
		return m, nil
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.scans, m.scanSeconds, m.scanTime, m.plans, m.batches, m.lines, m.badLines, m.bytes,
		m.seconds, m.sent, m.resent, m.dead, m.events, m.collected, m.errors, m.queued} {
		errs = append(errs, reg.Register(c))
	}
	return m, errors.Join(errs...)
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

func (m *metrics) depth(pool, lane string, c queue.Counts) {
	m.queued.WithLabelValues(pool, lane, "visible").Set(float64(c.Visible))
	m.queued.WithLabelValues(pool, lane, "in_flight").Set(float64(c.InFlight))
	m.queued.WithLabelValues(pool, lane, "delayed").Set(float64(c.Delayed))
}
