package storage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// ProbeOptions say how hard Probe tries. The zero value is for a person who waits (doctor); for a program
// that starts up, Rounds: 2, Uploads: -1 cost some 100 small requests.
type ProbeOptions struct {
	Writers int           // that race for one key; 0: 16
	Uploads int           // that race to complete a multipart upload, each sending and holding 5 MiB; 0: 16, negative: none
	Rounds  int           // races of each kind but uploads, of which there is one; 0: 8
	Timeout time.Duration // for each check; 0: 2 min
	Deleter Deleter       // removes what was written; nil: it stays, some 20 small objects
}

// Report is what Probe found.
type Report struct {
	Checks []Check `json:"checks"`
}

// Check is one promise that spool relies on.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"` // what was seen instead
}

// OK reports whether the store kept every promise.
func (r Report) OK() bool {
	return !slices.ContainsFunc(r.Checks, func(c Check) bool { return !c.OK })
}

// Err is nil if the store kept every promise, else it names those it broke.
func (r Report) Err() error {
	var broken []string
	for _, c := range r.Checks {
		if !c.OK {
			broken = append(broken, c.Name+" ("+c.Detail+")")
		}
	}
	if broken == nil {
		return nil
	}
	return fmt.Errorf("the store is unfit: %s", strings.Join(broken, "; "))
}

// Probe asks a store for the promises of Bucket that stores are known to break, with races where a promise
// is about races: versitygw 1.7.0 let up to 13 of 32 writers win one key, others ignore conditions when a
// multipart upload is completed. Every key begins with prefix and a fresh unique name, so that any
// number of probes may run at once.
//
// A broken promise is a Check that is not OK. The error is for a store that could not be asked: it denies
// access, cannot be reached, or ctx ended.
func Probe(ctx context.Context, b Bucket, prefix string, opt ProbeOptions) (Report, error) {
	opt.Writers = max(2, cmp.Or(opt.Writers, 16))
	opt.Uploads = cmp.Or(opt.Uploads, 16)
	opt.Rounds = max(1, cmp.Or(opt.Rounds, 8))
	opt.Timeout = cmp.Or(opt.Timeout, 2*time.Minute)
	p := &probe{b: b, opt: opt, prefix: prefix + uuid.NewString() + "/", keys: map[string]bool{}}
	report, err := p.run(ctx)
	if cleanErr := p.clean(ctx); err == nil {
		err = cleanErr
	}
	return report, err
}

// probe is one run of Probe.
type probe struct {
	b      Bucket
	opt    ProbeOptions
	prefix string
	keys   map[string]bool // written to, perhaps
}

// errBroken marks a finding: the store answered, but not what it must.
var errBroken = errors.New("")

func broken(format string, args ...any) error {
	return fmt.Errorf("%w"+format, append([]any{errBroken}, args...)...)
}

func (p *probe) run(ctx context.Context) (Report, error) {
	checks := []struct {
		name string
		ask  func(context.Context) error
	}{
		{"read after write", p.readAfterWrite},
		{"metadata keys", p.metadata},
		{"clock in answers", p.clock},
		{"ranged read", p.ranged},
		{"read if match", p.readIfMatch},
		{"list after write, in order", p.list},
		{"put if absent, one winner", p.raceAbsent},
		{"put if match, one winner", p.raceMatch},
		{"complete upload if absent, one winner", p.raceUpload},
		{"delete", p.deletes},
	}
	var report Report
	for _, c := range checks {
		cctx, cancel := context.WithTimeout(ctx, p.opt.Timeout)
		err := c.ask(cctx)
		cancel()
		switch {
		case errors.Is(err, errSkipped):
			continue
		case err != nil && unasked(ctx, err):
			return report, fmt.Errorf("probe %q: %w", c.name, err)
		case err != nil:
			report.Checks = append(report.Checks, Check{Name: c.name, Detail: err.Error()})
		default:
			report.Checks = append(report.Checks, Check{Name: c.name, OK: true})
		}
	}
	return report, nil
}

var errSkipped = errors.New("not asked")

// unasked reports whether err says nothing about the promises of the store.
func unasked(ctx context.Context, err error) bool {
	k := KindOf(err)
	return !errors.Is(err, errBroken) && (ctx.Err() != nil || k == KindDenied || k == KindUnavailable || k == KindUnknown)
}

// key is a key of this probe, noted for clean.
func (p *probe) key(name string) string {
	p.keys[p.prefix+name] = true
	return p.prefix + name
}

func (p *probe) put(ctx context.Context, name, body string) (string, Object, error) {
	key := p.key(name)
	obj, err := p.b.Put(ctx, key, []byte(body), PutOptions{})
	return key, obj, err
}

func (p *probe) readAfterWrite(ctx context.Context) error {
	if _, err := p.b.Head(ctx, p.prefix+"absent"); err == nil || !IsNotFound(err) {
		if err == nil || !unasked(ctx, err) {
			return broken("HEAD of an absent key: %v, want not found", err)
		}
		return fmt.Errorf("head of an absent key (without permission to list, stores answer 403 instead of 404): %w", err)
	}
	for _, body := range []string{"first", "second"} {
		key, obj, err := p.put(ctx, "read", body)
		if err != nil {
			return err
		}
		got, read, err := ReadAll(ctx, p.b, key)
		if err != nil {
			return err
		}
		if string(got) != body || read.ETag != obj.ETag || read.Size != int64(len(body)) {
			return broken("read %q with ETag %s after writing %q with ETag %s", got, read.ETag, body, obj.ETag)
		}
	}
	return nil
}

func (p *probe) metadata(ctx context.Context) error {
	want := map[string]string{PutIDKey: uuid.NewString(), "sha256": "0123abcd", "n1": "-1"}
	key := p.key("metadata")
	if _, err := p.b.Put(ctx, key, nil, PutOptions{Metadata: want}); err != nil {
		return err
	}
	obj, err := p.b.Head(ctx, key)
	if err != nil {
		return err
	}
	for k, v := range want {
		if obj.Metadata[k] != v {
			return broken("metadata %v came back as %v", want, obj.Metadata)
		}
	}
	return nil
}

func (p *probe) clock(ctx context.Context) error {
	key, _, err := p.put(ctx, "clock", "")
	if err != nil {
		return err
	}
	obj, err := p.b.Head(ctx, key)
	if err != nil {
		return err
	}
	// The age of a lease is Date less LastModified: one clock, or clocks that agree.
	if age := obj.Date.Sub(obj.LastModified); obj.Date.IsZero() || obj.LastModified.IsZero() || age.Abs() > 10*time.Second {
		return broken("an object just written is from %v, says an answer from %v", obj.LastModified, obj.Date)
	}
	return nil
}

func (p *probe) ranged(ctx context.Context) error {
	key, _, err := p.put(ctx, "range", "0123456789")
	if err != nil {
		return err
	}
	r, obj, err := p.b.Get(ctx, key, GetOptions{Offset: 3, Length: 4})
	if err != nil {
		return err
	}
	got, err := io.ReadAll(r)
	if err = errors.Join(err, r.Close()); err != nil {
		return err
	}
	if string(got) != "3456" || obj.Size != 10 {
		return broken("bytes 3-6 of 0123456789 are %q, of %d", got, obj.Size)
	}
	return nil
}

func (p *probe) readIfMatch(ctx context.Context) error {
	key, old, err := p.put(ctx, "match", "old")
	if err != nil {
		return err
	}
	if _, _, err = p.put(ctx, "match", "new"); err != nil {
		return err
	}
	r, _, err := p.b.Get(ctx, key, GetOptions{IfMatch: old.ETag})
	if err == nil {
		return broken("If-Match with the ETag of an old version reads the new one (close: %v)", r.Close())
	}
	if KindOf(err) != KindPrecondition {
		return err
	}
	return nil
}

func (p *probe) list(ctx context.Context) error {
	// In the order of bytes '-' comes before '/', and '/' before '0': a store that walks directories
	// must not list list/a/b first.
	names := []string{"list/a-", "list/a/b", "list/a0", "list/b"}
	for _, name := range slices.Backward(names) {
		if _, _, err := p.put(ctx, name, name); err != nil {
			return err
		}
	}
	for after := range names {
		var got []string
		startAfter := ""
		if after > 0 {
			startAfter = p.prefix + names[after-1]
		}
		for obj, err := range p.b.List(ctx, p.prefix+"list/", startAfter) {
			if err != nil {
				return err
			}
			got = append(got, strings.TrimPrefix(obj.Key, p.prefix))
		}
		if !slices.Equal(got, names[after:]) {
			return broken("listed %q, want %q", got, names[after:])
		}
	}
	return nil
}

func (p *probe) deletes(ctx context.Context) error {
	if p.opt.Deleter == nil {
		return errSkipped
	}
	key, _, err := p.put(ctx, "delete", "")
	if err != nil {
		return err
	}
	for range 2 { // the second time the key is absent
		if err := p.opt.Deleter.Delete(ctx, key); err != nil {
			return err
		}
	}
	if _, err := p.b.Head(ctx, key); err == nil {
		return broken("a deleted object is still there")
	} else if !IsNotFound(err) {
		return err
	}
	return nil
}

// clean deletes what was written, also after ctx has ended.
func (p *probe) clean(ctx context.Context) error {
	if p.opt.Deleter == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.opt.Timeout)
	defer cancel()
	var errs []error
	for key := range p.keys {
		errs = append(errs, p.opt.Deleter.Delete(ctx, key))
	}
	return errors.Join(errs...)
}

// content is what the i-th of several writers writes.
func content(i int) []byte { return fmt.Appendf(nil, "writer %d", i) }
