package infra_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestDocsNameWhatIsThere: pages lead to files that are there, and name targets of make and tests that are
// there. The first words of a name will do, as for go test -run.
func TestDocsNameWhatIsThere(t *testing.T) {
	pages, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	pages = append(pages, "../README.md", "../CHANGELOG.md", "../localstack/README.md", "../storage/FORMAT.md", "../monitoring/LOGS.md", "../monitoring/METRICS.md")
	tests, targets := testNames(t), makeTargets(t)
	link := regexp.MustCompile(`\]\(([^)#\s]+)(?:#[^)]*)?\)`)
	target := regexp.MustCompile("(?m)(?:`|^    )make ([a-z-]+)")
	test := regexp.MustCompile(`\bTest[A-Z]\w+`)
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), m[1])); err != nil {
				t.Errorf("%s leads nowhere: %v", page, err)
			}
		}
		for _, m := range target.FindAllStringSubmatch(string(text), -1) {
			if !targets[m[1]] {
				t.Errorf("%s: the Makefile has no target %s", page, m[1])
			}
		}
		for _, name := range test.FindAllString(string(text), -1) {
			if !slices.ContainsFunc(tests, func(there string) bool { return strings.HasPrefix(there, name) }) {
				t.Errorf("%s: there is no test %s", page, name)
			}
		}
	}
}

// testNames are those of the whole module.
func testNames(t *testing.T) []string {
	t.Helper()
	var names []string
	for dir := range packages(t) {
		files, err := filepath.Glob(filepath.Join("..", dir, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			body, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllSubmatch(body, -1) {
				names = append(names, string(m[1]))
			}
		}
	}
	return names
}

func makeTargets(t *testing.T) map[string]bool {
	t.Helper()
	body, err := os.ReadFile("../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^([a-z-]+):`).FindAllSubmatch(body, -1) {
		names[string(m[1])] = true
	}
	return names
}
