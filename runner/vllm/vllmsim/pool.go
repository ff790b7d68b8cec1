package vllmsim

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"slices"

	"github.com/go-json-experiment/json/jsontext"
)

// poolTask makes a sequence of one step for each input.
func poolTask(c *Config, inputs []prompt) (*task, *Error) {
	t := &task{pooling: true, n: 1}
	for _, p := range inputs {
		if p.tokens > c.MaxModelLen {
			return nil, tooLong(c.MaxModelLen)
		}
		t.seqs = append(t.seqs, &sequence{prompt: p.tokens, reason: reasonStop})
	}
	return t, nil
}

type poolRequest struct {
	named
	Input          jsontext.Value `json:"input"`
	Messages       []message      `json:"messages"`
	EncodingFormat string         `json:"encoding_format"` // "float" or "base64"
	Dimensions     *int           `json:"dimensions"`
}

func parsePool(c *Config, body []byte) (*poolRequest, []prompt, *Error) {
	var r poolRequest
	if err := decode(body, &r); err != nil {
		return nil, nil, err
	}
	if absent(r.Input) && len(r.Messages) == 0 {
		return nil, nil, missing("input")
	}
	if err := c.serves(r.named); err != nil {
		return nil, nil, err
	}
	if r.Dimensions != nil {
		return nil, nil, badRequest("", "Model '%s' does not support Matryoshka embeddings; dimensions must be unset (received dimensions=%d).", c.Model, *r.Dimensions)
	}
	if len(r.Messages) > 0 {
		return &r, []prompt{chatPrompt(r.Messages)}, nil
	}
	inputs, err := parsePrompts(r.Input)
	return &r, inputs, err
}

// vector is the embedding of a text in the form that the request asks for.
func (r *poolRequest) vector(text string, size int) any {
	v := embed(text, size)
	if r.EncodingFormat != "base64" {
		return v
	}
	var b bytes.Buffer
	_ = binary.Write(&b, binary.LittleEndian, v) // a bytes.Buffer never fails
	return base64.StdEncoding.EncodeToString(b.Bytes())
}

// listOf is the common form of the answers: an id, the model, one entry for each input, the usage.
func listOf[T any](e envelope, t *task, idPrefix string, data []T) poolingResponse[T] {
	return poolingResponse[T]{ID: idPrefix + e.id, Object: "list", Created: e.created, Model: e.model, Data: data, Usage: t.usage()}
}

func planEmbeddings(_ voice, c *Config, body []byte) (*task, *Error) {
	return planVectors(c, body, func(e envelope, t *task, vectors []any) any {
		data := make([]embeddingData, len(vectors))
		for i, v := range vectors {
			data[i] = embeddingData{Index: i, Object: "embedding", Embedding: v}
		}
		return listOf(e, t, "embd-", data)
	})
}

func planPooling(_ voice, c *Config, body []byte) (*task, *Error) {
	return planVectors(c, body, func(e envelope, t *task, vectors []any) any {
		data := make([]poolingData, len(vectors))
		for i, v := range vectors {
			data[i] = poolingData{Index: i, Object: "pooling", Data: v}
		}
		return listOf(e, t, "pooling-", data)
	})
}

func planVectors(c *Config, body []byte, render func(envelope, *task, []any) any) (*task, *Error) {
	r, inputs, err := parsePool(c, body)
	if err != nil {
		return nil, err
	}
	t, err := poolTask(c, inputs)
	if err != nil {
		return nil, err
	}
	t.render = func(e envelope) any {
		vectors := make([]any, len(inputs))
		for i, p := range inputs {
			vectors[i] = r.vector(p.text, c.EmbeddingSize)
		}
		return render(e, t, vectors)
	}
	return t, nil
}

func planClassify(_ voice, c *Config, body []byte) (*task, *Error) {
	_, inputs, err := parsePool(c, body)
	if err != nil {
		return nil, err
	}
	t, err := poolTask(c, inputs)
	if err != nil {
		return nil, err
	}
	labels := []string{"LABEL_0", "LABEL_1"} // the names that transformers gives by default
	t.render = func(e envelope) any {
		data := make([]classifyData, len(inputs))
		for i, p := range inputs {
			probs := probabilities(p.text)
			best := &labels[0]
			if probs[1] > probs[0] {
				best = &labels[1]
			}
			data[i] = classifyData{Index: i, Label: best, Probs: probs, NumClasses: len(probs)}
		}
		return listOf(e, t, "classify-", data)
	}
	return t, nil
}

// scoreRequest takes the pairs under any of the names that vLLM knows (ScoreRequest in
// vllm/entrypoints/pooling/scoring/protocol.py).
type scoreRequest struct {
	named
	Text1     jsontext.Value `json:"text_1"`
	Text2     jsontext.Value `json:"text_2"`
	Data1     jsontext.Value `json:"data_1"`
	Data2     jsontext.Value `json:"data_2"`
	Queries   jsontext.Value `json:"queries"`
	Documents jsontext.Value `json:"documents"`
	Items     jsontext.Value `json:"items"`
}

func (r *scoreRequest) sides() (a, b []prompt, err *Error) {
	pairs := [][2]jsontext.Value{{r.Queries, r.Documents}, {r.Queries, r.Items}, {r.Data1, r.Data2}, {r.Text1, r.Text2}}
	for _, p := range pairs {
		if !absent(p[0]) && !absent(p[1]) {
			a, b = texts(p[0]), texts(p[1])
			if len(a) == 0 || len(b) == 0 {
				return nil, nil, badRequest("", "You must pass at least one prompt")
			}
			if len(a) != 1 && len(a) != len(b) {
				return nil, nil, badRequest("", "Input lengths must be either 1:1, 1:N or N:N")
			}
			return a, b, nil
		}
	}
	return nil, nil, missing("queries")
}

func planScore(_ voice, c *Config, body []byte) (*task, *Error) {
	var r scoreRequest
	if err := decode(body, &r); err != nil {
		return nil, err
	}
	a, b, err := r.sides()
	if err != nil {
		return nil, err
	}
	if err := c.serves(r.named); err != nil {
		return nil, err
	}
	t, err := poolTask(c, slices.Concat(a, b))
	if err != nil {
		return nil, err
	}
	t.render = func(e envelope) any {
		data := make([]scoreData, len(b))
		for i := range b {
			left := a[min(i, len(a)-1)].text
			data[i] = scoreData{Index: i, Object: "score", Score: similarity(left, b[i].text, c.EmbeddingSize)}
		}
		return listOf(e, t, "score-", data)
	}
	return t, nil
}

type rerankRequest struct {
	named
	Query     jsontext.Value `json:"query"`
	Documents jsontext.Value `json:"documents"`
	TopN      int            `json:"top_n"` // 0 for all
}

func planRerank(_ voice, c *Config, body []byte) (*task, *Error) {
	var r rerankRequest
	if err := decode(body, &r); err != nil {
		return nil, err
	}
	switch {
	case absent(r.Query):
		return nil, missing("query")
	case absent(r.Documents):
		return nil, missing("documents")
	case r.TopN < 0:
		return nil, invalid("greater_than_equal", "body.top_n", "Input should be greater than or equal to 0", "<value>")
	}
	if err := c.serves(r.named); err != nil {
		return nil, err
	}
	query, docs := textPrompt(r.Query), texts(r.Documents)
	if len(docs) == 0 {
		return nil, badRequest("", "You must pass at least one prompt")
	}
	t, err := poolTask(c, append([]prompt{query}, docs...))
	if err != nil {
		return nil, err
	}
	t.render = func(e envelope) any {
		u := rerankUsage{t.prompt(), t.prompt()}
		return rerankResponse{ID: "score-" + e.id, Model: e.model, Usage: u, Results: rank(query, docs, c.EmbeddingSize, r.TopN)}
	}
	return t, nil
}

// rank sorts the documents by their similarity to the query, the best first, and keeps topN of them.
func rank(query prompt, docs []prompt, size, topN int) []rerankResult {
	out := make([]rerankResult, len(docs))
	for i, d := range docs {
		out[i] = rerankResult{Index: i, Document: rerankDocument{Text: d.text}, Score: similarity(query.text, d.text, size)}
	}
	slices.SortStableFunc(out, func(a, b rerankResult) int { return cmp.Compare(b.Score, a.Score) })
	if topN > 0 {
		out = out[:min(topN, len(out))]
	}
	return out
}
