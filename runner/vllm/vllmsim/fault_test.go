package vllmsim

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"
)

func TestFaultPlanPicksByBodyTurnAndTimes(t *testing.T) {
	var p faultPlan
	if err := p.replace([]Fault{
		{Kind: FaultDrop, Match: "poison"},
		{Kind: FaultAbort, Every: 3, Times: 2},
		{Kind: FaultStatus, Status: 503, Match: "late"},
	}); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, body := range []string{"1", "2", "3", "4", "poison late", "late 6", "late 7", "8", "9", "10"} {
		got = append(got, p.pick([]byte(body)).Kind)
	}
	want := []string{"", "", FaultAbort, "", FaultDrop, FaultAbort, FaultStatus, "", "", ""}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("kinds (-want +got):\n%s", diff)
	}
	var counts [][2]int
	for _, c := range p.list() {
		counts = append(counts, [2]int{c.Matched, c.Fired})
	}
	if diff := cmp.Diff([][2]int{{1, 1}, {10, 2}, {3, 1}}, counts); diff != "" {
		t.Errorf("matched and fired (-want +got):\n%s", diff)
	}
}

func TestStatusFaultsHaveVLLMsShape(t *testing.T) {
	for _, c := range []struct {
		fault      Fault
		body       string
		retryAfter string
	}{
		{Fault{Status: 500}, `{"error":{"message":"EngineCore encountered an issue. See stack trace (above) for the root cause.","type":"InternalServerError","param":null,"code":500}}`, ""},
		{Fault{Status: 429, RetryAfter: 7}, `{"error":{"message":"Too Many Requests","type":"RateLimitError","param":null,"code":429}}`, "7"},
		{Fault{Status: 503, Message: "queue is full"}, `{"error":{"message":"queue is full","type":"ServiceUnavailableError","param":null,"code":503}}`, ""},
	} {
		c.fault.Kind = FaultStatus
		s := newServer(t, Config{Instant: true, Faults: []Fault{c.fault}})
		w := ask(s.Handler(), "POST", chatPath, chat("x", ""))
		if w.Code != c.fault.Status || w.Body.String() != c.body || w.Header().Get("Retry-After") != c.retryAfter {
			t.Errorf("%+v: %d, Retry-After %q, %s", c.fault, w.Code, w.Header().Get("Retry-After"), w.Body)
		}
		if n := s.Counts(); n.Answered != 1 || n.Aborted != 0 || n.Statuses[c.fault.Status] != 1 || n.GeneratedTokens != 0 {
			t.Errorf("%+v: counts %+v", c.fault, n)
		}
	}
}

func TestAbortFaultIs200WithHalfOfTheAnswer(t *testing.T) {
	cfg := Config{Instant: true, Lengths: []int{40}}
	faulty := cfg
	faulty.Faults = []Fault{{Kind: FaultAbort, Times: 2}}
	s := newServer(t, faulty)
	body := chat("x", "")
	w := ask(s.Handler(), "POST", chatPath, body)
	a, err := ParseAnswer(chatPath, w.Body.Bytes())
	if err != nil || w.Code != 200 {
		t.Fatalf("status %d, error %v", w.Code, err)
	}
	whole, err := cfg.Answer(chatPath, []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	if a.Reasons[0] != "abort" || a.CompletionTokens != 20 || !strings.HasPrefix(whole.Texts[0], a.Texts[0]) || len(strings.Fields(a.Texts[0])) != 20 {
		t.Errorf("%q with %d tokens: %q, want abort, 20, the beginning of %q", a.Reasons[0], a.CompletionTokens, a.Texts[0], whole.Texts[0])
	}
	if err := cfg.Check(chatPath, []byte(body), w.Body.Bytes()); err == nil {
		t.Error("half of an answer passes for a whole one")
	}
	if w := ask(s.Handler(), "POST", "/v1/embeddings", `{"input":"a"}`); w.Code != 500 {
		t.Errorf("aborted embedding: %d, want 500", w.Code)
	}
	if w := ask(s.Handler(), "POST", chatPath, body); cfg.Check(chatPath, []byte(body), w.Body.Bytes()) != nil {
		t.Errorf("third request: %s", w.Body)
	}
	if n := s.Counts(); n.Aborted != 2 || n.Answered != 1 {
		t.Errorf("counts %+v, want 2 aborted, 1 answered", n)
	}
}

func TestDropFaultClosesTheConnection(t *testing.T) {
	s := newServer(t, Config{Instant: true, Faults: []Fault{{Kind: FaultDrop, Times: 1}}})
	c, _ := serve(t, s)
	if a := c.post(chatPath, "", chat("x", "")); a.err == nil {
		t.Errorf("status %d, want no reply", a.status)
	}
	if a := c.post(chatPath, "", chat("x", "")); a.status != 200 {
		t.Errorf("second: status %d, error %v, want 200", a.status, a.err)
	}
	if n := s.Counts(); n.Aborted != 1 || n.Statuses[0] != 1 || n.Statuses[200] != 1 {
		t.Errorf("counts %+v", n)
	}
}

func TestDieFaultFailsAllInFlightAndEndsTheServer(t *testing.T) {
	s := newServer(t, Config{Slots: 2, TokenTime: time.Minute, Faults: []Fault{{Kind: FaultDie, Match: "poison"}}})
	c, stop := serve(t, s)
	running, waiting := c.start(t.Context(), chatPath, "", chat("a", `,"n":2`)), c.start(t.Context(), "/v1/embeddings", "", `{"input":"a"}`)
	eventually(t, "one runs and one waits", func() bool { n := s.Counts(); return n.Running == 2 && n.Waiting == 1 })
	for name, reply := range map[string]answered{"poison": c.post(chatPath, "", chat("poison", "")), "running": <-running, "waiting": <-waiting} {
		if reply.status != 500 || !strings.Contains(reply.body, "EngineCore encountered an issue") {
			t.Errorf("%s: status %d, error %v, body %q, want EngineCore's 500", name, reply.status, reply.err, reply.body)
		}
	}
	if err := stop(); !errors.Is(err, ErrEngineDead) {
		t.Errorf("serve: %v, want ErrEngineDead", err)
	}
	if w := ask(s.Handler(), "GET", "/health", ""); w.Code != 503 || w.Body.Len() != 0 {
		t.Errorf("health: %d %q, want an empty 503", w.Code, w.Body)
	}
	if n := s.Counts(); n.Aborted != 3 || n.Statuses[500] != 3 {
		t.Errorf("counts %+v, want 3 aborted with 500", n)
	}
}

func TestFaultsCanBeReplacedWhileItRuns(t *testing.T) {
	s := newServer(t, Config{Instant: true})
	h := s.Handler()
	if w := ask(h, "POST", "/sim/faults", `[{"kind":"status","status":503,"times":1}]`); w.Code != 200 {
		t.Fatalf("post: %d %s", w.Code, w.Body)
	}
	first, second := ask(h, "POST", chatPath, chat("x", "")).Code, ask(h, "POST", chatPath, chat("x", "")).Code
	if first != 503 || second != 200 {
		t.Errorf("statuses %d, %d, want 503, 200", first, second)
	}
	for body, want := range map[string]string{
		`[{"kind":"status","status":503,"tiems":1}]`: "tiems",
		`[{"kind":"status","status":200}]`:           "status 200",
		`[{"kind":"hang","status":500}]`:             "no status",
		`[{"kind":"drop","every":-1}]`:               "below 0",
		`{}`:                                         "faults",
	} {
		if w := ask(h, "POST", "/sim/faults", body); w.Code != 400 || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: %d %s, want 400 about %q", body, w.Code, w.Body, want)
		}
	}
	want := []FaultCount{{Fault: Fault{Kind: "status", Status: 503, Times: 1}, Matched: 2, Fired: 1}}
	var got []FaultCount
	if err := json.Unmarshal(ask(h, "GET", "/sim/faults", "").Body.Bytes(), &got); err != nil || !cmp.Equal(got, want) {
		t.Errorf("plan %+v, error %v, want %+v", got, err, want)
	}
	if w := ask(h, "POST", "/sim/faults", `[]`); w.Code != 200 || w.Body.String() != `[]` {
		t.Errorf("clear: %d %s", w.Code, w.Body)
	}
}
