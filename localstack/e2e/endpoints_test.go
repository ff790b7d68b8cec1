package e2e

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"spool/runner/vllm/vllmsim"
	"spool/storage/batch"
)

// required are the members that a body needs at each endpoint, in a form with %[1]s for a text.
var required = map[string]string{
	"/v1/chat/completions": `"messages":[{"role":"user","content":%[1]s}],"max_tokens":7`,
	"/v1/completions":      `"prompt":%[1]s,"max_tokens":7`,
	"/v1/responses":        `"input":%[1]s,"max_output_tokens":7`,
	"/v1/embeddings":       `"input":[%[1]s,"b"]`,
	"/classify":            `"input":%[1]s`,
	"/pooling":             `"input":%[1]s`,
	"/v1/score":            `"text_1":%[1]s,"text_2":["a",%[1]s]`,
	"/score":               `"text_1":"a","text_2":%[1]s`,
	"/v1/rerank":           `"query":%[1]s,"documents":["a","b",%[1]s]`,
	"/v2/rerank":           `"query":"a","documents":["b",%[1]s],"top_n":1`,
	"/rerank":              `"query":%[1]s,"documents":["a"]`,
}

// oddBodies are requests that a program which parses and prints JSON would change. The engine refuses the last.
func oddBodies(url string) []string {
	with := func(text string) string { return fmt.Sprintf(required[url], text) }
	return []string{
		"{ \t\"model\" :\r \"default\"  ,\t" + with(`"white space"`) + " ,  \"x\" : [ 1 ,\t2 ] , \"y\":{ } }",
		`{"model":"default",` + with(`"numbers"`) + `,"x":[1.0000000000000001,1E+2,-0,0.10,1e-400,123456789012345678901234567890]}`,
		`{"mod\u0065l":"d\u0065fault",` + with(`"\u0065sc\/apes \ud83d\ude00 \u2028 <&>"`) + `,"x":"\u0000\u007f"}`,
		`{"x":1,"model":"default",` + with(`"names that occur twice"`) + `,"x":2,"X":3,"x":{"y":1,"y":1}}`,
		`{"model":"default",` + with(`"żółć 漢字 🙂 é é"`) + `,"x":"` + strings.Repeat("漢字🙂\u2028ß", 10_000) + `"}`,
		`{"model":"default",` + with(`"half a pair"`) + `,"x":"\ud800 \udc00"}`,
	}
}

func TestBodiesReachEveryEndpointByteForByte(t *testing.T) {
	s := newStack(t)
	e := s.engine("--time-scale", "0")
	s.runner(e, "--idle", "5m")
	if len(required) != len(vllmsim.Endpoints()) {
		t.Fatalf("%d endpoints are tested, of %d", len(required), len(vllmsim.Endpoints()))
	}
	want := make(map[string]int)
	for _, url := range vllmsim.Endpoints() {
		var lines []string
		for i, body := range oddBodies(url) {
			lines = append(lines, fmt.Sprintf("{\"url\":%q, \"body\" :\t%s ,\"custom_id\":\"\\u0069d-%d\",\"method\":\"POST\"}", url, body, i))
			sum := sha256.Sum256([]byte(body))
			want[url+" "+hex.EncodeToString(sum[:])]++
		}
		s.put(s.write("odd.jsonl", lines...), oddKey(url), nil)
	}
	for _, url := range vllmsim.Endpoints() {
		t.Run(url, func(t *testing.T) { wantOddAnswers(t, s, url) })
	}
	got := make(map[string]int)
	for _, entry := range e.asked() {
		if entry.Event == vllmsim.Asked {
			got[entry.Path+" "+entry.SHA256]++
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what the engine was asked (+) is not what the files say (-):\n%s", diff)
	}
}

func oddKey(url string) string { return "in/odd" + strings.ReplaceAll(url, "/", "-") + ".jsonl" }

// wantOddAnswers checks the results of oddBodies: right answers in order, and one that says why it is none.
func wantOddAnswers(t *testing.T, s *stack, url string) {
	t.Helper()
	bodies := oddBodies(url)
	good := len(bodies) - 1
	done := s.wait(oddKey(url), 1)[0]
	counts := batch.RequestCounts{Total: int64(len(bodies)), Completed: int64(good), Failed: 1}
	if done.Status != batch.Completed || done.Endpoint != url || done.RequestCounts != counts {
		t.Fatalf("batch %+v", done)
	}
	output := s.lines(done.OutputFileID)
	for i, l := range output {
		if want := fmt.Sprintf("id-%d", i); l.CustomID != want {
			t.Fatalf("line %d of output has custom_id %q, want %q", i+1, l.CustomID, want)
		}
		if err := (vllmsim.Config{Instant: true}).Check(url, []byte(bodies[i]), l.Response.Body); err != nil {
			t.Errorf("%.60q: %v", bodies[i], err)
		}
	}
	failed := s.lines(done.ErrorFileID)
	if len(output) != good || len(failed) != 1 {
		t.Fatalf("%d lines of output and %d errors, want %d and 1", len(output), len(failed), good)
	}
	if l := failed[0]; l.CustomID != fmt.Sprintf("id-%d", good) || l.Response == nil || l.Response.Status != 400 || l.Error != nil {
		t.Errorf("error line %+v", l)
	}
}

// TestFormsOfFilesAndKeys drops the same five requests in all the ways that users do.
func TestFormsOfFilesAndKeys(t *testing.T) {
	const bom = "\ufeff"
	lines := requests("form", 5, 5)
	lf, crlf := strings.Join(lines, "\n"), strings.Join(lines, "\r\n")
	inOrder := []int{1, 2, 3, 4, 5}
	forms := []struct {
		name, key, text string
		numbers         []int // of the lines
	}{
		{"gzip", "in/f/gzip.jsonl.gz", gzipped(t, lf+"\n"), inOrder},
		{"gzip of two members", "in/f/members.jsonl.gz", gzipped(t, bom+lines[0]+"\n") + gzipped(t, strings.Join(lines[1:], "\n")), inOrder},
		{"zstd", "in/f/zstd.jsonl.zst", zstandard(t, lf+"\n"), inOrder},
		{"zstd of two frames", "in/f/frames.jsonl.zst", zstandard(t, lines[0]+"\r\n") + zstandard(t, strings.Join(lines[1:], "\r\n")), inOrder},
		{"byte order mark", "in/f/bom.jsonl", bom + lf + "\n", inOrder},
		{"carriage returns", "in/f/crlf.jsonl", crlf + "\r\n", inOrder},
		{"no last newline", "in/f/nonewline.jsonl", lf, inOrder},
		{"no last newline, carriage returns", "in/f/nocrlf.jsonl", crlf, inOrder},
		{"blank lines", "in/f/blank.jsonl", "\n \t\n" + strings.Join(lines, "\n\r\n") + "\n\n\n", []int{3, 5, 7, 9, 11}},
		{"space", "in/f/a b.jsonl", lf, inOrder},
		{"plus and percent", "in/f/a+b%2Bc 100%.jsonl", lf, inOrder},
		{"marks of a URL", "in/f/q?a=1&b=2#c;d:e@f.jsonl", lf, inOrder},
		{"Unicode", "in/ä/漢字 🙂/é.jsonl", lf, inOrder},
		{"long key", "in/" + strings.Repeat(strings.Repeat("x", 49)+"/", 18) + "y.jsonl", lf, inOrder},
	}
	s := newStack(t)
	s.runner(s.engine("--time-scale", "0"), "--idle", "5m")
	path := filepath.Join(s.dir, "input")
	for _, f := range forms {
		if err := os.WriteFile(path, []byte(f.text), 0o644); err != nil {
			t.Fatal(err)
		}
		s.put(path, f.key, nil)
	}
	for _, f := range forms {
		t.Run(f.name, func(t *testing.T) { wantForm(t, s, f.key, lines, f.numbers) })
	}
}

// wantForm checks that the lines of a file, which have these numbers, were answered.
func wantForm(t *testing.T, s *stack, key string, lines []string, numbers []int) {
	t.Helper()
	stdout, stderr, code := s.run("wait", "--json", key)
	var waited struct {
		Batches []struct{ Batch string }
	}
	if err := json.Unmarshal([]byte(stdout), &waited); err != nil || code != 0 || len(waited.Batches) != 1 {
		t.Fatalf("wait: exit %d: %v: %s%s", code, err, stdout, stderr)
	}
	id := waited.Batches[0].Batch
	output := batch.OutDir(key, id) + batch.OutputName
	answers := s.lines(&output)
	wantRight(t, vllmsim.Config{Instant: true}, []byte(strings.Join(lines, "\n")), answers)
	for i, l := range answers {
		if want := fmt.Sprintf("batch_req_%s-%d", id, numbers[i]); l.ID != want {
			t.Errorf("line %d of output has id %q, want %q", i+1, l.ID, want)
		}
	}
}

func gzipped(t *testing.T, text string) string {
	t.Helper()
	var buf bytes.Buffer
	zw := gzip.NewWriter(&buf)
	if _, err := zw.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.String()
}

func zstandard(t *testing.T, text string) string {
	t.Helper()
	zw, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer zw.Close()
	return string(zw.EncodeAll([]byte(text), nil))
}
