package watcher

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"slices"
	"time"

	"spool/monitoring"
	"spool/storage"
	"spool/storage/batch"
	"spool/storage/batch/jsonl"
)

// maxModels bounds the different body.model of a file: plans list them, and memory must not grow with
// the file. A line that names one more is bad.
const maxModels = 1000

// errChanged says that the object is not the upload any more that was looked at. The next look finds
// what stands there now.
var errChanged error = changedError{}

type changedError struct{}

func (changedError) Error() string {
	return "the input was deleted or overwritten while it was validated"
}

// ErrorType is for logs.
func (changedError) ErrorType() string { return batch.CodeInputGone }

// staged is what validation found out about an upload, and what of it is in the bucket.
type staged struct {
	folder   string   // that the plan is to name
	pieces   []string // keys that may be in the bucket now
	badKey   string
	sha256   string
	verdict  string
	errors   []batch.BatchError
	endpoint string
	models   []string
	lines    int64
	bad      int64
	shards   []batch.Shard
}

// validation is one file on its way through.
type validation struct {
	w       *Watcher
	up      *upload
	limits  jsonl.Config
	pool    Pool
	checker *jsonl.Checker
	dups    *jsonl.Dups
	cutter  *cutter
	stager  *stager
	bad     *badLines
	models  map[string]bool
	sum     string
	lines   int64
}

// stage validates an upload to its end and stages its good lines under a fresh folder of batch id. The
// folder is deleted again if there is an error, since no plan can name it then.
func (w *Watcher) stage(ctx context.Context, up *upload, id string) (*staged, error) {
	st := &staged{folder: newFolder(), verdict: batch.Rejected}
	st.badKey = batch.BadKey(id, st.folder)
	if len(up.opt.problems) > 0 {
		st.errors = up.opt.problems
		return st, nil
	}
	pool, _ := w.cfg.pool(up.opt.pool)
	v := &validation{w: w, up: up, pool: pool, limits: pool.Limits, bad: w.newBadLines()}
	v.stager = newStager(ctx, w.cfg.Bucket, id, st.folder)
	v.stager.dir, v.stager.chunks = w.cfg.TempDir, pool.ShardChunks
	err := v.run(ctx, id, st)
	v.stager.close()
	err = errors.Join(err, v.bad.close())
	for shard := range v.stager.shards {
		st.pieces = append(st.pieces, batch.PieceKey(id, v.stager.folder, shard))
	}
	if err != nil {
		w.discard(ctx, id, append(st.pieces, st.badKey))
		return nil, err
	}
	return st, nil
}

// run makes the passes, decides, and stores what belongs to the decision.
func (v *validation) run(ctx context.Context, id string, st *staged) error {
	problem, err := v.passes(ctx)
	if err != nil {
		return err
	}
	st.sha256, st.lines = v.sum, v.lines
	st.bad, st.errors = v.bad.n, v.bad.first
	if v.checker != nil {
		st.endpoint = v.checker.Endpoint()
	}
	st.models = slices.Sorted(maps.Keys(v.models))
	switch {
	case problem != nil:
		file := batch.BatchError{Code: string(problem.Code), Message: problem.Message}
		if problem.Line > 0 {
			file.Line = &problem.Line
		}
		st.errors = append([]batch.BatchError{file}, st.errors...)
		st.errors = st.errors[:min(len(st.errors), batch.MaxErrors)]
	case v.lines == 0:
		st.errors = []batch.BatchError{{Code: batch.CodeEmptyFile, Message: "the file has no line that is not blank"}}
	case !v.rejected():
		st.verdict = batch.Accepted
	}
	return v.store(ctx, id, st)
}

// passes reads the file as often as it takes to know all its bad lines.
func (v *validation) passes(ctx context.Context) (problem *jsonl.Problem, err error) {
	ctx, span := v.w.cfg.Tracer.Start(ctx, "validate")
	defer func() { monitoring.EndSpan(span, err) }()
	problem, err = v.firstPass(ctx)
	if problem != nil || err != nil {
		return problem, err
	}
	if repeats := v.dups.Repeated(); repeats != nil {
		return nil, v.secondPass(ctx, repeats)
	}
	return nil, nil
}

// store uploads what the plan will name: all pieces and the bad lines of an accepted file, of a rejected
// one the bad lines only, in another folder, so that the pieces can go at once.
func (v *validation) store(ctx context.Context, id string, st *staged) (err error) {
	ctx, span := v.w.cfg.Tracer.Start(ctx, "stage")
	defer func() { monitoring.EndSpan(span, err) }()
	if st.verdict == batch.Accepted {
		shards, err := v.stager.finish()
		if err != nil {
			return err
		}
		st.shards = v.markBad(shards)
	} else {
		st.folder += rejectedSuffix
	}
	st.badKey = batch.BadKey(id, st.folder)
	return v.bad.upload(ctx, v.w.cfg.Bucket, st.badKey)
}

// firstPass checks and stages every line. The problem is one of the whole file.
func (v *validation) firstPass(ctx context.Context) (*jsonl.Problem, error) {
	enc, err := newEncoder(nil)
	if err != nil {
		return nil, fmt.Errorf("make encoder: %w", err)
	}
	v.cutter = &cutter{enc: enc, emit: v.stager.frame}
	v.dups = jsonl.NewDups()
	sum := sha256.New()
	started := time.Now()
	problem, err := v.each(ctx, sum, func(l jsonl.Line, req jsonl.Request, p *jsonl.Problem) error {
		v.lines++
		if len(req.CustomID) > 0 {
			v.dups.Add(req.CustomID)
		}
		if p != nil {
			return v.bad.add(p, req.CustomID)
		}
		if v.rejected() {
			return nil // nothing more to stage, only to report
		}
		return v.cutter.add(l.Number, l.Bytes)
	})
	if err != nil || problem != nil {
		return problem, err
	}
	v.sum = hex.EncodeToString(sum.Sum(nil))
	v.w.metrics.validated(v.lines, v.up.Size, time.Since(started))
	if v.rejected() {
		return nil, nil
	}
	return nil, v.cutter.flush()
}

// rejected reports whether the lines so far are enough to reject the file.
func (v *validation) rejected() bool { return v.bad.n > 0 && v.up.opt.onInvalid == invalidFail }

// secondPass makes the list of bad lines anew, with those whose custom_id stands in an earlier line too.
// It reads the input again, of which nothing else knows the byte offsets of the lines.
func (v *validation) secondPass(ctx context.Context, repeats *jsonl.Repeats) error {
	if err := v.bad.close(); err != nil {
		return fmt.Errorf("close bad lines: %w", err)
	}
	v.bad = v.w.newBadLines()
	problem, err := v.each(ctx, nil, func(l jsonl.Line, req jsonl.Request, p *jsonl.Problem) error {
		if len(req.CustomID) > 0 {
			if repeated := repeats.Check(l, req.CustomID); p == nil && repeated != nil {
				p = repeated
				v.bad.staged = append(v.bad.staged, l.Number)
			}
		}
		if p == nil {
			return nil
		}
		return v.bad.add(p, req.CustomID)
	})
	if err == nil && problem != nil {
		err = fmt.Errorf("read the file again: %w", problem)
	}
	return err
}

// each reads the input and gives f every line that is not blank, with what the check found.
func (v *validation) each(ctx context.Context, sum hash.Hash, f func(jsonl.Line, jsonl.Request, *jsonl.Problem) error) (*jsonl.Problem, error) {
	body, _, err := v.w.cfg.Bucket.Get(ctx, v.up.Key, storage.GetOptions{IfMatch: v.up.ETag})
	if err != nil {
		return nil, changed(err)
	}
	defer body.Close()
	raw := io.Reader(body)
	if sum != nil {
		raw = io.TeeReader(body, sum)
	}
	plain, err := jsonl.Decompress(raw, v.up.Key)
	if err != nil {
		return fileProblem(err)
	}
	defer plain.Close()
	if err := v.lineLoop(plain, f); err != nil {
		return fileProblem(err)
	}
	_, err = io.Copy(io.Discard, raw) // what a decoder did not need
	return nil, changed(err)
}

func (v *validation) lineLoop(plain io.Reader, f func(jsonl.Line, jsonl.Request, *jsonl.Problem) error) error {
	reader, err := jsonl.NewReader(plain, v.limits)
	if err != nil {
		return err
	}
	if v.checker, err = jsonl.NewChecker(v.limits); err != nil {
		return err
	}
	v.models = map[string]bool{}
	for {
		l, err := reader.Next()
		if err == io.EOF { // not errors.Is: a connection that broke may wrap io.EOF, and is not the end of the file
			return nil
		}
		if err != nil {
			return err
		}
		req, p := v.checker.Check(l)
		if p == nil {
			p = v.noteModel(l, req.Model)
		}
		if err := f(l, req, p); err != nil {
			return err
		}
	}
}

func (v *validation) noteModel(l jsonl.Line, model []byte) *jsonl.Problem {
	if v.models[string(model)] {
		return nil
	}
	if len(v.models) == maxModels {
		return &jsonl.Problem{Code: jsonl.LimitExceeded, Line: l.Number, Offset: l.Offset,
			Message: fmt.Sprintf("body.model is the %dth different one, the most in a file is %d: split the file", maxModels+1, maxModels)}
	}
	v.models[string(model)] = true
	return nil
}

// markBad counts, in each chunk, the lines that turned out bad after they were staged.
func (v *validation) markBad(shards []batch.Shard) []batch.Shard {
	var chunks []*batch.PlanChunk
	for s := range shards {
		for c := range shards[s].Chunks {
			chunks = append(chunks, &shards[s].Chunks[c])
		}
	}
	for _, number := range v.bad.staged {
		i, found := slices.BinarySearchFunc(chunks, number, func(c *batch.PlanChunk, n int64) int { return cmp.Compare(c.FirstLine, n) })
		if !found {
			i--
		}
		chunks[i].Bad++
	}
	return shards
}

// fileProblem tells a fault of the file from one of the store.
func fileProblem(err error) (*jsonl.Problem, error) {
	if p, ok := errors.AsType[*jsonl.Problem](err); ok {
		return p, nil
	}
	return nil, changed(err)
}

// changed recognises errors that say that the upload is not there any more.
func changed(err error) error {
	switch storage.KindOf(err) {
	case storage.KindNotFound, storage.KindPrecondition:
		return fmt.Errorf("%w: %w", errChanged, err)
	}
	return err
}
