package main

import (
	"encoding/json"
	"errors"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"spool/storage/batch"
	"spool/watcher"
)

func (p *program) checkCommand() *cli.Command {
	return &cli.Command{
		Name:      "check",
		Usage:     "validate a file as the watcher will, without uploading it",
		ArgsUsage: "FILE|KEY|-",
		Category:  forUsers,
		Description: "Prints every bad line with its number, a stable code and the reason; exits 4 if there is any, 8 if there is no\n" +
			"such file. Gzip and zstd are read by the suffix of the name, .jsonl.gz and .jsonl.zst; standard input (-) by\n" +
			"its first bytes. With --json, one object a bad line. A line whose custom_id stands in an earlier line too is\n" +
			"reported after the others.\n\n" +
			"Examples:\n   spool check prompts.jsonl\n   spool check s3://my-bucket/in/prompts.jsonl.gz\n   zcat prompts.gz | spool check - --json | jq .code",
		Flags: append(storeFlags(), jsonFlag(), configFlag(),
			&cli.StringFlag{Name: "pool", Value: watcher.DefaultPool, Usage: "use the limits of the pool `NAME` (with --config)"}),
		Action: p.check,
	}
}

func (p *program) check(c *cli.Context) error {
	args, err := exactArgs(c, 1, 1)
	if err != nil {
		return err
	}
	cfg, err := readConfig(c)
	if err != nil {
		return err
	}
	pool, err := cfg.pool(c.String("pool"))
	if err != nil {
		return err
	}
	in, cleanup, err := p.checkedInput(c, args[0])
	if err != nil {
		return err
	}
	defer cleanup()
	f, err := in.validate(c.Context, pool.Limits.jsonl(), p.badLine(c, args[0]))
	if err != nil {
		return err
	}
	return p.verdict(c, args[0], f)
}

// checkedInput opens FILE, KEY or "-". What is both a file here and a key is the file.
func (p *program) checkedInput(c *cli.Context, arg string) (in *input, cleanup func(), err error) {
	nothing := func() {}
	if arg == "-" {
		return stdinInput(p.stdin)
	}
	_, statErr := os.Stat(arg)
	like := strings.HasPrefix(arg, batch.InPrefix) || batch.ValidID(arg)
	isKey := strings.HasPrefix(arg, "s3://") || like && errors.Is(statErr, os.ErrNotExist)
	if !isKey {
		in, err = localInput(arg)
		return in, nothing, err
	}
	r, err := p.openKeys(c, 1, 1)
	if err != nil {
		return nil, nil, err
	}
	b, err := r.finder.batch(c.Context, r.targets[0])
	if err == nil && b.input == nil {
		err = r.finder.noInput(c.Context, b.key)
	}
	if err != nil {
		r.close()
		return nil, nil, err
	}
	return bucketInput(r.store, *b.input), r.close, nil
}

// badLine prints one bad line.
func (p *program) badLine(c *cli.Context, name string) func(batch.BadLine) error {
	if c.Bool("json") {
		enc := json.NewEncoder(p.stdout)
		enc.SetEscapeHTML(false)
		return func(b batch.BadLine) error { return enc.Encode(b) }
	}
	return func(b batch.BadLine) error { return p.printf("%s:%d: %s: %s\n", name, b.Line, b.Code, b.Message) }
}

// verdict says what validating found, on standard error.
func (p *program) verdict(c *cli.Context, name string, f *findings) error {
	switch {
	case f.file != nil:
		bad := batch.BadLine{Line: f.file.Line, Offset: f.file.Offset, Code: string(f.file.Code), Message: f.file.Message}
		if c.Bool("json") {
			if err := p.badLine(c, name)(bad); err != nil {
				return err
			}
		}
		return failf(exitRejected, "", "%s: %w", name, f.file)
	case f.bad > 0:
		return f.rejection(name)
	}
	p.sayf("%s: %s, all good, for %s", name, plural(f.lines, "line"), f.endpoint)
	return nil
}

// rejection is the error of a file with bad lines.
func (f *findings) rejection(name string) error {
	are, hint := "are", "mend or remove them, or submit with --on-invalid skip to run the others"
	if f.bad == 1 {
		are, hint = "is", "mend or remove it, or submit with --on-invalid skip to run the others"
	}
	if f.bad == f.lines {
		hint = "no line could be run: mend them"
	}
	return failf(exitRejected, hint, "%s: %s of %s %s bad", name, thousands(f.bad), plural(f.lines, "line"), are)
}
