package main

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/urfave/cli/v2"
)

func TestTracesWanted(t *testing.T) {
	const endpoint = "OTEL_EXPORTER_OTLP_ENDPOINT"
	for name, c := range map[string]struct {
		env     map[string]string
		on      bool
		problem string
	}{
		"nothing":         {nil, false, ""},
		"endpoint":        {map[string]string{endpoint: "http://c:4318"}, true, ""},
		"of traces":       {map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, true, ""},
		"disabled":        {map[string]string{endpoint: "http://c:4318", "OTEL_SDK_DISABLED": "True"}, false, ""},
		"exporter none":   {map[string]string{endpoint: "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, false, ""},
		"exporter otlp":   {map[string]string{endpoint: "http://c:4318", "OTEL_TRACES_EXPORTER": "otlp"}, true, ""},
		"exporter zipkin": {map[string]string{endpoint: "http://c:4318", "OTEL_TRACES_EXPORTER": "zipkin"}, false, "OTEL_TRACES_EXPORTER is zipkin: want otlp or none"},
		"grpc": {map[string]string{endpoint: "http://c:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, false,
			"the protocol of OTEL_EXPORTER_OTLP_… is grpc: want http/protobuf, mostly at port 4318"},
		"grpc, but not of traces": {map[string]string{endpoint: "http://c:4318", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
			"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}, true, ""},
	} {
		on, err := tracesWanted(func(v string) string { return c.env[v] })
		problem := ""
		if err != nil {
			problem = err.Error()
		}
		if on != c.on || problem != c.problem {
			t.Errorf("%s: %v, problem %q; want %v, %q", name, on, problem, c.on, c.problem)
		}
	}
}

// An upload carries the trace of who makes it, unless it was given another.
func TestUploadsCarryTheTraceOfTheEnvironment(t *testing.T) {
	const parent, other = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"
	env := map[string]string{"TRACEPARENT": parent, "TRACESTATE": "a=1"}
	for name, c := range map[string]struct{ env, meta, want map[string]string }{
		"from the environment": {env, map[string]string{"pool": "p"}, map[string]string{"pool": "p", "traceparent": parent, "tracestate": "a=1"}},
		"given":                {env, map[string]string{"traceparent": other}, map[string]string{"traceparent": other}},
		"none":                 {nil, map[string]string{}, map[string]string{}},
		"malformed":            {map[string]string{"TRACEPARENT": "xyz"}, map[string]string{}, map[string]string{}},
	} {
		passTrace(c.meta, func(v string) string { return c.env[v] })
		if diff := cmp.Diff(c.want, c.meta); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// docs/TRACING.md names every variable that is read here, and the flag with its default.
func TestVariablesOfTracingAreDocumented(t *testing.T) {
	source, err := os.ReadFile("tracing.go")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("../../docs/TRACING.md")
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile(`"(OTEL_[A-Z_]+|TRACE[A-Z]+)"`).FindAllStringSubmatch(string(source), -1)
	if len(names) < 8 {
		t.Fatalf("found %d variables in the source: %v", len(names), names)
	}
	for _, name := range names {
		if !strings.Contains(string(text), "`"+name[1]) {
			t.Errorf("docs/TRACING.md does not name %s", name[1])
		}
	}
	flag := traceEveryFlag().(*cli.IntFlag)
	if want := fmt.Sprintf("`%s` (%d)", envName(flag.Name), flag.Value); !strings.Contains(string(text), want) {
		t.Errorf("docs/TRACING.md does not say %s", want)
	}
}
