package main

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/urfave/cli/v2"

	"spool/runner"
	"spool/storage/batch"
	"spool/storage/batch/jsonl"
	"spool/watcher"
)

// configured reads a configuration as a command does.
func configured(t *testing.T, text string) (cfg *fileConfig, path string, err error) {
	t.Helper()
	path = newWorld(t).file("spool.yaml", text)
	app := &cli.App{Flags: []cli.Flag{configFlag()}, Action: func(c *cli.Context) error {
		cfg, err = readConfig(c)
		return nil
	}}
	if runErr := app.Run([]string{"x", "--config", path}); runErr != nil {
		t.Fatal(runErr)
	}
	return cfg, path, err
}

func TestConfigurationOfPools(t *testing.T) {
	cfg, _, err := configured(t, `
pools:
  big:
    prefixes: [in/big/]
    shard_chunks: 4
    limits: {endpoints: [/v1/completions], line_bytes: 100, input_bytes: 1000, n: 2, tokens: 50}
    retry: {attempts: 3, base: 2s, max: 1m, retry_after_max: 3m, timeout: 10m}
`)
	if err != nil {
		t.Fatal(err)
	}
	want := []watcher.Pool{
		{Name: "big", Prefixes: []string{"in/big/"}, ShardChunks: 4, Limits: jsonl.Config{
			Endpoints: []string{"/v1/completions"}, MaxLineBytes: 100, MaxInputBytes: 1000, MaxN: 2, MaxTokens: 50}},
		{Name: "default"},
	}
	if diff := cmp.Diff(want, cfg.watched()); diff != "" {
		t.Error(diff)
	}
	policy := runner.RetryPolicy{Attempts: 3, Base: 2 * time.Second, Max: time.Minute, AfterMax: 3 * time.Minute, Timeout: 10 * time.Minute}
	if diff := cmp.Diff(policy, cfg.Pools["big"].Retry.policy()); diff != "" {
		t.Error(diff)
	}
}

func TestConfigurationRefusesWhatItDoesNotKnow(t *testing.T) {
	for text, want := range map[string]string{
		"pools:\n  big:\n    prefixs: [x]\n":         `:3: unknown key "prefixs"`,
		"pool: {}\n":                                 `:1: unknown key "pool"`,
		"pools:\n  big:\n    shard_chunks: many\n":   `:3: cannot unmarshal`,
		"pools:\n  big: {retry: {base: soon}}\n":     `:2: `,
		"pools: [\n":                                 `:`,
		"pools:\n  a: {b: 1}\n  c:\n    d: {e: 2}\n": `:4: unknown key "d"`,
	} {
		_, path, err := configured(t, text)
		if err == nil || !strings.Contains(err.Error(), path+want) || explain(err).code != exitUsage {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
	w := newWorld(t)
	w.want(exitUsage, "check", w.file("p.jsonl", goodLines(1)), "--config", "none.yaml")
	w.want(exitUsage, "check", w.file("p.jsonl", goodLines(1)), "--pool", "none")
}

func TestCheckUsesTheLimitsOfThePool(t *testing.T) {
	w := newWorld(t)
	config := w.file("spool.yaml", "pools: {small: {limits: {line_bytes: 20}}}")
	path := w.file("p.jsonl", goodLines(1))
	w.want(exitOK, "check", path, "--config", config)
	if got := w.want(exitRejected, "check", path, "--config", config, "--pool", "small"); !strings.Contains(got, ":1: line_too_long: ") {
		t.Error(got)
	}
}

func TestBarFitsTheTerminal(t *testing.T) {
	eta := int64(3725)
	for want, v := range map[string]*view{
		"[############------------]  50% 1,500/3,000 2 failed 1h02m left": {State: "in_progress", ETASeconds: &eta,
			Counts: batch.RequestCounts{Total: 3000, Completed: 1498, Failed: 2}},
		"[########################] 100% 3/3 finalizing": {State: "finalizing", Counts: batch.RequestCounts{Total: 3, Completed: 3}},
		"waiting  nobody": {State: "waiting", Note: "nobody"},
		"waiting  " + strings.Repeat("x", 68) + "…": {State: "waiting", Note: strings.Repeat("x", 100)},
	} {
		if got := barLine(v); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	var out bytes.Buffer
	b := &bar{out: &out}
	b.update(&view{State: "waiting"})
	b.sayf("hello %d%%", 5)
	b.end()
	b.end()
	want := clearLine + "waiting  " + clearLine + "hello 5%\nwaiting  " + clearLine
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
}

func TestProgressLinesComeWithChangesAndEvery30Seconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []string
		l := newLines(func(_ string, args ...any) { got = append(got, args[0].(string)) })
		v := &view{Input: "in/a", State: "in_progress", Counts: batch.RequestCounts{Total: 100}}
		for range 10 { // 50 s
			l.update(v)
			time.Sleep(5 * time.Second)
			v.Counts.Completed += 1000
		}
		v.State = "finalizing"
		l.update(v)
		want := []string{"in/a: in_progress, 0 of 100 lines done", "in/a: in_progress, 6,000 of 100 lines done", "in/a: finalizing, 10,000 of 100 lines done"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}

func TestNumbersForPeople(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", -1000: "-1,000", -999: "-999", 1234567: "1,234,567"} {
		if got := thousands(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
	for n, want := range map[int64]string{45: "45s", 200: "3m20s", 7500: "2h05m"} {
		if got := duration(n); got != want {
			t.Errorf("%d s: %s, want %s", n, got, want)
		}
	}
}

func TestKeys(t *testing.T) {
	const id = "bpicclhpxbn2qqhb5uxmxo6zjly"
	for in, want := range map[string]target{
		"in/a b.jsonl":         {key: "in/a b.jsonl"},
		"s3://b/in/x/y.jsonl":  {bucket: "b", key: "in/x/y.jsonl"},
		id:                     {id: id},
		"in/" + id + ".jsonl":  {key: "in/" + id + ".jsonl"},
		"s3://b/in/" + id[1:3]: {bucket: "b", key: "in/" + id[1:3]},
	} {
		if got, err := parseKey(in); err != nil || got != want {
			t.Errorf("%s: %+v %v, want %+v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "in/", "x.jsonl", "/in/x.jsonl", "s3://b", "s3:///in/x", "s3://b/out/x", "out/x.jsonl"} {
		if _, err := parseKey(in); err == nil || explain(err).code != exitUsage {
			t.Errorf("%q: %v, want a usage error", in, err)
		}
	}
}

func TestCompletionScripts(t *testing.T) {
	w := newWorld(t)
	for shell, want := range map[string]string{"bash": "complete -o bashdefault", "zsh": "#compdef spool", "fish": "complete -c spool"} {
		script := w.want(exitOK, "completion", shell)
		if !strings.Contains(script, want) {
			t.Errorf("%s: %s", shell, script)
		}
		path, err := exec.LookPath(shell)
		if err != nil {
			continue // its syntax is checked where the shell is
		}
		if out, err := exec.Command(path, "-n", w.file(filepath.Base(shell), script)).CombinedOutput(); err != nil {
			t.Errorf("%s -n: %v\n%s", shell, err, out)
		}
	}
	w.want(exitUsage, "completion", "tcsh")
}

func TestBashCompletes(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("bash is not installed")
	}
	w := newWorld(t)
	for line, want := range map[string]string{"spool su": "submit", "spool v": "version", "spool wait --time": "--timeout"} {
		words := strings.Fields(line)
		script := w.want(exitOK, "completion", "bash") + "\nCOMP_WORDS=(" + line + "); COMP_CWORD=" +
			string(rune('0'+len(words)-1)) + "; _spool; echo ${COMPREPLY[@]}"
		out, err := exec.Command(bash, "-c", script).CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != want {
			t.Errorf("%s: %q %v, want %s", line, out, err, want)
		}
	}
}
