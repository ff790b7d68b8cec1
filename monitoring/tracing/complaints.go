package tracing

import (
	"errors"

	"github.com/go-logr/logr"
	"go.uber.org/zap"
)

// complaints is where the SDK logs what it cannot make of the variables, and what it drops. Only its constant texts are kept:
// the values beside them may be the keys of a collector, and so may what its errors quote.
type complaints struct{ log *zap.Logger }

var _ logr.LogSink = complaints{}

// Enabled lets warnings pass, which the SDK logs at verbosity 1.
func (c complaints) Enabled(level int) bool { return level <= 1 }

func (c complaints) Info(_ int, msg string, _ ...any) { c.say(msg) }

func (c complaints) Error(_ error, msg string, _ ...any) { c.say(msg) }

func (c complaints) say(msg string) {
	c.log.Warn("tracing has a problem", zap.String("event", "trace_problem"), zap.Error(errors.New(msg)))
}

func (c complaints) Init(logr.RuntimeInfo)          {}
func (c complaints) WithValues(...any) logr.LogSink { return c }
func (c complaints) WithName(string) logr.LogSink   { return c }
