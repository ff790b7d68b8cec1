package e2e

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"spool/storage/batch"
)

// python has OpenAI's package; SPOOL_PYTHON names it.
func python(t *testing.T) string {
	t.Helper()
	program := cmp.Or(os.Getenv("SPOOL_PYTHON"), "python3")
	if out, err := exec.CommandContext(t.Context(), program, "-c", "import importlib.util as u; exit(u.find_spec('openai') is None)").CombinedOutput(); err != nil {
		if os.Getenv("SPOOL_REQUIRE_ALL") == "1" {
			t.Fatalf("%s cannot import openai (pip install openai==3.54.0): %v\n%s", program, err, out)
		}
		t.Skipf("%s cannot import openai (pip install openai==3.54.0, SPOOL_PYTHON names another Python)", program)
	}
	return program
}

// openAI lists files to be held against OpenAI's types: "kind=path", and the number of objects in it.
type openAI struct {
	s     *stack
	files []string
	sizes []int
}

func (o *openAI) add(kind, path string, size int) {
	o.files, o.sizes = append(o.files, kind+"="+path), append(o.sizes, size)
}

// fetch adds an object of the bucket.
func (o *openAI) fetch(kind, key string, size int) {
	o.s.t.Helper()
	path := filepath.Join(o.s.dir, fmt.Sprintf("fetched-%d-%s", len(o.files), filepath.Base(key)))
	if err := os.WriteFile(path, o.s.get(key), 0o644); err != nil {
		o.s.t.Fatal(err)
	}
	o.add(kind, path, size)
}

// drop uploads lines, adds them, and waits until their batch ends with the status.
func (o *openAI) drop(name, status string, meta map[string]string, lines ...string) batch.Object {
	o.s.t.Helper()
	path, key := o.s.write(name, lines...), "in/openai/"+name
	o.s.put(path, key, meta)
	if status == batch.Cancelled {
		if _, stderr, code := o.s.run("cancel", key); code != 0 {
			o.s.t.Fatalf("cancel: exit %d: %s", code, stderr)
		}
	}
	done := o.s.wait(key, 1)[0]
	if done.Status != status {
		o.s.t.Fatalf("batch %+v, want it %s", done, status)
	}
	o.fetch("batch", batch.OutDir(key, done.ID)+batch.ObjectName, 1)
	if done.OutputFileID != nil && done.RequestCounts.Completed > 0 {
		o.fetch("output", *done.OutputFileID, int(done.RequestCounts.Completed))
	}
	if done.ErrorFileID != nil {
		o.fetch("errors", *done.ErrorFileID, int(done.RequestCounts.Failed))
	}
	return done
}

// check has openai_types.py look at the files, and gives its findings by path.
func (o *openAI) check(python string) map[string][]string {
	o.s.t.Helper()
	cmd := exec.CommandContext(o.s.t.Context(), python, append([]string{"openai_types.py"}, o.files...)...)
	out, err := cmd.CombinedOutput()
	report, findings := string(out), make(map[string][]string)
	for i, f := range o.files {
		heading := fmt.Sprintf("%s: %d\n", f, o.sizes[i])
		if !strings.HasPrefix(report, heading) {
			o.s.t.Fatalf("%v: the report does not go on with %q:\n%s", err, heading, report)
		}
		report = report[len(heading):]
	}
	for line := range strings.Lines(report) {
		path, finding, _ := strings.Cut(strings.TrimSpace(line), ":")
		findings[path] = append(findings[path], finding)
	}
	return findings
}

func TestOpenAIsOwnTypesAcceptOurObjects(t *testing.T) {
	python := python(t)
	s := newStack(t)
	o := &openAI{s: s}
	o.drop("cancelled.jsonl", batch.Cancelled, nil, requests("c", 30, 5)...) // there is no runner yet
	rejected := o.drop("rejected.jsonl", batch.Failed, nil, request("a", 5), `{"custom_id":`, request("a", 5))
	if len(rejected.Errors.Data) != 2 {
		t.Errorf("errors.data %+v", rejected.Errors.Data)
	}

	s.runner(s.engine("--time-scale", "0"), "--idle", "5m")
	meta := map[string]string{"on-invalid": "skip", "team": "evals", "window": "1h"}
	o.drop("chat.jsonl", batch.Completed, meta, request("a", 5), strings.Replace(request("b", 5), `"temperature":0`, `"temperature":-1`, 1),
		`{"custom_id":`, request("d", 500))
	for url, body := range map[string]string{
		"/v1/completions": `{"model":"default","prompt":["one","two"],"max_tokens":5,"n":2}`,
		"/v1/embeddings":  `{"model":"default","input":["one","two"]}`,
		"/v1/responses":   `{"model":"default","input":[{"role":"user","content":"one"}],"instructions":"be brief","max_output_tokens":5}`,
	} {
		line := fmt.Sprintf(`{"custom_id":"x","method":"POST","url":%q,"body":%s}`, url, body)
		name := filepath.Base(url) + ".jsonl"
		o.drop(name, batch.Completed, nil, line)
		o.add("input", filepath.Join(s.dir, name), 1)
	}
	o.add("input", example, 200)
	wrong := o.addWrong(strings.TrimPrefix(o.files[0], "batch="))
	findings := o.check(python)
	for path, want := range wrong {
		if len(findings[path]) == 0 || !strings.Contains(findings[path][0], want) {
			t.Errorf("openai_types.py says %q of %s, want %q", findings[path], path, want)
		}
		delete(findings, path)
	}
	for path, found := range findings {
		t.Errorf("%s: %q", path, found)
	}
}

// addWrong adds files in which there is something to find, made of a good batch object and good lines. It
// gives what is to be found, by path.
func (o *openAI) addWrong(object string) map[string]string {
	o.s.t.Helper()
	text, err := os.ReadFile(object)
	if err != nil {
		o.s.t.Fatal(err)
	}
	good, line := string(text), request("a", 5)
	const answer = `{"id":"x","custom_id":"a","response":{"status_code":200,"request_id":"x","body":{"object":"list"}},"error":null}`
	const failure = `{"id":"x","custom_id":"a","response":null,"error":{"code":"c","message":"m"}}`
	want := make(map[string]string)
	for i, c := range []struct{ kind, text, old, new, finding string }{
		{"batch", good, `"status": "cancelled"`, `"status": "done"`, "status: Input should be 'validating'"},
		{"batch", good, `"created_at": `, `"created_at": "1", "x": `, "created_at: Input should be a valid integer"},
		{"batch", good, `"id": `, `"x": 1, "id": `, "x: not a member of Batch"},
		{"batch", good, `"total": `, `"x": 1, "total": `, "request_counts.x: not a member of BatchRequestCounts"},
		{"batch", good, `"total": 30,`, ``, "request_counts.total: Field required"},
		{"batch", good, `"failed_at": null,`, ``, "failed_at: missing"},
		{"input", line, `"max_tokens":5`, `"max_tokens":"5"`, "max_tokens: Input should be a valid integer"},
		{"input", line, `"role":"user"`, `"role":"nobody"`, "role: Input should be 'developer'"},
		{"input", line, `"temperature"`, `"modell"`, "body.modell: not a parameter of /v1/chat/completions"},
		{"input", line, `"body"`, `"extra":1,"body"`, "extra: Extra inputs are not permitted"},
		{"output", answer, `200`, `400`, "response: not a success"},
		{"output", answer, `"x"`, `"x"`, "data: Field required"},
		{"errors", failure, `{"code":"c","message":"m"}`, `null`, "response, error: want exactly one of them"},
		{"errors", failure, `"c"`, `7`, "error.code: Input should be a valid string"},
	} {
		if !strings.Contains(c.text, c.old) {
			o.s.t.Fatalf("no %s in %s", c.old, c.text)
		}
		path := o.s.write(fmt.Sprintf("wrong-%d", i), strings.Replace(c.text, c.old, c.new, 1))
		o.add(c.kind, path, 1)
		want[path] = c.finding
	}
	return want
}
