package vllmsim

import (
	"bytes"
	"fmt"
	"os"
	"time"

	"github.com/go-json-experiment/json"
)

// Events of the ledger. Every request that reached an endpoint is asked once, and then either
// answered (a whole reply, of whatever status) or aborted (the client went away, the reply was cut,
// finish_reason is "abort", or the engine died). A request that is only asked was in flight when the
// process was killed.
const (
	Asked    = "asked"
	Answered = "answered"
	Aborted  = "aborted"
)

// Entry is one line of the ledger.
type Entry struct {
	Time   int64  `json:"time"` // Unix nanoseconds
	Event  string `json:"event"`
	ID     string `json:"id"` // X-Request-Id, made up if there was none
	Path   string `json:"path"`
	SHA256 string `json:"sha256"`           // of the body, hexadecimal
	Status int    `json:"status,omitempty"` // of the reply; 0 if there was none
	Fault  string `json:"fault,omitempty"`  // the kind of the fault that decided the reply
	PID    int    `json:"pid"`
}

// Ledger is a file to which each event is appended as one line of JSON in one write, so that several
// processes may share it, and so that a kill -9 can tear at most the last line. The line of an answer
// is written before the answer is sent. Its methods may be called concurrently; a nil Ledger writes nothing.
type Ledger struct {
	file *os.File
	pid  int
}

// OpenLedger opens or creates the file.
func OpenLedger(path string) (*Ledger, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	return &Ledger{file: f, pid: os.Getpid()}, nil
}

// Append writes e with the present time and this process's id.
func (l *Ledger) Append(e Entry) error {
	if l == nil {
		return nil
	}
	e.Time, e.PID = time.Now().UnixNano(), l.pid
	line, err := json.Marshal(&e)
	if err == nil {
		_, err = l.file.Write(append(line, '\n'))
	}
	if err != nil {
		return fmt.Errorf("write ledger: %w", err)
	}
	return nil
}

// Close closes the file.
func (l *Ledger) Close() error {
	if l == nil {
		return nil
	}
	return l.file.Close()
}

// ReadLedger reads a whole ledger. A last line without its newline is left out: it was torn by a kill.
func ReadLedger(path string) ([]Entry, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read ledger: %w", err)
	}
	var out []Entry
	for n := 1; ; n++ {
		line, rest, whole := bytes.Cut(data, []byte{'\n'})
		if !whole {
			return out, nil
		}
		var e Entry
		if err := json.Unmarshal(line, &e); err != nil {
			return out, fmt.Errorf("read ledger %q: line %d: %w", path, n, err)
		}
		out, data = append(out, e), rest
	}
}
