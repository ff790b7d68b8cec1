package storagetest

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"spool/storage"
)

// Checks of single objects.

func (s suite) getWhatWasPut() {
	body := []byte("{\"custom_id\":\"a\"}\n\x00\xff")
	put := s.put("k.jsonl", body, storage.PutOptions{ContentType: "application/jsonl"})
	if obj := s.holds("k.jsonl", body); obj.ETag != put.ETag {
		s.Errorf("Head says ETag %s, Put said %s", obj.ETag, put.ETag)
	}
	big := pattern(3<<20 + 17)
	s.put("big", big, storage.PutOptions{})
	s.holds("big", big)
}

func (s suite) emptyObject() {
	s.put("empty", nil, storage.PutOptions{})
	s.holds("empty", nil)
}

func (s suite) overwrite() {
	first := s.put("k", []byte("first"), storage.PutOptions{Metadata: map[string]string{"n": "1"}})
	second := s.put("k", []byte("second, longer"), storage.PutOptions{})
	obj := s.holds("k", []byte("second, longer"))
	if obj.ETag != second.ETag || obj.ETag == first.ETag {
		s.Errorf("ETag %s, want %s, not the first, %s", obj.ETag, second.ETag, first.ETag)
	}
	if _, ok := obj.Metadata["n"]; ok {
		s.Errorf("metadata %v is that of the version before", obj.Metadata)
	}
}

// oddNames are keys that clients and stores have been seen to mangle, in the order of their bytes.
var oddNames = []string{ //nolint:gochecknoglobals // never changed
	"odd/ leading blank", "odd/100%", "odd/100%25", "odd/a b", "odd/a&b=c", "odd/a'(b)!*", "odd/a+b", "odd/a=b", "odd/a?b", "odd/a~b",
	"odd/été.jsonl", "odd/日本語/x.jsonl",
}

func (s suite) oddKeys() {
	for _, name := range oddNames {
		s.put(name, []byte(name), storage.PutOptions{})
	}
	for i, name := range oddNames {
		s.holds(name, []byte(name))
		if got := s.keys(name, ""); len(got) == 0 || got[0] != name {
			s.Errorf("listing prefix %q: %q", name, got)
		}
		if got := s.keys("odd/", name); len(got) != len(oddNames)-i-1 {
			s.Errorf("listing after %q: %q", name, got)
		}
	}
}

// A user may have one, and the listing of all others must not suffer.
func (s suite) controlKeys() {
	const name = "control/\x01\x1f.jsonl"
	s.put(name, []byte("x"), storage.PutOptions{})
	s.holds(name, []byte("x"))
	if got := s.keys("control/", ""); !slices.Equal(got, []string{name}) {
		s.Errorf("listed %q, want %q", got, name)
	}
}

func (s suite) metadata() {
	meta := map[string]string{storage.PutIDKey: "0b9c-11", "sha256": "ABCdef", "oklines": "1000", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
	s.put("k", []byte("x"), storage.PutOptions{Metadata: meta})
	s.sameMetadata("k", meta)
	s.put("mixed", []byte("x"), storage.PutOptions{Metadata: map[string]string{"MixedCase": "Value"}})
	s.sameMetadata("mixed", map[string]string{"mixedcase": "Value"})
	s.put("none", []byte("x"), storage.PutOptions{})
	s.sameMetadata("none", map[string]string{})
}

func (s suite) sameMetadata(name string, want map[string]string) {
	s.Helper()
	r, get, err := s.b.Get(s.Context(), s.prefix+name, storage.GetOptions{})
	if err != nil {
		s.Fatal(err)
	}
	if _, err := readAndClose(r); err != nil {
		s.Fatal(err)
	}
	head, err := s.b.Head(s.Context(), s.prefix+name)
	if err != nil {
		s.Fatal(err)
	}
	if !maps.Equal(get.Metadata, want) || !maps.Equal(head.Metadata, want) {
		s.Errorf("metadata %v by Get, %v by Head, want %v", get.Metadata, head.Metadata, want)
	}
}

// The age of a lease is Date less LastModified, so both must be there and agree.
func (s suite) clock() {
	s.put("k", []byte("x"), storage.PutOptions{})
	r, get, err := s.b.Get(s.Context(), s.prefix+"k", storage.GetOptions{})
	if err != nil {
		s.Fatal(err)
	}
	if _, err := readAndClose(r); err != nil {
		s.Fatal(err)
	}
	head, err := s.b.Head(s.Context(), s.prefix+"k")
	if err != nil {
		s.Fatal(err)
	}
	for how, obj := range map[string]storage.Object{"Get": get, "Head": head} {
		if obj.Date.IsZero() || obj.LastModified.IsZero() {
			s.Errorf("%s: Date %v, LastModified %v", how, obj.Date, obj.LastModified)
		}
		if age := obj.Date.Sub(obj.LastModified); age < -2*time.Second || age > time.Minute {
			s.Errorf("%s: an object just written is %v old", how, age)
		}
	}
	for obj, err := range s.b.List(s.Context(), s.prefix, "") {
		if err != nil {
			s.Fatal(err)
		}
		if d := obj.LastModified.Sub(head.LastModified); d.Abs() >= time.Second {
			s.Errorf("List says %v, Head says %v", obj.LastModified, head.LastModified)
		}
	}
}

func (s suite) getRange() {
	body := pattern(100_000)
	put := s.put("k", body, storage.PutOptions{})
	tests := []struct {
		opt        storage.GetOptions
		start, end int
	}{
		{storage.GetOptions{}, 0, 100_000},
		{storage.GetOptions{Offset: 1}, 1, 100_000},
		{storage.GetOptions{Length: 1}, 0, 1},
		{storage.GetOptions{Offset: 12_345, Length: 54_321}, 12_345, 66_666},
		{storage.GetOptions{Offset: 99_999}, 99_999, 100_000},
		{storage.GetOptions{Offset: 99_990, Length: 1000}, 99_990, 100_000},
		{storage.GetOptions{Offset: 10, Length: 10, IfMatch: put.ETag}, 10, 20},
	}
	for _, tc := range tests {
		r, obj, err := s.b.Get(s.Context(), s.prefix+"k", tc.opt)
		if err != nil {
			s.Fatalf("%+v: %v", tc.opt, err)
		}
		got, err := readAndClose(r)
		if err != nil || !bytes.Equal(got, body[tc.start:tc.end]) {
			s.Errorf("%+v: read %d bytes, %v; want bytes %d to %d", tc.opt, len(got), err, tc.start, tc.end)
		}
		s.sane(obj, "k", len(body)) // the size is that of the whole object
		if obj.ETag != put.ETag {
			s.Errorf("%+v: ETag %s, want %s", tc.opt, obj.ETag, put.ETag)
		}
	}
}

func (s suite) getRangeBehindTheEnd() {
	s.put("k", []byte("0123456789"), storage.PutOptions{})
	for _, opt := range []storage.GetOptions{{Offset: 10}, {Offset: 11, Length: 1}, {Offset: -1}, {Length: -1}} {
		r, _, err := s.b.Get(s.Context(), s.prefix+"k", opt)
		if err == nil {
			s.Errorf("%+v: no error (close: %v)", opt, r.Close())
			continue
		}
		s.wantKind(err, storage.KindInvalid)
	}
}

func (s suite) getIfMatch() {
	old := s.put("k", []byte("old"), storage.PutOptions{})
	now := s.put("k", []byte("new"), storage.PutOptions{})
	r, _, err := s.b.Get(s.Context(), s.prefix+"k", storage.GetOptions{IfMatch: now.ETag})
	if err != nil {
		s.Fatal(err)
	}
	if body, err := readAndClose(r); err != nil || string(body) != "new" {
		s.Errorf("read %q, %v", body, err)
	}
	r, _, err = s.b.Get(s.Context(), s.prefix+"k", storage.GetOptions{IfMatch: old.ETag})
	if err == nil {
		s.Fatalf("the ETag of an old version reads the new one (close: %v)", r.Close())
	}
	s.wantKind(err, storage.KindPrecondition)
}

func (s suite) absentKey() {
	_, _, err := s.b.Get(s.Context(), s.prefix+"absent", storage.GetOptions{})
	s.wantKind(err, storage.KindNotFound)
	_, err = s.b.Head(s.Context(), s.prefix+"absent")
	s.wantKind(err, storage.KindNotFound)
	if got := s.keys("absent", ""); len(got) != 0 {
		s.Errorf("listed %q", got)
	}
}

func (s suite) cancelledContext() {
	ctx, cancel := context.WithCancel(s.Context())
	cancel()
	_, putErr := s.b.Put(ctx, s.prefix+"k", []byte("x"), storage.PutOptions{})
	_, headErr := s.b.Head(ctx, s.prefix+"k")
	_, _, getErr := s.b.Get(ctx, s.prefix+"k", storage.GetOptions{})
	_, uploadErr := s.b.Upload(ctx, s.prefix+"k", bytes.NewReader(nil), storage.PutOptions{})
	for _, err := range []error{putErr, headErr, getErr, uploadErr} {
		if !errors.Is(err, context.Canceled) || storage.Temporary(err) || storage.KindOf(err) != storage.KindUnknown {
			s.Errorf("error %v, want that of the context and nothing else", err)
		}
	}
	s.absent("k")
}

func (s suite) delete() {
	d, ok := s.b.(storage.Deleter)
	if !ok {
		s.Skip("not a Deleter")
	}
	s.put("k", []byte("x"), storage.PutOptions{})
	s.put("kk", []byte("y"), storage.PutOptions{})
	for range 2 { // the second time the key is absent
		if err := d.Delete(s.Context(), s.prefix+"k"); err != nil {
			s.Fatal(err)
		}
		s.absent("k")
	}
	s.holds("kk", []byte("y"))
	s.put("k", []byte("again"), storage.PutOptions{Cond: storage.Cond{IfAbsent: true}})
	s.holds("k", []byte("again"))
}
