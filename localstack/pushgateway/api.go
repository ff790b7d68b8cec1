package pushgateway

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"

	dto "github.com/prometheus/client_model/go"
)

// The answer of /api/v1/metrics, as the README of prometheus/pushgateway has it. Numbers are strings there.

type apiFamily struct {
	At      time.Time   `json:"time_stamp"`
	Type    string      `json:"type"`
	Help    string      `json:"help,omitempty"`
	Metrics []apiMetric `json:"metrics"`
}

type apiMetric struct {
	Labels    map[string]string `json:"labels"`
	Value     string            `json:"value,omitempty"`
	Count     string            `json:"count,omitempty"`
	Sum       string            `json:"sum,omitempty"`
	Buckets   map[string]string `json:"buckets,omitempty"`
	Quantiles map[string]string `json:"quantiles,omitempty"`
}

func (s *Server) serveAPI(w http.ResponseWriter) {
	s.mu.Lock()
	groups := maps.Clone(s.groups)
	s.mu.Unlock()
	data := []map[string]any{}
	for _, id := range slices.Sorted(maps.Keys(groups)) {
		g := groups[id]
		entry := map[string]any{"labels": g.labels, "last_push_successful": g.pushed.After(g.failed)}
		for _, f := range g.all() {
			entry[f.GetName()] = g.api(f)
		}
		data = append(data, entry)
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"status": "success", "data": data}) // strings and times: always marshals
}

func (g *group) api(f *dto.MetricFamily) apiFamily {
	out := apiFamily{At: g.pushed, Type: f.GetType().String(), Help: f.GetHelp(), Metrics: []apiMetric{}}
	for _, m := range f.Metric {
		out.Metrics = append(out.Metrics, apiOf(m))
	}
	return out
}

func apiOf(m *dto.Metric) apiMetric {
	out := apiMetric{Labels: map[string]string{}}
	for _, l := range m.Label {
		out.Labels[l.GetName()] = l.GetValue()
	}
	switch {
	case m.Gauge != nil:
		out.Value = number(m.Gauge.GetValue())
	case m.Counter != nil:
		out.Value = number(m.Counter.GetValue())
	case m.Untyped != nil:
		out.Value = number(m.Untyped.GetValue())
	case m.Histogram != nil:
		out.Count, out.Sum = strconv.FormatUint(m.Histogram.GetSampleCount(), 10), number(m.Histogram.GetSampleSum())
		out.Buckets = map[string]string{}
		for _, b := range m.Histogram.Bucket {
			out.Buckets[number(b.GetUpperBound())] = strconv.FormatUint(b.GetCumulativeCount(), 10)
		}
	case m.Summary != nil:
		out.Count, out.Sum = strconv.FormatUint(m.Summary.GetSampleCount(), 10), number(m.Summary.GetSampleSum())
		out.Quantiles = map[string]string{}
		for _, q := range m.Summary.Quantile {
			out.Quantiles[number(q.GetQuantile())] = number(q.GetValue())
		}
	}
	return out
}

func number(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }
