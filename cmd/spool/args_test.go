package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFlagsMayStandAnywhereBeforeTheDoubleDash(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"list", "spool list"},
		{"wait in/a in/b --timeout 5s", "spool wait --timeout 5s in/a in/b"},
		{"wait in/a --timeout=5s in/b --json", "spool wait --timeout=5s --json in/a in/b"},
		{"--bucket b list in/x", "spool list --bucket b in/x"},
		{"--json --bucket b status -log-level debug in/x", "spool status --json --bucket b -log-level debug in/x"},
		{"results in/x -o dir", "spool results -o dir in/x"},
		{"check - --json", "spool check --json -"},
		{"status -- -odd-", "spool status -- -- -odd-"},
		{"status in/a -- --json", "spool status in/a -- --json"},
		{"submit --metadata a=--json f", "spool submit --metadata a=--json f"},
		{"wait --timeout -5s in/a", "spool wait --timeout -5s in/a"},
		{"wait in/a --help", "spool wait --help in/a"},
		{"help wait", "spool help wait"},
		{"--version", "spool --version"},
		{"wait --ti --generate-bash-completion", "spool wait --ti --generate-bash-completion"},
	} {
		got, err := arrange((&program{}).app(), strings.Fields("spool "+c.args))
		if err != nil {
			t.Errorf("%s: %v", c.args, err)
		}
		if diff := cmp.Diff(strings.Fields(c.want), got); diff != "" {
			t.Errorf("%s: %s", c.args, diff)
		}
	}
}

func TestWhatLooksLikeAFlagAndIsNoneIsRefused(t *testing.T) {
	for args, want := range map[string]string{
		"wait in/a --bogus":  `unknown flag "--bogus" of spool wait`,
		"wait in/a -x=1":     `unknown flag "-x=1" of spool wait`,
		"wait in/a --once":   `unknown flag "--once" of spool wait`, // a flag of another command
		"wait in/a --bucket": `flag "--bucket" needs a value`,
		"wiat in/a":          `unknown command "wiat"`,
		"help wat":           `unknown command "wat"`,
		"--bogus":            "see spool --help",
	} {
		_, stderr, code := newWorld(t).spool(strings.Fields(args)...)
		if code != exitUsage || !strings.Contains(stderr, want) {
			t.Errorf("%s: exit %d, %s, want %s", args, code, stderr, want)
		}
	}
}

func TestEveryFlagHasItsVariable(t *testing.T) {
	t.Setenv("SPOOL_BUCKET", "other")
	t.Setenv("SPOOL_JSON", "true")
	w := newWorld(t)
	w.upload("in/a.jsonl", 1, nil)
	if got := w.want(exitOK, "list"); !strings.Contains(got, `"batches": [`) {
		t.Errorf("SPOOL_JSON and SPOOL_BUCKET had no effect: %s", got)
	}
	for _, c := range (&program{}).app().Commands {
		if !c.Hidden && len(c.Flags) == 0 {
			t.Errorf("%s has not even the flags of the log", c.Name)
		}
		for _, f := range c.Flags {
			env := f.(interface{ GetEnvVars() []string }).GetEnvVars()
			if len(env) == 0 || env[0] != envName(f.Names()[0]) {
				t.Errorf("%s --%s: variables %v, want %s first", c.Name, f.Names()[0], env, envName(f.Names()[0]))
			}
		}
	}
}

func TestWhoGivesANumberForATimeIsToldWhatATimeIs(t *testing.T) {
	const hint = "\n  a TIME is like 90s, 10m or 2h; see spool wait --help\n"
	for args, want := range map[string]string{
		"wait in/a --timeout 5": `spool: invalid value "5" for flag -timeout: parse error` + hint,
		"wait in/a --json=5":    `spool: invalid boolean value "5" for -json: parse error` + "\n  see spool wait --help\n",
		"list --limit x":        `spool: invalid value "x" for flag -limit: parse error` + "\n  see spool list --help\n",
	} {
		if _, stderr, code := newWorld(t).spool(strings.Fields(args)...); code != exitUsage || stderr != want {
			t.Errorf("%s: exit %d, %q, want %q", args, code, stderr, want)
		}
	}
	t.Setenv("SPOOL_TIMEOUT", "5")
	_, stderr, code := newWorld(t).spool("wait", "in/a")
	want := `spool: could not parse "5" as duration value from environment variable "SPOOL_TIMEOUT" for flag timeout: time: missing unit in duration "5"` + hint
	if code != exitUsage || stderr != want {
		t.Errorf("exit %d, %q, want %q", code, stderr, want)
	}
}

func TestValuesThatMakeNoSenseAreRefused(t *testing.T) {
	for args, want := range map[string]string{
		"wait in/a --timeout -5s":                   "--timeout -5s: must be more than 0",
		"wait in/a --timeout 0s":                    "--timeout 0s: must be more than 0",
		"submit none --timeout -1s":                 "--timeout -1s: must be more than 0",
		"retry in/a --timeout -1s":                  "--timeout -1s: must be more than 0",
		"list --limit 0":                            "--limit 0: must be more than 0",
		"list --state bogus":                        `--state "bogus": want one of waiting, validating,`,
		"list s3://spool/out/":                      `PREFIX "s3://spool/out/"`,
		"list s3:///in/":                            `PREFIX "s3:///in/"`,
		"run --slots 0 --engine-url http://x":       "--slots 0: must be more than 0",
		"run --idle 0s --engine-url http://x":       "--idle 0s: must be more than 0",
		"run --lease-ttl -1s --engine-url http://x": "--lease-ttl -1s: must be more than 0",
		"watch --queue-ahead 0":                     "--queue-ahead 0: must be more than 0",
		"watch --scan-every 0s":                     "--scan-every 0s: must be more than 0",
	} {
		_, stderr, code := newWorld(t).spool(strings.Fields(args)...)
		if code != exitUsage || !strings.Contains(stderr, want) {
			t.Errorf("%s: exit %d, %s, want %s", args, code, stderr, want)
		}
	}
}
