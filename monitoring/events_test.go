package monitoring_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// loggers are the folders whose log is as LOGS.md says.
var loggers = []string{"../cmd/spool", "../monitoring", "../runner", "../watcher"}

// call is a call of a method or a package's function.
type call struct {
	where    string // file and line
	folder   string
	on, name string // zap, String
	args     []ast.Expr
}

// standsIn reports whether a file is of tests or of what stands in for something else in them.
func standsIn(path string) bool {
	return strings.HasSuffix(path, "_test.go") || strings.HasSuffix(filepath.Dir(path), "test") || strings.Contains(path, "vllmsim")
}

// calls gives all calls in loggers, but in tests and stand-ins.
func calls(t *testing.T) []call {
	t.Helper()
	var list []call
	files := token.NewFileSet()
	eachFile(t, files, loggers, func(folder string, file *ast.File) {
		ast.Inspect(file, func(n ast.Node) bool {
			if c, ok := n.(*ast.CallExpr); ok {
				if f, ok := c.Fun.(*ast.SelectorExpr); ok {
					on, _ := f.X.(*ast.Ident)
					list = append(list, call{files.Position(c.Pos()).String(), folder, fmt.Sprint(on), f.Sel.Name, c.Args})
				}
			}
			return true
		})
	})
	return list
}

// eachFile parses the sources in folders and below, but tests and stand-ins.
func eachFile(t *testing.T, files *token.FileSet, folders []string, read func(folder string, file *ast.File)) {
	t.Helper()
	for _, dir := range folders {
		err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || standsIn(path) {
				return err
			}
			file, err := parser.ParseFile(files, path, nil, 0)
			if err == nil {
				read(strings.TrimPrefix(filepath.ToSlash(filepath.Dir(path)), "../"), file)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func literal(e ast.Expr) string {
	l, ok := e.(*ast.BasicLit)
	if !ok || l.Kind != token.STRING {
		return ""
	}
	s, _ := strconv.Unquote(l.Value)
	return s
}

// event gives what stands in zap.String("event", …); "?" if that is no literal, "" if e is something else.
func event(e ast.Expr) string {
	c, ok := e.(*ast.CallExpr)
	if !ok || len(c.Args) != 2 || literal(c.Args[0]) != "event" {
		return ""
	}
	if s := literal(c.Args[1]); s != "" {
		return s
	}
	return "?"
}

// elsewhere are events whose lines are not made in one call.
var elsewhere = map[string]string{"engine_output": "| `engine_output` | runner/vllm | as the engine says | what the engine wrote, a line at a time |"}

// Every line has an event, and LOGS.md has them all and no other, as they are in the source. The message is constant text.
// go test ./monitoring -run Event -update writes the table.
func TestEveryLogLineHasAnEventOfTheTable(t *testing.T) {
	rows := map[string]bool{}
	for _, c := range calls(t) {
		name, level, message := "", "", ""
		switch {
		case c.name == "failed" && len(c.args) > 1 && literal(c.args[0]) != "": // of the watcher: it makes an event of what failed
			name, level, message = strings.ReplaceAll(literal(c.args[0]), " ", "_")+"_failed", "error", "failed, will be tried again"
		case slices.Contains([]string{"Debug", "Info", "Warn", "Error"}, c.name) && c.on != "zap" && len(c.args) > 0:
			if level, message = strings.ToLower(c.name), literal(c.args[0]); message == "" {
				t.Errorf("%s: the message is not constant text", c.where)
			}
			for _, a := range c.args[1:] {
				name += event(a)
				if more, ok := a.(*ast.CallExpr); ok && name == "" && len(more.Args) > 1 { // append(fields, zap.String("event", …))
					for _, a := range more.Args[1:] {
						name += event(a)
					}
				}
			}
			if name == "" {
				t.Errorf("%s: no event", c.where)
			}
		case c.on == "zap" && c.name == "String" && elsewhere[literal(c.args[len(c.args)-1])] != "":
			rows[elsewhere[literal(c.args[1])]] = true
		}
		if name == "" || name == "?" {
			continue
		}
		if !regexp.MustCompile(`^[a-z]+(_[a-z]+)*$`).MatchString(name) {
			t.Errorf("%s: event %q is no snake_case", c.where, name)
		}
		rows[fmt.Sprintf("| `%s` | %s | %s | %s |", name, c.folder, level, message)] = true
	}
	text, err := os.ReadFile("LOGS.md")
	if err != nil {
		t.Fatal(err)
	}
	before, _, ok := strings.Cut(string(text), "| event |")
	if !ok {
		t.Fatal("LOGS.md has no table of events")
	}
	want := before + "| event | where | level | message |\n| --- | --- | --- | --- |\n" + strings.Join(slices.Sorted(maps.Keys(rows)), "\n") + "\n"
	if *update {
		if err := os.WriteFile("LOGS.md", []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, string(text)); diff != "" {
		t.Errorf("LOGS.md is old: go test ./monitoring -run Event -update\n%s", diff)
	}
}
