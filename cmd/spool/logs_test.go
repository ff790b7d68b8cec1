package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"spool/storage/batch"
)

// logLineAt makes a line; more is added to the object.
func logLineAt(at time.Time, instance string, seq int, level, message, more string) string {
	if more != "" {
		more = "," + more
	}
	if message != "" {
		message = fmt.Sprintf(`"message":%q,`, message)
	}
	return fmt.Sprintf(`{"level":%q,"timestamp":%q,"logger":"runner",%s"event":"e","batch_id":"b","seq":%d,"instance":%q%s}`+"\n",
		level, at.UTC().Format("2006-01-02T15:04:05.000000000Z"), message, seq, instance, more)
}

// logs stores lines under a name in the folder of a batch's logs.
func (w *world) logs(key, id, name string, lines ...string) {
	w.t.Helper()
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	z.Write([]byte(strings.Join(lines, "")))
	if err := z.Close(); err != nil {
		w.t.Fatal(err)
	}
	w.put(batch.LogDir(key, id)+name, buf.String(), nil)
}

func logPart(instance string, first, last int64) string {
	return instance + "/" + batch.LogPart(first, last)
}

// last words of each line of a text.
func lastWords(text string) []string {
	var list []string
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		list = append(list, words[len(words)-1])
	}
	return list
}

func TestLogsAreMergedByTimeAndFiltered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		const key = "in/x.jsonl"
		id := w.upload(key, 1, nil)
		now := time.Now()
		at := func(minutes int) time.Time { return now.Add(time.Duration(minutes-60) * time.Minute) }
		w.logs(key, id, logPart("r-1", 1, 2), logLineAt(at(10), "r-1", 1, "info", "r1", ""), logLineAt(at(30), "r-1", 2, "warn", "r2", `"request_id":"b-7"`))
		w.logs(key, id, logPart("w-1", 1, 2), logLineAt(at(5), "w-1", 1, "debug", "w1", ""), logLineAt(at(40), "w-1", 2, "error", "w2", `"n":1`))
		w.logs(key, id, "all-1.ndjson.gz", logLineAt(at(10), "r-1", 1, "info", "r1", ""), logLineAt(at(20), "r-2", 1, "info", "x1", ""))
		tests := []struct {
			args []string
			want []string
		}{
			{nil, []string{"w1", "r1", "x1", "request_id=b-7", "n=1"}},
			{[]string{"--level", "info"}, []string{"r1", "x1", "request_id=b-7", "n=1"}},
			{[]string{"--level", "error"}, []string{"n=1"}},
			{[]string{"--request", "b-7"}, []string{"request_id=b-7"}},
			{[]string{"--request", "b-8"}, nil},
			{[]string{"--since", "35m"}, []string{"request_id=b-7", "n=1"}},
			{[]string{"--since", at(20).UTC().Format(time.RFC3339)}, []string{"x1", "request_id=b-7", "n=1"}},
			{[]string{"--since", "1999-01-01", "--level", "warn"}, []string{"request_id=b-7", "n=1"}},
		}
		for _, tt := range tests {
			stdout, stderr, code := w.spool(slices.Concat([]string{"logs", key, "--bucket", bucketName}, tt.args)...)
			if diff := cmp.Diff(tt.want, lastWords(stdout)); code != exitOK || stderr != "" || diff != "" {
				t.Errorf("%q: exit %d, %q (-want +got):\n%s", tt.args, code, stderr, diff)
			}
		}
		if got := w.want(exitOK, "logs", key, "--bucket", bucketName, "--json", "--level", "error"); got != logLineAt(at(40), "w-1", 2, "error", "w2", `"n":1`) {
			t.Errorf("--json: %s", got)
		}
		got := w.want(exitOK, "logs", key, "--bucket", bucketName, "--level", "error")
		if want := at(40).UTC().Format("2006-01-02T15:04:05.000Z") + "  ERROR  w-1  runner  w2  n=1\n"; got != want {
			t.Errorf("a line for people: %q, want %q", got, want)
		}
	})
}

func TestLogsSayWhichLinesAreLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		const key = "in/x.jsonl"
		id := w.upload(key, 1, nil)
		now := time.Now()
		line := func(instance string, seq int) string { return logLineAt(now, instance, seq, "info", "m", "") }
		w.logs(key, id, logPart("r-1", 1, 2), line("r-1", 1), line("r-1", 2))
		w.logs(key, id, logPart("r-1", 4, 9), line("r-1", 4), line("r-1", 9))
		w.logs(key, id, logPart("r-2", 2, 2), line("r-2", 2))
		w.logs(key, id, logPart("r-3", 1, 1), line("r-3", 1))
		w.logs(key, id, logPart("r-4", 1, 1), "no JSON\n", line("r-4", 1))
		w.put(batch.LogDir(key, id)+logPart("r-5", 1, 1), "this is not what gzip writes", nil)
		w.put(batch.LogDir(key, id)+"r-5/metrics.prom", "x", nil)
		dir := batch.LogDir(key, id)
		want := []string{
			dir + logPart("r-4", 1, 1) + " has 1 lines that are none of spool's",
			dir + logPart("r-5", 1, 1) + " cannot be read: gzip: invalid header",
			"r-1: line 3 lost", "r-1: lines 5 to 8 lost", "r-2: line 1 lost",
		}
		for _, filter := range [][]string{nil, {"--level", "error"}} { // of all lines, whatever is shown
			_, stderr, code := w.spool(slices.Concat([]string{"logs", key, "--bucket", bucketName}, filter)...)
			got := strings.Split(strings.TrimSpace(stderr), "\n")
			slices.Sort(got)
			if diff := cmp.Diff(slices.Sorted(slices.Values(want)), got); code != exitOK || diff != "" {
				t.Errorf("exit %d (-want +got):\n%s", code, diff)
			}
		}
		time.Sleep(2 * time.Hour) // parts that are too old for --since are not read, and not lost
		stdout, stderr, _ := w.spool("logs", key, "--bucket", bucketName, "--since", "1h")
		if stdout != "" || strings.Contains(stderr, "r-1: lines 5 to 8") || !strings.Contains(stderr, "r-1: line 3 lost") {
			t.Errorf("--since: %q, %q", stdout, stderr)
		}
	})
}

func TestLogsFollowToTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		const key = "in/x.jsonl"
		id := w.upload(key, 1, nil)
		began := time.Now()
		type result struct {
			stdout, stderr string
			code           exitCode
		}
		done := make(chan result)
		go func() {
			var r result
			r.stdout, r.stderr, r.code = w.spool("logs", key, "--bucket", bucketName, "-f")
			done <- r
		}()
		line := func(seq int, message string) string {
			return logLineAt(time.Now(), "r-1", seq, "info", message, "")
		}
		var all []string
		for seq, message := range []string{"one", "two", "three"} {
			time.Sleep(10 * time.Second)
			all = append(all, line(seq+1, message))
			w.logs(key, id, logPart("r-1", int64(seq)+1, int64(seq)+1), all[seq])
		}
		w.end(key, id, batch.Completed, 1, 0)
		time.Sleep(10 * time.Second)
		// The watcher joins the parts meanwhile, and the last line comes.
		w.logs(key, id, "all-1.ndjson.gz", all...)
		for seq := range all {
			if err := w.store.Delete(t.Context(), batch.LogDir(key, id)+logPart("r-1", int64(seq)+1, int64(seq)+1)); err != nil {
				t.Fatal(err)
			}
		}
		w.logs(key, id, logPart("r-1", 4, 4), line(4, "four"))
		r := <-done
		if diff := cmp.Diff([]string{"one", "two", "three", "four"}, lastWords(r.stdout)); r.code != exitOK || r.stderr != "" || diff != "" {
			t.Errorf("exit %d, %q (-want +got):\n%s", r.code, r.stderr, diff)
		}
		if took := time.Since(began); took < 46*time.Second || took > 50*time.Second {
			t.Errorf("followed for %v, want to 15 s after the end at 31 s", took)
		}
	})
}

// A part that is joined with others between the listing and its turn is found in what it is in now.
func TestLogsThatAreJoinedMeanwhileAreFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		const key = "in/x.jsonl"
		id := w.upload(key, 1, nil)
		one, two := logLineAt(time.Now(), "r-1", 1, "info", "one", ""), logLineAt(time.Now(), "r-1", 2, "info", "two", "")
		gone := batch.LogDir(key, id) + logPart("r-1", 1, 1)
		w.logs(key, id, logPart("r-1", 1, 1), one)
		joined := false
		w.denied = func(op, k string) bool { // a user may not list all, and so is told 403
			if op != "get" || k != gone {
				return false
			}
			if !joined {
				joined = true
				w.logs(key, id, "all-1.ndjson.gz", one, two)
				if err := w.store.Delete(context.Background(), gone); err != nil {
					t.Error(err)
				}
			}
			return true
		}
		stdout, stderr, code := w.spool("logs", key, "--bucket", bucketName)
		if diff := cmp.Diff([]string{"one", "two"}, lastWords(stdout)); !joined || code != exitOK || stderr != "" || diff != "" {
			t.Errorf("exit %d, %q (-want +got):\n%s", code, stderr, diff)
		}
	})
}

func TestLogsOfNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		id := w.upload("in/x.jsonl", 1, nil)
		stdout, stderr, code := w.spool("logs", "in/x.jsonl", "--bucket", bucketName)
		if stdout != "" || stderr != "no logs of "+id+" yet\n" || code != exitOK {
			t.Errorf("%q, %q, exit %d", stdout, stderr, code)
		}
		w.want(exitNoInput, "logs", "in/absent.jsonl", "--bucket", bucketName)
		for _, args := range [][]string{{"--level", "loud"}, {"--level", "fatal"}, {"--since", "-1h"}, {"--since", "soon"}} {
			w.want(exitUsage, slices.Concat([]string{"logs", "in/x.jsonl", "--bucket", bucketName}, args)...)
		}
	})
}

// What a line holds does nothing to the terminal.
func TestLogLinesForPeopleHaveNoControlCharacters(t *testing.T) {
	l, err := parseLogLine([]byte(logLineAt(time.Unix(0, 0), "r-1", 1, "info", "", `"message":"a\u001b[2J","text":"x\u001b]0;y","sentence":"two words","list":[1,"\u0007"],"empty":"","runner_id":"r-1"`)))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{`text="x\x1b]0;y"`, `sentence="two words"`, `list=[1,"\u0007"]`}, l.rest()); diff != "" {
		t.Error(diff)
	}
	if got := printable(l.Message); got != `"a\x1b[2J"` {
		t.Errorf("message %s", got)
	}
}

func TestNumbersKnowTheirGaps(t *testing.T) {
	var s numbers
	for _, n := range []int64{3, 5, 1, 4, 9} {
		if !s.add(n) {
			t.Errorf("%d is not new", n)
		}
	}
	for _, n := range []int64{1, 3, 4, 5, 9} {
		if s.add(n) {
			t.Errorf("%d is new", n)
		}
	}
	if diff := cmp.Diff([]span{{2, 2}, {6, 8}}, s.gaps(), cmp.AllowUnexported(span{})); diff != "" {
		t.Error(diff)
	}
	s.add(2)
	if len(s.spans) != 2 {
		t.Errorf("spans %v, want 1 to 5 and 9", s.spans)
	}
}
