package vllmsim

import (
	"cmp"

	"github.com/go-json-experiment/json/jsontext"
)

// task is a request that was understood: what the engine is to run, and how the answer is made of it.
type task struct {
	seqs []*sequence
	n    int // choices, for the metrics
	// render makes the body of the answer, once the sequences have ended or been aborted.
	render func(envelope) any
	// pooling: there is no such thing as half an answer.
	pooling bool
}

// envelope is what an answer has that does not follow from its request.
type envelope struct {
	id      string // X-Request-Id
	model   string
	created int64
}

func (t *task) prompt() int {
	sum := 0
	for _, s := range t.seqs {
		sum += s.prompt
	}
	return sum / max(t.n, 1) // the choices of a prompt share it
}

func (t *task) generated() int {
	sum := 0
	for _, s := range t.seqs {
		sum += s.tokens
	}
	return sum
}

func (t *task) usage() usage { return usageOf(t.prompt(), t.generated()) }

// sampling are the parameters that decide how much is generated. All others only change the body's
// digest, and with it the answer.
type sampling struct {
	N           *int     `json:"n"`
	MinTokens   int      `json:"min_tokens"`
	IgnoreEOS   bool     `json:"ignore_eos"`
	Temperature *float64 `json:"temperature"`
	Stream      bool     `json:"stream"`
}

// bound is a wish for a greatest length, and the member that it came from.
type bound struct {
	param string
	value *int
}

func (s sampling) choices() int {
	if s.N == nil {
		return 1
	}
	return *s.N
}

func (s sampling) validate(b bound, maxModelLen int) *Error {
	n := s.choices()
	switch {
	case s.Stream:
		return badRequest("stream", "vllmsim does not stream")
	case n < 1:
		return badRequest("", "n must be at least 1, got %d.", n)
	case s.Temperature != nil && *s.Temperature < 0:
		return badRequest("temperature", "temperature must be non-negative, got %s. (parameter=temperature, value=%[1]s)", pythonFloat(*s.Temperature))
	case s.Temperature != nil && *s.Temperature == 0 && n > 1:
		return badRequest("", "n must be 1 when using greedy sampling, got %d.", n)
	case b.value == nil:
		return nil
	case *b.value > maxModelLen:
		return outOfRange(b.param, *b.value, "%s=%d cannot be greater than max_model_len=%d. Please request fewer output tokens.", b.param, *b.value, maxModelLen)
	case *b.value < 1:
		return outOfRange("max_tokens", *b.value, "max_tokens must be at least 1, got %d.", *b.value)
	case s.MinTokens > *b.value:
		return badRequest("", "min_tokens must be less than or equal to max_tokens=%d, got %d.", *b.value, s.MinTokens)
	}
	return nil
}

// plan makes n sequences for each prompt.
func (s sampling) plan(v voice, c *Config, prompts []prompt, b bound) (*task, *Error) {
	if err := s.validate(b, c.MaxModelLen); err != nil {
		return nil, err
	}
	t := &task{n: s.choices()}
	for _, p := range prompts {
		room := c.MaxModelLen - p.tokens
		switch {
		case room < 0:
			return nil, tooLong(c.MaxModelLen)
		case room == 0:
			return nil, outOfRange("max_tokens", 0, "max_tokens must be at least 1, got 0.")
		}
		limit := room
		if b.value != nil {
			limit = min(limit, *b.value)
		}
		for range t.n {
			t.seqs = append(t.seqs, s.sequence(v, c, len(t.seqs), p.tokens, limit))
		}
	}
	return t, nil
}

func (s sampling) sequence(v voice, c *Config, choice, promptTokens, limit int) *sequence {
	natural := max(v.length(choice, c), s.MinTokens)
	if s.IgnoreEOS || natural > limit {
		return &sequence{prompt: promptTokens, target: limit, reason: reasonLength}
	}
	return &sequence{prompt: promptTokens, target: natural, reason: reasonStop}
}

type chatRequest struct {
	named
	sampling
	Messages            []message `json:"messages"`
	MaxTokens           *int      `json:"max_tokens"`
	MaxCompletionTokens *int      `json:"max_completion_tokens"`
}

func planChat(v voice, c *Config, body []byte) (*task, *Error) {
	var r chatRequest
	if err := decode(body, &r); err != nil {
		return nil, err
	}
	if r.Messages == nil {
		return nil, missing("messages")
	}
	if err := c.serves(r.named); err != nil {
		return nil, err
	}
	if len(r.Messages) == 0 {
		return nil, badRequest("", "Cannot apply chat template to an empty conversation. Provide at least one message.")
	}
	b := bound{"max_tokens", r.MaxTokens}
	if r.MaxCompletionTokens != nil {
		b = bound{"max_completion_tokens", r.MaxCompletionTokens}
	}
	t, err := r.plan(v, c, []prompt{chatPrompt(r.Messages)}, b)
	if err != nil {
		return nil, err
	}
	t.render = func(e envelope) any {
		a := chatResponse{ID: "chatcmpl-" + e.id, Object: "chat.completion", Created: e.created, Model: e.model, SystemFingerprint: fingerprint, Usage: t.usage()}
		for i, s := range t.seqs {
			m := chatMessage{Role: "assistant", Content: v.text(i, s.tokens, c.TextTokens)}
			a.Choices = append(a.Choices, chatChoice{Index: i, Message: m, FinishReason: s.reason})
		}
		if c.RequestMetrics {
			a.Metrics = metricsOf(t)
		}
		return a
	}
	return t, nil
}

// completionTokens is how much /v1/completions generates if not told otherwise, as OpenAI's does.
const completionTokens = 16

type completionRequest struct {
	named
	sampling
	Prompt    jsontext.Value `json:"prompt"`
	MaxTokens *int           `json:"max_tokens"`
	Echo      bool           `json:"echo"`
}

func planCompletion(v voice, c *Config, body []byte) (*task, *Error) {
	var r completionRequest
	if err := decode(body, &r); err != nil {
		return nil, err
	}
	if err := c.serves(r.named); err != nil {
		return nil, err
	}
	if absent(r.Prompt) || r.Prompt.Kind() == '"' && textOf(r.Prompt) == "" {
		return nil, badRequest("prompt", "Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)")
	}
	prompts, err := parsePrompts(r.Prompt)
	if err != nil {
		return nil, err
	}
	if r.MaxTokens == nil {
		r.MaxTokens = new(int)
		*r.MaxTokens = max(min(completionTokens, c.MaxModelLen), r.MinTokens)
	}
	t, err := r.plan(v, c, prompts, bound{"max_tokens", r.MaxTokens})
	if err != nil {
		return nil, err
	}
	t.render = func(e envelope) any {
		a := completionResponse{ID: "cmpl-" + e.id, Object: "text_completion", Created: e.created, Model: e.model, SystemFingerprint: fingerprint, Usage: t.usage()}
		for i, s := range t.seqs {
			text := v.text(i, s.tokens, c.TextTokens)
			if r.Echo {
				text = prompts[i/t.n].text + text
			}
			a.Choices = append(a.Choices, completionChoice{Index: i, Text: text, FinishReason: s.reason})
		}
		if c.RequestMetrics {
			a.Metrics = metricsOf(t)
		}
		return a
	}
	return t, nil
}

type responsesRequest struct {
	named
	sampling
	Input           jsontext.Value `json:"input"`
	Instructions    *string        `json:"instructions"`
	MaxOutputTokens *int           `json:"max_output_tokens"`
	TopP            *float64       `json:"top_p"`
}

func (r *responsesRequest) prompt() (prompt, *Error) {
	var messages []message
	if r.Instructions != nil {
		messages = append(messages, message{Role: "system", Content: quote(*r.Instructions)})
	}
	if absent(r.Input) {
		return prompt{}, missing("input")
	}
	switch r.Input.Kind() {
	case '"':
		messages = append(messages, message{Role: "user", Content: r.Input})
	case '[':
		var more []message
		if err := decode(r.Input, &more); err != nil {
			return prompt{}, err
		}
		messages = append(messages, more...)
	default:
		return prompt{}, invalid("string_type", "body.input", "Input should be a valid string", "<value>")
	}
	return chatPrompt(messages), nil
}

func planResponses(v voice, c *Config, body []byte) (*task, *Error) {
	var r responsesRequest
	if err := decode(body, &r); err != nil {
		return nil, err
	}
	p, err := r.prompt()
	if err != nil {
		return nil, err
	}
	if err := c.serves(r.named); err != nil {
		return nil, err
	}
	r.N = nil // not a parameter of this endpoint
	t, err := r.plan(v, c, []prompt{p}, bound{"max_output_tokens", r.MaxOutputTokens})
	if err != nil {
		return nil, err
	}
	limit := c.MaxModelLen - p.tokens
	t.render = func(e envelope) any {
		return r.render(e, t, v.text(0, t.seqs[0].tokens, c.TextTokens), limit)
	}
	return t, nil
}

// responsesStatus tells the end of a sequence in the words of /v1/responses.
func responsesStatus(reason string) string {
	switch reason {
	case reasonStop:
		return "completed"
	case reasonAbort:
		return "cancelled"
	}
	return "incomplete"
}

func (r *responsesRequest) render(e envelope, t *task, text string, limit int) responsesResponse {
	one := 1.0
	s := t.seqs[0]
	a := responsesResponse{
		ID: "resp_" + e.id, CreatedAt: e.created, Instructions: r.Instructions, Model: e.model, Object: "response",
		Output: []responsesMessage{{
			ID: "msg_" + e.id, Role: "assistant", Status: "completed", Type: "message",
			Content: []responsesContent{{Text: text, Type: "output_text"}},
		}},
		ParallelToolCalls: true, Temperature: *cmp.Or(r.Temperature, &one), ToolChoice: "none", TopP: *cmp.Or(r.TopP, &one),
		MaxOutputTokens: *cmp.Or(r.MaxOutputTokens, &limit), ServiceTier: "auto", Status: responsesStatus(s.reason), Truncation: "disabled",
	}
	if s.reason == reasonLength {
		a.IncompleteDetails = &incompleteDetails{"max_output_tokens"}
	}
	a.Usage.Input, a.Usage.Output, a.Usage.Total = s.prompt, s.tokens, s.prompt+s.tokens
	return a
}
