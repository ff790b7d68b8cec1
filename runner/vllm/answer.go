package vllm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// Outcome says what to do with an answer.
type Outcome int

// Outcomes of Do.
const (
	OK       Outcome = iota // a result
	Rejected                // the request is wrong and stays so; Status and Body are the result
	Retry                   // try again; count the attempt
	Busy                    // try again after RetryAfter or a pause; the request is not to blame
	Aborted                 // try again; the server was stopping, the request is not to blame
	Down                    // the engine is dead or not there; try again when it is back; see Answer.Died
	Fatal                   // no request of this kind will do better: unknown model, no access
	Ended                   // the caller's context ended
)

func (o Outcome) String() string {
	return [...]string{"ok", "rejected", "retry", "busy", "aborted", "down", "fatal", "ended"}[o]
}

// Usage counts the tokens of one answer.
type Usage struct {
	Input, Cached, Output, Reasoning, Total int64
}

// Answer is what came of one call.
type Answer struct {
	Outcome    Outcome
	Status     int    // of HTTP, 0 if there was no response
	Body       []byte // of the response; valid JSON if Outcome is OK or Rejected
	Usage      Usage
	Finish     Finish
	Timing     *Timing       // nil unless the engine tells it
	RetryAfter time.Duration // of the server, 0 if it gave none
	Code       string        // short, for people and metrics: "http_500", "timeout", "model_not_found"
	Died       bool          // with Down: the engine died while it had this request, which may be the reason
	Err        error         // why, unless Outcome is OK
}

// Codes of Fatal answers.
const (
	CodeModelNotFound = "model_not_found"
	CodeEngineDenied  = "engine_denied"
)

// Codes of other answers that mean more than their outcome.
const (
	codeEngineDead = "engine_dead" // EngineCore died, the API server said so
	codeEngineGone = "engine_gone" // the server went away with the request
	codeEngineDown = "engine_down" // of a Server between two starts: the request was not sent
	codeTransport  = "transport"   // the connection broke
	codeRefused    = "refused"     // nothing listens
	codeBacklog    = "backlog"     // more connections at once than a unix socket queues
)

// engineDead is vLLM's EngineDeadError (vllm/v1/engine/exceptions.py).
const engineDead = "EngineCore encountered an issue"

func classify(resp *http.Response, body []byte) Answer {
	a := Answer{Status: resp.StatusCode, Body: body, RetryAfter: retryAfter(resp.Header)}
	a.Code = "http_" + strconv.Itoa(a.Status)
	if a.Status/100 == 2 {
		return a.success()
	}
	message, param := errorText(body)
	a.Err = quoted{fmt.Errorf("status %d: %.300s", a.Status, message)}
	switch {
	case a.Status == http.StatusUnauthorized || a.Status == http.StatusForbidden:
		a.Outcome, a.Code = Fatal, CodeEngineDenied
	case a.Status == http.StatusNotFound && unknownModel(message, param):
		a.Outcome, a.Code = Fatal, CodeModelNotFound
	case a.Status == http.StatusTooManyRequests || a.Status == http.StatusServiceUnavailable:
		a.Outcome = Busy
	case a.Status == http.StatusInternalServerError && strings.Contains(message, engineDead):
		a.Outcome, a.Code, a.Died = Down, codeEngineDead, true
	case a.Status == http.StatusNotImplemented:
		a.Outcome = Rejected
	case a.Status >= 500 || a.Status == http.StatusRequestTimeout || a.Status == http.StatusConflict:
		a.Outcome = Retry
	default:
		a.Outcome = Rejected
	}
	a.quote()
	return a
}

// success tells a result from an abort, and takes the usage.
func (a Answer) success() Answer {
	facts, err := scanBody(a.Body)
	switch {
	case err != nil:
		a.Outcome, a.Code, a.Err = Retry, "bad_json", fmt.Errorf("status %d with a body that is not JSON: %w", a.Status, err)
	case facts.aborted:
		a.Outcome, a.Code, a.Err = Aborted, "abort", errors.New(`status 200 with finish_reason "abort"`)
	default:
		a.Usage, a.Finish, a.Timing = facts.usage, facts.finish, facts.timing
	}
	return a
}

// quote makes the body of a rejection JSON: a proxy's page of HTML becomes a string.
func (a *Answer) quote() {
	if jsontext.Value(a.Body).IsValid(jsontext.AllowDuplicateNames(true)) {
		return
	}
	q, err := json.Marshal(strings.ToValidUTF8(string(a.Body), "\uFFFD"))
	if err != nil { // a string always marshals
		panic(err)
	}
	a.Body = q
}

func unknownModel(message, param string) bool {
	return param == "model" || strings.Contains(message, "model") && strings.Contains(message, "does not exist")
}

// errorText finds the message in the shapes that servers use: {"error":{"message","param"}},
// {"error":"text"}, {"detail":…}, {"object":"error","message"}, or text.
func errorText(body []byte) (message, param string) {
	var shape struct {
		Error   json.RawMessage `json:"error"`
		Detail  json.RawMessage `json:"detail"`
		Message string          `json:"message"`
		Param   *string         `json:"param"`
	}
	if json.Unmarshal(body, &shape) != nil {
		return string(body), ""
	}
	switch {
	case len(shape.Error) > 0 && shape.Error[0] == '{':
		return errorText(shape.Error)
	case len(shape.Error) > 0:
		return strings.Trim(string(shape.Error), `"`), ""
	case len(shape.Detail) > 0:
		return strings.Trim(string(shape.Detail), `"`), ""
	}
	if shape.Param != nil {
		param = *shape.Param
	}
	if shape.Message == "" {
		return string(body), param
	}
	return shape.Message, param
}

// retryAfter reads the header in seconds; dates are not used by inference servers.
func retryAfter(h http.Header) time.Duration {
	text := h.Get("Retry-After")
	if text == "" {
		return 0
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return 0
	}
	return time.Duration(n) * time.Second
}

func transportAnswer(ctx context.Context, err error) Answer {
	a := Answer{Outcome: Retry, Code: codeTransport, Err: err}
	var netErr net.Error
	switch {
	case errors.Is(context.Cause(ctx), context.DeadlineExceeded):
		a.Code = "timeout"
	case ctx.Err() != nil:
		a.Outcome, a.Code, a.Err = Ended, "ended", context.Cause(ctx)
	case errors.Is(err, errTooLarge):
		a.Code = "too_large"
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOENT):
		a.Outcome, a.Code = Down, codeRefused
	case errors.Is(err, syscall.EAGAIN) && isDial(err): // connect(2) on a unix socket whose backlog is full
		a.Outcome, a.Code = Busy, codeBacklog
	case errors.As(err, &netErr) && isDial(err):
		a.Outcome, a.Code = Down, "unreachable"
	}
	return a
}

func isDial(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial"
}
