package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

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
	spool = filepath.Join(dir, "spool")
	if out, err := exec.Command("go", "build", "-o", spool, "spool/cmd/spool").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// need skips the test if a program is not installed, unless all are required.
func need(t *testing.T, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		if os.Getenv("SPOOL_REQUIRE_ALL") == "1" {
			t.Fatalf("%s is not installed", program)
		}
		t.Skipf("%s is not installed", program)
	}
}

// stack is an S3 and an SQS server with a watcher, and a client of the bucket.
type stack struct {
	t      *testing.T
	dir    string
	env    []string
	bucket storage.Bucket
	names  int
}

// site is where a stack lives. Tests know nothing else of it.
type site struct {
	s3, sqs              string // endpoints
	accessKey, secretKey string
	start                func(s *stack) // starts servers and watcher, which may become ready later
}

// newStack is `spool local` without runners.
func newStack(t *testing.T) *stack {
	t.Helper()
	port := freePorts(t)
	return openStack(t, site{
		s3: fmt.Sprintf("http://127.0.0.1:%d", port), sqs: fmt.Sprintf("http://127.0.0.1:%d", port+1),
		accessKey: "spool", secretKey: "spool-local-secret",
		start: func(s *stack) {
			s.start("local", "local", "--data", filepath.Join(s.dir, "data"), "--port-base", fmt.Sprint(port), "--runners", "0")
		},
	})
}

func openStack(t *testing.T, at site) *stack {
	t.Helper()
	if testing.Short() {
		t.Skip("end to end")
	}
	s := &stack{t: t, dir: t.TempDir()}
	env := []string{
		"AWS_ACCESS_KEY_ID=" + at.accessKey, "AWS_SECRET_ACCESS_KEY=" + at.secretKey, "AWS_REGION=us-east-1", "AWS_DEFAULT_REGION=us-east-1",
		"AWS_ENDPOINT_URL=" + at.s3, "AWS_ENDPOINT_URL_S3=" + at.s3, "AWS_ENDPOINT_URL_SQS=" + at.sqs, "SPOOL_BUCKET=spool", "AWS_EC2_METADATA_DISABLED=true"}
	for _, v := range env {
		name, value, _ := strings.Cut(v, "=")
		t.Setenv(name, value)
	}
	s.env = os.Environ()
	at.start(s)
	bucket, err := s3store.New(t.Context(), s3store.Config{Bucket: "spool"})
	if err != nil {
		t.Fatal(err)
	}
	s.bucket = storage.WithRetry(bucket, storage.Retry{})
	s.until("the bucket answers", func() bool {
		_, err := bucket.Head(t.Context(), "none")
		return storage.IsNotFound(err)
	})
	// A runner that starts before its queues are there ends; the queue of the events is the last one.
	s.until("the queues are there", func() bool {
		return s.queueExists(queue.PoolQueue("default")) && s.queueExists(queue.FastQueue("default")) && s.queueExists(queue.EventsQueue)
	})
	return s
}

func (s *stack) queueExists(name string) bool {
	s.t.Helper()
	client, err := queue.New(s.t.Context(), queue.Config{})
	if err != nil {
		s.t.Fatal(err)
	}
	_, err = client.Open(s.t.Context(), name)
	return err == nil
}

// freePorts finds three free ports in a row.
func freePorts(t *testing.T) int {
	t.Helper()
	for range 50 {
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		l.Close()
		if allFree(t, port, port+1, port+2) {
			return port
		}
	}
	t.Fatal("no three free ports in a row")
	return 0
}

func allFree(t *testing.T, ports ...int) bool {
	for _, p := range ports {
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", p))
		if err != nil {
			return false
		}
		l.Close()
	}
	return true
}

// until waits for something that another process brings about.
func (s *stack) until(what string, ok func() bool) {
	s.t.Helper()
	s.within(2*time.Minute, what, ok)
}

func (s *stack) within(limit time.Duration, what string, ok func() bool) {
	s.t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			s.t.Fatalf("waited %s in vain until %s", limit, what)
		}
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
	return s.launch(name, spool, args...)
}

// launch runs any program until the test ends, or the caller ends it.
func (s *stack) launch(name, program string, args ...string) *process {
	s.t.Helper()
	s.names++
	p := &process{Cmd: exec.Command(program, args...), name: name, done: make(chan struct{})}
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
		case <-time.After(20 * time.Second):
			s.t.Errorf("%s did not end 20 s after SIGTERM", name)
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
func (p *process) ended(t *testing.T, limit time.Duration) int {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(limit):
		t.Fatalf("%s did not end in %s; last lines:\n%s", p.name, limit, tail(p.log, 40))
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
	ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Minute)
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
	need(s.t, "aws")
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

// endpoint is the S3 endpoint, for CLIs that do not read it from the environment.
func (s *stack) endpoint() string {
	for _, v := range s.env {
		if url, ok := strings.CutPrefix(v, "AWS_ENDPOINT_URL_S3="); ok {
			return url
		}
	}
	s.t.Fatal("no endpoint")
	return ""
}
