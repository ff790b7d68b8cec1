package picture

import (
	"cmp"
	"html"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"
)

// color gives the i-th, again and again.
func color(i int) string {
	list := []string{"#2f7ed8", "#1a9c5b", "#e39b00", "#d64550", "#8250df", "#00a3b4", "#bf5b17", "#6e7781", "#c2569b", "#7a8b00"}
	return list[i%len(list)]
}

// more says what is left out.
func (c *canvas) more(n int) {
	if n > 0 {
		c.putf(`<p style="color:#57606a">and %d more</p>`, n)
	}
}

// stats writes the last values; one alone has its name only if it is asked for.
func (c *canvas) stats(list []series, named bool) {
	size := min(30, (c.h-4)/float64(len(list))/1.3)
	c.putf(`<div class="stats" style="height:%.0fpx">`, c.h)
	for _, s := range list {
		value, color := html.EscapeString(number(s.last(), c.unit)), c.color(s.last())
		if len(list) == 1 && !named {
			c.putf(`<div class="one"><b style="font-size:%.0fpx;color:%s">%s</b></div>`, size, color, value)
			continue
		}
		c.putf(`<div><span>%s</span><b style="font-size:%.0fpx;color:%s">%s</b></div>`, html.EscapeString(s.name), min(size, 20), color, value)
	}
	c.putf(`</div>`)
}

func (c *canvas) bars(list []series) {
	top := 0.0
	for _, s := range list {
		top = max(top, s.last())
	}
	if c.unit == "percentunit" {
		top = 1
	}
	shown := list[:min(len(list), max(1, int(c.h/20)-1))]
	for _, s := range shown {
		c.putf(`<div class="bar"><span>%s</span><i><u style="width:%.1f%%;background:%s"></u></i><b>%s</b></div>`,
			html.EscapeString(s.name), 100*min(1, max(0, s.last()/max(top, 1e-9))), c.color(s.last()), html.EscapeString(number(s.last(), c.unit)))
	}
	c.more(len(list) - len(shown))
}

func (c *canvas) table(list []series, shown tableColumns) {
	var names []string
	for _, s := range list {
		for l := range s.labels {
			if l != model.MetricNameLabel && !slices.Contains(names, string(l)) {
				names = append(names, string(l))
			}
		}
	}
	slices.Sort(names)
	slices.SortStableFunc(list, func(a, b series) int { return cmp.Compare(a.labels.String(), b.labels.String()) })
	c.putf(`<table><tr>`)
	for _, n := range names {
		c.putf(`<th>%s</th>`, html.EscapeString(n))
	}
	withValue := !shown.ExcludeByName["Value"]
	if withValue {
		c.putf(`<th>%s</th>`, html.EscapeString(cmp.Or(shown.RenameByName["Value"], "Value")))
	}
	c.putf(`</tr>`)
	rows := list[:min(len(list), max(1, int(c.h/21)-2))]
	for _, s := range rows {
		c.putf(`<tr>`)
		for _, n := range names {
			c.putf(`<td>%s</td>`, html.EscapeString(string(s.labels[model.LabelName(n)])))
		}
		if withValue {
			c.putf(`<td>%s</td>`, html.EscapeString(number(s.last(), c.unit)))
		}
		c.putf(`</tr>`)
	}
	c.putf(`</table>`)
	c.more(len(list) - len(rows))
}

// chart is the plane of a picture over time.
type chart struct {
	*canvas
	left, right, top, bottom float64 // of the plane
}

// open begins the SVG, leaving room on the left, and below for the times and, if asked, a legend.
func (c *canvas) open(left float64, legend bool) chart {
	height := c.h
	if legend {
		height -= 19
	}
	c.putf(`<svg width="%.0f" height="%.0f">`, c.w, height)
	return chart{c, left, c.w - 8, 6, height - 17}
}

func (c chart) x(t model.Time) float64 {
	start, end := c.view.Start, c.view.End
	return c.left + (c.right-c.left)*float64(t.Time().Sub(start))/float64(end.Sub(start))
}

// times writes them below, at round minutes.
func (c chart) times() {
	length := c.view.End.Sub(c.view.Start)
	step := time.Minute
	for _, s := range []time.Duration{time.Minute, 2 * time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour, 6 * time.Hour, 24 * time.Hour} {
		if step = s; length/s <= 6 {
			break
		}
	}
	for t := c.view.Start.Truncate(step).Add(step); !t.After(c.view.End); t = t.Add(step) {
		x := c.x(model.TimeFromUnixNano(t.UnixNano()))
		c.putf(`<line class="grid" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>`, x, x, c.top, c.bottom)
		c.putf(`<text x="%.1f" y="%.1f" text-anchor="middle">%s</text>`, min(x, c.right-8), c.bottom+13, t.UTC().Format("15:04"))
	}
}

// axis writes round values on the left, and gives the place of a value.
func (c chart) axis(highest float64) (y func(float64) float64) {
	list := ticks(highest, c.unit)
	last := list[len(list)-1]
	y = func(v float64) float64 { return c.bottom - (c.bottom-c.top)*v/last }
	for _, v := range list {
		c.putf(`<line class="grid" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>`, c.left, c.right, y(v), y(v))
		c.putf(`<text x="%.1f" y="%.1f" text-anchor="end">%s</text>`, c.left-5, y(v)+3.5, html.EscapeString(write(v, scaleOf(last, c.unit))))
	}
	return y
}

func (c *canvas) legend(list []series) {
	c.putf(`<div class="legend">`)
	width := c.w
	for i, s := range list {
		if width -= 32 + 6.6*float64(len(s.name)); width < 70 && i < len(list)-1 {
			c.putf(`<span>and %d more</span>`, len(list)-i)
			break
		}
		c.putf(`<span><i style="background:%s"></i>%s</span>`, color(i), html.EscapeString(s.name))
	}
	c.putf(`</div>`)
}

// lines draws values over time, one above the other if they are stacked, and, if asked, where others than the first color begin.
func (c *canvas) lines(list []series, stacked, levels bool) {
	below := map[model.Time]float64{}
	highest := 0.0
	floors := make([][]float64, len(list)) // on which each value stands
	for i, s := range list {
		for _, v := range s.values {
			floor := 0.0
			if stacked {
				floor = below[v.Timestamp]
				below[v.Timestamp] += float64(v.Value)
			}
			floors[i] = append(floors[i], floor)
			highest = max(highest, floor+float64(v.Value))
		}
	}
	ch := c.open(62, true)
	ch.times()
	y := ch.axis(highest)
	if levels {
		ch.levels(y)
	}
	for i, s := range list {
		for _, run := range runs(s.values, 2*c.step()) {
			ch.line(s.values[run[0]:run[1]], floors[i][run[0]:run[1]], y, color(i), stacked)
		}
	}
	c.putf(`</svg>`)
	c.legend(list)
}

// levels draws those that are on the plane.
func (c chart) levels(y func(float64) float64) {
	for _, s := range c.steps {
		if s.Value != nil && y(*s.Value) >= c.top {
			c.putf(`<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" stroke="%s" stroke-dasharray="6 4"/>`, c.left, c.right, y(*s.Value), y(*s.Value), shade(s.Color))
		}
	}
}

// runs gives the beginnings and ends of parts in which no value lacks.
func runs(values []model.SamplePair, most time.Duration) [][2]int {
	var list [][2]int
	begin := 0
	for i := range values {
		if i > begin && values[i].Timestamp.Sub(values[i-1].Timestamp) > most {
			list = append(list, [2]int{begin, i})
			begin = i
		}
	}
	return append(list, [2]int{begin, len(values)})
}

func (c chart) line(values []model.SamplePair, floors []float64, y func(float64) float64, color string, area bool) {
	var upper, lower []string
	for i, v := range values {
		at := strconv.FormatFloat(c.x(v.Timestamp), 'f', 1, 64) + ","
		upper = append(upper, at+strconv.FormatFloat(y(floors[i]+float64(v.Value)), 'f', 1, 64))
		lower = append(lower, at+strconv.FormatFloat(y(floors[i]), 'f', 1, 64))
	}
	if len(values) == 1 {
		c.putf(`<circle cx="%.1f" cy="%.1f" r="2" fill="%s"/>`, c.x(values[0].Timestamp), y(floors[0]+float64(values[0].Value)), color)
		return
	}
	slices.Reverse(lower)
	opacity := 0.08
	if area {
		opacity = 0.45
	}
	c.putf(`<polygon points="%s %s" fill="%s" fill-opacity="%.2f"/>`, strings.Join(upper, " "), strings.Join(lower, " "), color, opacity)
	c.putf(`<polyline points="%s" fill="none" stroke="%s" stroke-width="1.5"/>`, strings.Join(upper, " "), color)
}

// states draws a row for each series, in the colors of its values.
func (c *canvas) states(list []series) {
	ch := c.open(130, false)
	ch.times()
	height := min(24, (ch.bottom-ch.top)/float64(len(list)))
	for i, s := range list {
		top := ch.top + float64(i)*height
		c.putf(`<text x="%.0f" y="%.1f" text-anchor="end">%s</text>`, ch.left-6, top+height/2+4, html.EscapeString(s.name))
		for _, run := range runs(s.values, 2*c.step()) {
			for list := s.values[run[0]:run[1]]; len(list) > 0; {
				n, fill := 1, c.color(float64(list[0].Value))
				for n < len(list) && c.color(float64(list[n].Value)) == fill {
					n++
				}
				from, to := ch.x(list[0].Timestamp), min(ch.x(list[n-1].Timestamp.Add(c.step())), ch.right)
				c.putf(`<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"/>`, from, top+2, to-from, height-4, fill)
				list = list[n:]
			}
		}
	}
	c.putf(`</svg>`)
}

// heat draws how much is in each bucket of a histogram, whose series are cumulative and named by their upper bounds.
func (c *canvas) heat(list []series) {
	bound := func(s series) float64 {
		f, err := strconv.ParseFloat(string(s.labels[model.BucketLabel]), 64)
		if err != nil {
			return math.NaN()
		}
		return f
	}
	slices.SortFunc(list, func(a, b series) int { return cmp.Compare(bound(a), bound(b)) })
	cells := make([]map[model.Time]float64, len(list))
	below := map[model.Time]float64{}
	first, last, highest := len(list), 0, 0.0
	for i, s := range list {
		cells[i] = map[model.Time]float64{}
		for _, v := range s.values {
			n := float64(v.Value) - below[v.Timestamp]
			below[v.Timestamp] = float64(v.Value)
			if n <= 0 {
				continue
			}
			cells[i][v.Timestamp] = n
			first, last, highest = min(first, i), max(last, i), max(highest, n)
		}
	}
	ch := c.open(62, false)
	ch.times()
	height := (ch.bottom - ch.top) / float64(max(1, last-first+1))
	for i := first; i <= last && i < len(list); i++ {
		top := ch.bottom - float64(i-first+1)*height
		c.putf(`<text x="%.1f" y="%.1f" text-anchor="end">%s</text>`, ch.left-5, top+4, html.EscapeString(number(bound(list[i]), c.unit)))
		for _, v := range list[i].values {
			if n := cells[i][v.Timestamp]; n > 0 {
				c.putf(`<rect x="%.1f" y="%.1f" width="%.2f" height="%.1f" fill="#2f7ed8" fill-opacity="%.2f"/>`, ch.x(v.Timestamp), top,
					ch.x(v.Timestamp.Add(c.step()))-ch.x(v.Timestamp)+0.2, height, 0.12+0.88*n/highest)
			}
		}
	}
	c.putf(`</svg>`)
}
