package jsonl

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

func gzipped(t testing.TB, members ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	for _, m := range members {
		w := gzip.NewWriter(&b)
		if _, err := io.WriteString(w, m); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

func zstdded(t testing.TB, frames ...string) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	var b []byte
	for _, f := range frames {
		b = w.EncodeAll([]byte(f), b)
	}
	return b
}

func decompressed(t testing.TB, r io.Reader, name string) (string, error) {
	t.Helper()
	d, err := Decompress(r, name)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(d)
	if err := d.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	return string(b), err
}

func TestDecompressBySuffix(t *testing.T) {
	for _, tt := range []struct {
		name, file string
		in         []byte
		want       string
	}{
		{"plain", "in/a.jsonl", []byte("a\nb"), "a\nb"},
		{"plain, though compressed", "in/a.gz.jsonl", gzipped(t, "a"), string(gzipped(t, "a"))},
		{"gzip", "in/a.jsonl.gz", gzipped(t, "a\nb"), "a\nb"},
		{"gzip of several members", "a.jsonl.gz", gzipped(t, "a\n", "", "b\nc"), "a\nb\nc"},
		{"zstd", ".jsonl.zst", zstdded(t, "a\nb"), "a\nb"},
		{"zstd of several frames", "a.jsonl.zst", zstdded(t, "a\n", "", "b\nc"), "a\nb\nc"},
		{"empty file", "a.jsonl", nil, ""},
		{"empty gzip file", "a.jsonl.gz", nil, ""},
		{"empty zstd file", "a.jsonl.zst", nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := decompressed(t, iotest.HalfReader(bytes.NewReader(tt.in)), tt.file)
			if got != tt.want || err != nil {
				t.Errorf("got %q, %v; want %q", got, err, tt.want)
			}
		})
	}
}

func TestDecompressRefusesOtherSuffixes(t *testing.T) {
	for _, name := range []string{"in/a.json", "in/a.jsonl.bz2", "in/a.JSONL", "in/ajsonl", "in/a.jsonl/", ""} {
		_, err := Decompress(nil, name)
		var p *Problem
		if !errors.As(err, &p) || p.Code != UnsupportedSuffix {
			t.Errorf("%q: got %v, want unsupported_suffix", name, err)
		}
	}
	_, err := Decompress(nil, "in/a.csv")
	if want := `unsupported_suffix: "in/a.csv" ends in none of .jsonl, .jsonl.gz, .jsonl.zst: rename the file`; err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
}

func TestCorruptFilesAreReportedWithTheLineReached(t *testing.T) {
	text := strings.Repeat(good+"\n", 5)
	gz, zst := gzipped(t, text), zstdded(t, text)
	flip := func(b []byte, i int) []byte {
		b = bytes.Clone(b)
		b[i] ^= 0x55
		return b
	}
	for _, tt := range []struct {
		name, file string
		in         []byte
		lines      int
		message    string
	}{
		{"gzip cut off", "a.jsonl.gz", gz[:len(gz)-9], -1, "cannot decompress the file (gzip): it ends too early: upload it again"},
		{"gzip cut off in its header", "a.jsonl.gz", gz[:4], 0, "cannot decompress the file (gzip): it ends too early: upload it again"},
		{"gzip cut off in the name of its second member", "a.jsonl.gz", append(bytes.Clone(gz), "\x1f\x8b\x08\x08\x00\x00\x00\x00\x00\xffna"...), 5, "cannot decompress the file (gzip): it ends too early: upload it again"},
		{"gzip with a bad checksum", "a.jsonl.gz", flip(gz, len(gz)-6), -1, "cannot decompress the file (gzip): gzip: invalid checksum: upload it again"},
		{"gzip with garbage after it", "a.jsonl.gz", append(bytes.Clone(gz), "garbage garbage"...), 5, "cannot decompress the file (gzip): gzip: invalid header: upload it again"},
		{"not gzip", "a.jsonl.gz", []byte(text), 0, "cannot decompress the file (gzip): gzip: invalid header: upload it again"},
		{"zstd cut off", "a.jsonl.zst", zst[:len(zst)-9], -1, "cannot decompress the file (zstd): it ends too early: upload it again"},
		{"zstd cut off at the start of its second frame", "a.jsonl.zst", append(bytes.Clone(zst), zst[:3]...), 5, "cannot decompress the file (zstd): it ends too early: upload it again"},
		{"not zstd", "a.jsonl.zst", []byte(text), 0, "cannot decompress the file (zstd): invalid input: magic number mismatch: upload it again"},
		{"zstd with a huge window", "a.jsonl.zst", zstdFrame(28, 1), 0, "cannot decompress the file (zstd): its window is larger than 128 MiB: compress it without --long=N"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, err := Decompress(bytes.NewReader(tt.in), tt.file)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			r := newReader(d, Config{MaxLineBytes: 1 << 20, MaxInputBytes: 1 << 20}, 64)
			lines, err := readAll(r)
			p, ok := errors.AsType[*Problem](err)
			if !ok || p.Code != CorruptInput || p.Message != tt.message {
				t.Fatalf("got %v, want corrupt_input: %s", err, tt.message)
			}
			if tt.lines >= 0 && len(lines) != tt.lines || p.Line != int64(len(lines)+1) || p.Offset < int64(len(lines)*(len(good)+1)) {
				t.Errorf("%d lines, then line %d, offset %d", len(lines), p.Line, p.Offset)
			}
		})
	}
}

// A file that is cut off is whole only between two members or frames, where nobody could tell.
func TestFilesCutOffAnywhereAreCorrupt(t *testing.T) {
	skipped := append([]byte{0x50, 0x2a, 0x4d, 0x18, 20, 0, 0, 0}, make([]byte, 20)...) // a frame that is none of content
	for name, parts := range map[string][][]byte{
		"a.jsonl.gz":  {gzipped(t, good), gzipped(t, ""), gzipped(t, good)},
		"a.jsonl.zst": {zstdded(t, good), skipped, zstdded(t, good)},
	} {
		file := bytes.Join(parts, nil)
		whole := map[int]bool{0: true}
		for i := range parts {
			whole[len(bytes.Join(parts[:i+1], nil))] = true
		}
		for n := range len(file) + 1 {
			_, err := decompressed(t, bytes.NewReader(file[:n]), name)
			p, _ := errors.AsType[*Problem](err)
			if corrupt := p != nil && p.Code == CorruptInput; corrupt == whole[n] || !corrupt && err != nil {
				t.Errorf("%s, first %d bytes of %d: %v", name, n, len(file), err)
			}
		}
	}
}

// A small file that becomes a large one ends at the limit, in memory that does not grow with what it would become.
func TestBombsEndAtTheInputLimit(t *testing.T) {
	const limit = 8 << 20
	for _, content := range []string{" ", "[", "\n"} {
		bomb := strings.Repeat(content, 4*limit)
		for name, file := range map[string][]byte{"a.jsonl.gz": gzipped(t, bomb), "a.jsonl.zst": zstdded(t, bomb)} {
			d, err := Decompress(bytes.NewReader(file), name)
			if err != nil {
				t.Fatal(err)
			}
			r, err := NewReader(d, Config{MaxLineBytes: 1 << 20, MaxInputBytes: limit})
			if err != nil {
				t.Fatal(err)
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err = r.Next()
			runtime.ReadMemStats(&after)
			if p, ok := errors.AsType[*Problem](err); !ok || p.Code != InputTooLarge || p.Offset > limit+readerBuffer {
				t.Errorf("%s of %d bytes of %q: %v, want input_too_large", name, len(file), content, err)
			}
			if took := after.TotalAlloc - before.TotalAlloc; took > 2*limit {
				t.Errorf("%s of %q took %d MiB, want at most %d", name, content, took>>20, 2*limit>>20)
			}
			d.Close()
		}
	}
}

// The store may be at fault too, which another try can mend.
func TestErrorsOfTheSourceAreNotTakenForCorruption(t *testing.T) {
	for _, broken := range []error{errors.New("connection reset"), io.ErrUnexpectedEOF} {
		for name, file := range map[string][]byte{"a.jsonl": []byte(good), "a.jsonl.gz": gzipped(t, good), "a.jsonl.zst": zstdded(t, good)} {
			for _, n := range []int{0, 3, len(file) - 5} {
				src := io.MultiReader(bytes.NewReader(file[:n]), iotest.ErrReader(broken))
				if _, err := decompressed(t, src, name); err != broken {
					t.Errorf("%s after %d bytes: got %v, want %v", name, n, err, broken)
				}
			}
		}
	}
}

// zstdFrame is a frame with a window of 2^log bytes, and n blocks that repeat a zero 128 KiB times each.
func zstdFrame(log, n int) []byte {
	b := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, byte(log-10) << 3}
	for i := range n {
		header := uint32(128<<10<<3 | 1<<1) // a block of one repeated byte
		if i == n-1 {
			header |= 1
		}
		b = append(b, binary.LittleEndian.AppendUint32(nil, header)[:3]...)
		b = append(b, 0)
	}
	return b
}

func TestLargestWindowIsReadInBoundedMemory(t *testing.T) {
	const blocks = 1<<10 + 1<<7 // 144 MiB
	d, err := Decompress(bytes.NewReader(zstdFrame(27, blocks)), "a.jsonl.zst")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	n, err := io.Copy(io.Discard, d)
	runtime.ReadMemStats(&after)
	if err != nil || n != blocks*128<<10 {
		t.Fatalf("read %d bytes, %v", n, err)
	}
	if took := after.TotalAlloc - before.TotalAlloc; took > MaxWindow*5/4 {
		t.Errorf("took %d MiB, want at most 160", took>>20)
	}
}
