package batch

import "encoding/json"

// Outcomes of a batch, as in OpenAI's status.
const (
	Completed = "completed"
	Failed    = "failed"
	Cancelled = "cancelled"
	Expired   = "expired"
)

// Counts are lines: OK in output.jsonl, Err in errors.jsonl.
type Counts struct {
	OK       int64 `json:"ok"`
	Err      int64 `json:"err"`
	OKBytes  int64 `json:"ok_bytes"`
	ErrBytes int64 `json:"err_bytes"`
}

// Add adds o to c.
func (c *Counts) Add(o Counts) {
	c.OK += o.OK
	c.Err += o.Err
	c.OKBytes += o.OKBytes
	c.ErrBytes += o.ErrBytes
}

// ChunkInfo is what a chunk object says of itself in its metadata, and what done and manifest record.
type ChunkInfo struct {
	Chunk   int    `json:"chunk"` // number in the batch
	ETag    string `json:"etag,omitempty"`
	Size    int64  `json:"size,omitempty"`
	SHA256  string `json:"sha256,omitempty"` // of the object's bytes, hexadecimal
	Counts  Counts `json:"counts"`
	Usage   Usage  `json:"usage"`
	Missing bool   `json:"missing,omitempty"` // manifest only: nobody committed it, its lines are made from the piece
}

// Done is done/<shard>.json, written once when every chunk of the shard is stored. It is made from a
// HEAD of each chunk, not from memory, so that it names what the store has.
type Done struct {
	V      int         `json:"v"`
	Batch  string      `json:"batch"`
	Shard  int         `json:"shard"`
	Runner string      `json:"runner"`
	Chunks []ChunkInfo `json:"chunks"`
}

// Stop is stop.json, written once by a watcher: from then on nothing is sent, leased or asked.
type Stop struct {
	V       int    `json:"v"`
	Batch   string `json:"batch"`
	Outcome string `json:"outcome"` // Cancelled, Expired or Failed
	Code    string `json:"code"`    // of the lines that are left: batch_cancelled, batch_expired or the cause
	Message string `json:"message"`
	At      int64  `json:"at"` // Unix seconds, the store's clock
}

// Manifest is manifest.json, the decision point: what stands here is what the batch is, whoever
// proposed it. Output, errors and batch.json are a pure function of it, of the chunks that it names, of
// the pieces and of the bad lines.
type Manifest struct {
	V           int         `json:"v"`
	Batch       string      `json:"batch"`
	Outcome     string      `json:"outcome"`
	Code        string      `json:"code,omitempty"`    // of the lines of missing chunks
	Message     string      `json:"message,omitempty"` // of these lines, and in errors.data if Outcome is Failed
	Chunks      []ChunkInfo `json:"chunks"`            // all of the plan, in order; empty if the plan is rejected
	Counts      Counts      `json:"counts"`            // of the chunks; lines of missing chunks and bad lines are not in it
	Usage       Usage       `json:"usage"`
	InProgress  int64       `json:"in_progress_at"` // Unix seconds; 0 if nothing was asked
	FinalizedAt int64       `json:"finalized_at"`   // Unix seconds, the store's clock when proposed: finalizing_at and the end
	StoppedAt   int64       `json:"stopped_at,omitempty"`
	By          string      `json:"by"`
}

// Result is result.json, the tombstone, written last: nobody touches the batch again.
type Result struct {
	V            int    `json:"v"`
	Batch        string `json:"batch"`
	Outcome      string `json:"outcome"`
	Input        Input  `json:"input"`
	ObjectTime   int64  `json:"batch_json_last_modified"` // Unix seconds; decides whether a later upload runs again
	Total        int64  `json:"total"`
	Completed    int64  `json:"completed"`
	Failed       int64  `json:"failed"`
	OutputFileID string `json:"output_file_id,omitempty"`
	ErrorFileID  string `json:"error_file_id,omitempty"`
	Usage        Usage  `json:"usage"`
}

// Sent is sent.json, changed by compare-and-swap only: which shards have a message, as far as is known.
type Sent struct {
	V      int              `json:"v"`
	Batch  string           `json:"batch"`
	Shards map[int]SentInfo `json:"shards"`
	// Short is when a scan first found fewer messages in the queue than shards outstanding; 0 if the
	// last scan did not. A second scan two minutes later that finds the same sends again.
	Short int64 `json:"short,omitempty"`
}

// SentInfo is about one shard.
type SentInfo struct {
	At    int64 `json:"at"`    // Unix seconds of the last message
	Count int   `json:"count"` // messages so far
}

// Message is the job: an SQS message that hands a shard to a runner. It holds no prompt and no offset;
// a stale or forged one can at worst cause a look.
type Message struct {
	V        int    `json:"v"`
	Type     string `json:"type"` // "shard"
	Batch    string `json:"batch"`
	Shard    int    `json:"shard"`
	Pool     string `json:"pool"`
	Enqueued int64  `json:"enqueued"` // Unix milliseconds
	By       string `json:"by"`
	N        int    `json:"n"` // how many messages this shard has had, from 1
}

// MessageShard is the type of Message for now the only one.
const MessageShard = "shard"

// LeaseNotes are spool's notes in a lease: what its holders want their successors and the watcher to
// know. The lease itself is storage/lease's.
type LeaseNotes struct {
	Strikes map[int64]int `json:"strikes,omitempty"` // by line: engine deaths with the line in flight
	Causes  []Cause       `json:"causes,omitempty"`  // why runners gave the shard back
}

// Cause is one runner's reason why it cannot work on a batch at all. Three of one code stop the batch.
type Cause struct {
	Code    string `json:"code"` // CodeModelNotFound, ...
	Message string `json:"message"`
	Runner  string `json:"runner"`
	At      int64  `json:"at"` // Unix seconds
}

// CausesToStop is how many runners must give the same cause before the batch is stopped as failed.
const CausesToStop = 3

// Open is the body of a key under OpenPrefix: a hint that a batch is not finished.
type Open struct {
	V     int    `json:"v"`
	Batch string `json:"batch"`
	Key   string `json:"key"`
	Input Input  `json:"input"` // the upload, for who finds the marker but no plan and no input any more
}

// Status is status.json: a hint for people about the newest batch of an input.
type Status struct {
	Batch      string        `json:"batch"`
	Input      string        `json:"input"`
	State      string        `json:"state"` // validating, in_progress, finalizing, or an outcome
	Counts     RequestCounts `json:"request_counts"`
	ETASeconds *int64        `json:"eta_seconds"` // null while unknown
	Runners    int           `json:"runners"`     // with a fresh lease
	Output     string        `json:"output"`      // folder of the results
	CreatedAt  int64         `json:"created_at"`
	UpdatedAt  int64         `json:"updated_at"`
	Note       string        `json:"note,omitempty"` // what a person should know: "waiting for a runner", ...
}

// Runner is r/<runner>.json: what one runner did for a batch. Hints for reports.
type Runner struct {
	V         int              `json:"v"`
	Batch     string           `json:"batch"`
	Runner    string           `json:"runner"`
	Host      string           `json:"host"`
	Version   string           `json:"version"`
	StartedAt int64            `json:"started_at"`
	UpdatedAt int64            `json:"updated_at"`
	EndedAt   int64            `json:"ended_at,omitempty"`
	Engine    json.RawMessage  `json:"engine,omitempty"` // what the engines say of themselves
	GPUs      json.RawMessage  `json:"gpus,omitempty"`   // samples, as package gpu has them
	Phases    []Phase          `json:"phases,omitempty"`
	Series    *Series          `json:"series,omitempty"`
	GPUSeries *GPUSeries       `json:"gpu_series,omitempty"`
	Latencies Latencies        `json:"latencies,omitempty"`    // of the requests that were answered, not of those that ended as errors
	Times     *EngineTimes     `json:"engine_times,omitempty"` // of these, as far as the engine told
	Slowest   []SlowChunk      `json:"slowest,omitempty"`
	Finish    map[string]int64 `json:"finish_reasons,omitempty"` // of the answers, by finish_reason of their first choice
	HourPrice float64          `json:"hour_price,omitempty"`     // what an hour of the runner costs, all its GPUs together
	Currency  string           `json:"currency,omitempty"`       // of it
	Shards    int              `json:"shards"`
	Chunks    int              `json:"chunks"`
	OK        int64            `json:"ok"`
	Err       int64            `json:"err"`
	Requests  int64            `json:"requests"` // sent to the engine, retries included
	Retries   int64            `json:"retries"`
	Resumed   int64            `json:"resumed"` // lines taken from segments
	Open      int64            `json:"open"`    // lines with a result in chunks that are not committed yet
	Usage     Usage            `json:"usage"`
}
