package promql_test

import (
	"slices"
	"strings"
	"testing"

	"spool/monitoring/internal/promql"
)

func TestCheck(t *testing.T) {
	for expr, want := range map[string]string{
		`sum by (model) (rate(spool_requests_total{status="ok", instance=~"$instance"}[$__rate_interval]))`:        "",
		`histogram_quantile(0.95, sum by (le) (rate(spool_request_duration_seconds_bucket{model=~"$model"}[5m])))`: "",
		`histogram_quantile(0.95, sum (rate(spool_request_duration_seconds[5m])))`:                                 "",
		`time() - push_time_seconds{job="spool-runner"} > 90 and on (job, instance) spool_runner_up == 1`:          "",
		`rate(vllm:num_preemptions[5m])`:                      "nobody pushes vllm:num_preemptions",
		`rate(spool_requests[5m])`:                            "nobody pushes spool_requests",
		`spool_requests_total{queue="x"}`:                     "has no label queue",
		`spool_requests_total_bucket`:                         "nobody pushes",
		`sum by (pool) (spool_requests_total)`:                "has a label pool",
		`spool_runner_up and on (model) spool_requests_total`: "has a label model",
		`spool_request_duration_seconds{le="1"}`:              "has no label le",
		`sum(`:                                                "parse error",
	} {
		err := promql.Check(expr)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", expr, err, want)
		}
	}
}

func TestMetricsGivesTheNamesOfTheCatalogue(t *testing.T) {
	got, err := promql.Metrics(`rate(spool_request_duration_seconds_bucket[$__range]) / spool_runner_up`)
	if want := []string{"spool_request_duration_seconds", "spool_runner_up"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
}

func TestExpand(t *testing.T) {
	if got, want := promql.Expand(`a{b=~"$model"}[$__rate_interval]`, "30s"), `a{b=~".*"}[30s]`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
