package vllmsim

import "time"

// The bodies of vLLM 0.32.0, member for member and in its order, as a running server gave them. Members
// of type any are those that are always null without flags that vllmsim does not have.

type usage struct {
	Prompt            int `json:"prompt_tokens"`
	Total             int `json:"total_tokens"`
	Completion        int `json:"completion_tokens"`
	PromptDetails     any `json:"prompt_tokens_details"` // --enable-prompt-tokens-details
	CompletionDetails any `json:"completion_tokens_details"`
}

func usageOf(prompt, completion int) usage {
	return usage{Prompt: prompt, Total: prompt + completion, Completion: completion}
}

// requestMetrics are what --enable-per-request-metrics adds, in milliseconds (PerRequestMetrics and
// build_per_request_timing_metrics of vllm/entrypoints/generate/base). It is null for several choices or prompts.
type requestMetrics struct {
	FirstToken          float64  `json:"time_to_first_token_ms"` // from the start of the request in a slot
	Generation          float64  `json:"generation_time_ms"`     // from the first token to the last
	Queue               float64  `json:"queue_time_ms"`
	MeanITL             *float64 `json:"mean_itl_ms"` // null of a single token
	TokensPerSecond     *float64 `json:"tokens_per_second"`
	SpeculativeDecoding any      `json:"speculative_decoding"`
}

// metricsOf gives what a task's only sequence was measured to take; nil, which is null, if it has several, or was aborted
// before it started.
func metricsOf(t *task) any {
	if len(t.seqs) != 1 || t.seqs[0].started.IsZero() {
		return nil
	}
	s := t.seqs[0]
	ms := func(d time.Duration) float64 { return float64(max(0, d)) / 1e6 }
	first := s.first
	if first.After(s.over) {
		first = s.over
	}
	m := requestMetrics{FirstToken: ms(first.Sub(s.started)), Generation: ms(s.over.Sub(first)), Queue: ms(s.started.Sub(s.job.arrived))}
	if s.tokens > 1 {
		itl := m.Generation / float64(s.tokens-1)
		m.MeanITL = &itl
	}
	if all := ms(s.over.Sub(s.started)); all > 0 {
		rate := float64(s.tokens) / all * 1000
		m.TokensPerSecond = &rate
	}
	return m
}

type chatResponse struct {
	ID                string       `json:"id"`
	Object            string       `json:"object"`
	Created           int64        `json:"created"`
	Model             string       `json:"model"`
	Choices           []chatChoice `json:"choices"`
	ServiceTier       any          `json:"service_tier"`
	SystemFingerprint string       `json:"system_fingerprint"`
	Usage             usage        `json:"usage"`
	PromptLogprobs    any          `json:"prompt_logprobs"`
	PromptTokenIDs    any          `json:"prompt_token_ids"`
	PromptText        any          `json:"prompt_text"`
	KVTransferParams  any          `json:"kv_transfer_params"`
	ECTransferParams  any          `json:"ec_transfer_params"`
	Metrics           any          `json:"metrics"`
}

type chatChoice struct {
	Index         int         `json:"index"`
	Message       chatMessage `json:"message"`
	Logprobs      any         `json:"logprobs"`
	FinishReason  string      `json:"finish_reason"`
	StopReason    any         `json:"stop_reason"`
	TokenIDs      any         `json:"token_ids"`
	RoutedExperts any         `json:"routed_experts"`
}

type chatMessage struct {
	Role         string `json:"role"`
	Content      string `json:"content"`
	Refusal      any    `json:"refusal"`
	Annotations  any    `json:"annotations"`
	Audio        any    `json:"audio"`
	FunctionCall any    `json:"function_call"`
	Reasoning    any    `json:"reasoning"`
}

type completionResponse struct {
	ID                string             `json:"id"`
	Object            string             `json:"object"`
	Created           int64              `json:"created"`
	Model             string             `json:"model"`
	Choices           []completionChoice `json:"choices"`
	ServiceTier       any                `json:"service_tier"`
	SystemFingerprint string             `json:"system_fingerprint"`
	Usage             usage              `json:"usage"`
	KVTransferParams  any                `json:"kv_transfer_params"`
	ECTransferParams  any                `json:"ec_transfer_params"`
	Metrics           any                `json:"metrics"`
}

type completionChoice struct {
	Index          int    `json:"index"`
	Text           string `json:"text"`
	Logprobs       any    `json:"logprobs"`
	FinishReason   string `json:"finish_reason"`
	StopReason     any    `json:"stop_reason"`
	TokenIDs       any    `json:"token_ids"`
	PromptLogprobs any    `json:"prompt_logprobs"`
	PromptTokenIDs any    `json:"prompt_token_ids"`
	RoutedExperts  any    `json:"routed_experts"`
}

type responsesResponse struct {
	ID                 string             `json:"id"`
	CreatedAt          int64              `json:"created_at"`
	IncompleteDetails  *incompleteDetails `json:"incomplete_details"`
	Instructions       *string            `json:"instructions"`
	Metadata           any                `json:"metadata"`
	Model              string             `json:"model"`
	Object             string             `json:"object"`
	Output             []responsesMessage `json:"output"`
	ParallelToolCalls  bool               `json:"parallel_tool_calls"`
	Temperature        float64            `json:"temperature"`
	ToolChoice         string             `json:"tool_choice"`
	Tools              []any              `json:"tools"`
	TopP               float64            `json:"top_p"`
	Background         bool               `json:"background"`
	MaxOutputTokens    int                `json:"max_output_tokens"`
	MaxToolCalls       any                `json:"max_tool_calls"`
	PreviousResponseID any                `json:"previous_response_id"`
	Prompt             any                `json:"prompt"`
	Reasoning          any                `json:"reasoning"`
	ServiceTier        string             `json:"service_tier"`
	Status             string             `json:"status"`
	Text               any                `json:"text"`
	TopLogprobs        any                `json:"top_logprobs"`
	Truncation         string             `json:"truncation"`
	Usage              responsesUsage     `json:"usage"`
	User               any                `json:"user"`
	PresencePenalty    float64            `json:"presence_penalty"`
	FrequencyPenalty   float64            `json:"frequency_penalty"`
	KVTransferParams   any                `json:"kv_transfer_params"`
	ECTransferParams   any                `json:"ec_transfer_params"`
	InputMessages      any                `json:"input_messages"`
	OutputMessages     any                `json:"output_messages"`
}

type incompleteDetails struct {
	Reason string `json:"reason"`
}

type responsesMessage struct {
	ID      string             `json:"id"`
	Content []responsesContent `json:"content"`
	Role    string             `json:"role"`
	Status  string             `json:"status"`
	Type    string             `json:"type"`
	Phase   any                `json:"phase"`
}

type responsesContent struct {
	Annotations []any  `json:"annotations"`
	Text        string `json:"text"`
	Type        string `json:"type"`
	Logprobs    any    `json:"logprobs"`
}

type responsesUsage struct {
	Input        int `json:"input_tokens"`
	InputDetails struct {
		Cached        int   `json:"cached_tokens"`
		CacheWrite    int   `json:"cache_write_tokens"`
		InputPerTurn  []int `json:"input_tokens_per_turn"`
		CachedPerTurn []int `json:"cached_tokens_per_turn"`
	} `json:"input_tokens_details"`
	Output        int `json:"output_tokens"`
	OutputDetails struct {
		Reasoning         int   `json:"reasoning_tokens"`
		ToolOutput        int   `json:"tool_output_tokens"`
		OutputPerTurn     []int `json:"output_tokens_per_turn"`
		ToolOutputPerTurn []int `json:"tool_output_tokens_per_turn"`
	} `json:"output_tokens_details"`
	Total int `json:"total_tokens"`
}

// poolingResponse is the list that /v1/embeddings, /pooling, /classify and the score endpoints return.
type poolingResponse[T any] struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"`
	Model   string `json:"model"`
	Data    []T    `json:"data"`
	Usage   usage  `json:"usage"`
}

type embeddingData struct {
	Index     int    `json:"index"`
	Object    string `json:"object"`
	Embedding any    `json:"embedding"` // []float32, or a string of base64
}

type poolingData struct {
	Index  int    `json:"index"`
	Object string `json:"object"`
	Data   any    `json:"data"` // as Embedding
}

type scoreData struct {
	Index  int     `json:"index"`
	Object string  `json:"object"`
	Score  float64 `json:"score"`
}

// classifyData is from vllm/entrypoints/pooling/classify/protocol.py; it was read, not seen on the wire.
type classifyData struct {
	Index      int       `json:"index"`
	Label      *string   `json:"label"`
	Probs      []float64 `json:"probs"`
	NumClasses int       `json:"num_classes"`
}

type rerankResponse struct {
	ID      string         `json:"id"`
	Model   string         `json:"model"`
	Usage   rerankUsage    `json:"usage"`
	Results []rerankResult `json:"results"`
}

type rerankUsage struct {
	Prompt int `json:"prompt_tokens"`
	Total  int `json:"total_tokens"`
}

type rerankResult struct {
	Index    int            `json:"index"`
	Document rerankDocument `json:"document"`
	Score    float64        `json:"relevance_score"`
}

type rerankDocument struct {
	Text       string `json:"text"`
	MultiModal any    `json:"multi_modal"`
}

type modelList struct {
	Object string      `json:"object"`
	Data   []modelCard `json:"data"`
}

type modelCard struct {
	ID          string            `json:"id"`
	Object      string            `json:"object"`
	Created     int64             `json:"created"`
	OwnedBy     string            `json:"owned_by"`
	Root        string            `json:"root"`
	Parent      any               `json:"parent"`
	MaxModelLen int               `json:"max_model_len"`
	Permission  []modelPermission `json:"permission"`
}

type modelPermission struct {
	ID                 string `json:"id"`
	Object             string `json:"object"`
	Created            int64  `json:"created"`
	AllowCreateEngine  bool   `json:"allow_create_engine"`
	AllowSampling      bool   `json:"allow_sampling"`
	AllowLogprobs      bool   `json:"allow_logprobs"`
	AllowSearchIndices bool   `json:"allow_search_indices"`
	AllowView          bool   `json:"allow_view"`
	AllowFineTuning    bool   `json:"allow_fine_tuning"`
	Organization       string `json:"organization"`
	Group              any    `json:"group"`
	IsBlocking         bool   `json:"is_blocking"`
}
