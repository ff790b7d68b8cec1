package sim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"
	"sync"
	"time"

	"spool/runner"
	"spool/runner/vllm"
)

// truth is the one right answer to a request, which depends on its bytes and on nothing else.
func truth(body []byte) vllm.Answer {
	h := fnv.New64a()
	h.Write(body)
	sum := h.Sum64()
	if sum%11 == 0 {
		return vllm.Answer{Outcome: vllm.Rejected, Status: 400, Code: "http_400", Err: errors.New("status 400"),
			Body: fmt.Appendf(nil, `{"error":{"message":"refused %016x","code":400}}`, sum)}
	}
	u := vllm.Usage{Input: int64(sum % 97), Cached: int64(sum % 7), Output: int64(sum % 89)}
	u.Total = u.Input + u.Output
	return vllm.Answer{Outcome: vllm.OK, Status: 200, Usage: u, Body: fmt.Appendf(nil,
		`{"choices":[{"message":{"content":"answer %016x"},"finish_reason":"stop"}],"usage":{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,"prompt_tokens_details":{"cached_tokens":%d}}}`,
		sum, u.Input, u.Output, u.Total, u.Cached)}
}

// engine is an inference server that answers truly, in the end.
type engine struct {
	w     *world
	name  string
	wrong bool // it has another model than the one that is wanted
}

var _ runner.Engine = (*engine)(nil)

// ledger is what the engines were asked.
type ledger struct {
	mu    sync.Mutex
	asked map[string]int // by body
}

// Do answers after a while, or fails as engines fail; each line fails at most three times.
func (e *engine) Do(ctx context.Context, r vllm.Request) vllm.Answer {
	e.w.ledger.mu.Lock()
	e.w.ledger.asked[string(r.Body)]++
	e.w.ledger.mu.Unlock()
	q := e.name + " " + r.ID
	if sleep(ctx, e.w.dice.between(e.w.answerTime/10, e.w.answerTime, q, "takes")) != nil {
		return vllm.Answer{Outcome: vllm.Ended, Err: ctx.Err()}
	}
	if during(e.w.enginesOut, time.Now()) {
		return vllm.Answer{Outcome: vllm.Down, Code: "down", Err: errors.New("connection refused")}
	}
	attempt, err := strconv.Atoi(r.ID[strings.LastIndexByte(r.ID, '-')+1:])
	if err != nil || r.Path != "/v1/chat/completions" || !bytes.HasPrefix(r.Body, []byte(`{"model":"m"`)) {
		e.w.t.Errorf("the engine was sent %s %s %q", r.ID, r.Path, r.Body)
	}
	if attempt <= 3 && e.w.dice.roll(q, "fails") < e.w.engineFaults {
		return [...]vllm.Answer{
			{Outcome: vllm.Retry, Status: 500, Code: "http_500", Err: errors.New("status 500")},
			{Outcome: vllm.Busy, Status: 429, Code: "http_429", Err: errors.New("status 429"), RetryAfter: 3 * time.Second},
			{Outcome: vllm.Aborted, Status: 200, Code: "abort", Err: errors.New("aborted")},
		}[e.w.dice.in(0, 2, q, "how")]
	}
	return truth(r.Body)
}

// Healthy fails while the engines are out.
func (e *engine) Healthy(context.Context) error {
	if during(e.w.enginesOut, time.Now()) {
		return errors.New("connection refused")
	}
	return nil
}

// Models gives one model.
func (e *engine) Models(context.Context) ([]string, error) {
	if e.wrong {
		return []string{"another"}, nil
	}
	return []string{"m"}, nil
}

// Version is of no matter.
func (e *engine) Version(context.Context) string { return "sim" }

// Name is the runner's.
func (e *engine) Name() string { return e.name }
