package storagetest

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"spool/storage"
)

// Checks of listings.

func (s suite) listInOrder() {
	names := []string{"A", "B", "a", "a-", "a.b", "a0", "aa", "b/1", "b/1-", "b/10", "b/2", "b/c/d", "ba", "é"}
	for _, name := range slices.Backward(names) {
		s.put(name, []byte(name), storage.PutOptions{})
	}
	if got := s.keys("", ""); !slices.Equal(got, names) {
		s.Errorf("listed %q, want %q", got, names)
	}
	if got, want := s.keys("b/", ""), names[7:12]; !slices.Equal(got, want) {
		s.Errorf("listed prefix b/: %q, want %q", got, want)
	}
	if got, want := s.keys("b/1", ""), names[7:10]; !slices.Equal(got, want) {
		s.Errorf("listed prefix b/1: %q, want %q", got, want)
	}
	for obj, err := range s.b.List(s.Context(), s.prefix+"b/c/d", "") {
		if err != nil {
			s.Fatal(err)
		}
		head := s.holds("b/c/d", []byte("b/c/d"))
		s.sane(obj, "b/c/d", 5)
		if obj.ETag != head.ETag {
			s.Errorf("List says ETag %s, Head says %s", obj.ETag, head.ETag)
		}
	}
	for _, err := range s.b.List(s.Context(), s.prefix, "") {
		if err != nil {
			s.Fatal(err)
		}
		break // a consumer may stop
	}
}

func (s suite) listStartAfter() {
	names := []string{"p/a-", "p/a/b", "p/a0", "p/b/c", "q"}
	for _, name := range names {
		s.put(name, nil, storage.PutOptions{})
	}
	for i, name := range names {
		if got, want := s.keys("", name), names[i+1:]; !slices.Equal(got, want) {
			s.Errorf("listed after %q: %q, want %q", name, got, want)
		}
	}
	for after, want := range map[string][]string{"p/a1": {"p/b/c"}, "p": names[:4], "o": names[:4], "p/zzz": nil, "z": nil} {
		if got := s.keys("p/", after); !slices.Equal(got, want) {
			s.Errorf("listed prefix p/ after %q, where nothing is: %q, want %q", after, got, want)
		}
	}
}

// pageKeys is more than the 1,000 keys that S3 lists in one answer.
const pageKeys = 1005

func (s suite) listPages() {
	var g errgroup.Group
	g.SetLimit(16)
	var names []string
	for i := range pageKeys {
		name := fmt.Sprintf("page/%04d/a b+%d%%", i, i%7)
		names = append(names, name)
		g.Go(func() error {
			_, err := s.b.Put(s.Context(), s.prefix+name, []byte("x"), storage.PutOptions{})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		s.Fatal(err)
	}
	if got := s.keys("page/", ""); !slices.Equal(got, names) {
		s.Errorf("listed %d keys, want %d in order", len(got), len(names))
	}
	if got := s.keys("page/", names[2]); !slices.Equal(got, names[3:]) {
		s.Errorf("listed %d keys after the third, want %d", len(got), len(names)-3)
	}
}

// spool itself never has a key that is another one and a slash, but users may.
func (s suite) listNestedKeys() {
	names := []string{"a", "a-", "a/b", "a0"}
	for _, name := range names {
		s.put(name, []byte(name), storage.PutOptions{})
	}
	if got := s.keys("", ""); !slices.Equal(got, names) {
		s.Errorf("listed %q, want %q", got, names)
	}
	for _, name := range names {
		s.holds(name, []byte(name))
	}
}

func (s suite) listCancelled() {
	s.put("k", nil, storage.PutOptions{})
	ctx, cancel := context.WithCancel(s.Context())
	cancel()
	for _, prefix := range []string{"k", "nothing"} {
		var last error
		for _, err := range s.b.List(ctx, s.prefix+prefix, "") {
			last = err
		}
		if !errors.Is(last, context.Canceled) || storage.Temporary(last) {
			s.Errorf("a cancelled listing of %q ended with %v, want the error of the context", prefix, last)
		}
	}
}
