package pushgateway_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/push"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"go.uber.org/goleak"

	"spool/localstack/pushgateway"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// gateway is a server whose clock stands at 1700000000.5.
type gateway struct {
	*testing.T
	*pushgateway.Server
	url    string
	client *http.Client
}

func start(t *testing.T) *gateway {
	t.Helper()
	srv := pushgateway.New(func() time.Time { return time.Unix(1_700_000_000, 5e8) })
	web := httptest.NewServer(srv)
	t.Cleanup(web.Close)
	return &gateway{t, srv, web.URL, web.Client()}
}

// do sends a request and returns status and body.
func (g *gateway) do(method, path, body string, header ...string) (int, string) {
	g.Helper()
	r, err := http.NewRequestWithContext(g.Context(), method, g.url+path, strings.NewReader(body))
	must(g.T, err)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := g.client.Do(r)
	must(g.T, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	must(g.T, err)
	return resp.StatusCode, string(text)
}

func (g *gateway) put(path, body string) {
	g.Helper()
	if status, text := g.do(http.MethodPut, path, body); status != http.StatusOK {
		g.Fatalf("PUT %s: %d %s", path, status, text)
	}
}

// want compares all series of the named metrics with text.
func (g *gateway) want(text string, names ...string) {
	g.Helper()
	if err := testutil.GatherAndCompare(g.Server, strings.NewReader(text), names...); err != nil {
		g.Error(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestClientOfPrometheusPushesAddsAndDeletes(t *testing.T) {
	g := start(t)
	done := prometheus.NewCounter(prometheus.CounterOpts{Name: "lines_total", Help: "Lines."})
	done.Add(7)
	took := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "took_seconds", Help: "Time.", Buckets: []float64{1, 2}})
	took.Observe(1.5)
	pusher := push.New(g.url, "spool").Grouping("instance", "runner/7").Grouping("empty", "").Client(g.client)
	must(t, pusher.Collector(done).Collector(took).PushContext(t.Context()))
	g.want(`
# HELP lines_total Lines.
# TYPE lines_total counter
lines_total{empty="",instance="runner/7",job="spool"} 7
# HELP took_seconds Time.
# TYPE took_seconds histogram
took_seconds_bucket{empty="",instance="runner/7",job="spool",le="1"} 0
took_seconds_bucket{empty="",instance="runner/7",job="spool",le="2"} 1
took_seconds_bucket{empty="",instance="runner/7",job="spool",le="+Inf"} 1
took_seconds_sum{empty="",instance="runner/7",job="spool"} 1.5
took_seconds_count{empty="",instance="runner/7",job="spool"} 1
# HELP push_time_seconds Last Unix time when changing this group in the Pushgateway succeeded.
# TYPE push_time_seconds gauge
push_time_seconds{empty="",instance="runner/7",job="spool"} 1.7000000005e+09
`, "lines_total", "took_seconds", "push_time_seconds")

	done.Add(1)
	add := push.New(g.url, "spool").Grouping("instance", "runner/7").Grouping("empty", "").Client(g.client)
	must(t, add.Format(expfmt.NewFormat(expfmt.TypeTextPlain)).Collector(done).AddContext(t.Context()))
	g.want(`
# HELP lines_total Lines.
# TYPE lines_total counter
lines_total{empty="",instance="runner/7",job="spool"} 8
`, "lines_total")
	if n, err := testutil.GatherAndCount(g.Server, "took_seconds"); err != nil || n != 1 {
		t.Errorf("%d series of took_seconds after an add of another metric, %v", n, err)
	}
	must(t, pusher.Delete())
	if families, err := g.Gather(); err != nil || len(families) != 0 {
		t.Errorf("%d families after delete, %v", len(families), err)
	}
}

func TestPutReplacesTheGroupAndLeavesOthers(t *testing.T) {
	g := start(t)
	g.put("/metrics/job/a", "x 1\ny 2\n")
	g.put("/metrics/job/b", "x 3\n")
	g.put("/metrics/job/a", "x 4\n")
	g.want("# TYPE x untyped\nx{instance=\"\",job=\"a\"} 4\nx{instance=\"\",job=\"b\"} 3\n", "x", "y")
}

func TestLabelsOfTheGroupWin(t *testing.T) {
	g := start(t)
	g.put("/metrics/job/a/zone/%C3%BC%20%2B", `x{job="other",zone="z",own="o"} 1`+"\n")
	g.want("# TYPE x untyped\nx{instance=\"\",job=\"a\",own=\"o\",zone=\"ü +\"} 1\n", "x")
}

func TestWrongPushesAreRefusedAndNoted(t *testing.T) {
	for name, push := range map[string]struct{ path, body string }{
		"a type that clashes":     {"/metrics/job/b", "# TYPE x counter\nx 1\n"},
		"a syntax error":          {"/metrics/job/b", "x one\n"},
		"a timestamp":             {"/metrics/job/b", "x 1 1700000000000\n"},
		"one series twice":        {"/metrics/job/b", "x{a=\"1\"} 1\nx{a=\"1\"} 2\n"},
		"the gateway's own":       {"/metrics/job/b", "push_time_seconds 1\n"},
		"no job":                  {"/metrics/instance/b", "x 1\n"},
		"an empty job":            {"/metrics/job@base64/=", "x 1\n"},
		"an odd path":             {"/metrics/job/b/zone", "x 1\n"},
		"a reserved label":        {"/metrics/job/b/__name__/y", "x 1\n"},
		"a label twice":           {"/metrics/job/b/job/c", "x 1\n"},
		"a label that is no name": {"/metrics/job/b/a-b/c", "x 1\n"},
		"a value not in base64":   {"/metrics/job/b/zone@base64/***", "x 1\n"},
	} {
		t.Run(name, func(t *testing.T) {
			g := start(t)
			g.put("/metrics/job/a", "# TYPE x gauge\nx 1\n")
			if status, text := g.do(http.MethodPost, push.path, push.body); status != http.StatusBadRequest {
				t.Errorf("%d %s, want 400", status, text)
			}
			g.want("# TYPE x gauge\nx{instance=\"\",job=\"a\"} 1\n", "x")
		})
	}
}

func TestFailedPushKeepsTheGroupAndTellsTheTime(t *testing.T) {
	g := start(t)
	g.put("/metrics/job/a", "x 1\n")
	if status, _ := g.do(http.MethodPut, "/metrics/job/a", "x one\n"); status != http.StatusBadRequest {
		t.Fatalf("status %d", status)
	}
	g.want(`
# HELP push_failure_time_seconds Last Unix time when changing this group in the Pushgateway failed.
# TYPE push_failure_time_seconds gauge
push_failure_time_seconds{instance="",job="a"} 1.7000000005e+09
# TYPE x untyped
x{instance="",job="a"} 1
`, "x", "push_failure_time_seconds")
}

func TestHelpOfTheFirstGroupHolds(t *testing.T) {
	g := start(t)
	g.put("/metrics/job/a", "# HELP x First.\n# TYPE x gauge\nx 1\n")
	g.put("/metrics/job/b", "# HELP x Second.\n# TYPE x gauge\nx 2\n")
	g.want("# HELP x First.\n# TYPE x gauge\nx{instance=\"\",job=\"a\"} 1\nx{instance=\"\",job=\"b\"} 2\n", "x")
}

func TestMetricsAreNegotiated(t *testing.T) {
	g := start(t)
	g.put("/metrics/job/a", "# TYPE x gauge\nx 1\n")
	_, text := g.do(http.MethodGet, "/metrics", "")
	if !strings.Contains(text, "\nx{instance=\"\",job=\"a\"} 1\n") {
		t.Errorf("text: %s", text)
	}
	_, proto := g.do(http.MethodGet, "/metrics", "", "Accept",
		"application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited")
	decoder := expfmt.NewDecoder(strings.NewReader(proto), expfmt.NewFormat(expfmt.TypeProtoDelim))
	values := map[string]float64{}
	for f := new(dto.MetricFamily); decoder.Decode(f) == nil; f = new(dto.MetricFamily) {
		values[f.GetName()] = f.Metric[0].GetGauge().GetValue()
	}
	want := map[string]float64{"x": 1, "push_time_seconds": 1700000000.5, "push_failure_time_seconds": 0}
	if diff := cmp.Diff(want, values); diff != "" {
		t.Error(diff)
	}
}

func TestAPIListsGroups(t *testing.T) {
	g := start(t)
	g.put("/metrics/job/a/instance/i", "# TYPE up gauge\nup 1\n")
	_, text := g.do(http.MethodGet, "/api/v1/metrics", "")
	var got struct {
		Status string
		Data   []struct {
			Labels map[string]string
			OK     bool `json:"last_push_successful"`
			Pushed struct {
				Metrics []struct{ Value string }
			} `json:"push_time_seconds"`
			Up struct {
				Type    string
				Metrics []struct {
					Labels map[string]string
					Value  string
				}
			}
		}
	}
	must(t, json.Unmarshal([]byte(text), &got))
	if got.Status != "success" || len(got.Data) != 1 {
		t.Fatal(text)
	}
	labels := map[string]string{"job": "a", "instance": "i"}
	d := got.Data[0]
	if diff := cmp.Diff([]any{labels, true, "1.7000000005e+09", "GAUGE", labels, "1"},
		[]any{d.Labels, d.OK, d.Pushed.Metrics[0].Value, d.Up.Type, d.Up.Metrics[0].Labels, d.Up.Metrics[0].Value}); diff != "" {
		t.Error(diff)
	}
}

func TestProbesAndOtherPaths(t *testing.T) {
	g := start(t)
	for _, c := range []struct {
		method, path string
		status       int
	}{
		{http.MethodGet, "/-/ready", 200}, {http.MethodGet, "/-/healthy", 200}, {http.MethodGet, "/", 404},
		{http.MethodPost, "/metrics", 405}, {http.MethodGet, "/metrics/job/a", 405}, {http.MethodDelete, "/metrics/job/none", 202},
	} {
		if status, _ := g.do(c.method, c.path, ""); status != c.status {
			t.Errorf("%s %s: %d, want %d", c.method, c.path, status, c.status)
		}
	}
}
