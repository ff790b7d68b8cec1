package monitoring_test

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"spool/localstack/pushgateway"
	"spool/monitoring"
)

// pushed is a Pushgateway that has the groups of processes.
func pushed(t *testing.T) (url string, groups func() []string) {
	t.Helper()
	var at time.Time
	s := pushgateway.New(func() time.Time { return at })
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	for _, g := range []struct {
		job, instance, metrics string
		age                    time.Duration
	}{
		{monitoring.RunnerJob, "r-works", "spool_runner_up 1\n", time.Minute},
		{monitoring.RunnerJob, "r-just-ended", "spool_runner_up 0\n", 9 * time.Minute},
		{monitoring.RunnerJob, "r-ended", "spool_runner_up 0\n", 11 * time.Minute},
		{monitoring.RunnerJob, "r-killed", "spool_runner_up 1\n", 119 * time.Minute},
		{monitoring.RunnerJob, "r-killed-long-ago", "spool_runner_up 1\n", 121 * time.Minute},
		{monitoring.RunnerJob, "r-says-nothing", "x 1\n", 11 * time.Minute},
		{monitoring.WatcherJob, "w-ended", "spool_watcher_up 0\n", 11 * time.Minute},
		{monitoring.WatcherJob, "w-works", "spool_watcher_up 1\n", 11 * time.Minute},
		{"backup", "somebody-elses", "spool_runner_up 0\n", 1000 * time.Hour},
	} {
		at = time.Now().Add(-g.age)
		r := httptest.NewRequest(http.MethodPut, "/metrics/job/"+g.job+"/instance/"+g.instance, strings.NewReader("# TYPE x gauge\n"+g.metrics))
		w := httptest.NewRecorder()
		if s.ServeHTTP(w, r); w.Code != http.StatusOK {
			t.Fatalf("push of %s: %d %s", g.instance, w.Code, w.Body)
		}
	}
	return server.URL, func() []string {
		families, err := s.Gather()
		if err != nil {
			t.Error(err)
		}
		var left []string
		for _, f := range families {
			for _, m := range f.GetMetric() {
				for _, l := range m.GetLabel() {
					if f.GetName() == "push_time_seconds" && l.GetName() == "instance" {
						left = append(left, l.GetValue())
					}
				}
			}
		}
		slices.Sort(left)
		return left
	}
}

func TestReaperDeletesGroupsOfProcessesThatAreGone(t *testing.T) {
	url, groups := pushed(t)
	core, logs := observer.New(zap.InfoLevel)
	deleted := make(chan struct{}, 10)
	log := zap.New(core, zap.Hooks(func(e zapcore.Entry) error { deleted <- struct{}{}; return nil }))
	reg := prometheus.NewRegistry()
	r, err := monitoring.StartReaper(monitoring.ReaperConfig{URL: url, Registerer: reg, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		<-deleted
	}
	r.Close()
	r.Close()
	want := []string{"r-just-ended", "r-killed", "r-says-nothing", "r-works", "somebody-elses", "w-works"}
	if got := groups(); !slices.Equal(got, want) {
		t.Errorf("left are %v, want %v", got, want)
	}
	if n := logs.FilterField(zap.String("event", "group_deleted")).Len(); n != 3 {
		t.Errorf("%d deletions logged, want 3", n)
	}
	m, _ := monitoring.Lookup("spool_pushgateway_groups_deleted_total")
	text := "# HELP " + m.Name + " " + m.Help + "\n# TYPE " + m.Name + " counter\n" + m.Name + " 3\n"
	if err := testutil.GatherAndCompare(reg, strings.NewReader(text), m.Name); err != nil {
		t.Error(err)
	}
}

func TestReaperCountsThatThePushgatewayDoesNotAnswer(t *testing.T) {
	refused := make(chan struct{}, 100)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadGateway)
		refused <- struct{}{}
	}))
	defer s.Close()
	core, logs := observer.New(zap.InfoLevel)
	reg := prometheus.NewRegistry()
	r, err := monitoring.StartReaper(monitoring.ReaperConfig{URL: s.URL, Registerer: reg, Log: zap.New(core), Every: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		<-refused
	}
	r.Close()
	if n := logs.Len(); n != 1 {
		t.Errorf("logged %d times, want once", n)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if v := f.GetMetric()[0].GetCounter().GetValue(); f.GetName() == "spool_telemetry_failures_total" && v < 2 {
			t.Errorf("%v failures counted, want 2 at least", v)
		}
	}
}

func TestReaperRefusesBadConfig(t *testing.T) {
	if r, err := monitoring.StartReaper(monitoring.ReaperConfig{URL: "localhost:9091"}); err == nil {
		r.Close()
		t.Error("no error")
	}
}
