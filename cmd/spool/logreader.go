package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/klauspost/compress/gzip"
	"go.uber.org/zap/zapcore"

	"spool/storage"
	"spool/storage/batch"
)

// clocksApart is how much the clocks of the store, of who wrote a line and of who reads it may differ, before lines
// are missing from what --since shows.
const clocksApart = 5 * time.Minute

// logLine is a line of a log, as monitoring/LOGS.md describes it.
type logLine struct {
	Timestamp string
	Level     string
	Logger    string
	Message   string
	Instance  string
	Request   string `json:"request_id"`
	Seq       int64

	raw []byte
}

func parseLogLine(raw []byte) (*logLine, error) {
	l := &logLine{raw: bytes.Clone(raw)}
	if err := json.Unmarshal(raw, l); err != nil {
		return nil, err
	}
	if l.Seq < 1 || l.Timestamp == "" {
		return nil, errors.New("no seq or timestamp")
	}
	return l, nil
}

func (l *logLine) at() time.Time {
	t, _ := time.Parse(time.RFC3339Nano, l.Timestamp) // a bad one is the oldest
	return t
}

// severity of a level that is not known is that of an error: it is not to be missed.
func (l *logLine) severity() zapcore.Level {
	level, err := zapcore.ParseLevel(l.Level)
	if err != nil {
		return zapcore.ErrorLevel
	}
	return level
}

// rest gives the fields that a line for people does not have at its beginning, as name=value, in their order.
func (l *logLine) rest() []string {
	said := []string{"timestamp", "level", "logger", "message", "event", "batch_id", "seq", "instance"}
	var list []string
	dec := jsontext.NewDecoder(bytes.NewReader(l.raw))
	_, _ = dec.ReadToken() // the line is an object: it was parsed
	for dec.PeekKind() == '"' {
		name, _ := dec.ReadToken()
		key := name.String()
		value, err := dec.ReadValue()
		if err != nil {
			break
		}
		var text string
		if json.Unmarshal(value, &text) != nil {
			text = string(value)
		}
		if slices.Contains(said, key) || text == "" || key == "runner_id" && text == l.Instance {
			continue
		}
		if value.Kind() == '"' && strings.ContainsAny(text, " =") {
			text = strconv.Quote(text)
		}
		list = append(list, key+"="+printable(text))
	}
	return list
}

// printable quotes what could do something to a terminal.
func printable(s string) string {
	if strings.ContainsFunc(s, unicode.IsControl) {
		return strconv.Quote(s)
	}
	return s
}

// logReader reads the logs of a batch, each line once, however many objects it stands in.
type logReader struct {
	bucket userBucket
	dir    string
	filter logFilter
	sayf   func(format string, args ...any)

	read map[string]bool // keys
	seen map[string]*numbers
}

func newLogReader(b storage.Bucket, dir string, filter logFilter, sayf func(format string, args ...any)) *logReader {
	return &logReader{bucket: userBucket{b}, dir: dir, filter: filter, sayf: sayf, read: map[string]bool{}, seen: map[string]*numbers{}}
}

func (r *logReader) empty() bool { return len(r.read) == 0 }

// next gives the wanted lines that came since the last call, by time. They are all held: what is not wanted is not.
func (r *logReader) next(ctx context.Context) ([]*logLine, error) {
	var lines []*logLine
	for again := true; again; {
		again = false
		for obj, err := range r.bucket.List(ctx, r.dir, "") {
			if err != nil {
				return nil, err
			}
			key, ok := batch.ParseLogKey(r.dir, obj.Key)
			if !ok || r.read[obj.Key] {
				continue
			}
			more, err := r.part(ctx, obj, key)
			if storage.IsNotFound(err) { // joined with others at this moment: a new listing has what it is in
				again = true
				continue
			}
			if err != nil {
				return nil, err
			}
			r.read[obj.Key] = true
			lines = append(lines, more...)
		}
	}
	slices.SortStableFunc(lines, func(a, b *logLine) int {
		return cmp.Or(strings.Compare(a.Timestamp, b.Timestamp), strings.Compare(a.Instance, b.Instance), cmp.Compare(a.Seq, b.Seq))
	})
	return lines, nil
}

// part reads one object. What is not a log line, or not whole, is said and left out.
func (r *logReader) part(ctx context.Context, obj storage.Object, key batch.LogKey) ([]*logLine, error) {
	if !key.Joined() && obj.LastModified.Before(r.filter.since.Add(-clocksApart)) { // then all its lines are older, too
		for n := key.First; n <= key.Last; n++ {
			r.number(key.Instance).add(n)
		}
		return nil, nil
	}
	body, _, err := r.bucket.Get(ctx, obj.Key, storage.GetOptions{IfMatch: obj.ETag})
	if err != nil {
		return nil, r.bucket.absent(ctx, "get", obj.Key, err)
	}
	defer body.Close()
	z, err := gzip.NewReader(body)
	if err != nil {
		r.sayf("%s cannot be read: %v", obj.Key, err)
		return nil, ctx.Err()
	}
	lines, bad, err := r.lines(z, key)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		r.sayf("%s cannot be read to its end: %v", obj.Key, err)
	}
	if bad > 0 {
		r.sayf("%s has %d lines that are none of spool's", obj.Key, bad)
	}
	return lines, nil
}

func (r *logReader) lines(from io.Reader, key batch.LogKey) (lines []*logLine, bad int, err error) {
	buf := bufio.NewReader(from)
	for {
		raw, err := buf.ReadBytes('\n')
		if raw = bytes.TrimSpace(raw); len(raw) > 0 && err == nil {
			l, parseErr := parseLogLine(raw)
			switch {
			case parseErr != nil:
				bad++
			case r.number(cmp.Or(l.Instance, key.Instance)).add(l.Seq) && r.filter.wants(l):
				lines = append(lines, l)
			}
		}
		if err == io.EOF { // not wrapped: a request that broke may wrap it
			return lines, bad, nil
		}
		if err != nil {
			return lines, bad, err
		}
	}
}

func (r *logReader) number(instance string) *numbers {
	n := r.seen[instance]
	if n == nil {
		n = &numbers{}
		r.seen[instance] = n
	}
	return n
}

// sayGaps says which lines are lost: numbers that are in no object although later ones are.
func (r *logReader) sayGaps() {
	for _, instance := range slices.Sorted(maps.Keys(r.seen)) {
		for _, g := range r.seen[instance].gaps() {
			which := fmt.Sprintf("line %d", g.first)
			if g.last > g.first {
				which = fmt.Sprintf("lines %d to %d", g.first, g.last)
			}
			r.sayf("%s: %s lost", instance, which)
		}
	}
}

// numbers is a set of positive numbers that mostly follow one another.
type numbers struct{ spans []span }

type span struct{ first, last int64 }

// add reports whether n is new.
func (s *numbers) add(n int64) bool {
	i, found := slices.BinarySearchFunc(s.spans, n, func(sp span, n int64) int {
		switch {
		case sp.last < n:
			return -1
		case sp.first > n:
			return 1
		}
		return 0
	})
	if found {
		return false
	}
	follows := i > 0 && s.spans[i-1].last == n-1
	leads := i < len(s.spans) && s.spans[i].first == n+1
	switch {
	case follows && leads:
		s.spans[i-1].last = s.spans[i].last
		s.spans = slices.Delete(s.spans, i, i+1)
	case follows:
		s.spans[i-1].last = n
	case leads:
		s.spans[i].first = n
	default:
		s.spans = slices.Insert(s.spans, i, span{n, n})
	}
	return true
}

// gaps gives the numbers from 1 to the last one that are not in the set.
func (s *numbers) gaps() []span {
	var gaps []span
	next := int64(1)
	for _, sp := range s.spans {
		if sp.first > next {
			gaps = append(gaps, span{next, sp.first - 1})
		}
		next = sp.last + 1
	}
	return gaps
}
