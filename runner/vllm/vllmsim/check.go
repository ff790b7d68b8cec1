package vllmsim

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/go-json-experiment/json"
)

// Answer is what a reply says, without what differs from one reply to the next (id, time). Which
// members are set depends on the endpoint.
type Answer struct {
	Texts            []string    // generated, one for each choice
	Reasons          []string    // why they end: "stop" or "length" ("completed" or "incomplete" of /v1/responses)
	Vectors          [][]float64 // embeddings, or the probabilities of /classify
	Scores           []float64
	Documents        []int // /rerank: the numbers of the documents that have these scores
	PromptTokens     int
	CompletionTokens int
}

// Answer tells how a server with this configuration answers a request, without asking one. A request
// that it would reject gives an *Error.
func (c Config) Answer(path string, body []byte) (Answer, error) {
	c = c.withDefaults()
	t, refused := c.understand(path, body)
	if refused != nil {
		return Answer{}, refused
	}
	for _, s := range t.seqs {
		s.tokens = s.target
	}
	reply, err := json.Marshal(t.render(envelope{}))
	if err != nil {
		return Answer{}, fmt.Errorf("render answer: %w", err)
	}
	return ParseAnswer(path, reply)
}

// Check compares the body of a reply with what a server with this configuration says to the request,
// whose bytes must be those that the server was to get. It is how a test tells a right answer from a
// wrong, cut or foreign one.
func (c Config) Check(path string, request, reply []byte) error {
	want, err := c.Answer(path, request)
	if err != nil {
		return fmt.Errorf("check answer: request is refused: %w", err)
	}
	got, err := ParseAnswer(path, reply)
	if err != nil {
		return fmt.Errorf("check answer: %w", err)
	}
	if err := want.differs(got); err != nil {
		return fmt.Errorf("check answer: %w", err)
	}
	return nil
}

func (a Answer) differs(got Answer) error {
	switch {
	case !slices.Equal(a.Texts, got.Texts):
		return fmt.Errorf("texts %.80q, want %.80q", got.Texts, a.Texts)
	case !slices.Equal(a.Reasons, got.Reasons):
		return fmt.Errorf("finish reasons %q, want %q", got.Reasons, a.Reasons)
	case !slices.EqualFunc(a.Vectors, got.Vectors, near):
		return fmt.Errorf("vectors differ (%d, want %d)", len(got.Vectors), len(a.Vectors))
	case !near(a.Scores, got.Scores):
		return fmt.Errorf("scores %v, want %v", got.Scores, a.Scores)
	case !slices.Equal(a.Documents, got.Documents):
		return fmt.Errorf("documents %v, want %v", got.Documents, a.Documents)
	case a.PromptTokens != got.PromptTokens || a.CompletionTokens != got.CompletionTokens:
		return fmt.Errorf("usage %d + %d tokens, want %d + %d", got.PromptTokens, got.CompletionTokens, a.PromptTokens, a.CompletionTokens)
	}
	return nil
}

// near allows for processors that round products and sums at once.
func near(a, b []float64) bool {
	return slices.EqualFunc(a, b, func(x, y float64) bool { return math.Abs(x-y) < 1e-6 })
}

// ParseAnswer reads the body of a reply of status 200 from the endpoint.
func ParseAnswer(path string, reply []byte) (a Answer, err error) {
	switch path {
	case "/v1/chat/completions":
		err = a.fromChat(reply)
	case "/v1/completions":
		err = a.fromCompletion(reply)
	case "/v1/responses":
		err = a.fromResponses(reply)
	case "/v1/rerank", "/v2/rerank", "/rerank":
		err = a.fromRerank(reply)
	case "/v1/embeddings", "/pooling", "/classify", "/v1/score", "/score":
		err = a.fromPool(reply)
	default:
		err = fmt.Errorf("no such endpoint")
	}
	if err != nil {
		return Answer{}, fmt.Errorf("parse answer of %s: %w", path, err)
	}
	return a, nil
}

func (a *Answer) fromChat(reply []byte) error {
	var r chatResponse
	if err := read(reply, &r, &r.Object, "chat.completion"); err != nil {
		return err
	}
	for _, c := range r.Choices {
		a.Texts, a.Reasons = append(a.Texts, c.Message.Content), append(a.Reasons, c.FinishReason)
	}
	a.PromptTokens, a.CompletionTokens = r.Usage.Prompt, r.Usage.Completion
	return nil
}

func (a *Answer) fromCompletion(reply []byte) error {
	var r completionResponse
	if err := read(reply, &r, &r.Object, "text_completion"); err != nil {
		return err
	}
	for _, c := range r.Choices {
		a.Texts, a.Reasons = append(a.Texts, c.Text), append(a.Reasons, c.FinishReason)
	}
	a.PromptTokens, a.CompletionTokens = r.Usage.Prompt, r.Usage.Completion
	return nil
}

func (a *Answer) fromResponses(reply []byte) error {
	var r responsesResponse
	if err := read(reply, &r, &r.Object, "response"); err != nil {
		return err
	}
	for _, m := range r.Output {
		for _, c := range m.Content {
			a.Texts = append(a.Texts, c.Text)
		}
	}
	a.Reasons = []string{r.Status}
	a.PromptTokens, a.CompletionTokens = r.Usage.Input, r.Usage.Output
	return nil
}

func (a *Answer) fromRerank(reply []byte) error {
	var r rerankResponse
	if err := json.Unmarshal(reply, &r); err != nil {
		return err
	}
	for _, d := range r.Results {
		a.Scores, a.Documents = append(a.Scores, d.Score), append(a.Documents, d.Index)
	}
	a.PromptTokens = r.Usage.Prompt
	return nil
}

// fromPool reads the list of any of the other endpoints: their entries have different members.
func (a *Answer) fromPool(reply []byte) error {
	var r poolingResponse[struct {
		Embedding any       `json:"embedding"`
		Data      any       `json:"data"`
		Probs     []float64 `json:"probs"`
		Score     *float64  `json:"score"`
	}]
	if err := read(reply, &r, &r.Object, "list"); err != nil {
		return err
	}
	for _, d := range r.Data {
		switch {
		case d.Score != nil:
			a.Scores = append(a.Scores, *d.Score)
		case d.Probs != nil:
			a.Vectors = append(a.Vectors, d.Probs)
		case d.Data != nil:
			a.Vectors = append(a.Vectors, vectorOf(d.Data))
		default:
			a.Vectors = append(a.Vectors, vectorOf(d.Embedding))
		}
	}
	a.PromptTokens, a.CompletionTokens = r.Usage.Prompt, r.Usage.Completion
	return nil
}

// vectorOf reads a list of numbers, or base64 of little-endian 32-bit floats; nil if it is neither.
func vectorOf(v any) []float64 {
	var out []float64
	switch v := v.(type) {
	case []any:
		for _, x := range v {
			f, _ := x.(float64)
			out = append(out, f)
		}
	case string:
		raw, _ := base64.StdEncoding.DecodeString(v)
		floats := make([]float32, len(raw)/4)
		_ = binary.Read(bytes.NewReader(raw), binary.LittleEndian, floats) // long enough by construction
		for _, f := range floats {
			out = append(out, float64(f))
		}
	}
	return out
}

// read unmarshals a reply and looks whether it is of the kind it should be.
func read(reply []byte, v any, object *string, want string) error {
	if err := json.Unmarshal(reply, v); err != nil {
		return err
	}
	if *object != want {
		return fmt.Errorf("object %q, want %q", *object, want)
	}
	return nil
}
