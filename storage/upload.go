package storage

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"time"
)

// partsAimed is the most parts an upload of known length is cut into, for some air below MaxParts.
const partsAimed = 9_500

// Part is a part of a multipart upload as the store acknowledged it.
type Part struct {
	Number   int    // from 1
	ETag     string // without quotes
	Checksum string // of the store's default kind, if the upload was begun with it; else ""
}

// PartUpload names a multipart upload that is under way.
type PartUpload struct{ Key, ID string }

// PartWriter is what Uploader needs of an S3 driver: single requests, no retries, errors translated.
type PartWriter interface {
	Put(ctx context.Context, key string, body []byte, opt PutOptions) (Object, error)
	CreateUpload(ctx context.Context, key string, opt PutOptions) (PartUpload, error)
	UploadPart(ctx context.Context, up PartUpload, number int, body []byte) (Part, error)
	// CompleteUpload makes the object of the parts, size bytes in all, under opt.Cond. A store that no
	// longer knows the upload gives KindUnknown: an earlier try may have completed it.
	CompleteUpload(ctx context.Context, up PartUpload, parts []Part, size int64, opt PutOptions) (Object, error)
	AbortUpload(ctx context.Context, up PartUpload) error
}

// Uploader is Bucket.Upload for the S3 drivers. It repeats the requests of an upload, not the upload.
type Uploader struct {
	Parts PartWriter
	Retry Retry
}

// Time-outs of requests that are unlike the others.
const (
	// AWS may work on a completion for minutes (API reference, CompleteMultipartUpload), versitygw
	// copies at about 5 s a GiB; completeTimeout comes on top of a second a part.
	completeTimeout = 5 * time.Minute
	abortTimeout    = 15 * time.Second
)

// Upload stores what r yields under the contract of Bucket.Upload. Up to one part is a single
// conditional Put. The whole upload is to be made again after KindConflict, which a store answers
// to a completion (with 409) that raced with another write.
//
// The parts of an upload whose completion has an unknown outcome are not aborted: nothing is
// cleaned up that may have become an object. A lifecycle rule ends such uploads.
func (u Uploader) Upload(ctx context.Context, key string, r io.Reader, opt PutOptions) (Object, error) {
	u.Retry = u.Retry.withDefaults()
	size, err := partSize(key, opt)
	if err != nil {
		return Object{}, err
	}
	src := &source{key: key, size: size, announced: opt.Size, r: bufio.NewReader(r)}
	body, err := src.next()
	if err != nil {
		return Object{}, err
	}
	if src.last {
		return u.put(ctx, key, body, opt)
	}
	up, err := u.create(ctx, key, opt)
	if err != nil {
		return Object{}, err
	}
	parts, err := u.send(ctx, up, body, src)
	if err == nil && ctx.Err() != nil {
		err = fmt.Errorf("upload %q: %w", key, ctx.Err())
	}
	if err != nil {
		u.abort(ctx, up)
		return Object{}, err
	}
	obj, err := u.complete(ctx, up, parts, src.total, opt)
	if decided(err) {
		u.abort(ctx, up)
	}
	return obj, err
}

func (u Uploader) put(ctx context.Context, key string, body []byte, opt PutOptions) (obj Object, err error) {
	err = u.Retry.do(ctx, call{"upload", key, u.Retry.sendTimeout(len(body))}, func(ctx context.Context) error {
		obj, err = u.Parts.Put(ctx, key, body, opt)
		return err
	})
	return obj, err
}

func (u Uploader) create(ctx context.Context, key string, opt PutOptions) (up PartUpload, err error) {
	err = u.Retry.do(ctx, call{"upload", key, u.Retry.Timeout}, func(ctx context.Context) error {
		up, err = u.Parts.CreateUpload(ctx, key, opt)
		return err
	})
	return up, err
}

// send uploads body and what follows it in src.
func (u Uploader) send(ctx context.Context, up PartUpload, body []byte, src *source) ([]Part, error) {
	var parts []Part
	for {
		var part Part
		err := u.Retry.do(ctx, call{"upload", up.Key, u.Retry.sendTimeout(len(body))}, func(ctx context.Context) (err error) {
			part, err = u.Parts.UploadPart(ctx, up, len(parts)+1, body)
			return err
		})
		if err != nil {
			return nil, err
		}
		parts = append(parts, part)
		if src.last {
			return parts, nil
		}
		if len(parts) == MaxParts {
			return nil, src.invalid("source exceeds %d parts of %d bytes: announce its size", MaxParts, src.size)
		}
		if body, err = src.next(); err != nil {
			return nil, err
		}
	}
}

// complete repeats the completion when the store is unavailable, but not after a conflict: then the
// upload may be gone (API reference, CompleteMultipartUpload, 409), and all parts are to be sent again.
func (u Uploader) complete(ctx context.Context, up PartUpload, parts []Part, size int64, opt PutOptions) (obj Object, err error) {
	timeout := max(u.Retry.Timeout, completeTimeout) + time.Duration(len(parts))*time.Second
	var conflict error
	err = u.Retry.do(ctx, call{"upload", up.Key, timeout}, func(ctx context.Context) error {
		obj, err = u.Parts.CompleteUpload(ctx, up, parts, size, opt)
		if KindOf(err) == KindConflict {
			conflict = err
			return nil
		}
		return err
	})
	if conflict != nil {
		return Object{}, conflict
	}
	return obj, err
}

// decided reports whether err says that this completion did not happen. If an earlier try of it did, there
// is nothing left to abort.
func decided(err error) bool {
	switch KindOf(err) {
	case KindPrecondition, KindConflict, KindDenied, KindInvalid, KindNotFound:
		return true
	default:
		return false
	}
}

// abort frees the parts, in vain or not: the upload has failed already, and its error tells why.
func (u Uploader) abort(ctx context.Context, up PartUpload) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTimeout)
	defer cancel()
	_ = u.Retry.do(ctx, call{"upload", up.Key, u.Retry.Timeout}, func(ctx context.Context) error {
		return u.Parts.AbortUpload(ctx, up)
	})
}

// partSize is the size of all parts but the last.
func partSize(key string, opt PutOptions) (int64, error) {
	size := int64(PartSize)
	if opt.PartSize != 0 {
		size = opt.PartSize
	}
	if size < MinPartSize || opt.Size < 0 {
		err := fmt.Errorf("part size %d, size %d: parts have at least %d bytes", size, opt.Size, MinPartSize)
		return 0, &Error{Op: "upload", Key: key, Kind: KindInvalid, Err: err}
	}
	const mib = 1 << 20
	if need := (opt.Size + partsAimed - 1) / partsAimed; need > size {
		size = (need + mib - 1) / mib * mib
	}
	return size, nil
}

// source cuts a reader into parts. It holds one at a time, in a buffer that grows with what is read.
type source struct {
	key       string
	size      int64 // of a part
	announced int64 // length of all, 0: not known
	r         *bufio.Reader
	buf       []byte
	total     int64 // read so far
	last      bool  // the part that next returned is the last one
}

const firstBuffer = 64 << 10

// next reads a part into the buffer of the one before. Only the first part can be empty.
func (s *source) next() ([]byte, error) {
	if s.buf == nil {
		s.buf = make([]byte, 0, min(s.size, max(s.announced, firstBuffer)))
	}
	s.buf = s.buf[:0]
	for !s.last && int64(len(s.buf)) < s.size {
		if len(s.buf) == cap(s.buf) {
			s.buf = append(make([]byte, 0, min(s.size, 2*int64(cap(s.buf)))), s.buf...)
		}
		n, err := s.r.Read(s.buf[len(s.buf):cap(s.buf)]) // not io.ReadFull, which hides a source's own io.ErrUnexpectedEOF
		s.buf = s.buf[:len(s.buf)+n]
		if err := s.note(err); err != nil {
			return nil, err
		}
	}
	s.total += int64(len(s.buf))
	if !s.last {
		_, err := s.r.Peek(1)
		if err := s.note(err); err != nil {
			return nil, err
		}
	}
	if s.announced > 0 && (s.total > s.announced || s.last && s.total != s.announced) {
		return nil, s.invalid("source has %d bytes or more, %d were announced", s.total, s.announced)
	}
	return s.buf, nil
}

// note marks the end of the source, and wraps its other errors.
func (s *source) note(err error) error {
	if err == nil || err == io.EOF {
		s.last = err == io.EOF
		return nil
	}
	return fmt.Errorf("upload %q: read source: %w", s.key, err)
}

func (s *source) invalid(format string, args ...any) error {
	return &Error{Op: "upload", Key: s.key, Kind: KindInvalid, Err: fmt.Errorf(format, args...)}
}
