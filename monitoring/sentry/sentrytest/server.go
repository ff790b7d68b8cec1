// Package sentrytest is a server that takes events as Sentry does.
package sentrytest

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// Key and Project are those of every Server's DSN.
const (
	Key     = "0123456789abcdef0123456789abcdef"
	Project = "42"
)

// Event is what a Server understands of an event.
type Event struct {
	ID          string            `json:"event_id"`
	Level       string            `json:"level"`
	Message     string            `json:"message"`
	Logger      string            `json:"logger"`
	Release     string            `json:"release"`
	Environment string            `json:"environment"`
	Server      string            `json:"server_name"`
	Timestamp   time.Time         `json:"timestamp"`
	Tags        map[string]string `json:"tags"`
	Fingerprint []string          `json:"fingerprint"`
	Exception   []struct {
		Type  string `json:"type"`
		Value string `json:"value"`
	} `json:"exception"`
	Contexts map[string]struct {
		Count    int64     `json:"count"`
		First    time.Time `json:"first"`
		Last     time.Time `json:"last"`
		Requests []string  `json:"request_ids"`
		Log      string    `json:"log"`
	} `json:"contexts"`

	Raw string `json:"-"` // the whole envelope
}

// Key is the batch, stage and kind of error of the event.
func (e Event) Key() string {
	return e.Tags["batch_id"] + " " + e.Tags["stage"] + " " + e.Tags["error_type"]
}

// Count is how many failures the event stands for.
func (e Event) Count() int64 { return e.Contexts["spool"].Count }

// Server takes envelopes at the address that its DSN says, and refuses, and fails the test for, all that is not as
// https://develop.sentry.dev/sdk/data-model/envelopes/ has it.
type Server struct {
	t   testing.TB
	url string

	mu     sync.Mutex
	events []Event
	status int
}

// New starts a Server, which ends with the test.
func New(t testing.TB) *Server {
	s := &Server{t: t, status: http.StatusOK}
	h := httptest.NewServer(s)
	t.Cleanup(h.Close)
	s.url = h.URL
	return s
}

// NewUnstarted returns a Server that listens nowhere: hand requests to it.
func NewUnstarted(t testing.TB, url string) *Server {
	return &Server{t: t, url: url, status: http.StatusOK}
}

// URL is where the Server listens.
func (s *Server) URL() string { return s.url }

// DSN is the address, as Sentry writes it.
func (s *Server) DSN() string {
	return strings.Replace(s.url, "://", "://"+Key+"@", 1) + "/" + Project
}

// Answer makes the Server answer with a status; what it refuses so it does not take.
func (s *Server) Answer(status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status = status
}

// Events are those that were taken, in their order.
func (s *Server) Events() []Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Event(nil), s.events...)
}

// Counts gives the counts of the events by their keys. A key that came twice fails the test.
func (s *Server) Counts() map[string]int64 {
	s.t.Helper()
	counts := map[string]int64{}
	for _, e := range s.Events() {
		if _, twice := counts[e.Key()]; twice {
			s.t.Errorf("a second event about %s", e.Key())
		}
		counts[e.Key()] = e.Count()
	}
	return counts
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e, err := read(r)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err != nil:
		s.t.Errorf("sentry got what is no event: %v", err)
		http.Error(w, err.Error(), http.StatusBadRequest)
	case s.status != http.StatusOK:
		w.WriteHeader(s.status)
	default:
		s.events = append(s.events, e)
		fmt.Fprintf(w, `{"id":%q}`, e.ID)
	}
}

// read checks a request, and takes the one event of its envelope.
func read(r *http.Request) (e Event, err error) {
	if want := "/api/" + Project + "/envelope/"; r.Method != http.MethodPost || r.URL.Path != want {
		return e, fmt.Errorf("%s %s, want POST %s", r.Method, r.URL.Path, want)
	}
	if auth := r.Header.Get("X-Sentry-Auth"); !strings.HasPrefix(auth, "Sentry ") || !strings.Contains(auth, "sentry_key="+Key) {
		return e, fmt.Errorf("X-Sentry-Auth %q lacks the key", auth)
	}
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		if body, err = gzip.NewReader(body); err != nil {
			return e, err
		}
	}
	raw, err := io.ReadAll(body)
	if err != nil {
		return e, err
	}
	return parse(raw)
}

// parse reads an envelope: a line of headers, then items, each a line of headers and a payload.
func parse(raw []byte) (e Event, err error) {
	in := bufio.NewReader(bytes.NewReader(raw))
	var head struct {
		ID string `json:"event_id"`
	}
	if err := line(in, &head); err != nil {
		return e, fmt.Errorf("envelope header: %w", err)
	}
	var item struct {
		Type   string
		Length int
	}
	if err := line(in, &item); err != nil || item.Type != "event" {
		return e, fmt.Errorf("item header: type %q, %v", item.Type, err)
	}
	payload := make([]byte, item.Length)
	if _, err := io.ReadFull(in, payload); err != nil {
		return e, fmt.Errorf("payload: %w", err)
	}
	if rest, _ := io.ReadAll(in); len(bytes.TrimSpace(rest)) > 0 {
		return e, fmt.Errorf("more than one item: %s", rest)
	}
	if err := json.Unmarshal(payload, &e); err != nil {
		return e, fmt.Errorf("payload: %w", err)
	}
	if e.ID != head.ID || len(e.ID) != 32 {
		return e, fmt.Errorf("event id %q in the payload, %q in the header", e.ID, head.ID)
	}
	e.Raw = string(raw)
	return e, nil
}

func line(in *bufio.Reader, v any) error {
	text, err := in.ReadBytes('\n')
	if err != nil {
		return err
	}
	return json.Unmarshal(text, v)
}
