package watcher

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What is counted as a failure is text in many places.
func TestWhatFailsIsAllThatTheSourceCounts(t *testing.T) {
	paths, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		files := token.NewFileSet()
		file, err := parser.ParseFile(files, path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if what := whatOf(n); what != nil {
				text, ok := what.(*ast.BasicLit)
				if !ok {
					if name, ok := what.(*ast.Ident); !ok || name.Name != "what" { // the parameter of failed
						t.Errorf("%s: what failed is no literal", files.Position(n.Pos()))
					}
					return true
				}
				s, err := strconv.Unquote(text.Value)
				found[s] = err == nil
			}
			return true
		})
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(found)), whatFails()); diff != "" {
		t.Errorf("what fails (-source +list):\n%s", diff)
	}
}

// whatOf gives the first argument of failed, and of the counter of errors.
func whatOf(n ast.Node) ast.Expr {
	call, ok := n.(*ast.CallExpr)
	if !ok || len(call.Args) == 0 {
		return nil
	}
	f, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return nil
	}
	on, _ := f.X.(*ast.SelectorExpr)
	if f.Sel.Name == "failed" || f.Sel.Name == "WithLabelValues" && on != nil && on.Sel.Name == "errors" {
		return call.Args[0]
	}
	return nil
}
