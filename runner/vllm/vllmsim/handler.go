package vllmsim

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/uuid"
)

// request is one to an endpoint, on its way through the engine and the ledger.
type request struct {
	id, path string
	body     []byte
}

func (q *request) entry(event string) Entry {
	sum := sha256.Sum256(q.body)
	return Entry{Event: event, ID: q.id, Path: q.path, SHA256: hex.EncodeToString(sum[:])}
}

// reply is how it ends.
type reply struct {
	event      string // Answered or Aborted
	status     int    // 0: the connection is closed without a reply
	body       any
	fault      string
	retryAfter int // seconds, for the header
}

func failure(event string, e *Error) reply {
	body := struct {
		Error errorInfo `json:"error"`
	}{errorInfo{e.Message, e.Type, e.Param, e.Code}}
	return reply{event: event, status: e.Code, body: body}
}

// statusReply is what a status fault sends.
func statusReply(f Fault) reply {
	e := faultError(f)
	a := failure(Answered, e)
	switch f.Shape {
	case ShapeString:
		a.body = map[string]string{"error": e.Message}
	case ShapeDetail:
		a.body = map[string]string{"detail": e.Message}
	}
	a.retryAfter = f.RetryAfter
	return a
}

type errorInfo struct {
	Message string  `json:"message"`
	Type    string  `json:"type"`
	Param   *string `json:"param"`
	Code    int     `json:"code"`
}

// infer is the handler of all endpoints that run the model.
func (s *Server) infer(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler) // the client is gone, and there was no whole request
	}
	q := &request{id: r.Header.Get("X-Request-Id"), path: r.URL.Path, body: body}
	if q.id == "" {
		q.id = strings.ReplaceAll(uuid.NewString(), "-", "")
	}
	s.count(func(c *Counts) { c.Asked++ })
	if err := s.ledger.Append(q.entry(Asked)); err != nil {
		writeJSON(w, http.StatusInternalServerError, failure(Answered, internal(err.Error())).body)
		return
	}
	var a reply
	if isJSON(r.Header.Get("Content-Type")) {
		a = s.answer(r.Context(), q)
	} else {
		a = failure(Answered, &Error{Message: "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed", Type: "Bad Request", Code: http.StatusBadRequest})
	}
	s.finish(w, q, a)
}

func isJSON(contentType string) bool {
	media, _, _ := strings.Cut(contentType, ";")
	return strings.EqualFold(strings.TrimSpace(media), "application/json")
}

// finish writes the ledger, and then the reply.
func (s *Server) finish(w http.ResponseWriter, q *request, a reply) {
	e := q.entry(a.event)
	e.Status, e.Fault = a.status, a.fault
	if err := s.ledger.Append(e); err != nil {
		a = failure(Aborted, internal(err.Error()))
	}
	s.count(func(c *Counts) {
		if a.event == Answered {
			c.Answered++
		} else {
			c.Aborted++
		}
		c.Statuses[a.status]++
	})
	if a.status == 0 {
		panic(http.ErrAbortHandler)
	}
	if a.retryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(a.retryAfter))
	}
	writeJSON(w, a.status, a.body)
}

// answer runs a request through the fault plan and the engine.
func (s *Server) answer(ctx context.Context, q *request) reply {
	f := s.faults.pick(q.body)
	a := s.attempt(ctx, q, f)
	a.fault = f.Kind
	return a
}

func (s *Server) attempt(ctx context.Context, q *request, f Fault) reply {
	switch f.Kind {
	case FaultStatus:
		return statusReply(f)
	case FaultDrop:
		return reply{event: Aborted}
	case FaultDie:
		s.die()
	case FaultStall:
		s.engine.freeze()
	}
	if s.isDead() {
		return failure(Aborted, engineDead())
	}
	t, refused := s.cfg.understand(q.path, q.body)
	if refused != nil {
		return failure(Answered, refused)
	}
	for _, seq := range t.seqs {
		seq.hung = f.Kind == FaultHang
		if f.Kind == FaultAbort {
			seq.target, seq.reason = seq.target/2, reasonAbort
		}
	}
	return s.run(ctx, q, t)
}

// run has the engine work on a task until it ends or the client goes away, which frees its slots.
func (s *Server) run(ctx context.Context, q *request, t *task) reply {
	j, err := s.engine.submit(t.seqs)
	switch {
	case errors.Is(err, errFull):
		return failure(Answered, queueOverflow())
	case err != nil:
		// What 0.32.0 was seen to say to who comes after SIGTERM.
		return failure(Aborted, internal("cannot schedule new futures after shutdown"))
	}
	select {
	case <-j.done:
	case <-ctx.Done():
		s.engine.cancel(j)
		return reply{event: Aborted}
	}
	ended := func(reason string) bool {
		return slices.ContainsFunc(t.seqs, func(q *sequence) bool { return q.reason == reason })
	}
	event := Answered
	switch {
	case ended(reasonError):
		return failure(Aborted, engineDead())
	case ended(reasonAbort) && t.pooling:
		return failure(Aborted, internal("Internal server error"))
	case ended(reasonAbort):
		event = Aborted
	}
	body := t.render(envelope{id: q.id, model: s.cfg.Model, created: time.Now().Unix()})
	return reply{event: event, status: http.StatusOK, body: body}
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	data, err := json.Marshal(body)
	if err != nil {
		status, data = http.StatusInternalServerError, []byte(`{"detail":"Internal Server Error"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.WriteHeader(status)
	_, _ = w.Write(data) // the client's loss
}
