package monitoring

import (
	"cmp"
	"fmt"
	"os"
	"time"

	"github.com/DeRuina/timberjack"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Formats of log lines.
const (
	FormatJSON    = "json"
	FormatConsole = "console"
)

// Defaults and limits of log files. A rotated file stands beside the file, with the time in its name.
const (
	DefaultFileMiB = 100            // a file is rotated before it grows larger
	DefaultFileAge = 24 * time.Hour // and when a line comes this long after the last rotation
	fileKeep       = 7              // rotated files that are kept
	fileKeepDays   = 30             // and the most days that they are
)

// Options say what a logger writes, and where.
type Options struct {
	Level     string              // debug, info, warn or error; default info
	Format    string              // FormatJSON or FormatConsole, of Output; default JSON
	Output    zapcore.WriteSyncer // default none
	File      string              // appended to, always JSON; default none
	FileMiB   int                 // default DefaultFileMiB
	FileAge   time.Duration       // default DefaultFileAge
	Shipper   *Shipper            // gets every line too, as JSON, and is closed with the logger; default none
	Tracker   Tracker             // gets failures; default none
	Component string              // the logger's name, "runner"; parts of it add theirs with a dot
	Instance  string              // this process, in the field instance; default none
	Version   string              // of the program, in the first line about each batch; default none
	Env       string              // where this is, "production", in the same line; default none
	Secrets   []string            // texts that no line may hold, beside all that looks like a secret
}

// NewLogger returns a logger, and what ends it: the file is closed, and the Shipper has stored what it can. Each line
// is as LOGS.md says; the message is constant text, values are fields. Nothing is sampled: the log is the record of
// a batch, and a line that is missing there is a question later.
func NewLogger(opt Options) (log *zap.Logger, closeLog func() error, err error) {
	level, err := parseLevel(opt.Level)
	if err != nil {
		return nil, nil, err
	}
	out := newOutputs(opt, level)
	if out.console, err = newConsole(opt.Format, level); err != nil {
		return nil, nil, err
	}
	if opt.File != "" {
		if out.file, err = openFile(opt); err != nil {
			return nil, nil, err
		}
	}
	log = zap.New(&core{LevelEnabler: level, out: out}, zap.WithCaller(level == zapcore.DebugLevel)).Named(opt.Component)
	if opt.Instance != "" {
		log = log.With(zap.String("instance", opt.Instance))
	}
	return log, out.close, nil
}

// openFile opens the file of a log, which is rotated by size and age.
func openFile(opt Options) (*timberjack.Logger, error) {
	f, err := os.OpenFile(opt.File, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil { // now, not with the first line
		return nil, fmt.Errorf("open log file: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("open log file: %w", err)
	}
	return &timberjack.Logger{
		Filename: opt.File, FileMode: 0o644, MaxSize: cmp.Or(opt.FileMiB, DefaultFileMiB),
		RotationInterval: cmp.Or(opt.FileAge, DefaultFileAge), MaxBackups: fileKeep, MaxAge: fileKeepDays,
	}, nil
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

// newConsole gives the encoder of Output, nil if that is to be JSON.
func newConsole(format string, level zapcore.Level) (zapcore.Encoder, error) {
	switch format {
	case "", FormatJSON:
		return nil, nil
	case FormatConsole:
		return zapcore.NewConsoleEncoder(encoderConfig(level)), nil
	}
	return nil, fmt.Errorf("log format %q: want json or console", format)
}

// timeFormat is RFC 3339 with all nine digits, so that lines sort as text.
const timeFormat = "2006-01-02T15:04:05.000000000Z"

// encoderConfig is the one of all lines, wherever they go.
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
