package pushgateway

import (
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/model"
)

// group is what was pushed under one set of labels. It is never changed, only replaced.
type group struct {
	labels   map[string]string
	families map[string]*dto.MetricFamily
	pushed   time.Time // the last push that was taken; zero if none
	failed   time.Time // the last push that was refused; zero if none
}

// key tells groups apart.
func key(labels map[string]string) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		b.WriteString(strconv.Quote(name) + strconv.Quote(labels[name]))
	}
	return b.String()
}

// parsePath reads the labels of a group from the part of the URL behind /metrics/: job/NAME, then any number of
// label/value. A name with the suffix @base64 has its value in base64 for URLs, padded or not; "=" is the empty value.
func parsePath(path string) (map[string]string, error) {
	parts := strings.Split(path, "/")
	if len(parts)%2 != 0 {
		return nil, fmt.Errorf("odd number of components in %q", path)
	}
	labels := map[string]string{}
	for pair := range slices.Chunk(parts, 2) {
		name, value, err := parsePair(pair[0], pair[1])
		if err != nil {
			return nil, err
		}
		if _, twice := labels[name]; twice {
			return nil, fmt.Errorf("label %q is there twice", name)
		}
		if labels[name] = value; len(labels) == 1 && name != "job" {
			return nil, errors.New("the path must start with /metrics/job")
		}
	}
	if labels["job"] == "" {
		return nil, errors.New("the job name is empty")
	}
	return labels, nil
}

func parsePair(name, value string) (string, string, error) {
	value, err := url.PathUnescape(value)
	if err != nil {
		return "", "", fmt.Errorf("decode value of label %q: %w", name, err)
	}
	name, encoded := strings.CutSuffix(name, "@base64")
	if encoded {
		raw, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(value, "="))
		if err != nil {
			return "", "", fmt.Errorf("decode value of label %q: %w", name, err)
		}
		value = string(raw)
	}
	if !model.LegacyValidation.IsValidLabelName(name) || strings.HasPrefix(name, model.ReservedLabelPrefix) {
		return "", "", fmt.Errorf("improper label name %q", name)
	}
	return name, value, nil
}

// setLabels puts the labels of a group on a metric, over labels of its own. Without an instance it gets an empty one,
// so that Prometheus, told to honour labels, does not add the gateway's.
func setLabels(m *dto.Metric, labels map[string]string) {
	all := map[string]string{"instance": ""}
	for _, pair := range m.Label {
		all[pair.GetName()] = pair.GetValue()
	}
	maps.Copy(all, labels)
	m.Label = m.Label[:0]
	for _, name := range slices.Sorted(maps.Keys(all)) {
		value := all[name]
		m.Label = append(m.Label, &dto.LabelPair{Name: &name, Value: &value})
	}
}

// all are the families of a group with the gateway's own, sorted by name.
func (g *group) all() []*dto.MetricFamily {
	list := slices.Collect(maps.Values(g.families))
	list = append(list,
		g.stamp(pushTime, "Last Unix time when changing this group in the Pushgateway succeeded.", g.pushed),
		g.stamp(failureTime, "Last Unix time when changing this group in the Pushgateway failed.", g.failed))
	slices.SortFunc(list, func(a, b *dto.MetricFamily) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return list
}

// stamp is a gauge of seconds since 1970; 0 for never.
func (g *group) stamp(name, help string, at time.Time) *dto.MetricFamily {
	seconds := 0.0
	if !at.IsZero() {
		seconds = float64(at.UnixNano()) / 1e9
	}
	m := &dto.Metric{Gauge: &dto.Gauge{Value: &seconds}}
	setLabels(m, g.labels)
	return &dto.MetricFamily{Name: &name, Help: &help, Type: dto.MetricType_GAUGE.Enum(), Metric: []*dto.Metric{m}}
}

// gather merges groups, and finds out on the way whether they go together.
func gather(groups []*group) ([]*dto.MetricFamily, error) {
	gatherers := make(prometheus.Gatherers, 0, len(groups))
	for _, g := range groups {
		gatherers = append(gatherers, prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) { return g.all(), nil }))
	}
	return gatherers.Gather()
}
