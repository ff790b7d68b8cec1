package monitoring_test

import (
	"go/ast"
	"go/token"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"spool/runner/vllm"
	"spool/storage"
)

// source is what the sources of a folder say of types of errors.
type source struct {
	consts map[string]string // of text, by name
	typed  map[string]bool   // what methods ErrorType return
	open   map[string]bool   // the receivers of those that return something else than a constant
}

// read adds a file.
func (s *source) read(folder string, file *ast.File) {
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.ValueSpec:
			for i, v := range n.Values {
				if text := literal(v); text != "" {
					s.consts[n.Names[i].Name] = text
				}
			}
		case *ast.FuncDecl:
			if n.Name.Name == "ErrorType" {
				s.returns(folder, n)
			}
		}
		return true
	})
}

func (s *source) returns(folder string, f *ast.FuncDecl) {
	name := folder
	if f.Recv != nil {
		t := f.Recv.List[0].Type
		if p, ok := t.(*ast.StarExpr); ok {
			t = p.X
		}
		name += "." + t.(*ast.Ident).Name
	}
	ast.Inspect(f, func(n ast.Node) bool {
		if r, ok := n.(*ast.ReturnStmt); ok && len(r.Results) == 1 {
			if v := value(r.Results[0], nil); v != "" {
				s.typed[v] = true
			} else {
				s.open[name] = true
			}
		}
		return true
	})
}

// value gives the text of a literal, or "const " and the name of a constant.
func value(e ast.Expr, consts map[string]string) string {
	name := ""
	switch e := e.(type) {
	case *ast.Ident:
		name = e.Name
	case *ast.SelectorExpr:
		name = e.Sel.Name
	case *ast.CallExpr: // string(CauseArgument)
		if f, ok := e.Fun.(*ast.Ident); ok && f.Name == "string" {
			return value(e.Args[0], consts)
		}
	}
	switch {
	case literal(e) != "":
		return literal(e)
	case consts != nil:
		return consts[name]
	case regexp.MustCompile(`^([Tt]ype|Code)[A-Z]`).MatchString(name):
		return "const " + name
	}
	return ""
}

// readSource reads all that logs, and what its errors come from.
func readSource(t *testing.T) *source {
	t.Helper()
	s := &source{map[string]string{}, map[string]bool{}, map[string]bool{}}
	eachFile(t, token.NewFileSet(), append([]string{"../storage"}, loggers...), s.read)
	return s
}

// computed are the types that ErrorType methods make of something else than one constant.
func computed(s *source) map[string][]string {
	store := []string{}
	for k := storage.KindUnknown; k <= storage.KindInvalid; k++ {
		store = append(store, (&storage.Error{Kind: k}).ErrorType())
	}
	causes := []string{}
	for name, text := range s.consts {
		if strings.HasPrefix(name, "Cause") {
			causes = append(causes, (&vllm.StartError{Cause: vllm.Cause(text)}).ErrorType())
		}
	}
	return map[string][]string{
		"storage.Error":             store,
		"runner/vllm.StartError":    causes,
		"runner.causeError":         append(causes, vllm.CodeModelNotFound, vllm.CodeEngineDenied), // engines' fatal answers
		"runner/vllm.typed":         {vllm.TypeDied, vllm.TypeDown, vllm.TypeHangs},
		"storage/batch.formatError": {"corrupt_object", "later_version"},
		"monitoring":                nil, // those of the others
	}
}

// errorTypeOf gives the type of the error that a call logs; "" if it has none, "?" if it is that of an error, or is that of
// failed lines.
func errorTypeOf(c call, consts map[string]string) string {
	found := ""
	for _, a := range c.args {
		ast.Inspect(a, func(n ast.Node) bool {
			field, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			f, ok := field.Fun.(*ast.SelectorExpr)
			switch {
			case !ok:
			case f.Sel.Name == "Error" && len(field.Args) == 1 && found == "":
				found = "?"
			case f.Sel.Name == "String" && len(field.Args) == 2 && literal(field.Args[0]) == "error_type":
				if found = value(field.Args[1], consts); found == "" {
					found = "?"
				}
			}
			return true
		})
	}
	return found
}

// Every warning and error has a type, of a list that is closed: LOGS.md has each that the source can make, and no other.
func TestEveryWarningAndErrorHasATypeOfTheList(t *testing.T) {
	s := readSource(t)
	made := map[string]bool{}
	for v := range s.typed {
		if name, ok := strings.CutPrefix(v, "const "); ok {
			v = s.consts[name]
		}
		made[v] = true
	}
	known := computed(s)
	if diff := cmp.Diff(slices.Sorted(maps.Keys(known)), slices.Sorted(maps.Keys(s.open))); diff != "" {
		t.Errorf("methods ErrorType that return no constant:\n%s", diff)
	}
	for _, list := range known {
		for _, v := range list {
			made[v] = true
		}
	}
	lines := 0
	for _, c := range calls(t) {
		if c.on == "zap" || c.name != "Warn" && c.name != "Error" || len(c.args) < 2 {
			continue
		}
		lines++
		switch v := errorTypeOf(c, s.consts); v {
		case "":
			t.Errorf("%s: no error, and no error_type", c.where)
		case "?":
		default:
			made[v] = true
		}
	}
	made[vllm.TypeEngine] = true // of engine_output
	text, err := os.ReadFile("LOGS.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "\n## Error types\n")
	table, _, _ = strings.Cut(table, "\n## ")
	listed := []string{}
	for _, row := range regexp.MustCompile(`(?m)^\| (`+"`[^|]*)").FindAllString(table, -1) {
		for _, m := range regexp.MustCompile("`([a-z0-9_]+)`").FindAllStringSubmatch(row, -1) {
			listed = append(listed, m[1])
		}
	}
	slices.Sort(listed)
	if diff := cmp.Diff(slices.Sorted(maps.Keys(made)), listed); diff != "" {
		t.Errorf("types in the source (-) and in LOGS.md (+):\n%s", diff)
	}
	t.Logf("%d warnings and errors, %d types", lines, len(made))
}
