package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"spool/storage/batch"
)

// Slots of the real engine, and what drivers keep in flight for them.
const (
	realSlots  = 64
	realWindow = realSlots + realSlots/4
)

// vllm compares output tokens/s of the real engine as spool feeds it with those of `vllm run-batch` and of a bare client,
// with the same model, file and flags, in turns. SPOOL_VLLM_DIR names a folder with a virtual environment, venv, and a
// model, tiny. SPOOL_BENCH_VLLM is the number of turns, 5 if it is not set.
func (b *bench) vllm(t *testing.T) {
	dir := os.Getenv("SPOOL_VLLM_DIR")
	if dir == "" {
		t.Skip("SPOOL_VLLM_DIR is not set")
	}
	n, rounds := 600, 5
	if v, err := strconv.Atoi(os.Getenv("SPOOL_BENCH_VLLM")); err == nil {
		rounds = v
	}
	r := &realEngine{parts: newParts(t), dir: dir, slots: realSlots, cache: "1G", n: n, lines: realLines()}
	r.serve()
	r.bare(realWindow) // it has been asked before
	p := r.runner(r.engine, "--slots", strconv.Itoa(realSlots), "--idle", "2h")
	defer p.signal(syscall.SIGTERM)
	var ours, runBatch, bare series
	for turn := range rounds {
		bare = append(bare, r.bare(n))
		ours = append(ours, r.spool(fmt.Sprintf("in/real/%d.jsonl", turn)))
		runBatch = append(runBatch, r.runBatch())
	}
	b.judge("real vLLM: tokens/s / vllm run-batch", ours.median()/runBatch.median(), "x", atLeast(1.1), 0,
		"%s; run-batch without its start %s", ours, runBatch)
	b.judge("real vLLM: tokens/s / bare client", ours.median()/bare.median(), "x", atLeast(0.97), 1, "%d in flight: %s", realWindow, bare)
}

// realEngine is vLLM with a file for it.
type realEngine struct {
	parts
	engine *engine
	dir    string
	slots  int
	cache  string // of keys and values, in bytes
	n      int    // lines
	lines  *lines
}

// realLines have answers of the heavy-tailed mix, at a quarter of its lengths and of at most 256 tokens, so that two
// cores end in half a minute.
func realLines() *lines {
	mix := heavyTail()
	return &lines{prompts: prompts(), fixed: true, maxTokens: func(i int) int { return min(256, mix[i*7919%len(mix)]/4+1) }}
}

func (r *realEngine) flags() []string {
	return []string{"--served-model-name", "default", "--enforce-eager", "--max-model-len", "2048", "--max-num-seqs", strconv.Itoa(r.slots),
		"--max-num-batched-tokens", "4096", "--generation-config", "vllm", "--kv-cache-memory-bytes", r.cache}
}

// command is vllm with its environment.
func (r *realEngine) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(r.t.Context(), filepath.Join(r.dir, "venv", "bin", "vllm"), args...)
	cmd.Env = append(os.Environ(), "HF_HUB_OFFLINE=1", "TRANSFORMERS_OFFLINE=1", "VLLM_NO_USAGE_STATS=1", "DO_NOT_TRACK=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	return cmd
}

// serve starts the server and waits until it answers.
func (r *realEngine) serve() {
	r.t.Helper()
	r.engine = &engine{s: r.stack, url: "unix://" + socketPath(r.t)}
	cmd := r.command(append([]string{"serve", filepath.Join(r.dir, "tiny"), "--uds", strings.TrimPrefix(r.engine.url, "unix://"), "--shutdown-timeout", "10"}, r.flags()...)...)
	log, err := os.Create(filepath.Join(r.stack.dir, "vllm.log"))
	if err != nil {
		r.t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait() // the test's context has ended: what is left is killed
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	})
	client := socketClient(r.engine.url, 1)
	defer client.CloseIdleConnections()
	r.within(15*time.Minute, "vLLM is ready (see "+log.Name()+")", func() bool {
		return ask(r.t.Context(), client, []byte(`{"model":"default","messages":[{"role":"user","content":"?"}],"max_tokens":1}`)) == nil
	})
}

// bare asks n lines by a loop that does nothing else, and gives tokens/s from the first request to the last answer.
func (r *realEngine) bare(n int) float64 {
	r.t.Helper()
	client := socketClient(r.engine.url, realWindow)
	defer client.CloseIdleConnections()
	start := time.Now()
	if err := askAll(r.t.Context(), client, n, realWindow, func(i int) []byte { return r.lines.body(nil, i) }); err != nil {
		r.t.Fatal(err)
	}
	return r.rate(n, time.Since(start))
}

// rate is tokens/s of the answers to the first n lines, each of which has as many as it asks for.
func (r *realEngine) rate(n int, took time.Duration) float64 {
	tokens := 0
	for i := range n {
		tokens += r.lines.maxTokens(i)
	}
	return float64(tokens) / took.Seconds()
}

// spool drops the file, and gives tokens/s from the end of the upload until the last chunk is committed.
func (r *realEngine) spool(key string) float64 {
	r.t.Helper()
	r.upload(key, r.n, r.lines)
	start := time.Now()
	id := ""
	r.within(10*time.Minute, key+" is planned", func() bool { id = r.planned(key); return id != "" })
	r.within(20*time.Minute, key+" is done", func() bool {
		_, err := r.bucket.Head(r.t.Context(), batch.DoneKey(id, 0))
		return err == nil
	})
	took := time.Since(start)
	r.complete(key, r.n)
	return r.rate(r.n, took)
}

// runBatch gives tokens/s between the first and the last line of the progress bar of `vllm run-batch`.
func (r *realEngine) runBatch() float64 {
	r.t.Helper()
	in, out := filepath.Join(r.stack.dir, "real.jsonl"), filepath.Join(r.stack.dir, "real.out.jsonl")
	var text []byte
	for i := range r.n {
		text = r.lines.append(text, i)
	}
	if err := os.WriteFile(in, text, 0o644); err != nil {
		r.t.Fatal(err)
	}
	cmd := r.command(append([]string{"run-batch", "-i", in, "-o", out, "--model", filepath.Join(r.dir, "tiny")}, r.flags()...)...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		r.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	took, log := progressTime(stderr)
	if err := cmd.Wait(); err != nil {
		r.t.Fatalf("vllm run-batch: %v\n%s", err, log)
	}
	r.checkOutput(out)
	return r.rate(r.n, took)
}

// progressTime is the time from the first to the last line about progress; log is the end of what was said.
func progressTime(stderr io.Reader) (took time.Duration, log string) {
	var first, last time.Time
	sc := bufio.NewScanner(stderr)
	sc.Split(scanBar)
	for sc.Scan() {
		if log += sc.Text() + "\n"; len(log) > 8000 {
			log = log[len(log)-4000:]
		}
		if !strings.Contains(sc.Text(), "Running batch:") {
			continue
		}
		if last = time.Now(); first.IsZero() {
			first = last
		}
	}
	return last.Sub(first), log
}

// scanBar splits at newlines and at the carriage returns of a progress bar.
func scanBar(data []byte, atEOF bool) (int, []byte, error) {
	if i := bytes.IndexAny(data, "\r\n"); i >= 0 {
		return i + 1, data[:i], nil
	}
	if atEOF && len(data) > 0 {
		return len(data), data, nil
	}
	return 0, nil, nil
}

// checkOutput holds run-batch to an answer for every line, or its speed means nothing.
func (r *realEngine) checkOutput(path string) {
	r.t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		r.t.Fatal(err)
	}
	tokens, want := 0, 0
	for line := range bytes.Lines(text) {
		var l measuredLine
		if err := json.Unmarshal(line, &l); err != nil {
			r.t.Fatal(err)
		}
		tokens += l.Response.Body.Usage.Tokens
	}
	for i := range r.n {
		want += r.lines.maxTokens(i)
	}
	if tokens != want {
		r.t.Errorf("run-batch made %d tokens, want %d", tokens, want)
	}
}
