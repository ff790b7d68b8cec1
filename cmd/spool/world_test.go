package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"

	"spool/localstack/localtest"
	"spool/storage"
	"spool/storage/batch"
	"spool/storage/memstore"
)

// The test binary is also the binary that the scripts run.
func TestMain(m *testing.M) { testscript.Main(leakChecked{m}, map[string]func(){"spool": main}) }

type leakChecked struct{ *testing.M }

func (m leakChecked) Run() int {
	localtest.ForgetSettings()
	code := m.M.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		os.Stderr.WriteString(err.Error() + "\n")
		return 1
	}
	return code
}

// world is a bucket in memory and the program before it. Its clock is the test's.
type world struct {
	t      *testing.T
	store  *memstore.Store
	denied func(op, key string) bool // what the credentials may not do; nil: nothing
	gone   bool                      // there is no such bucket
	stdin  string
}

const bucketName = "spool"

func newWorld(t *testing.T) *world {
	return &world{t: t, store: memstore.New(memstore.Options{})}
}

// spool runs a command line.
func (w *world) spool(args ...string) (stdout, stderr string, code exitCode) {
	w.t.Helper()
	return w.spoolIn(w.t.Context(), args...)
}

func (w *world) spoolIn(ctx context.Context, args ...string) (stdout, stderr string, code exitCode) {
	w.t.Helper()
	var out, errs bytes.Buffer
	p := &program{stdin: strings.NewReader(w.stdin), stdout: &out, stderr: &errs,
		connect: func(_ context.Context, cfg storeConfig) (*store, error) {
			return &store{Bucket: roleBucket{w.store, w}, Deleter: w.store, name: cfg.bucket}, nil
		}}
	code = p.main(ctx, append([]string{"spool"}, args...))
	return out.String(), errs.String(), code
}

// want runs a command line that must end with a code, and gives its standard output.
func (w *world) want(code exitCode, args ...string) string {
	w.t.Helper()
	stdout, stderr, got := w.spool(args...)
	if got != code {
		w.t.Fatalf("spool %s: exit %d, want %d\n%s%s", strings.Join(args, " "), got, code, stdout, stderr)
	}
	return stdout
}

// put stores an object.
func (w *world) put(key, body string, meta map[string]string) storage.Object {
	w.t.Helper()
	if _, err := w.store.Put(w.t.Context(), key, []byte(body), storage.PutOptions{Metadata: meta}); err != nil {
		w.t.Fatal(err)
	}
	obj, err := w.store.Head(w.t.Context(), key)
	if err != nil {
		w.t.Fatal(err)
	}
	return obj
}

func (w *world) putJSON(key string, v any) {
	w.t.Helper()
	body, err := json.Marshal(v)
	if err != nil {
		w.t.Fatal(err)
	}
	w.put(key, string(body), nil)
}

func (w *world) get(key string) string {
	w.t.Helper()
	body, _, err := storage.ReadAll(w.t.Context(), w.store, key)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(body)
}

// upload stores an input of n good lines, and gives the id of its batch.
func (w *world) upload(key string, n int, meta map[string]string) (id string) {
	w.t.Helper()
	return uploadID(bucketName, w.put(key, goodLines(n), meta), 0)
}

// end stores batch.json and the files that go with it, as a finaliser does: in a later second than the upload.
// Call it where time is synctest's.
func (w *world) end(key, id, status string, completed, failed int64) *batch.Object {
	w.t.Helper()
	time.Sleep(time.Second)
	dir := batch.OutDir(key, id)
	now := time.Now().Unix()
	o := &batch.Object{ID: id, Object: "batch", InputFileID: key, Status: status, CreatedAt: now - 10, CompletedAt: &now,
		RequestCounts: batch.RequestCounts{Total: completed + failed, Completed: completed, Failed: failed}}
	output := dir + batch.OutputName
	w.put(output, strings.Repeat("{}\n", int(completed)), nil)
	o.OutputFileID = &output
	if failed > 0 {
		errs := dir + batch.ErrorsName
		o.ErrorFileID = &errs
		var lines []byte
		for i := range failed {
			a := batch.Answer{Batch: id, Line: completed + i + 1, CustomID: "x", Code: batch.CodeRequestTimeout, Message: "late"}
			lines = append(a.AppendLine(lines), '\n')
		}
		w.put(errs, string(lines), nil)
	}
	w.putJSON(dir+batch.ObjectName, o)
	return o
}

// reject stores what a rejected file leaves.
func (w *world) reject(key, id string, e batch.BatchError) {
	w.t.Helper()
	time.Sleep(time.Second)
	now := time.Now().Unix()
	w.putJSON(batch.OutDir(key, id)+batch.ObjectName, &batch.Object{ID: id, Object: "batch", InputFileID: key, Status: batch.Failed,
		CreatedAt: now, FailedAt: &now, Errors: &batch.Errors{Object: "list", Data: []batch.BatchError{e}}})
}

// file writes a local file.
func (w *world) file(name, text string) string {
	w.t.Helper()
	path := filepath.Join(w.t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return path
}

func goodLine(id string) string {
	return `{"custom_id":"` + id + `","method":"POST","url":"/v1/completions","body":{"model":"m","prompt":"` + id + `"}}` + "\n"
}

func goodLines(n int) string {
	var s strings.Builder
	for i := range n {
		s.WriteString(goodLine(string(rune('a' + i))))
	}
	return s.String()
}

// roleBucket denies what the role may not do, the way AWS does: HEAD of an absent key is denied, too, to those
// who may not list the bucket as a whole.
type roleBucket struct {
	*memstore.Store
	w *world
}

func (b roleBucket) deny(op, key string) error {
	if b.w.denied != nil && b.w.denied(op, key) {
		return &storage.Error{Op: op, Key: key, Kind: storage.KindDenied}
	}
	return nil
}

// List tells an absent bucket from an empty one, as HEAD cannot.
func (b roleBucket) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Object, error] {
	if b.w.gone {
		return func(yield func(storage.Object, error) bool) {
			yield(storage.Object{}, &storage.Error{Op: "list", Key: prefix, Kind: storage.KindNotFound})
		}
	}
	return b.Store.List(ctx, prefix, after)
}

func (b roleBucket) Get(ctx context.Context, key string, opt storage.GetOptions) (io.ReadCloser, storage.Object, error) {
	if err := b.deny("get", key); err != nil {
		return nil, storage.Object{}, err
	}
	return b.Store.Get(ctx, key, opt)
}

func (b roleBucket) Head(ctx context.Context, key string) (storage.Object, error) {
	if err := b.deny("head", key); err != nil {
		return storage.Object{}, err
	}
	return b.Store.Head(ctx, key)
}
