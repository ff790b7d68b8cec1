// Package memstore is an object store in memory that keeps every promise of storage.Bucket: content
// ETags as S3 makes them, conditions decided atomically, a clock of its own.
//
// It is a real implementation and not a mock: it passes the conformance suite that the S3 drivers pass,
// so a test that uses it tests against the contract and not against its author's expectations. It
// is as coarse as S3 where that matters: LastModified and Date are whole seconds, and two
// versions with the same bytes have the same ETag.
package memstore

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"spool/storage"
)

// Options configure a Store; the zero value is ready to use.
type Options struct {
	Clock func() time.Time // the store's clock; nil: time.Now
}

// Store is a bucket in memory. Its methods are safe for concurrent use.
type Store struct {
	clock func() time.Time

	mu      sync.RWMutex
	objects map[string]object
	writes  map[string]int
}

type object struct {
	storage.Object
	body []byte // never changed once stored
}

var (
	_ storage.Bucket  = (*Store)(nil)
	_ storage.Deleter = (*Store)(nil)
)

// New returns an empty Store.
func New(opt Options) *Store {
	if opt.Clock == nil {
		opt.Clock = time.Now
	}
	return &Store{clock: opt.Clock, objects: map[string]object{}, writes: map[string]int{}}
}

// Writes tells how many versions of key were ever stored, deleted ones included. A key that is to be
// written once must never have two, whatever happened.
func (s *Store) Writes(key string) int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.writes[key]
}

// Get opens an object. A range that starts at or after the end fails with KindInvalid, as S3's 416.
func (s *Store) Get(ctx context.Context, key string, opt storage.GetOptions) (io.ReadCloser, storage.Object, error) {
	o, err := s.find(ctx, "get", key)
	if err != nil {
		return nil, storage.Object{}, err
	}
	if opt.IfMatch != "" && opt.IfMatch != o.ETag {
		return nil, storage.Object{}, fail("get", key, storage.KindPrecondition)
	}
	body, err := cut(o.body, opt)
	if err != nil {
		return nil, storage.Object{}, &storage.Error{Op: "get", Key: key, Kind: storage.KindInvalid, Err: err}
	}
	return io.NopCloser(bytes.NewReader(body)), o.Object, nil
}

// Head describes an object.
func (s *Store) Head(ctx context.Context, key string) (storage.Object, error) {
	o, err := s.find(ctx, "head", key)
	return o.Object, err
}

// Put stores a copy of body.
func (s *Store) Put(ctx context.Context, key string, body []byte, opt storage.PutOptions) (storage.Object, error) {
	return s.put(ctx, "put", object{body: bytes.Clone(body), Object: storage.Object{Key: key, ETag: etag(body)}}, opt)
}

// Upload stores what r yields. As in S3, the condition is decided when all is read, and the ETag
// of more than one part is not that of a Put of the same bytes.
func (s *Store) Upload(ctx context.Context, key string, r io.Reader, opt storage.PutOptions) (storage.Object, error) {
	body, err := io.ReadAll(r)
	if err != nil {
		return storage.Object{}, fmt.Errorf("upload %q: read source: %w", key, err)
	}
	if opt.Size > 0 && opt.Size != int64(len(body)) {
		err := fmt.Errorf("source has %d bytes, %d were announced", len(body), opt.Size)
		return storage.Object{}, &storage.Error{Op: "upload", Key: key, Kind: storage.KindInvalid, Err: err}
	}
	return s.put(ctx, "upload", object{body: body, Object: storage.Object{Key: key, ETag: uploadETag(body)}}, opt)
}

// List yields the objects there were when it began, in the order of their keys.
func (s *Store) List(ctx context.Context, prefix, startAfter string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		for _, o := range s.listed(prefix, startAfter) {
			if ctx.Err() != nil {
				break
			}
			if !yield(o, nil) {
				return
			}
		}
		if err := ctx.Err(); err != nil {
			yield(storage.Object{}, fmt.Errorf("list %q: %w", prefix, err))
		}
	}
}

// Delete removes an object, if there is one.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("delete %q: %w", key, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.objects, key)
	return nil
}

func (s *Store) find(ctx context.Context, op, key string) (object, error) {
	if err := ctx.Err(); err != nil {
		return object{}, fmt.Errorf("%s %q: %w", op, key, err)
	}
	s.mu.RLock()
	o, ok := s.objects[key]
	s.mu.RUnlock()
	if !ok {
		return object{}, fail(op, key, storage.KindNotFound)
	}
	o.Metadata = maps.Clone(o.Metadata)
	o.Date = s.now()
	return o, nil
}

func (s *Store) put(ctx context.Context, op string, o object, opt storage.PutOptions) (storage.Object, error) {
	if err := ctx.Err(); err != nil {
		return storage.Object{}, fmt.Errorf("%s %q: %w", op, o.Key, err)
	}
	if o.Key == "" {
		return storage.Object{}, fail(op, o.Key, storage.KindInvalid)
	}
	o.Size = int64(len(o.body))
	o.Metadata = make(map[string]string, len(opt.Metadata))
	for k, v := range opt.Metadata {
		o.Metadata[strings.ToLower(k)] = v
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.objects[o.Key]; opt.Cond.IfAbsent && ok || opt.Cond.IfMatch != "" && opt.Cond.IfMatch != old.ETag {
		return storage.Object{}, fail(op, o.Key, storage.KindPrecondition)
	}
	o.LastModified = s.now() // under the lock, so that versions and times have the same order
	s.objects[o.Key] = o
	s.writes[o.Key]++
	return storage.Object{Key: o.Key, Size: o.Size, ETag: o.ETag}, nil
}

func (s *Store) listed(prefix, startAfter string) []storage.Object {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []storage.Object
	for key, o := range s.objects {
		if strings.HasPrefix(key, prefix) && key > startAfter {
			o.Metadata = nil
			out = append(out, o.Object)
		}
	}
	slices.SortFunc(out, func(a, b storage.Object) int { return strings.Compare(a.Key, b.Key) })
	return out
}

// now is the store's time as HTTP tells it, in whole seconds.
func (s *Store) now() time.Time { return s.clock().UTC().Truncate(time.Second) }

var errRange = errors.New("range not satisfiable")

func cut(body []byte, opt storage.GetOptions) ([]byte, error) {
	size := int64(len(body))
	if opt.Offset < 0 || opt.Length < 0 || opt.Offset >= size && (opt.Offset > 0 || opt.Length > 0) {
		return nil, errRange
	}
	end := size
	if opt.Length > 0 {
		end = opt.Offset + min(opt.Length, size-opt.Offset)
	}
	return body[opt.Offset:end], nil
}

// etag is S3's ETag of a plain PUT: the MD5 of the content.
func etag(body []byte) string {
	sum := md5.Sum(body)
	return hex.EncodeToString(sum[:])
}

// uploadETag is S3's ETag of a multipart upload: the MD5 of the parts' MD5s, and their number.
func uploadETag(body []byte) string {
	if len(body) <= storage.PartSize {
		return etag(body)
	}
	var sums []byte
	for part := range slices.Chunk(body, storage.PartSize) {
		sum := md5.Sum(part)
		sums = append(sums, sum[:]...)
	}
	return fmt.Sprintf("%s-%d", etag(sums), len(sums)/md5.Size)
}

func fail(op, key string, kind storage.Kind) error {
	return &storage.Error{Op: op, Key: key, Kind: kind}
}
