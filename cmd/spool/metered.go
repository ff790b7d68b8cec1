package main

import (
	"context"
	"errors"
	"io"
	"iter"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"spool/monitoring"
	"spool/storage"
	"spool/storage/batch"
)

// metered counts and times the calls of a store, each with its retries.
type metered struct {
	*storeMeter
	bucket  storage.Bucket
	deleter storage.Deleter // nil if there is none
}

// storeMeter is the metrics of all stores of a process: of its work, and of its logs.
type storeMeter struct {
	duration *prometheus.HistogramVec
	errors   *prometheus.CounterVec
	bytes    *prometheus.CounterVec
	files    *prometheus.CounterVec
}

func newStoreMeter(reg prometheus.Registerer) *storeMeter {
	set := monitoring.NewSet(reg)
	m := &storeMeter{
		duration: set.Histograms("spool_storage_operation_duration_seconds"), errors: set.Counters("spool_storage_errors_total"),
		bytes: set.Counters("spool_bytes_total"), files: set.Counters("spool_files_total"),
	}
	for direction, kinds := range map[string][]string{ // what each process moves
		directionRead: {"input", "work", "result"}, directionWritten: {"work", "result", "log"},
	} {
		for _, kind := range kinds {
			m.bytes.WithLabelValues(direction, kind)
			m.files.WithLabelValues(direction, kind)
		}
	}
	return m
}

// of makes the same store with metrics.
func (m *storeMeter) of(s *store) *store {
	both := &metered{storeMeter: m, bucket: s.Bucket, deleter: s.Deleter}
	return &store{Bucket: both, Deleter: both, name: s.name}
}

// Values of the label direction.
const (
	directionRead    = "read"
	directionWritten = "written"
)

// kindOf tells what an object is, by its key.
func kindOf(key string) string {
	for prefix, kind := range map[string]string{
		batch.InPrefix: "input", batch.SysPrefix: "work", batch.OutPrefix: "result", batch.LogsPrefix: "log",
	} {
		if strings.HasPrefix(key, prefix) {
			return kind
		}
	}
	return "other"
}

func (m *storeMeter) done(op string, took time.Duration, err error) {
	m.duration.WithLabelValues(op).Observe(took.Seconds())
	switch kind := storage.KindOf(err); {
	case err == nil, errors.Is(err, context.Canceled), kind == storage.KindNotFound, kind == storage.KindPrecondition, kind == storage.KindConflict:
	default:
		m.errors.WithLabelValues(op, strings.ReplaceAll(kind.String(), " ", "_")).Inc()
	}
}

func (m *storeMeter) moved(direction, key string, size int64) {
	kind := kindOf(key)
	m.files.WithLabelValues(direction, kind).Inc()
	m.bytes.WithLabelValues(direction, kind).Add(float64(size))
}

func (m *metered) Get(ctx context.Context, key string, opt storage.GetOptions) (io.ReadCloser, storage.Object, error) {
	start := time.Now()
	r, obj, err := m.bucket.Get(ctx, key, opt)
	m.done("get", time.Since(start), err)
	if err != nil {
		return r, obj, err
	}
	m.moved(directionRead, key, 0)
	return &countedReader{ReadCloser: r, read: m.bytes.WithLabelValues(directionRead, kindOf(key))}, obj, nil
}

// countedReader counts what is read, when it is.
type countedReader struct {
	io.ReadCloser
	read prometheus.Counter
}

func (r *countedReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.read.Add(float64(n))
	return n, err
}

func (m *metered) Head(ctx context.Context, key string) (storage.Object, error) {
	start := time.Now()
	obj, err := m.bucket.Head(ctx, key)
	m.done("head", time.Since(start), err)
	return obj, err
}

func (m *metered) Put(ctx context.Context, key string, body []byte, opt storage.PutOptions) (storage.Object, error) {
	start := time.Now()
	obj, err := m.bucket.Put(ctx, key, body, opt)
	m.done("put", time.Since(start), err)
	if err == nil {
		m.moved(directionWritten, key, int64(len(body)))
	}
	return obj, err
}

func (m *metered) Upload(ctx context.Context, key string, r io.Reader, opt storage.PutOptions) (storage.Object, error) {
	start := time.Now()
	obj, err := m.bucket.Upload(ctx, key, r, opt)
	m.done("upload", time.Since(start), err)
	if err == nil {
		m.moved(directionWritten, key, obj.Size)
	}
	return obj, err
}

// List times the waiting for the store, and not what is done with each object.
func (m *metered) List(ctx context.Context, prefix, startAfter string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		var took time.Duration
		var failed error
		start := time.Now()
		defer func() { m.done("list", took, failed) }()
		for obj, err := range m.bucket.List(ctx, prefix, startAfter) {
			took += time.Since(start)
			failed = err
			if !yield(obj, err) {
				return
			}
			start = time.Now()
		}
		took += time.Since(start)
	}
}

func (m *metered) Delete(ctx context.Context, key string) error {
	start := time.Now()
	err := m.deleter.Delete(ctx, key)
	m.done("delete", time.Since(start), err)
	return err
}
