package localtest

import (
	"os"
	"slices"
	"strings"
)

// ForgetSettings unsets what whoever runs the tests has set for spool and for AWS's tools: tests that start them choose for
// themselves. It is for TestMain.
func ForgetSettings() {
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if isSetting(name) && !isOurs(name) {
			_ = os.Unsetenv(name) // of a name that there is it does not fail
		}
	}
}

// isSetting knows the variables that spool and the libraries in it read, by how they begin. .ci/run has the same list.
func isSetting(name string) bool {
	return slices.ContainsFunc([]string{
		"AWS_", "ENABLE_PROMETHEUS", "ENVIRONMENT", "HF_TOKEN", "LOG_", "OTEL_", "PUSHGATEWAY_URL", "SENTRY_", "SPOOL_", "TRACEPARENT", "TRACESTATE",
		"VLLM_API_KEY",
	}, func(beginning string) bool { return strings.HasPrefix(name, beginning) })
}

// isOurs knows those that tests read themselves, or the scripts that they start.
func isOurs(name string) bool {
	return slices.Contains([]string{
		LocalStackURL, "SPOOL_BENCH", "SPOOL_BENCH_LINES", "SPOOL_BENCH_PROFILE", "SPOOL_BENCH_VLLM", "SPOOL_CACHE", "SPOOL_E2E_FILES", "SPOOL_KILLS",
		"SPOOL_PYTHON", "SPOOL_REQUIRE_ALL", "SPOOL_REQUIRE_VLLM", "SPOOL_SEED", "SPOOL_VLLM_DIR", "SPOOL_VLLM_FILE",
	}, name)
}
