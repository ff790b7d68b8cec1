package jsonl

import (
	"bytes"
	"unicode/utf16"
	"unicode/utf8"
)

// unescape appends the decoded content of raw, the inside of a string that was checked, to dst. It reports
// false for half of a surrogate pair.
func unescape(dst, raw []byte) ([]byte, bool) {
	for len(raw) > 0 {
		i := bytes.IndexByte(raw, '\\')
		if i < 0 {
			return append(dst, raw...), true
		}
		dst = append(dst, raw[:i]...)
		raw = raw[i:]
		if raw[1] != 'u' {
			dst, raw = append(dst, plainEscape(raw[1])), raw[2:]
			continue
		}
		r := hex4(raw)
		raw = raw[6:]
		if utf16.IsSurrogate(r) {
			if len(raw) < 6 || raw[0] != '\\' || raw[1] != 'u' {
				return dst, false
			}
			if r = utf16.DecodeRune(r, hex4(raw)); r == utf8.RuneError {
				return dst, false
			}
			raw = raw[6:]
		}
		dst = utf8.AppendRune(dst, r)
	}
	return dst, true
}

// plainEscape is the byte that a backslash and ch stand for.
func plainEscape(ch byte) byte {
	switch ch {
	case 'b':
		return '\b'
	case 'f':
		return '\f'
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 't':
		return '\t'
	}
	return ch
}

// hex4 is the number in \uXXXX, with which s starts.
func hex4(s []byte) rune {
	var r rune
	for _, ch := range s[2:6] {
		d, _ := hexDigit(ch)
		r = r<<4 | d
	}
	return r
}

func hexDigit(ch byte) (rune, bool) {
	switch {
	case isDigit(ch):
		return rune(ch - '0'), true
	case 'a' <= ch|0x20 && ch|0x20 <= 'f':
		return rune(ch|0x20-'a') + 10, true
	}
	return 0, false
}
