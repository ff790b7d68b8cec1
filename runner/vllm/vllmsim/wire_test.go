package vllmsim

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// exchange is one that was recorded from vLLM itself; testdata/README.md says how.
type exchange struct {
	Method   string         `json:"method"`
	Path     string         `json:"path"`
	Request  string         `json:"request"`
	Status   int            `json:"status"`
	Allow    string         `json:"allow"`
	Response jsontext.Value `json:"response"`
}

func recorded(t *testing.T) []exchange {
	t.Helper()
	data, err := os.ReadFile("testdata/vllm-0.32.0.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	var out []exchange
	for line := range bytes.Lines(data) {
		var e exchange
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatal(err)
		}
		out = append(out, e)
	}
	return out
}

// recordedConfig is that of the server that was recorded. Its answers are long, so that most end by
// max_tokens, as those that were recorded.
var recordedConfig = Config{Model: "tiny", MaxModelLen: 2048, Instant: true, Lengths: []int{294}, EmbeddingSize: 3}

func TestBodiesAreVLLMsMemberForMember(t *testing.T) {
	h := newServer(t, recordedConfig).Handler()
	for i, e := range recorded(t) {
		t.Run(fmt.Sprintf("%d%s", i, strings.ReplaceAll(e.Path, "/", "_")), func(t *testing.T) {
			w := ask(h, e.Method, e.Path, e.Request)
			if w.Code != e.Status {
				t.Fatalf("status %d, want %d: %s", w.Code, e.Status, w.Body)
			}
			if got := w.Header().Get("Allow"); got != e.Allow {
				t.Errorf("Allow %q, want %q", got, e.Allow)
			}
			got, want := outline(t, w.Body.Bytes()), outline(t, e.Response)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("body of %s (-vLLM +vllmsim):\n%s", e.Request, diff)
			}
		})
	}
}

// outline lists the members of a body in their order, with the values that vllmsim has to share with
// vLLM, and with the kind of all others.
func outline(t *testing.T, body []byte) []string {
	t.Helper()
	if len(body) == 0 || string(body) == "null" { // an empty body is recorded as null
		return nil
	}
	complaint := bytes.Contains(body, []byte("validation error")) // of pydantic, whose words are its own
	var out []string
	d := jsontext.NewDecoder(bytes.NewReader(body))
	name := ""
	for {
		tok, err := d.ReadToken()
		if err != nil {
			return out
		}
		kind, length := d.StackIndex(d.StackDepth())
		if kind == '{' && length%2 == 1 && tok.Kind() == '"' {
			name = tok.String()
			continue
		}
		if strings.HasPrefix(string(d.StackPointer()), "/results/") {
			name = "" // the order of /rerank is the model's
		}
		out = append(out, string(d.StackPointer())+" "+value(name, tok, complaint))
	}
}

// shared are the members whose values are compared.
var shared = []string{
	"id", "object", "model", "index", "finish_reason", "code", "type", "param", "detail", "role", "status", "reason",
	"completion_tokens", "output_tokens", "owned_by", "max_model_len", "root", "version", "temperature", "tool_choice",
	"truncation", "max_output_tokens", "instructions", "service_tier",
}

func value(name string, tok jsontext.Token, complaint bool) string {
	compared := slices.Contains(shared, name) || name == "message" && !complaint
	text := tok.String()
	for _, random := range []string{"resp_", "msg_", "modelperm-"} {
		compared = compared && !strings.HasPrefix(text, random)
	}
	switch {
	case !compared || strings.ContainsRune("[]{}", rune(tok.Kind())):
		return tok.Kind().String()
	case tok.Kind() == '0':
		n, err := tok.Float()
		return fmt.Sprint(n, err)
	}
	return text
}

func TestMetricsHaveVLLMsNamesTypesLabelsAndBuckets(t *testing.T) {
	s := newServer(t, recordedConfig)
	ask(s.Handler(), "POST", chatPath, chat("hi", ""))
	data, err := os.ReadFile("testdata/vllm-0.32.0.metrics")
	if err != nil {
		t.Fatal(err)
	}
	got := shapes(t, ask(s.Handler(), "GET", "/metrics", "").Body.Bytes())
	if diff := cmp.Diff(shapes(t, data), got); diff != "" {
		t.Errorf("metrics (-vLLM +vllmsim):\n%s", diff)
	}
}

// shapes are the families of an exposition: type, help, labels and buckets.
func shapes(t *testing.T, text []byte) map[string][]string {
	t.Helper()
	p := expfmt.NewTextParser(model.LegacyValidation)
	fams, err := p.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]string{}
	for name, f := range fams {
		lines := []string{f.GetType().String(), f.GetHelp()}
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			slices.Sort(labels)
			lines = append(lines, strings.Join(labels, ","))
			for _, b := range m.GetHistogram().GetBucket() {
				lines = append(lines, fmt.Sprint(b.GetUpperBound()))
			}
		}
		slices.Sort(lines[2:])
		out[name] = lines
	}
	return out
}

// samples are the values of an exposition, under the names and labels as they are written.
func samples(text string) map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && name != "#" {
			out[name] = value
		}
	}
	return out
}

// The texts are what vLLM 0.32.0 said with max_model_len 2048.
func TestWhatDoesNotFitTheModelIsRefusedInVLLMsWords(t *testing.T) {
	h := newServer(t, recordedConfig).Handler()
	const tooLong = `{"error":{"message":"This model's maximum context length is 2048 tokens. However, your prompt contains at least 2049 input tokens, which exceeds this limit even without any output tokens. Please reduce the length of the input prompt. (parameter=input_tokens, value=2049)","type":"BadRequestError","param":"input_tokens","code":400}}`
	const noRoom = `{"error":{"message":"max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)","type":"BadRequestError","param":"max_tokens","code":400}}`
	text := func(tokens int) string { return strings.Repeat("a", tokens*bytesPerToken) }
	for _, c := range []struct {
		path, body, want string
	}{
		{"/v1/completions", fmt.Sprintf(`{"prompt":%q}`, text(2049)), tooLong},
		{"/v1/completions", fmt.Sprintf(`{"prompt":%q}`, text(2048)), noRoom},
		{"/v1/completions", fmt.Sprintf(`{"prompt":["a",%q]}`, text(2049)), tooLong},
		{chatPath, chat(text(2049), ""), tooLong},
		{"/v1/responses", fmt.Sprintf(`{"input":%q}`, text(2049)), tooLong},
		{"/v1/embeddings", fmt.Sprintf(`{"input":%q}`, text(2049)), tooLong},
		{"/v1/score", fmt.Sprintf(`{"text_1":"a","text_2":%q}`, text(2049)), tooLong},
		{"/rerank", fmt.Sprintf(`{"query":"a","documents":["b",%q]}`, text(2049)), tooLong},
	} {
		if w := ask(h, "POST", c.path, c.body); w.Code != 400 || w.Body.String() != c.want {
			t.Errorf("%s with %d bytes: %d %s", c.path, len(c.body), w.Code, w.Body)
		}
	}
	w := ask(h, "POST", "/v1/completions", fmt.Sprintf(`{"prompt":%q,"max_tokens":100}`, text(2000)))
	if a, err := ParseAnswer("/v1/completions", w.Body.Bytes()); err != nil || a.CompletionTokens != 48 || a.Reasons[0] != "length" {
		t.Errorf("100 tokens wished where 48 fit: %+v, error %v, want 48 and length", a, err)
	}
}
