package jsonl

import (
	"bytes"
	"fmt"
	"unicode/utf8"
)

// fault is a problem within the line that is being checked. No fault has code "".
type fault struct {
	code Code
	at   int // index into the line; -1 if it is the line as a whole
	text string
}

func (f fault) problem(l Line) *Problem {
	return &Problem{Code: f.code, Line: l.Number, Offset: l.Offset, Column: f.at + 1, Message: f.text}
}

// fail records a fault after which the rest of the line cannot be read.
func (c *Checker) fail(code Code, at int, text string) int {
	c.fatal = fault{code, at, text}
	return failed
}

// note records a fault of the request, unless there was one before.
func (c *Checker) note(code Code, at int, format string, args ...any) {
	if c.noted.code == "" {
		c.noted = fault{code, at, fmt.Sprintf(format, args...)}
	}
}

// What there should be, where more than one function says so or advice asks.
const (
	aValue = "a value"
	aName  = "a member name in double quotes"
)

// unexpected fails since b[i], or the end of the line, is not what should be there.
func (c *Checker) unexpected(b []byte, i int, want string) int {
	if i >= len(b) {
		return c.fail(InvalidJSON, len(b), fmt.Sprintf(
			"the line ends at byte %d where %s should be: a request must be whole, and on one line", len(b), want))
	}
	if hint := foreign(b); hint != "" && i < 4 {
		return c.fail(InvalidJSON, i, hint)
	}
	r, n := utf8.DecodeRune(b[i:])
	if r == utf8.RuneError && n <= 1 {
		return c.badUTF8(b, i)
	}
	return c.fail(InvalidJSON, i, fmt.Sprintf("found %q at byte %d where %s should be%s", r, i+1, want, advice(b[i:], want)))
}

// foreign recognises, by their first bytes, lines of files that are not text in UTF-8.
func foreign(b []byte) string {
	switch {
	case bytes.HasPrefix(b, []byte{0x1f, 0x8b}):
		return "the file is compressed with gzip: give it a name that ends in .jsonl.gz"
	case bytes.HasPrefix(b, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return "the file is compressed with zstd: give it a name that ends in .jsonl.zst"
	case bytes.HasPrefix(b, []byte{0xff, 0xfe}), bytes.HasPrefix(b, []byte{0xfe, 0xff}):
		return "the file is in UTF-16: save it as UTF-8"
	}
	return ""
}

// advice is for those who wrote what is at the start of b in the place of what JSON wants.
func advice(b []byte, want string) string {
	switch {
	case b[0] == '\'', bytes.HasPrefix(b, []byte("“")):
		return `: names and strings have "straight double quotes" in JSON`
	case (b[0] == '}' || b[0] == ']') && (want == aValue || want == aName):
		return ": is there a comma too many before it?"
	case bytes.HasPrefix(b, []byte("NaN")), bytes.HasPrefix(b, []byte("Infinity")), bytes.HasPrefix(b, []byte("-Infinity")):
		return ": JSON has no NaN and no infinity"
	case bytes.HasPrefix(b, []byte("True")), bytes.HasPrefix(b, []byte("False")), bytes.HasPrefix(b, []byte("None")):
		return ": JSON has true, false and null; write lines with json.dumps"
	}
	return ""
}

func (c *Checker) badUTF8(b []byte, i int) int {
	return c.fail(InvalidUTF8, i, fmt.Sprintf("byte %d, 0x%02x, is not UTF-8: save the file as UTF-8", i+1, b[i]))
}

func (c *Checker) badControl(b []byte, i int) int {
	return c.fail(InvalidJSON, i, fmt.Sprintf(`control byte 0x%02x at byte %d, in a string: write it as \u%04[1]x`, b[i], i+1))
}

func (c *Checker) badEscape(i int) int {
	return c.fail(InvalidJSON, i, fmt.Sprintf(
		`the escape sequence at byte %d is none of JSON's: write a backslash itself as \\`, i+1))
}

func (c *Checker) tooDeep(i int) int {
	return c.fail(TooDeep, i, fmt.Sprintf("more than %d objects and arrays are open at byte %d: nest less", c.cfg.MaxDepth, i+1))
}
