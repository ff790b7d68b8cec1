// Package promql checks expressions of alerts and dashboards against the catalogue of metrics. An expression over a name
// that nobody pushes is valid, and silent for ever.
package promql

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"

	"spool/monitoring"
)

// foreign are the metrics that others expose, with their labels beside job and instance: Prometheus itself, and the
// Pushgateway (README of prometheus/pushgateway).
func foreign() map[string][]string {
	return map[string][]string{
		"up": nil, "scrape_duration_seconds": nil, "scrape_samples_scraped": nil,
		"ALERTS":            {"alertname", "alertstate", "severity"},
		"push_time_seconds": nil, "push_failure_time_seconds": nil,
		"pushgateway_http_requests_total":            {"handler", "code", "method"},
		"pushgateway_http_push_duration_seconds":     {"method", "quantile"},
		"pushgateway_http_push_duration_seconds_sum": {"method"}, "pushgateway_http_push_duration_seconds_count": {"method"},
	}
}

// Expand puts values where Grafana puts them for its variables: the interval for those of time, and what any other
// variable may be in a matcher, ".*".
func Expand(expr, interval string) string {
	expr = strings.NewReplacer("$__rate_interval", interval, "$__range", interval, "$__interval", interval).Replace(expr)
	for {
		start := strings.Index(expr, "$")
		if start < 0 {
			return expr
		}
		end := start + 1
		for end < len(expr) && (expr[end] == '_' || expr[end] >= 'a' && expr[end] <= 'z') {
			end++
		}
		expr = expr[:start] + ".*" + expr[end:]
	}
}

// Check parses an expression, after Expand, and fails if it names a metric or a label that there is not.
func Check(expr string) error {
	tree, err := parser.ParseExpr(Expand(expr, "1m"))
	if err != nil {
		return err
	}
	var errs []error
	parser.Inspect(tree, func(n parser.Node, _ []parser.Node) error {
		switch n := n.(type) {
		case *parser.VectorSelector:
			errs = append(errs, checkSelector(n))
		case *parser.AggregateExpr:
			errs = append(errs, checkNames(n.Grouping, n.Expr))
		case *parser.BinaryExpr:
			if m := n.VectorMatching; m != nil && m.On {
				errs = append(errs, checkNames(m.MatchingLabels, n.LHS), checkNames(m.MatchingLabels, n.RHS))
			}
		}
		return nil
	})
	return errors.Join(errs...)
}

// Metrics gives the names of the metrics in an expression, after Expand, as the catalogue has them.
func Metrics(expr string) ([]string, error) {
	tree, err := parser.ParseExpr(Expand(expr, "1m"))
	if err != nil {
		return nil, err
	}
	var names []string
	parser.Inspect(tree, func(n parser.Node, _ []parser.Node) error {
		if s, ok := n.(*parser.VectorSelector); ok {
			names = append(names, base(s.Name))
		}
		return nil
	})
	return names, nil
}

func checkSelector(s *parser.VectorSelector) error {
	known, err := labelsOf(s.Name)
	if err != nil {
		return err
	}
	for _, m := range s.LabelMatchers {
		if m.Name != labels.MetricName && !slices.Contains(known, m.Name) {
			return fmt.Errorf("%s has no label %s", s.Name, m.Name)
		}
	}
	return nil
}

// checkNames wants every label at a selector at least below expr: one that is at none groups nothing.
func checkNames(names []string, expr parser.Expr) error {
	var known []string
	parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
		if s, ok := n.(*parser.VectorSelector); ok {
			of, _ := labelsOf(s.Name) // checkSelector says so
			known = append(known, of...)
		}
		return nil
	})
	for _, name := range names {
		if !slices.Contains(known, name) {
			return fmt.Errorf("nothing in %s has a label %s", expr, name)
		}
	}
	return nil
}

// base is the name in the catalogue of a series of a histogram.
func base(name string) string {
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		if m, ok := monitoring.Lookup(strings.TrimSuffix(name, suffix)); ok && m.Type == monitoring.Histogram {
			return m.Name
		}
	}
	return name
}

func labelsOf(name string) ([]string, error) {
	all := []string{"job", "instance"}
	if own, ok := foreign()[name]; ok {
		return append(all, own...), nil
	}
	m, ok := monitoring.Lookup(base(name))
	switch {
	case !ok:
		return nil, fmt.Errorf("nobody pushes %s", name)
	case strings.HasSuffix(name, "_bucket") && m.Name != name:
		all = append(all, "le")
	}
	return append(all, m.Labels...), nil
}
