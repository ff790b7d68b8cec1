package runner

import (
	"time"

	"go.uber.org/zap"

	"spool/runner/vllm"
	"spool/storage/batch"
)

// tell logs what became of one try of a line. At other levels than debug it costs a look at the level, and nothing a
// line is written. What the engine answered is not in it: it may repeat a prompt.
func (t *task) tell(a vllm.Answer, took time.Duration) {
	log := t.chunk.owner.log
	if !log.Core().Enabled(zap.DebugLevel) {
		return
	}
	reason, code := a.Err, a.Code
	if a.Status != 0 {
		reason = nil
	}
	if a.Outcome == vllm.OK {
		code = "" // there is nothing to look up
	}
	log.Debug("request answered", zap.String("event", "request_answered"), zap.String("request_id", t.requestID()),
		zap.Int("chunk", t.chunk.number), zap.Int("attempt", t.tries), zap.Stringer("outcome", a.Outcome),
		zap.Int("status", a.Status), zap.String("code", code), zap.Duration("duration_seconds", took), zap.Error(reason))
}

// tellConvicted logs that a line kills engines.
func (t *task) tellConvicted() {
	t.chunk.owner.log.Warn("request kills engines, it is given up", zap.String("event", "request_convicted"), zap.String("error_type", batch.CodeRunnerCrashed),
		zap.String("request_id", t.requestID()), zap.Int("chunk", t.chunk.number), zap.Int("attempt", t.tries), zap.Int("strikes", t.strikes))
}

func (t *task) requestID() string { return batch.RequestID(t.chunk.batch, t.line) }
