package engine

import (
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
)

// Sources lists the queues whose dead letters go to name, sorted.
func (e *Engine) Sources(name string) ([]string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, err := e.find(name); err != nil {
		return nil, err
	}
	return e.sources(name), nil
}

func (e *Engine) sources(name string) []string {
	var found []string
	for _, source := range slices.Sorted(maps.Keys(e.queues)) {
		if e.queues[source].set.redrive.target == name {
			found = append(found, source)
		}
	}
	return found
}

// Move is one run of StartMove.
type Move struct {
	Handle      string
	Source      string // ARN
	Destination string // ARN; "": back to where each came from
	Started     time.Time
	ToMove      int
	Moved       int
	Failure     string // why it stopped early; "" if it did not
}

// maxMoves is how many finished moves a queue's listing may name (ListMessageMoveTasks).
const maxMoves = 10

// StartMove moves all visible messages of a dead-letter queue back to the queues they came from, or to
// destination (both are ARNs). It is done when it returns. As on AWS they become new messages: new ids, new
// times, no receives.
func (e *Engine) StartMove(source, destination string) (Move, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	q, ok := e.byARN(source)
	if !ok {
		return Move{}, Errorf(CodeNoResource, "The resource that you specified for the SourceArn parameter doesn't exist.")
	}
	if len(e.sources(q.name)) == 0 {
		return Move{}, Errorf(CodeInvalidValue, "Source queue must be configured as a Dead Letter Queue.")
	}
	if _, ok := e.byARN(destination); destination != "" && !ok {
		return Move{}, Errorf(CodeNoResource, "The resource that you specified for the DestinationArn parameter doesn't exist.")
	}
	now := e.clock.Now()
	q.promote(now)
	mv := Move{Handle: uuid.NewString(), Source: source, Destination: destination, Started: now, ToMove: q.ready.Len()}
	e.run(&mv, q)
	e.moves = append(e.moves, mv)
	return mv, nil
}

func (e *Engine) run(mv *Move, from *queue) {
	for m := from.ready.first(); m != nil; m = from.ready.first() {
		to, ok := e.byARN(mv.Destination)
		if mv.Destination == "" {
			to, ok = e.queues[m.origin]
		}
		if !ok {
			mv.Failure = "CouldNotDetermineMessageSource"
			return
		}
		from.lift(m)
		from.drop(m)
		to.take(&message{Send: m.Send, id: uuid.NewString(), md5: m.md5, sent: mv.Started}, 0)
		mv.Moved++
	}
}

// Moves lists up to limit moves from the queue with this ARN, newest first.
func (e *Engine) Moves(source string, limit int) ([]Move, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, ok := e.byARN(source); !ok {
		return nil, Errorf(CodeNoResource, "The resource that you specified for the SourceArn parameter doesn't exist.")
	}
	var found []Move
	for _, mv := range slices.Backward(e.moves) {
		if mv.Source == source && len(found) < min(limit, maxMoves) {
			found = append(found, mv)
		}
	}
	return found, nil
}
