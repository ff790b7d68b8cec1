package jsonl

import "fmt"

// Code names a kind of problem; the package comment lists them all. Codes never change.
type Code string

// Problems of a line.
const (
	InvalidJSON        Code = "invalid_json"
	InvalidUTF8        Code = "invalid_utf8"
	LineTooLong        Code = "line_too_long"
	TooDeep            Code = "too_deep"
	BOM                Code = "bom"
	NotAnObject        Code = "not_an_object"
	TrailingData       Code = "trailing_data"
	MissingCustomID    Code = "missing_custom_id"
	InvalidCustomID    Code = "invalid_custom_id"
	DuplicateCustomID  Code = "duplicate_custom_id"
	MissingMethod      Code = "missing_method"
	InvalidMethod      Code = "invalid_method"
	MissingURL         Code = "missing_url"
	UnsupportedURL     Code = "unsupported_url"
	MixedEndpoints     Code = "mixed_endpoints"
	MissingBody        Code = "missing_body"
	InvalidBody        Code = "invalid_body"
	DuplicateMember    Code = "duplicate_member"
	UnknownMember      Code = "unknown_member"
	StreamNotSupported Code = "stream_not_supported"
	LimitExceeded      Code = "limit_exceeded"
)

// Problems of a file.
const (
	UnsupportedSuffix Code = "unsupported_suffix"
	CorruptInput      Code = "corrupt_input"
	InputTooLarge     Code = "input_too_large"
)

// Problem says what is wrong with a line, or with a file, so that a person can mend it. It is an
// error where it ends the reading of a file.
type Problem struct {
	Code    Code
	Line    int64  // number of the line, from 1; of a file: the line that was being read, 0 for none
	Offset  int64  // bytes of decompressed input before the line; of a file: that were read in all
	Column  int    // byte of the line at which the problem is, from 1; 0 if it is the line as a whole
	Message string // plain English: what, where, and what to do about it
}

var _ error = (*Problem)(nil)

// Error is the code and the message, after the number of the line if there is one.
func (p *Problem) Error() string {
	if p.Line == 0 {
		return fmt.Sprintf("%s: %s", p.Code, p.Message)
	}
	return fmt.Sprintf("line %d: %s: %s", p.Line, p.Code, p.Message)
}

// quoted is s for a message: quoted, in ASCII, and cut off after 60 bytes.
func quoted[T ~string | ~[]byte](s T) string {
	const most = 60
	if len(s) <= most {
		return fmt.Sprintf("%+q", string(s))
	}
	return fmt.Sprintf("%+q…", string(s[:most]))
}
