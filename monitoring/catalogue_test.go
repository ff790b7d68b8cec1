package monitoring_test

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"

	"spool/monitoring"
)

var update = flag.Bool("update", false, "write METRICS.md")

func TestMetricsPageIsWhatTheCatalogueSays(t *testing.T) {
	const page = "METRICS.md"
	want := metricsPage()
	if *update {
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(page)
	if err != nil || string(got) != want {
		t.Errorf("%s is not what the catalogue says (%v): go test ./monitoring -run MetricsPage -update", page, err)
	}
}

func metricsPage() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Metrics\n\nMade from `monitoring.Catalogue` by `go test ./monitoring -run MetricsPage -update`; do not edit.\n\n"+
		"Each process has a group at the Pushgateway, with the labels `job` (`%s` or `%s`) and `instance`. Histograms have the\n"+
		"native form (buckets at most 10 %% wide) and the classic one. *Live* gauges are left out of a process's last push.\n"+
		"The Pushgateway adds `push_time_seconds` and `push_failure_time_seconds`.\n\n"+
		"| name | type | labels | by | meaning |\n| --- | --- | --- | --- | --- |\n", monitoring.RunnerJob, monitoring.WatcherJob)
	for _, m := range monitoring.Catalogue() {
		kind := string(m.Type)
		if m.Live {
			kind = "live " + kind
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", m.Name, kind, strings.Join(m.Labels, ", "), strings.Join(m.By, ", "), m.Help)
	}
	b.WriteString("\n## Labels\n\nAll are bounded: `most` is how many values a label has of one metric in one process.\n\n| label | most | values |\n| --- | --- | --- |\n")
	for _, l := range monitoring.Labels() {
		most := fmt.Sprint(l.Most)
		if l.Most == monitoring.Configured {
			most = "as configured"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", l.Name, most, l.Values)
	}
	b.WriteString("\n## Classic buckets\n\n| histogram | bounds |\n| --- | --- |\n")
	for _, m := range monitoring.Catalogue() {
		if m.Type == monitoring.Histogram {
			fmt.Fprintf(&b, "| `%s` | %g to %g, %d |\n", m.Name, m.Buckets[0], m.Buckets[len(m.Buckets)-1], len(m.Buckets))
		}
	}
	return b.String()
}

// all makes every metric of the catalogue, each with one series.
func all(set *monitoring.Set) {
	for _, m := range monitoring.Catalogue() {
		labels := make([]string, len(m.Labels))
		switch m.Type {
		case monitoring.Counter:
			set.Counters(m.Name).WithLabelValues(labels...)
		case monitoring.Gauge:
			set.Gauges(m.Name).WithLabelValues(labels...)
		case monitoring.Histogram:
			set.Histograms(m.Name).WithLabelValues(labels...).Observe(1)
		}
	}
}

func TestCatalogueFollowsTheConventions(t *testing.T) {
	reg := prometheus.NewRegistry()
	all(monitoring.NewSet(reg))
	problems, err := testutil.GatherAndLint(reg)
	if err != nil || len(problems) > 0 {
		t.Errorf("lint: %v %v", problems, err)
	}
	names := map[string]bool{}
	for _, m := range monitoring.Catalogue() {
		switch {
		case names[m.Name]:
			t.Errorf("%s is there twice", m.Name)
		case !strings.HasPrefix(m.Name, "spool_"), m.Help == "", len(m.By) == 0:
			t.Errorf("%s: no prefix, help or origin", m.Name)
		case m.Live && m.Type != monitoring.Gauge:
			t.Errorf("%s: only gauges can be live", m.Name)
		case (m.Type == monitoring.Histogram) != (len(m.Buckets) > 0):
			t.Errorf("%s: a %s with %d buckets", m.Name, m.Type, len(m.Buckets))
		case slices.Contains(m.Labels, "batch_id") && !m.Live: // whose values are not bounded otherwise
			t.Errorf("%s: only live gauges may have batch ids", m.Name)
		case slices.Contains(m.Labels, "job"), slices.Contains(m.Labels, "instance"):
			t.Errorf("%s: job and instance are the group's: the Pushgateway would refuse the push", m.Name)
		}
		names[m.Name] = true
	}
}

// Every label is listed with its bound, and no other.
func TestEveryLabelIsBounded(t *testing.T) {
	used, listed := map[string]bool{}, []string{}
	for _, m := range monitoring.Catalogue() {
		for _, l := range m.Labels {
			used[l] = true
		}
	}
	for _, l := range monitoring.Labels() {
		if listed = append(listed, l.Name); l.Most == 0 || l.Values == "" {
			t.Errorf("%s has no bound", l.Name)
		}
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(used)), listed); diff != "" {
		t.Errorf("labels of the catalogue (-) and of the list (+):\n%s", diff)
	}
}

func TestHistogramsHaveBothForms(t *testing.T) {
	reg := prometheus.NewRegistry()
	all(monitoring.NewSet(reg))
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, f := range families {
		if f.GetType() != dto.MetricType_HISTOGRAM {
			continue
		}
		n++
		h := f.GetMetric()[0].GetHistogram()
		if m, _ := monitoring.Lookup(f.GetName()); len(h.GetBucket()) != len(m.Buckets) || len(h.GetPositiveSpan()) != 1 || h.GetSchema() != 3 {
			t.Errorf("%s: %d classic buckets, %d native spans, schema %d", f.GetName(), len(h.GetBucket()), len(h.GetPositiveSpan()), h.GetSchema())
		}
	}
	if n < 8 {
		t.Errorf("only %d histograms", n)
	}
}

func TestCatalogueHasWhatIsRegisteredApart(t *testing.T) {
	reg := prometheus.NewRegistry()
	if _, err := monitoring.NewShipper(monitoring.ShipperConfig{Component: "runner", Instance: "r-1", Registerer: reg}); err != nil {
		t.Fatal(err)
	}
	p, err := monitoring.StartPusher(monitoring.PusherConfig{URL: "http://127.0.0.1:1", Job: "j", Instance: "i", Gatherer: reg, Registerer: reg})
	if err != nil {
		t.Fatal(err)
	}
	p.Close()
	families, err := reg.Gather()
	if err != nil || len(families) != 3 {
		t.Fatalf("%d families, want 3: %v", len(families), err)
	}
	for _, f := range families {
		m, ok := monitoring.Lookup(f.GetName())
		if !ok || !strings.EqualFold(string(m.Type), f.GetType().String()) || m.Help != f.GetHelp() {
			t.Errorf("the catalogue has %+v for %s", m, f)
		}
		for _, l := range f.GetMetric()[0].GetLabel() {
			if !slices.Contains(m.Labels, l.GetName()) {
				t.Errorf("%s has a label %s", f.GetName(), l.GetName())
			}
		}
	}
}

func TestSetRefusesWhatTheCatalogueDoesNotHave(t *testing.T) {
	set := monitoring.NewSet(nil)
	for name, make := range map[string]func(){
		"unknown":              func() { set.Counter("spool_nonsense_total") },
		"other type":           func() { set.Gauge("spool_jobs_total") },
		"made twice":           func() { set.Gauge("spool_runner_up"); set.Gauge("spool_runner_up") },
		"collected unknown":    func() { set.Collect(nil, "spool_nonsense_total") },
		"histogram to be read": func() { set.Collect(nil, "spool_request_tokens") },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			make()
		}()
	}
}

func TestCollectedMetricsAreReadWhenTheyAreGathered(t *testing.T) {
	reg := prometheus.NewRegistry()
	joules := 1.0
	monitoring.NewSet(reg).Collect(func(emit monitoring.Emit) { emit("spool_gpu_energy_joules_total", joules, "0") }, "spool_gpu_energy_joules_total")
	joules = 7
	m, _ := monitoring.Lookup("spool_gpu_energy_joules_total")
	want := "# HELP " + m.Name + " " + m.Help + "\n# TYPE " + m.Name + " counter\n" + m.Name + "{gpu=\"0\"} 7\n"
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}

func BenchmarkObserve(b *testing.B) {
	h := monitoring.NewSet(nil).Histograms("spool_request_duration_seconds").WithLabelValues("m", "chat")
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		h.Observe(float64(i%1000) / 100)
	}
}
