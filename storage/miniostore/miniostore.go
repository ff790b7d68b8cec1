// Package miniostore is a storage.Bucket on minio-go: a second, independent S3 client, which holds the
// conformance suite honest, and the better client for some stores.
//
// It uses the low-level Core API, one request a call, and none of minio-go's retries. Bodies are not
// hashed for the signature, and no trailing checksums are sent: over plain HTTP versitygw refuses
// them, and gofakes3 stores the framing as content. Requests are signed by this machine's clock, which must
// be right to 15 min; s3store learns the store's.
package miniostore

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/s3utils"

	"spool/storage"
	"spool/storage/internal/s3wire"
)

// Config says which bucket to use and how; it is that of s3store, with two differences: where that
// sends CRC32, this sends Content-MD5, and does not verify what it reads; of HTTPClient only the Transport is used.
type Config = s3wire.Config

// Store is a bucket of S3 or of a store that speaks its protocol. Its methods are safe for concurrent use.
type Store struct {
	core   *minio.Core
	bucket string
	retry  storage.Retry
	md5    bool
}

var (
	_ storage.Bucket  = (*Store)(nil)
	_ storage.Deleter = (*Store)(nil)
)

// awsHost is where minio-go finds the endpoint of the region by itself.
const awsHost = "s3.amazonaws.com"

// New returns a Store. It reads the AWS configuration and retrieves credentials, but does not ask the bucket.
func New(ctx context.Context, cfg Config) (*Store, error) {
	r, err := s3wire.Resolve(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("configure miniostore: %w", err)
	}
	host, secure := awsHost, true
	if r.Endpoint != nil {
		host, secure = r.Endpoint.Host, !r.PlainHTTP()
	}
	lookup := minio.BucketLookupDNS
	if r.PathStyle {
		lookup = minio.BucketLookupPath
	}
	core, err := minio.NewCore(host, &minio.Options{
		Creds:        credentials.New(&provider{from: r.AWS.Credentials}),
		Secure:       secure,
		Transport:    r.HTTPClient.Transport,
		Region:       r.AWS.Region,
		BucketLookup: lookup,
		MaxRetries:   1,
	})
	if err != nil {
		return nil, fmt.Errorf("configure miniostore: %w", err)
	}
	return &Store{core: core, bucket: cfg.Bucket, retry: cfg.Retry, md5: r.CRC32}, nil
}

// Get opens an object.
func (s *Store) Get(ctx context.Context, key string, opt storage.GetOptions) (io.ReadCloser, storage.Object, error) {
	if err := s3wire.CheckRange(key, opt); err != nil {
		return nil, storage.Object{}, err
	}
	var o minio.GetObjectOptions
	if r := s3wire.Range(opt); r != "" {
		o.Set("Range", r)
	}
	if opt.IfMatch != "" {
		o.Set("If-Match", `"`+opt.IfMatch+`"`)
	}
	body, info, header, err := s.core.GetObject(ctx, s.bucket, key, o)
	if err != nil {
		return nil, storage.Object{}, failure(ctx, "get", key, err)
	}
	obj := object(key, info)
	if obj.Size, err = s3wire.FullSize(header.Get("Content-Range"), info.Size); err != nil {
		return nil, storage.Object{}, failure(ctx, "get", key, fmt.Errorf("%w (close: %v)", err, body.Close()))
	}
	return body, obj, nil
}

// Head describes an object.
func (s *Store) Head(ctx context.Context, key string) (storage.Object, error) {
	info, err := s.core.StatObject(ctx, s.bucket, key, minio.StatObjectOptions{})
	if err != nil {
		return storage.Object{}, failure(ctx, "head", key, err)
	}
	obj := object(key, info)
	if obj.Size, err = s3wire.FullSize("", info.Size); err != nil {
		return storage.Object{}, failure(ctx, "head", key, err)
	}
	return obj, nil
}

// Put stores body in one request.
func (s *Store) Put(ctx context.Context, key string, body []byte, opt storage.PutOptions) (storage.Object, error) {
	if err := s3utils.CheckValidObjectName(key); err != nil { // the SDK's error has no kind
		return storage.Object{}, &storage.Error{Op: "put", Key: key, Kind: storage.KindInvalid, Err: err}
	}
	o := putOptions(opt)
	o.DisableContentSha256 = true
	info, err := s.core.PutObject(ctx, s.bucket, key, bytes.NewReader(body), int64(len(body)), s.contentMD5(body), "", o)
	if err != nil {
		return storage.Object{}, failure(ctx, "put", key, err)
	}
	return storage.Object{Key: key, Size: int64(len(body)), ETag: info.ETag}, nil
}

// Upload stores what r yields. Its requests are repeated as Config.Retry says.
func (s *Store) Upload(ctx context.Context, key string, r io.Reader, opt storage.PutOptions) (storage.Object, error) {
	return storage.Uploader{Parts: parts{s}, Retry: s.retry}.Upload(ctx, key, r, opt)
}

// List yields objects, page by page.
func (s *Store) List(ctx context.Context, prefix, startAfter string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		o := minio.ListObjectsOptions{Prefix: prefix, StartAfter: startAfter, Recursive: true, FetchOwner: new(bool)}
		for info := range s.core.ListObjectsIter(ctx, s.bucket, o) {
			if info.Err != nil {
				yield(storage.Object{}, failure(ctx, "list", prefix, info.Err))
				return
			}
			obj := storage.Object{Key: info.Key, Size: info.Size, ETag: info.ETag, LastModified: info.LastModified}
			if !yield(obj, nil) {
				return
			}
		}
		if ctx.Err() != nil { // minio-go ends a listing that was cancelled as if it were complete
			yield(storage.Object{}, failure(ctx, "list", prefix, ctx.Err()))
		}
	}
}

// Delete removes an object, if there is one.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := s.core.RemoveObject(ctx, s.bucket, key, minio.RemoveObjectOptions{}); err != nil {
		return failure(ctx, "delete", key, err)
	}
	return nil
}

func object(key string, info minio.ObjectInfo) storage.Object {
	return storage.Object{
		Key:          key,
		Size:         info.Size,
		ETag:         info.ETag,
		LastModified: info.LastModified,
		Metadata:     s3wire.Metadata(info.UserMetadata),
		Date:         s3wire.Date(info.Headers.Get("Date")),
	}
}

func putOptions(opt storage.PutOptions) minio.PutObjectOptions {
	o := minio.PutObjectOptions{ContentType: opt.ContentType, UserMetadata: opt.Metadata}
	conditions(&o, opt.Cond)
	return o
}

func conditions(o *minio.PutObjectOptions, c storage.Cond) {
	if c.IfAbsent {
		o.SetMatchETagExcept("*")
	}
	if c.IfMatch != "" {
		o.SetMatchETag(c.IfMatch)
	}
}

func (s *Store) contentMD5(body []byte) string {
	if !s.md5 {
		return ""
	}
	sum := md5.Sum(body)
	return base64.StdEncoding.EncodeToString(sum[:])
}

// failure is the one place where errors of the SDK become errors of storage.
func failure(ctx context.Context, op, key string, err error) error {
	f := s3wire.Failure{Op: op, Key: key, Err: err}
	if e, ok := errors.AsType[minio.ErrorResponse](err); ok {
		f.Status, f.Code = e.StatusCode, e.Code
	}
	return f.Error(ctx)
}
