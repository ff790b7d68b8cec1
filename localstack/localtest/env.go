package localtest

import (
	"os"
	"slices"
	"strings"
)

// settings are how the variables begin that spool and the libraries in it read. .ci/run has the same list.
var settings = []string{
	"AWS_", "ENABLE_PROMETHEUS", "ENVIRONMENT", "HF_TOKEN", "LOG_", "OTEL_", "PUSHGATEWAY_URL", "SENTRY_", "SPOOL_", "TRACEPARENT", "TRACESTATE",
	"VLLM_API_KEY",
}

// ours are those that tests read themselves, or the scripts that they start.
var ours = []string{
	LocalStackURL, "SPOOL_BENCH", "SPOOL_BENCH_LINES", "SPOOL_BENCH_PROFILE", "SPOOL_BENCH_VLLM", "SPOOL_CACHE", "SPOOL_E2E_FILES", "SPOOL_KILLS",
	"SPOOL_PYTHON", "SPOOL_REQUIRE_ALL", "SPOOL_REQUIRE_VLLM", "SPOOL_SEED", "SPOOL_VLLM_DIR", "SPOOL_VLLM_FILE",
}

// ForgetSettings unsets what whoever runs the tests has set for spool and for AWS's tools: tests that start them choose for
// themselves. It is for TestMain.
func ForgetSettings() {
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		begins := func(s string) bool { return strings.HasPrefix(name, s) }
		if slices.ContainsFunc(settings, begins) && !slices.Contains(ours, name) {
			os.Unsetenv(name)
		}
	}
}
