package queue

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"
)

// The kinds of Error, for errors.Is. An error of none of them is a request that the queue refuses (a defect, or a
// queue made otherwise), or the end of the caller's context.
var (
	ErrNoQueue     = errors.New("no such queue")
	ErrDenied      = errors.New("denied")                       // credentials or policy: trying again does not help
	ErrUnavailable = errors.New("queue service unavailable")    // after all retries: try again later; a send may have happened
	ErrGone        = errors.New("message is not held any more") // it is deleted, may be delivered again, or is already
)

// Error is the error of every call to SQS.
type Error struct {
	Op    string // "open", "create", "send to", "receive from", "extend message of", "delete message of", "count"
	Queue string // the queue's name
	Kind  error  // ErrNoQueue, ...; nil if none of them fits
	Err   error  // the SDK's
}

func (e *Error) Error() string {
	switch {
	case e.Kind == nil:
		return fmt.Sprintf("%s queue %q: %v", e.Op, e.Queue, e.Err)
	case errors.Is(e.Kind, ErrNoQueue):
		return fmt.Sprintf("%s queue %q: %v (it is made by --create-queues, or by whoever runs the account): %v", e.Op, e.Queue, e.Kind, e.Err)
	}
	return fmt.Sprintf("%s queue %q: %v: %v", e.Op, e.Queue, e.Kind, e.Err)
}

// ErrorType is "queue_" and the kind, for logs and counts.
func (e *Error) ErrorType() string {
	_, refused := errors.AsType[smithy.APIError](e.Err)
	switch {
	case errors.Is(e.Kind, ErrNoQueue):
		return "queue_not_found"
	case errors.Is(e.Kind, ErrDenied):
		return "queue_denied"
	case errors.Is(e.Kind, ErrUnavailable):
		return "queue_unavailable"
	case errors.Is(e.Kind, ErrGone):
		return "queue_message_gone"
	case refused:
		return "queue_refused"
	case errors.Is(e.Err, context.DeadlineExceeded):
		return "timeout"
	}
	return "cancelled"
}

func (e *Error) Unwrap() []error {
	if e.Kind == nil {
		return []error{e.Err}
	}
	return []error{e.Kind, e.Err}
}

func wrap(ctx context.Context, op, queue string, err error) error {
	if err == nil {
		return nil
	}
	kind := kindOf(err)
	if ctx.Err() != nil {
		kind, err = nil, errors.Join(context.Cause(ctx), err)
	}
	return &Error{Op: op, Queue: queue, Kind: kind, Err: err}
}

// kindOf translates the SDK's errors: first by the service's code, then by the status, and what has
// neither never was answered.
func kindOf(err error) error {
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		if kind := kindOfCode(api.ErrorCode()); kind != nil {
			return kind
		}
	}
	if answer, ok := errors.AsType[*awshttp.ResponseError](err); ok {
		switch status := answer.HTTPStatusCode(); {
		case status == http.StatusUnauthorized || status == http.StatusForbidden:
			return ErrDenied
		case status >= 500 || status == http.StatusTooManyRequests:
			return ErrUnavailable
		}
		return nil
	}
	if _, ok := errors.AsType[*v4.SigningError](err); ok {
		return ErrDenied
	}
	return ErrUnavailable
}

// kindOfCode knows the codes of SQS that do not follow from the status; both the JSON protocol's names and
// the older ones that x-amzn-query-error carries. Any other code is nil.
func kindOfCode(code string) error {
	switch code {
	case "QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue":
		return ErrNoQueue
	case "MessageNotInflight", "AWS.SimpleQueueService.MessageNotInflight", "ReceiptHandleIsInvalid":
		return ErrGone
	case "AccessDenied", "AccessDeniedException", "InvalidClientTokenId", "UnrecognizedClientException",
		"SignatureDoesNotMatch", "InvalidSignatureException", "IncompleteSignature", "MissingAuthenticationToken",
		"ExpiredToken", "ExpiredTokenException", "OptInRequired", "InvalidSecurity",
		"KMS.AccessDeniedException", "KmsAccessDenied":
		return ErrDenied
	case "RequestThrottled", "ThrottlingException", "Throttling", "OverLimit", "KmsThrottled", "KMS.ThrottlingException",
		"QueueDeletedRecently", "AWS.SimpleQueueService.QueueDeletedRecently":
		return ErrUnavailable
	}
	return nil
}

func invalidParameter(err error) bool {
	api, ok := errors.AsType[smithy.APIError](err)
	return ok && strings.HasPrefix(api.ErrorCode(), "InvalidParameterValue") // or ...Exception
}
