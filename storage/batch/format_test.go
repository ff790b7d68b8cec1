package batch

import (
	"encoding/json"
	"os"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// formatSection gives the text of FORMAT.md below a heading, up to the next.
func formatSection(t *testing.T, heading string) string {
	t.Helper()
	text, err := os.ReadFile("../FORMAT.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(text), "# "+heading+"\n")
	if !ok {
		t.Fatalf("FORMAT.md has no section %q", heading)
	}
	section, _, _ = strings.Cut(section, "\n#")
	return section
}

// example gives the first example of a section.
func example(t *testing.T, heading string) any {
	t.Helper()
	var text strings.Builder
	for line := range strings.Lines(formatSection(t, heading)) {
		code, ok := strings.CutPrefix(line, "    ")
		if !ok && text.Len() > 0 {
			break
		}
		text.WriteString(strings.TrimSpace(code))
	}
	var v any
	if err := json.Unmarshal([]byte(text.String()), &v); err != nil {
		t.Fatalf("%s: %v in %s", heading, err, text.String())
	}
	return v
}

// members gives the paths of the members that a type may have: "chunks.counts.ok".
func members(typ reflect.Type, path string, into map[string]bool) {
	switch typ.Kind() {
	case reflect.Pointer, reflect.Map:
		members(typ.Elem(), path, into)
	case reflect.Slice:
		if typ != reflect.TypeFor[json.RawMessage]() {
			members(typ.Elem(), path, into)
		}
	case reflect.Struct:
		for i := range typ.NumField() {
			name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
			into[path+"."+name] = true
			members(typ.Field(i).Type, path+"."+name, into)
		}
	}
}

// named gives the paths of the members that an example of a type has.
func named(v any, typ reflect.Type, path string, into map[string]bool) {
	for typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			named(e, typ.Elem(), path, into)
		}
	case map[string]any:
		for name, e := range v {
			switch typ.Kind() {
			case reflect.Map:
				named(e, typ.Elem(), path, into)
			case reflect.Struct:
				into[path+"."+name] = true
				named(e, memberType(typ, name), path+"."+name, into)
			}
		}
	}
}

func memberType(typ reflect.Type, name string) reflect.Type {
	for i := range typ.NumField() {
		if tag, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ","); tag == name {
			return typ.Field(i).Type
		}
	}
	return reflect.TypeFor[json.RawMessage]() // unknown: only its name counts
}

// FORMAT.md shows every member of every object, and none that is not there.
func TestFormatShowsEveryMember(t *testing.T) {
	type lease struct { // storage/lease's, with spool's notes
		V       int        `json:"v"`
		Gen     int        `json:"gen"`
		Owner   string     `json:"owner"`
		State   string     `json:"state"`
		Renewed int        `json:"renewed"`
		TTL     int        `json:"ttl"`
		Notes   LeaseNotes `json:"notes"`
	}
	for heading, typ := range map[string]reflect.Type{
		"plan.json":       reflect.TypeFor[Plan](),
		"stop.json":       reflect.TypeFor[Stop](),
		"done":            reflect.TypeFor[Done](),
		"manifest.json":   reflect.TypeFor[Manifest](),
		"result.json":     reflect.TypeFor[Result](),
		"Markers":         reflect.TypeFor[Open](),
		"status.json":     reflect.TypeFor[Status](),
		"Runner's record": reflect.TypeFor[Runner](),
		"Message":         reflect.TypeFor[Message](),
		"sent.json":       reflect.TypeFor[Sent](),
		"Lease":           reflect.TypeFor[lease](),
		"batch.json":      reflect.TypeFor[Object](),
		"Bad lines":       reflect.TypeFor[BadLine](),
	} {
		want, got := map[string]bool{}, map[string]bool{}
		members(typ, "", want)
		named(example(t, heading), typ, "", got)
		if heading == "done" {
			delete(want, ".chunks.missing") // of a manifest only
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-type +FORMAT.md):\n%s", heading, diff)
		}
	}
}

func TestFormatNamesEveryMemberOfTheSummary(t *testing.T) {
	text := formatSection(t, "summary.json")
	elsewhere := []string{".input.", ".usage.", ".runners.", ".file_errors."}
	all := map[string]bool{}
	members(reflect.TypeFor[Summary](), "", all)
	for path := range all {
		name := "`" + path[strings.LastIndex(path, ".")+1:] + "`"
		inside := false
		for _, e := range elsewhere {
			inside = inside || strings.HasPrefix(path, e)
		}
		if !inside && !strings.Contains(text, name) {
			t.Errorf("FORMAT.md does not name %s", path)
		}
	}
}

// The codes that are constants here, and those of a stop, are explained.
func TestFormatExplainsEveryCode(t *testing.T) {
	source, err := os.ReadFile("codes.go")
	if err != nil {
		t.Fatal(err)
	}
	text := formatSection(t, "Codes")
	codes := regexp.MustCompile(`= "([a-z_]+)"`).FindAllStringSubmatch(string(source), -1)
	if len(codes) < 10 {
		t.Fatalf("found %d codes in codes.go", len(codes))
	}
	for _, c := range codes {
		if !strings.Contains(text, "`"+c[1]+"`") {
			t.Errorf("FORMAT.md does not explain %s", c[1])
		}
	}
}

// The vectors of FORMAT.md are for whoever computes ids elsewhere.
func TestIDVectorsOfFormat(t *testing.T) {
	rows := regexp.MustCompile(`(?m)^\| `+"`(.*?)` \\| `(.*?)` \\| `(.*?)` \\| (\\d+) \\| (\\d+) \\| (\\d+) \\| `(.*?)`"+` \|$`).
		FindAllStringSubmatch(formatSection(t, "Batch id"), -1)
	if len(rows) != 3 {
		t.Fatalf("found %d vectors, want 3", len(rows))
	}
	for _, r := range rows {
		number := func(s string) int {
			n, err := strconv.Atoi(s)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		id := Identity{r[1], r[2], r[3], int64(number(r[4])), number(r[5]), number(r[6])}
		if got := id.ID(); got != r[7] {
			t.Errorf("ID(%+v) = %s, want %s", id, got, r[7])
		}
		id.ETag = `"` + id.ETag + `"`
		if got := id.ID(); got != r[7] {
			t.Errorf("with quotes: ID(%+v) = %s, want %s", id, got, r[7])
		}
	}
}
