package runner

import (
	"bytes"
	"cmp"
	"encoding/json"
	"math"
	"slices"

	"spool/storage/batch"
)

// arrange puts the lines of a shard into the order that the batch asks for; lines that are alike to it stay in the
// order of the file. Results do not depend on it.
func arrange(order string, tasks []*task) {
	switch order {
	case batch.OrderLongest:
		arrangeBy(tasks, longestAnswer, func(a, b int64) int { return cmp.Compare(b, a) })
	case batch.OrderPrefix:
		arrangeBy(tasks, prompt, bytes.Compare)
	}
}

// arrangeBy sorts by a key that is made once a line.
func arrangeBy[K any](tasks []*task, key func(outline) K, compare func(a, b K) int) {
	type keyed struct {
		task *task
		key  K
	}
	list := make([]keyed, len(tasks))
	for i, t := range tasks {
		list[i] = keyed{t, key(read(t.body))}
	}
	slices.SortStableFunc(list, func(a, b keyed) int { return compare(a.key, b.key) })
	for i, k := range list {
		tasks[i] = k.task
	}
}

// outline is what orders look at in a body. Messages and the like are kept as they are written: two prompts with the same
// beginning are written alike by whoever wrote the file.
type outline struct {
	Model               json.RawMessage `json:"model"`
	Tools               json.RawMessage `json:"tools"`
	Instructions        json.RawMessage `json:"instructions"` // of /v1/responses: the system message
	Messages            json.RawMessage `json:"messages"`
	Prompt              json.RawMessage `json:"prompt"`
	Input               json.RawMessage `json:"input"`
	MaxTokens           json.RawMessage `json:"max_tokens"`
	MaxCompletionTokens json.RawMessage `json:"max_completion_tokens"`
	MaxOutputTokens     json.RawMessage `json:"max_output_tokens"` // of /v1/responses
}

func read(body []byte) outline {
	var a outline
	_ = json.Unmarshal(body, &a) // it is a JSON object, or there would be no task; raw messages take any value
	return a
}

// longestAnswer is how many tokens the answer may have. A line that sets no bound may have the longest of all.
func longestAnswer(a outline) int64 {
	for _, text := range [...]json.RawMessage{a.MaxCompletionTokens, a.MaxTokens, a.MaxOutputTokens} { // the order in which vLLM looks at the first two
		var n int64
		if text != nil && string(text) != "null" && json.Unmarshal(text, &n) == nil {
			return n
		}
	}
	return math.MaxInt64
}

// prompt is what an engine's prefix cache knows a line by, from its beginning: the template of chats puts tools first,
// then the system message.
func prompt(a outline) []byte {
	return slices.Concat(a.Model, a.Tools, a.Instructions, a.Messages, a.Prompt, a.Input)
}
