package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"spool/storage"
	"spool/storage/batch"
)

// finder finds batches with no more than a user's role may read: in/ and out/. Only a batch id as KEY needs
// sys/ too, since nothing else tells to which input it belongs.
type finder struct {
	bucket userBucket
	name   string // of the bucket, which is part of batch ids
}

// found is a batch as far as out/ tells.
type found struct {
	id     string
	key    string          // of the input
	input  *storage.Object // the upload it is made of; nil if that was replaced or deleted since
	object *batch.Object   // batch.json; nil if the batch has not ended
	status *batch.Status   // status.json, if it is about this batch
}

func (f *found) view() *view { return newView(f) }

// find gives the newest batch of an input, or the batch of an id.
func (f *finder) find(ctx context.Context, t target) (*view, error) {
	b, err := f.batch(ctx, t)
	if err != nil {
		return nil, err
	}
	return b.view(), nil
}

func (f *finder) batch(ctx context.Context, t target) (*found, error) {
	if t.id != "" {
		return f.byID(ctx, t.id)
	}
	in, err := f.bucket.Head(ctx, t.key)
	if storage.IsNotFound(err) {
		return f.withoutInput(ctx, t.key)
	}
	if err != nil {
		return nil, err
	}
	return f.ofUpload(ctx, in)
}

// ofUpload finds the batch that an upload means, by the rule of storage/FORMAT.md: the first generation
// that is not over, or that completed, or that ended after the upload. batch.json stands in for
// result.json, which users cannot read and which only repeats it: it is the same a moment later.
func (f *finder) ofUpload(ctx context.Context, in storage.Object) (*found, error) {
	for generation := 0; ; generation++ {
		b := &found{id: uploadID(f.name, in, generation), key: in.Key, input: &in}
		ended, err := f.loadObject(ctx, b)
		if err != nil {
			return nil, err
		}
		if b.object == nil || b.object.Status == batch.Completed || in.LastModified.Unix() < ended.LastModified.Unix() {
			return b, f.loadStatus(ctx, b)
		}
	}
}

// uploadID is the batch id of an upload.
func uploadID(bucket string, in storage.Object, generation int) string {
	return batch.Identity{
		Bucket: bucket, Key: in.Key, ETag: in.ETag, Size: in.Size, Rerun: rerun(in.Metadata), Generation: generation,
	}.ID()
}

// rerun is the number that asks for another run. What is no canonical number makes a batch of its own, which fails.
func rerun(meta map[string]string) int {
	s, ok := meta["rerun"]
	if !ok {
		return 0
	}
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil || n < 0 || strconv.FormatInt(n, 10) != s {
		return -1
	}
	return int(n)
}

// withoutInput finds the newest batch of an input that was deleted.
func (f *finder) withoutInput(ctx context.Context, key string) (*found, error) {
	var s batch.Status
	_, err := f.json(ctx, batch.StatusKey(key, ""), &s)
	if storage.IsNotFound(err) {
		return nil, f.noInput(ctx, key)
	}
	if err != nil {
		return nil, err
	}
	b := &found{id: s.Batch, key: key, status: &s}
	_, err = f.loadObject(ctx, b)
	return b, err
}

// noInput is the error for a key that HEAD does not find, which has no body and so does not tell an absent key from an
// absent bucket: a listing does.
func (f *finder) noInput(ctx context.Context, key string) error {
	if _, err := firstKey(ctx, f.bucket, key); err != nil {
		return err
	}
	return failf(exitNoInput, "spool list shows what is there", "no such input: s3://%s/%s", f.name, key)
}

// byID finds a batch by its plan.
func (f *finder) byID(ctx context.Context, id string) (*found, error) {
	var plan batch.Plan
	_, err := f.json(ctx, batch.PlanKey(id), &plan)
	if storage.IsNotFound(err) {
		return nil, failf(exitNoInput, "a batch that is not planned yet is known by its input's key only", "no such batch: %s", id)
	}
	if storage.KindOf(err) == storage.KindDenied {
		return nil, failf(exitUnfit, "give the input's key instead: a batch id needs the right to read sys/", "%w", err)
	}
	if err != nil {
		return nil, err
	}
	b := &found{id: id, key: plan.Input.Key}
	if in, err := f.bucket.Head(ctx, b.key); err == nil && in.ETag == plan.Input.ETag {
		b.input = &in
	}
	if _, err := f.loadObject(ctx, b); err != nil {
		return nil, err
	}
	return b, f.loadStatus(ctx, b)
}

// loadObject reads batch.json, if it is there.
func (f *finder) loadObject(ctx context.Context, b *found) (storage.Object, error) {
	var o batch.Object
	stored, err := f.json(ctx, batch.OutDir(b.key, b.id)+batch.ObjectName, &o)
	if storage.IsNotFound(err) {
		return storage.Object{}, nil
	}
	if err == nil {
		b.object = &o
	}
	return stored, err
}

// loadStatus reads status.json of a batch that has not ended, if it is about this batch.
func (f *finder) loadStatus(ctx context.Context, b *found) error {
	if b.object != nil {
		return nil
	}
	var s batch.Status
	_, err := f.json(ctx, batch.StatusKey(b.key, b.id), &s)
	if storage.IsNotFound(err) {
		return nil
	}
	if err == nil && s.Batch == b.id {
		b.status = &s
	}
	return err
}

// addWarning notes on an ended batch what its summary warns of. A summary that is not there, or cannot be read, warns of nothing.
func (f *finder) addWarning(ctx context.Context, v *view) {
	if v.ended == nil {
		return
	}
	var s struct {
		Mixed []batch.Difference `json:"mixed"`
	}
	if _, err := f.json(ctx, v.Output+batch.SummaryName, &s); err != nil || len(s.Mixed) == 0 {
		return
	}
	fields := make([]string, len(s.Mixed))
	for i, d := range s.Mixed {
		fields[i] = d.Field
	}
	warning := "the runners' engines differed in " + strings.Join(fields, ", ") + ", so that the same request may have another answer; see " + batch.ReportName
	v.Note = strings.TrimPrefix(v.Note+"; "+warning, "; ")
}

func (f *finder) json(ctx context.Context, key string, v any) (storage.Object, error) {
	body, obj, err := f.bucket.readAll(ctx, key)
	if err != nil {
		return obj, err
	}
	if err := json.Unmarshal(body, v); err != nil {
		return obj, fmt.Errorf("read %q: %w", key, err)
	}
	return obj, nil
}
