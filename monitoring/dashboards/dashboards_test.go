package dashboards_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"spool/monitoring"
	"spool/monitoring/dashboards"
	"spool/monitoring/internal/promql"
)

var update = flag.Bool("update", false, "write the dashboards")

func TestFilesAreWhatIsMade(t *testing.T) {
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	var committed, made []string
	for _, f := range files {
		if strings.HasSuffix(f.Name(), ".json") {
			committed = append(committed, f.Name())
		}
	}
	for _, b := range dashboards.All() {
		want, err := b.JSON()
		if err != nil {
			t.Fatal(err)
		}
		name := b.UID + ".json"
		made = append(made, name)
		if *update {
			if err := os.WriteFile(name, want, 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		got, err := os.ReadFile(name)
		if err != nil || string(got) != string(want) {
			t.Errorf("%s is not what is made (%v): go test ./monitoring/dashboards -update", name, err)
		}
	}
	slices.Sort(made)
	if !*update && !slices.Equal(committed, made) {
		t.Errorf("there are %v, made are %v", committed, made)
	}
}

// decode reads what is made of a board.
func decode(t *testing.T, b dashboards.Board, into any) {
	t.Helper()
	text, err := b.JSON()
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, into); err != nil {
		t.Fatal(err)
	}
}

// each calls f with every query of every panel that asks Prometheus.
func each(f func(b dashboards.Board, p dashboards.Panel, expr string)) {
	for _, b := range dashboards.All() {
		for _, row := range b.Rows {
			for _, p := range row.Panels {
				for _, q := range p.Queries {
					if p.Kind != dashboards.Logs {
						f(b, p, q.Expr)
					}
				}
			}
		}
	}
}

func TestExpressionsNameOnlyWhatThereIs(t *testing.T) {
	n := 0
	each(func(b dashboards.Board, p dashboards.Panel, expr string) {
		n++
		if err := promql.Check(expr); err != nil {
			t.Errorf("%s, %s: %v", b.Title, p.Title, err)
		}
		if strings.Contains(expr, "§") {
			t.Errorf("%s, %s: an abbreviation is left in %s", b.Title, p.Title, expr)
		}
	})
	t.Logf("%d expressions", n)
	for _, v := range dashboards.Variables() {
		if err := promql.Check(v.Metric + "{" + v.Matchers + "}"); err != nil {
			t.Errorf("variable %s: %v", v.Name, err)
		}
		if m, _ := monitoring.Lookup(v.Metric); v.Values != "instance" && !slices.Contains(m.Labels, v.Values) {
			t.Errorf("variable %s: %s has no label %s", v.Name, v.Metric, v.Values)
		}
	}
}

func TestVariablesInExpressionsAreThere(t *testing.T) {
	names := []string{"__rate_interval", "__range"}
	for _, v := range dashboards.Variables() {
		names = append(names, v.Name)
	}
	variable := regexp.MustCompile(`\$(\w+)`)
	each(func(b dashboards.Board, p dashboards.Panel, expr string) {
		for _, m := range variable.FindAllStringSubmatch(expr, -1) {
			if !slices.Contains(names, m[1]) {
				t.Errorf("%s, %s: there is no variable %s", b.Title, p.Title, m[1])
			}
		}
	})
}

// TestCountersAreReadAsCounters: the value of a counter by itself means nothing to people.
func TestCountersAreReadAsCounters(t *testing.T) {
	inRange := regexp.MustCompile(`\b(rate|changes|max_over_time)\(([a-z_]+)`)
	each(func(b dashboards.Board, p dashboards.Panel, expr string) {
		read := map[string]bool{}
		for _, m := range inRange.FindAllStringSubmatch(expr, -1) {
			read[m[2]] = true
		}
		names, err := promql.Metrics(expr)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			m, _ := monitoring.Lookup(name)
			series := read[name] || read[name+"_bucket"] || read[name+"_count"]
			// How often engines came up is of interest as it is.
			if m.Type != "" && m.Type != monitoring.Gauge && !series && name != "spool_engine_starts_total" {
				t.Errorf("%s, %s: %s is read without rate or max_over_time", b.Title, p.Title, name)
			}
		}
	})
}

func TestPanelsExplainThemselves(t *testing.T) {
	units := map[string]string{"_seconds": "s", "_bytes": "bytes", "_ratio": "percentunit", "_celsius": "celsius"}
	for _, b := range dashboards.All() {
		titles := map[string]bool{}
		for _, row := range b.Rows {
			for _, p := range row.Panels {
				if titles[p.Title] || p.Title == "" || len(p.About) < 10 || p.Unit == "" || len(p.Queries) == 0 {
					t.Errorf("%s: panel %q is there twice, or lacks something: %+v", b.Title, p.Title, p)
				}
				titles[p.Title] = true
				for _, q := range p.Queries {
					for suffix, unit := range units {
						if regexp.MustCompile(`^spool_[a-z_]+`+suffix+`\{`).MatchString(q.Expr) && p.Unit != unit {
							t.Errorf("%s, %s: the unit is %s, of the metric %s", b.Title, p.Title, p.Unit, unit)
						}
					}
				}
			}
		}
	}
}

// TestEveryMetricIsOfUse: one that no panel and no alert shows is pushed for nothing.
func TestEveryMetricIsOfUse(t *testing.T) {
	used := map[string]bool{}
	use := func(expr string) {
		names, err := promql.Metrics(expr)
		if err != nil {
			t.Fatalf("%s: %v", expr, err)
		}
		for _, name := range names {
			used[name] = true
		}
	}
	each(func(_ dashboards.Board, _ dashboards.Panel, expr string) { use(expr) })
	text, err := os.ReadFile("../alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct{ Rules []struct{ Expr string } }
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			use(r.Expr)
		}
	}
	for _, m := range monitoring.Catalogue() {
		if !used[m.Name] {
			t.Errorf("%s is in no panel and no alert", m.Name)
		}
	}
}

func TestFilesHaveASourceAndNumbers(t *testing.T) {
	for _, b := range dashboards.All() {
		var d struct {
			UID    string
			Panels []struct {
				ID         int
				Type       string
				Datasource struct{ UID string }
				Targets    []struct{ Expr, RefID string }
			}
			Templating  struct{ List []struct{ Name, Type string } }
			Annotations struct{ List []struct{ Name, Expr string } }
		}
		decode(t, b, &d)
		ids := map[int]bool{}
		for _, p := range d.Panels {
			source := "${datasource}"
			if p.Type == "logs" {
				source = "${loki}"
			}
			if ids[p.ID] || p.ID == 0 || p.Type != "row" && (p.Datasource.UID != source || len(p.Targets) == 0) {
				t.Errorf("%s: panel %+v", b.Title, p)
			}
			ids[p.ID] = true
		}
		for _, a := range d.Annotations.List {
			if err := promql.Check(a.Expr); err != nil || a.Expr == "" {
				t.Errorf("%s: annotation %s: %q, %v", b.Title, a.Name, a.Expr, err)
			}
		}
		var variables []string
		for _, v := range d.Templating.List {
			variables = append(variables, v.Name+" "+v.Type)
		}
		want := []string{"datasource datasource", "pool query", "model query", "instance query"}
		if b.UID == "spool-health" { // which has the logs
			want = append(want, "loki datasource", "batch textbox")
		}
		if len(d.Annotations.List) != 2 || d.UID != b.UID || !slices.Equal(variables, want) {
			t.Errorf("%s: variables %q, want %q", b.Title, variables, want)
		}
	}
}

// TestNoOptionIsEmpty: the SDK writes options that are not set as "", for which Grafana has no meaning. Of a panel with several
// values and such an orientation it shows the first one only (grafana/grafana-foundation-sdk#1302).
func TestNoOptionIsEmpty(t *testing.T) {
	for _, b := range dashboards.All() {
		var d any
		decode(t, b, &d)
		for _, path := range empty(d, b.Title) {
			t.Errorf("%s is empty", path)
		}
	}
}

// empty gives the paths of texts without a letter.
func empty(v any, path string) (list []string) {
	switch v := v.(type) {
	case map[string]any:
		for key, part := range v {
			list = append(list, empty(part, path+"."+key)...)
		}
	case []any:
		for i, part := range v {
			list = append(list, empty(part, fmt.Sprintf("%s[%d]", path, i))...)
		}
	case string:
		if v == "" {
			list = append(list, path)
		}
	}
	return list
}

// TestColorsHaveAMeaning: values are green but for those about which somebody should do something. Where there is an alert, its
// bound is the color's.
func TestColorsHaveAMeaning(t *testing.T) {
	want := map[string]string{
		"Error ratio": "red from 0.02", "Oldest job": "red from 1800", "Last success": "red from 172800", "Bad lines": "yellow from 1",
		"Failures": "yellow from 1", "Age of the oldest job": "red from 1800", "Dead letters": "red from 1",
		"Hottest": "red from 85", "XIDs": "red from 1", "Temperature": "red from 85", "Waiting for an engine": "red from 900",
		"Runners lost": "red from 1", "Last progress": "red from 600", "Last scan": "red from 600", "Oldest log line": "red from 120",
		"Memory of machines": "yellow from 0.95",
		"Engine up":          "green from 1", "Runners up": "green from 1", "Watchers up": "green from 1", "Pushgateway up": "green from 1",
	}
	for _, b := range dashboards.All() {
		var d struct {
			Panels []struct {
				Type, Title string
				FieldConfig struct {
					Defaults struct {
						Color      struct{ Mode string }
						Thresholds struct {
							Mode  string
							Steps []struct {
								Value *float64
								Color string
							}
						}
					}
				}
			}
		}
		decode(t, b, &d)
		for _, p := range d.Panels {
			if p.Type == "row" {
				continue
			}
			base, mode := "green", ""
			switch p.Type {
			case "state-timeline":
				base, mode = "gray", "thresholds"
			case "stat", "bargauge":
				mode = "thresholds"
			}
			defaults := p.FieldConfig.Defaults
			steps := defaults.Thresholds.Steps
			if defaults.Thresholds.Mode != "absolute" || defaults.Color.Mode != mode || steps[0].Color != base || steps[0].Value != nil {
				t.Errorf("%s, %s: %+v, want colors of the mode %q, %s at first", b.Title, p.Title, defaults, mode, base)
			}
			var got []string
			for _, s := range steps[1:] {
				got = append(got, fmt.Sprintf("%s from %v", s.Color, *s.Value))
			}
			if g := strings.Join(got, ", "); g != want[p.Title] {
				t.Errorf("%s, %s: %q, want %q", b.Title, p.Title, g, want[p.Title])
			}
			delete(want, p.Title)
		}
	}
	for title := range want {
		t.Errorf("no panel is called %s", title)
	}
}

// TestStacksHaveNoZeros: Grafana draws the outline of a series that is 0 on top of the others. That there are no
// messages and no events is worth to be seen.
func TestStacksHaveNoZeros(t *testing.T) {
	zero := []string{"Messages", "Events", "What runners do"}
	each(func(b dashboards.Board, p dashboards.Panel, expr string) {
		if p.Kind == dashboards.Stacked && !slices.Contains(zero, p.Title) && !strings.HasSuffix(strings.TrimSuffix(expr, ")"), " > 0") {
			t.Errorf("%s, %s shows zeros: %s", b.Title, p.Title, expr)
		}
	})
}

// TestTablesNameTheirColumns: there is no column Time, and none is called Value.
func TestTablesNameTheirColumns(t *testing.T) {
	for _, b := range dashboards.All() {
		var d struct {
			Panels []struct {
				Type, Title     string
				Transformations []struct {
					ID      string
					Options struct {
						ExcludeByName map[string]bool
						RenameByName  map[string]string
					}
				}
			}
		}
		decode(t, b, &d)
		for _, p := range d.Panels {
			if p.Type != "table" {
				continue
			}
			tr := p.Transformations
			if len(tr) != 1 || tr[0].ID != "organize" || !tr[0].Options.ExcludeByName["Time"] ||
				tr[0].Options.ExcludeByName["Value"] == (tr[0].Options.RenameByName["Value"] != "") {
				t.Errorf("%s, %s: %+v", b.Title, p.Title, tr)
			}
		}
	}
}

// TestLatenciesHaveExemplars: one query of each such panel asks for them.
func TestLatenciesHaveExemplars(t *testing.T) {
	var got []string
	for _, b := range dashboards.All() {
		var d struct {
			Panels []struct {
				Title   string
				Targets []struct{ Exemplar bool }
			}
		}
		decode(t, b, &d)
		for _, p := range d.Panels {
			for _, target := range p.Targets {
				if target.Exemplar {
					got = append(got, p.Title)
				}
			}
		}
	}
	if want := []string{"Latency", "Latencies"}; !slices.Equal(got, want) {
		t.Errorf("exemplars are in %q, want %q", got, want)
	}
}

// TestLogsAreThoseOfABatch: labels and structured metadata are what compose/config.alloy gives to Loki.
func TestLogsAreThoseOfABatch(t *testing.T) {
	config, err := os.ReadFile("../compose/config.alloy")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, b := range dashboards.All() {
		for _, row := range b.Rows {
			for _, p := range row.Panels {
				if p.Kind != dashboards.Logs {
					continue
				}
				n++
				if want := `{service=~".+", pool=~"$pool"} | batch_id=~"$batch"`; p.Queries[0].Expr != want || p.Needs != dashboards.NeedsLoki {
					t.Errorf("%s asks %s, want %s", p.Title, p.Queries[0].Expr, want)
				}
			}
		}
	}
	_, metadata, _ := strings.Cut(string(config), "stage.structured_metadata {")
	if n != 1 || !strings.Contains(metadata, "batch_id ") || !strings.Contains(string(config), `values = ["service", "env", "pool", "level"]`) {
		t.Errorf("%d panels of logs; the labels are others", n)
	}
}

// TestPanelsFillTheGrid: none lies on another, or beyond the right edge, and there are no holes.
func TestPanelsFillTheGrid(t *testing.T) {
	for _, b := range dashboards.All() {
		var d struct {
			Panels []struct {
				Title   string
				GridPos struct{ X, Y, W, H int }
			}
		}
		decode(t, b, &d)
		taken := map[[2]int]string{}
		bottom := 0
		for _, p := range d.Panels {
			g := p.GridPos
			for y := g.Y; y < g.Y+g.H; y++ {
				for x := g.X; x < g.X+g.W; x++ {
					if other, ok := taken[[2]int{x, y}]; ok || x >= 24 {
						t.Fatalf("%s: %s at %+v lies on %q, or beyond the edge", b.Title, p.Title, g, other)
					}
					taken[[2]int{x, y}] = p.Title
				}
			}
			bottom = max(bottom, g.Y+g.H)
		}
		if len(taken) != 24*bottom {
			t.Errorf("%s: %d of %d squares are empty", b.Title, 24*bottom-len(taken), 24*bottom)
		}
	}
}
