package dashboards

import (
	"fmt"
	"strings"
)

// Needs says what must be there, beside a run, that a panel has data.
type Needs string

// What panels need.
const (
	NeedsRun     Needs = ""               // a batch and a runner
	NeedsGPU     Needs = "a GPU"          // and a binary that can watch it
	NeedsOwn     Needs = "an own engine"  // that the runner started
	NeedsCache   Needs = "a prefix cache" // in the engine, which spool local's does not have
	NeedsTold    Needs = "engines that tell their times (vLLM's --enable-per-request-metrics)"
	NeedsLoki    Needs = "a Loki that has spool's logs" // as that of compose.yaml
	NeedsGateway Needs = "a real Pushgateway"           // that tells about itself, as spool local's does not
	NeedsTrouble Needs = "trouble"                      // nothing is wrong while it is empty
)

// Board is one dashboard.
type Board struct {
	UID, Title, About string
	Rows              []Row
}

// Row is a heading and what stands below.
type Row struct {
	Title  string
	Panels []Panel
}

// Kind is how a panel looks.
type Kind int

// Kinds of panels.
const (
	Lines   Kind = iota // over time
	Stacked             // over time, one above the other
	Stat                // the last value, large
	Bars                // the last values side by side
	Table
	Heat     // a histogram over time
	Timeline // states over time
	Logs     // lines, asked of Loki in its own language
)

// Panel is one picture. Units are Grafana's.
type Panel struct {
	Title, About, Unit string
	Kind               Kind
	Queries            []Query
	Needs              Needs
	Levels             []Level // rising
	Exemplars          bool    // single requests are marked, where Prometheus stores them
}

// Level is a value from which on a panel has a color of Grafana's: large values, and a line in a chart.
type Level struct {
	From  float64
	Color string
}

// Query is one expression, and the name of what it gives, with labels in double braces. Of a table it is that of the column of
// values, which is not shown without a name: its labels are all that is of interest.
type Query struct{ Expr, Legend string }

// All gives the dashboards.
func All() []Board { return []Board{batchProcessing(), gpuMonitoring(), systemHealth()} }

// q writes a query. R stands for the matcher of runners that the dashboard's variables choose, M for that and the one of
// models, P for that of pools; W is the interval of a rate, T the range of the dashboard. Gauges behind which RUNS, WATCHES or
// LIVES stands are those of runners, of watchers, and of both that have pushed lately: of one that was killed the last values
// stay for two hours.
func q(expr, legend string) Query {
	return Query{strings.NewReplacer(
		"§RUNS", fresh("=", "spool-runner"), "§WATCHES", fresh("=", "spool-watcher"), "§LIVES", fresh("=~", "spool-.+"),
		"§R", `instance=~"$instance"`, "§M", `model=~"$model", instance=~"$instance"`, "§P", `pool=~"$pool"`,
		"§W", "[$__rate_interval]", "§T", "[$__range]",
	).Replace(expr), legend}
}

func fresh(operator, job string) string {
	return fmt.Sprintf(" and on (job, instance) time() - push_time_seconds{job%s%q} < 90", operator, job)
}

// quantiles asks for three quantiles of a histogram, whose series are chosen by matchers.
func quantiles(histogram, matchers string) []Query {
	var list []Query
	for _, p := range []struct{ q, name string }{{"0.5", "p50"}, {"0.95", "p95"}, {"0.99", "p99"}} {
		list = append(list, q(quantile(p.q, "", histogram, matchers), p.name))
	}
	return list
}

// quantile is within 5 % of the truth where Prometheus stores native histograms, and elsewhere as good as the classic buckets,
// of which one is twice as wide as that before. by is a label, or none.
func quantile(part, by, histogram, matchers string) string {
	native, classic := "sum", "sum by (le)"
	if by != "" {
		native, classic = "sum by ("+by+")", "sum by ("+by+", le)"
	}
	return fmt.Sprintf("histogram_quantile(%s, %s (rate(%s{%s}§W))) or histogram_quantile(%[1]s, %[5]s (rate(%[3]s_bucket{%[4]s}§W)))",
		part, native, histogram, matchers, classic)
}

// inRange is by how much a counter of each process rose in the range, exactly. The series of a process only rises: its highest
// value counts, less the highest of the hour before the range. One that is not there then began with the process, at 0.
func inRange(counter string) string {
	return fmt.Sprintf("(max_over_time(%s§T) - (max_over_time(%[1]s[1h] offset $__range) or 0 * max_over_time(%[1]s§T)))", counter)
}

// one is a panel of one expression.
func one(kind Kind, title, unit, about, expr, legend string) Panel {
	return Panel{Title: title, About: about, Unit: unit, Kind: kind, Queries: []Query{q(expr, legend)}}
}

func (p Panel) needs(n Needs) Panel {
	p.Needs = n
	return p
}

// yellow from a value on is what somebody should look at in time.
func (p Panel) yellow(from float64) Panel {
	p.Levels = append(p.Levels, Level{from, "yellow"})
	return p
}

// red from a value on is what somebody should look at now.
func (p Panel) red(from float64) Panel {
	p.Levels = append(p.Levels, Level{from, "red"})
	return p
}

const (
	liveRunners = `(time() - push_time_seconds{job="spool-runner", §R} < 60) and on (job, instance) spool_runner_up == 1`
	perSecond   = "short"
	ratio       = "percentunit"
	count       = "short"
	seconds     = "s"
)
