package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"go.uber.org/zap/zapcore"

	"spool/storage"
	"spool/storage/batch"
)

const (
	// logsPoll is how often logs -f looks for new parts.
	logsPoll = 2 * time.Second
	// logsTail is how long after the end of a batch its last lines may come: processes hold lines back for 10 s.
	logsTail = 15 * time.Second
)

func (p *program) logsCommand() *cli.Command {
	return &cli.Command{
		Name:      "logs",
		Usage:     "show what watchers, runners and engines said about an input's newest batch",
		ArgsUsage: "KEY",
		Category:  forUsers,
		Description: "Prints the lines in the order of their time, as soon as they are in the bucket: 10 s after they were written at the\n" +
			"latest. With -f it goes on until the batch has ended and the last lines have come. Lines that were lost show as gaps\n" +
			"in a process's numbers; standard error says so at the end. What a process that was killed had not stored shows\n" +
			"nowhere: up to 10 s.\n\n" +
			"Examples:\n   spool logs in/evals/prompts.jsonl -f\n   spool logs in/evals/prompts.jsonl --level warn --since 1h\n" +
			"   spool logs in/evals/prompts.jsonl --request bpicclhpxbn2qqhb5uxmxo6zjly-17 --json",
		Flags: append(storeFlags(),
			&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "print lines as they come, until the batch has ended"},
			&cli.StringFlag{Name: "request", Usage: "only lines about the request `ID`, which an output line has as request_id"},
			&cli.StringFlag{Name: "level", Usage: "only lines of `LEVEL` or worse: debug, info, warn or error"},
			&cli.StringFlag{Name: "since", Usage: "only lines since `TIME`: 90s, 2h, a date, or RFC 3339"},
			&cli.BoolFlag{Name: "json", Usage: "print the lines as they are stored, one JSON object each"}),
		Action: p.logs,
	}
}

// logFilter says which lines are wanted; the zero value wants all.
type logFilter struct {
	request string
	level   zapcore.Level
	since   time.Time
}

func parseLogFilter(c *cli.Context, now time.Time) (f logFilter, err error) {
	f = logFilter{request: c.String("request"), level: zapcore.DebugLevel}
	if level := c.String("level"); level != "" {
		if !slices.Contains([]string{"debug", "info", "warn", "error"}, level) {
			return f, usagef("--level %q: want debug, info, warn or error", level)
		}
		if f.level, err = zapcore.ParseLevel(level); err != nil {
			return f, usagef("--level: %w", err)
		}
	}
	since := c.String("since")
	if d, err := time.ParseDuration(since); err == nil && d > 0 {
		f.since = now.Add(-d)
		return f, nil
	}
	if f.since, err = parseTime(since); err != nil {
		return f, usagef("--since %q: want a duration like 90s or 2h, a date like 2026-11-23, or RFC 3339", since)
	}
	return f, nil
}

func (f logFilter) wants(l *logLine) bool {
	return (f.request == "" || f.request == l.Request) && l.severity() >= f.level && !l.at().Before(f.since)
}

func (p *program) logs(c *cli.Context) error {
	filter, err := parseLogFilter(c, time.Now())
	if err != nil {
		return err
	}
	r, err := p.openKeys(c, 1, 1)
	if err != nil {
		return err
	}
	defer r.close()
	v, err := r.newest(c.Context)
	if err != nil {
		return err
	}
	reader := newLogReader(r.store, batch.LogDir(v.Input, v.Batch), filter, p.sayf)
	show := p.printLog
	if c.Bool("json") {
		show = func(l *logLine) error { return p.printf("%s\n", l.raw) }
	}
	if c.Bool("follow") {
		err = followLogs(c.Context, reader, v, show)
	} else {
		err = printNew(c.Context, reader, show)
	}
	if err == nil && reader.empty() {
		p.sayf("no logs of %s yet", v.Batch)
	}
	reader.sayGaps()
	if err != nil && c.Context.Err() != nil && c.Bool("follow") {
		return failf(exitInterrupted, "", "interrupted")
	}
	return err
}

func printNew(ctx context.Context, r *logReader, show func(*logLine) error) error {
	lines, err := r.next(ctx)
	for _, l := range lines {
		if err := show(l); err != nil {
			return err
		}
	}
	return err
}

// followLogs prints lines until the batch has ended long enough ago.
func followLogs(ctx context.Context, r *logReader, v *view, show func(*logLine) error) error {
	for {
		obj, err := r.bucket.Head(ctx, v.Output+batch.ObjectName)
		if err != nil && !storage.IsNotFound(err) {
			return err
		}
		over := err == nil && obj.Date.Sub(obj.LastModified) >= logsTail
		if err := printNew(ctx, r, show); err != nil || over {
			return err
		}
		if err := pause(ctx, logsPoll); err != nil {
			return err
		}
	}
}

// printLog prints a line for people: time, level, process, logger, message, and what else it has.
func (p *program) printLog(l *logLine) error {
	var s strings.Builder
	s.WriteString(l.at().Format("2006-01-02T15:04:05.000Z"))
	s.WriteString("  ")
	s.WriteString(strings.ToUpper(l.Level))
	s.WriteString(strings.Repeat(" ", max(0, 5-len(l.Level))))
	for _, word := range []string{l.Instance, l.Logger, l.Message} {
		if word != "" {
			s.WriteString("  ")
			s.WriteString(printable(word))
		}
	}
	for _, f := range l.rest() {
		s.WriteString("  ")
		s.WriteString(f)
	}
	return p.printf("%s\n", s.String())
}
