package vllmsim

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// checkLedger wants so many requests, each asked once, and then answered once with 200.
func checkLedger(t *testing.T, path string, requests int) {
	t.Helper()
	entries, err := ReadLedger(path)
	if err != nil {
		t.Fatal(err)
	}
	asked := map[string]Entry{}
	answered := 0
	for _, e := range entries {
		first, seen := asked[e.ID]
		switch {
		case e.Event == Asked && !seen:
			asked[e.ID] = e
		case e.Event == Answered && seen && e.SHA256 == first.SHA256 && e.Status == 200 && e.Time >= first.Time:
			answered++
		default:
			t.Errorf("entry %+v after %+v", e, first)
		}
	}
	if len(asked) != requests || answered != requests {
		t.Errorf("%d asked, %d answered, want %d", len(asked), answered, requests)
	}
}

func TestLedgerSaysWhatWasAsked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger")
	s := newServer(t, Config{Instant: true, LedgerPath: path})
	before := time.Now().UnixNano()
	ask(s.Handler(), "POST", "/v1/completions", `{"prompt":"a"}`)
	ask(s.Handler(), "POST", "/v1/completions", `{"prompt":""}`)
	got, err := ReadLedger(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range got {
		if got[i].Time < before || got[i].Time > time.Now().UnixNano() {
			t.Errorf("entry %d: time %d", i, got[i].Time)
		}
		got[i].Time = 0
	}
	// printf '{"prompt":"a"}' | sha256sum
	first := Entry{ID: "rid-1", Path: "/v1/completions", SHA256: "732acbb3e402e912437dbe53442ca54368b45e73c284acbf4c0530fac53cca74", PID: os.Getpid()}
	second := first
	second.SHA256 = "08c40fabb3729729dc79e478bb91ffcd858df1fe404140a492661363c4584b06"
	want := []Entry{first, first, second, second}
	want[0].Event, want[1].Event, want[2].Event, want[3].Event = Asked, Answered, Asked, Answered
	want[1].Status, want[3].Status = 200, 400
	if !slices.Equal(got, want) {
		t.Errorf("ledger\n%+v, want\n%+v", got, want)
	}
}

func TestTornLastLineOfLedgerIsLeftOut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger")
	l, err := OpenLedger(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"a", "b"} {
		if err := l.Append(Entry{Event: Asked, ID: id}); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := range len(whole) + 1 {
		if err := os.WriteFile(path, whole[:cut], 0o644); err != nil {
			t.Fatal(err)
		}
		got, err := ReadLedger(path)
		if want := strings.Count(string(whole[:cut]), "\n"); err != nil || len(got) != want {
			t.Fatalf("cut at %d: %d entries, error %v, want %d", cut, len(got), err, want)
		}
	}
	if err := os.WriteFile(path, append([]byte("{\"ev\n"), whole...), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadLedger(path); err == nil || !strings.Contains(err.Error(), "line 1") {
		t.Errorf("garbage in the middle: error %v, want one that names line 1", err)
	}
}

func TestLedgerThatCannotBeWrittenFailsTheRequest(t *testing.T) {
	s, err := New(Config{Instant: true, LedgerPath: filepath.Join(t.TempDir(), "ledger")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if w := ask(s.Handler(), "POST", "/v1/completions", `{"prompt":"a"}`); w.Code != 500 || !strings.Contains(w.Body.String(), "write ledger") {
		t.Errorf("status %d, body %s, want 500 about the ledger", w.Code, w.Body)
	}
}
