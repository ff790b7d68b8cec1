package jsonl

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// testConfig has small limits.
var testConfig = Config{MaxLineBytes: 4096, MaxDepth: 20, MaxN: 4, MaxTokens: 1000}

func newChecker(t testing.TB, cfg Config) *Checker {
	t.Helper()
	c, err := NewChecker(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCheckSaysWhatIsWrongWithALine(t *testing.T) {
	for _, tt := range badLines {
		t.Run(tt.name, func(t *testing.T) {
			c := newChecker(t, testConfig)
			req, got := c.Check(Line{Number: 7, Offset: 70, Bytes: []byte(tt.line)})
			want := &Problem{Code: tt.code, Line: 7, Offset: 70, Column: tt.column, Message: tt.message}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("problem (-want +got):\n%s", diff)
			}
			if string(req.CustomID) != tt.id || (tt.id == "") != (req.CustomID == nil) {
				t.Errorf("custom_id %q, want %q", req.CustomID, tt.id)
			}
			if c.Endpoint() != "" {
				t.Errorf("a bad line set the endpoint %q", c.Endpoint())
			}
		})
	}
}

func TestCheckReadsGoodLines(t *testing.T) {
	for _, tt := range goodLines {
		t.Run(tt.name, func(t *testing.T) {
			req, p := newChecker(t, testConfig).Check(Line{Bytes: []byte(tt.line)})
			if p != nil {
				t.Fatal(p)
			}
			got := [3]string{string(req.CustomID), string(req.Body), string(req.Model)}
			if want := [3]string{tt.id, tt.body, tt.model}; got != want {
				t.Errorf("got custom_id, body, model %q, want %q", got, want)
			}
		})
	}
}

func TestCheckHasNoCapsByDefault(t *testing.T) {
	line := head + `{"n":1e9,"n":"x","max_tokens":99999999999999999999,"max_tokens":[]}}`
	if _, p := newChecker(t, Config{}).Check(Line{Bytes: []byte(line)}); p != nil {
		t.Error(p)
	}
}

func TestCheckHoldsAFileToOneURL(t *testing.T) {
	line := func(id, method, url string) Line {
		return Line{Bytes: fmt.Appendf(nil, `{"custom_id":%q,"method":%q,"url":%q,"body":{}}`, id, method, url)}
	}
	c := newChecker(t, Config{})
	for _, tt := range []struct {
		line     Line
		code     Code
		endpoint string
	}{
		{line("1", "GET", "/v1/completions"), InvalidMethod, ""}, // bad lines do not decide
		{line("2", "POST", "/v1/embeddings"), "", "/v1/embeddings"},
		{line("3", "POST", "/v1/completions"), MixedEndpoints, "/v1/embeddings"},
		{line("4", "POST", "/v1/embeddings"), "", "/v1/embeddings"},
		{line("5", "POST", "/v1/nothing"), UnsupportedURL, "/v1/embeddings"},
	} {
		req, p := c.Check(tt.line)
		var code Code
		if p != nil {
			code = p.Code
		} else if req.URL != tt.endpoint {
			t.Errorf("%s: url %q, want %q", tt.line.Bytes, req.URL, tt.endpoint)
		}
		if code != tt.code || c.Endpoint() != tt.endpoint {
			t.Errorf("%s: code %q, endpoint %q; want %q, %q", tt.line.Bytes, code, c.Endpoint(), tt.code, tt.endpoint)
		}
	}
	_, p := c.Check(line("3", "POST", "/v1/completions"))
	const want = `"url" at byte 40 is "/v1/completions", that of the lines before is "/v1/embeddings": use one file for each url`
	if p.Message != want || p.Column != 40 {
		t.Errorf("column %d, message %q; want 40, %q", p.Column, p.Message, want)
	}
}

func TestCheckAcceptsOnlyConfiguredEndpoints(t *testing.T) {
	c := newChecker(t, Config{Endpoints: []string{"/v1/mine"}})
	if req, p := c.Check(Line{Bytes: []byte(`{"custom_id":"a","method":"POST","url":"/v1/mine","body":{}}`)}); p != nil || req.URL != "/v1/mine" {
		t.Errorf("url %q, problem %v", req.URL, p)
	}
	if _, p := newChecker(t, Config{Endpoints: []string{"/v1/mine"}}).Check(Line{Bytes: []byte(good)}); p == nil || p.Code != UnsupportedURL {
		t.Errorf("got %v, want unsupported_url", p)
	}
	for _, u := range DefaultEndpoints() {
		line := fmt.Appendf(nil, `{"custom_id":"a","method":"POST","url":%q,"body":{}}`, u)
		if req, p := newChecker(t, Config{}).Check(Line{Bytes: line}); p != nil || req.URL != u {
			t.Errorf("url %q, problem %v; want %q", req.URL, p, u)
		}
	}
}

func TestCheckAnswersAProblemOfTheReaderWithIt(t *testing.T) {
	want := &Problem{Code: LineTooLong, Line: 3}
	if req, got := newChecker(t, Config{}).Check(Line{Number: 3, Problem: want}); got != want || req.CustomID != nil {
		t.Errorf("got %v, %v", req, got)
	}
}

// Results of one line must not show in those of the next.
func TestCheckForgetsTheLineBefore(t *testing.T) {
	c := newChecker(t, Config{})
	if _, p := c.Check(Line{Bytes: []byte(`{"custom_id":"x\u0041","method":"GET"`)}); p == nil {
		t.Fatal("a broken line was accepted")
	}
	if req, p := c.Check(Line{Bytes: []byte(`{"method":"POST","url":"/v1/embeddings","body":{"model":"m"}}`)}); p.Code != MissingCustomID || req.CustomID != nil {
		t.Errorf("got %q, %v", req.CustomID, p)
	}
	if req, p := c.Check(Line{Bytes: []byte(head + `{}}`)}); p != nil || string(req.CustomID) != "a" || req.Model != nil {
		t.Errorf("got %q, model %q, %v", req.CustomID, req.Model, p)
	}
}

func TestHugeNestingEndsInAnError(t *testing.T) {
	const most = 16 << 20
	for _, open := range []string{"[", `{"a":`, `[{"a":`} {
		line := bytes.Repeat([]byte(open), most/len(open))
		_, p := newChecker(t, Config{}).Check(Line{Bytes: line})
		if p == nil || p.Code != TooDeep {
			t.Errorf("%d bytes of %s: got %v, want too_deep", len(line), open, p)
		}
	}
	deepest := head + strings.Repeat(`{"a":`, 999) + "1" + strings.Repeat("}", 999) + "}"
	if _, p := newChecker(t, Config{}).Check(Line{Bytes: []byte(deepest)}); p != nil {
		t.Errorf("1,000 levels: %v", p)
	}
}

func TestGoodLinesCostNoAllocation(t *testing.T) {
	lines := []Line{
		{Bytes: []byte(good)},
		{Bytes: []byte(`{"custom\u005fid":"\u0061","method":"POST","url":"\/v1\/chat\/completions","body":{"model":"a\/b","n":1.5e0,"max_tokens":17}}`)},
		{Bytes: []byte(head + `{"messages":[{"role":"user","content":"` + strings.Repeat(`naïve\n`, 1000) + `"}]}}`)},
	}
	c := newChecker(t, Config{MaxN: 4, MaxTokens: 1000})
	check := func() {
		for _, l := range lines {
			if _, p := c.Check(l); p != nil {
				t.Fatal(p)
			}
		}
	}
	check() // buffers grow once
	if n := testing.AllocsPerRun(100, check); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

func TestConfigRefusesWhatMakesNoSense(t *testing.T) {
	for _, cfg := range []Config{
		{MaxLineBytes: -1}, {MaxLineBytes: 1<<30 + 1}, {MaxDepth: -1}, {MaxDepth: 10_001},
		{MaxInputBytes: -1}, {MaxN: -1}, {MaxTokens: -1},
	} {
		if _, err := NewChecker(cfg); err == nil {
			t.Errorf("NewChecker(%+v) succeeded", cfg)
		}
		if _, err := NewReader(nil, cfg); err == nil {
			t.Errorf("NewReader(%+v) succeeded", cfg)
		}
	}
}

// Each code has a line in the package comment, and a test that gets it.
func TestEveryCodeIsDocumentedAndTested(t *testing.T) {
	tested := map[string]bool{
		string(MixedEndpoints): true, string(DuplicateCustomID): true,
		string(UnsupportedSuffix): true, string(CorruptInput): true, string(InputTooLarge): true,
	}
	for _, l := range badLines {
		tested[string(l.code)] = true
	}
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	codes := declaredCodes(t)
	if len(codes) != 24 {
		t.Errorf("%d codes, want 24", len(codes))
	}
	for _, code := range codes {
		if !tested[code] {
			t.Errorf("no test for %s", code)
		}
		if !strings.Contains(string(doc), "\n//\t"+code+" ") {
			t.Errorf("%s is not in the package comment", code)
		}
	}
}

// declaredCodes reads the values of the Code constants in problem.go.
func declaredCodes(t *testing.T) (codes []string) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "problem.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(f, func(n ast.Node) bool {
		if v, ok := n.(*ast.ValueSpec); ok && fmt.Sprint(v.Type) == "Code" {
			code, err := strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			codes = append(codes, code)
		}
		return true
	})
	return codes
}

// All sequences of two to four bytes, at the end of a string and before other text.
func TestUTF8IsCheckedAsTheStandardLibraryDoes(t *testing.T) {
	c := newChecker(t, Config{})
	edges := []byte{0x00, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xff}
	for first := 0x80; first <= 0xff; first++ {
		for _, second := range edges {
			for _, third := range edges {
				for _, fourth := range edges {
					for _, n := range []int{2, 3, 4} {
						seq := []byte{byte(first), second, third, fourth}[:n]
						if i := bytes.IndexFunc(seq, func(r rune) bool { return r < 0x20 }); i >= 0 {
							continue // a control byte, which is another problem
						}
						b := append(append([]byte(`"`), seq...), `" 1234`...)
						if got, want := c.str(b, 1) == n+2, utf8.Valid(seq); got != want {
							t.Fatalf("% x: valid %v, want %v", seq, got, want)
						}
					}
				}
			}
		}
	}
}

// The scanner looks at eight bytes at once, and at the last seven of a line one by one.
func TestEveryByteIsCheckedAtEveryPlaceOfAString(t *testing.T) {
	c := newChecker(t, Config{})
	for _, tail := range []string{"", "12345678"} {
		for at := range 9 {
			for ch := range 256 {
				text := append(bytes.Repeat([]byte("x"), at), byte(ch))
				line := fmt.Appendf(nil, `"%s%s"`, text, tail)
				want := json.Valid(line) && utf8.Valid(line)
				_, p := c.Check(Line{Bytes: line})
				if got := p.Code == NotAnObject; got != want {
					t.Errorf("%q: got %v, but encoding/json says valid: %v", line, p, want)
				}
			}
		}
	}
}
