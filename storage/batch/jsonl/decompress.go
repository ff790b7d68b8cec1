package jsonl

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// MaxWindow is the largest window of a zstd frame that Decompress accepts, and about the most memory
// that it takes: 128 MiB, which is what zstd's command line accepts without --long=N or --memory,
// and what its levels up to --ultra -22 and a plain --long write.
const MaxWindow = 128 << 20

// Suffixes lists the endings of names that Decompress accepts. They are case-sensitive.
func Suffixes() []string { return []string{".jsonl", ".jsonl.gz", ".jsonl.zst"} }

// Decompress returns the content of the file that r reads, by the suffix of its name. It reads
// nothing before the first Read. The caller closes what it returns, to release memory, and r, which Close does
// not close.
//
// Read fails with a *Problem (corrupt_input) if the content cannot be decompressed, or not to its
// end, and with the error of r if that is why. An r that returns io.ErrUnexpectedEOF itself, as
// net/http does for a body that was cut off, is not taken for a corrupt file. How much comes out is not
// limited here: see Config.MaxInputBytes.
func Decompress(r io.Reader, name string) (io.ReadCloser, error) {
	src := &source{r: r}
	switch {
	case strings.HasSuffix(name, ".jsonl"):
		return io.NopCloser(r), nil
	case strings.HasSuffix(name, ".jsonl.gz"):
		return &decoder{src: src, format: "gzip", out: &gzipReader{in: bufio.NewReaderSize(src, 64<<10)}}, nil
	case strings.HasSuffix(name, ".jsonl.zst"):
		z, err := zstd.NewReader(src, zstd.WithDecoderConcurrency(1), // synchronous, no goroutines
			zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(MaxWindow))
		if err != nil {
			return nil, fmt.Errorf("open zstd decoder: %w", err)
		}
		return &decoder{src: src, format: "zstd", out: z, close: z.Close}, nil
	}
	return nil, &Problem{Code: UnsupportedSuffix, Message: fmt.Sprintf(
		"%s ends in none of %s: rename the file", quoted(name), strings.Join(Suffixes(), ", "))}
}

// source remembers that reading failed, so that it is not taken for a fault of the content.
type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// gzipReader reads a series of gzip members, none being one too. gzip.Reader does so itself, but opens the
// first one before Read is called, and takes a file that is cut off in a header for one that ends there.
type gzipReader struct {
	in   *bufio.Reader
	z    gzip.Reader
	open bool // z is in a member
}

func (g *gzipReader) Read(p []byte) (int, error) {
	for {
		if !g.open {
			if _, err := g.in.Peek(1); err != nil {
				return 0, err // io.EOF: the end
			}
			if err := g.z.Reset(g.in); err == io.EOF {
				return 0, io.ErrUnexpectedEOF
			} else if err != nil {
				return 0, err
			}
			g.z.Multistream(false)
			g.open = true
		}
		n, err := g.z.Read(p)
		if err != io.EOF {
			return n, err
		}
		g.open = false
		if n > 0 {
			return n, nil
		}
	}
}

// decoder tells the errors of the content from those of the source.
type decoder struct {
	src    *source
	format string
	out    io.Reader
	close  func() // may be nil
	err    error
}

func (d *decoder) Read(p []byte) (int, error) {
	if d.err != nil {
		return 0, d.err
	}
	n, err := d.out.Read(p)
	switch {
	case err == nil:
	case d.src.err != nil: // whatever the decoder makes of it
		err = d.src.err
	case err != io.EOF:
		err = corrupt(d.format, err)
	}
	d.err = err
	return n, err
}

// Close releases the memory of the decoder. Read must not be called after it.
func (d *decoder) Close() error {
	if d.close != nil {
		d.close()
	}
	return nil
}

func corrupt(format string, err error) *Problem {
	why := err.Error()
	advice := "upload it again"
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		why = "it ends too early"
	case errors.Is(err, zstd.ErrWindowSizeExceeded):
		why, advice = fmt.Sprintf("its window is larger than %d MiB", MaxWindow>>20), "compress it without --long=N"
	}
	return &Problem{Code: CorruptInput, Message: fmt.Sprintf("cannot decompress the file (%s): %s: %s", format, why, advice)}
}
