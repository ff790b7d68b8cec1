// Package storage is the object store as spool needs it: one interface of five calls, a handful of error
// kinds that callers act on, one retry layer, and the two primitives on which the commit protocol
// stands, PutOnce and Swap.
//
// The drivers (s3store, miniostore, memstore) translate their SDK's errors once, here to Kind, and
// never retry; WithRetry is the one layer that does. Which promises a store must keep is written at
// each method and asked by the conformance suite in storagetest.
package storage

import (
	"context"
	"io"
	"iter"
	"time"
)

// PartSize is the size of the parts that Upload sends, and the most of its reader that it holds:
// 16 MiB, above S3's minimum, and equal for all parts but the last, as R2 asks.
const PartSize = 16 << 20

// S3's limits on a multipart upload (Amazon S3 User Guide, "Amazon S3 multipart upload limits").
const (
	MaxParts    = 10_000
	MinPartSize = 5 << 20 // of all parts but the last
)

// Object describes a stored object.
type Object struct {
	Key          string
	Size         int64
	ETag         string            // opaque, without quotes
	LastModified time.Time         // by the store's clock, often whole seconds
	Metadata     map[string]string // user metadata, keys in lower case; nil from List
	Date         time.Time         // the store's clock when it answered; zero from List and Put
}

// Cond makes a write conditional. The zero Cond writes in any case.
type Cond struct {
	IfAbsent bool   // If-None-Match: *
	IfMatch  string // an ETag, without quotes
}

// GetOptions choose what Get reads. The zero value reads the whole object.
type GetOptions struct {
	Offset  int64  // first byte; at or behind the end is KindInvalid (but 0 in an empty object)
	Length  int64  // the most bytes to read, 0 for all that follow
	IfMatch string // fail with KindPrecondition if the object has another ETag
}

// PutOptions go with Put and Upload.
type PutOptions struct {
	Cond        Cond
	ContentType string            // "" leaves it to the store
	Metadata    map[string]string // keys in lower case, letters and digits only: some stores mangle others
	Size        int64             // Upload: the exact length if it is known, so that huge objects get larger parts; 0 if not
	PartSize    int64             // Upload: the size of parts, at least MinPartSize; 0: PartSize
}

// Bucket is one bucket of an object store. All methods are safe for concurrent use.
//
// The store must be strongly consistent for each key, LIST included, and must decide conditional
// writes atomically: of any number of concurrent writers with Cond.IfAbsent exactly one succeeds.
// Probe asks for that, since stores exist that say yes to the header and let several writers win.
//
// A lost reply: a write that fails with KindUnavailable or KindUnknown may have happened, and may
// still happen. A conditional write whose reply was lost is answered with KindPrecondition when it
// is sent again: only reading back tells whose object it is. PutOnce and Swap do that.
type Bucket interface {
	// Get opens an object for reading; the caller closes it. It fails with KindNotFound, and with
	// KindPrecondition if GetOptions.IfMatch names another version. Object.Size is the size of the
	// whole object, whatever range is read.
	Get(ctx context.Context, key string, opt GetOptions) (io.ReadCloser, Object, error)

	// Head describes an object, or fails with KindNotFound.
	Head(ctx context.Context, key string) (Object, error)

	// Put stores body in one request. It fails with KindPrecondition if the condition does not
	// hold (Cond.IfMatch on an absent key: KindPrecondition or KindNotFound, stores differ), and with
	// KindConflict if another conditional write was under way: then nothing was decided, ask again.
	// Of the Object returned, Key, Size and ETag are set.
	Put(ctx context.Context, key string, body []byte, opt PutOptions) (Object, error)

	// Upload stores what r yields, reading it once and holding at most one part. Up to one part it
	// is a single conditional PUT, else a multipart upload of equal parts whose completion carries
	// the condition. It fails as Put does; after KindConflict all of it is to be sent again. An Upload that
	// fails or is cancelled before that PUT or completion leaves no object, and aborts its parts if it can.
	// An error of r is returned wrapped, and nothing is stored. A length other than PutOptions.Size is
	// KindInvalid, and nothing is stored.
	Upload(ctx context.Context, key string, r io.Reader, opt PutOptions) (Object, error)

	// List yields the objects whose keys start with prefix, in the order of their bytes, beginning
	// after startAfter ("" for the first). An error ends the sequence.
	List(ctx context.Context, prefix, startAfter string) iter.Seq2[Object, error]
}

// Deleter deletes objects; it stands apart because runners must not have it. Delete is
// unconditional (conditional deletes are ignored by several stores) and succeeds if key is absent, so that
// one whose reply was lost may be sent again, if nobody writes the key anew.
type Deleter interface {
	Delete(ctx context.Context, key string) error
}
