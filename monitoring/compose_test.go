package monitoring_test

import (
	"encoding/json"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// compose is what the tests look at of compose.yaml.
type compose struct {
	Name     string
	Services map[string]struct {
		Image, Restart, User    string
		Command, Ports, Volumes []string
		SecurityOpt             []string `yaml:"security_opt"`
		CapDrop                 []string `yaml:"cap_drop"`
		Environment             map[string]string
		DependsOn               map[string]struct{ Condition string } `yaml:"depends_on"`
		Healthcheck             struct {
			Test              []string
			Interval, Timeout time.Duration
			StartPeriod       time.Duration `yaml:"start_period"`
			Retries           int
			Others            map[string]any `yaml:",inline"`
		}
		Others map[string]any `yaml:",inline"`
	}
	Volumes map[string]any
	Others  map[string]any `yaml:",inline"`
}

func readCompose(t *testing.T) compose {
	t.Helper()
	var c compose
	readYAML(t, "compose.yaml", &c)
	return c
}

// serves tells if a service listens at an address of the network between the containers.
func (c compose) serves(address string) bool {
	name, port, _ := strings.Cut(address, ":")
	return slices.Contains(c.Services[name].Ports, "127.0.0.1:"+port+":"+port)
}

func TestDockerComposePassesTheFile(t *testing.T) {
	if err := exec.CommandContext(t.Context(), "docker", "compose", "version").Run(); err != nil {
		t.Skipf("docker compose is not installed: %v", err) // and nothing that CI runs installs it
	}
	tool(t, "docker", "compose", "-f", "compose.yaml", "config", "--quiet")
}

// TestComposeHasNoWrongWords: docker compose refuses a file with a word that it does not know, and no test here starts one.
func TestComposeHasNoWrongWords(t *testing.T) {
	c := readCompose(t)
	for key := range c.Others {
		if !strings.HasPrefix(key, "x-") {
			t.Errorf("the file has the unknown word %s", key)
		}
	}
	for name, s := range c.Services {
		if len(s.Others) > 0 || len(s.Healthcheck.Others) > 0 {
			t.Errorf("%s has the unknown words %v %v", name, s.Others, s.Healthcheck.Others)
		}
		h := s.Healthcheck
		if len(h.Test) < 2 || h.Test[0] != "CMD" || h.Interval <= h.Timeout || h.Timeout <= 0 || h.Retries < 1 {
			t.Errorf("%s: health check %+v", name, h)
		}
		for other, d := range s.DependsOn {
			if _, ok := c.Services[other]; !ok || d.Condition != "service_healthy" {
				t.Errorf("%s waits for %s to be %q", name, other, d.Condition)
			}
		}
		if s.Restart != "unless-stopped" || !slices.Equal(s.SecurityOpt, []string{"no-new-privileges:true"}) {
			t.Errorf("%s: restart %q, security_opt %v", name, s.Restart, s.SecurityOpt)
		}
	}
}

func TestComposeIsPinnedLocalAndWatched(t *testing.T) {
	c := readCompose(t)
	pinned := regexp.MustCompile(`^[a-z]+/[a-z]+:v?\d+\.\d+\.\d+$`)
	var names []string
	used := map[string]bool{}
	for name, s := range c.Services {
		names = append(names, name)
		if !pinned.MatchString(s.Image) {
			t.Errorf("%s: the image %s has no version", name, s.Image)
		}
		if len(s.Ports) != 1 || !strings.HasPrefix(s.Ports[0], "127.0.0.1:") {
			t.Errorf("%s: ports %v, want one of the loopback interface", name, s.Ports)
		}
		_, inside, _ := strings.Cut(strings.TrimPrefix(s.Ports[0], "127.0.0.1:"), ":")
		if test := strings.Join(s.Healthcheck.Test, " "); !strings.Contains(strings.ReplaceAll(test, "/1", ":1"), "127.0.0.1:"+inside) {
			t.Errorf("%s: the health check %q does not ask port %s", name, test, inside)
		}
		for _, v := range s.Volumes {
			source, _, _ := strings.Cut(v, ":")
			switch {
			case strings.HasPrefix(source, "./"):
				if _, err := os.Stat(source); err != nil || !strings.HasSuffix(v, ":ro") {
					t.Errorf("%s: volume %s: %v, want what is there, read only", name, v, err)
				}
			case !strings.HasPrefix(source, "$"):
				used[source] = true
			}
		}
	}
	slices.Sort(names)
	if want := []string{"alertmanager", "alloy", "grafana", "loki", "prometheus", "pushgateway"}; !slices.Equal(names, want) {
		t.Errorf("services %v, want %v", names, want)
	}
	for name := range c.Volumes {
		if !used[name] {
			t.Errorf("nobody uses the volume %s", name)
		}
	}
	if len(used) != len(c.Volumes) || len(used) != len(names) {
		t.Errorf("volumes %v of %v, want one a service", used, c.Volumes)
	}
}

func TestPrometheusAsksServicesOfCompose(t *testing.T) {
	type targets struct {
		Static []struct{ Targets []string } `yaml:"static_configs"`
	}
	var file struct {
		Scrape   []targets `yaml:"scrape_configs"`
		Alerting struct{ Alertmanagers []targets }
	}
	readYAML(t, "prometheus.yml", &file)
	var got []string
	for _, list := range slices.Concat(file.Scrape, file.Alerting.Alertmanagers) {
		for _, s := range list.Static {
			got = append(got, s.Targets...)
		}
	}
	c := readCompose(t)
	for _, address := range got {
		if !c.serves(address) {
			t.Errorf("no service is at %s", address)
		}
	}
	if want := []string{"pushgateway:9091", "alertmanager:9093"}; !slices.Equal(got, want) {
		t.Errorf("Prometheus asks %v, want %v", got, want)
	}
}

// TestPrometheusOfComposeStoresNativeHistograms: its configuration is the one for all, which Debian's promtool can check, and the
// line that keeps classic histograms, which it does not know. Without it the native form would take their place.
func TestPrometheusOfComposeStoresNativeHistograms(t *testing.T) {
	var want, got map[string]any
	readYAML(t, "prometheus.yml", &want)
	readYAML(t, "compose/prometheus.yml", &got)
	want["scrape_configs"].([]any)[0].(map[string]any)["always_scrape_classic_histograms"] = true
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("compose/prometheus.yml (-want +got):\n%s", diff)
	}
	p := readCompose(t).Services["prometheus"]
	if !slices.Contains(p.Command, "--enable-feature=native-histograms,exemplar-storage") ||
		!slices.Contains(p.Volumes, "./compose/prometheus.yml:/etc/prometheus/prometheus.yml:ro") {
		t.Errorf("command %q, volumes %q", p.Command, p.Volumes)
	}
}

func TestGrafanaFindsSourcesAndDashboards(t *testing.T) {
	var sources struct {
		Datasources []struct {
			UID, Type, URL string
			IsDefault      bool `yaml:"isDefault"`
		}
	}
	readYAML(t, "compose/grafana/datasources/spool.yaml", &sources)
	c := readCompose(t)
	var got []string
	for _, s := range sources.Datasources {
		u, err := url.Parse(s.URL)
		if err != nil || !c.serves(u.Host) {
			t.Errorf("%s: no service is at %s (%v)", s.UID, s.URL, err)
		}
		if s.IsDefault != (s.Type == "prometheus") {
			t.Errorf("%s: is the default: %t", s.UID, s.IsDefault)
		}
		got = append(got, s.UID+" "+s.Type)
	}
	if want := []string{"spool-prometheus prometheus", "spool-loki loki"}; !slices.Equal(got, want) {
		t.Errorf("sources %v, want %v", got, want)
	}

	var provider struct {
		Providers []struct{ Options struct{ Path string } }
	}
	readYAML(t, "compose/grafana/dashboards/spool.yaml", &provider)
	if mount := "./dashboards:" + provider.Providers[0].Options.Path + ":ro"; !slices.Contains(c.Services["grafana"].Volumes, mount) {
		t.Errorf("volumes %v, want %s", c.Services["grafana"].Volumes, mount)
	}
}

// TestDashboardsChooseASourceThatIsThere: they take the default one of their type.
func TestDashboardsChooseASourceThatIsThere(t *testing.T) {
	files, err := filepath.Glob("dashboards/*.json")
	if err != nil || len(files) != 3 {
		t.Fatalf("dashboards %v, %v, want three", files, err)
	}
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var d struct {
			Templating struct {
				List []struct{ Name, Type, Query string }
			}
		}
		if err := json.Unmarshal(text, &d); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if v := d.Templating.List[0]; v.Name != "datasource" || v.Type != "datasource" || v.Query != "prometheus" {
			t.Errorf("%s takes its data from %+v", path, v)
		}
	}
}

// block gives the names that an Alloy block lists, one a line.
func block(t *testing.T, config, name string) []string {
	t.Helper()
	_, rest, ok := strings.Cut(config, "stage."+name+" {")
	body, _, closed := strings.Cut(rest, "\n  }\n")
	if !ok || !closed {
		t.Fatalf("config.alloy has no stage %s", name)
	}
	var names []string
	for _, m := range regexp.MustCompile(`(?m)^ +([a-z_]+) += "",$`).FindAllStringSubmatch(body, -1) {
		names = append(names, m[1])
	}
	return names
}

func TestLogsInLokiHaveFewLabels(t *testing.T) {
	text, err := os.ReadFile("compose/config.alloy")
	if err != nil {
		t.Fatal(err)
	}
	config := string(text)
	if got, want := block(t, config, "labels"), []string{"service", "level"}; !slices.Equal(got, want) {
		t.Errorf("labels %v, want %v", got, want)
	}
	if !strings.Contains(config, `values = ["service", "env", "pool", "level"]`) {
		t.Error("other labels than service, env, pool and level are kept")
	}
	many := []string{"batch_id", "request_id", "trace_id", "runner_id"}
	if got := block(t, config, "structured_metadata"); !slices.Equal(got, many) {
		t.Errorf("structured metadata %v, want %v", got, many)
	}
	read := block(t, config, "json")
	if want := append([]string{"timestamp", "level", "logger"}, many...); !slices.Equal(read, want) {
		t.Errorf("read are %v, want %v", read, want)
	}
	logs, err := os.ReadFile("LOGS.md")
	if err != nil {
		t.Fatal(err)
	}
	fields, _, _ := strings.Cut(string(logs), "What is never there")
	for _, name := range read {
		if !strings.Contains(fields, "`"+name+"`") {
			t.Errorf("lines of logs have no field %s", name)
		}
	}
	if !strings.Contains(config, `url = "http://loki:3100/loki/api/v1/push"`) || !readCompose(t).serves("loki:3100") {
		t.Error("logs do not go to the service loki")
	}
}

func TestLokiTakesStructuredMetadata(t *testing.T) {
	var file struct {
		Schema struct {
			Configs []struct{ Store, Schema string }
		} `yaml:"schema_config"`
		Limits struct {
			Structured bool      `yaml:"allow_structured_metadata"`
			Names      *[]string `yaml:"discover_service_name"`
		} `yaml:"limits_config"`
	}
	readYAML(t, "compose/loki.yaml", &file)
	if s := file.Schema.Configs; len(s) != 1 || s[0].Store != "tsdb" || s[0].Schema != "v13" || !file.Limits.Structured {
		t.Errorf("schema %+v, structured metadata: %t", s, file.Limits.Structured)
	}
	if n := file.Limits.Names; n == nil || len(*n) != 0 {
		t.Errorf("Loki makes a label of %v", n)
	}
}
