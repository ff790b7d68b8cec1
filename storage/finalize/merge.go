package finalize

import (
	"context"
	"errors"
	"fmt"
	"io"

	"spool/storage"
	"spool/storage/batch"
)

// file is output.jsonl or errors.jsonl as it is made: lines in input order, bad lines merged by number. It
// ends with an error unless its lines are as many as plan and manifest imply, so that none is ever
// stored in part.
type file struct {
	key   string // of the manifest, for errors
	lines *ordered
	bad   *badLines // nil: none
	want  int64     // lines
	got   int64
	last  int64  // number of the line before
	text  []byte // to be handed out
	held  line   // from lines, not handed out yet; number 0: none
	end   bool   // of lines
}

func (f *file) Read(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		if len(f.text) == 0 {
			next, err := f.next()
			if err != nil {
				return n, err
			}
			f.text = next.text
		}
		copied := copy(p[n:], f.text)
		f.text = f.text[copied:]
		n += copied
	}
	return n, nil
}

// Close ends the reading ahead.
func (f *file) Close() error {
	f.lines.close()
	if f.bad != nil {
		return f.bad.close()
	}
	return nil
}

// next gives the next line of the file. A bad line that is also among the others, since it was found bad after
// it was staged, comes once, as a bad line.
func (f *file) next() (line, error) {
	if err := f.fill(); err != nil {
		return line{}, err
	}
	var next line
	switch {
	case f.bad != nil && !f.bad.end && (f.end || f.bad.head.Line <= f.held.number):
		if f.held.number == f.bad.head.Line {
			f.held = line{}
		}
		var err error
		if next, err = f.bad.next(); err != nil {
			return line{}, err
		}
	case !f.end:
		next, f.held = f.held, line{}
	case f.got != f.want:
		return line{}, corruptf(f.key, "there are %d lines, plan and manifest say %d", f.got, f.want)
	default:
		return line{}, io.EOF
	}
	if next.number <= f.last {
		return line{}, corruptf(f.key, "line %d comes after line %d", next.number, f.last)
	}
	f.last = next.number
	f.got++
	return next, nil
}

func (f *file) fill() (err error) {
	if f.end || f.held.number != 0 {
		return nil
	}
	f.held, err = f.lines.next()
	if err == io.EOF { // not wrapped, here and below: a request that broke may wrap it
		f.end, err = true, nil
	}
	return err
}

// badLines are the bad lines of an accepted file, in order, as lines of errors.jsonl.
type badLines struct {
	batch string
	key   string
	body  io.Closer
	r     *batch.BadReader
	head  batch.BadLine // the next one
	end   bool
	text  []byte
}

// openBad opens the bad lines; nil if there are none.
func (j job) openBad(ctx context.Context) (*badLines, error) {
	if j.plan.Bad == 0 {
		return nil, nil
	}
	key := batch.BadKey(j.plan.Batch, j.plan.Folder)
	body, _, err := j.bucket.Get(ctx, key, storage.GetOptions{})
	if err != nil {
		return nil, err
	}
	r, err := batch.NewBadReader(body)
	if err != nil {
		return nil, errors.Join(err, body.Close())
	}
	b := &badLines{batch: j.plan.Batch, key: key, body: body, r: r}
	if err := b.advance(); err != nil {
		return nil, errors.Join(err, b.close())
	}
	return b, nil
}

// next gives the line of head, good until the next call, and goes on to the one after it.
func (b *badLines) next() (line, error) {
	b.text = append(b.head.Failed(b.batch).AppendLine(b.text[:0]), '\n')
	l := line{b.head.Line, b.text}
	return l, b.advance()
}

func (b *badLines) advance() (err error) {
	b.head, err = b.r.Next()
	switch {
	case err == io.EOF:
		b.end = true
		return nil
	case err != nil:
		return fmt.Errorf("read %q: %w", b.key, err)
	}
	return nil
}

func (b *badLines) close() error {
	b.r.Close()
	return b.body.Close()
}
