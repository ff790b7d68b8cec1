package batch

// OpenAI's batch object, field for field: openai-python src/openai/types/batch.py (2026), and the
// API reference's "Batch object". Times are Unix seconds; absent ones are null.

// Object is batch.json.
type Object struct {
	ID               string            `json:"id"`
	Object           string            `json:"object"` // "batch"
	Endpoint         string            `json:"endpoint"`
	Model            *string           `json:"model"`
	Errors           *Errors           `json:"errors"`
	InputFileID      string            `json:"input_file_id"` // key of the bucket
	CompletionWindow string            `json:"completion_window"`
	Status           string            `json:"status"`
	OutputFileID     *string           `json:"output_file_id"` // key of the bucket
	ErrorFileID      *string           `json:"error_file_id"`
	CreatedAt        int64             `json:"created_at"`
	InProgressAt     *int64            `json:"in_progress_at"`
	ExpiresAt        *int64            `json:"expires_at"`
	FinalizingAt     *int64            `json:"finalizing_at"`
	CompletedAt      *int64            `json:"completed_at"`
	FailedAt         *int64            `json:"failed_at"`
	ExpiredAt        *int64            `json:"expired_at"`
	CancellingAt     *int64            `json:"cancelling_at"`
	CancelledAt      *int64            `json:"cancelled_at"`
	RequestCounts    RequestCounts     `json:"request_counts"`
	Usage            *Usage            `json:"usage"`
	Metadata         map[string]string `json:"metadata"`
}

// Errors is the list of what is wrong with the file.
type Errors struct {
	Object string       `json:"object"` // "list"
	Data   []BatchError `json:"data"`
}

// MaxErrors is how many entries errors.data holds; invalid.jsonl has them all.
const MaxErrors = 100

// BatchError is one entry of errors.data.
type BatchError struct { //nolint:revive // OpenAI's name
	Code    string  `json:"code"`
	Message string  `json:"message"`
	Param   *string `json:"param"`
	Line    *int64  `json:"line"` // from 1
}

// RequestCounts counts lines.
type RequestCounts struct {
	Total     int64 `json:"total"`
	Completed int64 `json:"completed"`
	Failed    int64 `json:"failed"`
}

// Usage counts tokens.
type Usage struct {
	InputTokens        int64         `json:"input_tokens"`
	InputTokensDetails InputDetails  `json:"input_tokens_details"`
	OutputTokens       int64         `json:"output_tokens"`
	OutputDetails      OutputDetails `json:"output_tokens_details"`
	TotalTokens        int64         `json:"total_tokens"`
}

// InputDetails is part of Usage.
type InputDetails struct {
	CachedTokens int64 `json:"cached_tokens"`
}

// OutputDetails is part of Usage.
type OutputDetails struct {
	ReasoningTokens int64 `json:"reasoning_tokens"`
}

// Add adds o to u.
func (u *Usage) Add(o Usage) {
	u.InputTokens += o.InputTokens
	u.InputTokensDetails.CachedTokens += o.InputTokensDetails.CachedTokens
	u.OutputTokens += o.OutputTokens
	u.OutputDetails.ReasoningTokens += o.OutputDetails.ReasoningTokens
	u.TotalTokens += o.TotalTokens
}
