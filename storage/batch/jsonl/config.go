package jsonl

import "fmt"

// Limits that are not configured.
const (
	MaxCustomIDBytes = 512 // of the decoded custom_id; OpenAI is said to allow 64
	MaxModelBytes    = 512 // of the decoded body.model; plans list the models of a batch
)

const (
	defaultLineBytes  = 16 << 20
	defaultDepth      = 1000
	defaultInputBytes = 256 << 30
	mostLineBytes     = 1 << 30
	mostDepth         = 10_000 // as encoding/json; the scanner recurses, some 300 bytes of stack a level
)

// DefaultEndpoints lists the urls that a line may name: what OpenAI's batch API and vLLM's server
// have in common, and vLLM's scoring and pooling.
func DefaultEndpoints() []string {
	return []string{
		"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses",
		"/v1/score", "/score", "/v1/rerank", "/v2/rerank", "/rerank", "/classify", "/pooling",
	}
}

// Config holds the limits of a file. The zero Config has the defaults.
type Config struct {
	Endpoints     []string // urls that are accepted; none: DefaultEndpoints
	MaxLineBytes  int      // without the line end; 0: 16 MiB; at most 1 GiB
	MaxDepth      int      // nested objects and arrays, the envelope being the first; 0: 1,000; at most 10,000
	MaxInputBytes int64    // of the decompressed file, a guard against bombs; 0: 256 GiB

	// Caps on members of the body, 0 for none. A line that leaves the member out is not refused:
	// the engine's default holds. A capped member must be a number or null.
	MaxN      int64 // n
	MaxTokens int64 // max_tokens, max_completion_tokens, max_output_tokens
}

// withDefaults fills in what is zero and refuses what makes no sense.
func (c Config) withDefaults() (Config, error) {
	if len(c.Endpoints) == 0 {
		c.Endpoints = DefaultEndpoints()
	}
	if c.MaxLineBytes == 0 {
		c.MaxLineBytes = defaultLineBytes
	}
	if c.MaxDepth == 0 {
		c.MaxDepth = defaultDepth
	}
	if c.MaxInputBytes == 0 {
		c.MaxInputBytes = defaultInputBytes
	}
	switch {
	case c.MaxLineBytes < 0 || c.MaxLineBytes > mostLineBytes:
		return c, fmt.Errorf("check MaxLineBytes: %d is not in 1 to %d", c.MaxLineBytes, mostLineBytes)
	case c.MaxDepth < 0 || c.MaxDepth > mostDepth:
		return c, fmt.Errorf("check MaxDepth: %d is not in 1 to %d", c.MaxDepth, mostDepth)
	case c.MaxInputBytes < 0:
		return c, fmt.Errorf("check MaxInputBytes: %d is negative", c.MaxInputBytes)
	case c.MaxN < 0 || c.MaxTokens < 0:
		return c, fmt.Errorf("check MaxN and MaxTokens: %d and %d, neither may be negative", c.MaxN, c.MaxTokens)
	}
	return c, nil
}
