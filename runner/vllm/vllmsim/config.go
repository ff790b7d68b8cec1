package vllmsim

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// Defaults of Config. The times are those of the simulated engine with which spool was designed: a
// step of 20 ms with one sequence, 30 ms with all slots busy.
const (
	DefaultModel         = "vllmsim"
	DefaultSlots         = 256 // vLLM's own default of max_num_seqs on GPUs below 70 GiB
	DefaultMaxModelLen   = 8192
	DefaultTokenTime     = 20 * time.Millisecond
	DefaultTokenTimeFull = 30 * time.Millisecond
	DefaultEmbeddingSize = 64
	DefaultKeepAlive     = 5 * time.Second // VLLM_HTTP_TIMEOUT_KEEP_ALIVE
)

// AnyModel is a name under which every Server serves its model.
const AnyModel = "default"

// Config describes an engine. The zero value is one with the defaults; New validates.
type Config struct {
	Model       string   // the first served name, and the label of the metrics; "" is DefaultModel
	ServedNames []string // further names; AnyModel is always one of them

	Slots         int           // sequences that run at once (max_num_seqs); others wait, first come first served
	MaxQueued     int           // sequences that run and wait together; more get 503; 0 is no limit
	TokenTime     time.Duration // of one step, which gives each running sequence a token, when one runs
	TokenTimeFull time.Duration // of one step when all slots are busy; in between it grows linearly
	PrefillTime   time.Duration // for which every sequence that starts holds up all others
	TimeScale     float64       // multiplies these times; 0 is 1
	Instant       bool          // steps and prefills take no time at all

	Lengths     []int   // answers are as long as one of these, in tokens; nil is a list of real ones
	LengthScale float64 // multiplies them; 0 is 1
	Seed        uint64  // chooses other lengths; what an answer says does not depend on it
	TextTokens  int     // texts are cut after so many tokens, though usage counts all; 0 cuts nothing

	MaxModelLen   int // tokens of prompt and answer together
	EmbeddingSize int // dimensions of an embedding

	RequestMetrics bool // answers tell their own times, as with --enable-per-request-metrics

	LoadTime        time.Duration // Run is bound but refuses connections for so long
	ShutdownTimeout time.Duration // for what is in flight when the context ends; 0 aborts it at once
	KeepAlive       time.Duration // idle connections are closed after that
	APIKey          string        // asked of /v1 and /v2, as with --api-key; "" asks for none
	LedgerPath      string        // see Ledger; "" writes none
	Faults          []Fault       // see Fault; POST /sim/faults replaces them

	// Of Serve only:
	FailStart string   // see FailMemory; "" starts
	Orphans   int      // processes that it starts, and that outlive it if it is killed, or its EngineCore dies
	Lacks     []string // flags that it refuses, as an earlier version does
}

func (c Config) withDefaults() Config {
	setDefault(&c.Model, DefaultModel)
	setDefault(&c.Slots, DefaultSlots)
	setDefault(&c.TokenTime, DefaultTokenTime)
	setDefault(&c.TokenTimeFull, max(DefaultTokenTimeFull, c.TokenTime))
	setDefault(&c.TimeScale, 1)
	setDefault(&c.LengthScale, 1)
	setDefault(&c.MaxModelLen, DefaultMaxModelLen)
	setDefault(&c.EmbeddingSize, DefaultEmbeddingSize)
	setDefault(&c.KeepAlive, DefaultKeepAlive)
	if c.Lengths == nil {
		c.Lengths = realLengths()
	}
	return c
}

func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

func (c Config) validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(c.Slots > 0, "slots: %d, want at least 1", c.Slots)
	check(c.TokenTime > 0 && c.TokenTimeFull >= c.TokenTime, "token times: %v to %v, want them positive and growing", c.TokenTime, c.TokenTimeFull)
	check(c.PrefillTime >= 0, "prefill time: %v, want none below 0", c.PrefillTime)
	check(c.TimeScale > 0, "time scale: %v, want more than 0 (Instant takes no time)", c.TimeScale)
	check(c.LengthScale > 0, "length scale: %v, want more than 0", c.LengthScale)
	check(len(c.Lengths) > 0 && slices.Min(c.Lengths) > 0, "lengths: want some, and none below 1")
	check(c.MaxQueued >= 0, "queue: %d, want none below 0", c.MaxQueued)
	check(c.Orphans >= 0, "orphans: %d, want none below 0", c.Orphans)
	check(c.FailStart == "" || startFailure(c.FailStart) != nil, "unknown failure of the start %q", c.FailStart)
	check(c.TextTokens >= 0, "text tokens: %d, want none below 0", c.TextTokens)
	check(c.MaxModelLen > 1, "model length: %d, want at least 2", c.MaxModelLen)
	check(c.EmbeddingSize > 1, "embedding size: %d, want at least 2", c.EmbeddingSize)
	check(c.LoadTime >= 0 && c.ShutdownTimeout >= 0 && c.KeepAlive > 0, "load, shutdown and keep-alive times: want none below 0")
	for i, f := range c.Faults {
		if err := f.validate(); err != nil {
			errs = append(errs, fmt.Errorf("fault %d: %w", i, err))
		}
	}
	return errors.Join(errs...)
}

// names are those under which the model is served, the first being its name in answers and metrics.
func (c Config) names() []string {
	all := append([]string{c.Model}, c.ServedNames...)
	if !slices.Contains(all, AnyModel) {
		all = append(all, AnyModel)
	}
	return all
}
