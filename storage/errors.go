package storage

import (
	"errors"
	"fmt"
	"strings"
)

// Kind says what a caller can do about an error.
type Kind int

// The kinds. Of a write that failed, only KindPrecondition, KindConflict, KindDenied, KindInvalid and
// KindNotFound say that this request did not happen; an earlier try of it may have.
const (
	KindUnknown      Kind = iota // nothing is known; a write may have happened
	KindNotFound                 // no such key, or no such bucket
	KindPrecondition             // 412: the condition does not hold; perhaps by an earlier try of our own
	KindConflict                 // 409: another write was under way; nothing was decided, ask again
	KindUnavailable              // time-out, reset, 5xx, throttled: try again later; a write may have happened
	KindDenied                   // 401, 403: credentials or policy; trying again does not help
	KindInvalid                  // 400 and the like: the request is wrong; trying again does not help
)

func (k Kind) String() string {
	names := [...]string{"unknown", "not found", "precondition failed", "conflict", "unavailable", "denied", "invalid"}
	if k < 0 || int(k) >= len(names) {
		return fmt.Sprintf("kind %d", int(k))
	}
	return names[k]
}

// Error is the error of every Bucket method, but for errors of the caller's own reader and context:
// these are wrapped as they are, and never an Error.
type Error struct {
	Op   string // "get", "head", "put", "upload", "list", "delete"
	Key  string
	Kind Kind
	Err  error // the driver's error; may be nil
}

func (e *Error) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("%s %q: %s", e.Op, e.Key, e.Kind)
	}
	return fmt.Sprintf("%s %q: %s: %v", e.Op, e.Key, e.Kind, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// ErrorType is "store_" and the kind, for logs and counts.
func (e *Error) ErrorType() string { return "store_" + strings.ReplaceAll(e.Kind.String(), " ", "_") }

// KindOf tells the kind of err: that of the first Error in its chain, else KindUnknown.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return KindUnknown
}

// IsNotFound reports whether err says that a key is absent.
func IsNotFound(err error) bool { return err != nil && KindOf(err) == KindNotFound }

// Temporary reports whether the same call may succeed later. Errors of the caller's context never are.
func Temporary(err error) bool {
	k := KindOf(err)
	return err != nil && (k == KindUnavailable || k == KindConflict)
}
