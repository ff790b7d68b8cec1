package main

import (
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
		BashComplete: func(*cli.Context) {
			for _, shell := range shells() {
				_ = p.printf("%s\n", shell) // to a shell that has lost interest
			}
		},
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
		// Without this line the names of files stand among those of the commands.
		return p.printf("%s\ncomplete -c spool -n '__fish_spool_no_subcommand' -f\n", script)
	}
	script, ok := completionScripts()[args[0]]
	if !ok {
		return usagef("shell %q: want one of %s", args[0], strings.Join(shells(), ", "))
	}
	return p.printf("%s", script)
}

func shells() []string { return []string{"bash", "fish", "zsh"} }

// completionScripts ask the program itself, so that they need no change when it does. Where it has
// nothing to offer, files are completed.
func completionScripts() map[string]string {
	return map[string]string{
		"bash": `_spool() {
  local cur="${COMP_WORDS[COMP_CWORD]}" asked=() words
  case "$cur" in
    --) asked=(-) ;; # all flags; "--" itself would say that none follow
    -*) asked=("$cur") ;;
  esac
  words=$("${COMP_WORDS[@]:0:$COMP_CWORD}" "${asked[@]}" --generate-bash-completion 2>/dev/null)
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
}
complete -o bashdefault -o default -F _spool spool
`,
		"zsh": `#compdef spool
_spool() {
  local -a opts asked
  case "${words[-1]}" in
    --) asked=(-) ;; # all flags; "--" itself would say that none follow
    -*) asked=("${words[-1]}") ;;
  esac
  opts=("${(@f)$(${words[@]:0:#words[@]-1} ${asked[@]} --generate-bash-completion 2>/dev/null)}")
  if [[ -n "${opts[1]}" ]]; then
    _describe 'values' opts
  else
    _files
  fi
}
compdef _spool spool
[[ "$funcstack[1]" != _spool ]] || _spool "$@" # loaded from fpath by the first question
`,
	}
}
