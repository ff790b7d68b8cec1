package finalize

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"spool/storage/batch"
)

func objectPlan() *batch.Plan {
	return &batch.Plan{
		V: 1, Batch: testID, Verdict: batch.Accepted, Window: "24h", CreatedAt: 100, ExpiresAt: 1000,
		Input: batch.Input{Key: testInput}, Endpoint: "/v1/chat/completions", Models: []string{"m"},
		Metadata: map[string]string{"pool": "default"}, Lines: 13, Bad: 3,
		Shards: []batch.Shard{{Chunks: []batch.PlanChunk{{Lines: 5}, {Lines: 6, Bad: 1}}}}, // two bad lines were not staged
	}
}

func objectManifest(outcome string) *batch.Manifest {
	return &batch.Manifest{
		V: 1, Batch: testID, Outcome: outcome, InProgress: 200, FinalizedAt: 300,
		Chunks: []batch.ChunkInfo{{Chunk: 0}, {Chunk: 1}}, Counts: batch.Counts{OK: 8, Err: 2}, Usage: batch.Usage{TotalTokens: 7},
	}
}

func at(t int64) *int64 { return &t }

func wantObject(status string) batch.Object {
	return batch.Object{
		ID: testID, Object: "batch", Endpoint: "/v1/chat/completions", Model: text("m"), InputFileID: testInput,
		CompletionWindow: "24h", Status: status, CreatedAt: 100, InProgressAt: at(200), ExpiresAt: at(1000), FinalizingAt: at(300),
		OutputFileID: text(testDir + "output.jsonl"), ErrorFileID: text(testDir + "errors.jsonl"),
		RequestCounts: batch.RequestCounts{Total: 13, Completed: 8, Failed: 5},
		Usage:         &batch.Usage{TotalTokens: 7}, Metadata: map[string]string{"pool": "default"},
	}
}

func checkObject(t *testing.T, p *batch.Plan, m *batch.Manifest, want batch.Object) {
	t.Helper()
	if diff := cmp.Diff(want, Object(p, m)); diff != "" {
		t.Error(diff)
	}
}

func TestObjectOfCompletedBatch(t *testing.T) {
	want := wantObject("completed")
	want.CompletedAt = at(300)
	checkObject(t, objectPlan(), objectManifest(batch.Completed), want)
}

func TestObjectOfCompletedBatchWithoutErrors(t *testing.T) {
	p, m := objectPlan(), objectManifest(batch.Completed)
	p.Lines, p.Bad, p.Shards[0].Chunks[1].Bad, p.Models = 10, 0, 0, []string{"", "m"}
	m.Counts = batch.Counts{OK: 10}
	want := wantObject("completed")
	want.CompletedAt, want.ErrorFileID, want.Model = at(300), nil, nil
	want.RequestCounts = batch.RequestCounts{Total: 10, Completed: 10}
	checkObject(t, p, m, want)
}

func TestObjectOfCancelledBatchCountsMissingLinesAsFailed(t *testing.T) {
	m := objectManifest(batch.Cancelled)
	m.Code, m.StoppedAt, m.Chunks[1].Missing, m.Counts = batch.CodeBatchCancelled, 250, true, batch.Counts{OK: 4, Err: 1}
	want := wantObject("cancelled")
	want.CancellingAt, want.CancelledAt = at(250), at(300)
	want.RequestCounts = batch.RequestCounts{Total: 13, Completed: 4, Failed: 9} // 1 answered, 5 missing, 3 bad
	checkObject(t, objectPlan(), m, want)
}

func TestObjectOfExpiredBatchThatNobodyBegan(t *testing.T) {
	m := objectManifest(batch.Expired)
	m.InProgress, m.StoppedAt, m.Counts, m.Chunks = 0, 250, batch.Counts{}, []batch.ChunkInfo{{Missing: true}, {Chunk: 1, Missing: true}}
	want := wantObject("expired")
	want.InProgressAt, want.ExpiredAt = nil, at(300)
	want.RequestCounts = batch.RequestCounts{Total: 13, Failed: 13}
	checkObject(t, objectPlan(), m, want)
}

func TestObjectOfFailedBatchTellsTheCause(t *testing.T) {
	m := objectManifest(batch.Failed)
	m.Code, m.Message = batch.CodeModelNotFound, "no runner serves m"
	want := wantObject("failed")
	want.FailedAt = at(300)
	want.Errors = &batch.Errors{Object: "list", Data: []batch.BatchError{{Code: batch.CodeModelNotFound, Message: "no runner serves m"}}}
	checkObject(t, objectPlan(), m, want)
}

func TestObjectOfRejectedFileHasNoFilesAndNoCounts(t *testing.T) {
	p, m := objectPlan(), objectManifest(batch.Failed)
	p.Verdict, p.Shards, m.Chunks, m.Counts, m.Usage, m.InProgress = batch.Rejected, nil, nil, batch.Counts{}, batch.Usage{}, 0
	for line := range int64(120) {
		p.Errors = append(p.Errors, batch.BatchError{Code: "invalid_json", Line: at(line + 1)})
	}
	want := wantObject("failed")
	want.FailedAt, want.InProgressAt, want.FinalizingAt, want.OutputFileID, want.ErrorFileID, want.Usage = at(300), nil, nil, nil, nil, nil
	want.RequestCounts = batch.RequestCounts{}
	want.Errors = &batch.Errors{Object: "list", Data: p.Errors[:100]}
	checkObject(t, p, m, want)
}
