package vllm

import (
	"bufio"
	"bytes"
	"io"
	"regexp"
	"slices"
	"strings"
	"sync"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// tailLines is how many of vLLM's last lines are kept: the root cause stands in EngineCore's traceback, before
// that of the API server.
const tailLines = 300

// output reads what vLLM writes, logs it line by line, and keeps the end.
type output struct {
	log *zap.Logger

	mu   sync.Mutex
	tail []string
}

// read reads to the end. It never stops before, whatever the lines are like: a full pipe would stop vLLM.
func (o *output) read(r io.Reader) {
	br := bufio.NewReaderSize(r, 64<<10) // a longer line becomes several
	for {
		text, err := br.ReadSlice('\n')
		if len(text) > 0 {
			o.add(text)
		}
		if err != nil && err != bufio.ErrBufferFull { //nolint:errorlint // bufio gives it as it is
			return
		}
	}
}

func (o *output) add(raw []byte) {
	raw = bytes.TrimRight(raw, "\r\n")
	raw = raw[bytes.LastIndexByte(raw, '\r')+1:] // the last state of a progress bar
	l := parseLine(strings.ToValidUTF8(string(raw), "\uFFFD"))
	if l.text == "" {
		return
	}
	o.mu.Lock()
	if len(o.tail) == tailLines {
		o.tail = slices.Delete(o.tail, 0, 1)
	}
	o.tail = append(o.tail, l.text)
	o.mu.Unlock()
	if e := o.log.Check(l.level, l.text); e != nil {
		e.Write(l.fields()...)
	}
}

// last gives the last n lines, oldest first, without what the log's own fields tell.
func (o *output) last(n int) []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.tail[max(0, len(o.tail)-n):])
}

// logLine is one line of vLLM, taken apart: "(EngineCore pid=7) INFO 11-23 10:00:00 [core.py:105] text", uvicorn's
// "INFO:     text", or anything else.
type logLine struct {
	process, source, text string
	level                 zapcore.Level
}

var (
	ansiCodes   = regexp.MustCompile(`\x1b\[[0-9;]*[A-Za-z]`)
	processName = regexp.MustCompile(`^\(([^()]+?)(?: pid=\d+)?\) ?`)
	vllmHead    = regexp.MustCompile(`^(DEBUG|INFO|WARNING|ERROR|CRITICAL) \d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)? \[([^\]]*)\] ?`)
	uvicornHead = regexp.MustCompile(`^(DEBUG|INFO|WARNING|ERROR|CRITICAL): +`)
)

func parseLine(text string) logLine {
	l := logLine{text: strings.TrimRight(ansiCodes.ReplaceAllString(text, ""), " \t")}
	if m := processName.FindStringSubmatch(l.text); m != nil {
		l.process, l.text = m[1], l.text[len(m[0]):]
	}
	if m := vllmHead.FindStringSubmatch(l.text); m != nil {
		l.level, l.source, l.text = levelOf(m[1]), m[2], l.text[len(m[0]):]
	} else if m := uvicornHead.FindStringSubmatch(l.text); m != nil {
		l.level, l.text = levelOf(m[1]), l.text[len(m[0]):]
	}
	return l
}

func levelOf(name string) zapcore.Level {
	return map[string]zapcore.Level{
		"DEBUG": zap.DebugLevel, "WARNING": zap.WarnLevel, "ERROR": zap.ErrorLevel, "CRITICAL": zap.ErrorLevel,
	}[name] // INFO is zero
}

func (l logLine) fields() []zap.Field {
	fields := []zap.Field{zap.String("event", "engine_output")}
	if l.process != "" {
		fields = append(fields, zap.String("process", l.process))
	}
	if l.source != "" {
		fields = append(fields, zap.String("source", l.source))
	}
	if l.level >= zap.WarnLevel {
		fields = append(fields, zap.String("error_type", l.errorType()))
	}
	return fields
}

// errorType is the cause that is known in the line, if any is.
func (l logLine) errorType() string {
	for _, s := range signs() {
		if strings.Contains(l.text, s.text) {
			return string(s.cause)
		}
	}
	return TypeEngine
}
