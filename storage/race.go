package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"golang.org/x/sync/errgroup"
)

// raceAbsent lets writers create one key at once.
func (p *probe) raceAbsent(ctx context.Context) error {
	for round := range p.opt.Rounds {
		key := p.key(fmt.Sprintf("absent-%d", round))
		winners, err := race(ctx, p.opt.Writers, func(ctx context.Context, i int, start *barrier) (Stored, error) {
			if err := start.wait(ctx); err != nil {
				return Stored{}, err
			}
			return PutOnce(ctx, p.b, key, content(i), PutOptions{})
		})
		if err != nil {
			return err
		}
		if err := p.judge(ctx, key, winners); err != nil {
			return err
		}
		_, err = p.b.Put(ctx, key, []byte("late"), PutOptions{Cond: Cond{IfAbsent: true}})
		if err := refused(ctx, "If-None-Match on a key that exists", err); err != nil {
			return err
		}
	}
	return nil
}

// raceMatch lets writers replace one version at once.
func (p *probe) raceMatch(ctx context.Context) error {
	key, obj, err := p.put(ctx, "swap", "first")
	if err != nil {
		return err
	}
	first := obj.ETag
	for range p.opt.Rounds {
		etag := obj.ETag
		winners, err := race(ctx, p.opt.Writers, func(ctx context.Context, i int, start *barrier) (Stored, error) {
			if err := start.wait(ctx); err != nil {
				return Stored{}, err
			}
			body := fmt.Appendf(content(i), " after %s", etag) // never the bytes of another version
			return Swap(ctx, p.b, key, etag, body)
		})
		if err != nil {
			return err
		}
		if err := p.judge(ctx, key, winners); err != nil {
			return err
		}
		obj = winners[0].Object
	}
	_, err = p.b.Put(ctx, key, []byte("late"), PutOptions{Cond: Cond{IfMatch: first}})
	return refused(ctx, "If-Match with the ETag of an old version", err)
}

// raceUpload lets uploads of two parts create one key at once. All wait for each other when their first
// part is sent and the second is still to end, so that the completions fall together.
func (p *probe) raceUpload(ctx context.Context) error {
	if p.opt.Uploads < 0 {
		return errSkipped
	}
	key := p.key("upload")
	body := make([]byte, MinPartSize)
	winners, err := race(ctx, max(2, p.opt.Uploads), func(ctx context.Context, i int, start *barrier) (Stored, error) {
		src := func() (io.Reader, error) {
			last := &gatedReader{ctx: ctx, gate: start, r: bytes.NewReader(content(i))}
			return io.MultiReader(bytes.NewReader(body), last), nil
		}
		return UploadOnce(ctx, p.b, key, src, PutOptions{PartSize: MinPartSize, Size: int64(len(body) + len(content(i)))})
	})
	if err != nil {
		return err
	}
	if err := p.judge(ctx, key, winners); err != nil {
		return err
	}
	late := io.MultiReader(bytes.NewReader(body), bytes.NewReader(content(0)))
	_, err = p.b.Upload(ctx, key, late, PutOptions{Cond: Cond{IfAbsent: true}, PartSize: MinPartSize})
	return refused(ctx, "completion with If-None-Match on a key that exists", err)
}

// refused wants err to be a failed precondition.
func refused(ctx context.Context, what string, err error) error {
	switch {
	case KindOf(err) == KindPrecondition:
		return nil
	case err != nil && unasked(ctx, err):
		return err
	default:
		return broken("%s: %v, want precondition failed", what, err)
	}
}

// race runs n writers, and returns what those who believe to have won have stored.
func race(ctx context.Context, n int, write func(context.Context, int, *barrier) (Stored, error)) ([]Stored, error) {
	start := &barrier{missing: n, open: make(chan struct{})}
	var mu sync.Mutex
	var winners []Stored
	g, ctx := errgroup.WithContext(ctx)
	for i := range n {
		g.Go(func() error {
			stored, err := write(ctx, i, start)
			if err != nil {
				return err
			}
			if stored.Mine {
				mu.Lock()
				winners = append(winners, stored)
				mu.Unlock()
			}
			return nil
		})
	}
	return winners, g.Wait()
}

// judge wants one winner, whose object stands at the key.
func (p *probe) judge(ctx context.Context, key string, winners []Stored) error {
	if len(winners) != 1 {
		return broken("%d writers won, want 1", len(winners))
	}
	obj, err := p.b.Head(ctx, key)
	if err != nil {
		return err
	}
	if obj.ETag != winners[0].ETag || obj.Metadata[PutIDKey] != winners[0].Metadata[PutIDKey] {
		return broken("one writer won, but the object is another's")
	}
	return nil
}

// barrier lets nobody pass until all have come.
type barrier struct {
	mu      sync.Mutex
	missing int
	open    chan struct{}
}

func (b *barrier) wait(ctx context.Context) error {
	b.mu.Lock()
	if b.missing--; b.missing == 0 {
		close(b.open)
	}
	b.mu.Unlock()
	select {
	case <-b.open:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// gatedReader waits at its gate before it ends.
type gatedReader struct {
	ctx  context.Context //nolint:containedctx // of the Upload: io.Reader has no place for it
	gate *barrier
	r    io.Reader
}

func (g *gatedReader) Read(p []byte) (int, error) {
	n, err := g.r.Read(p)
	if n > 0 || !errors.Is(err, io.EOF) {
		return n, err
	}
	if g.gate != nil {
		if err := g.gate.wait(g.ctx); err != nil {
			return 0, err
		}
		g.gate = nil
	}
	return 0, io.EOF
}
