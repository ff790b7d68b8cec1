package storage_test

import (
	"context"
	"io"
	"iter"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"spool/storage"
	"spool/storage/memstore"
	"spool/storage/storagetest"
)

func failed(r storage.Report) []string {
	var names []string
	for _, c := range r.Checks {
		if !c.OK {
			names = append(names, c.Name)
		}
	}
	return names
}

func TestProbeAcceptsASoundStoreAndCleansUp(t *testing.T) {
	mem := memstore.New(memstore.Options{})
	report, err := storage.Probe(t.Context(), mem, "sys/probe/", storage.ProbeOptions{Deleter: mem})
	if err != nil || !report.OK() || report.Err() != nil || len(report.Checks) != 10 {
		t.Errorf("report %+v, %v; want 10 checks passed", report, err)
	}
	for obj := range mem.List(t.Context(), "", "") {
		t.Errorf("left behind: %s", obj.Key)
	}
}

func TestProbeWithoutDeleterLeavesFewObjectsUnderItsPrefix(t *testing.T) {
	mem := memstore.New(memstore.Options{})
	report, err := storage.Probe(t.Context(), mem, "sys/probe/", storage.ProbeOptions{Uploads: -1})
	if err != nil || !report.OK() || len(report.Checks) != 8 {
		t.Errorf("report %+v, %v; want 8 checks passed", report, err)
	}
	n := 0
	for obj := range mem.List(t.Context(), "", "") {
		n++
		if !strings.HasPrefix(obj.Key, "sys/probe/") {
			t.Errorf("%s is not under the prefix", obj.Key)
		}
	}
	if n == 0 || n > 25 {
		t.Errorf("%d objects left behind, want some 20", n)
	}
}

func TestProbeCatchesWeakStores(t *testing.T) {
	const absent, match = "put if absent, one winner", "put if match, one winner"
	const upload, readMatch = "complete upload if absent, one winner", "read if match"
	tests := map[string]struct {
		weaken func(storage.Bucket) storage.Bucket
		want   []string
	}{
		"ignores all conditions": {
			func(b storage.Bucket) storage.Bucket { return &ignoresConditions{b} },
			[]string{readMatch, absent, match, upload},
		},
		"ignores the condition of a completion": {
			func(b storage.Bucket) storage.Bucket { return &weakUploads{b} },
			[]string{upload},
		},
		"checks, then writes": {
			func(b storage.Bucket) storage.Bucket { return &checksThenWrites{Bucket: b} },
			[]string{absent, match, upload},
		},
		"title-case metadata keys": {
			func(b storage.Bucket) storage.Bucket { return &titleCase{b} },
			[]string{"metadata keys", absent, match, upload},
		},
		"directory order": {
			func(b storage.Bucket) storage.Bucket { return &directoryOrder{b} },
			[]string{"list after write, in order"},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			mem := memstore.New(memstore.Options{})
			report, err := storage.Probe(t.Context(), tc.weaken(mem), "p/", storage.ProbeOptions{Uploads: 4})
			if err != nil || !slices.Equal(failed(report), tc.want) {
				t.Errorf("failed %q, %v; want %q", failed(report), err, tc.want)
			}
			if report.OK() || report.Err() == nil {
				t.Error("the report is good")
			}
		})
	}
}

func TestProbeDoesNotJudgeAStoreItCannotReach(t *testing.T) {
	for _, fault := range []storagetest.Fault{storagetest.Denied, storagetest.Unavailable, storagetest.Lost} {
		hook := &storagetest.Hook{Bucket: memstore.New(memstore.Options{}), Before: fault, Reads: true}
		report, err := storage.Probe(t.Context(), hook, "p/", storage.ProbeOptions{})
		if storage.KindOf(err) != storage.KindOf(fault("", "")) || len(report.Checks) != 0 {
			t.Errorf("report %+v, %v; want no judgement and the error", report, err)
		}
	}
}

func TestProbeGivesUpOnAHangingStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := &storagetest.Slow{Bucket: memstore.New(memstore.Options{}), Delay: time.Hour}
		begin := time.Now()
		if _, err := storage.Probe(t.Context(), slow, "p/", storage.ProbeOptions{}); err == nil || time.Since(begin) != 2*time.Minute {
			t.Errorf("error %v after %v, want one after 2m", err, time.Since(begin))
		}
	})
}

// weakUploads is gofakes3: right for PUT, blind at completion.
type weakUploads struct{ storage.Bucket }

func (b *weakUploads) Upload(ctx context.Context, key string, r io.Reader, opt storage.PutOptions) (storage.Object, error) {
	opt.Cond = storage.Cond{}
	return b.Bucket.Upload(ctx, key, r, opt)
}

// checksThenWrites looks at the condition first and writes later, as versitygw 1.7 did: it refuses the
// late, but not the simultaneous.
type checksThenWrites struct {
	storage.Bucket
	gates sync.Map // of chan struct{}, by key
}

func (b *checksThenWrites) Put(ctx context.Context, key string, body []byte, opt storage.PutOptions) (storage.Object, error) {
	if opt.Cond == (storage.Cond{}) {
		return b.Bucket.Put(ctx, key, body, opt)
	}
	obj, err := b.Bucket.Head(ctx, key)
	if err == nil && (opt.Cond.IfAbsent || opt.Cond.IfMatch != obj.ETag) {
		return storage.Object{}, &storage.Error{Op: "put", Key: key, Kind: storage.KindPrecondition}
	}
	b.meet(ctx, key)
	opt.Cond = storage.Cond{}
	return b.Bucket.Put(ctx, key, body, opt)
}

func (b *checksThenWrites) Upload(ctx context.Context, key string, r io.Reader, opt storage.PutOptions) (storage.Object, error) {
	body, err := io.ReadAll(r)
	if err != nil {
		return storage.Object{}, err
	}
	return b.Put(ctx, key, body, opt)
}

// meet makes the first writer that has passed the check wait for the second.
func (b *checksThenWrites) meet(ctx context.Context, key string) {
	gate := make(chan struct{}, 2)
	if other, second := b.gates.LoadOrStore(key, gate); second {
		select {
		case other.(chan struct{}) <- struct{}{}:
		default:
		}
		return
	}
	select {
	case <-gate:
	case <-ctx.Done():
	}
}

// titleCase hands metadata keys out as HTTP libraries spell them.
type titleCase struct{ storage.Bucket }

func (b *titleCase) Head(ctx context.Context, key string) (storage.Object, error) {
	obj, err := b.Bucket.Head(ctx, key)
	meta := map[string]string{}
	for k, v := range obj.Metadata {
		meta[strings.ToUpper(k[:1])+k[1:]] = v
	}
	obj.Metadata = meta
	return obj, err
}

// directoryOrder lists what is in a directory before what begins with its name.
type directoryOrder struct{ storage.Bucket }

func (b *directoryOrder) List(ctx context.Context, prefix, startAfter string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		var all []storage.Object
		for obj, err := range b.Bucket.List(ctx, prefix, "") {
			if err != nil {
				yield(storage.Object{}, err)
				return
			}
			all = append(all, obj)
		}
		walk := func(key string) string { return strings.ReplaceAll(key, "/", "\x00") }
		slices.SortFunc(all, func(a, b storage.Object) int { return strings.Compare(walk(a.Key), walk(b.Key)) })
		for _, obj := range all {
			if walk(obj.Key) > walk(startAfter) && !yield(obj, nil) {
				return
			}
		}
	}
}
