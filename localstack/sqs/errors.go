package sqs

import (
	"cmp"
	"errors"
	"net/http"

	"spool/localstack/sqs/internal/engine"
)

// apiError is an error as it goes over the wire.
type apiError struct {
	status  int
	shape   string // the name in the JSON protocol
	code    string // the name in the Query protocol, also sent in x-amzn-query-error; "": that of the shape
	message string
}

func (e *apiError) Error() string { return e.queryCode() + ": " + e.message }

func (e *apiError) queryCode() string {
	if e.code != "" {
		return e.code
	}
	return e.shape
}

// fault tells whose fault it is, in the words of the protocols.
func (e *apiError) fault() string {
	if e.status >= http.StatusInternalServerError {
		return "Receiver"
	}
	return "Sender"
}

// queryCodes are the errors whose name in the Query protocol is another one than in the model: the trait
// aws.protocols#awsQueryError of the API model.
var queryCodes = map[engine.Code]string{ //nolint:gochecknoglobals // never written
	engine.CodeBatchIDsNotDistinct: "AWS.SimpleQueueService.BatchEntryIdsNotDistinct",
	engine.CodeBatchTooLong:        "AWS.SimpleQueueService.BatchRequestTooLong",
	engine.CodeEmptyBatch:          "AWS.SimpleQueueService.EmptyBatchRequest",
	engine.CodeInvalidBatchID:      "AWS.SimpleQueueService.InvalidBatchEntryId",
	engine.CodeNotInFlight:         "AWS.SimpleQueueService.MessageNotInflight",
	engine.CodeNoQueue:             "AWS.SimpleQueueService.NonExistentQueue",
	engine.CodePurgeInProgress:     "AWS.SimpleQueueService.PurgeQueueInProgress",
	engine.CodeQueueExists:         "QueueAlreadyExists",
	engine.CodeTooManyEntries:      "AWS.SimpleQueueService.TooManyEntriesInBatchRequest",
	engine.CodeUnsupported:         "AWS.SimpleQueueService.UnsupportedOperation",
}

// statuses are those of the errors that are not 400, by the same trait.
var statuses = map[engine.Code]int{ //nolint:gochecknoglobals // never written
	engine.CodeInvalidHandle:   http.StatusNotFound,
	engine.CodeNoResource:      http.StatusNotFound,
	engine.CodeOverLimit:       http.StatusForbidden,
	engine.CodePurgeInProgress: http.StatusForbidden,
}

// shared are the shapes of the errors that the model does not have, as AWS answers them in JSON.
var shared = map[engine.Code]string{ //nolint:gochecknoglobals // never written
	engine.CodeInvalidValue: "InvalidParameterValueException",
	engine.CodeMissing:      "MissingRequiredParameterException",
}

func asAPIError(err error) *apiError {
	if e, ok := errors.AsType[*apiError](err); ok {
		return e
	}
	e, ok := errors.AsType[*engine.Error](err)
	if !ok {
		return errInternal(err.Error())
	}
	status := cmp.Or(statuses[e.Code], http.StatusBadRequest)
	if shape, ok := shared[e.Code]; ok {
		return &apiError{status, shape, string(e.Code), e.Message}
	}
	return &apiError{status, string(e.Code), queryCodes[e.Code], e.Message}
}

func errInternal(message string) *apiError {
	return &apiError{http.StatusInternalServerError, "InternalFailure", "", message}
}

func errUnknownAction(action string) *apiError {
	return &apiError{
		http.StatusBadRequest, "UnknownOperationException", "InvalidAction",
		"The action " + action + " is not valid for this server.",
	}
}

func errMalformed(err error) *apiError {
	return &apiError{http.StatusBadRequest, "SerializationException", "MalformedInput", err.Error()}
}
