package engine

import "fmt"

// Code is the name of an error as clients of SQS see it.
type Code string

// The errors of an Engine. The names are those of the API's model, and of AWS's common errors
// (InvalidParameterValue, MissingParameter).
const (
	CodeBatchIDsNotDistinct   Code = "BatchEntryIdsNotDistinct"
	CodeBatchTooLong          Code = "BatchRequestTooLong"
	CodeEmptyBatch            Code = "EmptyBatchRequest"
	CodeInvalidAttributeName  Code = "InvalidAttributeName"
	CodeInvalidAttributeValue Code = "InvalidAttributeValue"
	CodeInvalidBatchID        Code = "InvalidBatchEntryId"
	CodeInvalidContents       Code = "InvalidMessageContents"
	CodeInvalidHandle         Code = "ReceiptHandleIsInvalid"
	CodeInvalidValue          Code = "InvalidParameterValue"
	CodeMissing               Code = "MissingParameter"
	CodeNotInFlight           Code = "MessageNotInflight"
	CodeOverLimit             Code = "OverLimit"
	CodePurgeInProgress       Code = "PurgeQueueInProgress"
	CodeQueueExists           Code = "QueueNameExists"
	CodeNoQueue               Code = "QueueDoesNotExist"
	CodeNoResource            Code = "ResourceNotFoundException"
	CodeTooManyEntries        Code = "TooManyEntriesInBatchRequest"
	CodeUnsupported           Code = "UnsupportedOperation"
)

// Error is the only kind of error that an Engine returns, but for those of a caller's context.
type Error struct {
	Code    Code
	Message string
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %s", e.Code, e.Message) }

// Errorf makes an Error.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

func errNoQueue() *Error { return Errorf(CodeNoQueue, "The specified queue does not exist.") }

func errHandle(handle string) *Error {
	return Errorf(CodeInvalidHandle, "The input receipt handle %q is not a valid receipt handle.", handle)
}
