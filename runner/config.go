package runner

import (
	"cmp"
	"context"
	"errors"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/zap"

	"spool/runner/gpu"
	"spool/runner/vllm"
	"spool/storage"
	"spool/storage/batch"
	"spool/storage/queue"
)

// Engine is one inference server, as vllm.Client calls it. It is used concurrently.
type Engine interface {
	Do(ctx context.Context, r vllm.Request) vllm.Answer
	Healthy(ctx context.Context) error
	Models(ctx context.Context) ([]string, error) // vllm.ErrNoModels if the server has no list
	Version(ctx context.Context) string
	Name() string
}

// Server is an engine that the runner owns, as vllm.Server is. Run starts it and keeps it running until ctx ends;
// no process of it is left then. A *vllm.StartError that is permanent means that no runner could start it.
type Server interface {
	Engine
	Run(ctx context.Context) error
}

// observed is an engine that tells about its work, as vllm.Client and vllm.Server do.
type observed interface {
	Metrics(ctx context.Context) (vllm.Counters, vllm.Load, error)
}

// recorded is an engine that knows with what it makes answers, as vllm.Server does.
type recorded interface{ Record() vllm.Record }

// GPUs watches the machine's GPUs, as gpu.Sampler does. Run watches until ctx ends, or until one is unfit, which
// its error says. It ends seconds after ctx at the latest, also if a GPU does not answer.
type GPUs interface {
	Run(ctx context.Context) error
	Samples() []gpu.Sample
}

// Queue is where messages come from, as queue.Queue has it.
type Queue interface {
	Receive(ctx context.Context, max int, wait time.Duration) ([]*queue.Message, error)
	Extend(ctx context.Context, m *queue.Message, d time.Duration) error
	Delete(ctx context.Context, m *queue.Message) error
	HandOver(ctx context.Context, m *queue.Message) error
	Hold(ctx context.Context, m *queue.Message) *queue.Held
}

// Finalizer ends batches, as finalize.Finalizer does: nil and no error mean that it is too early.
type Finalizer interface {
	Try(ctx context.Context, plan *batch.Plan) (*batch.Result, error)
}

// Config is what a runner needs. Fields without a default must be set.
type Config struct {
	Bucket     storage.Bucket
	Fast, Main Queue    // of the pool; Fast is read first
	Engines    []Engine // that run already
	Server     Server   // started when there is first something to ask; nil if there are Engines
	Finalizer  Finalizer
	GPUs       GPUs // nil if there are none to be watched

	Name      string // unique, never used again; in leases, segments and output lines
	Version   string // of spool, for the runner record
	Pool      string // whose queues these are, for metrics
	Host      string
	HourPrice float64 // what an hour of this runner costs, in Currency, for the runner record; 0: not known
	Currency  string

	Slots   int    // requests that the engines work on at once, all together; default 256
	Window  int    // requests in flight; default 1.25 × Slots
	Scratch string // folder for the answers of open chunks; default the system's

	Idle        time.Duration // how long to wait for a message before Run ends; default 60 s
	Poll        time.Duration // between looks at a queue: one receive waits so long; default 4 s: see lane.receive
	EngineLimit time.Duration // how long all Engines may be down before Run ends with ErrEngineDown; default 10 min
	Retry       RetryPolicy

	SegmentEvery time.Duration // default 5 s
	StopEvery    time.Duration // how often stop.json is looked for; default 3 s
	RecordEvery  time.Duration // how often the runner record is written; default 30 s
	LeaseTTL     time.Duration // default lease.DefaultTTL

	Log     *zap.Logger           // default none
	Metrics prometheus.Registerer // default none

	Tracer     trace.Tracer // default one that records nothing
	TraceEvery int          // the request of one line in so many is traced, beside those that fail or are slow; default 200
}

// RetryPolicy is how often and when a line is asked again. The zero value is the design's.
type RetryPolicy struct {
	Attempts int           // that count: answers that blame the request; default 5
	Base     time.Duration // of the first pause; default 1 s
	Max      time.Duration // of a pause; default 60 s
	AfterMax time.Duration // the most that Retry-After is honoured; default 5 min
	Timeout  time.Duration // of one request; default 30 min
}

// ErrEngineDown is returned by Run when no engine was there for Config.EngineLimit, or when its Server gave up.
var ErrEngineDown error = downError{}

type downError struct{}

func (downError) Error() string { return "no engine answers" }

// ErrorType is for logs.
func (downError) ErrorType() string { return vllm.TypeDown }

// ErrElsewhere is returned by Run when this runner cannot work on a batch that another one might: its
// engine lacks the model, refuses access, or does not start, which is a *vllm.StartError. The shard was handed over; if only a
// model is lacking, what else the runner held it has done.
var ErrElsewhere = errors.New("this runner cannot work on the batch")

func (c Config) withDefaults() (Config, error) {
	switch {
	case c.Bucket == nil, c.Main == nil, c.Fast == nil, c.Finalizer == nil:
		return c, errors.New("runner: bucket, queues and finalizer must be set")
	case c.Name == "":
		return c, errors.New("runner: no name")
	case (len(c.Engines) == 0) == (c.Server == nil):
		return c, errors.New("runner: engines or a server must be set, and not both")
	case c.Slots < 0 || c.Window < 0 || c.TraceEvery < 0:
		return c, errors.New("runner: slots, window and TraceEvery must not be negative")
	}
	c.Slots = cmp.Or(c.Slots, 256)
	c.Window = cmp.Or(c.Window, c.Slots+(c.Slots+3)/4)
	c.Scratch = cmp.Or(c.Scratch, os.TempDir())
	c.Idle = cmp.Or(c.Idle, time.Minute)
	c.Poll = cmp.Or(c.Poll, 4*time.Second)
	c.EngineLimit = cmp.Or(c.EngineLimit, 10*time.Minute)
	c.SegmentEvery = cmp.Or(c.SegmentEvery, 5*time.Second)
	c.StopEvery = cmp.Or(c.StopEvery, 3*time.Second)
	c.RecordEvery = cmp.Or(c.RecordEvery, 30*time.Second)
	c.Retry = c.Retry.withDefaults()
	if c.Log == nil {
		c.Log = zap.NewNop()
	}
	c.TraceEvery = cmp.Or(c.TraceEvery, 200)
	if c.Tracer == nil {
		c.Tracer = noop.Tracer{}
	}
	if c.Metrics == nil {
		c.Metrics = prometheus.NewRegistry()
	}
	return c, nil
}

func (p RetryPolicy) withDefaults() RetryPolicy {
	return RetryPolicy{
		Attempts: cmp.Or(p.Attempts, 5),
		Base:     cmp.Or(p.Base, time.Second),
		Max:      cmp.Or(p.Max, time.Minute),
		AfterMax: cmp.Or(p.AfterMax, 5*time.Minute),
		Timeout:  cmp.Or(p.Timeout, 30*time.Minute),
	}
}
