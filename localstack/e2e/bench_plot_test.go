package e2e

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// panel is a plot of some curves over the same axis.
type panel struct {
	title    string
	x        string // what the axis is
	log      bool   // of x
	top      float64
	curves   []curve
	xs       []float64 // marks on the axis
	xsLabels []string
}

// curve is a line with its name.
type curve struct {
	name   string
	points [][2]float64
}

const (
	panelWidth, panelHeight = 640.0, 200.0
	panelLeft, panelTop     = 60.0, 30.0
	panelBottom, panelRight = 40.0, 20.0
)

var curveColours = []string{"#1f77b4", "#d62728", "#2ca02c"}

// svg draws panels below each other.
func svg(caption string, panels ...panel) []byte {
	var buf bytes.Buffer
	height := panelHeight * float64(len(panels))
	fmt.Fprintf(&buf, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" font-family="sans-serif" font-size="11">`+"\n", panelWidth, height+20)
	fmt.Fprintf(&buf, `<rect width="%g" height="%g" fill="white"/>`+"\n", panelWidth, height+20)
	for i, p := range panels {
		fmt.Fprintf(&buf, `<g transform="translate(0 %g)">`+"\n", panelHeight*float64(i))
		p.draw(&buf)
		buf.WriteString("</g>\n")
	}
	fmt.Fprintf(&buf, `<text x="%g" y="%g" fill="#666">%s</text>`+"\n</svg>\n", panelLeft, height+12, caption)
	return buf.Bytes()
}

func (p panel) draw(buf *bytes.Buffer) {
	top, low, high := p.top, math.Inf(1), math.Inf(-1)
	for _, c := range p.curves {
		for _, at := range c.points {
			low, high = min(low, at[0]), max(high, at[0])
			if p.top == 0 {
				top = max(top, at[1]*1.1)
			}
		}
	}
	x := func(v float64) float64 {
		part := (v - low) / (high - low)
		if p.log {
			part = math.Log(v/low) / math.Log(high/low)
		}
		return panelLeft + part*(panelWidth-panelLeft-panelRight)
	}
	y := func(v float64) float64 { return panelHeight - panelBottom - v/top*(panelHeight-panelTop-panelBottom) }
	fmt.Fprintf(buf, `<text x="%g" y="18" font-size="13">%s</text>`+"\n", panelLeft, p.title)
	for _, part := range []float64{0, 0.5, 1} {
		v := top * part
		fmt.Fprintf(buf, `<path d="M%g %.1fH%g" stroke="#ccc"/><text x="%g" y="%.1f" text-anchor="end">%s</text>`+"\n",
			panelLeft, y(v), panelWidth-panelRight, panelLeft-6, y(v)+4, digits(v))
	}
	for i, v := range p.xs {
		anchor := "middle"
		if i == len(p.xs)-1 { // at the edge
			anchor = "end"
		}
		fmt.Fprintf(buf, `<text x="%.1f" y="%g" text-anchor="%s">%s</text>`+"\n", x(v), panelHeight-panelBottom+14, anchor, p.xsLabels[i])
	}
	fmt.Fprintf(buf, `<text x="%g" y="%g" text-anchor="end" fill="#666">%s</text>`+"\n", panelWidth-panelRight, panelHeight-panelBottom+28, p.x)
	for i, c := range p.curves {
		var path []string
		for _, at := range c.points {
			path = append(path, fmt.Sprintf("%.1f,%.1f", x(at[0]), y(at[1])))
		}
		colour := curveColours[i]
		fmt.Fprintf(buf, `<polyline points="%s" fill="none" stroke="%s" stroke-width="1.5"/>`+"\n", strings.Join(path, " "), colour)
		fmt.Fprintf(buf, `<text x="%g" y="%g" fill="%s">%s</text>`+"\n", panelLeft+float64(i)*220, panelHeight-panelBottom+28, colour, c.name)
	}
}

// growthPlot shows what files of growing size cost.
func growthPlot(all []grown) []byte {
	plot := func(title string, top float64, curves map[string]func(grown) float64) panel {
		p := panel{title: title, x: "lines of the file", log: true, top: top}
		for _, g := range all {
			p.xs, p.xsLabels = append(p.xs, float64(g.lines)), append(p.xsLabels, fmt.Sprint(g.lines))
		}
		for _, name := range sortedKeys(curves) {
			c := curve{name: name}
			for _, g := range all {
				c.points = append(c.points, [2]float64{float64(g.lines), curves[name](g)})
			}
			p.curves = append(p.curves, c)
		}
		return p
	}
	return svg("made by make bench",
		plot("Calls per 1,000 lines", 0, map[string]func(grown) float64{
			"S3": func(g grown) float64 { return float64(g.puts+g.gets) / g.thousands() }, "SQS": func(g grown) float64 { return float64(g.sqs) / g.thousands() }}),
		plot("Peak RSS, MiB", 0, map[string]func(grown) float64{
			"runner": func(g grown) float64 { return g.runner }, "watcher": func(g grown) float64 { return g.watcher }}),
		plot("Seconds per 1,000 lines, instant engine", 0, map[string]func(grown) float64{
			"uploaded to batch.json": func(g grown) float64 { return g.seconds / g.thousands() }}))
}

func sortedKeys[V any](m map[string]V) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// occupancyPlot shows which part of the slots was busy over time.
func occupancyPlot(ours, barrier []sample) []byte {
	plot := func(title string, samples []sample) panel {
		from := slices.IndexFunc(samples, func(s sample) bool { return s.busy > 0 })
		to := len(samples)
		for to > 0 && samples[to-1].busy == 0 {
			to--
		}
		p := panel{title: title, x: "seconds", top: 1}
		c := curve{name: "slots busy"}
		for _, s := range samples[from:to] {
			c.points = append(c.points, [2]float64{s.at.Sub(samples[from].at).Seconds(), min(1, s.busy)})
		}
		end := samples[to-1].at.Sub(samples[from].at).Round(time.Second).Seconds()
		for _, part := range []float64{0, 0.25, 0.5, 0.75, 1} {
			p.xs, p.xsLabels = append(p.xs, end*part), append(p.xsLabels, fmt.Sprintf("%.0f", end*part))
		}
		p.curves = []curve{c}
		return p
	}
	return svg("made by make bench: 256 slots of vllmsim, heavy-tailed lengths, times x 0.04",
		plot("spool, 100,000 lines: slots busy", ours), plot("a driver with a barrier per 1,000 lines, 8,000 lines: slots busy", barrier))
}
