package storagetest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"strings"
	"testing"
	"testing/iotest"

	"spool/storage"
)

// Checks of conditions and uploads.

func (s suite) putIfAbsent() {
	cond := storage.PutOptions{Cond: storage.Cond{IfAbsent: true}}
	s.put("k", []byte("first"), cond)
	_, err := s.b.Put(s.Context(), s.prefix+"k", []byte("second"), cond)
	s.wantKind(err, storage.KindPrecondition)
	s.holds("k", []byte("first"))
}

func (s suite) putIfMatch() {
	first := s.put("k", []byte("first"), storage.PutOptions{})
	second := s.put("k", []byte("second"), storage.PutOptions{Cond: storage.Cond{IfMatch: first.ETag}})
	s.holds("k", []byte("second"))
	_, err := s.b.Put(s.Context(), s.prefix+"k", []byte("late"), storage.PutOptions{Cond: storage.Cond{IfMatch: first.ETag}})
	s.wantKind(err, storage.KindPrecondition)
	if obj := s.holds("k", []byte("second")); obj.ETag != second.ETag {
		s.Errorf("ETag %s, want %s", obj.ETag, second.ETag)
	}
}

// Stores differ here: AWS says 404, R2 412.
func (s suite) putIfMatchAbsent() {
	opt := storage.PutOptions{Cond: storage.Cond{IfMatch: "d41d8cd98f00b204e9800998ecf8427e"}}
	_, err := s.b.Put(s.Context(), s.prefix+"k", []byte("x"), opt)
	s.wantKind(err, storage.KindPrecondition, storage.KindNotFound)
	s.absent("k")
}

func (s suite) uploadSizes() {
	const part = storage.MinPartSize
	for name, size := range map[string]int{
		"empty": 0, "one byte": 1, "one part": part, "one part and a byte": part + 1, "two parts": 2 * part, "three parts": 2*part + 4321,
	} {
		body := pattern(size)
		for _, announced := range []int64{0, int64(size)} {
			put := s.upload(name, body, storage.PutOptions{Size: announced})
			if obj := s.holds(name, body); obj.ETag != put.ETag {
				s.Errorf("%s: Head says ETag %s, Upload said %s", name, obj.ETag, put.ETag)
			}
		}
	}
}

// Small and large uploads take different ways; each check runs over both.
var uploadBodies = map[string][]byte{"small": pattern(100), "large": pattern(storage.MinPartSize + 100)} //nolint:gochecknoglobals // never changed

func (s suite) uploadMetadata() {
	meta := map[string]string{storage.PutIDKey: "1", "sha256": "abc"}
	for name, body := range uploadBodies {
		s.upload(name, body, storage.PutOptions{Metadata: meta, ContentType: "application/jsonl"})
		s.sameMetadata(name, meta)
	}
}

func (s suite) uploadIfAbsent() {
	for name, body := range uploadBodies {
		opt := storage.PutOptions{Cond: storage.Cond{IfAbsent: true}, PartSize: storage.MinPartSize}
		s.upload(name, body, opt)
		_, err := s.b.Upload(s.Context(), s.prefix+name, bytes.NewReader(body[1:]), opt)
		s.wantKind(err, storage.KindPrecondition)
		s.holds(name, body)
	}
}

func (s suite) uploadIfMatch() {
	for name, body := range uploadBodies {
		first := s.put(name, []byte("first"), storage.PutOptions{})
		opt := storage.PutOptions{Cond: storage.Cond{IfMatch: first.ETag}, PartSize: storage.MinPartSize}
		s.upload(name, body, opt)
		_, err := s.b.Upload(s.Context(), s.prefix+name, bytes.NewReader(body[1:]), opt)
		s.wantKind(err, storage.KindPrecondition)
		s.holds(name, body)
	}
}

func (s suite) uploadBrokenSource() {
	// io.ErrUnexpectedEOF is what a torn body or a cut gzip file says: never the end of an object.
	for _, broken := range []error{errors.New("disk on fire"), io.ErrUnexpectedEOF} {
		for name, body := range uploadBodies {
			r := io.MultiReader(bytes.NewReader(body), iotest.ErrReader(broken))
			_, err := s.b.Upload(s.Context(), s.prefix+name, r, storage.PutOptions{PartSize: storage.MinPartSize})
			if !errors.Is(err, broken) || storage.Temporary(err) {
				s.Errorf("%s: error %v, want that of the source, not temporary", name, err)
			}
			s.absent(name)
		}
	}
}

func (s suite) uploadWrongSize() {
	for name, body := range uploadBodies {
		for _, size := range []int64{int64(len(body)) - 1, int64(len(body)) + 1} {
			_, err := s.b.Upload(s.Context(), s.prefix+name, bytes.NewReader(body), storage.PutOptions{Size: size, PartSize: storage.MinPartSize})
			s.wantKind(err, storage.KindInvalid)
			s.absent(name)
		}
	}
}

func (s suite) uploadCancelled() {
	for name, body := range uploadBodies {
		ctx, cancel := context.WithCancel(s.Context())
		r := io.MultiReader(bytes.NewReader(body), readerFunc(func([]byte) (int, error) {
			cancel()
			return 0, io.EOF
		}))
		_, err := s.b.Upload(ctx, s.prefix+name, r, storage.PutOptions{PartSize: storage.MinPartSize})
		if !errors.Is(err, context.Canceled) || storage.Temporary(err) {
			s.Errorf("%s: error %v, want that of the context, not temporary", name, err)
		}
		s.absent(name)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func (s suite) putOnceAndSwap() {
	ctx, key := s.Context(), s.prefix+"k"
	first, err := storage.PutOnce(ctx, s.b, key, []byte("first"), storage.PutOptions{})
	if err != nil || !first.Mine {
		s.Fatalf("put once: mine=%v, %v", first.Mine, err)
	}
	again, err := storage.PutOnce(ctx, s.b, key, []byte("again"), storage.PutOptions{})
	if err != nil || again.Mine || again.ETag != first.ETag || again.Metadata[storage.PutIDKey] != first.Metadata[storage.PutIDKey] {
		s.Errorf("put once again: %+v, %v; want the first to stand: %+v", again, err, first)
	}
	second, err := storage.Swap(ctx, s.b, key, first.ETag, []byte("second"))
	if err != nil || !second.Mine {
		s.Fatalf("swap: mine=%v, %v", second.Mine, err)
	}
	late, err := storage.Swap(ctx, s.b, key, first.ETag, []byte("late"))
	if err != nil || late.Mine || late.ETag != second.ETag {
		s.Errorf("late swap: %+v, %v; want the second to stand: %+v", late, err, second)
	}
	s.holds("k", []byte("second"))
	if _, err := storage.Swap(ctx, s.b, s.prefix+"absent", first.ETag, nil); !storage.IsNotFound(err) {
		s.Errorf("swap of an absent key: %v, want not found", err)
	}
}

func (s suite) probe(opt Options) {
	d, _ := s.b.(storage.Deleter)
	report, err := storage.Probe(s.Context(), s.b, s.prefix, storage.ProbeOptions{Rounds: 4, Deleter: d})
	if err != nil {
		s.Fatal(err)
	}
	skips := maps.Clone(opt.Skips)
	for _, c := range report.Checks {
		reason, skip := skips[probePrefix+c.Name]
		delete(skips, probePrefix+c.Name)
		s.Run(strings.ReplaceAll(c.Name, " ", "-"), func(t *testing.T) {
			if skip {
				t.Skipf("%s: %s (now: %v %s)", c.Name, reason, c.OK, c.Detail)
			}
			if !c.OK {
				t.Error(c.Detail)
			}
		})
	}
	for name := range skips {
		if strings.HasPrefix(name, probePrefix) {
			s.Errorf("skip of %q: the probe has no such check", name)
		}
	}
	if got := s.keys("", ""); d != nil && len(got) != 0 {
		s.Errorf("left behind: %q", got)
	}
}
