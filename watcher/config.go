package watcher

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/zap"

	"spool/storage"
	"spool/storage/batch"
	"spool/storage/batch/jsonl"
	"spool/storage/queue"
)

// Defaults of Config.
const (
	DefaultPool       = "default"
	DefaultQueueAhead = 64
	DefaultScanEvery  = 30 * time.Second
	DefaultValidators = 2

	// MinRetention is SQS's longest retention, 14 days, and a day: as long as a message may come back, the
	// chunks and leases that it leads to must be there (or their batch's result.json, which stays).
	MinRetention = 15 * 24 * time.Hour
)

// Queue is one SQS queue; *queue.Queue is one. All methods are called concurrently.
type Queue interface {
	Source
	Send(ctx context.Context, messages []queue.Outgoing) error
	Counts(ctx context.Context) (queue.Counts, error)
}

// Source is a queue to take messages from.
type Source interface {
	Receive(ctx context.Context, max int, wait time.Duration) ([]*queue.Message, error)
	Delete(ctx context.Context, m *queue.Message) error
}

var _ Queue = (*queue.Queue)(nil)

// Opener opens a queue by its name (queue.PoolQueue and its like). It may be called at any time and
// concurrently; what it returned is used from then on. An error is reported, and another try made
// by the next scan, but queues that are missing at the start of Run end it.
type Opener func(ctx context.Context, name string) (Queue, error)

// SQS is the Opener of a real client.
func SQS(client *queue.Client) Opener {
	return func(ctx context.Context, name string) (Queue, error) {
		q, err := client.Open(ctx, name)
		if err != nil {
			return nil, err
		}
		return q, nil
	}
}

// Finalizer ends batches; *finalize.Finalizer is one. Try returns nil, nil if it is too early. It may
// be called at any time, by any number of processes at once.
type Finalizer interface {
	Try(ctx context.Context, plan *batch.Plan) (*batch.Result, error)
}

// Pool is two queues, and the model and GPU class behind them.
type Pool struct {
	Name        string       // lower-case letters, digits, "-", "_": part of queue names
	Prefixes    []string     // of input keys with or without "in/" that mean this pool; the longest of all pools wins
	ShardChunks int          // chunks a shard; 0: batch.DefaultShardChunks
	Limits      jsonl.Config // of a file and its lines; the zero value has the defaults
}

// Config is what a Watcher needs. Bucket, BucketName, Queues and Finalizer must be set.
type Config struct {
	Bucket     storage.Bucket  // with retries (storage.WithRetry)
	Deleter    storage.Deleter // nil: nothing is deleted; that costs space and some requests, nothing else
	BucketName string          // as in the batch id: all watchers of a bucket must agree on it
	Queues     Opener
	Finalizer  Finalizer
	Pools      []Pool // none: one, DefaultPool
	Events     Source // events of the bucket in S3's format; nil: LIST only

	Name         string        // of this instance, in plans, messages and logs; "": the host's and a random part
	QueueAhead   int           // unstarted jobs a pool kept in its queue, at least the number of runners wanted; 0: 64
	ScanEvery    time.Duration // 0: 30 s
	Validators   int           // files over 4 MiB that are validated at once; 0: 2
	IgnoreBefore time.Time     // inputs last modified before are left alone
	Retention    time.Duration // of pieces, chunks and leases after the result, at least MinRetention; 0: MinRetention; negative: for ever
	TempDir      string        // for pieces in the making, up to 3 a file at work; "": os.TempDir()

	// AllowWeakStore runs on a store that storage.Probe says no to. Lines may then be lost or doubled.
	AllowWeakStore bool

	Log        *zap.Logger           // nil: none
	Registerer prometheus.Registerer // nil: none
	Tracer     trace.Tracer          // nil: nothing is recorded; traces of users are passed on all the same
}

var poolName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,63}$`)

func (c Config) withDefaults() (Config, error) {
	switch {
	case c.Bucket == nil || c.Queues == nil || c.Finalizer == nil:
		return c, errors.New("watcher: Bucket, Queues and Finalizer must be set")
	case c.BucketName == "":
		return c, errors.New("watcher: no bucket name")
	case c.QueueAhead < 0 || c.Validators < 0 || c.ScanEvery < 0:
		return c, errors.New("watcher: QueueAhead, Validators and ScanEvery must not be negative")
	case c.Retention > 0 && c.Retention < MinRetention:
		return c, fmt.Errorf("watcher: retention %s is shorter than %s: messages of a batch may live for 14 days", c.Retention, MinRetention)
	}
	c.QueueAhead = cmp.Or(c.QueueAhead, DefaultQueueAhead)
	c.ScanEvery = cmp.Or(c.ScanEvery, DefaultScanEvery)
	c.Validators = cmp.Or(c.Validators, DefaultValidators)
	c.Retention = cmp.Or(c.Retention, MinRetention)
	if c.Log == nil {
		c.Log = zap.NewNop()
	}
	if c.Tracer == nil {
		c.Tracer = noop.Tracer{}
	}
	if c.Name == "" {
		c.Name = defaultName()
	}
	return c, c.checkPools()
}

// checkPools gives the pools their defaults, in a copy.
func (c *Config) checkPools() error {
	if len(c.Pools) == 0 {
		c.Pools = []Pool{{Name: DefaultPool}}
	}
	c.Pools = slices.Clone(c.Pools)
	seen := map[string]bool{}
	for i := range c.Pools {
		p := &c.Pools[i]
		p.ShardChunks = cmp.Or(p.ShardChunks, batch.DefaultShardChunks)
		switch {
		case !poolName.MatchString(p.Name):
			return fmt.Errorf("watcher: pool %q: a name has lower-case letters, digits, - and _", p.Name)
		case seen[p.Name]:
			return fmt.Errorf("watcher: pool %q: defined twice", p.Name)
		case p.ShardChunks < 1:
			return fmt.Errorf("watcher: pool %q: %d chunks a shard", p.Name, p.ShardChunks)
		case p.Limits.MaxLineBytes > batch.MaxLineBytes: // it would be accepted, and no runner could read it
			return fmt.Errorf("watcher: pool %q: lines of %d bytes, the most that is staged is %d",
				p.Name, p.Limits.MaxLineBytes, batch.MaxLineBytes)
		}
		if _, err := jsonl.NewChecker(p.Limits); err != nil {
			return fmt.Errorf("watcher: pool %q: %w", p.Name, err)
		}
		seen[p.Name] = true
	}
	return nil
}

func defaultName() string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "watcher"
	}
	return "w-" + host + "-" + uuid.NewString()[:8]
}

// pool finds a pool by its name.
func (c *Config) pool(name string) (Pool, bool) {
	i := slices.IndexFunc(c.Pools, func(p Pool) bool { return p.Name == name })
	if i < 0 {
		return Pool{}, false
	}
	return c.Pools[i], true
}

// poolOf gives the name of the pool whose prefix is the longest that fits the key, else DefaultPool.
func (c *Config) poolOf(key string) string {
	name, longest := DefaultPool, -1
	for _, p := range c.Pools {
		for _, prefix := range p.Prefixes {
			prefix = strings.TrimPrefix(prefix, batch.InPrefix)
			if len(prefix) > longest && strings.HasPrefix(batch.Path(key), prefix) {
				name, longest = p.Name, len(prefix)
			}
		}
	}
	return name
}
