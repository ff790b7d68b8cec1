package localtest_test

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"spool/localstack/localtest"
)

const root = "../.."

// documented are the variables that the documents name for spool, its libraries and what it starts.
func documented(t *testing.T) []string {
	t.Helper()
	found := map[string]bool{"AWS_SESSION_TOKEN": true, "HF_TOKEN": true, "SPOOL_POOL": true, "SPOOL_PROFILE": true, "VLLM_API_KEY": true}
	for _, name := range []string{"CLI.md", "SENTRY.md", "TRACING.md"} {
		text, err := os.ReadFile(filepath.Join(root, "docs", name))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile("[`(| ]((?:AWS|LOG|OTEL|SENTRY|SPOOL)_[A-Z_0-9]*[A-Z]|ENABLE_PROMETHEUS|ENVIRONMENT|PUSHGATEWAY_URL|TRACEPARENT|TRACESTATE)`").FindAllStringSubmatch(string(text), -1) {
			found[m[1]] = true
		}
	}
	if len(found) < 30 {
		t.Fatalf("the documents name %d variables", len(found))
	}
	return slices.Sorted(maps.Keys(found))
}

// What a shell holds for spool does not reach the tests, and what it holds for the tests does: neither alone nor by .ci/run.
func TestNoSettingOfTheCallerReachesTests(t *testing.T) {
	foreign, ours := documented(t), []string{"SPOOL_CACHE", "SPOOL_REQUIRE_ALL", "SPOOL_VLLM_FILE"}
	for _, name := range slices.Concat(foreign, ours) {
		t.Setenv(name, "x")
	}
	ci, err := os.ReadFile(filepath.Join(root, ".ci/run"))
	if err != nil {
		t.Fatal(err)
	}
	loop := regexp.MustCompile(`(?ms)^for v in .*?^done$`).FindString(string(ci))
	out, err := exec.CommandContext(t.Context(), "bash", "-c", loop+"; compgen -e").Output()
	if err != nil {
		t.Fatal(err)
	}
	localtest.ForgetSettings()
	var env []string
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		env = append(env, name)
	}
	for by, left := range map[string][]string{".ci/run": strings.Fields(string(out)), "ForgetSettings": env} {
		for _, name := range foreign {
			if slices.Contains(left, name) {
				t.Errorf("%s leaves %s", by, name)
			}
		}
		for _, name := range ours {
			if !slices.Contains(left, name) {
				t.Errorf("%s unsets %s", by, name)
			}
		}
	}
}
