package batch

import "time"

// Summary is summary.json: what a run came to, for people, dashboards and the report. It may be written
// again at any time, so nothing is decided by it; what decides is in manifest and result.
type Summary struct {
	V       int    `json:"v"`
	Batch   string `json:"batch"`
	Outcome string `json:"outcome"`
	Code    string `json:"code,omitempty"`    // why it was stopped
	Message string `json:"message,omitempty"` // the same, for people

	Input     Input             `json:"input"`
	Endpoint  string            `json:"endpoint"`
	Models    []string          `json:"models"` // distinct; "" stands for the engine's own choice
	Pool      string            `json:"pool"`
	Window    string            `json:"completion_window"`
	OnInvalid string            `json:"on_invalid"`
	Metadata  map[string]string `json:"metadata,omitempty"`

	Lines   SummaryLines    `json:"lines"`
	Bytes   SummaryBytes    `json:"bytes"`
	Shards  int             `json:"shards"`
	Chunks  int             `json:"chunks"`
	Times   SummaryTimes    `json:"times"`
	Seconds SummarySeconds  `json:"seconds"`
	Usage   Usage           `json:"usage"`
	Rates   *SummaryRates   `json:"rates"`   // null if nothing ran, or for less than the store's clock can tell
	Latency *SummaryLatency `json:"latency"` // null if no runner recorded any

	Errors     []ErrorClass `json:"errors"`             // most frequent first
	FileErrors []BatchError `json:"file_errors"`        // as errors.data of batch.json
	Runners    []Runner     `json:"runners"`            // their own records, by name; hints, may lack the last seconds
	Mixed      []Difference `json:"mixed"`              // in what engines differed, so that answers may; empty if in nothing that was recorded
	Finalizer  string       `json:"finalizer"`          // who proposed the manifest
	TraceID    string       `json:"trace_id,omitempty"` // of OpenTelemetry; "" if the batch is in no trace
}

// Difference is a property of engines on which answers depend and that had several values in one batch.
type Difference struct {
	Field  string    `json:"field"` // as in the record of an engine: version, model, revision, args, gpus, …
	Values []Variant `json:"values"`
}

// Variant is one of these values, and who had it.
type Variant struct {
	Value   string   `json:"value"`   // cut; "" if the runner looked and there was none
	Count   int      `json:"count"`   // runners
	Runners []string `json:"runners"` // the first of these, by name
}

// Bounds of Summary.Mixed.
const (
	MaxVariants       = 20 // of a field
	MaxVariantRunners = 50
	MaxVariantValue   = 1000 // bytes
)

// SummaryLines counts the lines of the input by what became of them. Of an accepted file,
// Total = OK + Failed + Missing + Invalid; of a rejected one all but Total and Invalid are 0.
type SummaryLines struct {
	Total   int64 `json:"total"`   // not blank
	OK      int64 `json:"ok"`      // in output.jsonl
	Failed  int64 `json:"failed"`  // in errors.jsonl, with an answer that is an error, or none after all attempts
	Missing int64 `json:"missing"` // in errors.jsonl since the batch was stopped before their chunk was stored
	Invalid int64 `json:"invalid"` // in invalid.jsonl; of an accepted file in errors.jsonl, too
}

// SummaryBytes are sizes of objects.
type SummaryBytes struct {
	Input  int64 `json:"input"`  // as stored, perhaps compressed
	Output int64 `json:"output"` // output.jsonl
	Errors int64 `json:"errors"` // errors.jsonl
}

// SummaryTimes are Unix seconds, 0 if there was no such moment.
type SummaryTimes struct {
	Uploaded   int64 `json:"uploaded_at"`
	Created    int64 `json:"created_at"` // planned
	InProgress int64 `json:"in_progress_at"`
	Stopped    int64 `json:"stopped_at"`
	Finalized  int64 `json:"finalized_at"` // the manifest was proposed
	Expires    int64 `json:"expires_at"`
}

// SummarySeconds are durations.
type SummarySeconds struct {
	Queued  int64 `json:"queued"`  // planned until in progress
	Running int64 `json:"running"` // in progress until finalized
	Total   int64 `json:"total"`   // uploaded until finalized
}

// SummaryRates are means over SummarySeconds.Running.
type SummaryRates struct {
	Lines        float64 `json:"lines_per_second"` // answered, well or with an error
	InputTokens  float64 `json:"input_tokens_per_second"`
	OutputTokens float64 `json:"output_tokens_per_second"`
}

// SummaryLatency is how long requests took that were answered, in milliseconds, as Latencies has it.
type SummaryLatency struct {
	Count int64   `json:"count"`
	P50   float64 `json:"p50_ms"`
	P90   float64 `json:"p90_ms"`
	P95   float64 `json:"p95_ms"`
	P99   float64 `json:"p99_ms"`
	Max   float64 `json:"max_ms"` // none took so long
}

// Summary gives the quantiles; nil of none.
func (l Latencies) Summary() *SummaryLatency {
	n := l.Count()
	if n == 0 {
		return nil
	}
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	return &SummaryLatency{Count: n, P50: ms(l.Quantile(.5)), P90: ms(l.Quantile(.9)), P95: ms(l.Quantile(.95)),
		P99: ms(l.Quantile(.99)), Max: ms(l.Max())}
}

// ErrorClass is one kind of line in errors.jsonl: an HTTP status that was not 2xx, or a code of lines that
// never had an answer. One of the two is set. The class of code ErrorClassOther holds what is too diverse.
type ErrorClass struct {
	Status  int     `json:"status,omitempty"`
	Code    string  `json:"code,omitempty"`
	Count   int64   `json:"count"`
	Lines   []int64 `json:"lines"`   // the first few, as examples
	Example string  `json:"example"` // message or body of the first, cut
}

// Bounds of Summary.Errors.
const (
	MaxErrorClasses = 50
	MaxErrorLines   = 3
	MaxErrorExample = 300 // bytes
	ErrorClassOther = "other"
)
