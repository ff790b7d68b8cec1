package monitoring_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"spool/localstack/pushgateway"
	"spool/monitoring"
)

// names are the metrics at the gateway, less its own.
func names(t *testing.T, g prometheus.Gatherer) string {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "push_") {
			list = append(list, f.GetName())
		}
	}
	return strings.Join(list, " ")
}

func TestTheLastPushHasNoLiveGauges(t *testing.T) {
	gateway := pushgateway.New(nil)
	pushes := make(chan struct{}, 10)
	s := httptest.NewServer(afterwards(gateway, pushes))
	defer s.Close()
	reg := prometheus.NewRegistry()
	set := monitoring.NewSet(reg)
	set.Gauge("spool_runner_up").Set(1)
	set.Gauge("spool_requests_in_flight").Set(3)
	set.Counter("spool_watcher_scans_total").Add(2)
	p, err := monitoring.StartPusher(monitoring.PusherConfig{URL: s.URL, Job: "j", Instance: "i", Gatherer: reg, Interval: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	<-pushes
	if got := names(t, gateway); got != "spool_requests_in_flight spool_runner_up spool_watcher_scans_total" {
		t.Errorf("pushed were %s", got)
	}
	p.Close()
	if got := names(t, gateway); got != "spool_runner_up spool_watcher_scans_total" {
		t.Errorf("left are %s", got)
	}
}

func TestACollectorThatFailsTakesNothingAlong(t *testing.T) {
	gateway := pushgateway.New(nil)
	pushes := make(chan struct{}, 10)
	s := httptest.NewServer(afterwards(gateway, pushes))
	defer s.Close()
	reg := prometheus.NewRegistry()
	monitoring.NewSet(reg).Gauge("spool_runner_up").Set(1)
	reg.MustRegister(broken{})
	p, err := monitoring.StartPusher(monitoring.PusherConfig{URL: s.URL, Job: "j", Instance: "i", Gatherer: reg, Registerer: reg, Interval: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	<-pushes
	p.Close()
	if got := names(t, gateway); got != "spool_runner_up spool_telemetry_failures_total" {
		t.Errorf("pushed were %s", got)
	}
	families, _ := gateway.Gather()
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetValue() == "collectors" && m.GetCounter().GetValue() < 1 {
					t.Errorf("the failure was not counted: %v", m)
				}
			}
		}
	}
}

// broken is a collector that cannot be read.
type broken struct{}

func (broken) Describe(chan<- *prometheus.Desc) {}
func (broken) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.NewInvalidMetric(prometheus.NewDesc("broken", "", nil, nil), errors.New("no driver"))
}

func TestTextHasWhatWasCounted(t *testing.T) {
	reg := prometheus.NewRegistry()
	set := monitoring.NewSet(reg)
	set.Counters("spool_lines_total").WithLabelValues("ok").Add(5)
	var b strings.Builder
	if err := monitoring.WriteText(&b, monitoring.WithoutLive(reg)); err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(b.String(), "# TYPE spool_lines_total counter\nspool_lines_total{status=\"ok\"} 5\n") {
		t.Errorf("got %s", b.String())
	}
	failing := prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) { return nil, errors.New("boom") })
	if err := monitoring.WriteText(&b, failing); err == nil {
		t.Error("no error")
	}
}

// afterwards reports each request when it has been served.
func afterwards(h http.Handler, served chan<- struct{}) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r)
		served <- struct{}{}
	})
}
