package jsonl

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

// bom is the byte order mark of UTF-8.
const bom = "\xef\xbb\xbf"

// readerBuffer is what Reader asks of its source at once; lines up to this length are not copied.
// Larger buffers were not faster, smaller ones were.
const readerBuffer = 256 << 10

// Line is a line of a file that is not blank.
type Line struct {
	Number  int64    // from 1; blank lines count
	Offset  int64    // bytes of decompressed input before it, a byte order mark included
	Bytes   []byte   // without the line end, LF or CRLF; good until the next call of Next
	Problem *Problem // the line is too long; Bytes is nil
}

// Reader cuts a file into lines. It holds at most one line, and of a line that is too long at most
// Config.MaxLineBytes. It is not safe for concurrent use.
type Reader struct {
	cfg    Config
	in     *bufio.Reader
	long   []byte // a line that is longer than the buffer
	number int64  // of the line that was read last
	offset int64  // bytes read
	err    error  // why there is no more
}

// NewReader returns a Reader of r, which is a file that is decompressed already, from its first
// byte; or says what is wrong with cfg. Of cfg it uses MaxLineBytes and MaxInputBytes.
func NewReader(r io.Reader, cfg Config) (*Reader, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	return newReader(r, cfg, readerBuffer), nil
}

func newReader(r io.Reader, cfg Config, buffer int) *Reader {
	return &Reader{cfg: cfg, in: bufio.NewReaderSize(r, buffer)}
}

// Next returns the next line that is not blank, and io.EOF after the last. Another error is a
// *Problem if the file itself is at fault (corrupt_input, input_too_large), and else wraps that of
// the source: reading again may help. The line in which it occurs is not returned, since it may not be whole.
// After an error, Next returns the same again.
func (r *Reader) Next() (Line, error) {
	for r.err == nil {
		l := r.next()
		if r.err == nil && (l.Problem != nil || !blank(l.Bytes)) {
			return l, nil
		}
	}
	return Line{}, r.err
}

// next reads one line. If there is none, it sets err.
func (r *Reader) next() Line {
	r.number++
	if r.number == 1 {
		if err := r.skipBOM(); err != nil {
			r.err = r.describe(err)
			return Line{}
		}
	}
	l := Line{Number: r.number, Offset: r.offset}
	b, length, err := r.readLine()
	if err != nil && (err != io.EOF || length == 0) {
		r.err = r.describe(err)
		return Line{}
	}
	if length > int64(r.cfg.MaxLineBytes) {
		l.Problem = tooLong(l, length, r.cfg.MaxLineBytes)
		return l
	}
	l.Bytes = b
	return l
}

// skipBOM skips a byte order mark at the start of the file.
func (r *Reader) skipBOM() error {
	start, err := r.in.Peek(len(bom))
	if err == nil && string(start) == bom {
		_, err = r.in.Discard(len(bom))
		r.offset = int64(len(bom))
	}
	if err == io.EOF { // a file of two bytes
		return nil
	}
	return err
}

// readLine reads up to the end of a line. It returns the line and its length without the line
// end, of which what is returned is not the whole if it is too long.
func (r *Reader) readLine() (line []byte, length int64, err error) {
	frag, err := r.fragment()
	if !errors.Is(err, bufio.ErrBufferFull) {
		line = trimEnd(frag)
		return line, int64(len(line)), err
	}
	r.long = r.long[:0]
	for {
		length += int64(len(frag))
		r.long = append(r.long, frag...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			break
		}
		if length > int64(r.cfg.MaxLineBytes)+int64(len("\r\n")) { // too long: a CR may be half of its end
			r.long = append(r.long[:0], r.long[len(r.long)-1])
		}
		frag, err = r.fragment()
	}
	line = trimEnd(r.long)
	return line, length - int64(len(r.long)-len(line)), err
}

// fragment reads up to the end of a line or of the buffer, whichever comes first.
func (r *Reader) fragment() ([]byte, error) {
	frag, err := r.in.ReadSlice('\n')
	r.offset += int64(len(frag))
	if r.offset > r.cfg.MaxInputBytes {
		return nil, &Problem{Code: InputTooLarge, Message: fmt.Sprintf(
			"the file has more than %d bytes when decompressed: split it", r.cfg.MaxInputBytes)}
	}
	return frag, err
}

// describe says where the file could not be read on.
func (r *Reader) describe(err error) error {
	if err == io.EOF {
		return err
	}
	if p, ok := errors.AsType[*Problem](err); ok {
		located := *p
		located.Line, located.Offset = r.number, r.offset
		return &located
	}
	return fmt.Errorf("read line %d, byte %d: %w", r.number, r.offset, err)
}

// trimEnd takes the line end off.
func trimEnd(b []byte) []byte {
	b = bytes.TrimSuffix(b, []byte("\n"))
	return bytes.TrimSuffix(b, []byte("\r"))
}

// blank reports whether a line has nothing but spaces, tabs and CRs.
func blank(b []byte) bool {
	for _, ch := range b {
		if ch != ' ' && ch != '\t' && ch != '\r' {
			return false
		}
	}
	return true
}
