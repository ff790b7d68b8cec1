package jsonl

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

// readAll reads all lines, and the error that ends them unless that is io.EOF. The bytes are copies.
func readAll(r *Reader) ([]Line, error) {
	var lines []Line
	for {
		l, err := r.Next()
		if err == io.EOF {
			return lines, nil
		}
		if err != nil {
			return lines, err
		}
		l.Bytes = bytes.Clone(l.Bytes)
		lines = append(lines, l)
	}
}

func TestReaderCutsLines(t *testing.T) {
	line := func(number, offset int64, text string) Line {
		return Line{Number: number, Offset: offset, Bytes: []byte(text)}
	}
	long := func(number, offset int64, message string) Line {
		return Line{Number: number, Offset: offset, Problem: &Problem{
			Code: LineTooLong, Line: number, Offset: offset, Message: message}}
	}
	for _, tt := range []struct {
		name, in string
		want     []Line
	}{
		{"nothing", "", nil},
		{"one line", "a\n", []Line{line(1, 0, "a")}},
		{"no newline at the end", "a\nb", []Line{line(1, 0, "a"), line(2, 2, "b")}},
		{"CRLF", "a\r\nb\r\n", []Line{line(1, 0, "a"), line(2, 3, "b")}},
		{"CR at the end of the file", "a\r", []Line{line(1, 0, "a")}},
		{"two CRs", "a\r\r\n", []Line{line(1, 0, "a\r")}},
		{"CR inside a line", "a\rb\n", []Line{line(1, 0, "a\rb")}},
		{"blank lines count in numbers", "\n \t\r\na\n\r\n\nb\n\n", []Line{line(3, 5, "a"), line(6, 10, "b")}},
		{"only blank lines", "\n\r\n  ", nil},
		{"other white space is not blank", "\f\n\u00a0\n", []Line{line(1, 0, "\f"), line(2, 2, "\u00a0")}},
		{"byte order mark", "\ufeffa\n\ufeffb", []Line{line(1, 3, "a"), line(2, 5, "\ufeffb")}},
		{"only a byte order mark", "\ufeff", nil},
		{"half a byte order mark", "\xef\xbb", []Line{line(1, 0, "\xef\xbb")}},
		{"as long as may be", strings.Repeat("x", 40) + "\r\nb", []Line{line(1, 0, strings.Repeat("x", 40)), line(2, 42, "b")}},
		{"one byte longer", strings.Repeat("x", 41) + "\r\nb\n", []Line{
			long(1, 0, "the line has 41 bytes, the most is 40: shorten or split the request"), line(2, 43, "b")}},
		{"much longer", "a\n" + strings.Repeat("x", 1000) + "\nb\n", []Line{
			line(1, 0, "a"), long(2, 2, "the line has 1000 bytes, the most is 40: shorten or split the request"), line(3, 1003, "b")}},
		{"much longer at the end", strings.Repeat(" ", 1000), []Line{
			long(1, 0, "the line has 1000 bytes, the most is 40: shorten or split the request")}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, buffer := range []int{16, 20, 41, 64, readerBuffer} { // 41 ends between CR and LF of the longest line
				r := newReader(iotest.OneByteReader(strings.NewReader(tt.in)), Config{MaxLineBytes: 40, MaxInputBytes: 1 << 20}, buffer)
				got, err := readAll(r)
				if diff := cmp.Diff(tt.want, got); diff != "" || err != nil {
					t.Errorf("buffer of %d: error %v, lines (-want +got):\n%s", buffer, err, diff)
				}
				if _, err := r.Next(); err != io.EOF {
					t.Errorf("Next after the end: %v, want io.EOF", err)
				}
			}
		})
	}
}

func TestReaderReadsLinesLongerThanItsBuffer(t *testing.T) {
	want := strings.Repeat("0123456789", readerBuffer/4)
	r, err := NewReader(strings.NewReader("a\n"+want+"\r\nb"), Config{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := readAll(r)
	if err != nil || len(got) != 3 || string(got[1].Bytes) != want || got[2].Offset != int64(len(want))+4 {
		t.Errorf("got %d lines, error %v", len(got), err)
	}
}

// A line of 64 MiB must not be held.
func TestReaderSkipsWhatIsTooLongInLittleMemory(t *testing.T) {
	r, err := NewReader(io.LimitReader(zeros{}, 64<<20), Config{})
	if err != nil {
		t.Fatal(err)
	}
	l, err := r.Next()
	if err != nil || l.Problem == nil || l.Problem.Code != LineTooLong {
		t.Fatalf("got %+v, %v", l, err)
	}
	if most := 2*defaultLineBytes + 2*readerBuffer; cap(r.long) > most {
		t.Errorf("holds %d bytes, want at most %d", cap(r.long), most)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func TestReaderStopsAtTheInputLimit(t *testing.T) {
	for _, in := range []string{"aaaa\nbbbb\ncccc\n", "aaaa\nbbbb" + strings.Repeat("c", 100)} {
		r := newReader(strings.NewReader(in), Config{MaxLineBytes: 50, MaxInputBytes: 14}, 16)
		lines, err := readAll(r)
		var p *Problem
		if !errors.As(err, &p) || p.Code != InputTooLarge {
			t.Fatalf("%q: got %v, want input_too_large", in, err)
		}
		if want := "the file has more than 14 bytes when decompressed: split it"; p.Message != want || p.Line != int64(len(lines)+1) {
			t.Errorf("%q: line %d, message %q", in, p.Line, p.Message)
		}
		if _, again := r.Next(); again != err {
			t.Errorf("%q: the next error is %v", in, again)
		}
	}
	r := newReader(strings.NewReader("aaaa\nbbbb\ncccc"), Config{MaxLineBytes: 50, MaxInputBytes: 14}, 16)
	if lines, err := readAll(r); len(lines) != 3 || err != nil {
		t.Errorf("a file of just the limit: %d lines, %v", len(lines), err)
	}
}

func TestReaderWrapsErrorsOfItsSource(t *testing.T) {
	broken := errors.New("connection reset")
	for _, tt := range []struct {
		in    string
		lines int
		want  string
	}{
		{"", 0, "read line 1, byte 0: connection reset"},
		{"\xef", 0, "read line 1, byte 0: connection reset"},
		{"a\nb\nccc", 2, "read line 3, byte 7: connection reset"}, // ccc may go on
		{"a\n" + strings.Repeat("x", 300), 1, "read line 2, byte 302: connection reset"},
	} {
		r := newReader(io.MultiReader(strings.NewReader(tt.in), iotest.ErrReader(broken)), Config{MaxLineBytes: 200, MaxInputBytes: 1 << 20}, 16)
		lines, err := readAll(r)
		if len(lines) != tt.lines || !errors.Is(err, broken) || err.Error() != tt.want {
			t.Errorf("%.10q: %d lines, error %v; want %d, %s", tt.in, len(lines), err, tt.lines, tt.want)
		}
		if _, again := r.Next(); again != err {
			t.Errorf("%.10q: the next error is %v", tt.in, again)
		}
	}
}

func TestReaderAllocatesNothingForALine(t *testing.T) {
	in := strings.Repeat(good+"\n", 10_000)
	r, err := NewReader(strings.NewReader(in), Config{})
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(1000, func() {
		if _, err := r.Next(); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations a line, want 0", n)
	}
}
