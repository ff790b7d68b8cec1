package vllmsim

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"
)

func TestManyClientsGetTheirOwnAnswers(t *testing.T) {
	cfg := Config{Instant: true, Slots: 8, Lengths: []int{20}, LedgerPath: filepath.Join(t.TempDir(), "ledger")}
	s := newServer(t, cfg)
	c, _ := serve(t, s)
	const clients, each = 32, 20
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			for k := range each {
				body := chat(fmt.Sprintf("%d-%d", i, k), `,"n":2`)
				a := c.post(chatPath, fmt.Sprintf("r-%d-%d", i, k), body)
				if a.err != nil || a.status != 200 {
					t.Errorf("status %d, error %v", a.status, a.err)
					continue
				}
				if err := cfg.Check(chatPath, []byte(body), []byte(a.body)); err != nil {
					t.Error(err)
				}
				if want := fmt.Sprintf(`"id":"chatcmpl-r-%d-%d"`, i, k); !strings.Contains(a.body, want) {
					t.Errorf("no %s in %.100s", want, a.body)
				}
			}
		})
	}
	wg.Wait()
	got := s.Counts()
	if got.Asked != clients*each || got.Answered != clients*each || got.Aborted != 0 || got.Statuses[200] != clients*each || got.MaxRunning > 8 {
		t.Errorf("counts %+v, want %d asked and answered, none aborted, at most 8 running", got, clients*each)
	}
	if got.GeneratedTokens != clients*each*2*20 {
		t.Errorf("%d tokens, want %d", got.GeneratedTokens, clients*each*2*20)
	}
	checkLedger(t, cfg.LedgerPath, clients*each)
}

// One slot, 10 ms a token: the second of two requests waits for the first.
func TestAnswersTellTheirTimesIfAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := Config{Slots: 1, Lengths: []int{5}, TokenTime: 10 * time.Millisecond, RequestMetrics: true}
		s := newServer(t, cfg)
		post := func(body string) requestMetrics {
			w := httptest.NewRecorder()
			r := httptest.NewRequest("POST", chatPath, strings.NewReader(body))
			r.Header.Set("Content-Type", "application/json")
			s.infer(w, r)
			if err := cfg.Check(chatPath, []byte(body), w.Body.Bytes()); err != nil {
				t.Error(err)
			}
			var a struct {
				Metrics requestMetrics `json:"metrics"`
			}
			if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
				t.Error(err)
			}
			return a.Metrics
		}
		first, second := make(chan requestMetrics), make(chan requestMetrics)
		go func() { first <- post(chat("a", "")) }()
		synctest.Wait()
		go func() { second <- post(chat("b", "")) }()
		itl, rate := 10.0, 100.0
		want := requestMetrics{FirstToken: 10, Generation: 40, MeanITL: &itl, TokensPerSecond: &rate}
		if diff := cmp.Diff(want, <-first); diff != "" {
			t.Error(diff)
		}
		want.Queue = 50
		if diff := cmp.Diff(want, <-second); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(requestMetrics{}, post(chat("c", `,"n":2`))); diff != "" {
			t.Errorf("of two choices: %s", diff)
		}
	})
}

func TestClientThatLeavesFreesItsSlot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger")
	s := newServer(t, Config{Slots: 1, Lengths: []int{1}, TokenTime: time.Millisecond, LedgerPath: path, Faults: []Fault{{Kind: FaultHang, Match: "hang"}}})
	c, _ := serve(t, s)
	ctx, leave := context.WithCancel(t.Context())
	hung := c.start(ctx, chatPath, "hung", chat("hang", ""))
	eventually(t, "the first runs", func() bool { return s.Counts().Running == 1 })
	next := c.start(t.Context(), chatPath, "next", chat("x", ""))
	eventually(t, "the second waits", func() bool { return s.Counts().Waiting == 1 })
	got := samples(c.do(t.Context(), "GET", "/metrics", "", "").body)
	for name, want := range map[string]string{"num_requests_running": "1", "num_requests_waiting": "1", "generation_tokens_total": "0"} {
		if v := got["vllm:"+name+`{engine="0",model_name="vllmsim"}`]; v != want {
			t.Errorf("%s is %q, want %s", name, v, want)
		}
	}
	leave()
	if a := <-hung; !errors.Is(a.err, context.Canceled) {
		t.Errorf("the first ended with %+v", a)
	}
	if a := <-next; a.status != 200 || a.err != nil {
		t.Errorf("the second: status %d, error %v, want 200", a.status, a.err)
	}
	if n := s.Counts(); n.Asked != 2 || n.Answered != 1 || n.Aborted != 1 || n.Running != 0 {
		t.Errorf("counts %+v, want 2 asked, one answered, one aborted, none running", n)
	}
	entries, err := ReadLedger(path)
	if err != nil {
		t.Fatal(err)
	}
	last := map[string]Entry{}
	for _, e := range entries {
		last[e.ID] = e
	}
	if e := last["hung"]; e.Event != Aborted || e.Status != 0 || e.Fault != FaultHang {
		t.Errorf("the first in the ledger: %+v, want it aborted without a status", e)
	}
}

func TestMetricsCountWhatHappened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, Config{Slots: 1, Lengths: []int{50}, TokenTime: 10 * time.Millisecond, PrefillTime: 100 * time.Millisecond, MaxModelLen: 1000})
		h := s.Handler()
		var wg sync.WaitGroup
		wg.Go(func() { ask(h, "POST", chatPath, chat("hi", "")) })
		synctest.Wait()
		wg.Go(func() { ask(h, "POST", chatPath, chat("hi", `,"max_tokens":20`)) })
		elapse(350 * time.Millisecond) // 100 of prefill, 25 tokens
		half := samples(ask(h, "GET", "/metrics", "").Body.String())
		wg.Wait()
		ask(h, "POST", chatPath, `{"messages":[]}`)
		done := samples(ask(h, "GET", "/metrics", "").Body.String())
		for _, c := range []struct{ name, more, half, done string }{
			{"num_requests_running", "", "1", "0"},
			{"num_requests_waiting", "", "1", "0"},
			{"kv_cache_usage_perc", "", "0.033", "0"}, // 8 of the prompt and 25 of 1000
			{"prompt_tokens_total", "", "8", "16"},
			{"generation_tokens_total", "", "25", "70"},
			{"request_success_total", `finished_reason="stop",`, "0", "1"},
			{"request_success_total", `finished_reason="length",`, "0", "1"},
			{"request_success_total", `finished_reason="abort",`, "0", "0"},
			{"num_preemptions_total", "", "0", "0"},
			{"e2e_request_latency_seconds_count", "", "0", "2"},
			{"e2e_request_latency_seconds_sum", "", "0", "1.5"}, // 0.6, and 0.6 + 0.1 + 0.2
			{"request_queue_time_seconds_sum", "", "0", "0.6"},
			{"time_to_first_token_seconds_sum", "", "0", "0.82"}, // 0.11, and 0.6 + 0.11
			{"request_prefill_time_seconds_sum", "", "0", "0.22"},
			{"request_decode_time_seconds_sum", "", "0", "0.68"},
			{"request_inference_time_seconds_sum", "", "0", "0.9"},
			{"request_prompt_tokens_sum", "", "0", "16"},
			{"request_generation_tokens_sum", "", "0", "70"},
		} {
			key := fmt.Sprintf(`vllm:%s{engine="0",%smodel_name="vllmsim"}`, c.name, c.more)
			if half[key] != c.half || rounded(done[key]) != c.done {
				t.Errorf("%s: %q, then %q, want %s, %s", key, half[key], done[key], c.half, c.done)
			}
		}
	})
}

// rounded leaves six digits of a number.
func rounded(number string) string {
	f, err := strconv.ParseFloat(number, 64)
	if err != nil {
		return err.Error()
	}
	return strconv.FormatFloat(f, 'g', 6, 64)
}

func TestSIGTERMAbortsOrDrains(t *testing.T) {
	for _, c := range []struct {
		timeout time.Duration
		reason  string
		most    int // tokens; those of the first take longer than a busy machine needs to stop it
	}{{0, "abort", 5000}, {time.Minute, "length", 300}} {
		t.Run(c.reason, func(t *testing.T) {
			cfg := Config{Slots: 1, TokenTime: time.Millisecond, Lengths: []int{5000}, ShutdownTimeout: c.timeout}
			s := newServer(t, cfg)
			cl, stop := serve(t, s)
			running := cl.start(t.Context(), chatPath, "", chat("x", fmt.Sprintf(`,"max_tokens":%d`, c.most)))
			eventually(t, "some tokens", func() bool { return s.Counts().GeneratedTokens > 3 })
			if err := stop(); err != nil {
				t.Errorf("serve: %v", err)
			}
			a := <-running
			var r chatResponse
			if err := json.Unmarshal([]byte(a.body), &r); err != nil || a.status != 200 {
				t.Fatalf("status %d, error %v, body %q", a.status, err, a.body)
			}
			tokens := r.Usage.Completion
			if got := r.Choices[0].FinishReason; got != c.reason || len(strings.Fields(r.Choices[0].Message.Content)) != tokens {
				t.Errorf("%q after %d tokens, want %q and as many words", got, tokens, c.reason)
			}
			if whole := tokens == c.most; tokens < 3 || whole != (c.reason == "length") {
				t.Errorf("%d tokens of %d", tokens, c.most)
			}
			late := ask(s.Handler(), "POST", chatPath, chat("x", ""))
			if late.Code != 500 || !strings.Contains(late.Body.String(), "after shutdown") {
				t.Errorf("after shutdown: %d %s", late.Code, late.Body)
			}
		})
	}
}

func TestKeyIsAskedWhereVLLMAsksIt(t *testing.T) {
	h := newServer(t, Config{Instant: true, APIKey: "secret"}).Handler()
	for path, want := range map[string]int{"/v1/models": 401, "/v2/rerank": 401, "/health": 200, "/metrics": 200, "/version": 200} {
		if w := ask(h, "GET", path, ""); w.Code != want || want == 401 && w.Body.String() != `{"error":"Unauthorized"}` {
			t.Errorf("%s without key: %d %.60s, want %d", path, w.Code, w.Body, want)
		}
	}
	s := newServer(t, Config{Instant: true, APIKey: "secret"})
	c, _ := serve(t, s)
	for auth, want := range map[string]int{"Bearer secret": 200, "Bearer other": 401, "secret": 401} {
		req, err := http.NewRequestWithContext(t.Context(), "GET", c.base+"/v1/models", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", auth)
		resp, err := c.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%q: %d, want %d", auth, resp.StatusCode, want)
		}
	}
}

func TestOnlyJSONIsTaken(t *testing.T) {
	h := newServer(t, Config{Instant: true}).Handler()
	for media, want := range map[string]int{"text/plain": 400, "": 400, "application/json; charset=utf-8": 200, "Application/JSON": 200} {
		r := httptest.NewRequest("POST", "/v1/completions", strings.NewReader(`{"prompt":"a"}`))
		r.Header.Set("Content-Type", media)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("%q: %d, want %d", media, w.Code, want)
		}
	}
}

func TestBadConfigIsRefused(t *testing.T) {
	for _, c := range []struct {
		cfg  Config
		want string
	}{
		{Config{Slots: -1}, "slots"},
		{Config{TokenTime: -1}, "token times"},
		{Config{TokenTime: 5, TokenTimeFull: 4}, "token times"},
		{Config{TimeScale: -1}, "time scale"},
		{Config{Lengths: []int{1, 0}}, "lengths"},
		{Config{Lengths: []int{}}, "lengths"},
		{Config{MaxModelLen: 1}, "model length"},
		{Config{Faults: []Fault{{Kind: "x"}}}, `fault 0: unknown kind "x"`},
		{Config{LedgerPath: "/nowhere/ledger"}, "open ledger"},
	} {
		if _, err := New(c.cfg, nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: error %v, want one about %q", c.cfg, err, c.want)
		}
	}
}
