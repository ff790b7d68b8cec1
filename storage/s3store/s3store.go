// Package s3store is a storage.Bucket on aws-sdk-go-v2, the default driver.
//
// It makes single requests: the SDK's own retries are off, since two layers of retries multiply. The
// SDK's upload managers are not used: feature/s3/manager is deprecated, and its successor cannot make
// parts of equal size from a reader without holding several of them.
package s3store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/logging"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"spool/storage"
	"spool/storage/internal/s3wire"
)

// Config says which bucket to use and how.
type Config = s3wire.Config

// Store is a bucket of S3 or of a store that speaks its protocol. Its methods are safe for concurrent use.
type Store struct {
	client  *s3.Client
	bucket  string
	retry   storage.Retry
	crc32   bool
	aws     bool                // AWS itself, not a custom endpoint
	sendOpt []func(*s3.Options) // of requests with an object in their body
}

var (
	_ storage.Bucket  = (*Store)(nil)
	_ storage.Deleter = (*Store)(nil)
)

// New returns a Store. It reads the AWS configuration and retrieves credentials, but does not ask the bucket.
func New(ctx context.Context, cfg Config) (*Store, error) {
	r, err := s3wire.Resolve(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("configure s3store: %w", err)
	}
	client := s3.NewFromConfig(r.AWS, func(o *s3.Options) {
		o.Retryer = aws.NopRetryer{}
		o.HTTPClient = r.HTTPClient
		o.UsePathStyle = r.PathStyle
		o.Logger = logging.Nop{}
		o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
		o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
		if r.CRC32 {
			o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenSupported
			o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenSupported
		}
		if r.Endpoint != nil {
			o.BaseEndpoint = aws.String(r.Endpoint.String())
		}
	})
	s := &Store{client: client, bucket: cfg.Bucket, retry: cfg.Retry, crc32: r.CRC32, aws: r.Endpoint == nil}
	if r.PlainHTTP() {
		// Without TLS the SDK signs a SHA-256 of each body, which costs more than sending it. What
		// protects the body there is TCP, as it does the answers.
		s.sendOpt = append(s.sendOpt, s3.WithAPIOptions(v4.SwapComputePayloadSHA256ForUnsignedPayloadMiddleware))
	}
	return s, nil
}

// Get opens an object.
func (s *Store) Get(ctx context.Context, key string, opt storage.GetOptions) (io.ReadCloser, storage.Object, error) {
	if err := s3wire.CheckRange(key, opt); err != nil {
		return nil, storage.Object{}, err
	}
	out, err := s.client.GetObject(ctx, &s3.GetObjectInput{
		Bucket: &s.bucket, Key: &key,
		Range:   optional(s3wire.Range(opt)),
		IfMatch: quoted(opt.IfMatch),
	})
	if err != nil {
		return nil, storage.Object{}, failure(ctx, "get", key, err)
	}
	size, err := s3wire.FullSize(aws.ToString(out.ContentRange), length(out.ContentLength))
	if err != nil {
		return nil, storage.Object{}, failure(ctx, "get", key, fmt.Errorf("%w (close: %v)", err, out.Body.Close()))
	}
	return out.Body, storage.Object{
		Key:          key,
		Size:         size,
		ETag:         s3wire.ETag(aws.ToString(out.ETag)),
		LastModified: aws.ToTime(out.LastModified),
		Metadata:     s3wire.Metadata(out.Metadata),
		Date:         s3wire.Date(header(out.ResultMetadata, "Date")),
	}, nil
}

// Head describes an object.
func (s *Store) Head(ctx context.Context, key string) (storage.Object, error) {
	out, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.bucket, Key: &key})
	if err != nil {
		return storage.Object{}, failure(ctx, "head", key, err)
	}
	size, err := s3wire.FullSize("", length(out.ContentLength))
	if err != nil {
		return storage.Object{}, failure(ctx, "head", key, err)
	}
	return storage.Object{
		Key:          key,
		Size:         size,
		ETag:         s3wire.ETag(aws.ToString(out.ETag)),
		LastModified: aws.ToTime(out.LastModified),
		Metadata:     s3wire.Metadata(out.Metadata),
		Date:         s3wire.Date(header(out.ResultMetadata, "Date")),
	}, nil
}

// Put stores body in one request.
func (s *Store) Put(ctx context.Context, key string, body []byte, opt storage.PutOptions) (storage.Object, error) {
	out, err := s.client.PutObject(ctx, &s3.PutObjectInput{
		Bucket: &s.bucket, Key: &key,
		Body:          bytes.NewReader(body),
		ContentLength: aws.Int64(int64(len(body))),
		ContentType:   optional(opt.ContentType),
		Metadata:      opt.Metadata,
		IfMatch:       quoted(opt.Cond.IfMatch),
		IfNoneMatch:   absent(opt.Cond),
	}, s.sendOpt...)
	if err != nil {
		return storage.Object{}, failure(ctx, "put", key, err)
	}
	return storage.Object{Key: key, Size: int64(len(body)), ETag: s3wire.ETag(aws.ToString(out.ETag))}, nil
}

// Upload stores what r yields. Its requests are repeated as Config.Retry says.
func (s *Store) Upload(ctx context.Context, key string, r io.Reader, opt storage.PutOptions) (storage.Object, error) {
	return storage.Uploader{Parts: parts{s}, Retry: s.retry}.Upload(ctx, key, r, opt)
}

// List yields objects, page by page. Keys are asked for in URL encoding, since XML has no place for some
// characters, and one such key would make its page unreadable; versitygw, for one, does not heed that.
func (s *Store) List(ctx context.Context, prefix, startAfter string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		in := &s3.ListObjectsV2Input{
			Bucket: &s.bucket, Prefix: &prefix, StartAfter: optional(startAfter),
			EncodingType: types.EncodingTypeUrl,
		}
		for more := true; more; {
			out, err := s.client.ListObjectsV2(ctx, in)
			if err != nil {
				yield(storage.Object{}, failure(ctx, "list", prefix, err))
				return
			}
			for _, o := range out.Contents {
				obj, err := listed(o, out.EncodingType)
				if err != nil {
					err = failure(ctx, "list", prefix, err)
				}
				if !yield(obj, err) || err != nil {
					return
				}
			}
			in.ContinuationToken = out.NextContinuationToken
			more = aws.ToBool(out.IsTruncated)
			if more && in.ContinuationToken == nil {
				yield(storage.Object{}, failure(ctx, "list", prefix, errors.New("a page says that it is not the last, but not what follows")))
				return
			}
		}
	}
}

func listed(o types.Object, encoding types.EncodingType) (storage.Object, error) {
	key := aws.ToString(o.Key)
	if encoding == types.EncodingTypeUrl {
		var err error
		if key, err = url.QueryUnescape(key); err != nil {
			return storage.Object{}, fmt.Errorf("decode listed key: %w", err)
		}
	}
	return storage.Object{
		Key:          key,
		Size:         aws.ToInt64(o.Size),
		ETag:         s3wire.ETag(aws.ToString(o.ETag)),
		LastModified: aws.ToTime(o.LastModified),
	}, nil
}

// Delete removes an object, if there is one.
func (s *Store) Delete(ctx context.Context, key string) error {
	if _, err := s.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &s.bucket, Key: &key}); err != nil {
		return failure(ctx, "delete", key, err)
	}
	return nil
}

// failure is the one place where errors of the SDK become errors of storage.
func failure(ctx context.Context, op, key string, err error) error {
	f := s3wire.Failure{Op: op, Key: key, Err: err}
	if e, ok := errors.AsType[*smithyhttp.ResponseError](err); ok {
		f.Status = e.HTTPStatusCode()
		f.Skewed = f.Status == http.StatusForbidden && skewed(e.Response)
	}
	if e, ok := errors.AsType[smithy.APIError](err); ok {
		f.Code = e.ErrorCode()
	}
	return f.Error(ctx)
}

// mostSkew is far below the 15 min at which S3 refuses a request (API reference, RequestTimeTooSkewed).
const mostSkew = 5 * time.Minute

// skewed reports whether a request was signed by a clock that is far from the store's. The SDK remembers the
// difference of every answer, so the next request is signed in time. The code of the error is not
// asked, since the answer to HEAD has none.
func skewed(resp *smithyhttp.Response) bool {
	if resp == nil || resp.Response == nil || resp.Request == nil {
		return false
	}
	signed, err := time.Parse("20060102T150405Z", resp.Request.Header.Get("X-Amz-Date"))
	date := s3wire.Date(resp.Header.Get("Date"))
	return err == nil && !date.IsZero() && date.Sub(signed).Abs() > mostSkew
}

// header is a header of the answer that the SDK does not hand out.
func header(meta middleware.Metadata, name string) string {
	if resp, ok := awsmiddleware.GetRawResponse(meta).(*smithyhttp.Response); ok {
		return resp.Header.Get(name)
	}
	return ""
}

// length is a Content-Length, -1 if there is none.
func length(n *int64) int64 {
	if n == nil {
		return -1
	}
	return *n
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func quoted(etag string) *string {
	if etag == "" {
		return nil
	}
	return aws.String(`"` + etag + `"`)
}

func absent(c storage.Cond) *string {
	if !c.IfAbsent {
		return nil
	}
	return aws.String("*")
}
