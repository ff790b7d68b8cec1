// Command spool runs batch inference from a bucket: a user drops a JSONL file of requests into S3, and
// results, errors and a report appear beside it.
//
// This package is wiring. Each command has a file that turns its flags into the configuration of a
// package and the outcome into an exit code; nothing here decides anything about batches that another
// package could. The exception are the commands for users (submit, wait, status, ...): they are the
// only code that must get by with what a user may read, so the rule that finds an input's batch from out/
// alone lives here, in lookup.go.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/mattn/go-isatty"
)

func main() { os.Exit(run()) }

// run ends with the first SIGINT or SIGTERM in its own time; the second one is the system's to handle.
func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	defer profile(os.Args)()
	context.AfterFunc(ctx, stop)
	p := &program{
		stdin:    os.Stdin,
		stdout:   os.Stdout,
		stderr:   os.Stderr,
		terminal: isatty.IsTerminal(os.Stderr.Fd()),
		connect:  connect,
	}
	return int(p.main(ctx, os.Args))
}
