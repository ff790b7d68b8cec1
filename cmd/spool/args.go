package main

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// completionFlag is what shells append to ask for completions.
const completionFlag = "--generate-bash-completion"

// arrange moves the flags of a command before its arguments, up to "--": urfave/cli stops at the first
// argument that is none, and would take the flags behind it for arguments, silently. What starts with
// "-" and is no flag is an error. "--" stays among the arguments: see splitArgs.
func arrange(app *cli.App, args []string) ([]string, error) {
	if len(args) < 2 || asksForCompletion(args) {
		return args, nil
	}
	at := commandAt(app, args)
	if at < 0 {
		return args, nil
	}
	if isHelp(args[at]) {
		if at+1 < len(args) && app.Command(args[at+1]) == nil {
			return nil, unknownCommand(app, args[at+1])
		}
		return args, nil
	}
	cmd := app.Command(args[at])
	if cmd == nil {
		return nil, unknownCommand(app, args[at])
	}
	s := sorter{command: cmd.Name, takes: takesValue(cmd.Flags)}
	if err := s.sort(slices.Concat(args[1:at], args[at+1:])); err != nil {
		return nil, err
	}
	out := append([]string{args[0], cmd.Name}, s.flags...)
	if len(s.arguments) == 0 && s.rest != nil {
		out = append(out, "--") // the one that urfave/cli takes away
	}
	return slices.Concat(out, s.arguments, s.rest), nil
}

func asksForCompletion(args []string) bool { return args[len(args)-1] == completionFlag }

func isHelp(s string) bool { return s == "help" || s == "h" }

// commandAt finds the command: the first argument that is neither a flag nor the value of one.
func commandAt(app *cli.App, args []string) int {
	takes := map[string]bool{}
	for _, c := range app.Commands {
		for name, t := range takesValue(c.Flags) {
			takes[name] = takes[name] || t
		}
	}
	for i := 1; i < len(args); i++ {
		name, _, hasValue, ok := parseFlag(args[i])
		switch {
		case !ok:
			return i
		case takes[name] && !hasValue:
			i++
		}
	}
	return -1
}

// sorter takes the arguments of one command apart.
type sorter struct {
	command          string
	takes            map[string]bool
	flags, arguments []string
	rest             []string // from "--" on
}

func (s *sorter) sort(args []string) error {
	for i := 0; i < len(args); i++ {
		if args[i] == "--" {
			s.rest = args[i:]
			return nil
		}
		name, _, hasValue, ok := parseFlag(args[i])
		if !ok {
			s.arguments = append(s.arguments, args[i])
			continue
		}
		takes, known := s.takes[name]
		if !known {
			return failf(exitUsage, "see spool "+s.command+" --help", "unknown flag %q of spool %s", args[i], s.command)
		}
		s.flags = append(s.flags, args[i])
		if takes && !hasValue {
			if i++; i == len(args) {
				return failf(exitUsage, "see spool "+s.command+" --help", "flag %q needs a value", args[i-1])
			}
			s.flags = append(s.flags, args[i])
		}
	}
	return nil
}

// parseFlag takes "-name", "--name" and "--name=value" apart. "-" and "--" are no flags.
func parseFlag(arg string) (name, value string, hasValue, ok bool) {
	if len(arg) < 2 || arg[0] != '-' || arg == "--" {
		return "", "", false, false
	}
	name = strings.TrimPrefix(arg[1:], "-")
	name, value, hasValue = strings.Cut(name, "=")
	return name, value, hasValue, true
}

func takesValue(flags []cli.Flag) map[string]bool {
	takes := map[string]bool{"help": false, "h": false}
	for _, f := range flags {
		d, ok := f.(cli.DocGenerationFlag)
		for _, name := range f.Names() {
			takes[name] = ok && d.TakesValue()
		}
	}
	return takes
}

// splitArgs gives the arguments before "--" and those behind it; rest is nil without "--".
func splitArgs(c *cli.Context) (args, rest []string) {
	all := c.Args().Slice()
	i := slices.Index(all, "--")
	if i < 0 {
		return all, nil
	}
	return all[:i], all[i+1:]
}

// exactArgs gives the arguments of a command that takes min to max of them (max < 0: any number).
func exactArgs(c *cli.Context, min, max int) ([]string, error) {
	args, rest := splitArgs(c)
	args = slices.Concat(args, rest) // "--" only says that no flags follow
	if len(args) < min || max >= 0 && len(args) > max {
		usage := strings.TrimSpace("spool " + c.Command.Name + " " + c.Command.ArgsUsage)
		return nil, failf(exitUsage, "usage: "+usage+"; see --help", "spool %s: %s given", c.Command.Name, plural(int64(len(args)), "argument"))
	}
	return args, nil
}

func unknownCommand(app *cli.App, name string) error {
	hint := "spool --help lists them"
	for _, c := range app.VisibleCommands() {
		if strings.HasPrefix(c.Name, name) || strings.HasPrefix(name, c.Name) {
			hint = "did you mean spool " + c.Name + "?"
			break
		}
	}
	return failf(exitUsage, hint, "unknown command %q", name)
}
