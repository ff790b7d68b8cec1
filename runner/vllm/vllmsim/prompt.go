package vllmsim

import (
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// prompt is one input as the engine sees it.
type prompt struct {
	text   string
	tokens int
}

// unmarshal reads what RFC 8259 leaves open as Python's json.loads does: of two equal names the last counts.
func unmarshal(data []byte, v any) error {
	return json.Unmarshal(data, v, jsontext.AllowDuplicateNames(true))
}

// parsePrompts reads the forms that vLLM takes for `prompt` and `input`: a text, a list of texts, the
// tokens of one prompt, or a list of those.
func parsePrompts(raw jsontext.Value) ([]prompt, *Error) {
	var out []prompt
	switch {
	case raw.Kind() == '"':
		out = append(out, textPrompt(raw))
	case raw.Kind() == '[':
		var items []jsontext.Value
		if err := unmarshal(raw, &items); err != nil {
			return nil, badRequest("", "%s", err)
		}
		if len(items) > 0 && items[0].Kind() == '0' {
			return []prompt{{text: compact(raw), tokens: len(items)}}, nil
		}
		for _, item := range items {
			out = append(out, listed(item))
		}
	default:
		return nil, invalid("string_type", "body.input", "Input should be a valid string", "<value>")
	}
	if len(out) == 0 {
		return nil, badRequest("", "You must pass at least one prompt")
	}
	for _, p := range out {
		if p.tokens == 0 {
			return nil, badRequest("", "The decoder prompt cannot be empty")
		}
	}
	return out, nil
}

// listed reads one element of a list of prompts.
func listed(item jsontext.Value) prompt {
	if item.Kind() != '[' {
		return textPrompt(item)
	}
	var ids []int
	if err := json.Unmarshal(item, &ids); err != nil {
		return prompt{}
	}
	return prompt{text: compact(item), tokens: len(ids)}
}

// textPrompt reads a text; anything else (an image, say) counts with the bytes of its JSON.
func textPrompt(raw jsontext.Value) prompt {
	text := textOf(raw)
	return prompt{text: text, tokens: tokensOf(text)}
}

func textOf(raw jsontext.Value) string {
	var s string
	if raw.Kind() == '"' && json.Unmarshal(raw, &s) == nil {
		return s
	}
	return compact(raw)
}

func compact(raw jsontext.Value) string {
	v := raw.Clone()
	if err := v.Compact(jsontext.AllowDuplicateNames(true)); err != nil {
		return string(raw)
	}
	return string(v)
}

// texts reads a text or a list of texts, as the score endpoints take them.
func texts(raw jsontext.Value) []prompt {
	var items []jsontext.Value
	if raw.Kind() != '[' || unmarshal(raw, &items) != nil {
		return []prompt{textPrompt(raw)}
	}
	out := make([]prompt, len(items))
	for i, item := range items {
		out[i] = textPrompt(item)
	}
	return out
}

type message struct {
	Role    string         `json:"role"`
	Content jsontext.Value `json:"content"`
}

// Tokens that a chat template adds, a usual order of magnitude: around each message, and before the answer.
const (
	messageTokens = 4
	answerTokens  = 3
)

func chatPrompt(messages []message) prompt {
	var b strings.Builder
	p := prompt{tokens: answerTokens}
	for _, m := range messages {
		text := contentText(m.Content)
		b.WriteString(m.Role + "\n" + text + "\n")
		p.tokens += tokensOf(text) + messageTokens
	}
	p.text = b.String()
	return p
}

// contentText reads a message's content: a text, or a list of parts, of which those of text are joined.
func contentText(raw jsontext.Value) string {
	if raw.Kind() != '[' {
		return textOf(raw)
	}
	var parts []struct {
		Text *string `json:"text"`
	}
	if unmarshal(raw, &parts) != nil {
		return compact(raw)
	}
	var b strings.Builder
	for _, p := range parts {
		if p.Text != nil {
			b.WriteString(*p.Text)
		}
	}
	return b.String()
}
