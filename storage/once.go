package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"

	"github.com/google/uuid"
)

// PutIDKey is the metadata key that carries the put id: no separators, since some stores mangle them.
const PutIDKey = "putid"

// Stored is the outcome of PutOnce, UploadOnce and Swap: the object that the key holds now.
type Stored struct {
	Object
	Mine bool // this call wrote it; false: somebody else's write stands, read it and adopt it
}

// Source opens the bytes to be written; it is called once a try, and must yield the same each time.
// What it returns is not closed.
type Source func() (io.Reader, error)

// PutOnce creates key with body unless it exists, and tells for certain whose object stands there:
// every write carries a fresh put id in its metadata, and whenever the store's answer is not a plain
// success the id is read back. A 412 may thus turn out to be this call's own success, whose reply
// was lost; a 409 asks again. It may be called by any number of processes at once, and again after an
// error. An error means that the outcome is unknown: the write may still land, which is harmless,
// since it is conditional.
func PutOnce(ctx context.Context, b Bucket, key string, body []byte, opt PutOptions) (Stored, error) {
	w := newWrite(b, key, "", opt)
	return w.settle(ctx, func() (Object, error) { return b.Put(ctx, key, body, w.opt) })
}

// UploadOnce is PutOnce for what may be large. An error of src, or of what it opens, ends it at once.
func UploadOnce(ctx context.Context, b Bucket, key string, src Source, opt PutOptions) (Stored, error) {
	w := newWrite(b, key, "", opt)
	return w.settle(ctx, func() (Object, error) {
		r, err := src()
		if err != nil {
			return Object{}, &sourceError{fmt.Errorf("open source of %q: %w", key, err)}
		}
		watched := &sourceReader{r: r}
		obj, err := b.Upload(ctx, key, watched, w.opt)
		if err != nil && watched.failed {
			err = &sourceError{err}
		}
		return obj, err
	})
}

// Swap replaces the version etag of key by body, or creates it if etag is "". The put id settles lost
// replies as in PutOnce. If somebody else was faster, Stored describes their version, Mine is false;
// a key that vanished gives an error of KindNotFound. Two versions with the same bytes may have the
// same ETag: a body that must not be mistaken for another needs a nonce of its own.
func Swap(ctx context.Context, b Bucket, key, etag string, body []byte) (Stored, error) {
	w := newWrite(b, key, etag, PutOptions{})
	return w.settle(ctx, func() (Object, error) { return b.Put(ctx, key, body, w.opt) })
}

// onceTries bounds the tries of a conditional write. A turn needs a 409, a key that vanished after a
// 412, or an outcome that even the retry layer below could not get, so 8 is plenty.
const onceTries = 8

// write is a conditional write in the making; its put id stays the same over all tries, so that it does
// not matter which of them landed.
type write struct {
	b    Bucket
	key  string
	etag string // the version to be replaced; "" for none
	opt  PutOptions
}

func newWrite(b Bucket, key, etag string, opt PutOptions) write {
	opt.Cond = Cond{IfAbsent: etag == "", IfMatch: etag}
	opt.Metadata = withID(opt.Metadata, uuid.NewString())
	return write{b, key, etag, opt}
}

// settle calls put until it is known whose object stands at the key.
func (w write) settle(ctx context.Context, put func() (Object, error)) (Stored, error) {
	pause := Retry{}.withDefaults()
	for try := 1; ; try++ {
		obj, err := put()
		if err == nil {
			obj.Metadata = w.opt.Metadata
			return Stored{Object: obj, Mine: true}, nil
		}
		if final(err) || ctx.Err() != nil {
			return Stored{}, err
		}
		stored, settled, readErr := w.readBack(ctx)
		if readErr != nil {
			return Stored{}, fmt.Errorf("read back: %w, after %v", readErr, err)
		}
		if settled {
			return stored, nil
		}
		if try == onceTries {
			return Stored{}, fmt.Errorf("no outcome after %d tries: %w", try, err)
		}
		if stop := pause.wait(ctx, try); stop != nil {
			return Stored{}, fmt.Errorf("put %q: %w, after %v", w.key, stop, err)
		}
	}
}

// readBack looks whose object stands at the key. It settles nothing if the key is as it was before.
func (w write) readBack(ctx context.Context) (stored Stored, settled bool, err error) {
	obj, err := w.b.Head(ctx, w.key)
	switch {
	case IsNotFound(err) && w.etag == "":
		return Stored{}, false, nil
	case err != nil:
		return Stored{}, false, err
	case obj.Metadata[PutIDKey] == w.opt.Metadata[PutIDKey]:
		return Stored{Object: obj, Mine: true}, true, nil
	case w.etag != "" && obj.ETag == w.etag:
		return Stored{}, false, nil
	default:
		return Stored{Object: obj}, true, nil
	}
}

// final reports whether trying again is of no use. KindNotFound says that the bucket is absent, or the
// key that Swap was to replace.
func final(err error) bool {
	if _, ok := errors.AsType[*sourceError](err); ok {
		return true
	}
	k := KindOf(err)
	return k == KindDenied || k == KindInvalid || k == KindNotFound
}

// sourceError marks an error of the caller's own data.
type sourceError struct{ error }

func (e *sourceError) Unwrap() error { return e.error }

// sourceReader remembers whether its reader failed.
type sourceReader struct {
	r      io.Reader
	failed bool
}

func (s *sourceReader) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.failed = true
	}
	return n, err
}

// ReadAll gets a whole small object.
func ReadAll(ctx context.Context, b Bucket, key string) ([]byte, Object, error) {
	r, obj, err := b.Get(ctx, key, GetOptions{})
	if err != nil {
		return nil, Object{}, err
	}
	defer r.Close()
	var buf bytes.Buffer
	buf.Grow(int(obj.Size))
	n, err := buf.ReadFrom(r)
	if err == nil && n != obj.Size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, Object{}, fmt.Errorf("read %q: %w", key, err)
	}
	return buf.Bytes(), obj, nil
}

func withID(meta map[string]string, id string) map[string]string {
	out := make(map[string]string, len(meta)+1)
	maps.Copy(out, meta)
	out[PutIDKey] = id
	return out
}
