package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"spool/storage"
	"spool/storage/batch"
	"spool/storage/batch/jsonl"
)

func (p *program) retryCommand() *cli.Command {
	return &cli.Command{
		Name:      "retry",
		Usage:     "submit the failed lines of a batch again, as a new input",
		ArgsUsage: "KEY",
		Category:  forUsers,
		Description: "Writes the failed lines, as they were, to in/<path less .jsonl…>.retry-<n>.jsonl, with the options of the first\n" +
			"upload. Lines that validation refused are left out. The lines are taken from the input; if that was replaced\n" +
			"or deleted, from spool's own copy, which needs the right to read sys/ (else it exits 8). Called again, it finds\n" +
			"the retry that is there.\n\n" +
			"Examples:\n   spool retry in/evals/prompts.jsonl\n   spool retry in/evals/prompts.jsonl --wait --timeout 1h",
		Flags: append(append(storeFlags(), waitFlags()...), jsonFlag(),
			&cli.BoolFlag{Name: "wait", Usage: "wait for the results"}),
		Action: p.retry,
	}
}

func (p *program) retry(c *cli.Context) error {
	if err := waitable(c); err != nil {
		return err
	}
	r, err := p.openKeys(c, 1, 1)
	if err != nil {
		return err
	}
	defer r.close()
	b, err := r.finder.batch(c.Context, r.targets[0])
	if err != nil {
		return err
	}
	v := b.view()
	switch {
	case b.object == nil:
		return failf(exitInternal, "spool wait "+b.key, "nothing to retry yet: %s", v.summary())
	case v.code() == exitRejected:
		return v.verdict(r.store.name)
	}
	failed, skipped, err := failedLines(c.Context, r.store, b)
	if err != nil {
		return err
	}
	if skipped > 0 {
		are, them := "are", "them"
		if skipped == 1 {
			are, them = "is", "it"
		}
		p.sayf("%s that validation refused %s left out: mend %s first", plural(skipped, "line"), are, them)
	}
	if len(failed) == 0 {
		return p.nothingToRetry(c)
	}
	return p.retryLines(c, r, b, failed)
}

func (p *program) nothingToRetry(c *cli.Context) error {
	p.sayf("no lines to retry")
	if c.Bool("json") {
		return p.printJSON(nil)
	}
	return nil
}

func (p *program) retryLines(c *cli.Context, r *remote, b *found, failed []int64) error {
	f, err := os.CreateTemp("", "spool-retry-*")
	if err != nil {
		return fmt.Errorf("make temporary file: %w", err)
	}
	defer os.Remove(f.Name())
	s := &submission{}
	s.meta, err = copyLines(c.Context, f, r.finder, b, failed)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if s.in, err = localInput(f.Name()); err != nil {
		return err
	}
	if err := s.digest(c.Context); err != nil {
		return err
	}
	uploaded, err := s.putNext(c.Context, r.finder, b.key)
	if err != nil {
		return err
	}
	n := int64(len(failed))
	return p.submitted(c, r.finder, s, submitted{
		Input: s.key, Bucket: r.store.name, Uploaded: uploaded, Size: s.in.size, SHA256: s.sha256, Lines: &n})
}

// failedLines gives the numbers of the lines in errors.jsonl, rising, without those that validation refused.
func failedLines(ctx context.Context, bucket storage.Bucket, b *found) (numbers []int64, skipped int64, err error) {
	if b.object.ErrorFileID == nil {
		return nil, 0, nil
	}
	body, _, err := bucket.Get(ctx, *b.object.ErrorFileID, storage.GetOptions{})
	if err != nil {
		return nil, 0, err
	}
	defer body.Close()
	dec := json.NewDecoder(body)
	for {
		var line struct {
			ID    string `json:"id"`
			Error *struct {
				Code string `json:"code"`
			} `json:"error"`
		}
		err := dec.Decode(&line)
		if err == io.EOF { // not wrapped: a request that broke may wrap it
			return numbers, skipped, nil
		}
		if err != nil {
			return nil, 0, fmt.Errorf("read %q: %w", *b.object.ErrorFileID, err)
		}
		if line.Error != nil && line.Error.Code == batch.CodeInvalidRequest {
			skipped++
			continue
		}
		number, err := strconv.ParseInt(strings.TrimPrefix(line.ID, batch.RequestIDPrefix+b.id+"-"), 10, 64)
		if err != nil {
			return nil, 0, fmt.Errorf("read %q: id %q has no line number", *b.object.ErrorFileID, line.ID)
		}
		numbers = append(numbers, number)
	}
}

// copyLines writes the lines of these numbers, and gives the options of the upload that they were in.
func copyLines(ctx context.Context, to io.Writer, f *finder, b *found, numbers []int64) (map[string]string, error) {
	w := bufio.NewWriter(to)
	left := numbers
	take := func(number int64, text []byte) error {
		if len(left) == 0 || left[0] != number {
			return nil
		}
		left = left[1:]
		w.Write(text) //nolint:errcheck // Flush tells
		return w.WriteByte('\n')
	}
	var meta map[string]string
	var err error
	if b.input != nil {
		meta, err = fromInput(ctx, f, b, take)
	} else {
		meta, err = fromPieces(ctx, f, b, numbers, take)
	}
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("line %d of %s is not there", left[0], b.key)
	}
	return meta, errors.Join(err, w.Flush())
}

func fromInput(ctx context.Context, f *finder, b *found, take func(int64, []byte) error) (map[string]string, error) {
	meta := map[string]string{}
	for _, k := range []string{"pool", "order", "window", "traceparent", "tracestate"} {
		if v, ok := b.input.Metadata[k]; ok {
			meta[k] = v
		}
	}
	unlimited := jsonl.Config{MaxLineBytes: 1 << 30, MaxInputBytes: math.MaxInt64} // it was accepted before
	return meta, bucketInput(f.bucket, *b.input).lines(ctx, unlimited, func(l jsonl.Line) error { return take(l.Number, l.Bytes) })
}

// fromPieces reads the lines where the watcher staged them, chunk by chunk.
func fromPieces(ctx context.Context, f *finder, b *found, numbers []int64, take func(int64, []byte) error) (map[string]string, error) {
	var plan batch.Plan
	_, err := f.json(ctx, batch.PlanKey(b.id), &plan)
	if storage.IsNotFound(err) || storage.KindOf(err) == storage.KindDenied {
		return nil, failf(exitNoInput, "upload the input again, or ask whoever may read sys/",
			"%s is not the file of batch %s any more, and spool's copy cannot be read: %w", b.key, b.id, err)
	}
	if err != nil {
		return nil, err
	}
	for i, shard := range plan.Shards {
		for _, c := range shard.Chunks {
			if !hasLineFrom(numbers, plan, i, c) {
				continue
			}
			if err := readChunk(ctx, f.bucket, batch.PieceKey(b.id, plan.Folder, i), c, take); err != nil {
				return nil, err
			}
		}
	}
	return map[string]string{"pool": plan.Pool, "order": cmp.Or(plan.Order, batch.OrderFile), "window": plan.Window}, nil
}

// hasLineFrom reports whether a chunk may hold one of the lines: numbers from its first line on, of which it has
// at least one before the next chunk's. Blank and bad lines make numbers jump, so that only the next first line tells.
func hasLineFrom(numbers []int64, plan batch.Plan, shard int, c batch.PlanChunk) bool {
	end := int64(math.MaxInt64)
	for _, s := range plan.Shards[shard:] {
		for _, next := range s.Chunks {
			if next.FirstLine > c.FirstLine && next.FirstLine < end {
				end = next.FirstLine
			}
		}
		if end != math.MaxInt64 {
			break
		}
	}
	at, _ := slices.BinarySearch(numbers, c.FirstLine)
	return at < len(numbers) && numbers[at] < end
}

func readChunk(ctx context.Context, b storage.Bucket, key string, c batch.PlanChunk, take func(int64, []byte) error) error {
	body, _, err := b.Get(ctx, key, storage.GetOptions{Offset: c.Offset, Length: c.Size})
	if err != nil {
		return err
	}
	defer body.Close()
	frame, err := io.ReadAll(body)
	if err != nil {
		return fmt.Errorf("read %q: %w", key, err)
	}
	lines, err := batch.ReadFrame(frame, c.Lines)
	if err != nil {
		return fmt.Errorf("read %q: %w", key, err)
	}
	for _, l := range lines {
		if err := take(l.Number, l.Text); err != nil {
			return err
		}
	}
	return nil
}

// putNext uploads under the first retry key that is free, or has the same bytes.
func (s *submission) putNext(ctx context.Context, f *finder, key string) (uploaded bool, err error) {
	stem := key
	for _, suffix := range jsonl.Suffixes() {
		stem = strings.TrimSuffix(stem, suffix)
	}
	for n := 1; ; n++ {
		s.key = fmt.Sprintf("%s.retry-%d.jsonl", stem, n)
		s.in.name = s.key
		uploaded, err = s.put(ctx, f, false)
		if !errors.Is(err, errOtherBytes) {
			return uploaded, err
		}
	}
}
