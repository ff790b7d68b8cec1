package sqs

import (
	"regexp"

	"spool/localstack/sqs/internal/engine"
)

// entry is one element of a batch.
type entry interface{ entryID() string }

var entryName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,80}$`)

// checkBatch refuses what makes a batch fail as a whole.
func checkBatch[E entry](entries []E) error {
	if len(entries) == 0 {
		return engine.Errorf(engine.CodeEmptyBatch, "There should be at least one entry in the request.")
	}
	if len(entries) > engine.MaxBatch {
		return engine.Errorf(engine.CodeTooManyEntries, "Maximum number of entries per request are %d. You have sent %d.",
			engine.MaxBatch, len(entries))
	}
	seen := map[string]bool{}
	for _, e := range entries {
		id := e.entryID()
		if !entryName.MatchString(id) {
			return engine.Errorf(engine.CodeInvalidBatchID, "A batch entry id can only contain alphanumeric characters, "+
				"hyphens and underscores. It can be at most 80 letters long.")
		}
		if seen[id] {
			return engine.Errorf(engine.CodeBatchIDsNotDistinct, "Id %s repeated.", id)
		}
		seen[id] = true
	}
	return nil
}

// eachEntry runs f for every entry of a batch, and sorts the outcomes.
func eachEntry[E entry, Done any](entries []E, f func(E) (Done, error)) (done []Done, failed []failedEntry) {
	done = []Done{}
	for _, e := range entries {
		d, err := f(e)
		if err != nil {
			api := asAPIError(err)
			failed = append(failed, failedEntry{
				ID: e.entryID(), SenderFault: api.fault() == "Sender", Code: api.queryCode(), Message: api.message,
			})
			continue
		}
		done = append(done, d)
	}
	return done, failed
}

// batch finds the queue, checks the entries and runs f for each of them.
func batch[E entry, Done any](c *call, r queueRequest, entries []E, f func(name string, e E) (Done, error)) ([]Done, []failedEntry, error) {
	name, err := r.name()
	if err != nil {
		return nil, nil, err
	}
	if err := c.Exists(name); err != nil {
		return nil, nil, err
	}
	if err := checkBatch(entries); err != nil {
		return nil, nil, err
	}
	done, failed := eachEntry(entries, func(e E) (Done, error) { return f(name, e) })
	return done, failed, nil
}

func (c *call) sendBatch(r *sendBatchRequest) (sendBatchResult, error) {
	size := 0
	for _, e := range r.Entries {
		size += e.send().Size()
	}
	if size > engine.MaxBytes {
		return sendBatchResult{}, engine.Errorf(engine.CodeBatchTooLong,
			"Batch requests cannot be longer than %d bytes. You have sent %d bytes.", engine.MaxBytes, size)
	}
	done, failed, err := batch(c, r.queueRequest, r.Entries, func(name string, e sendEntry) (sentEntry, error) {
		sent, err := c.sendOne(name, e.messageBody)
		return sentEntry{e.ID, sent}, err
	})
	return sendBatchResult{done, failed}, err
}

func (c *call) deleteBatch(r *deleteBatchRequest) (deleteBatchResult, error) {
	done, failed, err := batch(c, r.queueRequest, r.Entries, func(name string, e deleteEntry) (doneEntry, error) {
		return doneEntry{e.ID}, c.Delete(name, e.Handle)
	})
	return deleteBatchResult{done, failed}, err
}

func (c *call) changeVisibilityBatch(r *visibilityBatchRequest) (visibilityBatchResult, error) {
	done, failed, err := batch(c, r.queueRequest, r.Entries, func(name string, e visibilityEntry) (doneEntry, error) {
		return doneEntry{e.ID}, c.change(name, e.Handle, e.VisibilityTimeout)
	})
	return visibilityBatchResult{done, failed}, err
}
