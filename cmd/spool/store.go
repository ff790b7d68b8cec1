package main

import (
	"cmp"
	"context"
	"errors"
	"io"
	"iter"
	"sync"

	"github.com/urfave/cli/v2"
	"go.uber.org/zap"

	"spool/monitoring"
	"spool/storage"
	"spool/storage/miniostore"
	"spool/storage/s3store"
)

// Values of --store-driver.
const (
	driverS3    = "s3"
	driverMinio = "minio"
)

// storeConfig says which bucket to open, and how.
type storeConfig struct {
	driver   string
	bucket   string
	region   string
	endpoint string
	log      *zap.Logger
	retrying func(error) // told of what is tried again, as the log is; nil: nobody is
}

// store is one bucket, with retries.
type store struct {
	storage.Bucket
	storage.Deleter
	name string
}

// connector opens a bucket without asking it anything.
type connector func(ctx context.Context, cfg storeConfig) (*store, error)

// driver is what s3store and miniostore have.
type driver interface {
	storage.Bucket
	storage.Deleter
}

func connect(ctx context.Context, cfg storeConfig) (*store, error) {
	retry := storage.Retry{OnRetry: func(op, key string, attempt int, err error) {
		cfg.log.Warn("store call is tried again", zap.String("event", "store_retry"), zap.String("operation", op), zap.String("key", key),
			zap.Int("attempt", attempt), zap.Error(err))
		if cfg.retrying != nil {
			cfg.retrying(err)
		}
	}}
	d, err := openDriver(ctx, cfg, retry)
	if err != nil {
		return nil, failf(exitUsage, "check --region, --s3-endpoint and the credentials (AWS_PROFILE, AWS_ACCESS_KEY_ID)", "open bucket %q: %w", cfg.bucket, err)
	}
	return &store{Bucket: storage.WithRetry(d, retry), Deleter: storage.WithRetryDeleter(d, retry), name: cfg.bucket}, nil
}

func openDriver(ctx context.Context, cfg storeConfig, retry storage.Retry) (driver, error) {
	switch cfg.driver {
	case driverS3:
		return s3store.New(ctx, s3store.Config{Bucket: cfg.bucket, Region: cfg.region, Endpoint: cfg.endpoint, Retry: retry})
	case driverMinio:
		return miniostore.New(ctx, miniostore.Config{Bucket: cfg.bucket, Region: cfg.region, Endpoint: cfg.endpoint, Retry: retry})
	}
	return nil, errors.New("store driver " + cfg.driver + ": want s3 or minio")
}

// openStore opens the bucket of --bucket, or the one given.
func (p *program) openStore(c *cli.Context, bucket string, log *zap.Logger) (*store, error) {
	return p.open(c, storeConfig{bucket: bucket, log: log})
}

// openForUser is openStore for the commands for users. Their log is on standard error only if its level was asked for; else
// a store that does not answer is told once, in words: retries take seconds.
func (p *program) openForUser(c *cli.Context, bucket string) (s *store, closeLog func(), err error) {
	cfg, out := storeConfig{bucket: bucket}, p.stderr
	if !c.IsSet("log-level") {
		cfg.retrying, out = p.sayOnce(), io.Discard
	}
	cfg.log, closeLog, err = p.logTo(c, out, monitoring.Options{Level: "warn", Component: c.Command.Name})
	if err != nil {
		return nil, nil, err
	}
	if s, err = p.open(c, cfg); err != nil {
		closeLog()
		return nil, nil, err
	}
	return s, closeLog, nil
}

// sayOnce gives a function that says of the first failure that the store does not answer.
func (p *program) sayOnce() func(error) {
	var once sync.Once
	return func(err error) {
		if storage.KindOf(err) != storage.KindUnavailable {
			return // a conflict of writers passes
		}
		once.Do(func() {
			why := " as it should"
			if short := cause(err); short != "" {
				why = " (" + short + ")"
			}
			p.sayf("the store does not answer%s: trying again", why)
		})
	}
}

// open adds what the flags say.
func (p *program) open(c *cli.Context, cfg storeConfig) (*store, error) {
	cfg.bucket = cmp.Or(cfg.bucket, c.String("bucket"))
	if cfg.bucket == "" {
		return nil, failf(exitUsage, "", "%w", errNoBucket)
	}
	cfg.driver, cfg.region, cfg.endpoint = c.String("store-driver"), c.String("region"), c.String("s3-endpoint")
	return p.connect(c.Context, cfg)
}

// userBucket is a bucket as a user's role sees it. AWS answers 403 instead of 404 for an absent key to
// those who may not list the whole bucket, and a user may list only some prefixes: so what is denied is
// looked for in a listing, and called absent if it is not there.
type userBucket struct{ storage.Bucket }

func (b userBucket) Head(ctx context.Context, key string) (storage.Object, error) {
	obj, err := b.Bucket.Head(ctx, key)
	return obj, b.absent(ctx, "head", key, err)
}

func (b userBucket) absent(ctx context.Context, op, key string, err error) error {
	if err == nil || storage.KindOf(err) != storage.KindDenied {
		return err
	}
	next, stop := iter.Pull2(b.List(ctx, key, ""))
	defer stop()
	first, listErr, ok := next()
	if listErr != nil || ok && first.Key == key {
		return err
	}
	return &storage.Error{Op: op, Key: key, Kind: storage.KindNotFound, Err: err}
}

// readAll is storage.ReadAll with the same distinction.
func (b userBucket) readAll(ctx context.Context, key string) ([]byte, storage.Object, error) {
	body, obj, err := storage.ReadAll(ctx, b.Bucket, key)
	return body, obj, b.absent(ctx, "get", key, err)
}
