package watcher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"

	"spool/storage"
	"spool/storage/batch"
)

// newEncoder makes an encoder for frames: the fastest level, since the pieces are read once or twice
// and thrown away after a few days, and validation should not wait for it.
func newEncoder(w io.Writer) (*zstd.Encoder, error) {
	return zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(1<<20))
}

// cutter makes chunks of lines, and a compressed frame of each, by the chunk rule of package batch.
type cutter struct {
	enc   *zstd.Encoder
	emit  func(frame []byte, c batch.PlanChunk) error // frame is valid until it returns
	plain []byte
	frame []byte
	bytes int // of the lines in plain
	chunk batch.PlanChunk
}

func (c *cutter) add(number int64, line []byte) error {
	if c.chunk.Lines == batch.ChunkLines || c.chunk.Lines > 0 && c.bytes+len(line) > batch.ChunkBytes {
		if err := c.flush(); err != nil {
			return err
		}
	}
	if c.chunk.Lines == 0 {
		c.chunk.FirstLine = number
	}
	c.chunk.Lines++
	c.bytes += len(line)
	c.plain = batch.AppendPieceLine(c.plain, number, line)
	return nil
}

// flush ends the chunk, if there is one.
func (c *cutter) flush() error {
	if c.chunk.Lines == 0 {
		return nil
	}
	c.frame = c.enc.EncodeAll(c.plain, c.frame[:0])
	chunk := c.chunk
	c.chunk, c.bytes, c.plain = batch.PlanChunk{}, 0, c.plain[:0]
	return c.emit(c.frame, chunk)
}

// uploadsAtOnce is how many finished pieces of one file are on their way to the store while the next one
// is made.
const uploadsAtOnce = 2

// stager collects frames in pieces, on disk, and uploads each piece when the next one begins; so that, if
// there is only one in the end, it can still be cut in two. Close must be called in any case.
type stager struct {
	id     string // of the batch
	folder string
	dir    string // of temporary files
	chunks int    // a shard

	piece   *piece
	shards  []batch.Shard // whose upload has begun
	uploads *errgroup.Group
	upload  func(shard int, src *io.SectionReader) error
	failure func() error // of the first upload that failed
}

// piece is a temporary file of frames.
type piece struct {
	file   *os.File
	size   int64
	chunks []batch.PlanChunk
}

func newStager(ctx context.Context, bucket storage.Bucket, id, folder string) *stager {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(uploadsAtOnce)
	return &stager{
		id: id, folder: folder, uploads: group,
		upload: func(shard int, src *io.SectionReader) error {
			return uploadStaged(ctx, bucket, batch.PieceKey(id, folder, shard), src)
		},
		failure: func() error { return context.Cause(ctx) },
	}
}

// frame adds the frame of a chunk.
func (s *stager) frame(frame []byte, c batch.PlanChunk) error {
	if s.piece != nil && len(s.piece.chunks) == s.chunks {
		s.send(s.piece, len(s.piece.chunks))
		s.piece = nil
	}
	if s.piece == nil {
		f, err := tempFile(s.dir)
		if err != nil {
			return err
		}
		s.piece = &piece{file: f}
	}
	if _, err := s.piece.file.Write(frame); err != nil {
		return fmt.Errorf("write piece: %w", err)
	}
	c.Offset, c.Size = s.piece.size, int64(len(frame))
	s.piece.size += c.Size
	s.piece.chunks = append(s.piece.chunks, c)
	return s.failure()
}

// finish uploads what is left, waits for all uploads and gives the shards.
func (s *stager) finish() ([]batch.Shard, error) {
	if p := s.piece; p != nil {
		s.piece = nil
		sizes := []int{len(p.chunks)}
		if len(s.shards) == 0 {
			sizes = batch.ShardSizes(len(p.chunks), s.chunks)
		}
		s.send(p, sizes...)
	}
	if err := s.uploads.Wait(); err != nil {
		return nil, err
	}
	return s.shards, nil
}

// close waits for the uploads and frees the disk.
func (s *stager) close() {
	if s.piece != nil {
		s.piece.file.Close() // nothing that was written is wanted
		s.piece = nil
	}
	_ = s.uploads.Wait() // finish reported it, if anybody wanted to know
}

// send uploads a piece as shards of so many chunks, and frees it after that.
func (s *stager) send(p *piece, sizes ...int) {
	type part struct {
		shard         int
		offset, bytes int64
	}
	var parts []part
	rest := p.chunks
	for _, n := range sizes {
		chunks := slices.Clone(rest[:n])
		rest = rest[n:]
		first, last := chunks[0].Offset, chunks[n-1]
		parts = append(parts, part{len(s.shards), first, last.Offset + last.Size - first})
		for i := range chunks {
			chunks[i].Offset -= first
		}
		s.shards = append(s.shards, batch.Shard{Chunks: chunks})
	}
	s.uploads.Go(func() error {
		defer p.file.Close() // read only, and gone after that
		for _, u := range parts {
			if err := s.upload(u.shard, io.NewSectionReader(p.file, u.offset, u.bytes)); err != nil {
				return err
			}
		}
		return nil
	})
}

// uploadStaged writes an object of a folder that is ours alone.
func uploadStaged(ctx context.Context, b storage.Bucket, key string, src *io.SectionReader) error {
	open := func() (io.Reader, error) {
		_, err := src.Seek(0, io.SeekStart)
		return src, err
	}
	stored, err := storage.UploadOnce(ctx, b, key, open, storage.PutOptions{Size: src.Size()})
	if err != nil {
		return fmt.Errorf("stage %q: %w", key, err)
	}
	if !stored.Mine {
		return fmt.Errorf("stage %q: the key of a fresh folder is taken", key)
	}
	return nil
}

// tempFile makes a file that has no name any more, so that it goes with the process, however that ends.
func tempFile(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, "spool-*")
	if err != nil {
		return nil, fmt.Errorf("make temporary file: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(fmt.Errorf("unlink temporary file: %w", err), f.Close())
	}
	return f, nil
}
