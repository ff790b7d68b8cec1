package monitoring

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"slices"
	"sync"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Fields of the schema that every JSON line has, empty where they do not apply. LOGS.md lists all.
const (
	fieldEvent     = "event"
	fieldBatch     = "batch_id"
	fieldRequest   = "request_id"
	fieldSeq       = "seq"
	fieldErrorType = "error_type"
)

// core is the only zapcore.Core of spool. It keeps fields instead of encoding them, so that a line never has a key
// twice, however often a part of the program says to which batch it belongs: the last value counts.
type core struct {
	zapcore.LevelEnabler
	fields []zapcore.Field
	out    *outputs
}

// Enabled lets lines of level info pass that are not wanted if there is a Tracker: one of them says that a batch has ended.
func (c *core) Enabled(level zapcore.Level) bool {
	return c.LevelEnabler.Enabled(level) || level == zapcore.InfoLevel && c.out.tracker != nil
}

func (c *core) With(fields []zapcore.Field) zapcore.Core {
	return &core{LevelEnabler: c.LevelEnabler, fields: merge(c.fields, fields), out: c.out}
}

func (c *core) Check(ent zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(ent.Level) {
		return ce.AddCore(ent, c)
	}
	return ce
}

func (c *core) Write(ent zapcore.Entry, fields []zapcore.Field) error {
	if !c.LevelEnabler.Enabled(ent.Level) {
		c.out.tell(merge(c.fields, fields))
		return nil
	}
	return c.out.write(ent, merge(c.fields, fields))
}

func (c *core) Sync() error { return nil } // nothing is buffered but by the Shipper, which has a deadline of its own

// merge gives new fields behind old ones, in a slice of its own, and of each key the last only.
func merge(old, more []zapcore.Field) []zapcore.Field {
	all := make([]zapcore.Field, 0, len(old)+len(more)+1)
	for _, f := range slices.Concat(old, more) {
		if f.Type == zapcore.SkipType {
			continue
		}
		all = slices.DeleteFunc(all, func(o zapcore.Field) bool { return o.Key == f.Key && f.Key != "" })
		all = append(all, f)
	}
	return all
}

// outputs are where lines go: numbered and encoded once, and everywhere in the same order.
type outputs struct {
	json    zapcore.Encoder
	console zapcore.Encoder // of output, nil if that gets JSON
	output  zapcore.WriteSyncer
	file    io.WriteCloser
	ship    *Shipper
	tracker Tracker
	redact  *redactor
	first   []zapcore.Field // of the first line about each batch

	mu  sync.Mutex
	seq map[string]int64 // of the last line, by batch; about 100 bytes for each one ever named
}

func newOutputs(opt Options, level zapcore.Level) *outputs {
	o := &outputs{
		json: zapcore.NewJSONEncoder(encoderConfig(level)), output: opt.Output, ship: opt.Shipper, tracker: opt.Tracker,
		redact: newRedactor(opt.Secrets), seq: map[string]int64{},
	}
	if opt.Version != "" {
		o.first = append(o.first, zap.String("version", opt.Version))
	}
	if opt.Env != "" {
		o.first = append(o.first, zap.String("env", opt.Env))
	}
	return o
}

// write holds the lock from the number to the last output, so that numbers rise in each of them.
func (o *outputs) write(ent zapcore.Entry, fields []zapcore.Field) error {
	known, rest := schema(fields, ent.Level)
	batch := known[fieldBatch]
	o.mu.Lock()
	defer o.mu.Unlock()
	o.seq[batch]++
	seq := o.seq[batch]
	if seq == 1 {
		rest = merge(o.first, rest)
	}
	if o.tracker != nil {
		o.track(ent, known, rest)
	}
	var errs []error
	if o.console != nil && o.output != nil {
		errs = append(errs, o.print(o.console, ent, append(spoken(known), rest...), o.output))
	}
	head := []zapcore.Field{
		zap.String(fieldEvent, known[fieldEvent]), zap.String(fieldBatch, batch),
		zap.String(fieldRequest, known[fieldRequest]), zap.Int64(fieldSeq, seq),
	}
	errs = append(errs, o.print(o.json, ent, append(head, rest...), o.sinks(batch, seq, ent.Level)...))
	return errors.Join(errs...)
}

// sinks are the outputs that get JSON.
func (o *outputs) sinks(batch string, seq int64, level zapcore.Level) []io.Writer {
	var list []io.Writer
	if o.output != nil && o.console == nil {
		list = append(list, o.output)
	}
	if o.file != nil {
		list = append(list, o.file)
	}
	if o.ship != nil {
		list = append(list, shipped{o.ship, batch, seq, level})
	}
	return list
}

func (o *outputs) print(enc zapcore.Encoder, ent zapcore.Entry, fields []zapcore.Field, sinks ...io.Writer) error {
	if len(sinks) == 0 {
		return nil
	}
	buf, err := enc.EncodeEntry(ent, fields)
	if err != nil {
		return err
	}
	defer buf.Free()
	line := o.redact.clean(buf.Bytes())
	var errs []error
	for _, w := range sinks {
		_, err := w.Write(line)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// schema takes the fields apart: those that every line has, and the rest, with the type of an error, which every warning
// and error has.
func schema(fields []zapcore.Field, level zapcore.Level) (known map[string]string, rest []zapcore.Field) {
	known = map[string]string{}
	rest = make([]zapcore.Field, 0, len(fields)+1)
	errorType := ""
	if level >= zapcore.WarnLevel {
		errorType = typeOther
	}
	for _, f := range fields {
		switch {
		case f.Type == zapcore.StringType && (f.Key == fieldEvent || f.Key == fieldBatch || f.Key == fieldRequest):
			known[f.Key] = f.String
			continue
		case f.Key == fieldSeq:
			continue // ours
		case f.Type == zapcore.ErrorType && f.Key == "error":
			if err, ok := f.Interface.(error); ok {
				errorType = ErrorType(err)
			}
		}
		rest = append(rest, f)
	}
	if errorType != "" && !slices.ContainsFunc(rest, func(f zapcore.Field) bool { return f.Key == fieldErrorType }) {
		rest = append(rest, zap.String(fieldErrorType, errorType))
	}
	return known, rest
}

// spoken are the known fields that say anything, for people.
func spoken(known map[string]string) []zapcore.Field {
	var list []zapcore.Field
	for _, key := range []string{fieldEvent, fieldBatch, fieldRequest} {
		if known[key] != "" {
			list = append(list, zap.String(key, known[key]))
		}
	}
	return list
}

func (o *outputs) close() error {
	if o.ship != nil {
		o.ship.Close()
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.file == nil {
		return nil
	}
	return o.file.Close()
}

// shipped is one line on its way to the Shipper.
type shipped struct {
	ship  *Shipper
	batch string
	seq   int64
	level zapcore.Level
}

func (s shipped) Write(line []byte) (int, error) {
	s.ship.add(s.batch, s.seq, s.level, line)
	return len(line), nil
}

// ErrorType says in one of few words what kind of error err is, for the field error_type, metrics and Sentry: what
// the first error in its chain says that has a method ErrorType() string, else cancelled, timeout, file, network or other.
// LOGS.md lists them all.
func ErrorType(err error) string {
	var typed interface {
		error
		ErrorType() string
	}
	var network net.Error
	var file *fs.PathError
	switch {
	case err == nil:
		return ""
	case errors.As(err, &typed):
		return typed.ErrorType()
	case errors.Is(err, context.Canceled):
		return "cancelled"
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case errors.As(err, &file): // before the network: the system's own errors look like its
		return "file"
	case errors.As(err, &network) && network.Timeout():
		return "timeout"
	case errors.As(err, &network):
		return "network"
	}
	return typeOther
}

// typeOther is the type of an error of which no more is known.
const typeOther = "other"
