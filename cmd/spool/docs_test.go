//go:build !nolocal

package main

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/urfave/cli/v2"
)

var update = flag.Bool("update", false, "write the generated parts of docs/CLI.md")

const docsPath = "../../docs/CLI.md"

// TestDocsAreThoseOfTheCommands holds docs/CLI.md against the help.
func TestDocsAreThoseOfTheCommands(t *testing.T) {
	text, err := os.ReadFile(docsPath)
	if err != nil {
		t.Fatal(err)
	}
	want := generated(t, string(text), "exit codes", exitTable())
	want = generated(t, want, "variables", variableTable((&program{}).app()))
	want = generated(t, want, "commands", commandDocs((&program{}).app()))
	if *update {
		if err := os.WriteFile(docsPath, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, string(text)); diff != "" {
		t.Errorf("docs/CLI.md is old: go test ./cmd/spool -run TestDocs -update\n%s", diff)
	}
}

// generated replaces what is between two marks.
func generated(t *testing.T, text, part, body string) string {
	t.Helper()
	before, rest, ok := strings.Cut(text, "<!-- "+part+":")
	comment, rest, ok2 := strings.Cut(rest, "-->\n")
	_, after, ok3 := strings.Cut(rest, "<!-- end -->")
	if !ok || !ok2 || !ok3 {
		t.Fatalf("docs/CLI.md has no part %q", part)
	}
	return before + "<!-- " + part + ":" + comment + "-->\n" + body + "<!-- end -->" + after
}

func exitTable() string {
	var s strings.Builder
	s.WriteString("| exit | meaning |\n| --- | --- |\n")
	meanings := exitMeanings()
	for _, code := range slices.Sorted(maps.Keys(meanings)) {
		fmt.Fprintf(&s, "| %d | %s |\n", code, meanings[code])
	}
	return s.String()
}

// variableTable lists the variables that are not named after their flag.
func variableTable(app *cli.App) string {
	flags, commands := map[string]string{}, map[string][]string{}
	for _, c := range app.Commands {
		for _, f := range c.Flags {
			for _, name := range f.(cli.DocGenerationFlag).GetEnvVars() {
				if !c.Hidden && !strings.HasPrefix(name, "SPOOL_") {
					flags[name] = f.Names()[0]
					commands[name] = append(commands[name], "`"+c.Name+"`")
				}
			}
		}
	}
	all := len(commands["LOG_LEVEL"])
	var s strings.Builder
	s.WriteString("| variable | flag | of |\n| --- | --- | --- |\n")
	for _, name := range slices.Sorted(maps.Keys(flags)) {
		of := strings.Join(commands[name], ", ")
		if len(commands[name]) == all {
			of = "all"
		}
		fmt.Fprintf(&s, "| `%s` | `--%s` | %s |\n", name, flags[name], of)
	}
	return s.String()
}

func commandDocs(app *cli.App) string {
	var s strings.Builder
	for _, c := range app.Commands {
		if c.Hidden {
			continue
		}
		fmt.Fprintf(&s, "### spool %s\n\n", strings.TrimSpace(c.Name+" "+c.ArgsUsage))
		about, examples, _ := strings.Cut(c.Description, "Examples:\n")
		fmt.Fprintf(&s, "%s.\n\n", strings.ToUpper(c.Usage[:1])+c.Usage[1:])
		if about != "" {
			fmt.Fprintf(&s, "%s\n\n", strings.TrimSpace(about))
		}
		for line := range strings.Lines(examples) {
			s.WriteString("    " + strings.TrimSpace(line) + "\n")
		}
		s.WriteString("\n" + flagTable(c))
	}
	return s.String()
}

func flagTable(c *cli.Command) string {
	var s strings.Builder
	for _, f := range c.Flags {
		d := f.(cli.DocGenerationFlag)
		name := f.Names()[0]
		if v, ok := f.(cli.VisibleFlag); ok && !v.IsVisible() || strings.HasPrefix(name, "log-") {
			continue
		}
		names := "`--" + strings.Join(f.Names(), "`, `-") + "`"
		def := strings.Trim(d.GetDefaultText(), `"`)
		switch {
		case !d.TakesValue() || def == "" || def == "0s" || def == "0":
			def = ""
		case def == d.GetValue():
			def = " (default: `" + def + "`)"
		default: // in words
			def = " (default: " + def + ")"
		}
		fmt.Fprintf(&s, "| %s | %s%s |\n", names, strings.ReplaceAll(strings.ReplaceAll(d.GetUsage(), "`", ""), "|", "\\|"), def)
	}
	if s.Len() == 0 {
		return ""
	}
	return "| flag | |\n| --- | --- |\n" + s.String() + "\n"
}

func TestEveryCommandHasAnExample(t *testing.T) {
	for _, c := range (&program{}).app().Commands {
		if c.Name == "local-s3" { // a child that people never start
			continue
		}
		_, examples, _ := strings.Cut(c.Description, "Examples:\n")
		for line := range strings.Lines(examples) {
			words := strings.Fields(strings.TrimSpace(line))
			if at := indexOf(words, "spool"); at >= 0 && words[at+1] == c.Name {
				continue
			}
			if !strings.Contains(line, "spool "+c.Name) {
				t.Errorf("spool %s: example %q is about something else", c.Name, line)
			}
		}
		if examples == "" {
			t.Errorf("spool %s has no example", c.Name)
		}
	}
}

func indexOf(words []string, word string) int {
	for i, w := range words[:max(0, len(words)-1)] {
		if w == word {
			return i
		}
	}
	return -1
}
