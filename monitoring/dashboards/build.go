package dashboards

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/grafana/grafana-foundation-sdk/go/bargauge"
	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/cog/variants"
	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/heatmap"
	"github.com/grafana/grafana-foundation-sdk/go/logs"
	"github.com/grafana/grafana-foundation-sdk/go/loki"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/statetimeline"
	"github.com/grafana/grafana-foundation-sdk/go/table"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
)

// Variable chooses what a dashboard shows.
type Variable struct{ Name, Label, Metric, Matchers, Values string }

// Variables gives those of all dashboards, in their order: Values is the label whose values can be chosen, Metric whose.
func Variables() []Variable {
	return []Variable{
		{"pool", "Pool", "spool_runner_info", "", "pool"},
		{"model", "Model", "spool_requests_total", "", "model"},
		{"instance", "Runner", "spool_runner_info", `pool=~"$pool"`, "instance"},
	}
}

// JSON is the dashboard as Grafana takes it.
func (b Board) JSON() ([]byte, error) {
	//nolint:staticcheck // its successor is for Grafana 12 and later only; this one is read from 10 on
	d := dashboard.NewDashboardBuilder(b.Title).Uid(b.UID).Description(b.About).Tags([]string{"spool"}).
		Readonly().Refresh("30s").Time("now-6h", "now").Tooltip(dashboard.DashboardCursorSyncCrosshair).
		WithVariable(dashboard.NewDatasourceVariableBuilder("datasource").Label("Prometheus").Type("prometheus")).
		Link(dashboard.NewDashboardLinkBuilder("spool").Type(dashboard.DashboardLinkTypeDashboards).Tags([]string{"spool"}).
			Icon("dashboard").Tooltip("The other dashboards of spool").KeepTime(true).IncludeVars(true)).
		Annotation(annotation("Batches ended", "green", risen("spool_watcher_batches_total", "outcome"))).
		Annotation(annotation("XID", "red", risen("spool_gpu_xid_errors_total", "gpu, xid")))
	for _, v := range Variables() {
		d.WithVariable(v.builder())
	}
	if b.hasLogs() {
		d.WithVariable(dashboard.NewDatasourceVariableBuilder("loki").Label("Loki").Type("loki"))
		d.WithVariable(dashboard.NewTextBoxVariableBuilder("batch").Label("Batch of the logs").
			DefaultValue(dashboard.StringOrMap{String: cog.ToPtr(".*")}))
	}
	for _, row := range b.Rows {
		d.WithRow(dashboard.NewRowBuilder(row.Title))
		for _, p := range row.Panels {
			d.WithPanel(p.builder())
		}
	}
	built, err := d.Build()
	if err != nil {
		return nil, fmt.Errorf("build dashboard %s: %w", b.UID, err)
	}
	layOut(built.Panels)
	for i, p := range built.Panels { // Grafana tells panels apart by their numbers
		id := uint32(i + 1)
		if p.Panel != nil {
			p.Panel.Id = &id
		} else {
			p.RowPanel.Id = id
		}
	}
	text, err := json.MarshalIndent(built, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode dashboard %s: %w", b.UID, err)
	}
	return append(text, '\n'), nil
}

func (b Board) hasLogs() bool {
	return slices.ContainsFunc(b.Rows, func(r Row) bool {
		return slices.ContainsFunc(r.Panels, func(p Panel) bool { return p.Kind == Logs })
	})
}

// grid is the width of a dashboard.
const grid = 24

// layOut puts panels into lines, from left to right. All of a line are as high as the highest of it, and the last is as wide as
// there is room.
func layOut(panels []dashboard.PanelOrRowPanel) {
	var x, y, height uint32
	var line []*dashboard.GridPos
	end := func() {
		for _, g := range line {
			g.H = height
		}
		if len(line) > 0 {
			line[len(line)-1].W += grid - x
		}
		y += height
		x, height, line = 0, 0, nil
	}
	for _, p := range panels {
		if p.Panel == nil {
			end()
			p.RowPanel.GridPos = &dashboard.GridPos{Y: y, W: grid, H: 1}
			y++
			continue
		}
		g := p.Panel.GridPos
		if x+g.W > grid {
			end()
		}
		g.X, g.Y = x, y
		x, height, line = x+g.W, max(height, g.H), append(line, g)
	}
	end()
}

func (p Panel) source() common.DataSourceRef {
	if p.Kind == Logs {
		return common.DataSourceRef{Type: cog.ToPtr("loki"), Uid: cog.ToPtr("${loki}")}
	}
	return source()
}

func source() common.DataSourceRef {
	return common.DataSourceRef{Type: cog.ToPtr("prometheus"), Uid: cog.ToPtr("${datasource}")}
}

func (v Variable) query() string {
	metric := v.Metric
	if v.Matchers != "" {
		metric += "{" + v.Matchers + "}"
	}
	return "label_values(" + metric + ", " + v.Values + ")"
}

func (v Variable) builder() *dashboard.QueryVariableBuilder {
	return dashboard.NewQueryVariableBuilder(v.Name).Label(v.Label).Datasource(source()).
		Query(dashboard.StringOrMap{String: cog.ToPtr(v.query())}).
		Refresh(dashboard.VariableRefreshOnTimeRangeChanged).Sort(dashboard.VariableSortAlphabeticalAsc).
		Multi(true).IncludeAll(true).AllValue(".*")
}

// risen marks where a counter rose in the last minute, which is the step of annotations: changes() would miss what came between
// the last sample of one minute and the first of the next. A series that begins rose, too: the first XID of a number is the first
// value of its series. One that was there in the hour before was not scraped for a while, and did not begin.
func risen(counter, by string) string {
	return fmt.Sprintf("sum by (%s) (%s > max_over_time(%[2]s[1h] offset 1m) or (%[2]s > 0 unless max_over_time(%[2]s[1h] offset 1m)))", by, counter)
}

func annotation(name, color, expr string) *dashboard.AnnotationQueryBuilder {
	return dashboard.NewAnnotationQueryBuilder().Name(name).Datasource(source()).Enable(true).IconColor(color).Expr(expr)
}

// graph is what all builders of panels have in common. Each of their methods gives the builder itself, of its own type.
type graph[B any] interface { //nolint:interfacebloat // of a library, each used once
	cog.Builder[dashboard.Panel]
	Title(string) B
	Description(string) B
	Unit(string) B
	Datasource(common.DataSourceRef) B
	Span(uint32) B
	Height(uint32) B
	WithTarget(cog.Builder[variants.Dataquery]) B
	Thresholds(cog.Builder[dashboard.ThresholdsConfig]) B
	ColorScheme(cog.Builder[dashboard.FieldColor]) B
}

func (p Panel) builder() cog.Builder[dashboard.Panel] {
	switch p.Kind {
	case Stat:
		b := stat.NewPanelBuilder().Orientation(common.VizOrientationAuto)
		if strings.Contains(p.Queries[0].Legend, "{{") { // what it is of is of interest, also of one value
			b.TextMode(common.BigValueTextModeValueAndName)
		}
		return dress(p, b, 4, 4)
	case Bars:
		return dress(p, bargauge.NewPanelBuilder().Orientation(common.VizOrientationHorizontal), 12, 6)
	case Table:
		return dress(p, table.NewPanelBuilder().WithTransformation(p.columns()), 12, 8)
	case Heat:
		return dress(p, heatmap.NewPanelBuilder().YAxis(heatmap.NewYAxisConfigBuilder().Unit(p.Unit)).
			Tooltip(heatmap.NewHeatmapTooltipBuilder().Mode(common.TooltipDisplayModeSingle)), 12, 8)
	case Logs:
		return dress(p, logs.NewPanelBuilder().ShowTime(true).WrapLogMessage(true).EnableLogDetails(true).SortOrder(common.LogsSortOrderDescending).
			DedupStrategy(common.LogsDedupStrategyNone), grid, 9)
	case Timeline:
		return dress(p, statetimeline.NewPanelBuilder().Tooltip(tooltip()), 12, 6)
	}
	b := timeseries.NewPanelBuilder().FillOpacity(10).Tooltip(tooltip()).
		Legend(common.NewVizLegendOptionsBuilder().ShowLegend(true).DisplayMode(common.LegendDisplayModeList).Placement(common.LegendPlacementBottom))
	if len(p.Levels) > 0 {
		b.ThresholdsStyle(common.NewGraphThresholdsStyleConfigBuilder().Mode(common.GraphThresholdsStyleModeDashed))
	}
	if p.Kind == Stacked {
		b.Stacking(common.NewStackingConfigBuilder().Mode(common.StackingModeNormal))
	}
	return dress(p, b, 12, 8)
}

// tooltip tells of all series at a time, the highest first.
func tooltip() *common.VizTooltipOptionsBuilder {
	return common.NewVizTooltipOptionsBuilder().Mode(common.TooltipDisplayModeMulti).Sort(common.SortOrderDescending)
}

func dress[B graph[B]](p Panel, b B, width, height uint32) B {
	about := p.About
	if p.Needs != NeedsRun {
		about += " Empty without " + string(p.Needs) + "."
	}
	b.Title(p.Title)
	b.Description(about)
	b.Unit(p.Unit)
	b.Datasource(p.source())
	b.Span(width)
	b.Height(height)
	b.Thresholds(dashboard.NewThresholdsConfigBuilder().Mode(dashboard.ThresholdsModeAbsolute).Steps(p.steps()))
	if p.Kind == Stat || p.Kind == Bars || p.Kind == Timeline {
		b.ColorScheme(dashboard.NewFieldColorBuilder().Mode(dashboard.FieldColorModeIdThresholds))
	}
	for i, query := range p.Queries {
		b.WithTarget(p.target(query, i))
	}
	return b
}

// columns hides the time, which is now, and names the values.
func (p Panel) columns() dashboard.DataTransformerConfig {
	hidden, names := map[string]bool{"Time": true}, map[string]string{}
	if name := p.Queries[0].Legend; name != "" {
		names["Value"] = name
	} else {
		hidden["Value"] = true
	}
	return dashboard.DataTransformerConfig{Id: "organize", Options: map[string]any{"excludeByName": hidden, "renameByName": names}}
}

// steps are the colors of values. Without any Grafana takes its own, which are red from 80 on, whatever is counted.
func (p Panel) steps() []dashboard.Threshold {
	list := []dashboard.Threshold{{Color: "green"}}
	if p.Kind == Timeline {
		list = []dashboard.Threshold{{Color: "gray"}, {Value: cog.ToPtr(1.0), Color: "green"}}
	}
	for _, l := range p.Levels {
		list = append(list, dashboard.Threshold{Value: cog.ToPtr(l.From), Color: l.Color})
	}
	return list
}

func (p Panel) target(query Query, i int) cog.Builder[variants.Dataquery] {
	if p.Kind == Logs {
		return loki.NewDataqueryBuilder().Expr(query.Expr).QueryType("range").MaxLines(logLines).RefId(refID(i)).Datasource(p.source())
	}
	t := prometheus.NewDataqueryBuilder().Expr(query.Expr).RefId(refID(i)).Datasource(source())
	if p.Kind != Table {
		t.LegendFormat(query.Legend)
	}
	if p.Exemplars && i == 0 { // they are the same for all quantiles
		t.Exemplar(true)
	}
	switch p.Kind {
	case Stat, Bars:
		t.Instant()
	case Table:
		t.Instant().Format(prometheus.PromQueryFormatTable)
	case Heat:
		t.Range().Format(prometheus.PromQueryFormatHeatmap)
	default:
		t.Range()
	}
	return t
}

// logLines are shown at most, the last ones.
const logLines = 500

func refID(i int) string { return string(rune('A' + i)) }
