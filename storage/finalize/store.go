package finalize

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"spool/storage"
	"spool/storage/batch"
)

// CorruptError says that an object of the store is not what the plan, the manifest or its own metadata says
// of it: a record that is torn, a SHA-256 that differs, a version of the output with another length. On a sound
// store it cannot happen, since objects appear whole and are never written again. Nothing is stored
// of what would have been made of it, and trying again does not help: somebody has to look.
type CorruptError struct {
	Key string
	Err error
}

func (e *CorruptError) Error() string { return fmt.Sprintf("object %q is corrupt: %v", e.Key, e.Err) }

func (e *CorruptError) Unwrap() error { return e.Err }

// ErrorType is for logs.
func (e *CorruptError) ErrorType() string { return "corrupt_object" }

func corruptf(key, format string, args ...any) error {
	return &CorruptError{Key: key, Err: fmt.Errorf(format, args...)}
}

// readJSON reads an object of the format; nil if there is none.
func readJSON[T any](ctx context.Context, b storage.Bucket, key string) (*T, storage.Object, error) {
	body, obj, err := storage.ReadAll(ctx, b, key)
	if storage.IsNotFound(err) {
		return nil, storage.Object{}, nil
	}
	if err != nil {
		return nil, storage.Object{}, err
	}
	var version struct {
		V int `json:"v"`
	}
	if err := json.Unmarshal(body, &version); err != nil {
		return nil, obj, corruptf(key, "decode: %w", err)
	}
	if version.V > batch.Version {
		return nil, obj, fmt.Errorf("read %q: it has version %d: %w", key, version.V, batch.ErrVersion)
	}
	v := new(T)
	if err := json.Unmarshal(body, v); err != nil {
		return nil, obj, corruptf(key, "decode: %w", err)
	}
	return v, obj, nil
}

// encode makes the text of an object of the format, with an end of line: people look at these, too.
func encode(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	return buf.Bytes(), nil
}

// encodePretty is encode for what users read.
func encodePretty(v any) ([]byte, error) {
	text, err := encode(v)
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	if err := json.Indent(&buf, text, "", "  "); err != nil {
		return nil, fmt.Errorf("indent: %w", err)
	}
	return buf.Bytes(), nil
}

// Content types of what is written. There is no registered type of JSON Lines; this one is the most common.
func jsonObject() storage.PutOptions {
	return storage.PutOptions{ContentType: "application/json"}
}

func markdownObject() storage.PutOptions {
	return storage.PutOptions{ContentType: "text/markdown; charset=utf-8"}
}

func htmlObject() storage.PutOptions {
	return storage.PutOptions{ContentType: "text/html; charset=utf-8"}
}

var errNoDate = errors.New("the store's answer has no Date")

// now tells the store's time. The plan is there as long as the batch is, so it is a key to ask about.
func (f *Finalizer) now(ctx context.Context, plan *batch.Plan) (time.Time, error) {
	obj, err := f.bucket.Head(ctx, batch.PlanKey(plan.Batch))
	if err != nil {
		return time.Time{}, fmt.Errorf("ask the store's time: %w", err)
	}
	if obj.Date.IsZero() {
		return time.Time{}, fmt.Errorf("ask the store's time: %w", errNoDate)
	}
	return obj.Date, nil
}
