package jsonl

import (
	"encoding/binary"
	"math/bits"
	"unicode/utf8"
)

// The scanner proper: each function takes the line and an index into it, checks one piece of JSON
// from there, and returns the index after it, or failed when it has recorded why not.
const failed = -1

// What to do with the members of an object.
type visit int

const (
	ignore   visit = iota // check them
	envelope              // they are those of a request
	body                  // they are those of a request's body
)

// value checks the value at i, which lies inside depth objects and arrays.
func (c *Checker) value(b []byte, i, depth int) int {
	if i >= len(b) {
		return c.unexpected(b, i, aValue)
	}
	switch b[i] {
	case '"':
		return c.str(b, i+1)
	case '{':
		return c.object(b, i+1, depth+1, ignore)
	case '[':
		return c.array(b, i+1, depth+1)
	case 't':
		return c.literal(b, i, "true")
	case 'f':
		return c.literal(b, i, "false")
	case 'n':
		return c.literal(b, i, "null")
	default:
		return c.number(b, i)
	}
}

// span is a part of the line: the inside of a string.
type span struct{ from, to int }

// object checks the rest of the object whose brace is before i, and which is the depth-th.
func (c *Checker) object(b []byte, i, depth int, how visit) int {
	if depth > c.cfg.MaxDepth {
		return c.tooDeep(i - 1)
	}
	i = space(b, i)
	if i < len(b) && b[i] == '}' {
		return i + 1
	}
	for {
		if i >= len(b) || b[i] != '"' {
			return c.unexpected(b, i, aName)
		}
		c.escaped = false
		key := i + 1
		if i = c.str(b, key); i < 0 {
			return failed
		}
		name := span{key, i - 1}
		if i = space(b, i); i >= len(b) || b[i] != ':' {
			return c.unexpected(b, i, "a colon")
		}
		i = space(b, i+1)
		switch how {
		case ignore:
			i = c.value(b, i, depth)
		case envelope:
			i = c.envelopeMember(b, name, i)
		case body:
			i = c.bodyMember(b, name, i)
		}
		if i < 0 {
			return failed
		}
		if i = space(b, i); i >= len(b) {
			return c.unexpected(b, i, "a comma or }")
		}
		if b[i] == '}' {
			return i + 1
		}
		if b[i] != ',' {
			return c.unexpected(b, i, "a comma or }")
		}
		i = space(b, i+1)
	}
}

// array checks the rest of the array whose bracket is before i, and which is the depth-th.
func (c *Checker) array(b []byte, i, depth int) int {
	if depth > c.cfg.MaxDepth {
		return c.tooDeep(i - 1)
	}
	i = space(b, i)
	if i < len(b) && b[i] == ']' {
		return i + 1
	}
	for {
		if i = c.value(b, i, depth); i < 0 {
			return failed
		}
		if i = space(b, i); i >= len(b) {
			return c.unexpected(b, i, "a comma or ]")
		}
		if b[i] == ']' {
			return i + 1
		}
		if b[i] != ',' {
			return c.unexpected(b, i, "a comma or ]")
		}
		i = space(b, i+1)
	}
}

// Constants for looking at eight bytes at once.
const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// str checks the rest of the string whose opening quote is before i, and returns the index after
// the closing one.
//
// In each step it looks for a byte that is not plain: a quote, a backslash, a control byte, or one
// of 0x80 and above. Subtracting per byte sets the high bit of those; a borrow can only spoil
// bytes above one that is really meant, so the lowest is right.
func (c *Checker) str(b []byte, i int) int {
	for i >= 0 {
		for i+8 <= len(b) {
			x := binary.LittleEndian.Uint64(b[i:])
			odd := (x | (x - ones*0x20) | ((x ^ ones*'"') - ones) | ((x ^ ones*'\\') - ones)) & highs
			if odd != 0 {
				i += bits.TrailingZeros64(odd) >> 3
				break
			}
			i += 8
		}
		if i >= len(b) {
			return c.unexpected(b, i, "the quote that ends a string")
		}
		switch ch := b[i]; {
		case ch == '"':
			return i + 1
		case ch == '\\':
			i = c.escapes(b, i)
		case ch >= utf8.RuneSelf:
			i = c.runes(b, i)
		case ch < 0x20:
			return c.badControl(b, i)
		default:
			i++ // one of the last seven bytes
		}
	}
	return failed
}

// escapeLen is the length of the escape sequence by the byte after the backslash, 0 for none.
var escapeLen = [256]uint8{'"': 2, '\\': 2, '/': 2, 'b': 2, 'f': 2, 'n': 2, 'r': 2, 't': 2, 'u': 6} //nolint:gochecknoglobals // a table that is never changed

// notHex is 0 for the hexadecimal digits.
var notHex = func() (t [256]uint8) { //nolint:gochecknoglobals // likewise
	for i := range t {
		if _, ok := hexDigit(byte(i)); !ok {
			t[i] = 1
		}
	}
	return t
}()

// escapes checks the escape sequences from i on, up to the first byte that is none.
func (c *Checker) escapes(b []byte, i int) int {
	c.escaped = true
	for i < len(b) && b[i] == '\\' {
		if i+1 >= len(b) {
			return c.unexpected(b, i+1, "the rest of an escape sequence")
		}
		n := int(escapeLen[b[i+1]])
		if n == 0 {
			return c.badEscape(i)
		}
		if n == 6 {
			if i+6 > len(b) {
				return c.unexpected(b, len(b), `the four hexadecimal digits of \u`)
			}
			if h := b[i+2 : i+6]; notHex[h[0]]|notHex[h[1]]|notHex[h[2]]|notHex[h[3]] != 0 {
				return c.badEscape(i)
			}
		}
		i += n
	}
	return i
}

// runes checks the multi-byte UTF-8 sequences from i on, up to the first byte of ASCII.
func (c *Checker) runes(b []byte, i int) int {
	for i < len(b) && b[i] >= utf8.RuneSelf {
		if n := short(b[i:]); n > 0 {
			i += n
			continue
		}
		r, n := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && n <= 1 {
			return c.badUTF8(b, i)
		}
		i += n
	}
	return i
}

// short is the length of the sequence of two or three bytes at the start of b, or 0 if it is
// another, a wrong one, or too near to the end for the look at four bytes. It is there for speed.
func short(b []byte) int {
	if len(b) < 4 {
		return 0
	}
	x := binary.LittleEndian.Uint32(b) // the first byte is the lowest
	switch {
	case x&0x00c0c0f0 == 0x008080e0: // 1110aaaa 10bbbbbb 10cccccc
		if high := x & 0x0000200f; high == 0 || high == 0x0000200d { // below U+0800, or a surrogate
			return 0
		}
		return 3
	case x&0x0000c0e0 == 0x000080c0 && x&0x0000001e != 0: // 110aaaaa 10bbbbbb, not below U+0080
		return 2
	}
	return 0
}

// number checks the number at i.
func (c *Checker) number(b []byte, i int) int {
	start := i
	if b[i] == '-' {
		i++
	}
	switch {
	case i < len(b) && b[i] == '0':
		i++
	case i < len(b) && isDigit(b[i]):
		i = digits(b, i)
	case i > start:
		return c.unexpected(b, i, "a digit")
	default:
		return c.unexpected(b, i, aValue)
	}
	if i < len(b) && b[i] == '.' {
		if i++; i >= len(b) || !isDigit(b[i]) {
			return c.unexpected(b, i, "a digit after the decimal point")
		}
		i = digits(b, i)
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		if i++; i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		if i >= len(b) || !isDigit(b[i]) {
			return c.unexpected(b, i, "a digit of the exponent")
		}
		i = digits(b, i)
	}
	return i
}

// literal checks that word is at i. What follows it is for the caller to refuse.
func (c *Checker) literal(b []byte, i int, word string) int {
	if len(b)-i < len(word) || string(b[i:i+len(word)]) != word {
		return c.unexpected(b, i, aValue)
	}
	return i + len(word)
}

func isDigit(ch byte) bool { return '0' <= ch && ch <= '9' }

// digits is the index of the first byte from i on that is no digit.
func digits(b []byte, i int) int {
	for i < len(b) && isDigit(b[i]) {
		i++
	}
	return i
}

// space is the index of the first byte from i on that is not white space.
func space(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\t' || b[i] == '\r' || b[i] == '\n') {
		i++
	}
	return i
}
