package runner

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"sync"

	"go.uber.org/zap"

	"spool/runner/vllm"
	"spool/storage/batch"
	"spool/storage/lease"
)

// One request can kill an engine, and all that were in flight with it fail as it does. So each of them gets a
// strike, and is asked again among other suspects only, a quarter as many as were in flight. Whoever was
// innocent gets its answer; the others come closer to being alone with each death. 320 lines need five.

// How often an engine must have died with a line before the line is to blame, even if it was alone each time: once may be
// chance. Of an engine that is not the runner's own nobody knows who ends it, and a line that takes long may well be alone
// while its operator starts it anew, twice.
const (
	strikesToConvict        = 2
	strikesToConvictForeign = 3
)

// died reports whether e died with t in flight: it says so, or it broke the connection and is not well since. What an
// error of a server is in truth it writes into a: a proxy answers for an engine that is gone, to requests that were in
// flight and to those that came later. So that is no strike and no attempt, but for a line that meets it again and again.
func (w *window) died(t *task, e ticket, a *vllm.Answer) bool {
	switch {
	case a.Died:
		a.Outcome = vllm.Down
		return true
	case a.Outcome != vllm.Retry, a.Status > 0 && a.Status < 500, w.fleet.well(t.ctx, e), t.ctx.Err() != nil:
		return false
	case a.Status > 0:
		t.outages++
	}
	a.Outcome = vllm.Down
	return a.Status == 0 || t.outages > w.retry.Attempts
}

// strike notes that an engine died with t and others in flight, crowd in all, and reports whether t is to blame, which
// takes enough strikes.
func (t *task) strike(crowd, enough int) (convicted bool) {
	t.strikes++
	t.group = max(1, crowd/4)
	t.chunk.owner.strikes.add(t.line, t.strikes)
	return crowd == 1 && t.strikes >= enough
}

// suspect puts a line under the suspicion that its strikes of earlier runners call for.
func (t *task) suspect(strikes, window int) {
	if strikes > 0 {
		t.strikes, t.group = strikes, max(1, window>>(2*min(strikes, 16)))
	}
}

// crashed makes a result of the death of an engine.
func crashed(t *task, a vllm.Answer) vllm.Answer {
	err := fmt.Errorf("the engine died %d times with this request in flight, the last time with no other", t.strikes)
	if a.Err != nil {
		err = fmt.Errorf("%w: %w", err, a.Err)
	}
	return vllm.Answer{Outcome: vllm.Rejected, Code: batch.CodeRunnerCrashed, Err: err}
}

// strikes counts the deaths of engines by line, for the lease. The window's workers add, the shard writes.
type strikes struct {
	news chan struct{} // holds one if there are strikes that were not written

	mu     sync.Mutex
	byLine map[int64]int
}

func newStrikes(stored map[int64]int) *strikes {
	s := &strikes{news: make(chan struct{}, 1), byLine: make(map[int64]int)}
	maps.Copy(s.byLine, stored)
	return s
}

func (s *strikes) add(line int64, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byLine[line] = n
	select {
	case s.news <- struct{}{}:
	default:
	}
}

func (s *strikes) of(line int64) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byLine[line]
}

// write stores the strikes in the lease, where a successor finds them. A failure is no reason to stop: the
// lease writes them with its next renewal.
func (s *strikes) write(ctx context.Context, l *lease.Lease, log *zap.Logger) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	notes, err := s.noted(l)
	if err == nil {
		err = l.SetNotes(ctx, notes)
	}
	if err != nil {
		log.Warn("strikes could not be written", zap.String("event", "strikes_failed"), zap.Error(err))
	}
}

// keep has the release of the lease write the strikes that write did not come to, or could not.
func (s *strikes) keep(l *lease.Lease) error {
	notes, err := s.noted(l)
	if err != nil {
		return err
	}
	return l.KeepNotes(notes)
}

// noted gives the lease's notes with the strikes.
func (s *strikes) noted(l *lease.Lease) (json.RawMessage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return changedNotes(l, func(n *batch.LeaseNotes) { n.Strikes = maps.Clone(s.byLine) })
}

// readNotes gives the notes in a lease, none if they are not readable: then they are of no use to anybody.
func readNotes(l *lease.Lease) batch.LeaseNotes {
	var notes batch.LeaseNotes
	if json.Unmarshal(l.Notes(), &notes) != nil {
		return batch.LeaseNotes{}
	}
	return notes
}

// changedNotes gives the notes of a lease with a change. Nobody else of this process may change them at the same time.
func changedNotes(l *lease.Lease, change func(*batch.LeaseNotes)) (json.RawMessage, error) {
	notes := readNotes(l)
	change(&notes)
	raw, err := json.Marshal(notes)
	if err != nil {
		return nil, fmt.Errorf("encode notes of lease: %w", err)
	}
	return raw, nil
}
