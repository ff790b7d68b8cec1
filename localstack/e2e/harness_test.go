package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"spool/localstack/localtest"
	"spool/runner/vllm/vllmsim"
	"spool/storage"
	"spool/storage/batch"
	"spool/storage/queue"
	"spool/storage/s3store"
)

// spool is the binary under test.
var spool string // set once, by TestMain

func TestMain(m *testing.M) { os.Exit(buildAndRun(m)) }

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "spool-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	localtest.ForgetSettings()
	// The keys of spool local; the other servers take any. All else is told to each process by its stack.
	for name, value := range map[string]string{"AWS_ACCESS_KEY_ID": "spool", "AWS_SECRET_ACCESS_KEY": "spool-local-secret", "AWS_EC2_METADATA_DISABLED": "true"} {
		os.Setenv(name, value)
	}
	spool = filepath.Join(dir, "spool")
	if out, err := exec.Command("go", "build", "-o", spool, "spool/cmd/spool").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// stack is an S3 and an SQS server with a watcher, and clients of the bucket and the queues.
type stack struct {
	t       *testing.T
	dir     string
	s3, sqs string   // endpoints
	env     []string // of processes that find both
	more    []string // of all processes, if set before they are started
	bucket  storage.Bucket
	queues  *queue.Client
	names   int
}

// newStack is `spool local` without runners, for a test that runs beside others.
func newStack(t *testing.T) *stack {
	t.Helper()
	t.Parallel()
	s := emptyStack(t)
	s.local("--runners", "0")
	return s
}

// emptyStack has nothing that runs.
func emptyStack(t *testing.T) *stack {
	t.Helper()
	if testing.Short() {
		t.Skip("end to end")
	}
	return &stack{t: t, dir: t.TempDir()}
}

// local starts `spool local` on ports that are free, and takes the endpoints from what it says.
func (s *stack) local(args ...string) *process {
	s.t.Helper()
	s.env = append(os.Environ(), s.more...)
	p := s.start("local", append([]string{"local", "--data", filepath.Join(s.dir, "data"), "--port-base", "0"}, args...)...)
	var said []byte
	s.until("spool local is up", func() bool {
		said, _ = os.ReadFile(p.log) // it was created before the process
		return bytes.Contains(said, []byte("AWS_ENDPOINT_URL_SQS="))
	})
	endpoint := func(name string) string {
		_, rest, _ := strings.Cut(string(said), name+"=")
		return strings.Fields(rest)[0]
	}
	s.at(endpoint("AWS_ENDPOINT_URL_S3"), endpoint("AWS_ENDPOINT_URL_SQS"))
	s.ready()
	return p
}

// at says where the servers are.
func (s *stack) at(s3, sqs string) {
	s.t.Helper()
	s.s3, s.sqs = s3, sqs
	s.env = append(append(os.Environ(), s.more...), "AWS_REGION=us-east-1", "AWS_DEFAULT_REGION=us-east-1",
		"AWS_ENDPOINT_URL="+s3, "AWS_ENDPOINT_URL_S3="+s3, "AWS_ENDPOINT_URL_SQS="+sqs, "SPOOL_BUCKET=spool")
	bucket, err := s3store.New(s.t.Context(), s3store.Config{Bucket: "spool", Region: "us-east-1", Endpoint: s3})
	if err != nil {
		s.t.Fatal(err)
	}
	s.bucket = storage.WithRetry(bucket, storage.Retry{})
	if s.queues, err = queue.New(s.t.Context(), queue.Config{Region: "us-east-1", Endpoint: sqs}); err != nil {
		s.t.Fatal(err)
	}
}

// ready waits for the queues: a runner that starts before they are there ends. That of the events comes last.
func (s *stack) ready() {
	s.t.Helper()
	for _, name := range []string{queue.PoolQueue("default"), queue.FastQueue("default"), queue.EventsQueue} {
		s.until("there is a queue "+name, func() bool {
			_, err := s.queues.Open(s.t.Context(), name)
			return err == nil
		})
	}
}

// patience is for what ends in seconds on an idle machine: nothing here asserts speed.
const patience = 5 * time.Minute

// until waits for something that another process brings about.
func (s *stack) until(what string, ok func() bool) {
	s.t.Helper()
	s.within(patience, what, ok)
}

// within asks again and again, but spends most of the time on waiting: what is waited for needs the processor more.
func (s *stack) within(limit time.Duration, what string, ok func() bool) {
	s.t.Helper()
	for begin := time.Now(); ; {
		asked := time.Now()
		if ok() {
			return
		}
		if time.Since(begin) > limit {
			s.t.Fatalf("waited %s in vain until %s", limit, what)
		}
		<-time.After(max(20*time.Millisecond, 5*time.Since(asked)))
	}
}

// process is a child of the test.
type process struct {
	*exec.Cmd
	name string
	done chan struct{}
	err  error
	log  string // its output
}

// start runs the binary until the test ends, or the caller ends it.
func (s *stack) start(name string, args ...string) *process {
	s.t.Helper()
	s.names++
	p := &process{Cmd: exec.Command(spool, args...), name: name, done: make(chan struct{})}
	p.log = filepath.Join(s.dir, fmt.Sprintf("%s-%d.log", name, s.names))
	out, err := os.Create(p.log)
	if err != nil {
		s.t.Fatal(err)
	}
	p.Env, p.Stdout, p.Stderr = s.env, out, out
	p.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() {
		p.err = p.Wait()
		out.Close()
		close(p.done)
	}()
	s.t.Cleanup(func() {
		p.signal(syscall.SIGTERM)
		select {
		case <-p.done:
		case <-time.After(patience):
			s.t.Errorf("%s did not end %s after SIGTERM", name, patience)
			p.signal(syscall.SIGKILL)
			<-p.done
		}
		if s.t.Failed() {
			s.t.Logf("last lines of %s:\n%s", name, tail(p.log, 40))
		}
	})
	return p
}

func (p *process) signal(sig syscall.Signal) { _ = p.Process.Signal(sig) } // it may have ended

// kill is kill -9, and waits.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.done
}

// ended waits for the process and gives its exit code.
func (p *process) ended(t *testing.T) int {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		t.Fatalf("%s did not end in %s; last lines:\n%s", p.name, patience, tail(p.log, 40))
	}
	return p.ProcessState.ExitCode()
}

func tail(path string, n int) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// run runs the binary to its end.
func (s *stack) run(args ...string) (stdout, stderr string, code int) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, spool, args...)
	cmd.Env = s.env
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if exit := (&exec.ExitError{}); err != nil && !errors.As(err, &exit) {
		s.t.Fatalf("spool %s: %v", strings.Join(args, " "), err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// aws runs the AWS CLI with the endpoint on the command line, as old ones need it.
func (s *stack) aws(args ...string) {
	s.t.Helper()
	localtest.Program(s.t, "aws", "pip install awscli")
	cmd := exec.CommandContext(s.t.Context(), "aws", args...)
	cmd.Env = s.env
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("aws %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// engine is a `spool vllmsim` process.
type engine struct {
	*process
	s      *stack
	url    string
	ledger string
}

func (s *stack) engine(args ...string) *engine {
	s.t.Helper()
	s.names++
	dir, err := os.MkdirTemp("", "spool-sim-") // short: a socket's path has at most 107 bytes
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { os.RemoveAll(dir) })
	e := &engine{s: s, url: "unix://" + filepath.Join(dir, "v.sock"), ledger: filepath.Join(dir, "ledger")}
	e.process = s.start("vllmsim", append([]string{"vllmsim", "--listen", e.url, "--ledger", e.ledger}, args...)...)
	return e
}

// asked reads the ledger.
func (e *engine) asked() []vllmsim.Entry {
	e.s.t.Helper()
	entries, err := vllmsim.ReadLedger(e.ledger)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		e.s.t.Fatal(err)
	}
	return entries
}

// count counts entries of an event, "asked" or "answered".
func (e *engine) count(event string) int {
	n := 0
	for _, entry := range e.asked() {
		if entry.Event == event {
			n++
		}
	}
	return n
}

// runner starts a `spool run`.
func (s *stack) runner(e *engine, args ...string) *process {
	s.t.Helper()
	return s.start("run", append([]string{"run", "--engine-url", e.url}, args...)...)
}

// write makes a file in the test's folder.
func (s *stack) write(name string, lines ...string) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// request is a good input line.
func request(id string, maxTokens int) string {
	return fmt.Sprintf(`{"custom_id":%q,"method":"POST","url":"/v1/chat/completions","body":{"model":"default","messages":[{"role":"user","content":"question %s"}],"max_tokens":%d,"temperature":0}}`, id, id, maxTokens)
}

// requests makes n of them.
func requests(prefix string, n, maxTokens int) []string {
	lines := make([]string, n)
	for i := range lines {
		lines[i] = request(fmt.Sprintf("%s-%05d", prefix, i), maxTokens)
	}
	return lines
}

// put uploads a file, without the AWS CLI.
func (s *stack) put(path, key string, meta map[string]string) storage.Object {
	s.t.Helper()
	body, err := os.ReadFile(path)
	if err != nil {
		s.t.Fatal(err)
	}
	obj, err := s.bucket.Put(s.t.Context(), key, body, storage.PutOptions{Metadata: meta})
	if err != nil {
		s.t.Fatal(err)
	}
	return obj
}

func (s *stack) get(key string) []byte {
	s.t.Helper()
	body, _, err := storage.ReadAll(s.t.Context(), s.bucket, key)
	if err != nil {
		s.t.Fatal(err)
	}
	return body
}

// batches gives the batch objects of an input that ended, in the order of their ids.
func (s *stack) batches(key string) []batch.Object {
	s.t.Helper()
	var found []batch.Object
	for obj, err := range s.bucket.List(s.t.Context(), batch.OutPrefix+batch.Path(key)+"/", "") {
		if err != nil {
			s.t.Fatal(err)
		}
		if !strings.HasSuffix(obj.Key, "/"+batch.ObjectName) {
			continue
		}
		var o batch.Object
		if err := json.Unmarshal(s.get(obj.Key), &o); err != nil {
			s.t.Fatal(err)
		}
		found = append(found, o)
	}
	return found
}

// wait waits until n batches of the input have ended.
func (s *stack) wait(key string, n int) []batch.Object {
	s.t.Helper()
	var found []batch.Object
	s.until(fmt.Sprintf("%d batches of %s have ended", n, key), func() bool {
		found = s.batches(key)
		return len(found) >= n
	})
	return found
}

// outLine is a line of output.jsonl or errors.jsonl.
type outLine struct {
	ID       string `json:"id"`
	CustomID string `json:"custom_id"`
	Response *struct {
		Status    int             `json:"status_code"`
		RequestID string          `json:"request_id"`
		Body      json.RawMessage `json:"body"`
	} `json:"response"`
	Error *struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	} `json:"error"`
}

// lines reads an object of the results; none if the key is nil.
func (s *stack) lines(key *string) []outLine {
	s.t.Helper()
	if key == nil {
		return nil
	}
	return parseLines(s.t, bytes.NewReader(s.get(*key)))
}

func parseLines(t *testing.T, r io.Reader) []outLine {
	t.Helper()
	var lines []outLine
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 32<<20)
	for sc.Scan() {
		var l outLine
		if err := json.Unmarshal(sc.Bytes(), &l); err != nil {
			t.Fatalf("line %d: %v", len(lines)+1, err)
		}
		lines = append(lines, l)
	}
	if err := sc.Err(); err != nil {
		t.Fatal(err)
	}
	return lines
}

// inLine is what the checks need of an input line.
type inLine struct {
	CustomID string          `json:"custom_id"`
	URL      string          `json:"url"`
	Body     json.RawMessage `json:"body"`
}

// wantRight checks that output has one right answer for each input line, in their order.
func wantRight(t *testing.T, sim vllmsim.Config, input []byte, output []outLine) {
	t.Helper()
	i := 0
	for text := range bytes.Lines(input) {
		var in inLine
		if err := json.Unmarshal(text, &in); err != nil {
			t.Fatal(err)
		}
		if i >= len(output) {
			t.Fatalf("output ends after %d lines, before %s", len(output), in.CustomID)
		}
		out := output[i]
		i++
		if out.CustomID != in.CustomID || out.Response == nil || out.Response.Status != 200 {
			t.Fatalf("line %d of output is %+v, want an answer to %s", i, out, in.CustomID)
		}
		if err := sim.Check(in.URL, in.Body, out.Response.Body); err != nil {
			t.Fatalf("line %d, %s: %v", i, in.CustomID, err)
		}
	}
	if i != len(output) {
		t.Fatalf("output has %d lines, the input %d", len(output), i)
	}
}
