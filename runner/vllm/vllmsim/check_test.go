package vllmsim

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// one request for every endpoint.
func oneOfEach() map[string]string {
	return map[string]string{
		chatPath:          chat("Why is the sky blue?", `,"n":2`),
		"/v1/completions": `{"prompt":["one","two"],"max_tokens":40,"n":2,"echo":true}`,
		"/v1/responses":   `{"input":"hello","instructions":"be kind"}`,
		"/v1/embeddings":  `{"input":["one","two"]}`,
		"/pooling":        `{"input":"one","encoding_format":"base64"}`,
		"/classify":       `{"input":["one","two"]}`,
		"/v1/score":       `{"text_1":"a","text_2":["b","c"]}`,
		"/score":          `{"queries":["a","b"],"documents":["b","c"]}`,
		"/v1/rerank":      `{"query":"a","documents":["b","c","d"]}`,
		"/v2/rerank":      `{"query":"a","documents":["b","c","d"],"top_n":2}`,
		"/rerank":         `{"query":"a","documents":["b","c","d"],"top_n":9}`,
	}
}

func TestEveryEndpointAnswersAsConfigSays(t *testing.T) {
	cfg := Config{Instant: true}
	h := newServer(t, cfg).Handler()
	requests := oneOfEach()
	for _, path := range Endpoints() {
		w := ask(h, "POST", path, requests[path])
		if w.Code != 200 {
			t.Errorf("%s: status %d: %s", path, w.Code, w.Body)
			continue
		}
		if err := cfg.Check(path, []byte(requests[path]), w.Body.Bytes()); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestCheckRefusesEveryWrongAnswer(t *testing.T) {
	cfg := Config{Instant: true}
	h := newServer(t, cfg).Handler()
	right := chat("Why is the sky blue?", `,"temperature":0`)
	reply := ask(h, "POST", chatPath, right).Body.String()
	for name, wrong := range map[string]struct{ request, reply, why string }{
		"another line's":      {right, ask(h, "POST", chatPath, chat("Why is the sky red?", `,"temperature":0`)).Body.String(), "texts"},
		"a space was lost":    {strings.Replace(right, `,"temp`, `, "temp`, 1), reply, "texts"},
		"a parameter changed": {strings.Replace(right, `:0}`, `:1}`, 1), reply, "texts"},
		"a word is missing":   {right, strings.Replace(reply, " the ", " ", 1), "texts"},
		"cut short":           {right, strings.Replace(reply, `"stop"`, `"abort"`, 1), "finish reasons"},
		"usage":               {right, strings.Replace(reply, `"completion_tokens":`, `"completion_tokens":1`, 1), "usage"},
		"another endpoint's":  {right, ask(h, "POST", "/v1/completions", `{"prompt":"x"}`).Body.String(), "object"},
		"an error":            {right, ask(h, "POST", chatPath, `{}`).Body.String(), "object"},
		"half of the body":    {right, reply[:len(reply)/2], "unexpected EOF"},
		"another seed":        {right, ask(newServer(t, Config{Instant: true, Seed: 7}).Handler(), "POST", chatPath, right).Body.String(), "texts"},
	} {
		err := cfg.Check(chatPath, []byte(wrong.request), []byte(wrong.reply))
		if err == nil || !strings.Contains(err.Error(), wrong.why) {
			t.Errorf("%s: error %v, want one about %q", name, err, wrong.why)
		}
	}
	if err := cfg.Check(chatPath, []byte(right), []byte(reply)); err != nil {
		t.Errorf("the right one: %v", err)
	}
	var refusal *Error
	if err := cfg.Check(chatPath, []byte(`{"messages":[]}`), []byte(reply)); !errors.As(err, &refusal) || refusal.Code != 400 {
		t.Errorf("refused request: %v, want an Error with code 400", err)
	}
}

func TestCheckRefusesForeignVectorsAndScores(t *testing.T) {
	cfg := Config{Instant: true}
	h := newServer(t, cfg).Handler()
	for _, c := range []struct{ path, mine, other string }{
		{"/v1/embeddings", `{"input":"a"}`, `{"input":"b"}`},
		{"/pooling", `{"input":"a","encoding_format":"base64"}`, `{"input":"b","encoding_format":"base64"}`},
		{"/classify", `{"input":"a"}`, `{"input":"b"}`},
		{"/v1/score", `{"text_1":"a","text_2":"b"}`, `{"text_1":"a","text_2":"c"}`},
		{"/rerank", `{"query":"a","documents":["b","c"]}`, `{"query":"a","documents":["c","b"]}`},
	} {
		reply := ask(h, "POST", c.path, c.other).Body.Bytes()
		if err := cfg.Check(c.path, []byte(c.mine), reply); err == nil {
			t.Errorf("%s: the answer to %s passes for that to %s", c.path, c.other, c.mine)
		}
	}
}

// These values are part of what is promised: a test in another language may compute them.
func TestAnswerIsTheSameForEver(t *testing.T) {
	cfg := Config{Lengths: []int{6}}
	body := []byte(`{"messages":[{"role":"user","content":"hi"}],"n":2}`) // sha256sum: 937fe2700ff66dad…
	got, err := cfg.Answer(chatPath, body)
	if err != nil {
		t.Fatal(err)
	}
	want := Answer{
		Texts:            []string{"937fe2700ff66dad.0 ice jar two gas net", "937fe2700ff66dad.1 hat egg all pot cup"},
		Reasons:          []string{"stop", "stop"},
		PromptTokens:     8,
		CompletionTokens: 12,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("answer (-want +got):\n%s", diff)
	}
}

func TestLengthsObeyTheRequest(t *testing.T) {
	cfg := Config{Lengths: []int{100}, MaxModelLen: 300}
	for _, c := range []struct {
		more   string
		tokens int
		reason string
	}{
		{``, 100, "stop"},
		{`,"max_tokens":100`, 100, "stop"},
		{`,"max_tokens":99`, 99, "length"},
		{`,"max_tokens":150`, 100, "stop"},
		{`,"max_tokens":150,"min_tokens":120`, 120, "stop"},
		{`,"max_tokens":150,"ignore_eos":true`, 150, "length"},
		{`,"max_tokens":150,"max_completion_tokens":20`, 20, "length"},
		{`,"max_tokens":1`, 1, "length"},
		{`,"max_tokens":300,"ignore_eos":true`, 292, "length"}, // what the prompt of 8 leaves
		{`,"n":3`, 300, "stop"},
	} {
		got, err := cfg.Answer(chatPath, []byte(chat("hi", c.more)))
		if err != nil {
			t.Errorf("%s: %v", c.more, err)
			continue
		}
		words := 0
		for _, text := range got.Texts {
			words += len(strings.Fields(text))
		}
		if got.CompletionTokens != c.tokens || words != c.tokens || got.Reasons[0] != c.reason || got.PromptTokens != 8 {
			t.Errorf("%s: %d tokens, %d words, %q, prompt %d, want %d, %q, 8", c.more, got.CompletionTokens, words, got.Reasons[0], got.PromptTokens, c.tokens, c.reason)
		}
	}
}

func TestTextIsCutButUsageCountsAll(t *testing.T) {
	cfg := Config{Lengths: []int{100}, TextTokens: 3}
	got, err := cfg.Answer(chatPath, []byte(chat("hi", "")))
	if err != nil {
		t.Fatal(err)
	}
	if words := strings.Fields(got.Texts[0]); len(words) != 4 || words[3] != "..." || got.CompletionTokens != 100 {
		t.Errorf("text %q, %d tokens, want 3 words and a mark, 100", got.Texts[0], got.CompletionTokens)
	}
}

func TestLengthsAreDrawnFromTheListAndScaled(t *testing.T) {
	if n := len(realLengths()); n != 805 {
		t.Fatalf("%d lengths are embedded, want 805", n)
	}
	cfg := Config{LengthScale: 2, MaxModelLen: 1 << 20}.withDefaults()
	sum, seeds := 0, 0
	const requests = 5000
	other := cfg
	other.Seed = 1
	for i := range requests {
		v := voiceOf(chatPath, []byte{byte(i), byte(i >> 8)})
		sum += v.length(0, &cfg)
		if v.length(0, &cfg) != v.length(0, &other) {
			seeds++
		}
	}
	if mean := float64(sum) / requests; math.Abs(mean-2*468) > 30 {
		t.Errorf("mean length %.0f, want twice 468", mean)
	}
	if seeds < requests*9/10 {
		t.Errorf("another seed changes only %d of %d lengths", seeds, requests)
	}
}

func TestEqualTextsAreEquallyEmbeddedAndOthersAreNot(t *testing.T) {
	a, b := embed("cat", 64), embed("cat", 64)
	var norm float64
	for i := range a {
		if a[i] != b[i] {
			t.Fatalf("dimension %d: %v and %v", i, a[i], b[i])
		}
		norm += float64(a[i]) * float64(a[i])
	}
	if math.Abs(norm-1) > 1e-6 {
		t.Errorf("norm² %v, want 1", norm)
	}
	if s := similarity("cat", "cat", 64); math.Abs(s-1) > 1e-6 {
		t.Errorf("a text is %v like itself, want 1", s)
	}
	if s := similarity("cat", "dog", 64); math.Abs(s) > 0.7 {
		t.Errorf("foreign texts are %v alike", s)
	}
}
