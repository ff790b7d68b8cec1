package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"spool/storage/batch"
)

const badFile = `{"custom_id":"a","method":"POST","url":"/v1/completions","body":{"model":"m","prompt":"x"}}
nonsense

{"custom_id":"a","method":"POST","url":"/v1/completions","body":{"model":"m","prompt":"y"}}
{"custom_id":"c","method":"GET","url":"/v1/completions","body":{"model":"m","prompt":"x"}}
`

func TestCheckReportsEveryBadLine(t *testing.T) {
	w := newWorld(t)
	path := w.file("bad.jsonl", badFile)
	var got []string
	for line := range strings.Lines(w.want(exitRejected, "check", path)) {
		at, rest, _ := strings.Cut(strings.TrimPrefix(line, path+":"), ": ")
		code, _, _ := strings.Cut(rest, ": ")
		got = append(got, at+" "+code)
	}
	if diff := cmp.Diff([]string{"2 invalid_json", "5 invalid_method", "4 duplicate_custom_id"}, got); diff != "" {
		t.Error(diff)
	}
	got = nil
	for line := range strings.Lines(w.want(exitRejected, "check", "--json", path)) {
		bad := document(t, line).(map[string]any)
		got = append(got, fmt.Sprint(bad["line"], " ", bad["offset"], " ", bad["custom_id"], " ", bad["code"]))
		if bad["message"] == "" || len(bad) != 5 {
			t.Errorf("members: %v", bad)
		}
	}
	if diff := cmp.Diff([]string{"2 92 <nil> invalid_json", "5 194 c invalid_method", "4 102 a duplicate_custom_id"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestCheckSaysHowManyLinesAreBad(t *testing.T) {
	skip := ", or submit with --on-invalid skip to run the others"
	for text, want := range map[string]string{
		goodLines(1):               "1 line, all good, for /v1/completions",
		goodLines(2):               "2 lines, all good, for /v1/completions",
		goodLines(2) + "x\n":       "1 of 3 lines is bad\n  mend or remove it" + skip,
		goodLines(1) + "x\nx\n":    "2 of 3 lines are bad\n  mend or remove them" + skip,
		"nonsense\n":               "1 of 1 line is bad\n  no line could be run: mend them",
		"nonsense\nmore of it\n\n": "2 of 2 lines are bad\n  no line could be run: mend them",
	} {
		w := newWorld(t)
		path := w.file("p.jsonl", text)
		_, stderr, _ := w.spool("check", path)
		if got := strings.TrimPrefix(stderr, "spool: "); got != path+": "+want+"\n" {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestCheckReadsFilesKeysAndStandardInput(t *testing.T) {
	w := newWorld(t)
	good := goodLines(3)
	w.put("in/a.jsonl", good, nil)
	w.want(exitOK, "check", w.file("good.jsonl", good))
	w.want(exitOK, "check", w.file("good.jsonl.gz", gzipped(t, good)))
	w.want(exitOK, "check", "in/a.jsonl", "--bucket", "spool")
	w.want(exitOK, "check", "s3://spool/in/a.jsonl")
	obj := w.put("in/b.jsonl", good, nil)
	id := uploadID(bucketName, obj, 0)
	w.want(exitNoInput, "check", id, "--bucket", "spool") // it has no plan
	w.putJSON(batch.PlanKey(id), &batch.Plan{V: 1, Batch: id, Input: batch.Input{Key: obj.Key, ETag: obj.ETag}})
	w.want(exitOK, "check", id, "--bucket", "spool")
	for _, text := range []string{good, gzipped(t, good), zstded(t, good)} {
		w.stdin = text
		w.want(exitOK, "check", "-")
	}
	w.want(exitRejected, "check", w.file("empty.jsonl", "\n"))
	w.want(exitRejected, "check", w.file("good.csv", good))
	if got := w.want(exitRejected, "check", "--json", w.file("torn.jsonl.gz", gzipped(t, good)[:40])); document(t, got).(map[string]any)["code"] != "corrupt_input" {
		t.Errorf("a torn file: %s", got)
	}
	w.want(exitNoInput, "check", "none.jsonl")
	w.want(exitNoInput, "check", "in/none.jsonl", "--bucket", "spool")
	w.want(exitUsage, "check", t.TempDir())
}

func gzipped(t *testing.T, text string) string {
	t.Helper()
	var s strings.Builder
	z := gzip.NewWriter(&s)
	if _, err := z.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return s.String()
}

func zstded(t *testing.T, text string) string {
	t.Helper()
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	return string(z.EncodeAll([]byte(text), nil))
}

func TestSubmitUploadsOnce(t *testing.T) {
	w := newWorld(t)
	good := goodLines(3)
	path := w.file("p.jsonl", good)
	sum := sha256.Sum256([]byte(good))
	submit := func(uploaded bool) {
		t.Helper()
		got := w.want(exitOK, "submit", path, "--json", "--bucket", "spool", "--pool", "big", "--window", "6h", "--metadata", "tracestate=a=1,b=2")
		obj, err := w.store.Head(t.Context(), "in/p.jsonl")
		if err != nil {
			t.Fatal(err)
		}
		wantJSON(t, got, fmt.Sprintf(`{"batch":%q,"input":"in/p.jsonl","bucket":"spool","uploaded":%v,"size":%d,"sha256":%q,"lines":3}`,
			uploadID(bucketName, obj, 0), uploaded, len(good), hex.EncodeToString(sum[:])))
		delete(obj.Metadata, "putid")
		want := map[string]string{"pool": "big", "window": "6h", "tracestate": "a=1,b=2", "sha256": hex.EncodeToString(sum[:])}
		if diff := cmp.Diff(want, obj.Metadata); diff != "" {
			t.Error(diff)
		}
	}
	submit(true)
	submit(false)
	if n := w.store.Writes("in/p.jsonl"); n != 1 {
		t.Errorf("%d uploads, want 1", n)
	}
	if w.get("in/p.jsonl") != good {
		t.Error("the bytes are not the file's")
	}
}

func TestSubmitKnowsTheSameBytesWithoutItsChecksum(t *testing.T) {
	w := newWorld(t)
	good := goodLines(3)
	w.put("in/p.jsonl", good, nil) // by aws s3 cp
	w.want(exitOK, "submit", w.file("p.jsonl", good), "--bucket", "spool")
	if n := w.store.Writes("in/p.jsonl"); n != 1 {
		t.Errorf("%d uploads, want 1", n)
	}
}

func TestSubmitSaysWhichOptionsOfTheSameBytesAreMoot(t *testing.T) {
	w := newWorld(t)
	path := w.file("p.jsonl", goodLines(2))
	w.want(exitOK, "submit", path, "--window", "6h", "--pool", "big", "--bucket", "spool")
	for args, want := range map[string]string{
		"--window 6h --pool big": "",
		"--window 7h":            "pool, window is of the upload that is there: another --rerun takes yours\n",
	} {
		_, stderr, _ := w.spool(append([]string{"submit", path, "--bucket", "spool"}, strings.Fields(args)...)...)
		if got, _, _ := strings.Cut(stderr, "the same bytes"); got != want {
			t.Errorf("%s: %q, want %q", args, got, want)
		}
	}
}

func TestSubmitRefusesToReplaceOtherBytes(t *testing.T) {
	w := newWorld(t)
	w.upload("in/p.jsonl", 1, nil)
	path := w.file("p.jsonl", goodLines(2))
	w.want(exitUsage, "submit", path, "--bucket", "spool")
	if w.get("in/p.jsonl") != goodLines(1) {
		t.Error("it replaced them")
	}
	w.want(exitOK, "submit", path, "--replace", "--bucket", "spool")
	if w.get("in/p.jsonl") != goodLines(2) {
		t.Error("--replace did not")
	}
}

func TestSubmitOfTheSameBytesRunsAgainOnlyAfterAFailureOrWithRerun(t *testing.T) {
	for name, c := range map[string]struct {
		status  string
		args    []string
		uploads int
	}{
		"after success":       {batch.Completed, nil, 1},
		"after a failure":     {batch.Expired, nil, 2},
		"success, with rerun": {batch.Completed, []string{"--rerun", "1"}, 2},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			path := w.file("p.jsonl", goodLines(2))
			first := strings.TrimSpace(w.want(exitOK, "submit", path, "--bucket", "spool"))
			w.end("in/p.jsonl", first, c.status, 1, 1)
			time.Sleep(time.Second)
			second := strings.TrimSpace(w.want(exitOK, append([]string{"submit", path, "--bucket", "spool"}, c.args...)...))
			if n := w.store.Writes("in/p.jsonl"); n != c.uploads || (first == second) != (n == 1) {
				t.Errorf("%s: %d uploads, want %d; batches %s, %s", name, n, c.uploads, first, second)
			}
		})
	}
}

// TestSubmitKnowsWhatRanBeforeAnotherRerun: another upload would run nothing, and the key would mean the old batch.
func TestSubmitKnowsWhatRanBeforeAnotherRerun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		const key = "in/p.jsonl"
		path := w.file("p.jsonl", goodLines(2))
		submit := func(wantUploaded bool, said string, args ...string) (id string) {
			t.Helper()
			time.Sleep(time.Second)
			stdout, stderr, code := w.spool(append([]string{"submit", path, "--json", "--bucket", "spool"}, args...)...)
			if code != exitOK {
				t.Fatalf("exit %d: %s", code, stderr)
			}
			got := document(t, stdout).(map[string]any)
			id = got["batch"].(string)
			if got["uploaded"] != wantUploaded || stderr != strings.ReplaceAll(said, "ID", id) {
				t.Errorf("submit %v: uploaded %v, said %q, want %v, %q", args, got["uploaded"], stderr, wantUploaded, said)
			}
			return id
		}
		first := submit(true, "")
		w.end(key, first, batch.Completed, 1, 1)
		second := submit(true, "", "--rerun", "2")
		if again := submit(false, "these bytes ran already as ID: completed; nothing runs again; --rerun 3 asks for another run\n"); again != first {
			t.Errorf("it is %s, want %s", again, first)
		}
		if stdout, _, _ := w.spool("status", key, "--json", "--bucket", "spool"); document(t, stdout).(map[string]any)["batch"] != second {
			t.Errorf("the key means %s, want %s", stdout, second)
		}
		w.want(exitLinesFailed, "submit", path, "--wait", "--bucket", "spool") // of the first
		w.end(key, second, batch.Expired, 1, 1)
		third := submit(true, "", "--rerun", "3")
		submit(true, "", "--rerun", "2") // it did not complete
		w.putJSON("out/p.jsonl/status.json", &batch.Status{Batch: third, State: "in_progress"})
		submit(false, "these bytes run already as ID: in_progress\n", "--rerun", "3")

		w.put(key, "other", nil)
		if again := submit(true, "these bytes ran already as ID: completed; nothing runs again; --rerun 1 asks for another run\n", "--replace"); again != first {
			t.Errorf("it is %s, want %s", again, first)
		}
	})
}

func TestSubmitValidatesFirst(t *testing.T) {
	w := newWorld(t)
	path := w.file("bad.jsonl", badFile)
	stdout, stderr, code := w.spool("submit", path, "--bucket", "spool")
	if code != exitRejected || stdout != "" || !strings.HasPrefix(stderr, path+":2: invalid_json: ") ||
		!strings.Contains(stderr, "spool: "+path+": 3 of 4 lines are bad\n") || strings.Contains(stderr, "in/bad.jsonl") {
		t.Errorf("exit %d: %s%s", code, stdout, stderr)
	}
	if w.store.Writes("in/bad.jsonl") != 0 {
		t.Error("a bad file was uploaded")
	}
	w.want(exitOK, "submit", path, "--on-invalid", "skip", "--bucket", "spool")
	w.want(exitOK, "submit", path, "in/unchecked.jsonl", "--no-check", "--bucket", "spool")
	w.want(exitUsage, "submit", path, "--on-invalid", "skp", "--bucket", "spool")
	w.want(exitUsage, "submit", path, "--order", "random", "--bucket", "spool")
	w.want(exitUsage, "submit", path, "--rerun", "01", "--bucket", "spool")
	for _, window := range []string{"9m", "721h", "soon"} {
		w.want(exitUsage, "submit", path, "--window", window, "--no-check", "--bucket", "spool")
	}
	for _, pair := range []string{"x", "=x", "ü=x", "a b=x", "a=ü", "sha256=0", "PutID=0"} {
		w.want(exitUsage, "submit", path, "--metadata", pair, "--no-check", "--bucket", "spool")
	}
	w.want(exitUsage, "submit", "-", "--bucket", "spool")
	w.want(exitUsage, "submit", path)
}

// TestSubmitAsksForAnotherKey: it is the key that the watcher will go by, whatever the file is called.
func TestSubmitAsksForAnotherKey(t *testing.T) {
	w := newWorld(t)
	for file, key := range map[string]string{"p.jsonl": "in/p.csv", "p.csv": ""} {
		path := w.file(file, goodLines(1))
		args := append([]string{"submit", "--bucket", "spool", path}, strings.Fields(key)...)
		_, stderr, code := w.spool(args...)
		want := "spool: " + path + `: unsupported_suffix: the key would be "in/p.csv"` + "\n  give a KEY that ends in .jsonl, .jsonl.gz, .jsonl.zst\n"
		if code != exitRejected || stderr != want {
			t.Errorf("spool %v: exit %d, %q, want %q", args, code, stderr, want)
		}
	}
}

func TestSubmitTakesStandardInputAndFolders(t *testing.T) {
	w := newWorld(t)
	w.stdin = goodLines(2)
	w.want(exitOK, "submit", "-", "s3://spool/in/x/y.jsonl")
	w.want(exitOK, "submit", w.file("p.jsonl", goodLines(2)), "in/x/", "--bucket", "spool")
	for _, key := range []string{"in/x/y.jsonl", "in/x/p.jsonl"} {
		if w.get(key) != goodLines(2) {
			t.Errorf("%s has other bytes", key)
		}
	}
}

func TestSubmitAndWaitEndsByTheOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		go func() {
			time.Sleep(time.Minute)
			in, err := w.store.Head(t.Context(), "in/p.jsonl")
			if err != nil {
				t.Error(err)
				return
			}
			w.end("in/p.jsonl", uploadID(bucketName, in, 0), batch.Expired, 1, 1)
		}()
		w.want(exitExpired, "submit", w.file("p.jsonl", goodLines(2)), "--wait", "--bucket", "spool")
	})
}

func TestRetrySubmitsTheFailedLinesUnchanged(t *testing.T) {
	odd := `{"custom_id":"b", "method":"POST","url":"/v1/completions","body":{"model":"m",  "prompt":"\u00e4"}}` + "\r\n"
	text := goodLine("a") + "\n" + odd + goodLine("c") + goodLine("d")
	want := strings.TrimSuffix(odd, "\r\n") + "\n" + goodLine("d")
	for _, from := range []string{"input", "pieces"} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			in := w.put("in/x/p.jsonl.gz", gzipped(t, text), map[string]string{"pool": "big", "order": "longest", "window": "6h", "on-invalid": "skip"})
			id := uploadID(bucketName, in, 0)
			w.endWithErrors(in.Key, id, errorLine(id, 3, 500), errorLine(id, 4, 0), errorLine(id, 5, 500))
			w.stage(in.Key, in.ETag, id, text)
			if from == "pieces" {
				w.put(in.Key, "other", nil)
			}
			target := map[string]string{"input": in.Key, "pieces": id}[from]
			for _, uploaded := range []bool{true, false} { // the second finds the first
				got := document(t, w.want(exitOK, "retry", target, "--json", "--bucket", "spool")).(map[string]any)
				if got["input"] != "in/x/p.retry-1.jsonl" || got["lines"] != 2.0 || got["uploaded"] != uploaded {
					t.Errorf("from %s: %v", from, got)
				}
			}
			if diff := cmp.Diff(want, w.get("in/x/p.retry-1.jsonl")); diff != "" {
				t.Errorf("from %s: %s", from, diff)
			}
			obj, err := w.store.Head(t.Context(), "in/x/p.retry-1.jsonl")
			if err != nil || obj.Metadata["pool"] != "big" || obj.Metadata["window"] != "6h" || obj.Metadata["order"] != "longest" || obj.Metadata["on-invalid"] != "" {
				t.Errorf("from %s: %v %v", from, obj.Metadata, err)
			}
		})
	}
}

func TestRetrySaysWhatItLeavesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for n, want := range map[int64]string{
			1: "1 line that validation refused is left out: mend it first\nno lines to retry\n",
			2: "2 lines that validation refused are left out: mend them first\nno lines to retry\n",
		} {
			key := fmt.Sprintf("in/%d.jsonl", n)
			id := w.upload(key, 3, nil)
			var lines []string
			for line := range n {
				lines = append(lines, errorLine(id, line+1, 0))
			}
			w.endWithErrors(key, id, lines...)
			if _, stderr, code := w.spool("retry", key, "--bucket", "spool"); code != exitOK || stderr != want {
				t.Errorf("exit %d: %q, want %q", code, stderr, want)
			}
		}
	})
}

func TestRetryTakesTheNextFreeName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		id := w.upload("in/p.jsonl", 3, nil)
		w.end("in/p.jsonl", id, batch.Cancelled, 2, 1)
		w.put("in/p.retry-1.jsonl", "other", nil)
		got := document(t, w.want(exitOK, "retry", "in/p.jsonl", "--json", "--bucket", "spool")).(map[string]any)
		if got["input"] != "in/p.retry-2.jsonl" || w.get("in/p.retry-2.jsonl") != goodLine("c") {
			t.Errorf("%v", got)
		}
	})
}

func TestRetryOfWhatCannotBeRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		id := w.upload("in/p.jsonl", 3, nil)
		w.want(exitInternal, "retry", "in/p.jsonl", "--bucket", "spool") // it has not ended
		w.end("in/p.jsonl", id, batch.Completed, 2, 1)
		w.putJSON("out/p.jsonl/status.json", &batch.Status{Batch: id})
		if err := w.store.Delete(t.Context(), "in/p.jsonl"); err != nil {
			t.Fatal(err)
		}
		w.want(exitNoInput, "retry", "in/p.jsonl", "--bucket", "spool") // neither input nor pieces
		w.reject("in/r.jsonl", w.upload("in/r.jsonl", 1, nil), batch.BatchError{Code: "empty_file"})
		w.want(exitRejected, "retry", "in/r.jsonl", "--bucket", "spool")
		w.end("in/ok.jsonl", w.upload("in/ok.jsonl", 2, nil), batch.Completed, 2, 0)
		if got := w.want(exitOK, "retry", "in/ok.jsonl", "--bucket", "spool"); got != "" {
			t.Errorf("nothing failed, but it printed %q", got)
		}
	})
}

// errorLine is a line of errors.jsonl; status 0 is one that validation refused.
func errorLine(id string, line int64, status int) string {
	a := batch.Answer{Batch: id, Line: line, CustomID: "x", Status: status, Body: []byte(`{"error":"x"}`)}
	if status == 0 {
		a.Code, a.Message = batch.CodeInvalidRequest, "bad"
	}
	return string(a.AppendLine(nil)) + "\n"
}

// endWithErrors ends a batch with these lines in errors.jsonl.
func (w *world) endWithErrors(key, id string, lines ...string) {
	w.t.Helper()
	o := w.end(key, id, batch.Completed, 1, int64(len(lines)))
	w.put(*o.ErrorFileID, strings.Join(lines, ""), nil)
}

// stage stores plan and piece of a file, two lines a chunk.
func (w *world) stage(key, etag, id, text string) {
	w.t.Helper()
	plan := batch.Plan{V: 1, Batch: id, Input: batch.Input{Key: key, ETag: etag}, Pool: "big", Order: "longest", Window: "6h", Folder: "f", Shards: []batch.Shard{{}}}
	var piece, frame strings.Builder
	var chunk batch.PlanChunk
	cut := func() {
		z := zstded(w.t, frame.String())
		chunk.Offset, chunk.Size = int64(piece.Len()), int64(len(z))
		piece.WriteString(z)
		frame.Reset()
		plan.Shards[0].Chunks = append(plan.Shards[0].Chunks, chunk)
		chunk = batch.PlanChunk{}
	}
	number := int64(0)
	for line := range strings.Lines(text) {
		number++
		line = strings.TrimRight(line, "\r\n")
		if line == "" {
			continue
		}
		if chunk.Lines == 0 {
			chunk.FirstLine = number
		}
		chunk.Lines++
		fmt.Fprintf(&frame, "%d\t%s\n", number, line)
		if chunk.Lines == 2 {
			cut()
		}
	}
	if chunk.Lines > 0 {
		cut()
	}
	w.put(batch.PieceKey(id, "f", 0), piece.String(), nil)
	w.putJSON(batch.PlanKey(id), plan)
}
