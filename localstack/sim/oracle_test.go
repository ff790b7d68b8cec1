package sim

import (
	"bytes"
	"context"
	"encoding/json"
	"iter"
	"reflect"
	"strconv"
	"strings"

	"spool/storage"
	"spool/storage/batch"
	"spool/storage/finalize"
)

// keys gives the keys with a prefix.
func (w *world) keys(prefix string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for obj, err := range w.store.List(context.Background(), prefix, "") {
			if err != nil {
				w.t.Error(err)
				return
			}
			if !yield(obj.Key) {
				return
			}
		}
	}
}

func (w *world) has(key string) bool {
	_, err := w.store.Head(context.Background(), key)
	return err == nil
}

// read decodes an object into v, and reports whether it was there.
func (w *world) read(key string, v any) bool {
	w.t.Helper()
	body, _, err := storage.ReadAll(context.Background(), w.store, key)
	if storage.IsNotFound(err) {
		return false
	}
	if err == nil {
		err = json.Unmarshal(body, v)
	}
	if err != nil {
		w.t.Errorf("read %s: %v", key, err)
	}
	return err == nil
}

// batchOf finds the batch that an upload means, as storage/FORMAT.md has it, and whether it ended.
func (w *world) batchOf(key string) (id string, ended bool) {
	obj, err := w.store.Head(context.Background(), key)
	if err != nil {
		return "", true // deleted since it was listed
	}
	rerun, _ := strconv.Atoi(obj.Metadata["rerun"])
	for generation := 0; ; generation++ {
		id = batch.Identity{
			Bucket: bucketName, Key: key, ETag: obj.ETag, Size: obj.Size, Rerun: rerun, Generation: generation,
		}.ID()
		var r batch.Result
		if !w.read(batch.ResultKey(id), &r) {
			return id, false
		}
		if r.Outcome == batch.Completed || obj.LastModified.Unix() < r.ObjectTime {
			return id, true
		}
	}
}

// judge holds what is in the bucket against what was put.
func (w *world) judge() {
	w.t.Helper()
	plans := 0
	for key := range w.keys(batch.SysPrefix) {
		if id, ok := strings.CutSuffix(strings.TrimPrefix(key, batch.SysPrefix+"b/"), "/plan.json"); ok {
			plans++
			w.judgeBatch(id)
		}
	}
	if plans == 0 && len(w.inputs) > 0 {
		w.t.Errorf("no plan for %d inputs", len(w.inputs))
	}
	for key := range w.keys("") {
		if n := w.store.Writes(key); once(key) && n != 1 && !w.leftover(key) {
			w.t.Errorf("%s was written %d times", key, n)
		}
	}
	w.judgeLedger()
}

// leftover reports whether a key is in a staging folder that no plan names: its watcher deletes it at once, and a
// write of it that is late may land after that.
func (w *world) leftover(key string) bool {
	id, rest, ok := strings.Cut(strings.TrimPrefix(key, batch.SysPrefix+"b/"), "/p/")
	if !ok {
		return false
	}
	folder, _, _ := strings.Cut(rest, "/")
	var plan batch.Plan
	return w.read(batch.PlanKey(id), &plan) && plan.Folder != folder
}

// judgeLedger looks for requests that no engine should have been asked.
func (w *world) judgeLedger() {
	w.t.Helper()
	for _, in := range w.inputs {
		for _, l := range in.lines {
			if n := w.ledger.asked[string(l.body)]; n > 0 && (in.rejected() || l.bad != "") {
				w.t.Errorf("line %d of %s was asked %d times: rejected=%t bad=%q", l.number, in.key, n, in.rejected(), l.bad)
			}
		}
	}
}

// judgeBatch looks at one batch. batch.json is a function of plan and manifest, which says who had the right ones.
func (w *world) judgeBatch(id string) {
	w.t.Helper()
	b := &verdict{world: w, id: id}
	if !w.read(batch.PlanKey(id), &b.plan) {
		return
	}
	if !w.read(batch.ResultKey(id), &b.result) || !w.read(batch.ManifestKey(id), &b.manifest) ||
		!w.read(b.key(batch.ObjectName), &b.object) {
		w.t.Errorf("batch %s of %s has no result, manifest or batch.json", id, b.plan.Input.Key)
		return
	}
	if want := finalize.Object(&b.plan, &b.manifest); !reflect.DeepEqual(b.object, want) {
		b.fail("batch.json is %+v, by plan and manifest %+v", b.object, want)
	}
	in := w.inputs[b.plan.Input.Key+"\n"+b.plan.Input.ETag]
	switch {
	case in == nil:
		w.t.Errorf("batch %s is of an upload that never was: %+v", id, b.plan.Input)
	case b.plan.Verdict == batch.Rejected && b.plan.Errors[0].Code == batch.CodeInputGone:
		if current, _ := w.batchOf(in.key); current == id {
			w.t.Errorf("batch %s was given up although its upload stands", id)
		}
	case in.rejected():
		b.judgeRejected(in)
	default:
		b.judgeAccepted(in)
	}
}

// verdict is about one batch.
type verdict struct {
	*world
	id       string
	plan     batch.Plan
	manifest batch.Manifest
	result   batch.Result
	object   batch.Object
	errors   int
}

func (b *verdict) key(name string) string { return batch.OutDir(b.plan.Input.Key, b.id) + name }

// fail reports a fault, a few times a batch.
func (b *verdict) fail(format string, args ...any) {
	b.t.Helper()
	if b.errors++; b.errors <= 5 {
		b.t.Errorf("batch "+b.id+" of "+b.plan.Input.Key+" ("+b.manifest.Outcome+"): "+format, args...)
	}
}

func (b *verdict) judgeRejected(in *input) {
	b.t.Helper()
	if b.plan.Verdict != batch.Rejected || b.manifest.Outcome != batch.Failed || b.result.Outcome != batch.Failed ||
		b.object.Status != batch.Failed || b.object.RequestCounts != (batch.RequestCounts{}) || b.object.Errors == nil {
		b.fail("want rejected: plan %s, result %+v, object %+v", b.plan.Verdict, b.result, b.object)
	}
	if b.has(b.key(batch.OutputName)) || b.has(b.key(batch.ErrorsName)) {
		b.fail("a rejected file has output or errors")
	}
	if b.has(b.key(batch.InvalidName)) != (in.bad > 0) {
		b.fail("invalid.jsonl: want it there %t", in.bad > 0)
	}
}

// outLine is a line of output.jsonl or errors.jsonl.
type outLine struct {
	ID       string  `json:"id"`
	CustomID *string `json:"custom_id"`
	Response *struct {
		Status int             `json:"status_code"`
		Body   json.RawMessage `json:"body"`
	} `json:"response"`
	Error *struct{ Code, Message string } `json:"error"`
}

// readLines gives the lines of a file by their number in the input, which must rise.
func (b *verdict) readLines(name string) map[int64]outLine {
	b.t.Helper()
	lines := map[int64]outLine{}
	body, _, err := storage.ReadAll(context.Background(), b.store, b.key(name))
	if storage.IsNotFound(err) {
		return lines
	}
	last := int64(0)
	for text := range bytes.Lines(body) {
		var l outLine
		if err := json.Unmarshal(text, &l); err != nil {
			b.fail("%s: %v in %q", name, err, text)
			continue
		}
		n, err := strconv.ParseInt(strings.TrimPrefix(l.ID, batch.RequestIDPrefix+b.id+"-"), 10, 64)
		if err != nil || n <= last {
			b.fail("%s: line %q stands behind that of line %d: %v", name, l.ID, last, err)
		}
		last = n
		lines[n] = l
	}
	return lines
}

func (b *verdict) judgeAccepted(in *input) {
	b.t.Helper()
	if b.plan.Verdict != batch.Accepted {
		b.fail("want accepted: %+v", b.plan.Errors)
		return
	}
	b.judgeOutcome(in)
	output, errors := b.readLines(batch.OutputName), b.readLines(batch.ErrorsName)
	var usage batch.Usage
	for _, l := range in.lines {
		out, answered := output[l.number]
		bad, failed := errors[l.number]
		if answered == failed {
			b.fail("line %d: in output %t, in errors %t", l.number, answered, failed)
			continue
		}
		if answered {
			b.judgeAnswer(l, out, &usage)
		} else {
			b.judgeError(l, bad)
		}
	}
	if len(output)+len(errors) != len(in.lines) {
		b.fail("%d + %d lines, want %d", len(output), len(errors), len(in.lines))
	}
	b.judgeCounts(int64(len(output)), int64(len(errors)), usage)
	if b.has(b.key(batch.InvalidName)) != (in.bad > 0) || int(b.plan.Bad) != in.bad {
		b.fail("%d lines are bad, the plan says %d", in.bad, b.plan.Bad)
	}
}

func (b *verdict) judgeOutcome(in *input) {
	b.t.Helper()
	switch {
	case b.manifest.Outcome == batch.Completed:
	case b.manifest.Outcome == batch.Cancelled && b.stopped[in.key]:
	case b.manifest.Outcome == batch.Expired && in.short:
	default:
		b.fail("nothing explains this outcome: %s %s", b.manifest.Code, b.manifest.Message)
	}
	if b.result.Outcome != b.manifest.Outcome || b.object.Status != b.manifest.Outcome {
		b.fail("result says %s, batch.json %s", b.result.Outcome, b.object.Status)
	}
}

func (b *verdict) judgeAnswer(l line, out outLine, usage *batch.Usage) {
	b.t.Helper()
	want := truth(l.body)
	switch {
	case l.bad != "":
		b.fail("line %d is bad (%s) and in output", l.number, l.bad)
	case out.CustomID == nil || *out.CustomID != l.id || out.Error != nil || out.Response == nil:
		b.fail("line %d: %+v, want the answer to %s", l.number, out, l.id)
	case out.Response.Status != want.Status || !bytes.Equal(out.Response.Body, want.Body):
		b.fail("line %d: %d %s, want %d %s", l.number, out.Response.Status, out.Response.Body, want.Status, want.Body)
	}
	usage.Add(batch.Usage{
		InputTokens: want.Usage.Input, InputTokensDetails: batch.InputDetails{CachedTokens: want.Usage.Cached},
		OutputTokens: want.Usage.Output, TotalTokens: want.Usage.Total,
	})
}

func (b *verdict) judgeError(l line, out outLine) {
	b.t.Helper()
	want := truth(l.body)
	switch {
	case l.bad != "":
		if out.Error == nil || out.Error.Code != batch.CodeInvalidRequest || l.id == "" != (out.CustomID == nil) {
			b.fail("line %d: %+v, want %s", l.number, out, batch.CodeInvalidRequest)
		}
		return
	case out.CustomID == nil || *out.CustomID != l.id:
		b.fail("line %d: %+v, want custom_id %s", l.number, out, l.id)
	case out.Response != nil:
		if out.Error != nil || out.Response.Status != want.Status || want.Status == 200 || !bytes.Equal(out.Response.Body, want.Body) {
			b.fail("line %d: %d %s, want %d %s", l.number, out.Response.Status, out.Response.Body, want.Status, want.Body)
		}
	case b.manifest.Outcome == batch.Completed || out.Error == nil || out.Error.Code != b.manifest.Code:
		b.fail("line %d has no answer: %+v", l.number, out.Error)
	}
}

func (b *verdict) judgeCounts(ok, failed int64, usage batch.Usage) {
	b.t.Helper()
	counts := batch.RequestCounts{Total: ok + failed, Completed: ok, Failed: failed}
	if b.object.RequestCounts != counts {
		b.fail("batch.json counts %+v, want %+v", b.object.RequestCounts, counts)
	}
	if got := (batch.RequestCounts{Total: b.result.Total, Completed: b.result.Completed, Failed: b.result.Failed}); got != counts {
		b.fail("result counts %+v, want %+v", got, counts)
	}
	if b.result.Usage != usage || b.object.Usage == nil || *b.object.Usage != usage || b.manifest.Usage != usage {
		b.fail("usage: result %+v, batch.json %+v, want %+v", b.result.Usage, b.object.Usage, usage)
	}
	if b.manifest.Counts.OK != ok {
		b.fail("manifest counts %+v, output has %d lines", b.manifest.Counts, ok)
	}
	if (b.object.ErrorFileID != nil) != (failed > 0) || b.object.OutputFileID == nil || !b.has(*b.object.OutputFileID) {
		b.fail("output %v, errors %v for %d failed lines", b.object.OutputFileID, b.object.ErrorFileID, failed)
	}
}
