package s3wire

import (
	"context"
	"crypto/tls"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"

	"github.com/aws/smithy-go"

	"spool/storage"
)

// Failure is what an SDK says about a request that failed.
type Failure struct {
	Op, Key string
	Status  int    // of the HTTP answer, 0 if there was none
	Code    string // S3's error code, "" if there was none
	Skewed  bool   // refused for the time at which it was signed, and the SDK signs the next by the store's clock
	Err     error  // the SDK's error
}

// Error makes a storage.Error of f, or wraps the error of ctx if that is over.
func (f Failure) Error(ctx context.Context) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s %q: %w", f.Op, f.Key, ctx.Err())
	}
	return &storage.Error{Op: f.Op, Key: f.Key, Kind: f.kind(), Err: f.Err}
}

// kind goes from the particular to the general: the code, which may come with status 200
// (CompleteMultipartUpload), then the status, then what the transport says.
func (f Failure) kind() storage.Kind {
	if f.Skewed {
		return storage.KindUnavailable
	}
	if k, ok := kindOfCode(f.Code); ok {
		return k
	}
	switch f.Status {
	case http.StatusNotFound:
		return storage.KindNotFound
	case http.StatusPreconditionFailed:
		return storage.KindPrecondition
	case http.StatusConflict:
		return storage.KindConflict
	case http.StatusUnauthorized, http.StatusForbidden:
		return storage.KindDenied
	case http.StatusRequestTimeout, http.StatusTooManyRequests:
		return storage.KindUnavailable
	case http.StatusNotImplemented:
		return storage.KindInvalid
	}
	switch {
	case f.Status >= 500:
		return storage.KindUnavailable
	case f.Status >= 300:
		return storage.KindInvalid
	default:
		return kindOfTransport(f.Err)
	}
}

// kindOfCode knows the codes that say more than their status, and those that come with HTTP 200. Source:
// Amazon S3 API Reference, "Error responses"; ObjectParentIsFile and XAdminUserNotFound are versitygw's, SlowDownRead MinIO's.
func kindOfCode(code string) (storage.Kind, bool) {
	switch code {
	case "NoSuchUpload": // never was, or was completed by a try whose reply was lost
		return storage.KindUnknown, true
	case "NoSuchKey", "NoSuchBucket":
		return storage.KindNotFound, true
	case "PreconditionFailed":
		return storage.KindPrecondition, true
	case "ConditionalRequestConflict", "OperationAborted":
		return storage.KindConflict, true
	case "ObjectParentIsFile", "NotImplemented": // 409 and 501, but for good
		return storage.KindInvalid, true
	case "AccessDenied", "ExpiredToken", "InvalidToken", "TokenRefreshRequired", // 403, and 400
		"XAdminUserNotFound": // 404: an access key that versitygw does not know
		return storage.KindDenied, true
	case "RequestTimeout", "IncompleteBody", "BadDigest", // 400, but damage on the way
		"InternalError", "ServiceUnavailable", "SlowDown", "SlowDownRead", "SlowDownWrite",
		"Throttling", "ThrottlingException", "RequestLimitExceeded", "RequestThrottled":
		return storage.KindUnavailable, true
	default:
		return 0, false
	}
}

// kindOfTransport judges a request without an answer, or with half of one.
func kindOfTransport(err error) storage.Kind {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return storage.KindDenied
	}
	_, isURL := errors.AsType[*url.Error](err)
	_, isNet := errors.AsType[net.Error](err)
	_, isXML := errors.AsType[*xml.SyntaxError](err)             // half an answer, says minio-go
	_, isSDK := errors.AsType[*smithy.DeserializationError](err) // half an answer, says the AWS SDK
	if isURL || isNet || isXML || isSDK || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return storage.KindUnavailable
	}
	return storage.KindUnknown
}
