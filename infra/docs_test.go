package infra_test

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestArchitectureNamesEveryPackage keeps the table of docs/ARCHITECTURE.md complete, and free of what is gone. Folders that
// hold nothing but tests may be named.
func TestArchitectureNamesEveryPackage(t *testing.T) {
	body, err := os.ReadFile("../docs/ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(body), "\n## Packages\n")
	text, _, _ = strings.Cut(text, "\n### ")
	named := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(text, -1) {
		named[m[1]] = true
	}
	there := packages(t)
	for p, code := range there {
		if code && !named[p] {
			t.Errorf("docs/ARCHITECTURE.md does not name the package %s", p)
		}
	}
	for p := range named {
		if _, ok := there[p]; !ok {
			t.Errorf("docs/ARCHITECTURE.md names the package %s, which is not there", p)
		}
	}
	if len(there) < 10 {
		t.Errorf("found only %v", slices.Sorted(maps.Keys(there)))
	}
}

// packages are the folders of the module that hold Go files, true for those with more than tests.
func packages(t *testing.T) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && (name == "testdata" || name == "bin" || len(name) > 2 && strings.HasPrefix(name, ".")) {
			return fs.SkipDir
		}
		if !d.IsDir() && strings.HasSuffix(name, ".go") {
			dir, err := filepath.Rel("..", filepath.Dir(path))
			dir = filepath.ToSlash(dir)
			found[dir] = found[dir] || !strings.HasSuffix(name, "_test.go")
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
