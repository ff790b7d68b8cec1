package batch

// The chunk rule: a chunk ends before the line that would exceed one of these, and holds at least one
// line. The bytes are those of the lines, newlines not counted.
const (
	ChunkLines = 1000
	ChunkBytes = 8 << 20
)

// DefaultShardChunks is how many chunks make a shard, unless the pool says otherwise.
const DefaultShardChunks = 8

// Verdicts of a plan.
const (
	Accepted = "accepted"
	Rejected = "rejected"
)

// Plan is plan.json, written once by the watcher that validated the input: all that runners and
// finalisers know of the input. A rejected plan has no shards.
type Plan struct {
	V          int               `json:"v"`
	Batch      string            `json:"batch"`
	Input      Input             `json:"input"`
	Rerun      int               `json:"rerun,omitempty"`
	Generation int               `json:"generation,omitempty"`
	Verdict    string            `json:"verdict"`
	Errors     []BatchError      `json:"errors,omitempty"` // the first 100, for errors.data
	Pool       string            `json:"pool"`
	OnInvalid  string            `json:"on_invalid"`      // "fail" or "skip"
	Order      string            `json:"order,omitempty"` // in which lines are asked: "" for OrderFile, or another Order
	Window     string            `json:"window"`          // as OpenAI's completion_window, "24h"
	CreatedAt  int64             `json:"created_at"`      // Unix seconds, the store's clock
	ExpiresAt  int64             `json:"expires_at"`      // CreatedAt and window
	Metadata   map[string]string `json:"metadata,omitempty"`
	Endpoint   string            `json:"endpoint"`
	Models     []string          `json:"models,omitempty"` // distinct body.model, sorted, "" if a line names none
	Folder     string            `json:"folder,omitempty"` // of the staged objects, see PieceKey and BadKey
	Lines      int64             `json:"lines"`            // that are not blank, good and bad
	Bad        int64             `json:"bad"`              // of these, bad ones: those in BadKey
	Shards     []Shard           `json:"shards,omitempty"`
	Watcher    string            `json:"watcher"`         // who made the plan
	Trace      map[string]string `json:"trace,omitempty"` // traceparent and tracestate, where all that is done for the batch belongs
}

// Orders in which a runner asks for the lines of a shard. Results do not depend on it.
const (
	OrderFile    = "file"    // as they stand
	OrderLongest = "longest" // those first whose answers may be longest
	OrderPrefix  = "prefix"  // those together whose prompts begin alike
)

// Input names the upload that a plan is about.
type Input struct {
	Bucket       string `json:"bucket"`
	Key          string `json:"key"`
	ETag         string `json:"etag"`
	Size         int64  `json:"size"`
	LastModified int64  `json:"last_modified"`    // Unix seconds
	SHA256       string `json:"sha256,omitempty"` // of the object as stored, hexadecimal
}

// Shard is a run of chunks, staged in one piece: PieceKey(plan.Batch, plan.Folder, its index).
type Shard struct {
	Chunks []PlanChunk `json:"chunks"`
}

// PlanChunk is one chunk: a zstd frame of its shard's piece.
type PlanChunk struct {
	Offset    int64 `json:"offset"` // of the frame in the piece, compressed
	Size      int64 `json:"size"`   // of the frame, compressed
	FirstLine int64 `json:"first_line"`
	Lines     int   `json:"lines"`         // records in the frame
	Bad       int   `json:"bad,omitempty"` // records that turned out bad after they were staged; BadKey names them
}

// Requests is the number of lines of the chunk that are to be answered.
func (c PlanChunk) Requests() int { return c.Lines - c.Bad }

// Requests is the number of lines of the batch that are to be answered.
func (p *Plan) Requests() int64 { return p.Lines - p.Bad }

// FirstChunk gives the number in the batch of the first chunk of a shard.
func (p *Plan) FirstChunk(shard int) int {
	n := 0
	for _, s := range p.Shards[:shard] {
		n += len(s.Chunks)
	}
	return n
}

// Chunks is the number of chunks of the batch.
func (p *Plan) Chunks() int { return p.FirstChunk(len(p.Shards)) }

// ErrVersion says that an object is of a later version of spool.
var ErrVersion error = formatError{"written by a later version of spool: use that version or a newer one", "later_version"}

// ShardSizes cuts n chunks into shards: one chunk is one shard, up to shardChunks become two halves so
// that two runners can share a small batch, more become shards of shardChunks.
func ShardSizes(n, shardChunks int) []int {
	switch {
	case n <= 0:
		return nil
	case n == 1:
		return []int{1}
	case n <= shardChunks:
		return []int{(n + 1) / 2, n / 2}
	}
	var sizes []int
	for n > 0 {
		k := min(n, shardChunks)
		sizes = append(sizes, k)
		n -= k
	}
	return sizes
}
