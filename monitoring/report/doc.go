// Package report renders the summary of a batch for people: report.html, one file that needs no network and no script, and
// summary.md, which fits the step summary of a CI job.
//
// Both are a pure function of the summary: the same summary gives the same bytes. Neither can fail, and both are bounded,
// whatever users and runners wrote: all text is escaped, and what is long is cut. What was not recorded reads "not recorded",
// never zero.
package report

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"

	"spool/storage/batch"
)

// Bounds of what is rendered. MaxMarkdown is far below the 1,024 KiB that GitHub takes of a step
// (docs.github.com, "Workflow commands", step isolation and limits).
const (
	MaxHTML     = 300_000 // bytes
	MaxMarkdown = 64 << 10

	maxRunners  = 40   // shown one by one
	maxEngines  = 3    // kinds
	maxMixed    = 20   // values of what engines differed in
	maxWho      = 3    // runners named with each of these
	maxGPUs     = 16   // shown one by one
	maxChunks   = 15   // slow ones
	maxFinishes = 12   // reasons
	maxBad      = 20   // entries of file_errors
	maxOptions  = 20   // of the metadata
	maxParts    = 1600 // of the chart of phases, in all lanes
	maxText     = 300  // bytes of any text but an input's key
)

var (
	//go:embed page.html.tmpl
	pageText string
	//go:embed page.css
	pageCSS string
)

// Render gives report.html and summary.md. It may be called concurrently.
func Render(s *batch.Summary) (html, markdown []byte) { return HTML(s), Markdown(s) }

// HTML gives report.html.
func HTML(s *batch.Summary) []byte {
	v := newPage(s)
	text := v.html()
	if len(text) > MaxHTML { // somebody filled all there is with text that has to be escaped
		v.shorten()
		text = v.html()
	}
	return text
}

func (v *view) html() []byte {
	var buf bytes.Buffer
	if err := page().Execute(&buf, v); err != nil { // a page without its rest is better than none, and a batch that does not end
		fmt.Fprintf(&buf, "<p>%s</p>", template.HTMLEscapeString(err.Error()))
	}
	return buf.Bytes()
}
