package infra_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"spool/storage/batch"
)

// row is a line of the table of keys in storage/FORMAT.md.
type row struct {
	key     string // of an example
	writers []string
	how     string
}

// TestEveryKeyOfTheFormatHasItsWritersAndItsCondition reads the format itself, so that a key that is added there is
// asked for here.
func TestEveryKeyOfTheFormatHasItsWritersAndItsCondition(t *testing.T) {
	w := newWorld(t)
	for _, r := range formatRows(t) {
		t.Run(r.key, func(t *testing.T) {
			good, bad := conditions(r)
			for _, condition := range good {
				for _, role := range r.writers {
					w.mustAllow(t, role, put(r.key, condition), upload(r.key, condition))
				}
				for _, role := range w.others(r.writers...) {
					w.mustDeny(t, role, write(r.key, condition))
				}
			}
			for _, condition := range bad {
				for _, role := range r.writers {
					if ok, _ := w.may(t, role, put(r.key, condition)); ok {
						t.Errorf("%s may put %s with condition %q", role, r.key, condition)
					}
				}
			}
		})
	}
}

// conditions says with which conditions a key is written, and with which the bucket must refuse it even from those who
// write it. Hints under sys/ may be written in any way.
func conditions(r row) (good, bad []string) {
	switch {
	case strings.HasPrefix(r.how, "compare-and-swap"):
		return []string{ifAbsent, ifMatch}, []string{unconditional}
	case strings.HasPrefix(r.how, "overwritten"), strings.HasPrefix(r.how, "may be rebuilt"):
		return []string{unconditional}, nil
	case strings.HasPrefix(r.key, batch.SysPrefix+"b/"), strings.HasPrefix(r.how, "once"):
		return []string{ifAbsent}, []string{unconditional, ifMatch}
	default: // inputs, hints, logs
		return []string{ifAbsent, unconditional}, nil
	}
}

var (
	cells  = regexp.MustCompile(`^\| (.*?) \| (.*?) \| (.*?) \| (.*?) \|$`)
	quoted = regexp.MustCompile("`([^`]+)`")
	tokens = strings.NewReplacer("<path>", "math/gsm8k.jsonl", "<batch>", id, "<shard>", "00000", "<chunk>", "000000",
		"<folder>", "f", "<runner>", runner, "<n>", "000001", "<hash>", "abc", "<name>", "7", "<first>", "0000000001", "<last>", "0000000009", "<component>", "runner", "/…", "/x")
	writers = map[string][]string{
		"the user": {"user"}, "watcher": {"watcher"}, "runner": {"runner"}, "finaliser": {"runner", "watcher"}, "all": {"runner", "watcher"},
		"watcher, doctor": {"watcher"}, // an operator runs spool doctor in the watcher's role
	}
)

// formatRows reads the table under "Keys", with an example for each key.
func formatRows(t *testing.T) []row {
	t.Helper()
	body, err := os.ReadFile("../storage/FORMAT.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, ok := strings.Cut(string(body), "## Keys\n")
	if !ok {
		t.Fatal("storage/FORMAT.md has no section Keys")
	}
	text, _, _ = strings.Cut(text, "\n## ")
	var rows []row
	folder := "" // what "…" repeats
	for line := range strings.Lines(text) {
		m := cells.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil || m[1] == "key" || strings.HasPrefix(m[1], "---") {
			continue
		}
		who := writers[m[2]]
		if who == nil {
			t.Fatalf("%s is written by %q, whom this test does not know", m[1], m[2])
		}
		for _, q := range quoted.FindAllStringSubmatch(m[1], -1) {
			key := q[1]
			if rest, ok := strings.CutPrefix(key, "…/"); ok {
				key = folder + rest
			} else {
				folder = key[:strings.LastIndex(key, "/")+1]
			}
			key = tokens.Replace(key)
			if strings.ContainsAny(key, "<>…") {
				t.Fatalf("key %q has a part that this test does not know", key)
			}
			rows = append(rows, row{key, who, m[4]})
		}
	}
	if len(rows) < 20 || !slices.ContainsFunc(rows, func(r row) bool { return r.key == batch.ChunkKey(id, 0, 0) }) {
		t.Fatalf("read %d rows from storage/FORMAT.md, without a chunk: %v", len(rows), rows)
	}
	return rows
}
