package vllmsim

import (
	"bytes"
	"fmt"
	"slices"
	"sync"
)

// Kinds of faults.
const (
	FaultStatus = "status" // an error reply with Fault.Status, at once
	FaultAbort  = "abort"  // 200 with finish_reason "abort" after half of the answer, as vLLM's at shutdown; pooling: 500
	FaultDrop   = "drop"   // the connection is closed without a reply
	FaultHang   = "hang"   // the request holds its slots and never ends, until its client goes away
	FaultDie    = "die"    // EngineCore dies: all that is in flight gets 500, then Serve returns ErrEngineDead
	FaultStall  = "stall"  // EngineCore stops for good, as by SIGSTOP: nothing ends or starts any more, and /health stays 200
)

// Shapes of the body of a status fault, as servers send them.
const (
	ShapeObject = "object" // {"error":{"message","type","param","code"}}
	ShapeString = "string" // {"error":"text"}
	ShapeDetail = "detail" // {"detail":"text"}
)

// Fault makes some requests fail. Every request is held against all faults in their order; the first
// that applies decides.
type Fault struct {
	Kind       string `json:"kind"`
	Match      string `json:"match,omitempty"`       // only requests whose body contains it; "" matches all
	Every      int    `json:"every,omitempty"`       // of these only every n-th; 0 is 1
	Times      int    `json:"times,omitempty"`       // only so often; 0 is without end
	Status     int    `json:"status,omitempty"`      // FaultStatus: 400 to 599
	Message    string `json:"message,omitempty"`     // FaultStatus: of the error; "" is EngineCore's for 500, else the status's name
	Shape      string `json:"shape,omitempty"`       // FaultStatus: of the body; "" is ShapeObject
	RetryAfter int    `json:"retry_after,omitempty"` // FaultStatus: seconds, for the header; 0 sends none
}

func (f Fault) validate() error {
	switch f.Kind {
	case FaultStatus:
		if f.Status < 400 || f.Status > 599 {
			return fmt.Errorf("status %d, want 400 to 599", f.Status)
		}
		if !slices.Contains([]string{"", ShapeObject, ShapeString, ShapeDetail}, f.Shape) {
			return fmt.Errorf("unknown shape %q", f.Shape)
		}
	case FaultAbort, FaultDrop, FaultHang, FaultDie, FaultStall:
		if f.Status != 0 || f.Message != "" || f.Shape != "" || f.RetryAfter != 0 {
			return fmt.Errorf("kind %q has no status, message, shape or retry_after", f.Kind)
		}
	default:
		return fmt.Errorf("unknown kind %q", f.Kind)
	}
	if f.Every < 0 || f.Times < 0 || f.RetryAfter < 0 {
		return fmt.Errorf("every, times, retry_after: want none below 0")
	}
	return nil
}

// FaultCount is a fault and what came of it, as GET /sim/faults tells it.
type FaultCount struct {
	Fault
	Matched int `json:"matched"` // requests whose body matched
	Fired   int `json:"fired"`   // requests that it decided
}

// faultPlan holds the faults; its methods may be called concurrently.
type faultPlan struct {
	mu     sync.Mutex
	counts []FaultCount
}

// replace starts anew with other faults.
func (p *faultPlan) replace(faults []Fault) error {
	counts := make([]FaultCount, len(faults))
	for i, f := range faults {
		if err := f.validate(); err != nil {
			return fmt.Errorf("fault %d: %w", i, err)
		}
		counts[i].Fault = f
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counts = counts
	return nil
}

// pick finds the fault of a request; its Kind is "" if there is none.
func (p *faultPlan) pick(body []byte) Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	var picked Fault
	for i := range p.counts {
		c := &p.counts[i]
		if c.Match != "" && !bytes.Contains(body, []byte(c.Match)) {
			continue
		}
		c.Matched++
		if picked.Kind == "" && c.Matched%max(c.Every, 1) == 0 && (c.Times == 0 || c.Fired < c.Times) {
			c.Fired++
			picked = c.Fault
		}
	}
	return picked
}

func (p *faultPlan) list() []FaultCount {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]FaultCount{}, p.counts...)
}
