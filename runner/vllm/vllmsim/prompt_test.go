package vllmsim

import (
	"slices"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
)

func TestPromptsAreReadInAllTheirForms(t *testing.T) {
	for raw, want := range map[string][]prompt{
		`"hello"`:              {{"hello", 2}},
		`["hello", "a"]`:       {{"hello", 2}, {"a", 1}},
		`[1, 2, 3]`:            {{"[1,2,3]", 3}},
		`[[1, 2], [3]]`:        {{"[1,2]", 2}, {"[3]", 1}},
		`["é\u00e9", {"a":1}]`: {{"éé", 1}, {`{"a":1}`, 2}},
	} {
		got, err := parsePrompts(jsontext.Value(raw))
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v, error %v, want %v", raw, got, err, want)
		}
	}
	for raw, want := range map[string]string{
		`[]`: "You must pass at least one prompt", `[""]`: "The decoder prompt cannot be empty",
		`[[1,"a"]]`: "The decoder prompt cannot be empty", `[[]]`: "The decoder prompt cannot be empty",
	} {
		if _, err := parsePrompts(jsontext.Value(raw)); err == nil || err.Message != want {
			t.Errorf("%s: %v, want %q", raw, err, want)
		}
	}
	if _, err := parsePrompts(jsontext.Value(`7`)); err == nil || err.Code != 400 {
		t.Errorf("a number: %v, want a refusal", err)
	}
}

func TestMessagesOfPartsCountTheirTexts(t *testing.T) {
	messages := func(content string) prompt {
		return chatPrompt([]message{{Role: "user", Content: jsontext.Value(content)}})
	}
	whole := messages(`"What is this?"`)
	parts := messages(`[{"type":"text","text":"What is "},{"type":"image_url","image_url":{"url":"data:,x"}},{"type":"text","text":"this?"}]`)
	if whole != parts || whole.tokens != 4+messageTokens+answerTokens {
		t.Errorf("%+v and %+v, want the same, of 11 tokens", whole, parts)
	}
	if odd := messages(`[1]`); odd.tokens != 1+messageTokens+answerTokens {
		t.Errorf("%+v, want 8 tokens", odd)
	}
}
