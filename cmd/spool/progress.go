package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"spool/storage/batch"
)

// progress shows how batches advance. It is used concurrently.
//
// The bar is our own: it is one line that is written again, whereas the libraries (mpb, progressbar, pb)
// bring renderers with goroutines, decorators and terminal sizes, for bars that move a hundred times a second.
type progress interface {
	update(v *view)
	end()
}

var (
	_ progress = (*bar)(nil)
	_ progress = (*lines)(nil)
)

// bar is a progress bar on a terminal, for one batch.
type bar struct {
	out io.Writer

	mu   sync.Mutex
	line string // as it stands there now
}

const (
	barWidth  = 24
	clearLine = "\r\x1b[K"
)

func (b *bar) update(v *view) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.line = barLine(v)
	fmt.Fprint(b.out, clearLine+b.line)
}

// sayf writes a line, above the bar if there is one.
func (b *bar) sayf(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	text := fmt.Sprintf(format+"\n", args...)
	if b.line != "" {
		text = clearLine + text + b.line
	}
	fmt.Fprint(b.out, text)
}

func (b *bar) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.line != "" {
		fmt.Fprint(b.out, clearLine)
	}
	b.line = ""
}

// barLine is short enough for 80 columns: a line that wraps is not cleared.
func barLine(v *view) string {
	if v.Counts.Total == 0 {
		return clip(v.State+"  "+v.Note, 78)
	}
	done := v.Counts.Completed + v.Counts.Failed
	full := int(barWidth * done / v.Counts.Total)
	s := fmt.Sprintf("[%s%s] %3d%% %s/%s", strings.Repeat("#", full), strings.Repeat("-", barWidth-full),
		100*done/v.Counts.Total, thousands(done), thousands(v.Counts.Total))
	if v.Counts.Failed > 0 {
		s += fmt.Sprintf(" %s failed", thousands(v.Counts.Failed))
	}
	if v.State != "in_progress" {
		s += " " + v.State
	} else if v.ETASeconds != nil {
		s += " " + duration(*v.ETASeconds) + " left"
	}
	return clip(s, 78)
}

func clip(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}

// linesEvery is how often lines of one batch may follow each other while its state is the same.
const linesEvery = 30 * time.Second

// lines shows progress where there is no terminal: a line when the state changes, and at most every 30 s
// one when only the counts do.
type lines struct {
	say func(format string, args ...any)

	mu   sync.Mutex
	last map[string]shown
}

type shown struct {
	state  string
	counts batch.RequestCounts
	at     time.Time
}

func newLines(say func(format string, args ...any)) *lines {
	return &lines{say: say, last: map[string]shown{}}
}

func (l *lines) update(v *view) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := shown{v.State, v.Counts, time.Now()}
	last, seen := l.last[v.Input]
	moved := last.counts != now.counts && now.at.Sub(last.at) >= linesEvery
	if seen && last.state == now.state && !moved {
		return
	}
	l.last[v.Input] = now
	if v.ended == nil { // the end is said by whoever waits
		l.say("%s", v.summary())
	}
}

func (l *lines) end() {}
