package watcher_test

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"spool/storage/batch"
	"spool/storage/batch/jsonl"
	"spool/watcher"
)

func TestAFileBecomesAPlanAPieceAndAJob(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		const second = `{"custom_id":"b","method":"POST","url":"/v1/chat/completions","body":{ "x":1 }}`
		text := "\xef\xbb\xbf" + `{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"m"}}` + "\r\n\n" + second
		uploaded := time.Now().Unix()
		id := w.upload("in/x.jsonl", text, "team", "search", "traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
			"order", "prefix", "window", "90m", "sha256", "00", "mtime", "1.5")
		sleep(5 * time.Second)
		w.scan(w.watcher())

		sum := sha256.Sum256([]byte(text))
		want := &batch.Plan{
			V: 1, Batch: id, Verdict: batch.Accepted, Pool: "default", OnInvalid: "fail", Order: "prefix", Window: "1h30m",
			Input: batch.Input{Bucket: bucketName, Key: "in/x.jsonl", Size: int64(len(text)), LastModified: uploaded,
				SHA256: hex.EncodeToString(sum[:])},
			CreatedAt: uploaded + 5, ExpiresAt: uploaded + 5 + 90*60,
			Metadata: map[string]string{"team": "search", "order": "prefix", "window": "90m",
				"traceparent":    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
				"spool_warnings": "not options of spool: team"},
			Endpoint: "/v1/chat/completions", Models: []string{"", "m"}, Lines: 2, Watcher: "w-test",
			Shards: []batch.Shard{{Chunks: []batch.PlanChunk{{FirstLine: 1, Lines: 2}}}},
			Trace:  map[string]string{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
		}
		plan := w.plan(id)
		ignore := cmp.Options{cmpopts.IgnoreFields(batch.Plan{}, "Folder"), cmpopts.IgnoreFields(batch.Input{}, "ETag"),
			cmpopts.IgnoreFields(batch.PlanChunk{}, "Size")}
		if diff := cmp.Diff(want, plan, ignore); diff != "" {
			t.Errorf("plan (-want +got):\n%s", diff)
		}
		staged := w.staged(plan, 0)
		if got := string(staged[0][1].Text); got != second || staged[0][1].Number != 3 {
			t.Errorf("line %d is %q, want 3 and %q", staged[0][1].Number, got, second)
		}

		jobs := w.queues.fast().jobs(t)
		if len(jobs) != 1 || len(w.queues.pool().jobs(t)) != 0 {
			t.Fatalf("jobs %v, want one in the fast queue", jobs)
		}
		wantJob := batch.Message{V: 1, Type: "shard", Batch: id, Shard: 0, Pool: "default", Enqueued: time.Now().UnixMilli(), By: "w-test", N: 1}
		if diff := cmp.Diff(wantJob, jobs[0]); diff != "" {
			t.Errorf("job (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(want.Trace, w.queues.fast().sent[0].Attributes); diff != "" {
			t.Errorf("message attributes (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]string{id}, w.keys(batch.OpenPrefix)); diff != "" {
			t.Errorf("open markers (-want +got):\n%s", diff)
		}
	})
}

func gzipped(t *testing.T, text string) string {
	t.Helper()
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	_, err := z.Write([]byte(text))
	if err := errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	return buf.String()
}

func TestCompressedInputIsStagedPlain(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		stored := gzipped(t, lines(3))
		id := w.upload("in/x.jsonl.gz", stored)
		w.scan(w.watcher())
		plan := w.plan(id)
		sum := sha256.Sum256([]byte(stored))
		if plan.Lines != 3 || plan.Input.SHA256 != hex.EncodeToString(sum[:]) {
			t.Errorf("%d lines, sha256 %s: want 3, and that of the object as stored", plan.Lines, plan.Input.SHA256)
		}
		if got, want := string(w.staged(plan, 0)[0][2].Text)+"\n", strings.SplitAfter(lines(3), "\n")[2]; got != want {
			t.Errorf("line 3 is %q, want %q", got, want)
		}
	})
}

func TestChunksAreCutIntoShards(t *testing.T) {
	for _, c := range []struct {
		chunks, shardChunks int
		want                []int
	}{
		{1, 8, []int{1}}, {2, 8, []int{1, 1}}, {3, 8, []int{2, 1}}, {8, 8, []int{4, 4}}, {9, 8, []int{8, 1}},
		{16, 8, []int{8, 8}}, {17, 8, []int{8, 8, 1}}, {2, 1, []int{1, 1}}, {5, 2, []int{2, 2, 1}}, {3, 3, []int{2, 1}},
	} {
		t.Run(fmt.Sprintf("%d by %d", c.chunks, c.shardChunks), func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				total := (c.chunks-1)*batch.ChunkLines + 1
				id := w.upload("in/x.jsonl", lines(total))
				w.scan(w.watcher(func(cfg *watcher.Config) {
					cfg.Pools = []watcher.Pool{{Name: "default", ShardChunks: c.shardChunks}}
				}))
				plan := w.plan(id)
				var sizes []int
				next := int64(1)
				for n, s := range plan.Shards {
					sizes = append(sizes, len(s.Chunks))
					for _, chunk := range w.staged(plan, n) {
						for _, l := range chunk {
							if l.Number != next || !strings.Contains(string(l.Text), fmt.Sprintf(`"custom_id":"%d"`, next)) {
								t.Fatalf("line %d: number %d, text %s", next, l.Number, l.Text)
							}
							next++
						}
					}
				}
				if diff := cmp.Diff(c.want, sizes); diff != "" {
					t.Errorf("chunks a shard (-want +got):\n%s", diff)
				}
				if int(next-1) != total {
					t.Errorf("%d lines staged, want %d", next-1, total)
				}
				if got := len(w.keys(batch.PiecePrefix(id))); got != len(c.want) {
					t.Errorf("%d pieces, want %d", got, len(c.want))
				}
			})
		})
	}
}

func TestAChunkEndsBeforeItExceedsEightMebibytes(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		line := func(id string, size int) string {
			s := `{"custom_id":"` + id + `","method":"POST","url":"/v1/chat/completions","body":{"p":""}}`
			return strings.Replace(s, `"p":"`, `"p":"`+strings.Repeat("x", size-len(s)), 1) + "\n"
		}
		id := w.upload("in/x.jsonl", line("a", 4<<20)+line("b", 4<<20)+line("c", 100)+line("d", 9<<20)+line("e", 100))
		w.scan(w.watcher())
		var got []int
		for _, s := range w.plan(id).Shards {
			for _, c := range s.Chunks {
				got = append(got, c.Lines)
			}
		}
		if diff := cmp.Diff([]int{2, 1, 1, 1}, got); diff != "" {
			t.Errorf("lines a chunk (-want +got):\n%s", diff)
		}
	})
}

const goodLine = `{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{}}` + "\n"

func TestAFileWithBadLinesIsRejectedWithAllOfThem(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		text := goodLine + "{\n\n" + goodLine + strings.Replace(goodLine, "POST", "GET", 1)
		id := w.upload("in/x.jsonl", text)
		w.scan(w.watcher())
		plan := w.plan(id)
		a := "a"
		at := func(line int) int64 { return int64(len(strings.Join(strings.SplitAfter(text, "\n")[:line-1], ""))) }
		want := []batch.BadLine{
			{Line: 2, Offset: at(2), Code: "invalid_json"},
			{Line: 4, Offset: at(4), CustomID: &a, Code: "duplicate_custom_id"},
			{Line: 5, Offset: at(5), CustomID: &a, Code: "invalid_method"},
		}
		if diff := cmp.Diff(want, w.bad(plan), cmpopts.IgnoreFields(batch.BadLine{}, "Message")); diff != "" {
			t.Errorf("bad lines (-want +got):\n%s", diff)
		}
		if plan.Verdict != batch.Rejected || plan.Lines != 4 || plan.Bad != 3 || len(plan.Shards) != 0 || len(plan.Errors) != 3 {
			t.Errorf("plan %+v: want rejected, 4 lines, 3 bad, 3 errors, no shards", plan)
		}
		if got := *plan.Errors[1].Line; got != 4 || plan.Errors[1].Code != "duplicate_custom_id" {
			t.Errorf("second error is %+v, want duplicate_custom_id in line 4", plan.Errors[1])
		}
		if got := w.keys(batch.PiecePrefix(id)); len(got) != 1 || !strings.HasSuffix(got[0], "/bad.jsonl.zst") {
			t.Errorf("staged %v, want the bad lines only", got)
		}
		object := read[batch.Object](w, batch.OutDir("in/x.jsonl", id)+batch.ObjectName)
		if object.Status != batch.Failed || len(object.Errors.Data) != 3 {
			t.Errorf("batch.json %+v: want failed with 3 errors", object)
		}
		invalid := w.text(batch.OutDir("in/x.jsonl", id) + batch.InvalidName)
		if got := strings.Count(invalid, "\n"); got != 3 {
			t.Errorf("invalid.jsonl has %d lines, want 3:\n%s", got, invalid)
		}
		if v, f := w.queues.fast().left(); v+f != 0 {
			t.Errorf("%d messages for a rejected file", v+f)
		}
		if got := w.keys(batch.OpenPrefix); len(got) != 0 {
			t.Errorf("open markers %v, want none", got)
		}
		if got := read[batch.Status](w, batch.StatusKey("in/x.jsonl", id)); got.State != batch.Failed {
			t.Errorf("status %+v, want failed", got)
		}
	})
}

func TestAllBadLinesAreReportedAndTheFirstHundredInBatchJSON(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		id := w.upload("in/x.jsonl", lines(2)+strings.Repeat("bad\n", 150))
		w.scan(w.watcher())
		dir := batch.OutDir("in/x.jsonl", id)
		data := read[batch.Object](w, dir+batch.ObjectName).Errors.Data
		if len(data) != 100 || *data[0].Line != 3 || *data[99].Line != 102 {
			t.Errorf("%d errors, want those of lines 3 to 102", len(data))
		}
		if got := strings.Count(w.text(dir+batch.InvalidName), `"code":"invalid_json"`); got != 150 {
			t.Errorf("invalid.jsonl has %d lines, want 150", got)
		}
	})
}

func TestBadLinesAreSkippedIfAsked(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		// 1 good, 2 not JSON, 3 the id of 1 again, 4 good, 5 the id of the bad line 6's own
		text := strings.Join([]string{
			strings.TrimSpace(goodLine), "nonsense", strings.TrimSpace(goodLine),
			strings.Replace(strings.TrimSpace(goodLine), `"a"`, `"b"`, 1),
			strings.Replace(strings.Replace(strings.TrimSpace(goodLine), `"a"`, `"c"`, 1), "POST", "PUT", 1),
			strings.Replace(strings.TrimSpace(goodLine), `"a"`, `"c"`, 1),
		}, "\n")
		id := w.upload("in/x.jsonl", text, "on-invalid", "skip")
		wa := w.watcher()
		w.scan(wa)
		plan := w.plan(id)
		var codes []string
		for _, l := range w.bad(plan) {
			codes = append(codes, fmt.Sprint(l.Line, " ", l.Code))
		}
		want := []string{"2 invalid_json", "3 duplicate_custom_id", "5 invalid_method", "6 duplicate_custom_id"}
		if diff := cmp.Diff(want, codes); diff != "" {
			t.Errorf("bad lines (-want +got):\n%s", diff)
		}
		c := plan.Shards[0].Chunks[0]
		if plan.Verdict != batch.Accepted || plan.Bad != 4 || c.Lines != 4 || c.Bad != 2 || plan.Requests() != 2 {
			t.Errorf("plan %+v: want accepted, 4 bad, a chunk of 4 with 2 bad", plan)
		}
		w.workAll(plan)
		w.scan(wa)
		object := read[batch.Object](w, batch.OutDir("in/x.jsonl", id)+batch.ObjectName)
		if object.Status != batch.Completed || object.RequestCounts != (batch.RequestCounts{Total: 6, Completed: 2, Failed: 4}) {
			t.Errorf("batch.json %+v: want completed, 2 and 4 of 6", object)
		}
	})
}

func TestAFileWithoutGoodLinesIsAnsweredLineByLineIfBadOnesAreSkipped(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		id := w.upload("in/x.jsonl", "1\n2\n", "on-invalid", "skip")
		w.scan(w.watcher())
		object := read[batch.Object](w, batch.OutDir("in/x.jsonl", id)+batch.ObjectName)
		if object.Status != batch.Completed || object.RequestCounts != (batch.RequestCounts{Total: 2, Failed: 2}) {
			t.Errorf("batch.json %+v: want completed, all 2 failed", object)
		}
		if got := strings.Count(w.text(batch.OutDir("in/x.jsonl", id)+batch.ErrorsName), `"invalid_request"`); got != 2 {
			t.Errorf("%d lines in errors.jsonl with invalid_request, want 2", got)
		}
	})
}

func TestDuplicatesAreCountedInTheirChunks(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		text := lines(2500)
		repeat := func(n int) string { return strings.SplitAfter(text, "\n")[n-1] }
		id := w.upload("in/x.jsonl", text+repeat(1)+repeat(2)+repeat(1), "on-invalid", "skip")
		w.scan(w.watcher())
		var got []int
		for _, s := range w.plan(id).Shards {
			for _, c := range s.Chunks {
				got = append(got, c.Lines, c.Bad)
			}
		}
		if diff := cmp.Diff([]int{1000, 0, 1000, 0, 503, 3}, got); diff != "" {
			t.Errorf("lines and bad lines a chunk (-want +got):\n%s", diff)
		}
	})
}

func TestAnInputWithAVeryLongKeyEndsUnderItsBatch(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		key := "in/" + strings.Repeat("ä +%/", 150) + "x.jsonl" // over 850 bytes, of which some are not ASCII
		id := w.upload(key, lines(1))
		wa := w.watcher()
		w.scan(wa)
		w.workAll(w.plan(id))
		w.scan(wa)
		if got := read[batch.Status](w, "out/_long/"+id+"/status.json"); got.State != batch.Completed || got.Input != key {
			t.Errorf("status %+v, want completed", got)
		}
		if got := read[batch.Object](w, "out/_long/"+id+"/batch.json"); got.RequestCounts.Completed != 1 {
			t.Errorf("batch.json %+v, want 1 completed", got)
		}
	})
}

func TestFilesThatCannotBeReadEndFailed(t *testing.T) {
	torn := gzipped(t, lines(50))
	torn = torn[:len(torn)-9]
	for name, c := range map[string]struct {
		key, body string
		meta      []string
		code      string
		param     string
	}{
		"empty":             {"in/x.jsonl", "", nil, batch.CodeEmptyFile, ""},
		"blank":             {"in/x.jsonl", "\n \r\n", nil, batch.CodeEmptyFile, ""},
		"empty gzip":        {"in/x.jsonl.gz", "", nil, batch.CodeEmptyFile, ""},
		"suffix":            {"in/x.csv", "a,b\n", nil, string(jsonl.UnsupportedSuffix), ""},
		"torn gzip":         {"in/x.jsonl.gz", torn, []string{"on-invalid", "skip"}, string(jsonl.CorruptInput), ""},
		"too large":         {"in/x.jsonl", lines(600), nil, string(jsonl.InputTooLarge), ""},
		"unknown pool":      {"in/x.jsonl", lines(1), []string{"pool", "nope"}, batch.CodeInvalidOption, "pool"},
		"on-invalid":        {"in/x.jsonl", lines(1), []string{"on-invalid", "ignore"}, batch.CodeInvalidOption, "on-invalid"},
		"order":             {"in/x.jsonl", lines(1), []string{"order", "random"}, batch.CodeInvalidOption, "order"},
		"window not a time": {"in/x.jsonl", lines(1), []string{"window", "1 day"}, batch.CodeInvalidOption, "window"},
		"window too short":  {"in/x.jsonl", lines(1), []string{"window", "599s"}, batch.CodeInvalidOption, "window"},
		"window too long":   {"in/x.jsonl", lines(1), []string{"window", "720h1s"}, batch.CodeInvalidOption, "window"},
		"traceparent":       {"in/x.jsonl", lines(1), []string{"traceparent", "xyz"}, batch.CodeInvalidOption, "traceparent"},
		"tracestate":        {"in/x.jsonl", lines(1), []string{"tracestate", "ä"}, batch.CodeInvalidOption, "tracestate"},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				id := w.upload(c.key, c.body, c.meta...)
				w.scan(w.watcher(func(cfg *watcher.Config) {
					cfg.Pools = []watcher.Pool{{Name: "default", Limits: jsonl.Config{MaxInputBytes: 50_000}}}
				}))
				object := read[batch.Object](w, batch.OutDir(c.key, id)+batch.ObjectName)
				if object.Status != batch.Failed || len(object.Errors.Data) != 1 {
					t.Fatalf("batch.json %+v: want failed with one error", object)
				}
				e := object.Errors.Data[0]
				if e.Code != c.code || c.param != "" && (e.Param == nil || *e.Param != c.param) {
					t.Errorf("error %+v, want code %s, param %q", e, c.code, c.param)
				}
				if got := w.plan(id); got.Verdict != batch.Rejected || len(got.Shards) != 0 {
					t.Errorf("plan %+v: want rejected, no shards", got)
				}
				if len(w.queues.fast().jobs(t))+len(w.queues.pool().jobs(t)) != 0 {
					t.Error("jobs were sent")
				}
			})
		})
	}
}

func TestARejectedFileLeavesNoPieces(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		id := w.upload("in/x.jsonl", lines(17_001)+"bad\n")
		var wrote atomic.Bool
		bucket := &failing{Bucket: w.store, fail: func(op, key string) error {
			if op == "put done" && strings.HasSuffix(key, "/00000.zst") {
				wrote.Store(true)
			}
			return nil
		}}
		w.scan(w.watcher(func(cfg *watcher.Config) { cfg.Bucket = bucket }))
		if got := w.keys(batch.PiecePrefix(id)); !wrote.Load() || len(got) != 1 || !strings.HasSuffix(got[0], "bad.jsonl.zst") {
			t.Errorf("pieces were written: %v; left are %v, want the bad lines only", wrote.Load(), got)
		}
	})
}

func TestAMarkerThatWasTakenForAbandonedIsPutAgain(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		id := w.upload("in/x.jsonl", lines(1))
		bucket := &failing{Bucket: w.store, fail: func(op, key string) error {
			if op == "put" && key == batch.PlanKey(id) {
				return w.store.Delete(w.t.Context(), batch.OpenKey(id))
			}
			return nil
		}}
		w.scan(w.watcher(func(cfg *watcher.Config) { cfg.Bucket = bucket }))
		if !w.exists(batch.OpenKey(id)) {
			t.Error("a batch with a plan has no open marker")
		}
	})
}
