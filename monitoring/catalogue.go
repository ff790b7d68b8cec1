package monitoring

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
)

// MetricType is the type of a metric, as Prometheus calls it.
type MetricType string

// Types of metrics.
const (
	Counter   MetricType = "counter"
	Gauge     MetricType = "gauge"
	Histogram MetricType = "histogram"
)

// Who pushes a metric.
const (
	ByRunner  = "runner"
	ByWatcher = "watcher"
)

// Metric is one entry of the catalogue.
type Metric struct {
	Name    string
	Type    MetricType
	Labels  []string // beside job and instance, which the Pushgateway adds
	Help    string
	Buckets []float64 // of a histogram's classic form; the native form is always there, too
	By      []string

	// Live is said of gauges that mean nothing once their process has ended: the last push leaves them out, so that no
	// runner that is gone seems to hold work or GPUs.
	Live bool
}

// Labels of groups at the Pushgateway.
const (
	RunnerJob  = "spool-runner"
	WatcherJob = "spool-watcher"
)

// Catalogue lists every metric that spool's processes push, sorted by name. METRICS.md is made of it; registries,
// dashboards and alerts know no others.
func Catalogue() []Metric {
	list := slices.Concat(processMetrics(), jobMetrics(), requestMetrics(), engineMetrics(), gpuMetrics(), hostMetrics(), storageMetrics(),
		queueMetrics(), watcherMetrics(), telemetryMetrics())
	slices.SortFunc(list, func(a, b Metric) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

// Lookup finds a metric of the catalogue.
func Lookup(name string) (Metric, bool) {
	list := Catalogue()
	i := slices.IndexFunc(list, func(m Metric) bool { return m.Name == name })
	if i < 0 {
		return Metric{}, false
	}
	return list[i], true
}

// Set makes metrics of the catalogue and registers them. A name that is not there, or of another type, is a mistake
// of the program: its methods panic. So they do when a metric is made twice on one registry.
type Set struct {
	registerer prometheus.Registerer
	known      map[string]Metric
}

// NewSet returns a Set on a registry; nil means that the metrics are registered nowhere.
func NewSet(reg prometheus.Registerer) *Set {
	if reg == nil {
		reg = prometheus.NewRegistry()
	}
	s := &Set{registerer: reg, known: map[string]Metric{}}
	for _, m := range Catalogue() {
		s.known[m.Name] = m
	}
	return s
}

func (s *Set) metric(name string, t MetricType) Metric {
	m, ok := s.known[name]
	if !ok || m.Type != t {
		panic(fmt.Sprintf("the catalogue has no %s %s", t, name))
	}
	return m
}

// Counters makes a counter with labels.
func (s *Set) Counters(name string) *prometheus.CounterVec {
	m := s.metric(name, Counter)
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: m.Help}, m.Labels)
	s.registerer.MustRegister(v)
	return v
}

// Counter makes a counter without labels.
func (s *Set) Counter(name string) prometheus.Counter { return s.Counters(name).WithLabelValues() }

// Gauges makes a gauge with labels.
func (s *Set) Gauges(name string) *prometheus.GaugeVec {
	m := s.metric(name, Gauge)
	v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: m.Help}, m.Labels)
	s.registerer.MustRegister(v)
	return v
}

// Gauge makes a gauge without labels.
func (s *Set) Gauge(name string) prometheus.Gauge { return s.Gauges(name).WithLabelValues() }

// Histograms makes a histogram with labels, in both forms: the native one is within a few percent of any quantile, the
// classic one is there for servers and dashboards that know no other.
func (s *Set) Histograms(name string) *prometheus.HistogramVec {
	m := s.metric(name, Histogram)
	v := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: name, Help: m.Help, Buckets: m.Buckets,
		NativeHistogramBucketFactor: nativeFactor, NativeHistogramMaxBucketNumber: nativeBuckets,
	}, m.Labels)
	s.registerer.MustRegister(v)
	return v
}

// Histogram makes a histogram without labels.
func (s *Set) Histogram(name string) prometheus.Histogram {
	return s.Histograms(name).WithLabelValues().(prometheus.Histogram)
}

// A native bucket is at most 10 % wide; beyond 160 of them they are made wider.
const (
	nativeFactor  = 1.1
	nativeBuckets = 160
)

// Collect registers a source of metrics that are read, not counted, whenever the registry is gathered. collect must
// give metrics of these names only, and may be called concurrently.
func (s *Set) Collect(collect func(Emit), names ...string) {
	c := collector{collect: collect, metrics: map[string]collected{}}
	for _, name := range names {
		m, ok := s.known[name]
		if !ok || m.Type == Histogram {
			panic(fmt.Sprintf("the catalogue has no counter or gauge %s", name))
		}
		t := prometheus.GaugeValue
		if m.Type == Counter {
			t = prometheus.CounterValue
		}
		c.metrics[name] = collected{prometheus.NewDesc(name, m.Help, m.Labels, nil), t}
	}
	s.registerer.MustRegister(c)
}

// Emit gives one value, with values for the labels of the metric in their order.
type Emit func(name string, value float64, labels ...string)

type collected struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
}

type collector struct {
	collect func(Emit)
	metrics map[string]collected
}

func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range c.metrics {
		ch <- m.desc
	}
}

func (c collector) Collect(ch chan<- prometheus.Metric) {
	c.collect(func(name string, value float64, labels ...string) {
		m := c.metrics[name]
		ch <- prometheus.MustNewConstMetric(m.desc, m.kind, value, labels...)
	})
}
