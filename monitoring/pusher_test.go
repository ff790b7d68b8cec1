package monitoring_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"spool/monitoring"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// gateway answers pushes with the statuses given, then with 200, and reports the value of work_total.
type gateway struct {
	*httptest.Server
	values  chan float64
	refused chan struct{}
}

func newGateway(t *testing.T, statuses ...int) *gateway {
	g := &gateway{values: make(chan float64, 100), refused: make(chan struct{}, 100)}
	answers := make(chan int, len(statuses))
	for _, s := range statuses {
		answers <- s
	}
	g.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case status := <-answers:
			w.WriteHeader(status)
			g.refused <- struct{}{}
			return
		default:
		}
		user, password, _ := r.BasicAuth()
		if r.Method != http.MethodPut || r.URL.Path != "/metrics/job/batch/instance/r-1" || user != "me" || password != "hush" {
			t.Errorf("%s %s by %s", r.Method, r.URL.Path, user)
		}
		g.values <- workTotal(t, r.Body, r.Header)
	}))
	t.Cleanup(g.Close)
	return g
}

func workTotal(t *testing.T, body io.Reader, h http.Header) float64 {
	dec := expfmt.NewDecoder(body, expfmt.ResponseFormat(h))
	for {
		samples, err := (&expfmt.SampleDecoder{Dec: dec, Opts: &expfmt.DecodeOptions{Timestamp: model.Now()}}), error(nil)
		var v model.Vector
		if err = samples.Decode(&v); err != nil {
			t.Errorf("no work_total in the push: %v", err)
			return -1
		}
		for _, s := range v {
			if s.Metric[model.MetricNameLabel] == "work_total" {
				return float64(s.Value)
			}
		}
	}
}

func start(t *testing.T, g *gateway, interval time.Duration) (*monitoring.Pusher, prometheus.Counter, *prometheus.Registry, *observer.ObservedLogs) {
	t.Helper()
	reg := prometheus.NewRegistry()
	work := prometheus.NewCounter(prometheus.CounterOpts{Name: "work_total"})
	reg.MustRegister(work)
	core, logs := observer.New(zap.DebugLevel)
	p, err := monitoring.StartPusher(monitoring.PusherConfig{
		URL: strings.Replace(g.URL, "http://", "http://me:hush@", 1), Job: "batch", Instance: "r-1", Gatherer: reg, Registerer: reg,
		Log: zap.New(core), Interval: interval, Timeout: 5 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p, work, reg, logs
}

func TestPusherPushesAtStartAndTheLastStateAtClose(t *testing.T) {
	g := newGateway(t)
	p, work, _, _ := start(t, g, time.Hour)
	if got := <-g.values; got != 0 {
		t.Errorf("first push has %v, want 0", got)
	}
	work.Add(7)
	p.Close()
	if got := <-g.values; got != 7 {
		t.Errorf("last push has %v, want 7", got)
	}
	p.Close()
	if len(g.values) != 0 {
		t.Error("the second Close pushed")
	}
}

func TestPusherCountsFailuresAndLogsOnlyChanges(t *testing.T) {
	g := newGateway(t, 500, 503, 400)
	p, _, reg, logs := start(t, g, time.Millisecond)
	<-g.values // after three failures
	p.Close()
	want := "# HELP spool_telemetry_failures_total Telemetry that could not be delivered, by sink.\n" +
		"# TYPE spool_telemetry_failures_total counter\nspool_telemetry_failures_total{sink=\"collectors\"} 0\n" +
		"spool_telemetry_failures_total{sink=\"pushgateway\"} 3\n"
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "spool_telemetry_failures_total"); err != nil {
		t.Error(err)
	}
	var messages []string
	for _, e := range logs.All() {
		messages = append(messages, e.Message)
		for _, f := range e.Context {
			if f.Interface != nil && strings.Contains(f.Interface.(error).Error(), "hush") {
				t.Errorf("the log has the password: %v", f.Interface)
			}
		}
	}
	if got := strings.Join(messages, ", "); got != "metrics cannot be pushed, metrics are pushed again" {
		t.Errorf("logged %s", got)
	}
}

func TestPusherTriesTheLastPushThreeTimes(t *testing.T) {
	g := newGateway(t, 500, 500, 500)
	p, work, _, _ := start(t, g, time.Hour)
	<-g.refused // the first push
	work.Inc()
	p.Close()
	if got := <-g.values; got != 1 {
		t.Errorf("last push has %v, want 1", got)
	}
}

func TestCloseIsBoundedWhenThePushgatewayHangs(t *testing.T) {
	hang := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hang }))
	defer s.Close()
	defer close(hang)
	reg := prometheus.NewRegistry()
	p, err := monitoring.StartPusher(monitoring.PusherConfig{URL: s.URL, Job: "j", Instance: "i", Gatherer: reg,
		Timeout: time.Hour, CloseIn: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	p.Close()
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("Close took %v, want about 50 ms", d)
	}
}

func TestPusherRefusesBadConfig(t *testing.T) {
	reg := prometheus.NewRegistry()
	for name, cfg := range map[string]monitoring.PusherConfig{
		"no scheme":   {URL: "localhost:9091", Job: "j", Instance: "i", Gatherer: reg},
		"no instance": {URL: "http://localhost:9091", Job: "j", Gatherer: reg},
		"no gatherer": {URL: "http://localhost:9091", Job: "j", Instance: "i"},
	} {
		if p, err := monitoring.StartPusher(cfg); err == nil {
			p.Close()
			t.Errorf("%s: no error", name)
		}
	}
}
