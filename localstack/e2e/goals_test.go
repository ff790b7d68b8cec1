package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	client "github.com/prometheus/client_golang/prometheus"

	"spool/localstack/pushgateway"
	"spool/monitoring"
	"spool/runner/vllm/vllmsim"
	"spool/storage/batch"
)

// pushEvery is how far two pushes are apart at most: 15 s and a tenth.
const pushEvery = 16500 * time.Millisecond

// freeAddress is of a port that nobody listens on now.
func freeAddress(t *testing.T) string {
	t.Helper()
	free, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free.Close()
	return free.Addr().String()
}

// startPushgateway starts Prometheus' own if it is installed, else that of spool local.
func startPushgateway(t *testing.T) (url string) {
	t.Helper()
	if _, err := exec.LookPath("prometheus-pushgateway"); err != nil {
		return embeddedPushgateway(t)
	}
	address := freeAddress(t)
	cmd := exec.Command("prometheus-pushgateway", "--web.listen-address", address)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()         // and says that it was killed
	})
	return "http://" + address
}

func embeddedPushgateway(t *testing.T) (url string) {
	t.Helper()
	server := httptest.NewServer(pushgateway.New(time.Now))
	t.Cleanup(server.Close)
	return server.URL
}

// fetch reads a page; "" if it is not there.
func fetch(t *testing.T, url string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return ""
	}
	return string(text)
}

// TestPrometheusTotalsAreTheTruth has three runners work on one file, of which one is killed. What Prometheus counts of those
// that end in order is what the engines and summary.json say, to the line; of the killed one at most the last push is missing. All
// their time has a name, no live gauge of them is left, and what they push is small.
func TestPrometheusTotalsAreTheTruth(t *testing.T) {
	s := newStack(t)
	need(t, "prometheus")
	gateway := startPushgateway(t)
	p := startPrometheus(t, gateway)
	s.until("the Pushgateway is up", func() bool { return fetch(t, gateway+"/-/ready") != "" })

	lines := requests("goal", 12_000, 200)
	s.put(s.write("goal.jsonl", lines...), "in/goal.jsonl", nil)
	slow := s.engine("--slots", "32", "--time-scale", "0.1") // 50 lines a second
	doomed := s.runner(slow, "--slots", "32", "--idle", "120s", "--lease-ttl", "9s", "--pushgateway", gateway)
	s.until("the first runner has worked for three pushes", func() bool {
		first := firstAnswer(slow.asked())
		return !first.IsZero() && time.Since(first) > 3*pushEvery
	})
	doomed.kill()
	killed := time.Now()
	fast := s.engine("--slots", "64", "--time-scale", "0.02")
	var good []*process
	for range 2 {
		good = append(good, s.runner(fast, "--slots", "32", "--idle", "120s", "--lease-ttl", "9s", "--pushgateway", gateway))
	}
	s.sendAgain("in/goal.jsonl")
	b := s.wait("in/goal.jsonl", 1)[0]
	if b.RequestCounts.Completed != int64(len(lines)) {
		t.Fatalf("batch %+v", b)
	}
	for _, r := range good {
		r.signal(syscall.SIGTERM)
		if code := r.ended(t); code != 0 {
			t.Errorf("a runner that was told to end ended with %d", code)
		}
	}
	s.until("Prometheus has scraped the last pushes", func() bool { return p.last("sum(spool_runner_up)") == 1 })

	g := goals{t, s, p, b, nil}
	g.wantTotals(fast, slow, killed)
	g.wantNamedTime()
	g.wantNoLiveGauges()
	g.wantSmallPushes(gateway)
}

func firstAnswer(entries []vllmsim.Entry) time.Time {
	for _, e := range entries {
		if e.Event == vllmsim.Answered {
			return time.Unix(0, e.Time)
		}
	}
	return time.Time{}
}

// goals is a run that is over.
type goals struct {
	t     *testing.T
	s     *stack
	p     *prometheus
	batch batch.Object
	ended []string // the instances that ended in order
}

// total is a counter's sum over instances, also of those that are gone.
func (g *goals) total(selector string) float64 {
	return g.p.last("sum(max_over_time(" + selector + "[1h]))")
}

func (g *goals) wantTotals(fast, slow *engine, killed time.Time) {
	t := g.t
	var sum batch.Summary
	if err := json.Unmarshal(g.s.get(batch.OutDir("in/goal.jsonl", g.batch.ID)+batch.SummaryName), &sum); err != nil {
		t.Fatal(err)
	}
	up, err := g.p.ask("spool_runner_up == 0", killed)
	if err != nil || len(up) != 2 {
		t.Fatalf("%d runners that ended in order, want 2: %v", len(up), err)
	}
	orderly := 0.0
	for _, series := range up {
		name := series.Metric["instance"]
		g.ended = append(g.ended, name)
		i := slices.IndexFunc(sum.Runners, func(r batch.Runner) bool { return r.Runner == name })
		var r batch.Runner // who found no shard left has no record, and counts nothing
		if i >= 0 {
			r = sum.Runners[i]
		}
		of := `{instance="` + name + `"`
		for selector, want := range map[string]int64{
			"spool_lines_total" + of + `,status="ok"}`:           r.OK,
			"spool_lines_total" + of + `,status="error"}`:        r.Err,
			"spool_chunks_total" + of + `,state="committed"}`:    int64(r.Chunks),
			"spool_jobs_total" + of + `,state="done"}`:           int64(r.Shards),
			"spool_request_duration_seconds_count" + of + `}`:    r.Requests,
			"spool_engine_answers_total" + of + `,outcome="ok"}`: r.Requests,
		} {
			if got := g.total(selector); got != float64(want) {
				t.Errorf("Prometheus has %v for %s, summary.json %d", got, selector, want)
			}
		}
		orderly += g.total("spool_requests_total" + of + `,status="ok"}`)
	}
	if truth := fast.count(vllmsim.Answered); orderly != float64(truth) {
		t.Errorf("Prometheus counts %v requests of runners that ended in order, their engine answered %d", orderly, truth)
	}
	all, least := 0, 0
	for _, e := range slow.asked() {
		if e.Event == vllmsim.Answered {
			all++
			if time.Unix(0, e.Time).Before(killed.Add(-pushEvery - time.Second)) { // one second on the way to the runner
				least++
			}
		}
	}
	got := g.total(`spool_requests_total{status="ok",instance!~"` + strings.Join(g.ended, "|") + `"}`)
	if got < float64(least) || got > float64(all) || least == 0 {
		t.Errorf("of the killed runner Prometheus counts %v, its engine answered %d, %d of them a push before the end", got, all, least)
	}
	t.Logf("in order: %v of %d requests; killed: %v of %d, %d a push before the end", orderly, fast.count(vllmsim.Answered), got, all, least)
	for _, r := range sum.Runners {
		named := 0.0
		for _, phase := range r.Phases {
			named += phase.Seconds
		}
		if held := float64(r.UpdatedAt - r.StartedAt); named < 0.99*held-1 || named > 1.01*held+1 { // these are whole seconds
			t.Errorf("phases of %s in summary.json are %.2f s of %v", r.Runner, named, held)
		}
	}
}

// wantNamedTime holds the phases against the life of runners.
func (g *goals) wantNamedTime() {
	for _, name := range g.ended {
		of := `{instance="` + name + `"}`
		life := g.p.last("sum(spool_runner_end_timestamp_seconds" + of + ") - sum(spool_runner_start_timestamp_seconds" + of + ")")
		named := g.total("spool_runner_phase_seconds_total" + of)
		if part := named / life; !(part >= 0.99 && part <= 1.01) {
			g.t.Errorf("%s: %.2f s of %.2f have a name", name, named, life)
		} else {
			g.t.Logf("%s: %.2f %% of %.2f s have a name", name, 100*part, life)
		}
	}
}

// wantNoLiveGauges: the scrape that saw the end was the first without them.
func (g *goals) wantNoLiveGauges() {
	var names []string
	for _, m := range monitoring.Catalogue() {
		if m.Live {
			names = append(names, m.Name)
		}
	}
	expr := `count({__name__=~"` + strings.Join(names, "|") + `",instance=~"%s"}) or vector(0)`
	if n := g.p.last(fmt.Sprintf(expr, strings.Join(g.ended, "|"))); n != 0 {
		g.t.Errorf("%v live gauges of runners that are gone", n)
	}
	if n := g.p.last(fmt.Sprintf(expr, ".+")); n < 5 { // of the killed one, so that the question is a good one
		g.t.Errorf("only %v live gauges at all", n)
	}
}

// wantSmallPushes counts series in the form that Prometheus stores without native histograms.
func (g *goals) wantSmallPushes(gateway string) {
	text := fetch(g.t, gateway+"/metrics")
	most, mostPlain := 0, 0
	for _, name := range regexp.MustCompile(`spool_runner_up\{instance="([^"]+)"`).FindAllStringSubmatch(text, -1) {
		all, plain := 0, 0
		for line := range strings.Lines(text) {
			if !strings.HasPrefix(line, "#") && strings.Contains(line, `instance="`+name[1]+`"`) {
				all++
				if !strings.Contains(line, "_bucket{") {
					plain++
				}
			}
		}
		most, mostPlain = max(most, all), max(mostPlain, plain)
	}
	if most > 800 || mostPlain > 200 || most == 0 {
		g.t.Errorf("a runner pushes %d series, %d without buckets; want 800 and 200 at most", most, mostPlain)
	}
	g.t.Logf("a runner pushes at most %d series, %d without buckets", most, mostPlain)
}

// TestLiveQuantilesAreWithinFivePercent compares what Prometheus says of native histograms, in the way of the dashboards, with
// the sorted truth of log-normal times.
func TestLiveQuantilesAreWithinFivePercent(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("end to end")
	}
	gateway := embeddedPushgateway(t) // that of Debian 12 is too old for native histograms
	p := startPrometheus(t, gateway, "--enable-feature=native-histograms")
	reg := client.NewRegistry()
	h := monitoring.NewSet(reg).Histograms("spool_request_duration_seconds").WithLabelValues("m", "chat.completions")
	pusher, err := monitoring.StartPusher(monitoring.PusherConfig{URL: gateway, Job: monitoring.RunnerJob, Instance: "r", Gatherer: reg})
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	var truth []float64
	for range 20_000 {
		v := math.Exp(random.NormFloat64())
		h.Observe(v)
		truth = append(truth, v)
	}
	pusher.Close() // pushes all
	slices.Sort(truth)
	s := &stack{t: t, dir: t.TempDir()}
	s.until("Prometheus has scraped the histogram", func() bool {
		return p.last(`histogram_count(sum(spool_request_duration_seconds))`) == 20_000
	})
	for _, q := range []float64{0.5, 0.95, 0.99} {
		want := truth[int(math.Ceil(q*float64(len(truth))))-1]
		got := p.last(fmt.Sprintf("histogram_quantile(%v, sum(spool_request_duration_seconds))", q))
		if off := got/want - 1; !(math.Abs(off) <= 0.05) {
			t.Errorf("p%v is %v s, in truth %v: off by %.1f %%", 100*q, got, want, 100*off)
		} else {
			t.Logf("p%v is %.3f s, in truth %.3f: off by %.2f %%", 100*q, got, want, 100*off)
		}
	}
}
