package main

import (
	"bytes"
	"context"
	"path"
	"strings"
	"testing"

	"spool/storage"
	"spool/storage/batch"
)

// shortKeys is a store whose keys are files: it refuses names of more than 255 bytes.
type shortKeys struct{ storage.Bucket }

func (b shortKeys) Put(ctx context.Context, key string, body []byte, opt storage.PutOptions) (storage.Object, error) {
	if len(path.Base(key)) > 255 {
		return storage.Object{}, &storage.Error{Op: "put", Key: key, Kind: storage.KindInvalid}
	}
	return b.Bucket.Put(ctx, key, body, opt)
}

func TestCancelOfAKeyThatIsTooLongForAWishNamesTheBatch(t *testing.T) {
	w := newWorld(t)
	key := "in/" + strings.Repeat("x", 249) + ".jsonl"
	id := w.upload(key, 1, nil)
	var out, errs bytes.Buffer
	p := &program{stdin: strings.NewReader(""), stdout: &out, stderr: &errs,
		connect: func(_ context.Context, cfg storeConfig) (*store, error) {
			return &store{Bucket: shortKeys{w.store}, Deleter: w.store, name: cfg.bucket}, nil
		}}
	if code := p.main(t.Context(), []string{"spool", "cancel", key, "--bucket", bucketName}); code != exitOK || out.String() != id+"\n" {
		t.Errorf("exit %d, %q, %q; want 0 and the batch", code, out.String(), errs.String())
	}
	if w.store.Writes(batch.LongCancelKey(id)) != 1 || w.store.Writes(batch.CancelKey(key)) != 0 {
		t.Error("no wish by the name of the batch")
	}
}
