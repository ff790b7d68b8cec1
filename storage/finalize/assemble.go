package finalize

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"spool/storage"
	"spool/storage/batch"
)

// output assembles output.jsonl. It exists, perhaps empty, unless the file was rejected.
func (j job) output(ctx context.Context) error {
	if j.plan.Verdict == batch.Rejected {
		return nil
	}
	m := j.manifest
	to := target{key: j.key(batch.OutputName), most: m.Counts.OKBytes, exact: true}
	return j.upload(ctx, to, func(ctx context.Context) (stream, error) {
		return &file{key: batch.ManifestKey(m.Batch), lines: newOrdered(ctx, j.outputParts()), want: m.Counts.OK}, nil
	})
}

// errors assembles errors.jsonl, if it has any line.
func (j job) errors(ctx context.Context) error {
	m, t := j.manifest, count(j.plan, j.manifest)
	if t.errors() == 0 {
		return nil
	}
	to := target{key: j.key(batch.ErrorsName), most: mostErrors(t, m), exact: t.missing == 0 && t.bad == 0}
	return j.upload(ctx, to, func(ctx context.Context) (stream, error) {
		bad, err := j.openBad(ctx)
		if err != nil {
			return nil, err
		}
		return &file{key: batch.ManifestKey(m.Batch), lines: newOrdered(ctx, j.errorParts()), bad: bad, want: t.errors()}, nil
	})
}

// invalid makes invalid.jsonl, which is the bad lines as they were staged, if there are any.
func (j job) invalid(ctx context.Context) error {
	if j.plan.Bad == 0 {
		return nil
	}
	to := target{key: j.key(batch.InvalidName), most: j.plan.Bad * longestBad}
	return j.upload(ctx, to, func(ctx context.Context) (stream, error) {
		key := batch.BadKey(j.plan.Batch, j.plan.Folder)
		body, _, err := j.bucket.Get(ctx, key, storage.GetOptions{})
		if err != nil {
			return nil, err
		}
		plain, err := zstd.NewReader(body, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, errors.Join(err, body.Close())
		}
		return &badText{plain: plain, body: body, key: key, left: j.plan.Bad}, nil
	})
}

// badText is the bad lines as they were staged, decompressed. Like file, it ends with an error unless its lines are
// as many as the plan says.
type badText struct {
	plain *zstd.Decoder
	body  io.Closer
	key   string
	left  int64 // lines
}

func (b *badText) Read(p []byte) (int, error) {
	n, err := b.plain.Read(p)
	b.left -= int64(bytes.Count(p[:n], []byte{'\n'}))
	switch {
	case err == io.EOF && b.left != 0:
		err = corruptf(b.key, "its lines and those that the plan counts differ by %d", b.left)
	case err != nil && err != io.EOF:
		err = fmt.Errorf("read %q: %w", b.key, err)
	}
	return n, err
}

func (b *badText) Close() error {
	b.plain.Close()
	return b.body.Close()
}

// stream yields the bytes of a file that is to be uploaded.
type stream interface {
	io.Reader
	io.Closer
}

// target is a file that is to be there.
type target struct {
	key   string
	most  int64 // bytes
	exact bool  // it has so many
}

// upload stores what open yields unless the file is there. The bytes are the same whoever makes them, so
// one that is there is this one.
func (j job) upload(ctx context.Context, to target, open func(context.Context) (stream, error)) error {
	obj, err := j.bucket.Head(ctx, to.key)
	if storage.IsNotFound(err) {
		obj, err = j.uploadOnce(ctx, to, open)
	}
	if err != nil {
		return err
	}
	if to.exact && obj.Size != to.most {
		return corruptf(to.key, "it has %d bytes, the manifest says %d", obj.Size, to.most)
	}
	return nil
}

func (j job) uploadOnce(ctx context.Context, to target, open func(context.Context) (stream, error)) (storage.Object, error) {
	var s stream
	drop := func() {
		if s != nil {
			_ = s.Close() // it was read only
		}
		s = nil
	}
	defer drop()
	stored, err := storage.UploadOnce(ctx, j.bucket, to.key, func() (io.Reader, error) {
		drop() // that of the try before
		var err error
		s, err = open(ctx)
		return s, err
	}, to.options())
	return stored.Object, err
}
