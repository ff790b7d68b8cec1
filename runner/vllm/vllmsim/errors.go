package vllmsim

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// Error is a rejection in vLLM's shape, {"error":{"message","type","param","code"}}
// (vllm/entrypoints/serve/engine/protocol.py, ErrorInfo).
type Error struct {
	Message string
	Type    string  // "BadRequestError", "Bad Request" (what pydantic refuses), "NotFoundError", …
	Param   *string // the member at fault, or nil
	Code    int     // the HTTP status
}

func (e *Error) Error() string { return fmt.Sprintf("%d %s: %s", e.Code, e.Type, e.Message) }

func badRequest(param, format string, args ...any) *Error {
	e := &Error{Message: fmt.Sprintf(format, args...), Type: "BadRequestError", Code: http.StatusBadRequest}
	if param != "" {
		e.Param = &param
	}
	return e
}

// invalid is what vLLM says when pydantic refuses a body: type "Bad Request", status 400, not 422.
func invalid(kind, loc, msg, input string) *Error {
	return &Error{
		Message: fmt.Sprintf("1 validation error:\n  {'type': '%s', 'loc': '%s', 'msg': '%s', 'input': '%s'}", kind, loc, msg, input),
		Type:    http.StatusText(http.StatusBadRequest),
		Param:   &loc,
		Code:    http.StatusBadRequest,
	}
}

func missing(name string) *Error {
	return invalid("missing", "body."+name, "Field required", "<dict>")
}

func outOfRange(name string, value int, format string, args ...any) *Error {
	return badRequest(name, "%s (parameter=%s, value=%d)", fmt.Sprintf(format, args...), name, value)
}

// pythonFloat writes a number as Python does, which ends whole ones with ".0".
func pythonFloat(f float64) string {
	text := strconv.FormatFloat(f, 'g', -1, 64)
	if !strings.ContainsAny(text, ".en") {
		text += ".0"
	}
	return text
}

func tooLong(maxModelLen int) *Error {
	// The tokenizer stops one token after the limit, so this is all that vLLM knows of the length.
	return outOfRange("input_tokens", maxModelLen+1, "This model's maximum context length is %d tokens. However, your prompt contains at least %d input tokens, which exceeds this limit even without any output tokens. Please reduce the length of the input prompt.", maxModelLen, maxModelLen+1)
}

func unknownModel(name, served string) *Error {
	param := "model"
	return &Error{
		Message: fmt.Sprintf("The model `%s` does not exist. Valid aliases: %s.", name, served),
		Type:    "NotFoundError",
		Param:   &param,
		Code:    http.StatusNotFound,
	}
}

func internal(message string) *Error {
	return &Error{Message: message, Type: "InternalServerError", Code: http.StatusInternalServerError}
}

// engineDead is what every request in flight gets when EngineCore dies (vllm/v1/engine/exceptions.py).
func engineDead() *Error {
	return internal("EngineCore encountered an issue. See stack trace (above) for the root cause.")
}

// queueOverflow is what --max-num-queued-reqs makes vLLM say (vllm/exceptions.py, QueueOverflowError).
func queueOverflow() *Error {
	return &Error{
		Message: "The engine is currently busy and cannot accept new requests. Please try again later or on a different instance.",
		Type:    http.StatusText(http.StatusServiceUnavailable),
		Code:    http.StatusServiceUnavailable,
	}
}

// faultError is the error of a status fault, with vLLM's type where it has one.
func faultError(f Fault) *Error {
	types := map[int]string{
		http.StatusBadRequest:          "BadRequestError",
		http.StatusNotFound:            "NotFoundError",
		http.StatusUnprocessableEntity: "UnprocessableEntityError",
		http.StatusTooManyRequests:     "RateLimitError", // never from vLLM itself, but from what stands before it
		http.StatusInternalServerError: "InternalServerError",
		http.StatusNotImplemented:      "NotImplementedError",
		http.StatusServiceUnavailable:  "ServiceUnavailableError",
	}
	e := &Error{Message: f.Message, Type: types[f.Status], Code: f.Status}
	if e.Type == "" {
		e.Type = "Status" + strconv.Itoa(f.Status)
	}
	if e.Message == "" {
		e.Message = http.StatusText(f.Status)
		if f.Status == http.StatusInternalServerError {
			e.Message = engineDead().Message
		}
	}
	return e
}
