package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"spool/storage"
	"spool/storage/batch"
	"spool/storage/batch/jsonl"
)

// input is a file to be validated or uploaded. It is opened once a pass.
type input struct {
	name string // decides on compression by its suffix
	open func(ctx context.Context) (io.ReadCloser, error)
	size int64
}

// localInput is a file of this machine; exit 8 if there is none.
func localInput(file string) (*input, error) {
	info, err := os.Stat(file)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, failf(exitNoInput, "", "no such file: %s", file)
	case err != nil:
		return nil, failf(exitUsage, "", "look at file: %w", err)
	case !info.Mode().IsRegular():
		return nil, failf(exitUsage, "", "%s is not a regular file", file)
	}
	return &input{name: path.Base(file), size: info.Size(), open: func(context.Context) (io.ReadCloser, error) { return os.Open(file) }}, nil
}

// bucketInput is an object: one version of it, whatever is uploaded meanwhile.
func bucketInput(b storage.Bucket, obj storage.Object) *input {
	return &input{name: obj.Key, size: obj.Size, open: func(ctx context.Context) (io.ReadCloser, error) {
		body, _, err := b.Get(ctx, obj.Key, storage.GetOptions{IfMatch: obj.ETag})
		return body, err
	}}
}

// stdinInput copies standard input to a temporary file, since validating may take two passes. The caller
// removes it by calling cleanup. What it is compressed with is seen by its first bytes.
func stdinInput(stdin io.Reader) (in *input, cleanup func(), err error) {
	f, err := os.CreateTemp("", "spool-stdin-*")
	if err != nil {
		return nil, nil, fmt.Errorf("make temporary file: %w", err)
	}
	cleanup = func() { _ = os.Remove(f.Name()) }
	br := bufio.NewReader(stdin)
	magic, _ := br.Peek(4) // fewer bytes are no magic
	_, err = io.Copy(f, br)
	if err = errors.Join(err, f.Close()); err != nil {
		cleanup()
		return nil, nil, fmt.Errorf("read standard input: %w", err)
	}
	in, err = localInput(f.Name())
	if err != nil {
		cleanup()
		return nil, nil, err
	}
	in.name = "stdin" + suffixOf(magic)
	return in, cleanup, nil
}

func suffixOf(magic []byte) string {
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		return ".jsonl.gz"
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return ".jsonl.zst"
	default:
		return ".jsonl"
	}
}

// findings are what validating a file found.
type findings struct {
	lines    int64
	bad      int64
	endpoint string
	file     *jsonl.Problem // what is wrong with the file itself: it was not read to its end
}

// validate reads a file as a watcher does, and reports each bad line: in order, but that repeated
// custom_ids follow after the others, since they are known only at the end.
func (in *input) validate(ctx context.Context, cfg jsonl.Config, report func(batch.BadLine) error) (*findings, error) {
	f := &findings{}
	dups := jsonl.NewDups()
	err := in.each(ctx, cfg, f, func(l jsonl.Line, req jsonl.Request, p *jsonl.Problem) error {
		f.lines++
		if len(req.CustomID) > 0 {
			dups.Add(req.CustomID)
		}
		return f.note(p, req.CustomID, report)
	})
	if err != nil || f.file != nil {
		return f, err
	}
	if f.lines == 0 {
		f.file = &jsonl.Problem{Code: batch.CodeEmptyFile, Message: "the file has no line with a request"}
		return f, nil
	}
	repeats := dups.Repeated()
	if repeats == nil {
		return f, nil
	}
	return f, in.each(ctx, cfg, f, func(l jsonl.Line, req jsonl.Request, p *jsonl.Problem) error {
		if len(req.CustomID) == 0 {
			return nil
		}
		if again := repeats.Check(l, req.CustomID); p == nil {
			return f.note(again, req.CustomID, report)
		}
		return nil
	})
}

func (f *findings) note(p *jsonl.Problem, id []byte, report func(batch.BadLine) error) error {
	if p == nil {
		return nil
	}
	f.bad++
	bad := batch.BadLine{Line: p.Line, Offset: p.Offset, Code: string(p.Code), Message: p.Message}
	if len(id) > 0 {
		s := string(id)
		bad.CustomID = &s
	}
	return report(bad)
}

// each makes one pass.
func (in *input) each(ctx context.Context, cfg jsonl.Config, f *findings, line func(jsonl.Line, jsonl.Request, *jsonl.Problem) error) error {
	checker, err := jsonl.NewChecker(cfg)
	if err != nil {
		return failf(exitUsage, "", "%w", err)
	}
	err = in.lines(ctx, cfg, func(l jsonl.Line) error {
		req, p := checker.Check(l)
		return line(l, req, p)
	})
	f.endpoint = checker.Endpoint()
	if p, ok := errors.AsType[*jsonl.Problem](err); ok {
		f.file = p
		return nil
	}
	return err
}

// lines reads a file line by line, blank ones left out. A *jsonl.Problem is the file's fault.
func (in *input) lines(ctx context.Context, cfg jsonl.Config, line func(jsonl.Line) error) error {
	raw, err := in.open(ctx)
	if err != nil {
		return err
	}
	defer raw.Close()
	plain, err := jsonl.Decompress(raw, in.name)
	if err != nil {
		return err
	}
	defer plain.Close()
	r, err := jsonl.NewReader(plain, cfg)
	if err != nil {
		return failf(exitUsage, "", "%w", err)
	}
	for ctx.Err() == nil {
		l, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err == nil {
			err = line(l)
		}
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}
