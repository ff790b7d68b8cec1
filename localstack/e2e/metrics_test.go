package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"spool/localstack/localtest"
	"spool/monitoring"
	"spool/monitoring/dashboards"
)

// prometheus is a real Prometheus that scrapes a Pushgateway every second.
type prometheus struct {
	t   *testing.T
	url string
}

// startPrometheus ends it with the test.
func startPrometheus(t *testing.T, gateway string, args ...string) *prometheus {
	t.Helper()
	localtest.Program(t, "prometheus", "apt-get install --no-install-recommends prometheus")
	alerts, err := filepath.Abs("../../monitoring/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "prometheus.yml")
	err = os.WriteFile(config, fmt.Appendf(nil, `
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [%q]
scrape_configs:
- job_name: pushgateway
  honor_labels: true
  static_configs: [{targets: [%q]}]
`, alerts, strings.TrimPrefix(gateway, "http://")), 0o644)
	if err != nil {
		t.Fatal(err)
	}
	return &prometheus{t, serve(t, "prometheus", append([]string{"--config.file", config, "--storage.tsdb.path", filepath.Join(dir, "data")}, args...)...)}
}

// listening is what they log of the port that the kernel has given them.
var listening = regexp.MustCompile(`Listening on.*address=(127\.0\.0\.1:\d+)\s`)

// serve starts a server of Prometheus' family on a port that is free, and ends it with the test.
func serve(t *testing.T, program string, args ...string) (url string) {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, append(args, "--web.listen-address", "127.0.0.1:0")...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()         // and says that it was killed
		out.Close()
		if t.Failed() {
			t.Logf("last lines of %s:\n%s", program, tail(out.Name(), 20))
		}
	})
	(&stack{t: t}).until(program+" listens", func() bool {
		said, _ := os.ReadFile(out.Name()) // it was created before the process
		if found := listening.FindSubmatch(said); found != nil {
			url = "http://" + string(found[1])
		}
		return url != ""
	})
	return url
}

// queried is one series of the answer to a query over time: pairs of a time and a number in text.
type queried struct {
	Metric map[string]string
	Values [][2]any
}

// ask queries from a time until now. An error is one of the expression, or Prometheus is not up yet.
func (p *prometheus) ask(expr string, from time.Time) ([]queried, error) {
	ctx, cancel := context.WithTimeout(p.t.Context(), time.Minute)
	defer cancel()
	now := time.Now()
	q := url.Values{"query": {expr}, "step": {"1"},
		"start": {strconv.FormatInt(from.Unix(), 10)}, "end": {strconv.FormatInt(now.Unix(), 10)}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+"/api/v1/query_range?"+q.Encode(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var answer struct {
		Error string
		Data  struct{ Result []queried }
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return nil, err
	}
	if answer.Error != "" {
		return nil, fmt.Errorf("%s: %s", expr, answer.Error)
	}
	return answer.Data.Result, nil
}

// numbers counts the values that are numbers.
func numbers(list []queried) int {
	n := 0
	for _, s := range list {
		for _, v := range s.Values {
			text, _ := v[1].(string)
			if f, err := strconv.ParseFloat(text, 64); err == nil && !math.IsNaN(f) {
				n++
			}
		}
	}
	return n
}

// last gives the last value of a query of one series; NaN if there is none.
func (p *prometheus) last(expr string) float64 {
	list, err := p.ask(expr, time.Now())
	if err != nil || len(list) != 1 {
		return math.NaN()
	}
	f, err := strconv.ParseFloat(list[0].Values[len(list[0].Values)-1][1].(string), 64)
	if err != nil {
		return math.NaN()
	}
	return f
}

// number is last, but waits until there is one: after a scrape that took more than a second there is none until the next.
func (p *prometheus) number(expr string) (v float64) {
	p.t.Helper()
	(&stack{t: p.t}).until("Prometheus has a number for "+expr, func() bool {
		v = p.last(expr)
		return !math.IsNaN(v)
	})
	return v
}

// expand puts what Grafana would: a range that covers the test, and any runner, model and pool.
func expand(expr string) string {
	expr = strings.NewReplacer("$__rate_interval", "30s", "$__range", "1h").Replace(expr)
	return regexp.MustCompile(`\$[a-z]+`).ReplaceAllString(expr, ".*")
}

// TestDashboardsShowARun has a real Prometheus look at a run, by a real Pushgateway if it is installed: every panel that needs no
// more than that has data, and the totals are the truth after all runners have gone, one of them with lines that fail. That one
// starts its engine itself.
func TestDashboardsShowARun(t *testing.T) {
	t.Parallel()
	localtest.Program(t, "prometheus", "apt-get install --no-install-recommends prometheus")
	s := emptyStack(t)
	gateway := startPushgateway(t)
	s.local("--runners", "0", "--pushgateway", gateway)
	began := time.Now()
	p := startPrometheus(t, gateway)

	// Lines that are good, that the engine refuses, and that are not JSON.
	input := requests("good", 400, 100)
	input = append(input, request("refused", 10_000_000), "not JSON")
	s.put(s.write("x.jsonl", input...), "in/x.jsonl", map[string]string{"on-invalid": "skip"})
	s.until("Prometheus finds that jobs wait without a runner", func() bool {
		return p.last(`count(ALERTS{alertname="SpoolQueueBacklogWithNoRunner"})`) == 1
	})
	// An engine of the runner's own, that tells its times, and takes so long that there is time to see it.
	vllm := s.write("vllm", "#!/bin/sh", fmt.Sprintf(`exec "%s" vllmsim --time-scale 0.25 -- "$@" --enable-per-request-metrics`, spool))
	if err := os.Chmod(vllm, 0o755); err != nil {
		t.Fatal(err)
	}
	runner := s.start("run", "run", "--model", "default", "--vllm", vllm, "--slots", "4", "--pushgateway", gateway, "--idle", "5s")
	b := s.wait("in/x.jsonl", 1)[0]
	if code := runner.ended(t); code != 0 || b.RequestCounts.Completed != 400 || b.RequestCounts.Failed != 2 {
		t.Fatalf("the runner ended with %d, the batch with %+v", code, b.RequestCounts)
	}
	idle := s.runner(s.engine(), "--pushgateway", gateway)
	s.until("Prometheus has seen another runner", func() bool { return p.last("count(spool_runner_up)") == 2 })
	idle.signal(syscall.SIGTERM)
	if code := idle.ended(t); code != 0 {
		t.Errorf("the runner that was interrupted ended with %d", code)
	}
	s.until("Prometheus has seen that all is over", func() bool {
		return p.last("sum(spool_runner_up)") == 0 && p.last(`sum(spool_watcher_batches_total{outcome="completed"})`) == 1
	})
	t.Logf("the run took %s", time.Since(began).Round(time.Second))

	for status, want := range map[string]float64{"ok": 400, "error": 1} { // nobody asked for the bad one
		if got := p.last(`sum(max_over_time(spool_lines_total{status="` + status + `"}[1h]))`); got != want {
			t.Errorf("Prometheus counts %v lines %s, want %v", got, status, want)
		}
	}
	if n := p.last(`count({job="` + monitoring.RunnerJob + `", __name__="spool_requests_in_flight"}) or vector(0)`); n != 0 {
		t.Errorf("%v runners that are gone seem to have requests in flight", n)
	}
	left := 0
	for _, key := range s.keys("logs/_/runner/") {
		if strings.HasSuffix(key, "/metrics.prom") {
			left++
		}
	}
	if left != 2 {
		t.Errorf("%d runners left their metrics beside their logs, want 2", left)
	}
	p.wantData(began)
}

// wantData asks for what every panel of Prometheus' data shows.
func (p *prometheus) wantData(from time.Time) {
	had := []dashboards.Needs{dashboards.NeedsRun, dashboards.NeedsOwn, dashboards.NeedsTold}
	if _, err := exec.LookPath("prometheus-pushgateway"); err == nil {
		had = append(had, dashboards.NeedsGateway)
	}
	shown, waived := 0, 0
	for _, board := range dashboards.All() {
		for _, row := range board.Rows {
			for _, panel := range row.Panels {
				if panel.Kind == dashboards.Logs {
					waived++
					continue
				}
				for _, q := range panel.Queries {
					got, err := p.ask(expand(q.Expr), from)
					switch {
					case err != nil:
						p.t.Errorf("%s, %s: %v", board.Title, panel.Title, err)
					case !slices.Contains(had, panel.Needs):
						waived++
					case numbers(got) == 0:
						p.t.Errorf("%s, %s has no data: %s", board.Title, panel.Title, expand(q.Expr))
					default:
						shown++
					}
				}
			}
		}
	}
	p.t.Logf("%d expressions have data, %d need more than a run", shown, waived)
}
