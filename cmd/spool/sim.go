package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"spool/monitoring"
	"spool/runner/vllm/vllmsim"
)

// simCommandName is hidden: the engine of spool local, and of demonstrations.
const simCommandName = "vllmsim"

func (p *program) simCommand() *cli.Command {
	return &cli.Command{
		Name:   simCommandName,
		Usage:  "serve made-up answers as vLLM would, for demonstrations and tests",
		Hidden: true,
		Description: "Answers are a function of the request; they take as long as a small model would. What stands behind -- is the\n" +
			"command line of vLLM, and sets model, slots and address.\n\n" +
			"Examples:\n   spool vllmsim --listen 127.0.0.1:8000\n   spool vllmsim --listen unix:///tmp/v.sock --time-scale 0.1\n" +
			"   spool vllmsim --time-scale 0.1 -- serve m --uds /tmp/v.sock --max-num-seqs 64",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "listen", Value: "127.0.0.1:0", Usage: "`ADDRESS`: host:port, or unix:///path"},
			&cli.StringFlag{Name: "model", Usage: "`NAME` of the model; default serves, too"},
			&cli.IntFlag{Name: "slots", Value: vllmsim.DefaultSlots, Usage: "requests answered at once"},
			&cli.Float64Flag{Name: "time-scale", Value: 1, Usage: "multiplies all times; 0 takes no time"},
			&cli.DurationFlag{Name: "load-time", Usage: "`TIME` to load the model"},
			&cli.StringFlag{Name: "api-key", Usage: "ask for this `KEY`"},
			&cli.StringFlag{Name: "ledger", Usage: "append what was asked to `FILE`"},
		},
		Action: p.sim,
	}
}

func (p *program) sim(c *cli.Context) error {
	cfg := vllmsim.Config{
		Model: c.String("model"), Slots: c.Int("slots"), TimeScale: c.Float64("time-scale"), Instant: c.Float64("time-scale") == 0,
		LoadTime: c.Duration("load-time"), APIKey: c.String("api-key"), LedgerPath: c.String("ledger"),
	}
	if args, rest := splitArgs(c); len(args) == 0 && len(rest) > 0 {
		if code := vllmsim.Serve(c.Context, cfg, rest, p.stdout); code != 0 {
			return &failure{code: exitCode(code), err: fmt.Errorf("vllmsim: exit status %d", code), said: true}
		}
		return nil
	}
	if _, err := exactArgs(c, 0, 0); err != nil {
		return err
	}
	log, closeLog, err := p.logTo(c, p.stdout, monitoring.Options{Component: simCommandName})
	if err != nil {
		return err
	}
	defer closeLog()
	return logged(log, vllmsim.Run(c.Context, cfg, c.String("listen"), log, nil))
}
