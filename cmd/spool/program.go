package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"

	"github.com/urfave/cli/v2"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"spool/monitoring"
)

// program is what the commands touch of the world: tests give their own.
type program struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	terminal       bool // stderr is one
	connect        connector
	bar            *bar // the progress on the terminal, if there is one
}

func (p *program) main(ctx context.Context, args []string) exitCode {
	app := p.app()
	if asksForCompletion(args) && slices.Contains(args, "--") {
		return exitOK // behind "--", urfave/cli takes the question for an argument, and would run the command
	}
	args, err := arrange(app, args)
	if err == nil {
		err = app.RunContext(ctx, args)
	}
	return p.report(err)
}

// report says on standard error what went wrong, and what to do about it.
func (p *program) report(err error) exitCode {
	if err == nil {
		return exitOK
	}
	f := explain(err)
	if !f.said {
		p.sayf("spool: %v", f.err)
		if f.hint != "" {
			p.sayf("  %s", f.hint)
		}
	}
	return f.code
}

// sayf talks to people: a line on standard error, above the progress bar.
func (p *program) sayf(format string, args ...any) {
	if p.bar != nil {
		p.bar.sayf(format, args...)
		return
	}
	fmt.Fprintf(p.stderr, format+"\n", args...)
}

// printf writes a result to standard output.
func (p *program) printf(format string, args ...any) error {
	_, err := fmt.Fprintf(p.stdout, format, args...)
	return err
}

// printJSON writes the one document of --json.
func (p *program) printJSON(v any) error {
	enc := json.NewEncoder(p.stdout)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func (p *program) app() *cli.App {
	app := &cli.App{
		Name:        "spool",
		Usage:       "batch inference from a bucket",
		Description: appDescription,
		Version:     version(),
		HideVersion: true,
		Flags:       []cli.Flag{&cli.BoolFlag{Name: "version", Usage: "print the version", DisableDefaultText: true}},
		Commands: slices.Concat(
			[]*cli.Command{p.checkCommand(), p.submitCommand(), p.waitCommand(), p.statusCommand(), p.listCommand(),
				p.resultsCommand(), p.reportCommand(), p.retryCommand(), p.cancelCommand(), p.logsCommand()},
			[]*cli.Command{p.watchCommand(), p.runCommand()}, p.localCommands(),
			[]*cli.Command{p.doctorCommand(), p.versionCommand(), p.completionCommand(), p.simCommand()}),
		Action:                    p.withoutCommand,
		Writer:                    p.stdout,
		ErrWriter:                 p.stderr,
		EnableBashCompletion:      true,
		DisableSliceFlagSeparator: true,                         // values of --metadata may hold commas
		ExitErrHandler:            func(*cli.Context, error) {}, // main exits, so that defers run
		OnUsageError:              onUsageError,
	}
	for _, c := range app.Commands {
		c.Flags = withEnv(append(c.Flags, logFlags()...))
		c.OnUsageError = onUsageError
		c.HideHelpCommand = true // spool help CMD is enough, and shells would offer it as an argument of each command
	}
	return app
}

const appDescription = `Drop a JSONL file of OpenAI-format requests into a bucket; results, errors and a
report appear beside it. Results of in/X are under out/X/.

    spool local                                 everything on this machine
    spool submit prompts.jsonl --wait           upload, and wait for the results
    spool results in/prompts.jsonl > out.jsonl

KEY is s3://BUCKET/in/x.jsonl, in/x.jsonl, or a batch id.`

func (p *program) withoutCommand(c *cli.Context) error {
	if c.Bool("version") {
		return p.printf("spool %s\n", version())
	}
	return cli.ShowAppHelp(c)
}

func onUsageError(c *cli.Context, err error, _ bool) error {
	hint := "see spool --help"
	if c.Command != nil && c.Command.Name != c.App.Name {
		hint = "see spool " + c.Command.Name + " --help"
	}
	if c.Command != nil && aboutTime(c.Command, err.Error()) {
		hint = "a TIME is like 90s, 10m or 2h; " + hint
	}
	return failf(exitUsage, hint, "%w", err)
}

// valueOf finds the flag in what urfave/cli says of a value of a flag or a variable.
var valueOf = regexp.MustCompile(`(?:invalid value ".*" for flag -|could not parse ".*" as .* for flag )([a-z0-9-]+): `)

// aboutTime reports whether an error is about the value of a flag that wants a TIME.
func aboutTime(cmd *cli.Command, text string) bool {
	m := valueOf.FindStringSubmatch(text)
	return m != nil && slices.ContainsFunc(cmd.Flags, func(f cli.Flag) bool {
		_, isTime := f.(*cli.DurationFlag)
		return isTime && f.Names()[0] == m[1]
	})
}

// logTo makes the logger of a command. Close it at the end.
func (p *program) logTo(c *cli.Context, out io.Writer, opt monitoring.Options) (*zap.Logger, func(), error) {
	if c.IsSet("log-level") {
		opt.Level = c.String("log-level")
	}
	if err := positive(c, "log-file-size", "log-file-age"); err != nil {
		return nil, nil, err
	}
	opt.Format = c.String("log-format")
	if file := c.String("log-file"); file != "" {
		opt.File = file
	}
	opt.FileMiB, opt.FileAge, opt.Secrets = c.Int("log-file-size"), c.Duration("log-file-age"), secrets(c)
	opt.Output = zapcore.Lock(zapcore.AddSync(out))
	log, closeLog, err := monitoring.NewLogger(opt)
	if err != nil {
		return nil, nil, failf(exitUsage, "", "%w", err)
	}
	return log, func() { _ = closeLog() }, nil // nothing is left to say it to
}

// logged writes the end of a service to its log, where its operator looks; it is not said again on standard error.
func logged(log *zap.Logger, err error) error {
	if err == nil {
		return nil
	}
	f := explain(err)
	log.Error("ended with an error", zap.String("event", "ended_with_error"), zap.Error(f.err), zap.String("hint", f.hint), zap.Int("exit_code", int(f.code)))
	f.said = true
	return f
}

var errNoBucket = errors.New("no bucket: give --bucket, SPOOL_BUCKET, or a KEY like s3://BUCKET/in/x.jsonl")
