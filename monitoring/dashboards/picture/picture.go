// Package picture draws dashboards without Grafana: what each panel asks, answered by a Prometheus, as one HTML page with SVG.
// The pictures in docs/ are made with it, where no Grafana is at hand; it looks alike, but is no copy. No program links it.
package picture

import (
	"context"
	"encoding/json"
	"fmt"
	"html"
	"regexp"
	"strings"
	"time"

	"github.com/prometheus/common/model"
)

// Source answers queries, as a Prometheus does. Its answers are at a time, or over a time in steps.
type Source interface {
	At(ctx context.Context, expr string, t time.Time) (model.Vector, error)
	Over(ctx context.Context, expr string, start, end time.Time, step time.Duration) (model.Matrix, error)
}

// View is what is looked at.
type View struct {
	Start, End time.Time
	Note       string // where the data is from; stands below the title
}

// The page, in pixels.
const (
	Width      = 1400
	columns    = 24.0 // of Grafana's grid
	rowHeight  = 26.0 // of Grafana's grid
	gap        = 6.0
	header     = 62
	titleSpace = 24.0
)

// board is the part of a dashboard's JSON that is drawn.
type board struct {
	Title, Description string
	Panels             []panel
}

type panel struct {
	Type, Title, Description string
	GridPos                  struct{ X, Y, W, H float64 }
	Targets                  []struct{ Expr, LegendFormat string }
	Options                  struct{ TextMode string }
	Transformations          []struct{ Options tableColumns }
	FieldConfig              struct {
		Defaults struct {
			Unit       string
			Thresholds struct{ Steps []step }
			Custom     struct {
				Stacking        struct{ Mode string }
				ThresholdsStyle struct{ Mode string }
			}
		}
	}
}

// tableColumns says which columns of a table are not shown, and how others are called.
type tableColumns struct {
	ExcludeByName map[string]bool
	RenameByName  map[string]string
}

// step is a value from which on a panel has a color; the first has none, and is for all below the second.
type step struct {
	Value *float64
	Color string
}

// canvas is the body of a panel while it is drawn.
type canvas struct {
	strings.Builder
	view View
	unit string
	w, h float64 // px

	steps []step
}

// color gives that of a value.
func (c *canvas) color(v float64) string {
	name := "green"
	for _, s := range c.steps {
		if s.Value == nil || v >= *s.Value {
			name = s.Color
		}
	}
	return shade(name)
}

// shade is what is drawn for a color of Grafana's: somewhat darker, as all is on white.
func shade(name string) string {
	return map[string]string{"green": "#1a7f37", "yellow": "#b07d00", "red": "#c4313a", "gray": "#c8cdd2"}[name]
}

func (c *canvas) putf(format string, args ...any) { fmt.Fprintf(c, format, args...) }

// Page draws a dashboard, given as Grafana's JSON, and tells the height of the page in pixels.
func Page(ctx context.Context, src Source, dashboard []byte, view View) (page string, height int, err error) {
	var b board
	if err := json.Unmarshal(dashboard, &b); err != nil {
		return "", 0, fmt.Errorf("read dashboard: %w", err)
	}
	var body strings.Builder
	bottom := 0.0
	for _, p := range b.Panels {
		drawn, err := p.draw(ctx, src, view)
		if err != nil {
			return "", 0, fmt.Errorf("draw panel %q: %w", p.Title, err)
		}
		body.WriteString(drawn)
		bottom = max(bottom, p.GridPos.Y+p.GridPos.H)
	}
	height = header + int(bottom*rowHeight+gap)
	return fmt.Sprintf(`<!DOCTYPE html><meta charset="utf-8"><title>%[1]s</title><style>%[2]s</style><body style="width:%[3]dpx;height:%[4]dpx">`+
		`<h1>%[1]s <small>%[5]s</small></h1><p class="note">%[6]s</p>%[7]s`,
		html.EscapeString(b.Title), style, Width, height, html.EscapeString(b.Description), html.EscapeString(view.Note), body.String()), height, nil
}

// draw gives the panel in its place.
func (p panel) draw(ctx context.Context, src Source, view View) (string, error) {
	g := p.GridPos
	x, y := g.X*Width/columns+gap/2, header+g.Y*rowHeight+gap/2
	c := &canvas{view: view, unit: p.FieldConfig.Defaults.Unit, w: g.W*Width/columns - gap - 18, h: g.H*rowHeight - gap - titleSpace - 10,
		steps: p.FieldConfig.Defaults.Thresholds.Steps}
	place := fmt.Sprintf("left:%.0fpx;top:%.0fpx;width:%.0fpx;height:%.0fpx", x, y, g.W*Width/columns-gap, g.H*rowHeight-gap)
	if p.Type == "row" {
		return fmt.Sprintf(`<h2 style="%s">%s</h2>`, place, html.EscapeString(p.Title)), nil
	}
	var list []series
	var err error
	if p.Type != "logs" { // there is no Loki
		list, err = p.ask(ctx, src, c)
	}
	if err != nil {
		return "", err
	}
	switch {
	case len(list) == 0:
		c.putf(`<p class="none">no data%s</p>`, html.EscapeString(without(p.Description)))
	case p.Type == "stat":
		c.stats(list, p.Options.TextMode == "value_and_name")
	case p.Type == "bargauge":
		c.bars(list)
	case p.Type == "table":
		var shown tableColumns
		for _, t := range p.Transformations {
			shown = t.Options
		}
		c.table(list, shown)
	case p.Type == "heatmap":
		c.heat(list)
	case p.Type == "state-timeline":
		c.states(list)
	case p.Type == "timeseries":
		custom := p.FieldConfig.Defaults.Custom
		c.lines(list, custom.Stacking.Mode == "normal", custom.ThresholdsStyle.Mode == "dashed")
	default:
		return "", fmt.Errorf("it is of the unknown type %q", p.Type)
	}
	return fmt.Sprintf(`<section style="%s"><h3>%s</h3>%s</section>`, place, html.EscapeString(p.Title), c.String()), nil
}

// without says what a panel lacks if it is empty, as its description tells.
func without(description string) string {
	if _, what, ok := strings.Cut(description, " Empty without "); ok {
		return " (none without " + strings.TrimSuffix(what, ".") + ")"
	}
	return ""
}

// series is one answer: a name, labels, and values from the first to the last; one value if it is of one time.
type series struct {
	name   string
	labels model.Metric
	values []model.SamplePair // finite
}

func (s series) last() float64 { return float64(s.values[len(s.values)-1].Value) }

// rateInterval is what Grafana makes of scrapes every 15 s, as production has them.
const rateInterval = "1m"

// expand puts what Grafana would for the variables: everything is chosen.
func (v View) expand(expr string) string {
	expr = strings.NewReplacer("$__rate_interval", rateInterval, "$__range", fmt.Sprintf("%.0fs", v.End.Sub(v.Start).Seconds())).Replace(expr)
	return regexp.MustCompile(`\$[a-z]+`).ReplaceAllString(expr, ".*")
}

// ask gives what has numbers.
func (p panel) ask(ctx context.Context, src Source, c *canvas) ([]series, error) {
	var list []series
	for _, t := range p.Targets {
		expr := c.view.expand(t.Expr)
		switch p.Type {
		case "stat", "bargauge", "table":
			vector, err := src.At(ctx, expr, c.view.End)
			if err != nil {
				return nil, err
			}
			for _, s := range vector {
				list = addSeries(list, t.LegendFormat, s.Metric, []model.SamplePair{{Timestamp: s.Timestamp, Value: s.Value}})
			}
		default:
			matrix, err := src.Over(ctx, expr, c.view.Start, c.view.End, c.step())
			if err != nil {
				return nil, err
			}
			for _, s := range matrix {
				list = addSeries(list, t.LegendFormat, s.Metric, s.Values)
			}
		}
	}
	return list, nil
}

// step is that of a point every three pixels, at least a second.
func (c *canvas) step() time.Duration {
	return max(time.Second, (c.view.End.Sub(c.view.Start) / time.Duration(max(1, c.w/3))).Round(time.Second))
}

func addSeries(list []series, legend string, labels model.Metric, values []model.SamplePair) []series {
	s := series{name: name(legend, labels), labels: labels}
	for _, v := range values {
		if f := float64(v.Value); f-f == 0 { // neither NaN nor infinite
			s.values = append(s.values, v)
		}
	}
	if len(s.values) == 0 {
		return list
	}
	return append(list, s)
}

// name puts labels for their names in double braces.
func name(legend string, labels model.Metric) string {
	return regexp.MustCompile(`\{\{(\w+)\}\}`).ReplaceAllStringFunc(legend, func(m string) string {
		return string(labels[model.LabelName(strings.Trim(m, "{}"))])
	})
}

const style = `
*{box-sizing:border-box;margin:0}
body{position:relative;font:12px/1.3 system-ui,"DejaVu Sans",sans-serif;color:#24292e;background:#f4f5f5}
h1{font-size:20px;padding:10px 10px 2px} h1 small{font-size:13px;font-weight:400;color:#57606a}
.note{padding:0 10px;color:#8a4b00}
h2{position:absolute;font-size:14px;padding:3px 6px}
section{position:absolute;background:#fff;border:1px solid #dcdfe2;border-radius:2px;padding:5px 9px;overflow:hidden}
h3{font-size:12.5px;font-weight:600;height:19px;white-space:nowrap}
.none{color:#6e7781;text-align:center;padding-top:8px}
.stats{display:flex;flex-direction:column;justify-content:center}
.stats div{display:flex;justify-content:space-between;align-items:baseline;gap:8px} .stats b{font-weight:600;white-space:nowrap}
.stats span{color:#57606a;overflow:hidden;text-overflow:ellipsis;white-space:nowrap} .stats .one{justify-content:center}
.bar{display:grid;grid-template-columns:38% 1fr 64px;gap:8px;align-items:center;height:20px}
.bar span{overflow:hidden;text-overflow:ellipsis;white-space:nowrap;text-align:right;color:#57606a} .bar i{height:13px;background:#eaecee;display:block} .bar i u{display:block;height:13px}
table{border-collapse:collapse;width:100%} th{text-align:left;color:#57606a;font-weight:600} td,th{padding:2.5px 8px 2.5px 0;border-bottom:1px solid #eaecee;white-space:nowrap;max-width:230px;overflow:hidden;text-overflow:ellipsis}
svg{display:block} svg text{font-size:10.5px;fill:#57606a} .grid{stroke:#e7e9eb} .legend{height:17px;overflow:hidden;white-space:nowrap}
.legend span{margin-right:12px} .legend i{display:inline-block;width:12px;height:3px;margin-right:4px;vertical-align:middle}
`
