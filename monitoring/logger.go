package monitoring

import (
	"fmt"
	"os"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Formats of log lines.
const (
	FormatJSON    = "json"
	FormatConsole = "console"
)

// Options say what a logger writes, and where.
type Options struct {
	Level     string              // debug, info, warn or error; default info
	Format    string              // FormatJSON or FormatConsole; default JSON
	Output    zapcore.WriteSyncer // writes must be safe for concurrent use, see zapcore.Lock; nil: nowhere
	File      string              // appended to, always JSON; default none
	Component string              // the logger's name, "runner"; parts of it add theirs with a dot
	Instance  string              // this process, in the field instance; default none
}

// timeFormat is RFC 3339 with all nine digits, so that lines sort as text.
const timeFormat = "2006-01-02T15:04:05.000000000Z"

// NewLogger returns a logger, and what closes its file. Each line has timestamp, level, logger and
// message; the message is constant text, values are fields. Nothing is sampled: the log is the record of
// a batch, and a line that is missing there is a question later.
func NewLogger(opt Options) (log *zap.Logger, closeLog func() error, err error) {
	level, err := parseLevel(opt.Level)
	if err != nil {
		return nil, nil, err
	}
	encoder, err := newEncoder(opt.Format, level)
	if err != nil {
		return nil, nil, err
	}
	var cores []zapcore.Core
	if opt.Output != nil {
		cores = append(cores, zapcore.NewCore(encoder, opt.Output, level))
	}
	closeLog = func() error { return nil }
	if opt.File != "" {
		f, err := os.OpenFile(opt.File, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return nil, nil, fmt.Errorf("open log file: %w", err)
		}
		closeLog = f.Close
		cores = append(cores, zapcore.NewCore(zapcore.NewJSONEncoder(encoderConfig(level)), zapcore.Lock(f), level))
	}
	log = zap.New(zapcore.NewTee(cores...), zap.WithCaller(level == zapcore.DebugLevel)).Named(opt.Component)
	if opt.Instance != "" {
		log = log.With(zap.String("instance", opt.Instance))
	}
	return log, closeLog, nil
}

func parseLevel(s string) (zapcore.Level, error) {
	switch s {
	case "":
		return zapcore.InfoLevel, nil
	case "debug", "info", "warn", "error":
		return zapcore.ParseLevel(s)
	}
	return 0, fmt.Errorf("log level %q: want debug, info, warn or error", s)
}

func newEncoder(format string, level zapcore.Level) (zapcore.Encoder, error) {
	switch format {
	case "", FormatJSON:
		return zapcore.NewJSONEncoder(encoderConfig(level)), nil
	case FormatConsole:
		return zapcore.NewConsoleEncoder(encoderConfig(level)), nil
	}
	return nil, fmt.Errorf("log format %q: want json or console", format)
}

func encoderConfig(level zapcore.Level) zapcore.EncoderConfig {
	cfg := zapcore.EncoderConfig{
		TimeKey:        "timestamp",
		LevelKey:       "level",
		NameKey:        "logger",
		MessageKey:     "message",
		StacktraceKey:  "stack",
		LineEnding:     zapcore.DefaultLineEnding,
		EncodeLevel:    zapcore.LowercaseLevelEncoder,
		EncodeTime:     encodeTime,
		EncodeDuration: zapcore.SecondsDurationEncoder,
		EncodeCaller:   zapcore.ShortCallerEncoder,
	}
	if level == zapcore.DebugLevel {
		cfg.CallerKey = "caller"
	}
	return cfg
}

func encodeTime(t time.Time, enc zapcore.PrimitiveArrayEncoder) {
	enc.AppendString(t.UTC().Format(timeFormat))
}
