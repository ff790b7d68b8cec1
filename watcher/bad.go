package watcher

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"

	"spool/storage"
	"spool/storage/batch"
	"spool/storage/batch/jsonl"
)

// badLines is bad.jsonl.zst in the making, on disk: there may be as many bad lines as lines.
type badLines struct {
	dir    string
	file   *os.File // nil as long as there are none
	enc    *zstd.Encoder
	buf    bytes.Buffer
	n      int64
	first  []batch.BatchError // for errors.data
	staged []int64            // numbers of lines that are in a piece already
}

// add appends a bad line; id is its custom_id, empty if that is not known. Lines come in order.
func (b *badLines) add(p *jsonl.Problem, id []byte) error {
	if b.file == nil {
		f, err := tempFile(b.dir)
		if err != nil {
			return err
		}
		b.file = f
		if b.enc, err = newEncoder(f); err != nil {
			return fmt.Errorf("make encoder: %w", err)
		}
	}
	line := batch.BadLine{Line: p.Line, Offset: p.Offset, Code: string(p.Code), Message: p.Message}
	if len(id) > 0 {
		text := string(id)
		line.CustomID = &text
	}
	b.n++
	if len(b.first) < batch.MaxErrors {
		b.first = append(b.first, batch.BatchError{Code: line.Code, Message: line.Message, Line: &line.Line})
	}
	b.buf.Reset()
	enc := json.NewEncoder(&b.buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(line); err != nil {
		return fmt.Errorf("encode bad line %d: %w", p.Line, err)
	}
	if _, err := b.enc.Write(b.buf.Bytes()); err != nil {
		return fmt.Errorf("write bad lines: %w", err)
	}
	return nil
}

// upload stores the lines, if there are any, once all are added.
func (b *badLines) upload(ctx context.Context, bucket storage.Bucket, key string) error {
	if b.file == nil {
		return nil
	}
	if err := b.enc.Close(); err != nil {
		return fmt.Errorf("write bad lines: %w", err)
	}
	size, err := b.file.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("size bad lines: %w", err)
	}
	return uploadStaged(ctx, bucket, key, io.NewSectionReader(b.file, 0, size))
}

// close frees the disk. It may be called twice.
func (b *badLines) close() error {
	if b.file == nil {
		return nil
	}
	err := b.enc.Close()
	err = errors.Join(err, b.file.Close())
	b.file = nil
	return err
}
