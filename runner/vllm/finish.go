package vllm

import (
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// Finish says why an answer ended; 0 if it does not say.
type Finish uint8

// Finishes is how many there are.
const Finishes = 12

// finishNames are OpenAI's and vLLM's (vllm/v1/engine, FinishReason) for choices, and those of /v1/responses.
var finishNames = [Finishes]string{ //nolint:gochecknoglobals // a constant table
	"", "stop", "length", "tool_calls", "function_call", "content_filter", "abort", "error", "repetition", "completed", "incomplete", "other",
}

func (f Finish) String() string { return finishNames[f] }

// finishOf reads the value of finish_reason.
func finishOf(v jsontext.Value) Finish {
	if v.Kind() != '"' {
		return 0
	}
	for i, name := range finishNames {
		if i > 0 && string(v[1:len(v)-1]) == name {
			return Finish(i)
		}
	}
	return Finishes - 1
}

// Timing is what an engine says of its own time for one request: vLLM does if it was started with
// --enable-per-request-metrics, except for requests of several choices or prompts. What it does not say is -1.
type Timing struct {
	Queue      time.Duration // until the request was in a slot
	FirstToken time.Duration // from there
	Decode     time.Duration // from the first token to the last
	InterToken time.Duration // the mean between two
}

// readTiming reads the member metrics (vllm/entrypoints/generate/base/protocol.py, PerRequestMetrics).
func (f *facts) readTiming(dec *jsontext.Decoder) error {
	if dec.PeekKind() != '{' {
		return skip(dec)
	}
	t := &Timing{-1, -1, -1, -1}
	f.timing = t
	return members(dec, func(name []byte) error {
		switch string(name) {
		case `"queue_time_ms"`:
			return readMillis(dec, &t.Queue)
		case `"time_to_first_token_ms"`:
			return readMillis(dec, &t.FirstToken)
		case `"generation_time_ms"`:
			return readMillis(dec, &t.Decode)
		case `"mean_itl_ms"`:
			return readMillis(dec, &t.InterToken)
		}
		return skip(dec)
	})
}

// longest is a duration above which a number is nonsense.
const longest = 1000 * time.Hour

// readMillis reads milliseconds, if they are a number that may be true.
func readMillis(dec *jsontext.Decoder, to *time.Duration) error {
	v, err := dec.ReadValue()
	if err != nil {
		return err
	}
	ms, err := strconv.ParseFloat(string(v), 64)
	if err == nil && ms >= 0 && ms <= float64(longest.Milliseconds()) {
		*to = time.Duration(ms * float64(time.Millisecond))
	}
	return nil //nolint:nilerr // null, or something else, says nothing
}
