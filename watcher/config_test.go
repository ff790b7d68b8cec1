package watcher_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"spool/storage/batch"
	"spool/storage/batch/jsonl"
	"spool/storage/finalize"
	"spool/storage/memstore"
	"spool/watcher"
)

func TestPoolsThatMakeNoSenseAreRefused(t *testing.T) {
	for _, c := range []struct {
		pools []watcher.Pool
		want  string // "" for none
	}{
		{[]watcher.Pool{{Name: "a", Limits: jsonl.Config{MaxLineBytes: batch.MaxLineBytes}}, {Name: "b-1_2"}}, ""},
		{[]watcher.Pool{{Name: "A"}}, `watcher: pool "A": a name has lower-case letters, digits, - and _`},
		{[]watcher.Pool{{Name: "a"}, {Name: "a"}}, `watcher: pool "a": defined twice`},
		{[]watcher.Pool{{Name: "a", ShardChunks: -1}}, `watcher: pool "a": -1 chunks a shard`},
		{[]watcher.Pool{{Name: "a", Limits: jsonl.Config{MaxN: -1}}}, `watcher: pool "a": check MaxN and MaxTokens: -1 and 0`},
		{[]watcher.Pool{{Name: "a", Limits: jsonl.Config{MaxLineBytes: batch.MaxLineBytes + 1}}},
			`watcher: pool "a": lines of 16777217 bytes, the most that is staged is 16777216`},
	} {
		s := memstore.New(memstore.Options{})
		_, err := watcher.New(watcher.Config{
			Bucket: s, BucketName: bucketName, Finalizer: finalize.New(finalize.Config{Bucket: s}), Pools: c.pools,
			Queues: func(context.Context, string) (watcher.Queue, error) { return nil, errors.New("not asked for") },
		})
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), c.want)) {
			t.Errorf("%+v: %v, want %q", c.pools, err, c.want)
		}
	}
}
