package monitoring_test

import (
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"spool/localstack/localtest"
	"spool/monitoring/internal/promql"
)

const runbook = "../docs/RUNBOOK.md"

type rule struct {
	Alert, Record, Expr string
	Labels, Annotations map[string]string
}

// rules gives those of alerts.yml: the alerts, and the others.
func rules(t *testing.T) (alerts, records []rule) {
	t.Helper()
	var file struct{ Groups []struct{ Rules []rule } }
	readYAML(t, "alerts.yml", &file)
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			if r.Alert != "" {
				alerts = append(alerts, r)
			} else {
				records = append(records, r)
			}
		}
	}
	return alerts, records
}

func readYAML(t *testing.T, path string, into any) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

func TestAlertsNameOnlyWhatThereIs(t *testing.T) {
	alerts, records := rules(t)
	if len(alerts) != 19 || len(records) != 3 {
		t.Errorf("%d alerts and %d other rules, want 19 and 3", len(alerts), len(records))
	}
	for _, r := range slices.Concat(alerts, records) {
		if err := promql.Check(r.Expr); err != nil {
			t.Errorf("%s%s: %v", r.Alert, r.Record, err)
		}
	}
}

func TestEveryAlertIsInTheRunbook(t *testing.T) {
	text, err := os.ReadFile(runbook)
	if err != nil {
		t.Fatal(err)
	}
	entries := map[string]string{}
	for _, part := range strings.Split(string(text), "\n## ")[1:] {
		name, body, _ := strings.Cut(part, "\n")
		entries[name] = strings.TrimSpace(body)
	}
	alerts, _ := rules(t)
	for _, a := range alerts {
		severity := a.Labels["severity"]
		if severity != "page" && severity != "ticket" {
			t.Errorf("%s has the severity %q", a.Alert, severity)
		}
		if !strings.HasPrefix(entries[a.Alert], "*"+severity+".*") || len(entries[a.Alert]) < 100 {
			t.Errorf("the runbook does not say what to do about %s, a %s", a.Alert, severity)
		}
		if want := "docs/RUNBOOK.md#" + strings.ToLower(a.Alert); a.Annotations["runbook"] != want || a.Annotations["summary"] == "" {
			t.Errorf("%s: annotations %v, want runbook %s", a.Alert, a.Annotations, want)
		}
		delete(entries, a.Alert)
	}
	if len(entries) > 0 {
		t.Errorf("the runbook has entries of no alert: %v", entries)
	}
}

// What the runbook says to look for in logs and errors is there under that name.
func TestTheRunbookNamesOnlyWhatThereIs(t *testing.T) {
	read := func(path string) string {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	names := regexp.MustCompile("`[a-z]+(?:_[a-z]+)+`").FindAllString(read(runbook), -1)
	if len(names) < 4 {
		t.Errorf("the runbook names %q only", names)
	}
	known := read("LOGS.md") + read("../storage/FORMAT.md") + "`max_tokens`"
	for _, name := range names {
		if !strings.Contains(known, name) {
			t.Errorf("the runbook names %s, which neither LOGS.md nor FORMAT.md does", name)
		}
	}
}

// ruleTests are the files with unit tests of the rules.
func ruleTests() []string { return []string{"alerts.test.yml", "alerts.days.test.yml"} }

func TestEveryAlertIsShownToFireAndToBeSilent(t *testing.T) {
	fires, silent := map[string]bool{}, map[string]bool{}
	for _, path := range ruleTests() {
		var file struct {
			Tests []struct {
				Alerts []struct {
					Name string           `yaml:"alertname"`
					Want []map[string]any `yaml:"exp_alerts"`
				} `yaml:"alert_rule_test"`
			}
		}
		readYAML(t, path, &file)
		for _, test := range file.Tests {
			for _, a := range test.Alerts {
				if len(a.Want) > 0 {
					fires[a.Name] = true
				} else {
					silent[a.Name] = true
				}
			}
		}
	}
	alerts, _ := rules(t)
	for _, a := range alerts {
		if !fires[a.Alert] || !silent[a.Alert] {
			t.Errorf("%s: shown to fire: %t, to be silent: %t", a.Alert, fires[a.Alert], silent[a.Alert])
		}
	}
}

// tool runs a tool of Prometheus'; the test is skipped without it, unless all are required.
func tool(t *testing.T, name string, args ...string) {
	t.Helper()
	program := localtest.Program(t, name, "apt-get install --no-install-recommends prometheus prometheus-alertmanager")
	if out, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput(); err != nil {
		t.Errorf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

func TestPromtoolPassesTheAlerts(t *testing.T) {
	tool(t, "promtool", "check", "rules", "--lint=all", "--lint-fatal", "alerts.yml")
	tool(t, "promtool", append([]string{"test", "rules"}, ruleTests()...)...)
}

func TestPromtoolPassesTheConfiguration(t *testing.T) {
	tool(t, "promtool", "check", "config", "prometheus.yml")
}

func TestAmtoolPassesTheExample(t *testing.T) { tool(t, "amtool", "check-config", "alertmanager.yml") }
