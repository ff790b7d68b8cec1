package vllmsim

import (
	"crypto/subtle"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// route is what a path answers: a handler for each method.
type route map[string]http.HandlerFunc

func (s *Server) makeRoutes() map[string]route {
	get := func(h http.HandlerFunc) route { return route{http.MethodGet: h} }
	routes := map[string]route{
		"/health":     get(s.health),
		"/ping":       {http.MethodGet: s.health, http.MethodPost: s.health},
		"/version":    get(s.version),
		"/v1/models":  get(s.models),
		"/metrics":    get(promhttp.HandlerFor(s.gather, promhttp.HandlerOpts{}).ServeHTTP),
		"/sim/ledger": get(func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, s.Counts()) }),
		"/sim/faults": {http.MethodGet: s.getFaults, http.MethodPost: s.postFaults},
	}
	for _, path := range Endpoints() {
		routes[path] = route{http.MethodPost: s.infer}
	}
	return routes
}

// Handler is the HTTP side of the server.
func (s *Server) Handler() http.Handler { return http.HandlerFunc(s.dispatch) }

func (s *Server) dispatch(w http.ResponseWriter, r *http.Request) {
	if !s.authorized(r) {
		writeJSON(w, http.StatusUnauthorized, map[string]string{"error": "Unauthorized"})
		return
	}
	rt, ok := s.routes[r.URL.Path]
	if !ok {
		writeJSON(w, http.StatusNotFound, map[string]string{"detail": "Not Found"})
		return
	}
	h, ok := rt[r.Method]
	if !ok {
		for method := range rt {
			w.Header().Add("Allow", method)
		}
		writeJSON(w, http.StatusMethodNotAllowed, map[string]string{"detail": "Method Not Allowed"})
		return
	}
	h(w, r)
}

// authorized asks for the key where vLLM does: /score, /rerank, /pooling, /classify, /health and
// /metrics stay open (docs/usage/security.md).
func (s *Server) authorized(r *http.Request) bool {
	guarded := strings.HasPrefix(r.URL.Path, "/v1") || strings.HasPrefix(r.URL.Path, "/v2")
	if s.cfg.APIKey == "" || !guarded {
		return true
	}
	scheme, key, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	return strings.EqualFold(scheme, "bearer") && subtle.ConstantTimeCompare([]byte(key), []byte(s.cfg.APIKey)) == 1
}

func (s *Server) health(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Length", "0")
	if s.isDead() {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
}

func (s *Server) version(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]string{"version": Version})
}

func (s *Server) models(w http.ResponseWriter, _ *http.Request) {
	list := modelList{Object: "list"}
	for _, name := range s.cfg.names() {
		permission := modelPermission{
			ID: "modelperm-" + name, Object: "model_permission", Created: s.created,
			AllowSampling: true, AllowLogprobs: true, AllowView: true, Organization: "*",
		}
		list.Data = append(list.Data, modelCard{
			ID: name, Object: "model", Created: s.created, OwnedBy: "vllm", Root: s.cfg.Model,
			MaxModelLen: s.cfg.MaxModelLen, Permission: []modelPermission{permission},
		})
	}
	writeJSON(w, http.StatusOK, list)
}

func (s *Server) getFaults(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, s.faults.list())
}

// postFaults replaces the fault plan by a JSON array of Fault.
func (s *Server) postFaults(w http.ResponseWriter, r *http.Request) {
	var faults []Fault
	body, err := io.ReadAll(r.Body)
	if err == nil {
		err = json.Unmarshal(body, &faults, json.RejectUnknownMembers(true))
	}
	if err == nil {
		err = s.faults.replace(faults)
	}
	if err != nil {
		writeJSON(w, http.StatusBadRequest, map[string]string{"detail": fmt.Sprintf("faults: %v", err)})
		return
	}
	s.getFaults(w, r)
}

// Counts are what a Server has done since New, as GET /sim/ledger tells it.
type Counts struct {
	Asked    int         `json:"asked"`
	Answered int         `json:"answered"`
	Aborted  int         `json:"aborted"`
	Statuses map[int]int `json:"statuses"` // of those that ended; 0 is no reply

	Running         int `json:"running"` // sequences, not requests, from here on
	Waiting         int `json:"waiting"`
	MaxRunning      int `json:"max_running"`
	MaxWaiting      int `json:"max_waiting"`
	PromptTokens    int `json:"prompt_tokens"`
	GeneratedTokens int `json:"generated_tokens"`

	SlotSeconds   float64 `json:"slot_seconds"`   // sum over the slots of the time they were taken
	ActiveSeconds float64 `json:"active_seconds"` // time with any slot taken
	FullSeconds   float64 `json:"full_seconds"`   // time with all slots taken
}

func (s *Server) count(f func(*Counts)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.counts)
}

// Counts tells what was done so far.
func (s *Server) Counts() Counts {
	e := s.engine.snapshot()
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.counts
	c.Statuses = make(map[int]int, len(s.counts.Statuses))
	for status, n := range s.counts.Statuses {
		c.Statuses[status] = n
	}
	c.Running, c.Waiting, c.MaxRunning, c.MaxWaiting = e.running, e.waiting, e.maxRunning, e.maxWaiting
	c.PromptTokens, c.GeneratedTokens = e.promptTokens, e.generatedTokens
	c.SlotSeconds, c.ActiveSeconds, c.FullSeconds = e.busy.Seconds(), e.active.Seconds(), e.full.Seconds()
	return c
}
