package finalize

import (
	"context"
	"io"
	"iter"
	"sync"

	"golang.org/x/sync/errgroup"
)

// Read-ahead: so many parts are read at once, each at most so far ahead of what is consumed. That is 4 MiB in
// all, less than a part of an upload: a runner finalises beside its other work, and its memory must not show it.
const (
	aheadParts  = 4
	aheadBlocks = 4
	blockSize   = 256 << 10
)

// line is one line of an output file, with its newline, and the number of the input line that it answers.
type line struct {
	number int64
	text   []byte
}

// part yields some of the lines, in their order. What it emits is copied.
type part func(ctx context.Context, emit func(number int64, text []byte) error) error

// ordered reads parts in parallel and gives their lines in the order of the parts. Its memory does not
// depend on how many parts there are or how large they are. It must be closed.
type ordered struct {
	cancel context.CancelFunc
	group  *errgroup.Group
	queue  chan *reading
	failed error     // of the dispatcher; good once queue is closed
	free   sync.Pool // of *block

	cur   *reading
	block *block
	at    int // of the next line in block
}

// reading is a part that is being read.
type reading struct {
	blocks chan *block
	err    error // good once blocks is closed
}

// block is a run of whole lines.
type block struct {
	text  []byte
	lines []blockLine
}

type blockLine struct {
	number int64
	end    int // in text
}

func newOrdered(ctx context.Context, parts iter.Seq[part]) *ordered {
	ctx, cancel := context.WithCancel(ctx)
	o := &ordered{cancel: cancel, group: new(errgroup.Group), queue: make(chan *reading, aheadParts)}
	o.group.SetLimit(aheadParts + 1) // and the dispatcher
	o.group.Go(func() error {
		defer close(o.queue)
		o.failed = o.dispatch(ctx, parts)
		return nil
	})
	return o
}

// dispatch starts to read the parts, as long as the limit of the group lets it.
func (o *ordered) dispatch(ctx context.Context, parts iter.Seq[part]) error {
	for p := range parts {
		r := &reading{blocks: make(chan *block, aheadBlocks)}
		o.group.Go(func() error {
			defer close(r.blocks)
			r.err = o.read(ctx, p, r.blocks)
			return nil
		})
		select {
		case o.queue <- r:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// read cuts what a part emits into blocks.
func (o *ordered) read(ctx context.Context, p part, to chan<- *block) error {
	var b *block
	send := func() error {
		select {
		case to <- b:
			b = nil
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	err := p(ctx, func(number int64, text []byte) error {
		if b != nil && len(b.text)+len(text) >= blockSize {
			if err := send(); err != nil {
				return err
			}
		}
		if b == nil {
			b = o.newBlock()
		}
		b.text = append(append(b.text, text...), '\n')
		b.lines = append(b.lines, blockLine{number, len(b.text)})
		return nil
	})
	if err != nil || b == nil {
		return err
	}
	return send()
}

func (o *ordered) newBlock() *block {
	b, ok := o.free.Get().(*block)
	if !ok {
		return new(block)
	}
	b.text, b.lines = b.text[:0], b.lines[:0]
	return b
}

// next gives the next line, whose text is good until the call after it, or io.EOF when all parts were
// read to their end without error.
func (o *ordered) next() (line, error) {
	for o.block == nil || o.at == len(o.block.lines) {
		if err := o.nextBlock(); err != nil {
			return line{}, err
		}
	}
	start := 0
	if o.at > 0 {
		start = o.block.lines[o.at-1].end
	}
	l := o.block.lines[o.at]
	o.at++
	return line{l.number, o.block.text[start:l.end]}, nil
}

func (o *ordered) nextBlock() error {
	if o.block != nil {
		o.free.Put(o.block)
		o.block, o.at = nil, 0
	}
	if o.cur == nil {
		r, ok := <-o.queue
		if !ok && o.failed != nil {
			return o.failed
		}
		if !ok {
			return io.EOF
		}
		o.cur = r
	}
	b, ok := <-o.cur.blocks
	if ok {
		o.block = b
		return nil
	}
	if o.cur.err != nil {
		return o.cur.err // and again, if asked again
	}
	o.cur = nil
	return nil
}

// close ends all reading and waits for it.
func (o *ordered) close() {
	o.cancel()
	_ = o.group.Wait() // errors are handed out by next
}
