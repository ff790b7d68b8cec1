package monitoring

import (
	"fmt"
	"io"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
)

// WithoutLive gives what g has, less the gauges of the catalogue that mean nothing once their process has ended.
func WithoutLive(g prometheus.Gatherer) prometheus.Gatherer {
	live := map[string]bool{}
	for _, m := range Catalogue() {
		live[m.Name] = m.Live
	}
	return prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
		families, err := g.Gather()
		return slices.DeleteFunc(families, func(f *dto.MetricFamily) bool { return live[f.GetName()] }), err
	})
}

// tolerant gives what g could read although one of its collectors failed, and counts that: a push of all but one metric
// is better than none.
func tolerant(g prometheus.Gatherer, failures prometheus.Counter) prometheus.Gatherer {
	return prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
		families, err := g.Gather()
		if err != nil && len(families) > 0 {
			failures.Inc()
			return families, nil
		}
		return families, err
	})
}

// WriteText writes what g has in Prometheus' text format, for people. It has
// the classic form of histograms only.
func WriteText(w io.Writer, g prometheus.Gatherer) error {
	families, err := g.Gather()
	if err != nil && len(families) == 0 {
		return fmt.Errorf("gather metrics: %w", err)
	}
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(w, f); err != nil {
			return fmt.Errorf("write metric %s: %w", f.GetName(), err)
		}
	}
	return nil
}

// telemetryFailures is the counter of one sink. Each sink registers its own.
func telemetryFailures(sink string) prometheus.Counter {
	m, _ := Lookup("spool_telemetry_failures_total") // TestCatalogueHasWhatIsRegisteredApart shows that it is there
	return prometheus.NewCounter(prometheus.CounterOpts{Name: m.Name, Help: m.Help, ConstLabels: prometheus.Labels{m.Labels[0]: sink}})
}
