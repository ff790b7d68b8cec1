package picture_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/model"

	"spool/monitoring/dashboards"
	"spool/monitoring/dashboards/picture"
)

var end = time.Date(2026, 11, 25, 12, 30, 0, 0, time.UTC)

// answers is a source that knows what to say to some expressions, and keeps what it was asked.
type answers struct {
	at    map[string]model.Vector
	over  map[string]model.Matrix
	asked []string
}

func (a *answers) At(_ context.Context, expr string, _ time.Time) (model.Vector, error) {
	a.asked = append(a.asked, expr)
	return a.at[expr], nil
}

func (a *answers) Over(_ context.Context, expr string, start, end time.Time, step time.Duration) (model.Matrix, error) {
	a.asked = append(a.asked, fmt.Sprintf("%s over %s in steps of %s", expr, end.Sub(start), step))
	return a.over[expr], nil
}

// values are one a step before the end, the last at it; NaN ones too.
func values(step time.Duration, list ...float64) []model.SamplePair {
	var pairs []model.SamplePair
	for i, v := range list {
		t := end.Add(-step * time.Duration(len(list)-1-i))
		pairs = append(pairs, model.SamplePair{Timestamp: model.TimeFromUnixNano(t.UnixNano()), Value: model.SampleValue(v)})
	}
	return pairs
}

// draw gives the page of one panel, 12 columns wide and 8 high, that asks for x.
func draw(t *testing.T, src picture.Source, kind, unit, rest string) string {
	t.Helper()
	panel := fmt.Sprintf(`{"title":"T <&>","panels":[{"type":%q,"title":"P","description":"About. Empty without a GPU.","gridPos":{"x":12,"y":2,"w":12,"h":8},
		"fieldConfig":{"defaults":{"unit":%q%s}},"targets":[{"expr":"x","legendFormat":"{{name}}"}]}]}`, kind, unit, rest)
	page, height, err := picture.Page(t.Context(), src, []byte(panel), picture.View{Start: end.Add(-time.Hour), End: end, Note: "a note"})
	if err != nil {
		t.Fatal(err)
	}
	if height != 62+10*26+6 || !strings.Contains(page, `<section style="left:703px;top:117px;width:694px;height:202px">`) {
		t.Errorf("height %d; the panel is elsewhere: %s", height, page)
	}
	if !strings.Contains(page, "<h1>T &lt;&amp;&gt;") || !strings.Contains(page, "a note") {
		t.Errorf("title or note lack: %s", page)
	}
	return page
}

func find(t *testing.T, page, pattern string) []string {
	t.Helper()
	var got []string
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(page, -1) {
		got = append(got, strings.Join(m[1:], " "))
	}
	return got
}

func want(t *testing.T, got []string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("drawn (-want +got):\n%s", diff)
	}
}

func named(name string) model.Metric { return model.Metric{"name": model.LabelValue(name)} }

func TestLastValues(t *testing.T) {
	a := &answers{at: map[string]model.Vector{"x": {
		{Metric: named("<a>"), Value: 1250}, {Metric: named("b"), Value: 0.0125}, {Metric: named("none"), Value: model.SampleValue(nan())},
	}}}
	page := draw(t, a, "stat", "short", "")
	want(t, find(t, page, `<span>([^<]*)</span><b[^>]*>([^<]*)</b>`), "&lt;a&gt; 1.25 K", "b 0.0125")
	page = draw(t, a, "bargauge", "short", "")
	want(t, find(t, page, `<u style="width:([0-9.]+)%`), "100.0", "0.0")
	page = draw(t, a, "table", "s", "")
	want(t, find(t, page, `<td>([^<]*)</td><td>([^<]*)</td>`), "&lt;a&gt; 20.8 min", "b 12.5 ms")
	want(t, find(t, page, `<th>([^<]*)</th>`), "name", "Value")
}

// TestOneValueHasItsNameIfAsked: where the name is a label's value.
func TestOneValueHasItsNameIfAsked(t *testing.T) {
	a := &answers{at: map[string]model.Vector{"x": {{Metric: named("idle"), Value: 1250}}}}
	page := draw(t, a, "stat", "short", "")
	want(t, find(t, page, `<div class="one"><b[^>]*>([^<]*)</b>`), "1.25 K")
	panel := `{"panels":[{"type":"stat","gridPos":{"w":4,"h":4},"options":{"textMode":"value_and_name"},"targets":[{"expr":"x","legendFormat":"{{name}}"}]}]}`
	page, _, err := picture.Page(t.Context(), a, []byte(panel), picture.View{Start: end.Add(-time.Hour), End: end})
	if err != nil {
		t.Fatal(err)
	}
	want(t, find(t, page, `<span>([^<]*)</span><b[^>]*>([^<]*)</b>`), "idle 1.25 K")
}

func TestTablesHaveTheColumnsOfTheirPanels(t *testing.T) {
	a := &answers{at: map[string]model.Vector{"x": {{Metric: named("a"), Value: 7}}}}
	draw := func(options string) string {
		panel := `{"panels":[{"type":"table","gridPos":{"w":12,"h":8},"targets":[{"expr":"x"}],"transformations":[{"id":"organize","options":` + options + `}]}]}`
		page, _, err := picture.Page(t.Context(), a, []byte(panel), picture.View{Start: end.Add(-time.Hour), End: end})
		if err != nil {
			t.Fatal(err)
		}
		return page
	}
	const cells = `<t[hd]>([^<]*)</t[hd]>`
	want(t, find(t, draw(`{"excludeByName":{"Time":true},"renameByName":{"Value":"errors"}}`), cells), "name", "errors", "a", "7")
	want(t, find(t, draw(`{"excludeByName":{"Time":true,"Value":true}}`), cells), "name", "a")
}

// TestColorsAreThoseOfThresholds: a picture is as red as Grafana would be.
func TestColorsAreThoseOfThresholds(t *testing.T) {
	const green, yellow, red = "#1a7f37", "#b07d00", "#c4313a"
	steps := `,"thresholds":{"steps":[{"color":"green","value":null},{"color":"yellow","value":1},{"color":"red","value":85}]}`
	a := &answers{
		at: map[string]model.Vector{"x": {
			{Metric: named("a"), Value: 0}, {Metric: named("b"), Value: 1}, {Metric: named("c"), Value: 84}, {Metric: named("d"), Value: 85},
		}},
		over: map[string]model.Matrix{"x": {{Metric: named("a"), Values: values(15*time.Second, 60, 90)}}},
	}
	want(t, find(t, draw(t, a, "stat", "short", steps), `color:(#[0-9a-f]*)">`), green, yellow, yellow, red)
	want(t, find(t, draw(t, a, "stat", "short", ""), `color:(#[0-9a-f]*)">`), green, green, green, green)
	want(t, find(t, draw(t, a, "bargauge", "short", steps), `<u style="[^"]*background:(#[0-9a-f]*)"`), green, yellow, yellow, red)
	const line = `<line [^>]*stroke="(#[0-9a-f]*)" stroke-dasharray`
	want(t, find(t, draw(t, a, "timeseries", "short", steps+`,"custom":{"thresholdsStyle":{"mode":"dashed"}}`), line), yellow, red)
	want(t, find(t, draw(t, a, "timeseries", "short", steps), line))
}

func nan() float64 { return math.NaN() }

func TestLinesHaveGaps(t *testing.T) {
	// 685 px make steps of 15 s; the third value is no number, and two more lack beside it.
	list := values(15*time.Second, 10, 20, nan(), nan(), nan(), 20, 10)
	page := draw(t, &answers{over: map[string]model.Matrix{"x": {{Metric: named("a"), Values: list}}}}, "timeseries", "s", "")
	lines := find(t, page, `<polyline points="([^"]*)"`)
	if len(lines) != 2 {
		t.Fatalf("%d lines, want one before the gap and one behind it: %q", len(lines), lines)
	}
	for _, l := range lines {
		if n := len(strings.Fields(l)); n != 2 {
			t.Errorf("a line of %d points, want 2: %s", n, l)
		}
	}
	want(t, find(t, page, `text-anchor="end">([^<]*)<`), "0 s", "5 s", "10 s", "15 s", "20 s")
	want(t, find(t, page, `text-anchor="middle">([^<]*)<`), "11:45", "12:00", "12:15", "12:30")
}

func TestStackedLinesStandOnEachOther(t *testing.T) {
	step := 15 * time.Second
	a := &answers{over: map[string]model.Matrix{"x": {{Metric: named("a"), Values: values(step, 1, 1)}, {Metric: named("b"), Values: values(step, 3, 3)}}}}
	lines := find(t, draw(t, a, "timeseries", "short", `,"custom":{"stacking":{"mode":"normal"}}`), `<polyline points="[0-9.]*,([0-9.]*) `)
	want(t, lines, "100.5", "6.0") // 132 to 6 are 0 to 4
	lines = find(t, draw(t, a, "timeseries", "short", ""), `<polyline points="[0-9.]*,([0-9.]*) `)
	want(t, lines, "90.0", "6.0") // 132 to 6 are 0 to 3
}

func TestStatesAreJoined(t *testing.T) {
	a := &answers{over: map[string]model.Matrix{"x": {{Metric: named("r"), Values: values(15*time.Second, 1, 1, 0, 0, 1)}}}}
	page := draw(t, a, "state-timeline", "short", `,"thresholds":{"steps":[{"color":"gray","value":null},{"color":"green","value":1}]}`)
	want(t, find(t, page, `<rect[^>]*fill="(#[0-9a-f]*)"`), "#1a7f37", "#c8cdd2", "#1a7f37")
}

func TestHeatIsWhatEachBucketHas(t *testing.T) {
	bucket := func(le string, v ...float64) *model.SampleStream {
		return &model.SampleStream{Metric: model.Metric{"le": model.LabelValue(le)}, Values: values(15*time.Second, v...)}
	}
	a := &answers{over: map[string]model.Matrix{"x": {bucket("+Inf", 4, 4), bucket("10", 4, 4), bucket("1", 0, 1), bucket("2", 0, 1)}}}
	page := draw(t, a, "heatmap", "s", "")
	want(t, find(t, page, `fill-opacity="([^"]*)"`), "0.34", "1.00", "0.78") // of 1 at 1 s, of 4 and then 3 at 10 s
	want(t, find(t, page, `text-anchor="end">([^<]*)<`), "1 s", "2 s", "10 s")
}

func TestEmptyPanelsSayWhy(t *testing.T) {
	if page := draw(t, &answers{}, "timeseries", "s", ""); !strings.Contains(page, "no data (none without a GPU)") {
		t.Errorf("it does not say why it is empty: %s", page)
	}
}

func TestErrorsNameThePanel(t *testing.T) {
	_, _, err := picture.Page(t.Context(), broken{}, []byte(`{"panels":[{"type":"stat","title":"P","targets":[{"expr":"x"}]}]}`), picture.View{})
	if err == nil || err.Error() != `draw panel "P": down` {
		t.Errorf("got %v", err)
	}
	_, _, err = picture.Page(t.Context(), &answers{at: map[string]model.Vector{}, over: map[string]model.Matrix{"x": {{Values: values(1, 1)}}}},
		[]byte(`{"panels":[{"type":"pie","title":"P","targets":[{"expr":"x"}]}]}`), picture.View{})
	if err == nil || err.Error() != `draw panel "P": it is of the unknown type "pie"` {
		t.Errorf("got %v", err)
	}
}

type broken struct{}

func (broken) At(context.Context, string, time.Time) (model.Vector, error) {
	return nil, errors.New("down")
}

func (broken) Over(context.Context, string, time.Time, time.Time, time.Duration) (model.Matrix, error) {
	return nil, errors.New("down")
}

// TestAllDashboardsAreDrawn: every panel is of a kind that can be, and asks what Prometheus understands.
func TestAllDashboardsAreDrawn(t *testing.T) {
	for _, b := range dashboards.All() {
		text, err := b.JSON()
		if err != nil {
			t.Fatal(err)
		}
		a := &answers{}
		page, _, err := picture.Page(t.Context(), a, text, picture.View{Start: end.Add(-time.Hour), End: end})
		if err != nil {
			t.Fatal(err)
		}
		panels, queries := 0, 0
		for _, r := range b.Rows {
			panels += len(r.Panels)
			for _, p := range r.Panels {
				if p.Kind != dashboards.Logs {
					queries += len(p.Queries)
				}
			}
		}
		if n := strings.Count(page, "<section"); n != panels || len(a.asked) != queries {
			t.Errorf("%s: %d panels and %d questions, want %d and %d", b.Title, n, len(a.asked), panels, queries)
		}
		for _, expr := range a.asked {
			if strings.Contains(expr, "$") {
				t.Errorf("%s: a variable is left in %s", b.Title, expr)
			}
		}
	}
}
