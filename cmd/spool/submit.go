package main

import (
	"cmp"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"spool/storage"
	"spool/storage/batch"
	"spool/storage/batch/jsonl"
	"spool/watcher"
)

// metaSHA256 is the metadata key of an upload's checksum, by which the same bytes are known again where ETags
// differ (SSE-KMS, other part sizes).
const metaSHA256 = "sha256"

func (p *program) submitCommand() *cli.Command {
	return &cli.Command{
		Name:      "submit",
		Usage:     "validate a file and upload it",
		ArgsUsage: "FILE|- [KEY]",
		Category:  forUsers,
		Description: "Uploads to in/<name of FILE>, or to KEY, and prints the batch id. The same bytes under the same key are the same\n" +
			"batch: it is not run again, unless it ended other than completed, or with another --rerun. Other bytes under\n" +
			"a key that exists are refused without --replace. With --wait, exits by the outcome as spool wait does.\n\n" +
			"Examples:\n   spool submit prompts.jsonl\n   spool submit prompts.jsonl in/evals/monday.jsonl --wait --json\n" +
			"   generate | spool submit - in/evals/monday.jsonl --on-invalid skip --window 6h",
		Flags: slices.Concat(storeFlags(), waitFlags(), []cli.Flag{jsonFlag(),
			&cli.BoolFlag{Name: "wait", Usage: "wait for the results"},
			&cli.BoolFlag{Name: "replace", Usage: "replace other bytes under the same key"},
			&cli.BoolFlag{Name: "no-check", Usage: "upload without validating first"},
			&cli.StringFlag{Name: "pool", Usage: "`NAME` of the pool that is to work on it"},
			&cli.StringFlag{Name: "on-invalid", Usage: "fail (default): a bad line rejects the file; skip: the others are run"},
			&cli.StringFlag{Name: "order", Usage: "in which lines are asked: file (default); longest: by max_tokens; prefix: those with one beginning together"},
			&cli.StringFlag{Name: "window", Usage: "`TIME` from when a watcher takes the file up, after which what is not done expires, 10m to 720h (default: 24h)"},
			&cli.StringFlag{Name: "rerun", Usage: "`NUMBER` that asks for another run of the same bytes"},
			&cli.StringSliceFlag{Name: "metadata", Usage: "more metadata for the upload, `KEY=VALUE` (repeatable)"},
		}),
		Action: p.submit,
	}
}

var errOtherBytes = errors.New("exists with other bytes")

// submission is one upload in the making.
type submission struct {
	in     *input
	file   string // as the command line names it; "" if it does not
	key    string
	meta   map[string]string
	sha256 string
	md5    string
	moot   []string // options that the batch of the same bytes does not have
	there  int      // the rerun number of the same bytes that are there
	ran    *found   // the batch that is asked for, if it began under an upload that another has replaced
}

// submitted is the result of spool submit.
type submitted struct {
	Batch    string `json:"batch"`
	Input    string `json:"input"`
	Bucket   string `json:"bucket"`
	Uploaded bool   `json:"uploaded"` // false: the same bytes were there, and their batch stands, or one of before
	Size     int64  `json:"size"`
	SHA256   string `json:"sha256"`
	Lines    *int64 `json:"lines"` // null with --no-check
}

func (p *program) submit(c *cli.Context) error {
	if err := waitable(c); err != nil {
		return err
	}
	s, bucket, cleanup, err := p.newSubmission(c)
	if err != nil {
		return err
	}
	defer cleanup()
	st, closeLog, err := p.openForUser(c, bucket)
	if err != nil {
		return err
	}
	defer closeLog()
	result := submitted{Input: s.key, Bucket: st.name, Size: s.in.size}
	if !c.Bool("no-check") {
		if result.Lines, err = p.checkFirst(c, s); err != nil {
			return err
		}
	}
	if err := s.digest(c.Context); err != nil {
		return err
	}
	result.SHA256 = s.sha256
	f := &finder{bucket: userBucket{st.Bucket}, name: st.name}
	if result.Uploaded, err = s.put(c.Context, f, c.Bool("replace")); err != nil {
		return err
	}
	if len(s.moot) > 0 {
		p.sayf("%s is of the upload that is there: another --rerun takes yours", strings.Join(s.moot, ", "))
	}
	return p.submitted(c, f, s, result)
}

// submitted prints the result, and waits if that is asked for: then the result is that of wait.
func (p *program) submitted(c *cli.Context, f *finder, s *submission, result submitted) error {
	b := s.ran
	if b == nil {
		var err error
		if b, err = f.batch(c.Context, target{key: s.key}); err != nil {
			return err
		}
	}
	result.Batch = b.id
	p.sayBefore(s, b, result.Uploaded)
	if c.Bool("wait") {
		w := p.newWaiter(c, f, 1)
		w.pinned = map[string]*found{result.Input: b}
		return p.waitFor(c, w, []target{{key: result.Input}})
	}
	if c.Bool("json") {
		return p.printJSON(result)
	}
	p.sayf("s3://%s/%s", result.Bucket, result.Input)
	return p.printf("%s\n", result.Batch)
}

// sayBefore tells who submits bytes again what has become of them already.
func (p *program) sayBefore(s *submission, b *found, uploaded bool) {
	v := b.view()
	before := s.ran != nil || uploaded && v.State == batch.Completed && b.olderThanInput()
	switch {
	case before && v.ended != nil:
		next := max(rerun(s.meta), s.there) + 1
		p.sayf("these bytes ran already as %s: %s; nothing runs again; --rerun %d asks for another run", v.Batch, v.State, next)
	case before:
		p.sayf("these bytes run already as %s: %s", v.Batch, v.State)
	case !uploaded:
		p.sayf("the same bytes are there already as %s: %s", v.Batch, v.State)
	}
}

// olderThanInput reports whether a batch ended before its input was uploaded, so that the upload runs nothing.
func (f *found) olderThanInput() bool {
	at := f.view().EndedAt
	return at != nil && f.input != nil && *at < f.input.LastModified.Unix()
}

func (p *program) newSubmission(c *cli.Context) (s *submission, bucket string, cleanup func(), err error) {
	args, err := exactArgs(c, 1, 2)
	if err != nil {
		return nil, "", nil, err
	}
	file := args[0]
	if file == "-" && len(args) < 2 {
		return nil, "", nil, usagef("standard input needs a KEY: spool submit - in/x.jsonl")
	}
	t := target{key: batch.InPrefix + filepath.Base(file)}
	if len(args) == 2 {
		if t, err = parseKey(args[1]); err != nil {
			return nil, "", nil, err
		}
		if t.id != "" {
			return nil, "", nil, usagef("KEY %q is a batch id: give a key under in/", args[1])
		}
	}
	if strings.HasSuffix(t.key, "/") && file != "-" {
		t.key += filepath.Base(file)
	}
	s = &submission{file: file, key: t.key}
	if s.meta, err = submitMetadata(c); err != nil {
		return nil, "", nil, err
	}
	passTrace(s.meta, os.Getenv)
	cleanup = func() {}
	if file == "-" {
		s.in, cleanup, err = stdinInput(p.stdin)
	} else {
		s.in, err = localInput(file)
	}
	if err != nil {
		return nil, "", nil, err
	}
	s.in.name = s.key // whose suffix decides, at the watcher too
	return s, t.bucket, cleanup, nil
}

// submitOptions are the options of a batch that have a flag.
func submitOptions() []string { return []string{"pool", "on-invalid", "order", "window", "rerun"} }

// metadataPair is what can travel as a header of HTTP, which S3 makes of metadata.
var metadataPair = regexp.MustCompile(`^([0-9A-Za-z_.-]+)=([ -~]*)$`)

func submitMetadata(c *cli.Context) (map[string]string, error) {
	meta := map[string]string{}
	for _, kv := range c.StringSlice("metadata") {
		pair := metadataPair.FindStringSubmatch(kv)
		if pair == nil {
			return nil, usagef("--metadata %q: want KEY=VALUE, of letters, digits and -_. the key, of printable ASCII the value", kv)
		}
		k := strings.ToLower(pair[1])
		if k == metaSHA256 || k == storage.PutIDKey {
			return nil, usagef("--metadata %q: spool sets %s itself", kv, k)
		}
		meta[k] = pair[2]
	}
	for _, name := range submitOptions() {
		if v := c.String(name); v != "" {
			meta[name] = v
		}
	}
	if v, ok := meta["window"]; ok {
		if _, err := watcher.ParseWindow(v); err != nil {
			return nil, usagef("--window: %w", err)
		}
	}
	if v := meta["on-invalid"]; v != "" && v != "fail" && v != "skip" {
		return nil, usagef("--on-invalid %q: want fail or skip", v)
	}
	if v, ok := meta["order"]; ok {
		if err := watcher.CheckOrder(v); err != nil {
			return nil, usagef("--order: %w", err)
		}
	}
	if v := meta["rerun"]; v != "" && rerun(meta) < 0 {
		return nil, usagef("--rerun %q: want a number from 0", v)
	}
	return meta, nil
}

// checkFirst validates the file before it is uploaded. Bad lines are listed on standard error.
func (p *program) checkFirst(c *cli.Context, s *submission) (*int64, error) {
	const shown = 20
	n := 0
	f, err := s.in.validate(c.Context, jsonl.Config{}, func(b batch.BadLine) error {
		if n++; n <= shown {
			p.sayf("%s:%d: %s: %s", s.file, b.Line, b.Code, b.Message)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if n > shown {
		p.sayf("… and %d more: spool check lists all", n-shown)
	}
	if f.file != nil && f.file.Code == jsonl.UnsupportedSuffix {
		return nil, failf(exitRejected, "give a KEY that ends in "+strings.Join(jsonl.Suffixes(), ", "), "%s: %s: the key would be %q",
			s.file, f.file.Code, s.key)
	}
	if f.file != nil || f.bad > 0 && s.meta["on-invalid"] != "skip" {
		return nil, p.verdict(c, s.file, f)
	}
	return &f.lines, nil
}

// digest reads the file once more for its checksums.
func (s *submission) digest(ctx context.Context) error {
	sha, md := sha256.New(), md5.New()
	if err := copyTo(ctx, s.in, sha, md); err != nil {
		return fmt.Errorf("read %q: %w", cmp.Or(s.file, s.in.name), err)
	}
	s.sha256, s.md5 = hex.EncodeToString(sha.Sum(nil)), hex.EncodeToString(md.Sum(nil))
	s.meta[metaSHA256] = s.sha256
	return nil
}

func copyTo(ctx context.Context, in *input, to ...hash.Hash) error {
	r, err := in.open(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	var ws []io.Writer
	for _, h := range to {
		ws = append(ws, h)
	}
	_, err = io.Copy(io.MultiWriter(ws...), r)
	return err
}

// put uploads, unless the same bytes are there and mean the same batch. It replaces only the version
// that it has looked at.
func (s *submission) put(ctx context.Context, f *finder, replace bool) (uploaded bool, err error) {
	have, err := f.bucket.Head(ctx, s.key)
	opt := storage.PutOptions{ContentType: contentType(s.key), Metadata: s.meta, Size: s.in.size}
	if storage.IsNotFound(err) {
		src := &reopened{in: s.in}
		defer src.close()
		stored, err := storage.UploadOnce(ctx, f.bucket, s.key, func() (io.Reader, error) { return src.open(ctx) }, opt)
		if err == nil && !stored.Mine {
			return s.put(ctx, f, replace) // somebody was faster: look again
		}
		return true, err
	}
	if err != nil {
		return false, err
	}
	same, err := s.same(ctx, f, have)
	if err != nil {
		return false, err
	}
	if same {
		stands, err := s.stands(ctx, f, have)
		if err != nil || stands {
			return false, err
		}
	}
	if !same && !replace {
		return false, failf(exitUsage, "give another KEY, or --replace", "s3://%s/%s %w", f.name, s.key, errOtherBytes)
	}
	return true, s.overwrite(ctx, f, have.ETag, opt)
}

func contentType(key string) string {
	switch path.Ext(key) {
	case ".gz":
		return "application/gzip"
	case ".zst":
		return "application/zstd"
	default:
		return "application/jsonl"
	}
}

// same reports whether the object has the bytes of the file.
func (s *submission) same(ctx context.Context, f *finder, have storage.Object) (bool, error) {
	switch {
	case have.Size != s.in.size:
		return false, nil
	case have.Metadata[metaSHA256] != "":
		return have.Metadata[metaSHA256] == s.sha256, nil
	case have.ETag == s.md5:
		return true, nil
	}
	sum := sha256.New()
	if err := copyTo(ctx, bucketInput(f.bucket, have), sum); err != nil {
		return false, err
	}
	return hex.EncodeToString(sum.Sum(nil)) == s.sha256, nil
}

// differ gives the options that do not make another batch, and have other values.
func differ(have, want map[string]string) []string {
	return slices.DeleteFunc(submitOptions(), func(o string) bool { return o == "rerun" || have[o] == want[o] })
}

// stands reports whether the batch that is asked for, of the same bytes and rerun number, is there, and not over without
// success.
func (s *submission) stands(ctx context.Context, f *finder, have storage.Object) (bool, error) {
	s.there = rerun(have.Metadata)
	if s.there != rerun(s.meta) {
		return s.ranBefore(ctx, f, have)
	}
	b, err := f.ofUpload(ctx, have)
	if err != nil || b.object != nil && b.object.Status != batch.Completed {
		return false, err
	}
	s.moot = differ(have.Metadata, s.meta)
	return true, nil
}

// ranBefore looks for the batch that is asked for where an upload of the same bytes with another rerun number has replaced
// its own. If it runs or has completed, another upload would run nothing, and make the key mean the older batch.
func (s *submission) ranBefore(ctx context.Context, f *finder, have storage.Object) (bool, error) {
	ours := have
	ours.Metadata, ours.LastModified = s.meta, have.Date
	b, err := f.ofUpload(ctx, ours)
	if err != nil || b.status == nil && (b.object == nil || b.object.Status != batch.Completed) {
		return false, err
	}
	b.input = nil // it is there with another number
	s.ran = b
	return true, nil
}

// reopened is an input that is opened once a try, and closed before the next.
type reopened struct {
	in   *input
	last io.ReadCloser
}

func (r *reopened) open(ctx context.Context) (io.Reader, error) {
	r.close()
	var err error
	r.last, err = r.in.open(ctx)
	return r.last, err
}

func (r *reopened) close() {
	if r.last != nil {
		_ = r.last.Close() // it was only read
		r.last = nil
	}
}

func (s *submission) overwrite(ctx context.Context, f *finder, etag string, opt storage.PutOptions) error {
	r, err := s.in.open(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	opt.Cond.IfMatch = etag
	_, err = f.bucket.Upload(ctx, s.key, r, opt)
	if storage.KindOf(err) == storage.KindPrecondition {
		err = errors.Join(errors.New("the input was replaced by somebody else at the same time"), err)
	}
	return err
}
