package batch

// Codes of whole files (errors.data of batch.json) and of lines that never had an answer. The codes of
// bad lines are those of storage/batch/jsonl.
const (
	CodeUnsupportedSuffix = "unsupported_suffix" // not .jsonl, .jsonl.gz, .jsonl.zst
	CodeEmptyFile         = "empty_file"         // no line at all
	CodeInvalidOption     = "invalid_option"     // bad object metadata, or an unknown pool
	CodeCorruptInput      = "corrupt_input"      // the compressed stream is broken
	CodeInputGone         = "input_gone"         // deleted or overwritten before it could be validated
	CodeModelNotFound     = "model_not_found"    // no runner's engine serves a model of the batch

	CodeInvalidRequest = "invalid_request" // the line was bad, on-invalid=skip
	CodeBatchCancelled = "batch_cancelled"
	CodeBatchExpired   = "batch_expired"
	CodeRequestTimeout = "request_timeout"
	CodeRunnerCrashed  = "runner_crashed"
	CodeEngineError    = "engine_error" // no usable answer after all attempts
)
