package batch_test

import (
	"strings"
	"testing"

	"spool/storage/batch"
)

func TestLogKeysAreReadAsTheyAreWritten(t *testing.T) {
	const id = "bpicclhpxbn2qqhb5uxmxo6zjly"
	for _, input := range []string{"in/math/x.jsonl", "in/_/x", "in/" + strings.Repeat("l", 900), "in/" + id + "/r-1/0000000001-0000000002.ndjson.gz"} {
		dir := batch.LogDir(input, id)
		part := dir + "r-host-1/" + batch.LogPart(1, 27)
		if k, ok := batch.ParseLogKey(dir, part); !ok || k != (batch.LogKey{Instance: "r-host-1", First: 1, Last: 27}) || k.Joined() {
			t.Errorf("%s is %+v, %t", part, k, ok)
		}
		joined := batch.JoinedLogKey(dir, "20261123-1")
		if k, ok := batch.ParseLogKey(dir, joined); !ok || !k.Joined() {
			t.Errorf("%s is %+v, %t", joined, k, ok)
		}
		for _, key := range []string{part, joined} {
			if gotDir, gotID, ok := batch.LogBatch(key); gotDir != dir || gotID != id || !ok {
				t.Errorf("%s is of %q in %q, %t", key, gotID, gotDir, ok)
			}
		}
	}
	if got, want := batch.LogDir("in/x", id)+"r/"+batch.LogPart(1, 12345678901), "logs/x/"+id+"/r/0000000001-12345678901.ndjson.gz"; got != want {
		t.Errorf("key %q, want %q", got, want)
	}
	if got, want := batch.OtherLogDir("watcher", "w-1"), "logs/_/watcher/w-1/"; got != want {
		t.Errorf("folder %q, want %q", got, want)
	}
}

func TestForeignKeysAreNoLogs(t *testing.T) {
	const id = "bpicclhpxbn2qqhb5uxmxo6zjly"
	dir := batch.LogDir("in/x", id)
	for _, name := range []string{
		"", "r/", "r/x.ndjson.gz", "r/1-2.ndjson.gz", "r/0000000002-0000000001.ndjson.gz", "r/0000000000-0000000001.ndjson.gz",
		"/0000000001-0000000002.ndjson.gz", "r/metrics.prom", "all-.ndjson.gz", "all.ndjson.gz", "a/b/0000000001-0000000002.ndjson.gz",
	} {
		if k, ok := batch.ParseLogKey(dir, dir+name); ok {
			t.Errorf("%q is %+v", name, k)
		}
	}
	part := batch.LogPart(1, 2)
	if _, ok := batch.ParseLogKey(dir, "logs/y/"+id+"/r/"+part); ok {
		t.Error("a key of another folder is taken")
	}
	for _, key := range []string{"logs/_/watcher/w-1/" + part, "logs/x/noid/r/" + part, part, "logs/" + part, ""} {
		if dir, id, ok := batch.LogBatch(key); ok {
			t.Errorf("%q is of %q in %q", key, id, dir)
		}
	}
}
