package batch

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
	"strconv"
	"strings"
)

// A chunk object holds the results of one chunk, a segment those of the lines of some open chunks: the
// same format, fewer lines. It is text, one item a line:
//
//	{"v":1,"kind":"chunk","batch":"b…","shard":3,"chunk":24,"runner":"r-…"}
//	<line number> TAB o TAB <line of output.jsonl>
//	<line number> TAB e TAB <line of errors.jsonl>
//	{"end":true,"counts":{…},"usage":{…}}
//
// with the line numbers rising. An object without the last line is torn and counts for nothing.

// RecordHeader is the first line of a chunk object or segment.
type RecordHeader struct {
	V      int    `json:"v"`
	Kind   string `json:"kind"` // "chunk" or "segment"
	Batch  string `json:"batch"`
	Shard  int    `json:"shard"`
	Chunk  int    `json:"chunk"` // -1 in a segment, whose lines may be of several chunks
	Runner string `json:"runner"`
}

type recordEnd struct {
	End    bool   `json:"end"`
	Counts Counts `json:"counts"`
	Usage  Usage  `json:"usage"`
}

// Record is the result of one input line.
type Record struct {
	Line int64
	Err  bool   // a line of errors.jsonl, else of output.jsonl
	JSON []byte // the line, without its newline
}

// ErrTorn says that a chunk object or segment does not end as it should.
var ErrTorn error = formatError{"torn: the end line is missing or wrong", "corrupt_object"}

// formatError is of an object that cannot be read; kind is its type in logs.
type formatError struct{ text, kind string }

func (e formatError) Error() string     { return e.text }
func (e formatError) ErrorType() string { return e.kind }

// RecordWriter writes a chunk object or segment. Call Close for the end line; it does not close w.
type RecordWriter struct {
	w      io.Writer
	sum    hash.Hash
	size   int64
	last   int64
	counts Counts
	buf    []byte
}

// NewRecordWriter writes the header to w.
func NewRecordWriter(w io.Writer, h RecordHeader) (*RecordWriter, error) {
	h.V = Version
	head, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("encode record header: %w", err)
	}
	rw := &RecordWriter{w: w, sum: sha256.New()}
	return rw, rw.write(append(head, '\n'))
}

// Write adds one record. Line numbers must rise from 1 on, and the JSON must be on one line; a record that
// is refused is not written.
func (rw *RecordWriter) Write(r Record) error {
	if r.Line <= rw.last {
		return fmt.Errorf("record of line %d after that of line %d", r.Line, rw.last)
	}
	if bytes.IndexByte(r.JSON, '\n') >= 0 {
		return fmt.Errorf("record of line %d has a line feed", r.Line)
	}
	rw.last = r.Line
	kind := byte('o')
	if r.Err {
		kind = 'e'
		rw.counts.Err++
		rw.counts.ErrBytes += int64(len(r.JSON)) + 1
	} else {
		rw.counts.OK++
		rw.counts.OKBytes += int64(len(r.JSON)) + 1
	}
	rw.buf = strconv.AppendInt(rw.buf[:0], r.Line, 10)
	rw.buf = append(rw.buf, '\t', kind, '\t')
	rw.buf = append(rw.buf, r.JSON...)
	return rw.write(append(rw.buf, '\n'))
}

// Close writes the end line and tells what was written. ETag is not known yet.
func (rw *RecordWriter) Close(chunk int, usage Usage) (ChunkInfo, error) {
	end, err := json.Marshal(recordEnd{End: true, Counts: rw.counts, Usage: usage})
	if err != nil {
		return ChunkInfo{}, fmt.Errorf("encode record end: %w", err)
	}
	if err := rw.write(append(end, '\n')); err != nil {
		return ChunkInfo{}, err
	}
	return ChunkInfo{Chunk: chunk, Size: rw.size, SHA256: hex.EncodeToString(rw.sum.Sum(nil)), Counts: rw.counts, Usage: usage}, nil
}

func (rw *RecordWriter) write(p []byte) error {
	rw.sum.Write(p)
	rw.size += int64(len(p))
	_, err := rw.w.Write(p)
	return err
}

// RecordReader reads a chunk object or segment.
type RecordReader struct {
	br     *bufio.Reader
	header RecordHeader
	counts Counts
	usage  Usage
	last   int64
	line   []byte
	done   bool
}

// NewRecordReader reads the header. It fails with ErrTorn if there is none and with ErrVersion if it
// is of a later version.
func NewRecordReader(r io.Reader) (*RecordReader, error) {
	rr := &RecordReader{br: bufio.NewReaderSize(r, 64<<10)}
	head, err := rr.readLine()
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(head, &rr.header); err != nil || rr.header.V == 0 {
		return nil, fmt.Errorf("record header %.60q: %w", head, ErrTorn)
	}
	if rr.header.V > Version {
		return nil, ErrVersion
	}
	return rr, nil
}

// Header gives the first line.
func (rr *RecordReader) Header() RecordHeader { return rr.header }

// Usage gives the tokens of the end line, once Next has returned io.EOF.
func (rr *RecordReader) Usage() Usage { return rr.usage }

// Counts gives what was read so far; behind the end it is what the end line says.
func (rr *RecordReader) Counts() Counts { return rr.counts }

// Next gives the next record, whose bytes are valid until the next call, or io.EOF behind a good end.
func (rr *RecordReader) Next() (Record, error) {
	if rr.done {
		return Record{}, io.EOF
	}
	line, err := rr.readLine()
	if err != nil {
		return Record{}, err
	}
	if len(line) > 0 && line[0] == '{' {
		return Record{}, rr.end(line)
	}
	rec, err := parseRecord(line)
	if err != nil {
		return Record{}, err
	}
	if rec.Line <= rr.last {
		return Record{}, fmt.Errorf("record of line %d after that of line %d: %w", rec.Line, rr.last, ErrTorn)
	}
	rr.last = rec.Line
	if rec.Err {
		rr.counts.Err++
		rr.counts.ErrBytes += int64(len(rec.JSON)) + 1
	} else {
		rr.counts.OK++
		rr.counts.OKBytes += int64(len(rec.JSON)) + 1
	}
	return rec, nil
}

func (rr *RecordReader) end(line []byte) error {
	var end recordEnd
	if err := json.Unmarshal(line, &end); err != nil || !end.End || end.Counts != rr.counts {
		return fmt.Errorf("end line %.80q: %w", line, ErrTorn)
	}
	rr.done, rr.usage = true, end.Usage
	return io.EOF
}

// readLine gives the next line without its newline; a line that the input cuts off is torn.
func (rr *RecordReader) readLine() ([]byte, error) {
	rr.line = rr.line[:0]
	for {
		part, err := rr.br.ReadSlice('\n')
		rr.line = append(rr.line, part...)
		switch {
		case err == nil:
			return rr.line[:len(rr.line)-1], nil
		case errors.Is(err, bufio.ErrBufferFull):
		case err == io.EOF: // a bare one only: a broken request may wrap it
			return nil, ErrTorn
		default:
			return nil, err
		}
	}
}

func parseRecord(line []byte) (Record, error) {
	number, rest, tab := bytes.Cut(line, []byte{'\t'})
	n, ok := parseLineNumber(number)
	if !tab || !ok || len(rest) < 2 || rest[1] != '\t' || rest[0] != 'o' && rest[0] != 'e' {
		return Record{}, fmt.Errorf("record %.60q: %w", line, ErrTorn)
	}
	return Record{Line: n, Err: rest[0] == 'e', JSON: rest[2:]}, nil
}

// parseLineNumber reads a line number as it is written: decimal, from 1, without sign or leading zeros.
func parseLineNumber(s []byte) (int64, bool) {
	if len(s) == 0 || s[0] == '0' {
		return 0, false
	}
	var n int64
	for _, c := range s {
		if c < '0' || c > '9' || n > (math.MaxInt64-int64(c-'0'))/10 {
			return 0, false
		}
		n = 10*n + int64(c-'0')
	}
	return n, true
}

// Metadata keys of a chunk object, beside storage.PutIDKey.
const (
	metaSHA256 = "sha256"
	metaCounts = "counts"
	metaUsage  = "usage"
)

// Metadata gives what a chunk object carries as user metadata, so that a HEAD is enough to know it.
func (c ChunkInfo) Metadata() map[string]string {
	return map[string]string{
		metaSHA256: c.SHA256,
		metaCounts: joinInts(c.Counts.OK, c.Counts.Err, c.Counts.OKBytes, c.Counts.ErrBytes),
		metaUsage: joinInts(c.Usage.InputTokens, c.Usage.InputTokensDetails.CachedTokens,
			c.Usage.OutputTokens, c.Usage.OutputDetails.ReasoningTokens, c.Usage.TotalTokens),
	}
}

// ParseChunkInfo reads the metadata of a stored chunk object.
func ParseChunkInfo(chunk int, etag string, size int64, meta map[string]string) (ChunkInfo, error) {
	c := ChunkInfo{Chunk: chunk, ETag: etag, Size: size, SHA256: meta[metaSHA256]}
	counts, err := splitInts(meta[metaCounts], 4)
	if err != nil {
		return c, fmt.Errorf("chunk %d: metadata %s: %w", chunk, metaCounts, err)
	}
	usage, err := splitInts(meta[metaUsage], 5)
	if err != nil {
		return c, fmt.Errorf("chunk %d: metadata %s: %w", chunk, metaUsage, err)
	}
	c.Counts = Counts{OK: counts[0], Err: counts[1], OKBytes: counts[2], ErrBytes: counts[3]}
	c.Usage = Usage{InputTokens: usage[0], OutputTokens: usage[2], TotalTokens: usage[4]}
	c.Usage.InputTokensDetails.CachedTokens = usage[1]
	c.Usage.OutputDetails.ReasoningTokens = usage[3]
	return c, nil
}

func joinInts(ns ...int64) string {
	parts := make([]string, len(ns))
	for i, n := range ns {
		parts[i] = strconv.FormatInt(n, 10)
	}
	return strings.Join(parts, ",")
}

func splitInts(s string, want int) ([]int64, error) {
	parts := strings.Split(s, ",")
	if len(parts) != want {
		return nil, fmt.Errorf("%q: want %d numbers", s, want)
	}
	ns := make([]int64, want)
	for i, p := range parts {
		n, err := strconv.ParseInt(p, 10, 64)
		if err != nil || n < 0 {
			return nil, fmt.Errorf("%q: bad number %q", s, p)
		}
		ns[i] = n
	}
	return ns, nil
}
