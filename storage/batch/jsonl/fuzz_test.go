package jsonl

import (
	"bytes"
	stdgzip "compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
)

// FuzzCheck holds Check against other parsers: encoding/json and unicode/utf8 for what is JSON,
// and a slow reading of the rules with jsontext for what is a request.
func FuzzCheck(f *testing.F) {
	for _, l := range badLines {
		f.Add([]byte(l.line))
	}
	for _, l := range goodLines {
		f.Add([]byte(l.line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		cfg := testConfig
		cfg.MaxLineBytes = 1 << 20
		req, p := newChecker(t, cfg).Check(Line{Bytes: line})
		if p != nil && p.Code == TooDeep {
			if d := depth(line[:p.Column]); d <= cfg.MaxDepth {
				t.Fatalf("%v, but the depth is %d", p, d)
			}
			return
		}
		isJSON := json.Valid(line) && utf8.Valid(line)
		if tolerant := jsontext.Value(line).IsValid(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)) &&
			utf8.Valid(line); tolerant != isJSON {
			t.Fatalf("the oracles differ: jsontext %v, encoding/json %v", tolerant, isJSON)
		}
		if got := p == nil || !breachesGrammar(p.Code); got != isJSON {
			t.Fatalf("got %v, but encoding/json says valid: %v", p, isJSON)
		}
		want, ok := reference(line, cfg)
		if ok != (p == nil) {
			t.Fatalf("got %v, but the reference says a request: %v", p, ok)
		}
		if diff := cmp.Diff(want, req); p == nil && diff != "" {
			t.Errorf("(-reference +got):\n%s", diff)
		}
		if p != nil && (p.Column < 0 || p.Column > len(line)+1 || p.Message == "" || !utf8.ValidString(p.Message)) {
			t.Errorf("bad problem %+v", p)
		}
	})
}

func breachesGrammar(code Code) bool {
	return slices.Contains([]Code{InvalidJSON, InvalidUTF8, TrailingData, BOM}, code)
}

// depth counts the objects and arrays that are open at the end of b.
func depth(b []byte) (n int) {
	inString := false
	for i := 0; i < len(b); i++ {
		switch ch := b[i]; {
		case inString && ch == '\\':
			i++
		case ch == '"':
			inString = !inString
		case inString:
		case ch == '{', ch == '[':
			n++
		case ch == '}', ch == ']':
			n--
		}
	}
	return n
}

type field struct {
	name  string
	value jsontext.Value
}

// fields reads the members of an object. A name with half of a surrogate pair becomes "\ufffd".
func fields(object []byte) ([]field, bool) {
	dec := jsontext.NewDecoder(bytes.NewReader(object), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	if tok, err := dec.ReadToken(); err != nil || tok.Kind() != '{' {
		return nil, false
	}
	var all []field
	for dec.PeekKind() != '}' {
		name, err := dec.ReadValue()
		if err != nil {
			return nil, false
		}
		unquoted, ok := str(name)
		if !ok {
			unquoted = "\ufffd"
		}
		value, err := dec.ReadValue()
		if err != nil {
			return nil, false
		}
		all = append(all, field{unquoted, value.Clone()})
	}
	_, _ = dec.ReadToken()
	_, err := dec.ReadToken()
	return all, err == io.EOF
}

// str is the content of a string, if it is one and is Unicode.
func str(v jsontext.Value) (string, bool) {
	if v.Kind() != '"' {
		return "", false
	}
	s, err := jsontext.AppendUnquote(nil, v)
	return string(s), err == nil
}

// reference reads a request by the rules of the package comment.
func reference(line []byte, cfg Config) (req Request, ok bool) {
	members, ok := fields(line)
	if !ok || !utf8.Valid(line) || len(members) != 4 {
		return req, false
	}
	seen := map[string]bool{}
	for _, m := range members {
		s, isString := str(m.value)
		switch m.name {
		case "custom_id":
			ok = isString && s != "" && len(s) <= MaxCustomIDBytes
			req.CustomID = []byte(s)
		case "method":
			ok = s == "POST"
		case "url":
			ok = slices.Contains(DefaultEndpoints(), s)
			req.URL = s
		case "body":
			req.Body = m.value
			req.Model, ok = referenceBody(m.value, cfg)
		default:
			ok = false
		}
		if !ok || seen[m.name] {
			return req, false
		}
		seen[m.name] = true
	}
	return req, true
}

// referenceBody reads the model, and reports whether the body is as it must be.
func referenceBody(b jsontext.Value, cfg Config) (model []byte, ok bool) {
	members, ok := fields(b)
	if !ok {
		return nil, false
	}
	seen := map[string]bool{}
	for _, m := range members {
		isNull := m.value.Kind() == 'n'
		switch m.name {
		case "model":
			s, isString := str(m.value)
			if ok = isNull || isString && len(s) <= MaxModelBytes; isString {
				model = []byte(s)
			}
		case "stream":
			ok = isNull || m.value.Kind() == 'f'
		case "n":
			ok = isNull || atMost(m.value, cfg.MaxN)
		case "max_tokens", "max_completion_tokens", "max_output_tokens":
			ok = isNull || atMost(m.value, cfg.MaxTokens)
		default:
			continue
		}
		if !ok || seen[m.name] {
			return nil, false
		}
		seen[m.name] = true
	}
	return model, true
}

func atMost(v jsontext.Value, most int64) bool {
	if v.Kind() != '0' {
		return false
	}
	if n, ok := new(big.Int).SetString(string(v), 10); ok {
		return n.Cmp(big.NewInt(most)) <= 0
	}
	x, err := strconv.ParseFloat(string(v), 64)
	return x <= float64(most) && (err == nil || x < 0)
}

// FuzzReader holds Reader against a reading of the whole file at once.
func FuzzReader(f *testing.F) {
	for _, s := range []string{"", "a", "a\nb\n", "\ufeffa\r\n\r\n\n  \t\nb", "\n\n", "\r", "a\r\r\n", "\xef\xbb", "\ufeff\ufeff\n",
		"0123456789012345678901234567890123456789x\r\n\r", "0123456789012345678901234567890123456789\r\nb",
		"                                          \n ", "012345678901234\r\n0123456789012345\r\n"} {
		f.Add([]byte(s), uint8(7))
	}
	f.Fuzz(func(t *testing.T, file []byte, chunk uint8) {
		const most = 40
		r := newReader(&chunks{file, int(chunk)}, Config{MaxLineBytes: most, MaxInputBytes: 1 << 30}, 16)
		got, err := readAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(splitLines(file, most), got); diff != "" {
			t.Errorf("(-reference +got):\n%s", diff)
		}
	})
}

// chunks yields at most n+1 bytes at once.
type chunks struct {
	b []byte
	n int
}

func (c *chunks) Read(p []byte) (int, error) {
	if len(c.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), c.n+1)], c.b)
	c.b = c.b[n:]
	return n, nil
}

func splitLines(file []byte, most int) (lines []Line) {
	offset := 0
	if bytes.HasPrefix(file, []byte(bom)) {
		offset = len(bom)
	}
	for i, b := range bytes.SplitAfter(file[offset:], []byte("\n")) {
		text := bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r"))
		l := Line{Number: int64(i + 1), Offset: int64(offset)}
		offset += len(b)
		switch {
		case len(text) > most:
			l.Problem = tooLong(l, int64(len(text)), most)
		case len(bytes.Trim(text, " \t\r")) == 0:
			continue
		default:
			l.Bytes = bytes.Clone(text)
		}
		lines = append(lines, l)
	}
	return lines
}

// FuzzDecompress feeds the decoders what they did not write, and what was written in two parts.
func FuzzDecompress(f *testing.F) {
	gz, zst := gzipped(f, good, "b"), zstdded(f, good, "b")
	for _, b := range [][]byte{nil, []byte("a"), gz, gz[:len(gz)-1], gz[:15], zst, zst[:len(zst)-1], zst[:3], zstdFrame(27, 3), zstdFrame(41, 1)} {
		f.Add(b, uint8(3))
	}
	f.Fuzz(func(t *testing.T, b []byte, cut uint8) {
		at := min(int(cut), len(b))
		for name, file := range map[string][]byte{
			"a.jsonl.gz":  gzipped(t, string(b[:at]), string(b[at:])),
			"a.jsonl.zst": zstdded(t, string(b[:at]), string(b[at:])),
		} {
			if got, err := decompressed(t, &chunks{file, int(cut)}, name); got != string(b) || err != nil {
				t.Errorf("%s: %q became %q, %v", name, b, got, err)
			}
		}
		decompressAny(t, b, "a.jsonl.zst")
		got, err := decompressAny(t, b, "a.jsonl.gz")
		want, stdErr := stdGunzip(b)
		if err == nil && (stdErr != nil || !bytes.Equal(got, want)) {
			t.Errorf("got %q, compress/gzip %q, %v", got, want, stdErr)
		}
		if err != nil && stdErr == nil && !headerFault(err) {
			t.Errorf("got %v, compress/gzip %q", err, want)
		}
	})
}

// headerFault tells the errors by which Decompress is stricter than compress/gzip: that does not
// look at reserved flags, and takes a file that is cut off in a name for one that ends before.
func headerFault(err error) bool {
	return strings.Contains(err.Error(), "invalid header") || strings.Contains(err.Error(), "it ends too early")
}

// fuzzOutput is the most that is decompressed of one fuzzed file.
const fuzzOutput = 1 << 20

func decompressAny(t *testing.T, b []byte, name string) ([]byte, error) {
	t.Helper()
	d, err := Decompress(bytes.NewReader(b), name)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	out, err := io.ReadAll(io.LimitReader(d, fuzzOutput))
	if p, ok := errors.AsType[*Problem](err); err != nil && (!ok || p.Code != CorruptInput) {
		t.Errorf("%s: got %v, want corrupt_input", name, err)
	}
	return out, err
}

func stdGunzip(b []byte) ([]byte, error) {
	z, err := stdgzip.NewReader(bytes.NewReader(b))
	if err == io.EOF {
		return []byte{}, nil
	}
	if err != nil {
		return []byte{}, err
	}
	return io.ReadAll(io.LimitReader(z, fuzzOutput))
}
