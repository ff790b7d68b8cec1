package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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
		"pools:\n  big:\n    prefixs: [x]\n":                      `:3: unknown key "prefixs"`,
		"pool: {}\n":                                              `:1: unknown key "pool"`,
		"pools:\n  big:\n    shard_chunks: many\n":                `:3: cannot unmarshal`,
		"pools:\n  big: {retry: {base: soon}}\n":                  `:2: `,
		"pools: [\n":                                              `:`,
		"pools: {a: {}}\n---\npools: {b: {}}\n":                   ": more than one YAML document",
		"pools: {a b: {}}\n":                                      `: pool "a b": a name has up to 69`,
		"pools: {a: {shard_chunks: -1}}\n":                        `: pool "a": shard_chunks must not`,
		"pools: {a: {retry: {attempts: -1}}}\n":                   `: pool "a": values of retry`,
		"pools: {a: {prefixes: [big/]}}\n":                        `: pool "a": prefix "big/": inputs are under in/`,
		"pools: {a: {prefixes: [in/x]}, b: {prefixes: [in/x]}}\n": `: pool "b": prefix "in/x" is that of pool "a" already`,
		"pools:\n  a: {b: 1}\n  c:\n    d: {e: 2}\n":              `:4: unknown key "d"`,
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

func TestCountsForPeople(t *testing.T) {
	for n, want := range map[int64]string{0: "0 lines", 1: "1 line", 2: "2 lines", 1234: "1,234 lines"} {
		if got := plural(n, "line"); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

// TestAdviceIsOfUse: lines that validation refused are not asked for again, however often.
func TestAdviceIsOfUse(t *testing.T) {
	line := int64(2)
	bad := batch.BatchError{Line: &line}
	for want, c := range map[string]struct {
		failed int64
		errors []batch.BatchError
	}{
		"see s3://b/out/a/x/errors.jsonl; spool retry in/a asks for the failed lines again": {3, nil},
		"mend the lines of s3://b/out/a/x/invalid.jsonl":                                    {2, []batch.BatchError{bad, bad}},
		"see s3://b/out/a/x/errors.jsonl; mend the lines of s3://b/out/a/x/invalid.jsonl; spool retry in/a asks for the others again": {
			3, []batch.BatchError{bad, bad}},
		"see s3://b/out/a/x/errors.jsonl; mend the lines of s3://b/out/a/x/invalid.jsonl; spool retry in/a asks for the others again, if there are any": {
			150, slices.Repeat([]batch.BatchError{bad}, batch.MaxErrors)},
	} {
		counts := batch.RequestCounts{Total: 9, Completed: 9 - c.failed, Failed: c.failed}
		v := &view{Input: "in/a", Output: "out/a/x/", Errors: c.errors, Counts: counts, ended: &batch.Object{Status: batch.Completed, RequestCounts: counts}}
		if got := v.advice("b"); got != want {
			t.Errorf("%q, want %q", got, want)
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

// TestWhoGivesAFolderOfResultsIsToldItsInput: status and wait print these folders.
func TestWhoGivesAFolderOfResultsIsToldItsInput(t *testing.T) {
	const id = "bpicclhpxbn2qqhb5uxmxo6zjly"
	for in, want := range map[string]string{
		"s3://b/out/x/a.jsonl/" + id + "/":    "give its input, s3://b/in/x/a.jsonl, or its batch id, " + id,
		"s3://checkout/out/a.jsonl/" + id:     "give its input, s3://checkout/in/a.jsonl, or its batch id, " + id,
		"out/a.jsonl/" + id:                   "give its input, in/a.jsonl, or its batch id, " + id,
		"out/a.jsonl/" + id + "/errors.jsonl": "give its input, in/a.jsonl, or its batch id, " + id,
		"s3://b/out/a.jsonl/status.json":      "give the key of its input, under in/",
		"s3://b/out/_long/" + id + "/":        "give the key of its input, under in/",
	} {
		_, err := parseKey(in)
		if err == nil || err.Error() != fmt.Sprintf("KEY %q is of results", in) || explain(err).hint != want {
			t.Errorf("%s: %v, hint %q, want %q", in, err, explain(err).hint, want)
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
		path := needShell(t, shell)
		if path == "" {
			continue
		}
		if out, err := exec.Command(path, "-n", w.file(filepath.Base(shell), script)).CombinedOutput(); err != nil {
			t.Errorf("%s -n: %v\n%s", shell, err, out)
		}
	}
	w.want(exitUsage, "completion", "tcsh")
}

// needShell finds a shell; "" if it is not installed, and need not be.
func needShell(t *testing.T, shell string) string {
	t.Helper()
	path, err := exec.LookPath(shell)
	if err != nil && os.Getenv("SPOOL_REQUIRE_ALL") == "1" {
		t.Errorf("SPOOL_REQUIRE_ALL=1: %v", err)
	}
	return path
}

// completers are scripts that print what a shell offers for the words in its arguments, the last of which is unfinished.
var completers = map[string]string{
	"bash": `source "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _spool; printf '%s\n' "${COMPREPLY[@]}"`,
	// As compinit would load it from fpath, with the first question.
	"zsh": `compdef() { }; _describe() { print -l -- "${(@M)opts:#${words[-1]}*}" }; _files() { }
		fpath=($1:h); autoload -U $1:t; shift; words=("$@"); _spool`,
	"fish": `source $argv[1]; complete -C "$argv[2..-1]" | string replace -r '\t.*' ''`,
}

func TestShellsComplete(t *testing.T) {
	questions := []struct{ line, want string }{
		{"spool su", "submit"},
		{"spool v", "version"},
		{"spool wait --time", "--timeout"},
		{"spool wait in/a --time", "--timeout"},
		{"spool version --j", "--json"},
		{"spool completion z", "zsh"},
		{"spool watch --", "all flags"},
		{"spool check none", ""},                // a file's turn: no command that the program itself has
		{"spool check ", ""},                    // not even help
		{"spool local --port-base 0 -- su", ""}, // CMD's turn: asking must not start the stack
	}
	for shell, script := range completers {
		path := needShell(t, shell)
		if path == "" {
			continue
		}
		w := newWorld(t)
		file := w.file("_spool", w.want(exitOK, "completion", shell))
		for _, q := range questions {
			if shell == "fish" && (q.want == "" || q.want == "zsh") {
				continue // it offers files too, and its script asks nobody
			}
			args := append([]string{"-c", script, file}, strings.Split(q.line, " ")...)
			if shell == "zsh" {
				args = append([]string{"-f", "-c", script, "zsh", file}, strings.Split(q.line, " ")...)
			}
			out, err := exec.Command(path, args...).CombinedOutput()
			got := strings.TrimSpace(string(out))
			if q.want == "all flags" {
				if !strings.Contains(got, "--once") || !strings.Contains(got, "--bucket") {
					t.Errorf("%s: %s: %q lacks flags", shell, q.line, got)
				}
			} else if err != nil || got != q.want {
				t.Errorf("%s: %s: %q %v, want %s", shell, q.line, got, err, q.want)
			}
		}
	}
}
