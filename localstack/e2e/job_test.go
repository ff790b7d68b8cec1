package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"spool/runner/vllm/vllmsim"
	"spool/storage"
	"spool/storage/batch"
	"spool/storage/queue"
)

func TestTwoRunnersShareOneFile(t *testing.T) {
	s := newStack(t)
	lines := requests("two", 4000, 20)
	path := s.write("two.jsonl", lines...)
	e := s.engine("--slots", "64", "--time-scale", "0.25") // a shard, one of two, keeps a runner busy for 8 s
	a, b := s.runner(e, "--slots", "32", "--idle", "15s"), s.runner(e, "--slots", "32", "--idle", "15s")
	s.until("both runners are there", func() bool { return logs(a, "runner_started") && logs(b, "runner_started") })
	s.put(path, "in/two.jsonl", nil)
	done := s.wait("in/two.jsonl", 1)[0]
	wantRight(t, vllmsim.Config{}, []byte(strings.Join(lines, "\n")), s.lines(done.OutputFileID))
	for _, p := range []*process{a, b} {
		if code := p.ended(t); code != 0 {
			t.Errorf("an idle runner ended with %d", code)
		}
	}
	runners := 0
	for obj, err := range s.bucket.List(t.Context(), batch.RunnersPrefix(done.ID), "") {
		var r batch.Runner
		if err != nil || json.Unmarshal(s.get(obj.Key), &r) != nil {
			t.Fatal(obj.Key, err)
		}
		if r.OK > 0 {
			runners++
		}
	}
	if runners != 2 {
		t.Errorf("%d runners answered lines, want 2", runners)
	}
}

func TestRunnersKilledAtRandomMomentsLoseNothing(t *testing.T) {
	seed := time.Now().UnixNano()
	if v := os.Getenv("SPOOL_SEED"); v != "" {
		seed, _ = strconv.ParseInt(v, 10, 64)
	}
	t.Logf("SPOOL_SEED=%d", seed)
	random := rand.New(rand.NewPCG(uint64(seed), 0))
	s := newStack(t)
	const perKill = 1000 // lines, more than are answered in the time
	lines := requests("kill", perKill*(kills()+1), 200)
	s.put(s.write("kill.jsonl", lines...), "in/kill.jsonl", nil)
	e := s.engine("--slots", "32", "--time-scale", "0.2") // 25 lines a second: a chunk is open for 40 s
	var killed []time.Time
	for len(killed) < kills() {
		answered := e.count(vllmsim.Answered)
		r := s.runner(e, "--slots", "32", "--idle", "120s", "--lease-ttl", "9s")
		s.until("the runner works", func() bool { return e.count(vllmsim.Answered) > answered })
		<-time.After(life(random, len(killed)))
		r.kill()
		killed = append(killed, time.Now())
		s.sendAgain("in/kill.jsonl")
	}
	fast := s.engine("--time-scale", "0")
	s.runner(fast, "--idle", "120s", "--lease-ttl", "9s")
	done := s.wait("in/kill.jsonl", 1)[0]
	if done.Status != batch.Completed || done.RequestCounts.Completed != int64(len(lines)) {
		t.Fatalf("batch %+v", done)
	}
	wantRight(t, vllmsim.Config{}, []byte(strings.Join(lines, "\n")), s.lines(done.OutputFileID))
	wantNoLateRepeats(t, append(e.asked(), fast.asked()...), killed)
}

// kills is how often the runner is killed: SPOOL_KILLS, or a few.
func kills() int {
	if n, err := strconv.Atoi(os.Getenv("SPOOL_KILLS")); err == nil {
		return n
	}
	return 3
}

// life is how long a runner works before it is killed. Each second one lives so long that there are finished lines that
// nobody may ask again, in a chunk that is open still.
func life(random *rand.Rand, n int) time.Duration {
	least := time.Duration(n%2) * 24 * time.Second
	return least + time.Duration(random.Int64N(int64(6*time.Second)))
}

// sendAgain sends a message for every shard that is not done, as the queue does itself when the
// visibility of a killed runner's message ends after two minutes.
func (s *stack) sendAgain(key string) {
	s.t.Helper()
	for obj, err := range s.bucket.List(s.t.Context(), batch.OpenPrefix, "") {
		var plan batch.Plan
		if err != nil || json.Unmarshal(s.get(batch.PlanKey(strings.TrimPrefix(obj.Key, batch.OpenPrefix))), &plan) != nil {
			s.t.Fatal(obj.Key, err)
		}
		if plan.Input.Key == key {
			s.sendShards(&plan)
		}
	}
}

func (s *stack) sendShards(plan *batch.Plan) {
	s.t.Helper()
	q, err := s.queues.Open(s.t.Context(), queue.PoolQueue(plan.Pool))
	if err != nil {
		s.t.Fatal(err)
	}
	for i := range plan.Shards {
		if _, err := s.bucket.Head(s.t.Context(), batch.DoneKey(plan.Batch, i)); err == nil {
			continue
		}
		body, err := json.Marshal(batch.Message{V: batch.Version, Type: batch.MessageShard, Batch: plan.Batch, Shard: i, Pool: plan.Pool, N: 2})
		if err == nil {
			err = q.Send(s.t.Context(), []queue.Outgoing{{Body: string(body)}})
		}
		if err != nil {
			s.t.Fatal(err)
		}
	}
}

// wantNoLateRepeats checks that no line was asked again whose answer was sent 20 s or more before the
// runner that had it was killed: a segment is written every 5 s, and a busy machine may be late with two.
func wantNoLateRepeats(t *testing.T, ledger []vllmsim.Entry, killed []time.Time) {
	t.Helper()
	answered := make(map[string]time.Time)
	repeats := 0
	for _, e := range ledger {
		at := time.Unix(0, e.Time)
		switch e.Event {
		case vllmsim.Answered:
			if _, ok := answered[e.SHA256]; !ok {
				answered[e.SHA256] = at
			}
		case vllmsim.Asked:
			first, ok := answered[e.SHA256]
			if !ok {
				continue
			}
			repeats++
			// What was on its way to a runner just killed is its own: the next one waits for the lease, 9 s.
			if kill := firstAfter(killed, first.Add(-time.Second)); kill.Sub(first) > 20*time.Second {
				t.Errorf("request %s was asked again, though it was answered %s before the kill", e.ID, kill.Sub(first))
			}
		}
	}
	t.Logf("%d of %d requests were asked again after an answer", repeats, len(answered))
}

func firstAfter(moments []time.Time, t time.Time) time.Time {
	for _, m := range moments {
		if m.After(t) {
			return m
		}
	}
	return t
}

func TestBadLinesAreAllReportedAndCostNothing(t *testing.T) {
	s := newStack(t)
	e := s.engine("--time-scale", "0")
	s.runner(e, "--idle", "60s")
	lines, want := badLines()
	path := s.write("bad.jsonl", lines...)
	s.put(path, "in/bad.jsonl", nil)
	done := s.wait("in/bad.jsonl", 1)[0]
	if done.Status != batch.Failed || done.OutputFileID != nil || done.Errors == nil {
		t.Fatalf("batch %+v", done)
	}
	got := make(map[int64]string)
	for text := range bytes.Lines(s.get(batch.OutDir("in/bad.jsonl", done.ID) + batch.InvalidName)) {
		var l batch.BadLine
		if err := json.Unmarshal(text, &l); err != nil {
			t.Fatal(err)
		}
		got[l.Line] = l.Code
	}
	for line, code := range want {
		if got[line] != code {
			t.Errorf("line %d: code %q, want %q: %.80s", line, got[line], code, lines[line-1])
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d bad lines are reported, want %d: %v", len(got), len(want), got)
	}
	if n := e.count(vllmsim.Asked); n != 0 {
		t.Errorf("the engine was asked %d times", n)
	}
	if _, _, code := s.run("wait", "in/bad.jsonl"); code != 4 {
		t.Errorf("wait ended with %d, want 4", code)
	}
	stdout, _, code := s.run("check", "--json", path)
	if n := strings.Count(strings.TrimSpace(stdout), "\n") + 1; code != 4 || n != len(want) {
		t.Errorf("check ended with %d and %d lines, want 4 and %d", code, n, len(want))
	}

	s.put(path, "in/skip.jsonl", map[string]string{"on-invalid": "skip"})
	skipped := s.wait("in/skip.jsonl", 1)[0]
	good := len(lines) - len(want) - 1 // one is blank
	if skipped.Status != batch.Completed || skipped.RequestCounts != (batch.RequestCounts{Total: int64(len(lines) - 1), Completed: int64(good), Failed: int64(len(want))}) {
		t.Errorf("batch with on-invalid=skip: %+v", skipped)
	}
	if n := len(s.lines(skipped.ErrorFileID)); n != len(want) {
		t.Errorf("errors.jsonl has %d lines, want %d", n, len(want))
	}
}

// badLines gives a file with 20 kinds of bad lines among good ones, and their codes by line number.
func badLines() (lines []string, want map[int64]string) {
	want = make(map[int64]string)
	good := func() { lines = append(lines, request(fmt.Sprintf("good-%d", len(lines)), 5)) }
	bad := func(code, line string) {
		lines = append(lines, line)
		want[int64(len(lines))] = code
		good()
	}
	body := `"body":{"model":"default","messages":[{"role":"user","content":"x"}]}`
	good()
	bad("invalid_json", `{"custom_id":"a",`)
	bad("invalid_json", `not json at all`)
	bad("invalid_utf8", "{\"custom_id\":\"a\xff\",\"method\":\"POST\",\"url\":\"/v1/chat/completions\","+body+"}")
	bad("not_an_object", `["a"]`)
	bad("missing_custom_id", `{"method":"POST","url":"/v1/chat/completions",`+body+`}`)
	bad("invalid_custom_id", `{"custom_id":7,"method":"POST","url":"/v1/chat/completions",`+body+`}`)
	bad("invalid_custom_id", `{"custom_id":"","method":"POST","url":"/v1/chat/completions",`+body+`}`)
	bad("invalid_custom_id", `{"custom_id":"\ud800","method":"POST","url":"/v1/chat/completions",`+body+`}`)
	bad("missing_method", `{"custom_id":"m","url":"/v1/chat/completions",`+body+`}`)
	bad("invalid_method", `{"custom_id":"g","method":"GET","url":"/v1/chat/completions",`+body+`}`)
	bad("missing_url", `{"custom_id":"u","method":"POST",`+body+`}`)
	bad("unsupported_url", `{"custom_id":"v","method":"POST","url":"/v1/files",`+body+`}`)
	bad("mixed_endpoints", `{"custom_id":"w","method":"POST","url":"/v1/embeddings",`+body+`}`)
	bad("missing_body", `{"custom_id":"b","method":"POST","url":"/v1/chat/completions"}`)
	bad("invalid_body", `{"custom_id":"b2","method":"POST","url":"/v1/chat/completions","body":"x"}`)
	bad("duplicate_member", `{"custom_id":"d","custom_id":"d","method":"POST","url":"/v1/chat/completions",`+body+`}`)
	bad("unknown_member", `{"Custom_ID":"x","custom_id":"d1","method":"POST","url":"/v1/chat/completions",`+body+`}`)
	bad("stream_not_supported", `{"custom_id":"s","method":"POST","url":"/v1/chat/completions","body":{"model":"default","messages":[],"stream":true}}`)
	bad("trailing_data", request("t", 5)+` {}`)
	bad("too_deep", `{"custom_id":"deep","method":"POST","url":"/v1/chat/completions","body":{"x":`+strings.Repeat("[", 1001)+strings.Repeat("]", 1001)+`}}`)
	lines = append(lines, "")
	bad("duplicate_custom_id", lines[0])
	return lines, want
}

func TestGzipFileOverwrittenInMidRun(t *testing.T) {
	s := newStack(t)
	first, second := requests("first", 1500, 20), requests("second", 1200, 20)
	e := s.engine("--slots", "32", "--time-scale", "0.05")
	s.put(s.gzip("a.gz", first), "in/over.jsonl.gz", nil)
	s.runner(e, "--slots", "32", "--idle", "60s")
	s.until("the first is at work", func() bool { return e.count(vllmsim.Answered) > 50 })
	s.put(s.gzip("b.gz", second), "in/over.jsonl.gz", nil)
	for _, done := range s.wait("in/over.jsonl.gz", 2) {
		want := first
		if done.RequestCounts.Total == 1200 {
			want = second
		}
		if done.Status != batch.Completed {
			t.Errorf("batch %+v", done)
		}
		wantRight(t, vllmsim.Config{}, []byte(strings.Join(want, "\n")), s.lines(done.OutputFileID))
	}
}

func (s *stack) gzip(name string, lines []string) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, []byte(gzipped(s.t, strings.Join(lines, "\n"))), 0o644); err != nil {
		s.t.Fatal(err)
	}
	return path
}

func TestCancelInMidRunKeepsWhatIsFinished(t *testing.T) {
	s := newStack(t)
	lines := requests("cancel", 5000, 100)
	s.put(s.write("cancel.jsonl", lines...), "in/cancel.jsonl", nil)
	e := s.engine("--slots", "32", "--time-scale", "0.1")
	s.runner(e, "--slots", "32", "--idle", "60s")
	s.until("some lines are answered", func() bool { return e.count(vllmsim.Answered) > 100 })
	if _, stderr, code := s.run("cancel", "in/cancel.jsonl"); code != 0 {
		t.Fatalf("cancel: exit %d: %s", code, stderr)
	}
	done := s.wait("in/cancel.jsonl", 1)[0]
	c := done.RequestCounts
	if done.Status != batch.Cancelled || c.Total != 5000 || c.Completed+c.Failed != 5000 || c.Completed < 100 || c.Failed == 0 {
		t.Fatalf("batch %+v", done)
	}
	output, failed := s.lines(done.OutputFileID), s.lines(done.ErrorFileID)
	if int64(len(output)) != c.Completed || int64(len(failed)) != c.Failed {
		t.Errorf("%d lines of output and %d of errors, counts say %+v", len(output), len(failed), c)
	}
	seen := make(map[string]bool)
	for _, l := range append(output, failed...) {
		seen[l.CustomID] = true
	}
	if len(seen) != 5000 {
		t.Errorf("%d different lines in output and errors, want 5000", len(seen))
	}
	for _, l := range failed {
		if l.Error == nil || l.Error.Code != batch.CodeBatchCancelled {
			t.Fatalf("error line %+v", l)
		}
	}
	if _, _, code := s.run("wait", "in/cancel.jsonl"); code != 5 {
		t.Errorf("wait ended with %d, want 5", code)
	}
}

func TestTenLinesDoNotWaitBehindManyThousand(t *testing.T) {
	s := newStack(t)
	e := s.engine("--slots", "16", "--time-scale", "0.2")
	s.put(s.write("large.jsonl", requests("large", 50_000, 100)...), "in/large.jsonl", nil)
	s.runner(e, "--slots", "16", "--idle", "60s")
	s.until("the large file is at work", func() bool { return e.count(vllmsim.Answered) > 50 })
	start := time.Now()
	s.put(s.write("ten.jsonl", requests("ten", 10, 5)...), "in/ten.jsonl", nil)
	done := s.wait("in/ten.jsonl", 1)[0]
	t.Logf("ten lines behind 50,000 ended after %s", time.Since(start).Round(10*time.Millisecond))
	if done.Status != batch.Completed || done.RequestCounts.Completed != 10 {
		t.Errorf("batch %+v", done)
	}
	if n := len(s.batches("in/large.jsonl")); n != 0 {
		t.Error("the large file ended first")
	}
}

func TestManySmallFilesAtOnce(t *testing.T) {
	s := newStack(t)
	e := s.engine("--time-scale", "0")
	s.runner(e, "--idle", "60s")
	start := time.Now()
	s.dropMany(200)
	counts := make(map[string]int)
	s.until("all 400 have ended", func() bool {
		clear(counts)
		for obj, err := range s.bucket.List(t.Context(), "out/many/", "") {
			if err == nil && strings.HasSuffix(obj.Key, "/"+batch.ObjectName) {
				counts[strings.SplitN(obj.Key, "-", 2)[0]]++
			}
		}
		return counts["out/many/good"]+counts["out/many/bad"] == 400
	})
	t.Logf("200 rejected and 200 tiny files ended after %s", time.Since(start).Round(10*time.Millisecond))
	if n := e.count(vllmsim.Asked); n != 600 {
		t.Errorf("the engine was asked %d times, want 600", n)
	}
}

// dropMany drops n files of three lines under in/many/, and n that are no JSON, at once.
func (s *stack) dropMany(n int) {
	s.t.Helper()
	var g errgroup.Group
	g.SetLimit(16)
	for i := range n {
		for name, text := range map[string]string{"good": strings.Join(requests("g", 3, 5), "\n"), "bad": `{"custom_id":`} {
			g.Go(func() error {
				_, err := s.bucket.Put(s.t.Context(), fmt.Sprintf("in/many/%s-%03d.jsonl", name, i), []byte(text), storage.PutOptions{})
				return err
			})
		}
	}
	if err := g.Wait(); err != nil {
		s.t.Fatal(err)
	}
}

func TestSIGTERMHandsOver(t *testing.T) {
	s := newStack(t)
	lines := requests("term", 2500, 200)
	s.put(s.write("term.jsonl", lines...), "in/term.jsonl", nil)
	e := s.engine("--slots", "32", "--time-scale", "0.1")
	r := s.runner(e, "--slots", "32", "--idle", "60s")
	s.until("some lines are answered", func() bool { return e.count(vllmsim.Answered) > 200 })
	r.signal(syscall.SIGTERM)
	if code := r.ended(t); code != 0 {
		t.Errorf("the runner ended with %d after SIGTERM", code)
	}
	before := e.count(vllmsim.Answered)
	fast := s.engine("--time-scale", "0")
	s.runner(fast, "--idle", "60s")
	done := s.wait("in/term.jsonl", 1)[0]
	wantRight(t, vllmsim.Config{}, []byte(strings.Join(lines, "\n")), s.lines(done.OutputFileID))
	if after := fast.count(vllmsim.Answered); before+after > 2500+40 {
		t.Errorf("%d answers before the hand-over and %d after it, want hardly more than 2500: finished lines were asked again", before, after)
	}
}

// TestWholeFiles answers files of the caller's choice, with two runners: SPOOL_E2E_FILES=a.jsonl:b.jsonl.
func TestWholeFiles(t *testing.T) {
	files := filepath.SplitList(os.Getenv("SPOOL_E2E_FILES"))
	if len(files) == 0 {
		t.Skip("SPOOL_E2E_FILES names no file")
	}
	s := newStack(t)
	e := s.engine("--time-scale", "0")
	for range 2 {
		s.runner(e, "--idle", "60s")
	}
	for _, file := range files {
		input, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		start, key := time.Now(), "in/whole/"+filepath.Base(file)
		s.aws("s3", "cp", file, "s3://spool/"+key, "--endpoint-url", s.s3)
		done := s.wait(key, 1)[0]
		took := time.Since(start)
		wantRight(t, vllmsim.Config{Instant: true}, input, s.lines(done.OutputFileID))
		t.Logf("%s: %d lines right and in order, %s from before the upload to batch.json", file, done.RequestCounts.Completed, took.Round(10*time.Millisecond))
	}
}
