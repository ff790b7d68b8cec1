package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"spool/localstack/localtest"
	"spool/runner/vllm/vllmsim"
	"spool/storage/batch"
)

// The same run on our own servers and on two that know nothing of us, moto and LocalStack. There, as on AWS,
// S3 itself sends the events to SQS, and the watcher scans at its start and then never again: what is dropped
// later is found by its event or not at all.

func TestRunOnTheEmbeddedStack(t *testing.T) {
	s := newStack(t)
	dropAndCollect(s)
	wantFit(s, nil)
}

func TestRunOnMoto(t *testing.T) {
	t.Parallel()
	const noLock = "moto 5.2.1 looks at the condition and writes later, without a lock: sometimes several writers win"
	s := openJudge(t, judge{
		url: localtest.Moto(t), account: "123456789012",
		watch: []string{"--allow-weak-store"}, // for the races that wantFit excuses: the watcher asks for them too
	})
	dropAndCollect(s)
	wantFit(s, map[string]string{
		"store: put if absent, one winner":             noLock,
		"store: put if match, one winner":              noLock,
		"store: complete upload if absent, one winner": noLock,
	})
}

func TestRunOnLocalStack(t *testing.T) {
	t.Parallel()
	s := openJudge(t, judge{url: localtest.LocalStack(t), account: "000000000000"})
	dropAndCollect(s)
	wantFit(s, map[string]string{
		"store: complete upload if absent, one winner": "LocalStack 4.12 has a lock for PutObject, but none for CompleteMultipartUpload",
	})
}

// example is what `make demo` runs.
const example = "../../examples/gsm8k.jsonl"

// dropAndCollect is what a user does with two files, the first with a name that S3 escapes in its events, the
// second broken. It knows no more of the stack than its endpoints.
func dropAndCollect(s *stack) {
	s.t.Helper()
	const key, broken = "in/ä b+c/gsm8k 100%20.jsonl", "in/math/broken.jsonl"
	input, err := os.ReadFile(example)
	if err != nil {
		s.t.Fatal(err)
	}
	e := s.engine("--time-scale", "0")
	s.runner(e, "--idle", "5m")
	s.drop(example, key)
	done := s.wait(key, 1)[0]
	n := int64(bytes.Count(input, []byte{'\n'}))
	if done.Status != batch.Completed || done.RequestCounts != (batch.RequestCounts{Total: n, Completed: n}) {
		s.t.Fatalf("batch %+v", done)
	}
	wantRight(s.t, vllmsim.Config{Instant: true}, input, s.collect(key, done.ID))

	asked := e.count(vllmsim.Asked)
	s.drop(example, key)
	if _, stderr, code := s.run("wait", key); code != 0 {
		s.t.Errorf("wait for the same file again: exit %d: %s", code, stderr)
	}
	s.drop(s.write("broken.jsonl", request("good", 5), `{"custom_id":`), broken)
	rejected := s.wait(broken, 1)[0]
	if rejected.Status != batch.Failed || rejected.InputFileID != broken || len(rejected.Errors.Data) != 1 || *rejected.Errors.Data[0].Line != 2 {
		s.t.Errorf("batch of the broken file %+v", rejected)
	}
	if _, stderr, code := s.run("wait", broken); code != 4 {
		s.t.Errorf("wait for the broken file: exit %d: %s", code, stderr)
	}
	// The watcher took the event of the same file before that of the broken one.
	if again := s.batches(key); len(again) != 1 || e.count(vllmsim.Asked) != asked {
		s.t.Errorf("the same file made %d batches and %d requests more", len(again), e.count(vllmsim.Asked)-asked)
	}
}

// drop uploads with the AWS CLI.
func (s *stack) drop(path, key string) {
	s.t.Helper()
	s.aws("s3", "cp", path, "s3://spool/"+key, "--endpoint-url", s.s3)
}

// collect downloads the results with the AWS CLI, and reads the output.
func (s *stack) collect(key, id string) []outLine {
	s.t.Helper()
	dir := filepath.Join(s.t.TempDir(), "results")
	s.aws("s3", "cp", "--recursive", "s3://spool/"+batch.OutPrefix+batch.Path(key)+"/", dir, "--endpoint-url", s.s3)
	text, err := os.ReadFile(filepath.Join(dir, id, batch.OutputName))
	if err != nil {
		fetched, _ := filepath.Glob(filepath.Join(dir, "*", "*"))
		s.t.Fatalf("%v: fetched were %q, the bucket has %q", err, fetched, s.keys(batch.OutPrefix))
	}
	return parseLines(s.t, bytes.NewReader(text))
}

// wantFit has `spool doctor` judge the stack in turn. What it may find broken is given with the reason.
func wantFit(s *stack, lacks map[string]string) {
	s.t.Helper()
	stdout, stderr, _ := s.run("doctor", "--json")
	var report struct {
		Checks []struct{ Name, Result, Detail string }
	}
	if err := json.Unmarshal([]byte(stdout), &report); err != nil || len(report.Checks) == 0 {
		s.t.Fatalf("doctor: %v: %s", err, stderr)
	}
	for _, c := range report.Checks {
		s.t.Run("doctor/"+c.Name, func(t *testing.T) {
			switch reason, excused := lacks[c.Name]; {
			case c.Result == "ok":
			case excused:
				t.Skipf("%s: %s", c.Detail, reason)
			default:
				t.Errorf("%s: %s", c.Result, c.Detail)
			}
		})
	}
}

// judge is an independent implementation of S3, SQS and the notifications between them, on one port.
type judge struct {
	url     string
	account string   // that its queues belong to
	watch   []string // more arguments for the watcher
}

// openJudge makes a bucket, starts a watcher, and has the bucket's events sent to the queue.
func openJudge(t *testing.T, j judge) *stack {
	t.Helper()
	const early = "in/early.jsonl"
	s := emptyStack(t)
	s.at(j.url, j.url)
	s.aws("s3", "mb", "s3://spool", "--endpoint-url", j.url)
	s.drop(s.write("empty.jsonl"), early)
	s.start("watch", append([]string{"watch", "--create-queues", "--scan-every", "24h"}, j.watch...)...)
	s.ready()
	s.notify(j.account)
	if found := s.wait(early, 1)[0]; found.Errors == nil || found.Errors.Data[0].Code != batch.CodeEmptyFile {
		t.Fatalf("batch of a file from before the first scan %+v", found)
	}
	return s
}

// notify configures the bucket with the file that an operator on AWS would take.
func (s *stack) notify(account string) {
	s.t.Helper()
	text, err := os.ReadFile("../../infra/aws/bucket-notification.json")
	if err != nil {
		s.t.Fatal(err)
	}
	path := s.write("notification.json", strings.NewReplacer("${REGION}", "us-east-1", "${ACCOUNT}", account).Replace(string(text)))
	s.aws("s3api", "put-bucket-notification-configuration", "--bucket", "spool",
		"--notification-configuration", "file://"+path, "--endpoint-url", s.s3)
}
