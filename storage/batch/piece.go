package batch

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"

	"github.com/klauspost/compress/zstd"
)

// A piece is the lines of one shard, as the watcher staged them: one zstd frame a chunk, each line as
//
//	<line number> TAB <the line as the user wrote it> LF
//
// so that the request body reaches the engine byte for byte, and gaps in the numbers (blank and bad
// lines) need no other record.

// AppendPieceLine appends one line to the plain text of a frame.
func AppendPieceLine(dst []byte, number int64, line []byte) []byte {
	dst = strconv.AppendInt(dst, number, 10)
	dst = append(dst, '\t')
	dst = append(dst, line...)
	return append(dst, '\n')
}

// PieceLine is one line of a frame. Text points into the frame's bytes.
type PieceLine struct {
	Number int64
	Text   []byte
}

// MaxLineBytes is the longest line that a frame may hold, whatever a pool allows.
const MaxLineBytes = 16 << 20

// maxFrame bounds the plain size of a frame: a chunk holds one line of MaxLineBytes, or ChunkBytes of many, and
// the numbers.
const maxFrame = 2 * MaxLineBytes

// ReadFrame decompresses one frame and cuts it into its lines, whose numbers must rise. want is the number of
// lines that the plan gives; another number is an error.
func ReadFrame(frame []byte, want int) ([]PieceLine, error) {
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxFrame))
	if err != nil {
		return nil, fmt.Errorf("make decoder: %w", err)
	}
	defer dec.Close()
	plain, err := dec.DecodeAll(frame, nil)
	if err != nil {
		return nil, fmt.Errorf("decompress frame: %w", err)
	}
	lines := make([]PieceLine, 0, min(max(want, 0), len(plain)/3)) // a line has three bytes
	last := int64(0)
	for len(plain) > 0 {
		text, rest, whole := bytes.Cut(plain, []byte{'\n'})
		number, text, tab := bytes.Cut(text, []byte{'\t'})
		n, ok := parseLineNumber(number)
		if !whole || !tab || !ok || n <= last {
			return nil, fmt.Errorf("frame: line %d is followed by %.40q", last, number)
		}
		lines = append(lines, PieceLine{Number: n, Text: text})
		plain, last = rest, n
	}
	if len(lines) != want {
		return nil, fmt.Errorf("frame has %d lines, the plan says %d", len(lines), want)
	}
	return lines, nil
}

// BadLine is one line of bad.jsonl.zst and of invalid.jsonl, which are the same text, sorted by line.
type BadLine struct {
	Line     int64   `json:"line"`   // from 1, blank lines counted
	Offset   int64   `json:"offset"` // of the line's first byte in the decompressed input
	CustomID *string `json:"custom_id"`
	Code     string  `json:"code"`
	Message  string  `json:"message"`
}

// BadReader reads bad.jsonl.zst.
type BadReader struct {
	zr   *zstd.Decoder
	dec  *json.Decoder
	last int64
}

// NewBadReader reads compressed bad lines from r.
func NewBadReader(r io.Reader) (*BadReader, error) {
	zr, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(8<<20))
	if err != nil {
		return nil, fmt.Errorf("open bad lines: %w", err)
	}
	return &BadReader{zr: zr, dec: json.NewDecoder(zr)}, nil
}

// Next gives the next bad line, or io.EOF. Line numbers rise; where they do not, it fails.
func (b *BadReader) Next() (BadLine, error) {
	var l BadLine
	err := b.dec.Decode(&l)
	switch {
	case err == io.EOF: // not wrapped: a request that broke may wrap it
		return BadLine{}, io.EOF
	case err != nil:
		return BadLine{}, fmt.Errorf("read bad lines: %w", err)
	case l.Line <= b.last:
		return BadLine{}, fmt.Errorf("read bad lines: line %d after line %d", l.Line, b.last)
	}
	b.last = l.Line
	return l, nil
}

// Close frees the decoder.
func (b *BadReader) Close() { b.zr.Close() }

// Failed gives the errors.jsonl line of a bad line that was skipped (on-invalid=skip).
func (l *BadLine) Failed(batch string) *Answer {
	a := &Answer{Batch: batch, Line: l.Line, Code: CodeInvalidRequest, Message: l.Code + ": " + l.Message}
	if l.CustomID != nil {
		a.CustomID = *l.CustomID
	}
	return a
}
