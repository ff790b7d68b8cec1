package batch

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

var testRecords = []Record{
	{Line: 1, JSON: []byte(`{"a":1}`)},
	{Line: 2, Err: true, JSON: []byte(`{"e":"tab	here"}`)},
	{Line: 9, JSON: []byte(`{}`)},
	{Line: math.MaxInt64, JSON: bytes.Repeat([]byte("x"), 200<<10)}, // longer than the reader's buffer
}

func writeRecords(t testing.TB, recs []Record) ([]byte, ChunkInfo) {
	t.Helper()
	var text bytes.Buffer
	w, err := NewRecordWriter(&text, RecordHeader{Kind: "chunk", Batch: "b", Shard: 3, Chunk: 24, Runner: "r"})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range recs {
		if err := w.Write(r); err != nil {
			t.Fatal(err)
		}
	}
	info, err := w.Close(24, Usage{InputTokens: 5, OutputTokens: 6, TotalTokens: 11})
	if err != nil {
		t.Fatal(err)
	}
	return text.Bytes(), info
}

func readRecords(r io.Reader) ([]Record, *RecordReader, error) {
	rr, err := NewRecordReader(r)
	if err != nil {
		return nil, nil, err
	}
	var recs []Record
	for {
		rec, err := rr.Next()
		if err == io.EOF { // a bare one only: a broken request may wrap it
			return recs, rr, nil
		}
		if err != nil {
			return recs, rr, err
		}
		rec.JSON = bytes.Clone(rec.JSON)
		recs = append(recs, rec)
	}
}

func TestRecordsComeBackAsTheyWereWritten(t *testing.T) {
	text, info := writeRecords(t, testRecords)
	for name, r := range map[string]io.Reader{"whole": bytes.NewReader(text), "byte by byte": iotest.OneByteReader(bytes.NewReader(text))} {
		recs, rr, err := readRecords(r)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff(testRecords, recs); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if want := (RecordHeader{V: 1, Kind: "chunk", Batch: "b", Shard: 3, Chunk: 24, Runner: "r"}); rr.Header() != want {
			t.Errorf("%s: header = %+v, want %+v", name, rr.Header(), want)
		}
		if rr.Counts() != info.Counts || rr.Usage() != info.Usage {
			t.Errorf("%s: read %+v %+v, written %+v %+v", name, rr.Counts(), rr.Usage(), info.Counts, info.Usage)
		}
		if _, err := rr.Next(); !errors.Is(err, io.EOF) {
			t.Errorf("%s: Next behind the end = %v, want EOF", name, err)
		}
	}
	want := Counts{OK: 3, Err: 1, OKBytes: 8 + 3 + 200<<10 + 1, ErrBytes: int64(len(testRecords[1].JSON)) + 1}
	if info.Counts != want || info.Size != int64(len(text)) {
		t.Errorf("info = %+v, want %+v and %d bytes", info, want, len(text))
	}
}

func TestRecordsCutOffAnywhereAreTorn(t *testing.T) {
	text, _ := writeRecords(t, testRecords[:3])
	for n := range text {
		if _, _, err := readRecords(bytes.NewReader(text[:n])); !errors.Is(err, ErrTorn) {
			t.Fatalf("first %d bytes of %d: %v, want torn", n, len(text), err)
		}
	}
}

func TestRecordsOfASourceThatFailsAreNotTorn(t *testing.T) {
	text, _ := writeRecords(t, testRecords[:3])
	for _, broken := range []error{errors.New("broken"), fmt.Errorf("connection closed: %w", io.EOF)} {
		_, _, err := readRecords(io.MultiReader(bytes.NewReader(text[:len(text)-5]), iotest.ErrReader(broken)))
		if !errors.Is(err, broken) || errors.Is(err, ErrTorn) {
			t.Errorf("%v, want that of the source", err)
		}
	}
}

func TestRecordsThatDoNotFitAreTorn(t *testing.T) {
	const head = `{"v":1,"kind":"chunk"}` + "\n"
	const end = `{"end":true,"counts":{"ok":1,"err":0,"ok_bytes":3,"err_bytes":0},"usage":{}}` + "\n"
	twice := strings.NewReplacer(`"ok":1`, `"ok":2`, `"ok_bytes":3`, `"ok_bytes":6`).Replace(end)
	if _, _, err := readRecords(strings.NewReader(head + "1\to\t{}\n" + end)); err != nil {
		t.Fatalf("good records: %v", err)
	}
	if _, _, err := readRecords(strings.NewReader(head + "1\to\t{}\n2\to\t{}\n" + twice)); err != nil {
		t.Fatalf("two good records: %v", err)
	}
	for name, text := range map[string]string{
		"nothing":              "",
		"header is not JSON":   "x\n",
		"header has no v":      "{}\n",
		"no number":            head + "\to\t{}\n" + end,
		"line 0":               head + "0\to\t{}\n" + end,
		"negative line":        head + "-1\to\t{}\n" + end,
		"unknown kind":         head + "1\tx\t{}\n" + end,
		"no kind":              head + "1\t{}\n" + end,
		"number only":          head + "1\n" + end,
		"empty line":           head + "\n" + end,
		"same line twice":      head + "1\to\t{}\n1\to\t{}\n" + twice,
		"lines fall":           head + "2\to\t{}\n1\to\t{}\n" + twice,
		"counts too high":      head + end,
		"other kind counted":   head + "1\te\t{}\n" + end,
		"bytes differ":         head + "1\to\t{ }\n" + end,
		"end is not the end":   head + "1\to\t{}\n" + `{"end":false,"counts":{"ok":1,"err":0,"ok_bytes":3,"err_bytes":0}}` + "\n",
		"end has no line feed": head + "1\to\t{}\n" + strings.TrimSpace(end),
	} {
		if _, _, err := readRecords(strings.NewReader(text)); !errors.Is(err, ErrTorn) {
			t.Errorf("%s: %v, want torn", name, err)
		}
	}
}

func TestRecordsOfALaterVersionAreLeftAlone(t *testing.T) {
	if _, err := NewRecordReader(strings.NewReader(`{"v":2}` + "\n")); !errors.Is(err, ErrVersion) {
		t.Errorf("%v, want ErrVersion", err)
	}
}

func TestRecordWriterRefusesWhatItCouldNotRead(t *testing.T) {
	w, err := NewRecordWriter(io.Discard, RecordHeader{})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []Record{{Line: 0, JSON: []byte("{}")}, {Line: 5, JSON: []byte("{\n}")}} {
		if err := w.Write(r); err == nil {
			t.Errorf("Write(%+v) succeeded", r)
		}
	}
	if err := w.Write(Record{Line: 5, JSON: []byte("{}")}); err != nil {
		t.Errorf("a good record after the bad ones: %v", err)
	}
	if err := w.Write(Record{Line: 5, JSON: []byte("{}")}); err == nil {
		t.Error("the same line twice was written")
	}
}

func TestRecordWriterPassesErrorsOn(t *testing.T) {
	broken := errors.New("disk full")
	w, err := NewRecordWriter(&failing{left: 60, err: broken}, RecordHeader{})
	if err != nil && !errors.Is(err, broken) {
		t.Fatal(err)
	}
	for line := int64(1); err == nil; line++ {
		err = w.Write(Record{Line: line, JSON: []byte("{}")})
	}
	if !errors.Is(err, broken) {
		t.Errorf("%v, want %v", err, broken)
	}
}

type failing struct {
	left int
	err  error
}

func (f *failing) Write(p []byte) (int, error) {
	if f.left -= len(p); f.left < 0 {
		return 0, f.err
	}
	return len(p), nil
}

func TestChunkInfoComesBackFromMetadata(t *testing.T) {
	want := ChunkInfo{
		Chunk: 7, ETag: "e", Size: 9, SHA256: "abc", Counts: Counts{1, 2, 3, 4},
		Usage: Usage{InputTokens: 5, InputTokensDetails: InputDetails{6}, OutputTokens: 7, OutputDetails: OutputDetails{8}, TotalTokens: 9},
	}
	meta := want.Metadata()
	if meta["counts"] != "1,2,3,4" || meta["usage"] != "5,6,7,8,9" || meta["sha256"] != "abc" {
		t.Errorf("metadata = %v", meta)
	}
	got, err := ParseChunkInfo(7, "e", 9, meta)
	if err != nil || got != want {
		t.Errorf("ParseChunkInfo = %+v, %v, want %+v", got, err, want)
	}
}

func TestChunkInfoRefusesBadMetadata(t *testing.T) {
	good := ChunkInfo{SHA256: "abc"}.Metadata()
	for name, change := range map[string][2]string{
		"no counts":       {"counts", ""},
		"too few counts":  {"counts", "1,2,3"},
		"too many counts": {"counts", "1,2,3,4,5"},
		"negative":        {"counts", "1,2,3,-4"},
		"a space":         {"usage", "1,2,3,4, 5"},
		"too large":       {"usage", "1,2,3,4,9223372036854775808"},
	} {
		meta := map[string]string{change[0]: change[1]}
		for k, v := range good {
			if k != change[0] {
				meta[k] = v
			}
		}
		if got, err := ParseChunkInfo(0, "", 0, meta); err == nil {
			t.Errorf("%s: %+v without error", name, got)
		}
	}
}

// What is read without error is what a writer would have written of it.
func FuzzRecordReader(f *testing.F) {
	good, _ := writeRecords(f, testRecords[:3])
	f.Add(good)
	f.Add([]byte(`{"v":1}` + "\n" + `{"end":true}` + "\n"))
	f.Add([]byte(`{"v":1}` + "\n+1\to\t\n" + `{"end":true,"counts":{"ok":1,"ok_bytes":1}}` + "\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		recs, rr, err := readRecords(bytes.NewReader(text))
		if err != nil {
			return
		}
		_, info := writeRecords(t, recs)
		if info.Counts != rr.Counts() {
			t.Errorf("read %+v, written %+v", rr.Counts(), info.Counts)
		}
	})
}

func FuzzParseChunkInfo(f *testing.F) {
	f.Add("abc", "1,2,3,4", "1,2,3,4,5")
	f.Add("", "+1,2,3,04", "1,2,3,4,-5")
	f.Fuzz(func(t *testing.T, sum, counts, usage string) {
		info, err := ParseChunkInfo(1, "e", 2, map[string]string{"sha256": sum, "counts": counts, "usage": usage})
		if err != nil {
			return
		}
		if again, err := ParseChunkInfo(1, "e", 2, info.Metadata()); err != nil || again != info {
			t.Errorf("%+v comes back as %+v, %v", info, again, err)
		}
	})
}
