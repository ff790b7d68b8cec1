package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"spool/storage/batch"
)

// document reads the one JSON document of --json.
func document(t *testing.T, text string) any {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("not one JSON document: %v\n%s", err, text)
	}
	return v
}

func wantJSON(t *testing.T, got, want string) {
	t.Helper()
	if diff := cmp.Diff(document(t, want), document(t, got)); diff != "" {
		t.Errorf("%s\n%s", diff, got)
	}
}

// epoch is when synctest's clock starts.
const epoch = 946684800

func TestStatusOfEveryKindOfBatch(t *testing.T) {
	const key = "in/a.jsonl"
	for name, c := range map[string]struct {
		arrange func(w *world, id string)
		want    string // with %s for the id
	}{
		"not picked up": {func(*world, string) {},
			`{"state":"waiting","request_counts":{"total":0,"completed":0,"failed":0},"eta_seconds":null,"runners":0,
			"output_file_id":null,"error_file_id":null,"created_at":null,"ended_at":null,"note":"no watcher has picked it up yet","errors":[]}`},
		"running": {func(w *world, id string) {
			eta := int64(95)
			w.putJSON("out/a.jsonl/status.json", &batch.Status{Batch: id, Input: key, State: "in_progress", ETASeconds: &eta, Runners: 2,
				Counts: batch.RequestCounts{Total: 3, Completed: 1}, CreatedAt: epoch})
		}, `{"state":"in_progress","request_counts":{"total":3,"completed":1,"failed":0},"eta_seconds":95,"runners":2,
			"output_file_id":null,"error_file_id":null,"created_at":946684800,"ended_at":null,"note":"","errors":[]}`},
		"another batch's status": {func(w *world, _ string) {
			w.putJSON("out/a.jsonl/status.json", &batch.Status{Batch: "bother", State: "completed"})
		}, `{"state":"waiting","request_counts":{"total":0,"completed":0,"failed":0},"eta_seconds":null,"runners":0,
			"output_file_id":null,"error_file_id":null,"created_at":null,"ended_at":null,"note":"no watcher has picked it up yet","errors":[]}`},
		"completed": {func(w *world, id string) { w.end(key, id, batch.Completed, 2, 1) },
			`{"state":"completed","request_counts":{"total":3,"completed":2,"failed":1},"eta_seconds":null,"runners":0,
			"output_file_id":"out/a.jsonl/%[1]s/output.jsonl","error_file_id":"out/a.jsonl/%[1]s/errors.jsonl",
			"created_at":946684791,"ended_at":946684801,"note":"","errors":[]}`},
		"rejected": {func(w *world, id string) {
			line := int64(2)
			w.reject(key, id, batch.BatchError{Code: "invalid_json", Message: "bad", Line: &line})
		}, `{"state":"failed","request_counts":{"total":0,"completed":0,"failed":0},"eta_seconds":null,"runners":0,
			"output_file_id":null,"error_file_id":null,"created_at":946684801,"ended_at":946684801,"note":"",
			"errors":[{"code":"invalid_json","message":"bad","param":null,"line":2}]}`},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			id := w.upload(key, 3, nil)
			c.arrange(w, id)
			want := c.want
			if strings.Contains(want, "%") {
				want = fmt.Sprintf(want, id)
			}
			want = fmt.Sprintf(`{"batch":%q,"input":%q,"output":"out/a.jsonl/%s/",`, id, key, id) + want[1:]
			got := w.want(exitOK, "status", "s3://spool/"+key, "--json")
			if diff := cmp.Diff(document(t, want), document(t, got)); diff != "" {
				t.Errorf("%s: %s", name, diff)
			}
		})
	}
}

func TestStatusForPeople(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		id := w.upload("in/a.jsonl", 3, nil)
		w.end("in/a.jsonl", id, batch.Completed, 2, 1)
		want := `batch     ` + id + `
input     in/a.jsonl
state     completed
lines     3, 2 completed, 1 failed
created   1999-12-31T23:59:51Z
ended     2000-01-01T00:00:01Z
results   s3://spool/out/a.jsonl/` + id + "/\n"
		if diff := cmp.Diff(want, w.want(exitOK, "status", "in/a.jsonl", "--bucket", "spool")); diff != "" {
			t.Error(diff)
		}
	})
}

func TestStatusWarnsOfMixedEnvironments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		id := w.upload("in/a.jsonl", 3, nil)
		w.end("in/a.jsonl", id, batch.Completed, 3, 0)
		w.putJSON(batch.OutDir("in/a.jsonl", id)+batch.SummaryName, &batch.Summary{Mixed: []batch.Difference{{Field: "version"}, {Field: "args"}}})
		const want = "the runners' engines differed in version, args, so that the same request may have another answer; see report.html"
		if got := w.want(exitOK, "status", "in/a.jsonl", "--bucket", "spool"); !strings.Contains(got, "\nnote      "+want+"\n") {
			t.Errorf("no warning in\n%s", got)
		}
		got := document(t, w.want(exitOK, "status", "in/a.jsonl", "--bucket", "spool", "--json")).(map[string]any)
		if got["note"] != want {
			t.Errorf("note %q", got["note"])
		}
		w.put(batch.OutDir("in/a.jsonl", id)+batch.SummaryName, "torn", nil)
		if got := w.want(exitOK, "status", "in/a.jsonl", "--bucket", "spool"); strings.Contains(got, "note") {
			t.Errorf("a summary that cannot be read is told:\n%s", got)
		}
	})
}

// TestNewestBatchOfAnInput walks through the rule of generations with what a user may read.
func TestNewestBatchOfAnInput(t *testing.T) {
	const key = "in/a.jsonl"
	state := func(w *world, target string) string {
		v := document(w.t, w.want(exitOK, "status", target, "--json", "--bucket", bucketName)).(map[string]any)
		return fmt.Sprint(v["batch"], " ", v["state"])
	}
	expect := func(w *world, target, want string) {
		w.t.Helper()
		if got := state(w, target); got != want {
			w.t.Errorf("%s is %s, want %s", target, got, want)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.denied = func(_, key string) bool { return w.store.Writes(key) == 0 } // as AWS answers for what is absent
		first := w.upload(key, 3, nil)
		w.end(key, first, batch.Expired, 1, 2)
		expect(w, key, first+" expired")

		time.Sleep(time.Second)
		again := w.put(key, goodLines(3), nil)
		second := uploadID(bucketName, again, 1)
		expect(w, key, second+" waiting")
		w.end(key, second, batch.Completed, 3, 0)
		w.upload(key, 3, nil)
		expect(w, key, second+" completed") // after a success it does not run again

		third := w.upload(key, 3, map[string]string{"rerun": "1"})
		expect(w, key, third+" waiting")
		odd := w.put(key, goodLines(3), map[string]string{"rerun": "01"})
		expect(w, key, batch.Identity{Bucket: bucketName, Key: key, ETag: odd.ETag, Size: odd.Size, Rerun: -1}.ID()+" waiting")

		w.putJSON(batch.PlanKey(first), &batch.Plan{V: 1, Batch: first, Input: batch.Input{Key: key, ETag: again.ETag}})
		expect(w, first, first+" expired")
		if err := w.store.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
		w.putJSON("out/a.jsonl/status.json", &batch.Status{Batch: second})
		expect(w, key, second+" completed")
		w.want(exitNoInput, "status", "in/none.jsonl", "--bucket", bucketName)
		w.want(exitNoInput, "status", strings.Replace(first, first[:6], "baaaaa", 1), "--bucket", bucketName)
	})
}

func TestListShowsInputsWithTheirStates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.end("in/a/one.jsonl", w.upload("in/a/one.jsonl", 2, nil), batch.Completed, 2, 0)
		w.upload("in/a/two.jsonl", 3, nil)
		w.upload("in/b.jsonl", 4, nil)
		for _, none := range []string{"in/a/two.jsonl.cancel", "in/a/.hidden", "in/a/folder/"} {
			w.put(none, "", nil)
		}
		want := "STATE      LINES  DONE  FAILED  CREATED               INPUT\n" +
			"completed  2      2     0       1999-12-31T23:59:51Z  in/a/one.jsonl\n" +
			"waiting    0      0     0       -                     in/a/two.jsonl\n"
		for _, prefix := range []string{"a/", "in/a/", "s3://spool/in/a/"} {
			if diff := cmp.Diff(want, w.want(exitOK, "list", prefix, "--bucket", "spool")); diff != "" {
				t.Errorf("%s: %s", prefix, diff)
			}
		}
		got := document(t, w.want(exitOK, "list", "--json", "--state", "waiting", "--bucket", "spool")).(map[string]any)["batches"].([]any)
		if len(got) != 2 || got[0].(map[string]any)["input"] != "in/a/two.jsonl" || got[1].(map[string]any)["input"] != "in/b.jsonl" {
			t.Errorf("waiting: %v", got)
		}
		_, stderr, _ := w.spool("list", "--limit", "2", "--bucket", "spool")
		if !strings.Contains(stderr, "only the first 2 inputs") {
			t.Errorf("a cut list is not called one: %q", stderr)
		}
		wantJSON(t, w.want(exitOK, "list", "none/", "--json", "--bucket", "spool"), `{"batches":[]}`)
	})
}

func TestResultsAreStreamedOrFetched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		id := w.upload("in/a.jsonl", 3, nil)
		w.end("in/a.jsonl", id, batch.Completed, 2, 1)
		if got := w.want(exitOK, "results", "in/a.jsonl", "--bucket", "spool"); got != "{}\n{}\n" {
			t.Errorf("output: %q", got)
		}
		dir := filepath.Join(t.TempDir(), "new")
		listed := w.want(exitOK, "results", "in/a.jsonl", "-o", dir, "--bucket", "spool")
		want := ""
		for _, name := range []string{"batch.json", "errors.jsonl", "output.jsonl"} {
			want += filepath.Join(dir, name) + "\n"
			text, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil || string(text) != w.get("out/a.jsonl/"+id+"/"+name) {
				t.Errorf("%s: %v, %q", name, err, text)
			}
		}
		if listed != want {
			t.Errorf("listed %q, want %q", listed, want)
		}
		w.reject("in/b.jsonl", w.upload("in/b.jsonl", 1, nil), batch.BatchError{Code: "empty_file"})
		w.want(exitRejected, "results", "in/b.jsonl", "--bucket", "spool")
	})
}

// TestFetchedResultsAreOfOneBatch: errors.jsonl of an earlier batch beside a new output.jsonl would be taken for the new one's.
func TestFetchedResultsAreOfOneBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		bad, good := w.upload("in/a.jsonl", 3, nil), w.upload("in/b.jsonl", 3, nil)
		w.end("in/a.jsonl", bad, batch.Completed, 2, 1)
		w.end("in/b.jsonl", good, batch.Completed, 3, 0)
		dir := t.TempDir()
		write := func(name, text string) {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		fetch := func(key, said string, files ...string) {
			t.Helper()
			_, stderr, code := w.spool("results", key, "-o", dir, "--bucket", "spool")
			if code != exitOK || stderr != said {
				t.Errorf("results %s: exit %d, said %q, want %q", key, code, stderr, said)
			}
			got, err := filepath.Glob(filepath.Join(dir, "*"))
			for i := range got {
				got[i] = filepath.Base(got[i])
			}
			if diff := cmp.Diff(files, got); diff != "" || err != nil {
				t.Errorf("results %s: %v %s", key, err, diff)
			}
		}
		write("errors.jsonl", "mine")
		write("notes.txt", "mine")
		fetch("in/b.jsonl", "", "batch.json", "errors.jsonl", "notes.txt", "output.jsonl") // not spool's folder yet
		write("batch.json", `{"id":"bother"}`)
		fetch("in/b.jsonl", "", "batch.json", "errors.jsonl", "notes.txt", "output.jsonl")
		fetch("in/b.jsonl", "", "batch.json", "errors.jsonl", "notes.txt", "output.jsonl") // the batch had none: it is the user's
		fetch("in/a.jsonl", "", "batch.json", "errors.jsonl", "notes.txt", "output.jsonl")
		write("invalid.jsonl", "mine")
		fetch("in/a.jsonl", "", "batch.json", "errors.jsonl", "invalid.jsonl", "notes.txt", "output.jsonl")
		fetch("in/b.jsonl", "removed "+filepath.Join(dir, "errors.jsonl")+": it was of batch "+bad+"\n",
			"batch.json", "invalid.jsonl", "notes.txt", "output.jsonl")
		write("batch.json", `{"id":"`+bad+`","errors":{"data":[{"line":2,"code":"x","message":"y"}]}}`)
		fetch("in/b.jsonl", "removed "+filepath.Join(dir, "invalid.jsonl")+": it was of batch "+bad+"\n", "batch.json", "notes.txt", "output.jsonl")
	})
}

func TestResultsThatAreNotAllSaySo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		id := w.upload("in/a.jsonl", 2, nil)
		w.end("in/a.jsonl", id, batch.Completed, 0, 2)
		w.end("in/b.jsonl", w.upload("in/b.jsonl", 2, nil), batch.Completed, 2, 0)
		for key, want := range map[string]string{"in/b.jsonl": "", "in/a.jsonl": "in/a.jsonl: completed, 2 of 2 lines done, 2 failed\n" +
			"  see s3://spool/out/a.jsonl/" + id + "/errors.jsonl; spool retry in/a.jsonl asks for the failed lines again\n"} {
			if _, stderr, code := w.spool("results", key, "--bucket", "spool"); code != exitOK || stderr != want {
				t.Errorf("results %s: exit %d, said %q, want %q", key, code, stderr, want)
			}
		}
	})
}

func TestCancelPutsTheWishBesideTheInput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		id := w.upload("in/a.jsonl", 3, nil)
		if got := w.want(exitOK, "cancel", "in/a.jsonl", "--bucket", "spool"); got != id+"\n" {
			t.Errorf("printed %q, want the batch", got)
		}
		if got := w.get("in/a.jsonl.cancel"); got != "" {
			t.Errorf("the wish is %q", got)
		}
		w.end("in/b.jsonl", w.upload("in/b.jsonl", 1, nil), batch.Completed, 1, 0)
		doc := document(t, w.want(exitOK, "cancel", "in/b.jsonl", "--json", "--bucket", "spool")).(map[string]any)
		if doc["cancel_asked"] != false || w.store.Writes("in/b.jsonl.cancel") != 0 {
			t.Errorf("a batch that has ended was cancelled: %v", doc)
		}
		w.want(exitNoInput, "cancel", "in/none.jsonl", "--bucket", "spool")
	})
}

func TestWaitFollowsTheBatchThatItPinned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		const key = "in/a.jsonl"
		var id string
		go func() {
			time.Sleep(45 * time.Second) // it appears within 60 s
			id = w.upload(key, 3, nil)
			time.Sleep(time.Minute)
			w.putJSON("out/a.jsonl/status.json", &batch.Status{Batch: id, State: "in_progress", Counts: batch.RequestCounts{Total: 3, Completed: 1}})
			time.Sleep(5 * time.Minute)
			w.upload(key, 5, nil) // replaced: another batch
			time.Sleep(5 * time.Minute)
			w.end(key, id, batch.Completed, 2, 1)
		}()
		stdout, stderr, code := w.spool("wait", key, "--json", "--bucket", "spool")
		if code != exitLinesFailed {
			t.Fatalf("exit %d: %s", code, stderr)
		}
		got := document(t, stdout).(map[string]any)["batches"].([]any)[0].(map[string]any)
		if got["batch"] != id || got["state"] != "completed" {
			t.Errorf("waited for %v, want %s", got, id)
		}
		want := key + ": not there yet; waiting 1m0s for it\n" +
			key + ": waiting (no watcher has picked it up yet)\n" +
			key + ": in_progress, 1 of 3 lines done\n" +
			"spool: " + key + ": completed, 3 of 3 lines done, 1 failed\n" +
			"  see s3://spool/out/a.jsonl/" + id + "/errors.jsonl; spool retry " + key + " asks for the failed lines again\n"
		if diff := cmp.Diff(want, stderr); diff != "" {
			t.Error(diff)
		}
	})
}

func TestWaitThatTimesOutTellsThatNothingIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, stderr, code := newWorld(t).spool("wait", "in/a.jsonl", "--timeout", "5s", "--bucket", "spool")
		want := "in/a.jsonl: not there yet; waiting 1m0s for it\n" +
			"spool: in/a.jsonl: not there, and so not ended within 5s\n  spool list shows what is there\n"
		if code != exitTimeout || stderr != want {
			t.Errorf("exit %d: %q, want %q", code, stderr, want)
		}
	})
}

func TestWaitSaysWhenNothingPicksItUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.upload("in/a.jsonl", 3, nil)
		_, stderr, _ := w.spool("wait", "in/a.jsonl", "--timeout", "119s", "--bucket", "spool")
		if strings.Contains(stderr, "nothing has picked it up") {
			t.Errorf("said before 2 min: %s", stderr)
		}
		_, stderr, code := w.spool("wait", "in/a.jsonl", "--timeout", "20m", "--bucket", "spool")
		if strings.Count(stderr, "nothing has picked it up for 2m0s") != 1 || code != exitTimeout ||
			!strings.Contains(stderr, "spool: in/a.jsonl: not ended within 20m0s\n") {
			t.Errorf("exit %d: %s", code, stderr)
		}
	})
}

func TestWaitEndsForAnInputThatWasReplacedBeforeItWasPickedUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.upload("in/a.jsonl", 3, nil)
		go func() {
			time.Sleep(time.Minute)
			w.upload("in/a.jsonl", 4, nil)
		}()
		_, stderr, code := w.spool("wait", "in/a.jsonl", "--bucket", "spool")
		if code != exitNoInput || !strings.Contains(stderr, "was replaced or deleted before its batch") {
			t.Errorf("exit %d: %s", code, stderr)
		}
	})
}

func TestWaitOfSeveralEndsWithTheFirstCodeThatIsNotZero(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.end("in/a.jsonl", w.upload("in/a.jsonl", 1, nil), batch.Completed, 1, 0)
		w.end("in/b.jsonl", w.upload("in/b.jsonl", 2, nil), batch.Cancelled, 1, 1)
		w.end("in/c.jsonl", w.upload("in/c.jsonl", 2, nil), batch.Expired, 1, 1)
		stdout := w.want(exitCancelled, "wait", "in/a.jsonl", "s3://spool/in/b.jsonl", "in/c.jsonl")
		var states []string
		for line := range strings.Lines(stdout) {
			states = append(states, strings.Join(strings.Fields(line)[:2], " "))
		}
		if diff := cmp.Diff([]string{"completed in/a.jsonl", "cancelled in/b.jsonl", "expired in/c.jsonl"}, states); diff != "" {
			t.Error(diff)
		}
		w.want(exitUsage, "wait", "s3://spool/in/b.jsonl", "s3://other/in/c.jsonl")
	})
}

func TestWaitEndsWhenItIsInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.upload("in/a.jsonl", 1, nil)
		w.upload("in/b.jsonl", 1, nil)
		w.end("in/c.jsonl", w.upload("in/c.jsonl", 2, nil), batch.Expired, 1, 1)
		file := w.file("a.jsonl", goodLines(1))
		goesOn := "spool: interrupted; the batch goes on\n  spool wait in/a.jsonl, or spool cancel in/a.jsonl\n"
		for args, want := range map[string]string{
			"wait in/a.jsonl":            goesOn,
			"wait in/c.jsonl in/a.jsonl": goesOn,
			"submit " + file + " --wait": goesOn,
			"wait in/a.jsonl in/b.jsonl": "spool: interrupted; the batches go on\n  spool wait in/a.jsonl in/b.jsonl, or spool cancel KEY\n",
			"wait in/none.jsonl":         "spool: interrupted\n",
		} {
			ctx, interrupt := context.WithCancel(t.Context())
			time.AfterFunc(5*time.Second, interrupt)
			_, stderr, code := w.spoolIn(ctx, append(strings.Fields(args), "--bucket", "spool")...)
			if code != exitInterrupted || strings.Count(stderr, "interrupted") != 1 || !strings.HasSuffix(stderr, want) {
				t.Errorf("spool %s: exit %d: %q, want %q", args, code, stderr, want)
			}
		}
	})
}

func TestAnInterruptedWaitTellsWhatFailedBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.upload("in/a.jsonl", 1, nil)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		_, stderr, code := w.spoolIn(ctx, "wait", "in/none.jsonl", "in/a.jsonl", "--bucket", "spool")
		if code != exitInterrupted || !strings.Contains(stderr, "in/none.jsonl") || strings.Count(stderr, "interrupted") != 1 {
			t.Errorf("exit %d: %q, want that there is no such input, and the interruption", code, stderr)
		}
	})
}

func TestLogsEndWhenTheyAreInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.upload("in/a.jsonl", 1, nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		interrupted, interrupt := context.WithCancel(t.Context())
		context.AfterFunc(ctx, interrupt)
		_, stderr, code := w.spoolIn(interrupted, "logs", "in/a.jsonl", "-f", "--bucket", "spool")
		if want := "spool: interrupted\n"; code != exitInterrupted || stderr != want {
			t.Errorf("logs: exit %d: %q, want %q", code, stderr, want)
		}
	})
}
