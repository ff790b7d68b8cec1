package batch

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
)

func compress(t testing.TB, plain []byte) []byte {
	t.Helper()
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	return enc.EncodeAll(plain, nil)
}

func TestFrameGivesLinesByteForByte(t *testing.T) {
	want := []PieceLine{
		{1, []byte(`{"a":"tab	and \n"}`)},
		{7, []byte{}},
		{9, []byte("\xff\x00 not text\r")},
		{1 << 40, bytes.Repeat([]byte("x"), 16<<20)}, // the longest line that is accepted
	}
	var plain []byte
	for _, l := range want {
		plain = AppendPieceLine(plain, l.Number, l.Text)
	}
	got, err := ReadFrame(compress(t, plain), len(want))
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range got {
		if l.Number != want[i].Number || !bytes.Equal(l.Text, want[i].Text) {
			t.Errorf("line %d: number %d, %d bytes; want %d, %d bytes", i, l.Number, len(l.Text), want[i].Number, len(want[i].Text))
		}
	}
}

func TestFrameThatIsNotWholeIsRefused(t *testing.T) {
	plain := AppendPieceLine(AppendPieceLine(nil, 1, []byte("one")), 2, []byte("two"))
	frame := compress(t, plain)
	for name, c := range map[string]struct {
		frame []byte
		want  int
	}{
		"fewer lines":         {frame, 3},
		"more lines":          {frame, 1},
		"negative number":     {frame, -1},
		"cut off":             {frame[:len(frame)-1], 2},
		"empty":               {nil, 2},
		"not compressed":      {plain, 2},
		"line without number": {compress(t, []byte("one\n")), 1},
		"line 0":              {compress(t, []byte("0\tone\n")), 1},
		"numbers fall":        {compress(t, []byte("2\ttwo\n1\tone\n")), 2},
		"last line cut off":   {compress(t, plain[:len(plain)-2]), 2},
		"a bomb":              {compress(t, make([]byte, 40<<20)), 1},
	} {
		if got, err := ReadFrame(c.frame, c.want); err == nil {
			t.Errorf("%s: %d lines without error", name, len(got))
		}
	}
}

func badLines() []BadLine {
	id := `id "1"`
	return []BadLine{
		{Line: 2, Offset: 10, Code: "invalid_json", Message: "no"},
		{Line: 5, Offset: 99, CustomID: &id, Code: "duplicate_custom_id", Message: "as line 1"},
	}
}

func badText(t testing.TB) []byte {
	t.Helper()
	var text bytes.Buffer
	for _, l := range badLines() {
		if err := json.NewEncoder(&text).Encode(l); err != nil {
			t.Fatal(err)
		}
	}
	return text.Bytes()
}

func readBad(compressed []byte) ([]BadLine, error) {
	r, err := NewBadReader(bytes.NewReader(compressed))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var lines []BadLine
	for {
		l, err := r.Next()
		if err == io.EOF { // a bare one only: a broken request may wrap it
			return lines, nil
		}
		if err != nil {
			return lines, err
		}
		lines = append(lines, l)
	}
}

func TestBadLinesComeBack(t *testing.T) {
	got, err := readBad(compress(t, badText(t)))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(badLines(), got); diff != "" {
		t.Error(diff)
	}
}

func TestBadLinesCutOffAreRefused(t *testing.T) {
	whole := compress(t, badText(t))
	for n := 1; n < len(whole); n++ {
		if got, err := readBad(whole[:n]); err == nil {
			t.Fatalf("first %d bytes of %d: %d lines without error", n, len(whole), len(got))
		}
	}
	for name, text := range map[string]string{
		"half a line":     string(badText(t)[:100]),
		"no line number":  `{"code":"x"}`,
		"numbers fall":    `{"line":2}{"line":1}`,
		"a line repeated": `{"line":2}{"line":2}`,
	} {
		if got, err := readBad(compress(t, []byte(text))); err == nil {
			t.Errorf("%s: %+v without error", name, got)
		}
	}
}

func TestBadLinesOfASourceThatFailsDoNotEndWell(t *testing.T) {
	broken := fmt.Errorf("connection closed: %w", io.EOF)
	r, err := NewBadReader(io.MultiReader(bytes.NewReader(compress(t, badText(t))), iotest.ErrReader(broken)))
	for err == nil {
		_, err = r.Next()
	}
	if err == io.EOF || !errors.Is(err, broken) { // a bare io.EOF would be a clean end
		t.Errorf("%v, want that of the source", err)
	}
}

func TestSkippedLineSaysWhatWasBad(t *testing.T) {
	want := []string{
		`{"id":"batch_req_b-2","custom_id":null,"response":null,"error":{"code":"invalid_request","message":"invalid_json: no"}}`,
		`{"id":"batch_req_b-5","custom_id":"id \"1\"","response":null,"error":{"code":"invalid_request","message":"duplicate_custom_id: as line 1"}}`,
	}
	for i, l := range badLines() {
		if got := string(l.Failed("b").AppendLine(nil)); got != want[i] {
			t.Errorf("got  %s\nwant %s", got, want[i])
		}
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add([]byte("1\tone\n2\ttwo\n"))
	f.Add([]byte("1\t\n\n"))
	f.Add([]byte("+1\tone"))
	f.Fuzz(func(t *testing.T, plain []byte) {
		want := bytes.Count(plain, []byte("\n"))
		lines, err := ReadFrame(compress(t, plain), want)
		if err != nil {
			return
		}
		var again []byte
		for _, l := range lines {
			again = AppendPieceLine(again, l.Number, l.Text)
		}
		if !bytes.Equal(again, plain) {
			t.Errorf("%q comes back as %q", plain, again)
		}
	})
}

// Whatever bytes a store gives: an answer, no panic, no more memory than the bound.
func FuzzReadFrameOfAnyBytes(f *testing.F) {
	f.Add(compress(f, []byte("1\tone\n")), 1)
	f.Fuzz(func(t *testing.T, frame []byte, want int) {
		lines, err := ReadFrame(frame, want)
		if err == nil && len(lines) != want {
			t.Errorf("%d lines, want %d", len(lines), want)
		}
	})
}

func FuzzBadReader(f *testing.F) {
	f.Add(compress(f, badText(f)))
	f.Add(compress(f, []byte(`{"line":1}null{"line":2}`)))
	f.Fuzz(func(t *testing.T, compressed []byte) {
		lines, _ := readBad(compressed)
		last := int64(0)
		for _, l := range lines {
			if l.Line <= last {
				t.Errorf("line %d after line %d", l.Line, last)
			}
			last = l.Line
		}
	})
}

func BenchmarkReadFrame(b *testing.B) {
	var plain []byte
	for i := range int64(1000) {
		plain = AppendPieceLine(plain, i+1, []byte(fmt.Sprintf(`{"custom_id":"id-%d","body":{"prompt":%q}}`, i, strings.Repeat("word ", 100))))
	}
	frame := compress(b, plain)
	b.SetBytes(int64(len(plain)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ReadFrame(frame, 1000); err != nil {
			b.Fatal(err)
		}
	}
}
