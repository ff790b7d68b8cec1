//go:build nolocal

package main

import "github.com/urfave/cli/v2"

// localCommands are left out.
func (p *program) localCommands() []*cli.Command { return nil }
