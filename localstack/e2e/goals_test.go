package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	client "github.com/prometheus/client_golang/prometheus"

	"spool/localstack/localtest"
	"spool/localstack/pushgateway"
	"spool/monitoring"
	"spool/runner/vllm/vllmsim"
	"spool/storage/batch"
)

const (
	pushEvery = 16500 * time.Millisecond // how far two pushes are apart at most: 15 s and a tenth
	pushTakes = 10 * time.Second         // at most, from the look at the counters until the Pushgateway has them: 3 s, and what it stalls
)

// startPushgateway starts Prometheus' own if it is installed, else that of spool local.
func startPushgateway(t *testing.T) (url string) {
	t.Helper()
	if _, err := exec.LookPath("prometheus-pushgateway"); err != nil {
		return embeddedPushgateway(t)
	}
	return serve(t, "prometheus-pushgateway")
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
	localtest.Program(t, "prometheus", "apt-get install --no-install-recommends prometheus")
	gateway := startPushgateway(t)
	p := startPrometheus(t, gateway)
	s.until("the Pushgateway is up", func() bool { return fetch(t, gateway+"/-/ready") != "" })

	lines := requests("goal", 12_000, 200)
	s.put(s.write("goal.jsonl", lines...), "in/goal.jsonl", nil)
	slow := s.engine("--slots", "32", "--time-scale", "0.1") // 50 lines a second
	doomed := s.runner(slow, "--slots", "32", "--idle", "120s", "--lease-ttl", "9s", "--pushgateway", gateway, "--log-level", "debug")
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
	s.until("the runners have left their shards, of which one finalised the batch", func() bool {
		return !slices.ContainsFunc(good, func(r *process) bool { return timesLogged(r, "shard_taken") != timesLogged(r, "shard_left") })
	})
	for _, r := range good {
		r.signal(syscall.SIGTERM)
		if code := r.ended(t); code != 0 {
			t.Errorf("a runner that was told to end ended with %d", code)
		}
	}
	s.until("Prometheus has scraped the last pushes", func() bool { return p.last("count(spool_runner_up == 0)") == 2 })

	g := goals{t, s, p, b, nil}
	g.wantTotals(fast, slow, killed)
	g.wantNamedTime()
	g.wantNoLiveGauges()
	g.wantSmallPushes(gateway)
	g.wantLogs(doomed, killed)
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

// total is a counter's sum over instances, also of those that are gone; 0 if there is none, as of a runner that found no shard left.
func (g *goals) total(selector string) float64 {
	return g.p.last("sum(max_over_time(" + selector + "[1h])) or vector(0)")
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
	// The last push of the killed runner tells all that was answered before it, however late its timer came on a slow machine.
	others := `instance!~"` + strings.Join(g.ended, "|") + `"`
	pushed := time.UnixMilli(int64(1000 * g.p.number(`push_time_seconds{job="`+monitoring.RunnerJob+`",`+others+`}`)))
	all, least := 0, 0
	for _, e := range slow.asked() {
		if e.Event == vllmsim.Answered {
			all++
			if time.Unix(0, e.Time).Before(pushed.Add(-pushTakes)) {
				least++
			}
		}
	}
	got := g.total(`spool_requests_total{status="ok",` + others + `}`)
	if got < float64(least) || got > float64(all) || least == 0 {
		t.Errorf("of the killed runner Prometheus counts %v, its engine answered %d, %d of them %s before its last push", got, all, least, pushTakes)
	}
	before := killed.Sub(pushed)
	if before > 2*pushEvery { // a timer that is late, but no push that is missing
		t.Errorf("the last push of the killed runner was %s before its end, want %s at most", before, 2*pushEvery)
	}
	t.Logf("in order: %v of %d requests; killed: %v of %d, %d of them %s before its last push, which was %s before its end",
		orderly, fast.count(vllmsim.Answered), got, all, least, pushTakes, before.Round(time.Millisecond))
	for _, r := range sum.Runners {
		named := 0.0
		for _, phase := range r.Phases {
			named += phase.Seconds
		}
		if held := float64(r.UpdatedAt - r.StartedAt); !nearly(named, held) { // these are whole seconds
			t.Errorf("phases of %s in summary.json are %.2f s of %v", r.Runner, named, held)
		}
	}
}

// nearly allows for one part in a hundred, and for a second: of a life of a few, what a busy machine takes between two looks at
// the clock is more than a hundredth.
func nearly(named, life float64) bool { return math.Abs(named-life) <= 0.01*life+1 }

// wantNamedTime holds the phases against the life of runners.
func (g *goals) wantNamedTime() {
	for _, name := range g.ended {
		of := `{instance="` + name + `"}`
		life := g.p.number("sum(spool_runner_end_timestamp_seconds" + of + ") - sum(spool_runner_start_timestamp_seconds" + of + ")")
		named := g.total("spool_runner_phase_seconds_total" + of)
		if !nearly(named, life) {
			g.t.Errorf("%s: %.2f s of %.2f have a name", name, named, life)
		}
		g.t.Logf("%s: %.2f %% of %.2f s have a name", name, 100*named/life, life)
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
	g.s.until("the killed one has live gauges, so that the question is a good one", func() bool {
		return g.p.last(fmt.Sprintf(expr, ".+")) >= 5
	})
	if n := g.p.last(fmt.Sprintf(expr, strings.Join(g.ended, "|"))); n != 0 {
		g.t.Errorf("%v live gauges of runners that are gone", n)
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

// shippedLine is what the checks need of a log line.
type shippedLine struct {
	Timestamp time.Time
	Instance  string
	Batch     string `json:"batch_id"`
	Seq       int
}

func (g *goals) parseLog(text string) []shippedLine {
	var list []shippedLine
	for line := range strings.Lines(text) {
		var l shippedLine
		if json.Unmarshal([]byte(line), &l) == nil && l.Batch == g.batch.ID { // the last line may be cut off by the kill
			list = append(list, l)
		}
	}
	return list
}

// wantLogs compares what a runner that was killed wrote to its standard output with what is in the bucket.
func (g *goals) wantLogs(doomed *process, killed time.Time) {
	text, err := os.ReadFile(doomed.log)
	if err != nil {
		g.t.Fatal(err)
	}
	stdout, stderr, code := g.s.run("logs", "in/goal.jsonl", "--json", "--level", "debug")
	if code != 0 {
		g.t.Fatalf("logs: exit %d: %s", code, stderr)
	}
	wrote := g.parseLog(string(text))
	if len(wrote) == 0 {
		g.t.Fatal("the runner logged nothing")
	}
	stored := map[int]bool{}
	for _, l := range g.parseLog(stdout) {
		if l.Instance == wrote[0].Instance {
			stored[l.Seq] = true
		}
	}
	var oldest time.Duration // of the lines that are lost
	for _, l := range wrote {
		if !stored[l.Seq] {
			oldest = max(oldest, killed.Sub(l.Timestamp))
		}
	}
	for seq := range len(stored) {
		if !stored[seq+1] {
			g.t.Errorf("line %d is lost, but not the last of those in the bucket", seq+1)
		}
	}
	if len(stored) == 0 || oldest > 30*time.Second { // 10 s, and what a slow machine takes for a part
		g.t.Errorf("%d of %d lines are in the bucket; the oldest that is lost was written %s before the kill", len(stored), len(wrote), oldest)
	}
	g.t.Logf("%d of %d lines of the killed runner are in the bucket, the oldest that is lost was written %s before the kill", len(stored), len(wrote), oldest)
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
		got := p.number(fmt.Sprintf("histogram_quantile(%v, sum(spool_request_duration_seconds))", q))
		if off := got/want - 1; !(math.Abs(off) <= 0.05) {
			t.Errorf("p%v is %v s, in truth %v: off by %.1f %%", 100*q, got, want, 100*off)
		} else {
			t.Logf("p%v is %.3f s, in truth %.3f: off by %.2f %%", 100*q, got, want, 100*off)
		}
	}
}

// TestEveryEndIsReported: however a batch ends, and whatever happens to its runners, report.html, summary.json and summary.md say
// so, without a script and a request to anywhere.
func TestEveryEndIsReported(t *testing.T) {
	s := newStack(t)
	s.put(s.write("good.jsonl", requests("good", 10, 10)...), "in/good.jsonl", nil)
	s.put(s.write("mixed.jsonl", append(requests("mixed", 10, 10), request("refused", 10_000_000))...), "in/mixed.jsonl", nil)
	s.put(s.write("bad.jsonl", "not JSON"), "in/bad.jsonl", nil)
	s.put(s.write("cancelled.jsonl", requests("cancelled", 10, 10)...), "in/cancelled.jsonl", nil)
	if _, stderr, code := s.run("cancel", "in/cancelled.jsonl"); code != 0 {
		t.Fatalf("cancel: exit %d: %s", code, stderr)
	}
	s.wait("in/cancelled.jsonl", 1)

	// One runner is told to end, the next one is killed, the third one ends it all.
	s.put(s.write("moved.jsonl", requests("moved", 2500, 200)...), "in/moved.jsonl", nil)
	slow := s.engine("--slots", "32", "--time-scale", "0.1")
	works := func() *process {
		before := slow.count(vllmsim.Answered)
		r := s.runner(slow, "--slots", "32", "--idle", "120s", "--lease-ttl", "9s")
		s.until("the runner works", func() bool { return slow.count(vllmsim.Answered) > before+100 })
		return r
	}
	r := works()
	r.signal(syscall.SIGTERM)
	if code := r.ended(t); code != 0 {
		t.Errorf("the runner ended with %d after SIGTERM", code)
	}
	works().kill()
	s.runner(s.engine("--time-scale", "0"), "--idle", "120s", "--lease-ttl", "9s")
	s.sendAgain("in/moved.jsonl")

	for name, want := range map[string]struct {
		verdict string
		lines   batch.SummaryLines
		runners int // at least
	}{
		"good":      {"Completed", batch.SummaryLines{Total: 10, OK: 10}, 1},
		"mixed":     {"Completed, some lines failed", batch.SummaryLines{Total: 11, OK: 10, Failed: 1}, 1},
		"bad":       {"Rejected", batch.SummaryLines{Total: 1, Invalid: 1}, 0},
		"cancelled": {"Cancelled", batch.SummaryLines{Total: 10, Missing: 10}, 0},
		"moved":     {"Completed", batch.SummaryLines{Total: 2500, OK: 2500}, 2}, // the killed one may not have lived to its first record
	} {
		s.wait("in/"+name+".jsonl", 1)
		s.wantReport("in/"+name+".jsonl", want.verdict, want.lines, want.runners)
	}
}

// wantReport wants all three files of the only batch of an input.
func (s *stack) wantReport(key, verdict string, lines batch.SummaryLines, runners int) {
	s.t.Helper()
	dir := batch.OutDir(key, s.batches(key)[0].ID)
	var sum batch.Summary
	if err := json.Unmarshal(s.get(dir+batch.SummaryName), &sum); err != nil {
		s.t.Fatal(err)
	}
	if sum.Lines != lines || len(sum.Runners) < runners {
		s.t.Errorf("%s: summary.json counts %+v by %d runners, want %+v by %d", key, sum.Lines, len(sum.Runners), lines, runners)
	}
	if md := string(s.get(dir + batch.MarkdownName)); !strings.HasSuffix(strings.SplitN(md, "\n", 2)[0], " "+verdict) {
		s.t.Errorf("%s: summary.md begins with %.80q, want %s", key, md, verdict)
	}
	html := string(s.get(dir + batch.ReportName))
	for _, want := range []string{"<title>" + verdict + ": " + key, `http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'"`} {
		if !strings.Contains(html, want) {
			s.t.Errorf("%s: report.html has no %s", key, want)
		}
	}
	if found := regexp.MustCompile(`<script|<link|<img|(?:href|src)="https?:|url\(`).FindString(html); found != "" || len(html) > 300_000 {
		s.t.Errorf("%s: report.html has %d bytes and %q", key, len(html), found)
	}
}
