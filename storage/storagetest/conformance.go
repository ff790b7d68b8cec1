// Package storagetest asks an implementation of storage.Bucket for all that spool relies on, and
// provides the faults that a store can show.
//
// One suite for every driver, the one in memory included, keeps the fakes of other packages honest: what
// they are tested with has passed what the real stores pass.
package storagetest

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"spool/storage"
)

// Options adapt the suite to a store.
type Options struct {
	// Skips names the checks that a store cannot pass, each with the reason, which the test shows. Those
	// of storage.Probe are named "probe: " and their own name. A name that is no check fails the test.
	Skips map[string]string
}

// RunConformance runs every check as a subtest. Each call of open returns a Bucket, all may be the same
// one: checks use keys of their own. If the Bucket is a storage.Deleter, that is checked too.
func RunConformance(t *testing.T, open func(t *testing.T) storage.Bucket, opt Options) {
	checks := allChecks(opt)
	for name := range opt.Skips {
		if !strings.HasPrefix(name, probePrefix) && !slices.ContainsFunc(checks, func(c check) bool { return c.name == name }) {
			t.Errorf("skip of %q: there is no such check", name)
		}
	}
	for _, c := range checks {
		t.Run(strings.ReplaceAll(c.name, " ", "-"), func(t *testing.T) {
			if reason, ok := opt.Skips[c.name]; ok {
				t.Skipf("%s: %s", c.name, reason)
			}
			c.run(suite{t, open(t), "conformance/" + uuid.NewString() + "/"})
		})
	}
}

// probePrefix begins the names of the checks of storage.Probe.
const probePrefix = "probe: "

type check struct {
	name string
	run  func(suite)
}

func allChecks(opt Options) []check {
	probe := func(s suite) { s.probe(opt) }
	return []check{
		{"get what was put", suite.getWhatWasPut},
		{"empty object", suite.emptyObject},
		{"overwrite is visible at once", suite.overwrite},
		{"odd keys", suite.oddKeys},
		{"keys that XML cannot hold", suite.controlKeys},
		{"metadata", suite.metadata},
		{"clock", suite.clock},
		{"get range", suite.getRange},
		{"get range behind the end", suite.getRangeBehindTheEnd},
		{"get if match", suite.getIfMatch},
		{"absent key", suite.absentKey},
		{"cancelled context", suite.cancelledContext},
		{"put if absent", suite.putIfAbsent},
		{"put if match", suite.putIfMatch},
		{"put if match on an absent key", suite.putIfMatchAbsent},
		{"list in order", suite.listInOrder},
		{"list start after", suite.listStartAfter},
		{"list pages", suite.listPages},
		{"list with keys that are prefixes of others", suite.listNestedKeys},
		{"list cancelled", suite.listCancelled},
		{"upload sizes", suite.uploadSizes},
		{"upload metadata", suite.uploadMetadata},
		{"upload if absent", suite.uploadIfAbsent},
		{"upload if match", suite.uploadIfMatch},
		{"upload with a broken source", suite.uploadBrokenSource},
		{"upload of another size than announced", suite.uploadWrongSize},
		{"upload cancelled", suite.uploadCancelled},
		{"delete", suite.delete},
		{"put once and swap", suite.putOnceAndSwap},
		{"probe", probe},
	}
}

// suite is one check at work.
type suite struct {
	*testing.T
	b      storage.Bucket
	prefix string
}

func (s suite) put(name string, body []byte, opt storage.PutOptions) storage.Object {
	s.Helper()
	obj, err := s.b.Put(s.Context(), s.prefix+name, body, opt)
	if err != nil {
		s.Fatal(err)
	}
	s.sane(obj, name, len(body))
	return obj
}

func (s suite) upload(name string, body []byte, opt storage.PutOptions) storage.Object {
	s.Helper()
	opt.PartSize = storage.MinPartSize
	obj, err := s.b.Upload(s.Context(), s.prefix+name, bytes.NewReader(body), opt)
	if err != nil {
		s.Fatal(err)
	}
	s.sane(obj, name, len(body))
	return obj
}

// sane checks what every method says about an object.
func (s suite) sane(obj storage.Object, name string, size int) {
	s.Helper()
	if obj.Key != s.prefix+name || obj.Size != int64(size) {
		s.Errorf("object %q of %d bytes, want %q of %d", obj.Key, obj.Size, s.prefix+name, size)
	}
	if obj.ETag == "" || strings.Contains(obj.ETag, `"`) {
		s.Errorf("ETag %s, want one without quotes", obj.ETag)
	}
}

// holds checks that name holds body, by Get and by Head.
func (s suite) holds(name string, body []byte) storage.Object {
	s.Helper()
	got, obj, err := storage.ReadAll(s.Context(), s.b, s.prefix+name)
	if err != nil {
		s.Fatal(err)
	}
	s.sane(obj, name, len(body))
	if !bytes.Equal(got, body) {
		s.Fatalf("%q holds %s, want %s", name, brief(got), brief(body))
	}
	head, err := s.b.Head(s.Context(), s.prefix+name)
	if err != nil {
		s.Fatal(err)
	}
	s.sane(head, name, len(body))
	if head.ETag != obj.ETag || !head.LastModified.Equal(obj.LastModified) {
		s.Errorf("Head says ETag %s of %v, Get says %s of %v", head.ETag, head.LastModified, obj.ETag, obj.LastModified)
	}
	return head
}

// absent checks that there is nothing at name.
func (s suite) absent(name string) {
	s.Helper()
	if _, err := s.b.Head(s.Context(), s.prefix+name); !storage.IsNotFound(err) {
		s.Errorf("head %q: %v, want not found", name, err)
	}
}

// wantKind checks the kind of an error, and that it is typed at all.
func (s suite) wantKind(err error, kinds ...storage.Kind) {
	s.Helper()
	if _, ok := errors.AsType[*storage.Error](err); !ok || !slices.Contains(kinds, storage.KindOf(err)) {
		s.Errorf("error %v is of kind %v, want %v", err, storage.KindOf(err), kinds)
	}
}

// keys lists what is under the prefix, without it.
func (s suite) keys(prefix, startAfter string) []string {
	s.Helper()
	if startAfter != "" {
		startAfter = s.prefix + startAfter
	}
	var out []string
	for obj, err := range s.b.List(s.Context(), s.prefix+prefix, startAfter) {
		if err != nil {
			s.Fatal(err)
		}
		out = append(out, strings.TrimPrefix(obj.Key, s.prefix))
	}
	return out
}

// pattern is n bytes of which no two stretches are alike, so that a part in the wrong place is noticed.
func pattern(n int) []byte {
	out := make([]byte, n)
	x := uint32(2463534242)
	for i := range out {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		out[i] = byte(x)
	}
	return out
}

func brief(b []byte) string {
	const most = 40
	if len(b) <= most {
		return string(b)
	}
	return string(b[:most]) + "..."
}

func readAndClose(r io.ReadCloser) ([]byte, error) {
	b, err := io.ReadAll(r)
	return b, errors.Join(err, r.Close())
}
