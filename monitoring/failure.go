package monitoring

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap/zapcore"
)

// Failure is what a line of level error says, as far as it may leave the log: no field but these, so that what a line
// holds besides stays where it is.
type Failure struct {
	At        time.Time
	Logger    string // the component and its part
	Stage     string // the event of the line: shard_failed, lines_failed
	Message   string // constant text
	Batch     string // "" if it is about none
	ErrorType string // one of few words: the field code, which says why lines failed, else error_type
	Text      string // of the error, without secrets; "" if there is none, or if it quotes an engine
	Pool      string // "" if the line does not say it, as with the next
	Model     string

	Lines    int64    // of the batch that failed so, all told, whoever tells it; 0: the failure is of another kind, and happened once
	Requests []string // some of these lines, or the one that the line is about
}

// Tracker gets failures. Its methods do not wait, and are called one at a time.
type Tracker interface {
	Track(f Failure)
	Ended(batch string) // this process has seen the batch end
}

// eventBatchEnded is of the line that says that a batch has ended.
const eventBatchEnded = "batch_ended"

// tell tells the Tracker what it must know of a line that is not written.
func (o *outputs) tell(fields []zapcore.Field) {
	known, _ := schema(fields, zapcore.InfoLevel)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended(known)
}

func (o *outputs) ended(known map[string]string) {
	if known[fieldEvent] == eventBatchEnded {
		o.tracker.Ended(known[fieldBatch])
	}
}

// track tells the Tracker what a line says.
func (o *outputs) track(ent zapcore.Entry, known map[string]string, rest []zapcore.Field) {
	o.ended(known)
	if ent.Level < zapcore.ErrorLevel || known[fieldEvent] == eventEngineOutput {
		return
	}
	fields := zapcore.NewMapObjectEncoder()
	f := Failure{At: ent.Time, Logger: ent.LoggerName, Stage: known[fieldEvent], Message: ent.Message, Batch: known[fieldBatch], ErrorType: typeOther}
	for _, field := range rest {
		field.AddTo(fields)
		if err, ok := field.Interface.(error); ok && field.Type == zapcore.ErrorType && field.Key == "error" && !quotes(err) {
			f.Text = string(o.redact.clean([]byte(err.Error())))
		}
	}
	for _, from := range []struct {
		name string
		to   *string
	}{{fieldErrorType, &f.ErrorType}, {"code", &f.ErrorType}, {"pool", &f.Pool}, {"model", &f.Model}} {
		if s, ok := fields.Fields[from.name].(string); ok && s != "" {
			*from.to = string(o.redact.clean([]byte(s)))
		}
	}
	f.Lines, _ = fields.Fields["lines"].(int64)
	if id := known[fieldRequest]; id != "" {
		f.Requests = append(f.Requests, id)
	}
	if list, ok := fields.Fields["request_ids"].([]any); ok {
		for _, id := range list {
			f.Requests = append(f.Requests, fmt.Sprint(id))
		}
	}
	o.tracker.Track(f)
}

// eventEngineOutput is of lines that an engine wrote, which may hold anything.
const eventEngineOutput = "engine_output"

// quotes reports whether an error in the chain says, by a method Quotes() bool, that its text holds what an engine said.
// Prompts may be in that.
func quotes(err error) bool {
	var quoting interface {
		error
		Quotes() bool
	}
	return errors.As(err, &quoting) && quoting.Quotes()
}

// SinkFailures registers the counter of telemetry that a sink could not deliver, once a sink and registry. A nil
// registry is none.
func SinkFailures(reg prometheus.Registerer, sink string) (prometheus.Counter, error) {
	c := telemetryFailures(sink)
	if reg == nil {
		return c, nil
	}
	if err := reg.Register(c); err != nil {
		return nil, fmt.Errorf("register failures of %s: %w", sink, err)
	}
	return c, nil
}
