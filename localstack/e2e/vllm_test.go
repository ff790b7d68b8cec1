package e2e

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"spool/storage/batch"
)

// The real vLLM, on a CPU. SPOOL_VLLM_DIR names a folder that scripts/vllm/setup.sh has made, as `make test-vllm` does.

// engineLimit is for what an engine does: a start alone takes 1.5 min on two idle cores. Nothing here asserts speed.
const engineLimit = time.Hour

// vllmSlots are the sequences that it works on at once.
const vllmSlots = 32

// vllmDir skips the test if there is no vLLM, unless it is required.
func vllmDir(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("SPOOL_VLLM_DIR")
	if dir != "" {
		return dir
	}
	if os.Getenv("SPOOL_REQUIRE_VLLM") == "1" {
		t.Fatal("SPOOL_VLLM_DIR names no folder with vLLM")
	}
	t.Skip("SPOOL_VLLM_DIR names no folder with vLLM; make test-vllm sets it up")
	return ""
}

// vllmPools is a configuration: the engine of the pool default, and a pool whose runners the test starts. The first step
// of an engine was seen to take 30 s on a machine with ten times more work than processors.
const vllmPools = `
pools:
  default:
    engine:
      model: replaced by --model
      batched_tokens: 4096
      stall_limit: 2m
      args: [%s]
      env: {HF_HUB_OFFLINE: "1", VLLM_NO_USAGE_STATS: "1", VLLM_CPU_OMP_THREADS_BIND: nobind, OMP_NUM_THREADS: "1"}
  recorded:
    prefixes: [in/recorded/]
`

// owned is a `spool local` whose runner starts vLLM itself.
type owned struct {
	*stack
	local *process
}

func startOwned(t *testing.T, model, args string) *owned {
	t.Helper()
	vllmDir(t)
	t.Parallel()
	return own(emptyStack(t), model, args)
}

// own is startOwned on a stack on which nothing runs yet.
func own(s *stack, model, args string) *owned {
	s.t.Helper()
	dir := vllmDir(s.t)
	o := &owned{stack: s}
	config := o.write("spool.yaml", fmt.Sprintf(vllmPools, args))
	o.local = o.stack.local("--config", config, "--model", filepath.Join(dir, model), "--vllm", filepath.Join(dir, "venv", "bin", "vllm"),
		"--slots", strconv.Itoa(vllmSlots), "--idle", "24h")
	return o
}

// await waits for what the engine does. It gives up when spool local has ended.
func (o *owned) await(what string, ok func() bool) {
	o.t.Helper()
	o.within(engineLimit, what, func() bool {
		select {
		case <-o.local.done:
			o.t.Fatalf("spool local ended before %s", what)
		default:
		}
		return ok()
	})
}

// answers drops lines, and gives the output when their batch has completed without a failure.
func (o *owned) answers(key string, lines []byte) []outLine {
	o.t.Helper()
	o.put(o.write(filepath.Base(key), strings.TrimSuffix(string(lines), "\n")), key, nil)
	return o.completed(key, bytes.Count(lines, []byte{'\n'}))
}

func (o *owned) completed(key string, n int) []outLine {
	o.t.Helper()
	var found []batch.Object
	o.await(key+" has ended", func() bool {
		found = o.batches(key)
		return len(found) == 1
	})
	done := found[0]
	if want := (batch.RequestCounts{Total: int64(n), Completed: int64(n)}); done.Status != batch.Completed || done.RequestCounts != want {
		o.t.Fatalf("batch %+v, errors %+v", done, o.lines(done.ErrorFileID))
	}
	return o.lines(done.OutputFileID)
}

// logged is what the log of the runner says about its engine.
type logged struct {
	Event    string    `json:"event"`
	Time     time.Time `json:"timestamp"`
	PID      int       `json:"pid"`
	Args     []string  `json:"args"`
	InFlight int       `json:"in_flight"`
	Version  string    `json:"version"`
	Error    string    `json:"error"`
	Message  string    `json:"message"`
}

// events reads those of one name from the log of the runner; none before there is a runner.
func (o *owned) events(name string) []logged {
	text, _ := os.ReadFile(filepath.Join(o.dir, "data", "logs", "runner-1.log"))
	var found []logged
	for line := range bytes.Lines(text) {
		var l logged
		if json.Unmarshal(line, &l) == nil && l.Event == name { // the last line may be half written
			found = append(found, l)
		}
	}
	return found
}

// engine gives the process and the socket of the engine that was started last.
func (o *owned) engine() (pid int, socket string) {
	o.t.Helper()
	starts := o.events("engine_start")
	if len(starts) == 0 {
		o.t.Fatal("no engine was started")
	}
	last := starts[len(starts)-1]
	return last.PID, last.Args[slices.Index(last.Args, "--uds")+1]
}

// metrics are those of the engine that was started last; see plain.metrics.
func (o *owned) metrics() map[string]float64 {
	o.t.Helper()
	_, socket := o.engine()
	client := newPlain(socket)
	defer client.CloseIdleConnections()
	return client.metrics(o.t)
}

// part finds a process of an engine by its title.
func (o *owned) part(engine int, title string) int {
	o.t.Helper()
	for _, pid := range group(o.t, engine) {
		if strings.HasPrefix(procFile(fmt.Sprintf("%d/cmdline", pid)), title) {
			return pid
		}
	}
	o.t.Fatalf("the engine has no process %q", title)
	return 0
}

// group lists the processes that live of a process group.
func group(t *testing.T, leader int) []int {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, stat := range stats {
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(stat)))
		if f := procStat(pid); len(f) > 2 && f[0] != "Z" && f[2] == strconv.Itoa(leader) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// hit sends a signal to a process of the engine once it has answered n requests of its life and has others in hand,
// and waits until the runner has made the engine ready again. It prints how long that took.
func (o *owned) hit(title string, signal syscall.Signal, n int) {
	o.t.Helper()
	var pid int
	o.await(fmt.Sprintf("the engine has answered %d requests", n), func() bool {
		m := o.metrics()
		pid, _ = o.engine()
		return m["request_success_total"] >= float64(n) && m["num_requests_running"] > 0
	})
	deaths, starts := len(o.events("engine_died")), len(o.events("engine_ready"))
	at := time.Now()
	if err := syscall.Kill(o.part(pid, title), signal); err != nil {
		o.t.Fatal(err)
	}
	o.await("the engine is ready again", func() bool { return len(o.events("engine_ready")) > starts })
	died, ready := o.events("engine_died")[deaths], o.events("engine_ready")[starts]
	if died.InFlight == 0 {
		o.t.Errorf("%s, %s: nothing was in flight", title, signal)
	}
	if left := group(o.t, pid); len(left) > 0 {
		o.t.Errorf("%s, %s: processes %v of the engine outlived it", title, signal, left)
	}
	o.t.Logf("%s, %s, %d requests in flight: noticed after %.1f s, ready again after %.0f s: %s",
		title, signal, died.InFlight, died.Time.Sub(at).Seconds(), ready.Time.Sub(at).Seconds(), died.Error)
}

// TestRealVLLM: what spool makes of a file with the real vLLM is what a plain client gets from it, however often the
// engine and the runners die in mid-file. SPOOL_VLLM_FILE names a file of chat requests at temperature 0.
func TestRealVLLM(t *testing.T) {
	o := startOwned(t, "tiny", `--dtype, bfloat16, --kv-cache-memory-bytes, 256M, --enforce-eager, --max-model-len, "2048", --generation-config, vllm`)
	input, err := os.ReadFile(cmp.Or(os.Getenv("SPOOL_VLLM_FILE"), example))
	if err != nil {
		t.Fatal(err)
	}
	completions := o.completions() // the first work: it starts the engine
	starts := o.events("engine_ready")
	t.Logf("vLLM %s: ready %.0f s after its start", starts[0].Version, starts[0].Time.Sub(o.events("engine_start")[0].Time).Seconds())
	_, socket := o.engine()
	client := newPlain(socket)
	t.Cleanup(client.CloseIdleConnections)
	wantSame(t, "completions", client.askAll(t, completions.input), completions.output)

	begin := time.Now()
	plain := client.askAll(t, input)
	t.Logf("a plain client: %d answers in %.0f s", len(plain), time.Since(begin).Seconds())
	o.recorded(socket, input, plain)
	o.survived(input, plain)
	o.endsInMidFile(input)
}

// exchange is a file and what came of it.
type exchange struct {
	input  []byte
	output []outLine
}

func (o *owned) completions() exchange {
	o.t.Helper()
	var input []byte
	for i := range 20 {
		input = fmt.Appendf(input, `{"custom_id":"c%d","method":"POST","url":"/v1/completions","body":{"model":"default","prompt":["%d is","next is"],"max_tokens":%d,"temperature":0,"logprobs":1}}`+"\n", i, i, 5+i)
	}
	return exchange{input, o.answers("in/completions.jsonl", input)}
}

// recorded runs the file with runners that reach the engine through a recorder. The first ends by SIGTERM in mid-file, the
// second goes on. Every body is the same at both ends, and nothing is asked twice but what was in flight.
func (o *owned) recorded(socket string, input []byte, plain map[string]answer) {
	o.t.Helper()
	const key = "in/recorded/file.jsonl"
	rec := startRecorder(o.t, socket)
	runner := func() *process {
		return o.start("run", "run", "--pool", "recorded", "--engine-url", rec.url, "--slots", strconv.Itoa(vllmSlots), "--idle", "24h")
	}
	first := runner()
	o.put(o.write("recorded.jsonl", strings.TrimSuffix(string(input), "\n")), key, nil)
	o.await("a third of the lines is answered", func() bool { return rec.answered() >= len(plain)/3 })
	first.signal(syscall.SIGTERM)
	if code := first.ended(o.t); code != 0 {
		o.t.Errorf("the runner ended with %d after SIGTERM", code)
	}
	before := rec.answered()
	second := runner()
	output := o.completed(key, len(plain))
	second.signal(syscall.SIGTERM)
	if code := second.ended(o.t); code != 0 {
		o.t.Errorf("the second runner ended with %d after SIGTERM", code)
	}
	wantSame(o.t, "with SIGTERM in mid-file", plain, output)
	rec.wantBodies(input, output)
	again := rec.asked() - len(plain)
	if window := vllmSlots + vllmSlots/4; again > window {
		o.t.Errorf("%d requests were asked again, but only %d can have been in flight", again, window)
	}
	o.t.Logf("SIGTERM after %d answers: %d requests were asked again; all bodies are the same at both ends", before, again)
}

// survived runs the file on spool's own engine, whose worker is killed and whose EngineCore is then stopped.
func (o *owned) survived(input []byte, plain map[string]answer) {
	o.t.Helper()
	const key = "in/survived.jsonl"
	earlier := int(o.metrics()["request_success_total"])
	o.put(o.write("survived.jsonl", strings.TrimSuffix(string(input), "\n")), key, nil)
	begin := time.Now()
	o.hit("VLLM::Worker", syscall.SIGKILL, earlier+len(plain)/4)
	o.hit("VLLM::EngineCore", syscall.SIGSTOP, len(plain)/4)
	wantSame(o.t, "with a killed worker and a stopped EngineCore", plain, o.completed(key, len(plain)))
	o.t.Logf("%d of %d answers are those of the plain client, in %.0f s with both", len(plain), len(plain), time.Since(begin).Seconds())
}

// endsInMidFile: spool local ends in order in mid-file, and its engine with it.
func (o *owned) endsInMidFile(input []byte) {
	o.t.Helper()
	pid, socket := o.engine()
	o.put(o.write("last.jsonl", strings.TrimSuffix(string(input), "\n")), "in/last.jsonl", nil)
	o.await("the engine works", func() bool { return o.metrics()["num_requests_running"] > 0 })
	begin := time.Now()
	o.local.signal(syscall.SIGTERM)
	if code := o.local.ended(o.t); code != 0 {
		o.t.Errorf("spool local ended with %d after SIGTERM", code)
	}
	if left := group(o.t, pid); len(left) > 0 {
		o.t.Errorf("processes %v of the engine outlived spool local", left)
	}
	if _, err := os.Stat(filepath.Dir(socket)); !os.IsNotExist(err) {
		o.t.Errorf("the folder of the engine's socket: %v, want it gone", err)
	}
	o.t.Logf("spool local and its engine ended %.1f s after SIGTERM", time.Since(begin).Seconds())
}

// TestRealVLLMPools: embeddings and scores of a real embedding model, which mean something.
func TestRealVLLMPools(t *testing.T) {
	o := startOwned(t, "minilm", `--runner, pooling, --dtype, float32, --kv-cache-memory-bytes, 256M, --enforce-eager`)
	const cat, kitten, market = "a cat", "a kitten", "the stock market"
	var input []byte
	for i := range 40 {
		text := []string{cat, kitten, market, fmt.Sprintf("text %d, %s", i, strings.Repeat("and so on ", i))}[min(i, 3)]
		input = fmt.Appendf(input, `{"custom_id":"e%d","method":"POST","url":"/v1/embeddings","body":{"model":"default","input":%q}}`+"\n", i, text)
	}
	output := o.answers("in/embeddings.jsonl", input)
	_, socket := o.engine()
	client := newPlain(socket)
	t.Cleanup(client.CloseIdleConnections)
	plain := client.askAll(t, input)
	for i, out := range output {
		want, got := plain[out.CustomID].embedding(t), parseAnswer(t, out.Response.Body).embedding(t)
		if c := cosine(got, want); len(got) != 384 || math.Abs(c-1) > 1e-5 || out.CustomID != fmt.Sprintf("e%d", i) {
			t.Errorf("line %d, %s: %d dimensions, cosine with the plain client's %f", i, out.CustomID, len(got), c)
		}
	}
	vector := func(i int) []float64 { return parseAnswer(t, output[i].Response.Body).embedding(t) }
	near, far := cosine(vector(0), vector(1)), cosine(vector(0), vector(2))
	if near < 0.5 || far > 0.3 {
		t.Errorf("cosine of %q with %q %.3f, with %q %.3f", cat, kitten, near, market, far)
	}

	input = fmt.Appendf(nil, `{"custom_id":"s","method":"POST","url":"/v1/score","body":{"model":"default","text_1":%q,"text_2":[%q,%q]}}`+"\n", cat, kitten, market)
	scores := parseAnswer(t, o.answers("in/score.jsonl", input)[0].Response.Body).Data
	if len(scores) != 2 || math.Abs(scores[0].Score-near) > 1e-3 || math.Abs(scores[1].Score-far) > 1e-3 {
		t.Errorf("scores %+v, want the cosines %.4f and %.4f", scores, near, far)
	}
	t.Logf("%d embeddings; %q is to %q %.2f, to %q %.2f", len(output), cat, kitten, near, market, far)
}
