package batch

// Codes of whole files (errors.data of batch.json) and of lines that never had an answer. The codes of what is
// found in reading, of files and of lines, are those of storage/batch/jsonl; that of a stop may be another
// (FORMAT.md, Codes).
const (
	CodeEmptyFile       = "empty_file"       // no line at all
	CodeInvalidOption   = "invalid_option"   // bad object metadata, or an unknown pool
	CodeInputGone       = "input_gone"       // deleted or overwritten before it could be validated
	CodeInputUnreadable = "input_unreadable" // the store did not give it up to the end of its window
	CodeModelNotFound   = "model_not_found"  // no runner's engine serves a model of the batch

	CodeInvalidRequest = "invalid_request" // the line was bad, on-invalid=skip
	CodeBatchCancelled = "batch_cancelled"
	CodeBatchExpired   = "batch_expired"
	CodeRequestTimeout = "request_timeout"
	CodeRunnerCrashed  = "runner_crashed"
	CodeEngineError    = "engine_error" // no usable answer after all attempts
)
