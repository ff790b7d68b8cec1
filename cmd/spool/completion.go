package main

import (
	"maps"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

func (p *program) completionCommand() *cli.Command {
	return &cli.Command{
		Name:      "completion",
		Usage:     "print the completion script of a shell",
		ArgsUsage: "bash|zsh|fish",
		Description: "Examples:\n   source <(spool completion bash)\n   spool completion zsh > ~/.zfunc/_spool\n" +
			"   spool completion fish > ~/.config/fish/completions/spool.fish",
		Action: p.completion,
	}
}

func (p *program) completion(c *cli.Context) error {
	args, err := exactArgs(c, 1, 1)
	if err != nil {
		return err
	}
	if args[0] == "fish" {
		script, err := c.App.ToFishCompletion()
		if err != nil {
			return err
		}
		return p.printf("%s", script)
	}
	script, ok := completionScripts()[args[0]]
	if !ok {
		return usagef("shell %q: want fish, %s", args[0], strings.Join(slices.Sorted(maps.Keys(completionScripts())), " or "))
	}
	return p.printf("%s", script)
}

// completionScripts ask the program itself, so that they need no change when it does. Where it has
// nothing to offer, files are completed.
func completionScripts() map[string]string {
	return map[string]string{
		"bash": `_spool() {
  local cur="${COMP_WORDS[COMP_CWORD]}" words
  if [[ "$cur" == -* ]]; then
    words=$("${COMP_WORDS[@]:0:$COMP_CWORD}" "$cur" --generate-bash-completion 2>/dev/null)
  else
    words=$("${COMP_WORDS[@]:0:$COMP_CWORD}" --generate-bash-completion 2>/dev/null)
  fi
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
}
complete -o bashdefault -o default -F _spool spool
`,
		"zsh": `#compdef spool
_spool() {
  local -a opts
  local cur=${words[-1]}
  if [[ "$cur" == -* ]]; then
    opts=("${(@f)$(${words[@]:0:#words[@]-1} ${cur} --generate-bash-completion 2>/dev/null)}")
  else
    opts=("${(@f)$(${words[@]:0:#words[@]-1} --generate-bash-completion 2>/dev/null)}")
  fi
  if [[ -n "${opts[1]}" ]]; then
    _describe 'values' opts
  else
    _files
  fi
}
compdef _spool spool
`,
	}
}
