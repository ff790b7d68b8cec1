package main

import (
	"strings"
	"time"

	"github.com/urfave/cli/v2"
)

func (p *program) statusCommand() *cli.Command {
	return &cli.Command{
		Name:      "status",
		Usage:     "show the newest batch of an input",
		ArgsUsage: "KEY",
		Category:  forUsers,
		Description: "Exits 0 whatever the state, 8 if there is no such input. For an exit code by outcome: spool wait.\n\n" +
			"Examples:\n   spool status in/evals/prompts.jsonl\n   spool status s3://my-bucket/in/evals/prompts.jsonl --json | jq .state",
		Flags:  append(storeFlags(), jsonFlag()),
		Action: p.status,
	}
}

func (p *program) status(c *cli.Context) error {
	r, err := p.openKeys(c, 1, 1)
	if err != nil {
		return err
	}
	defer r.close()
	v, err := r.newest(c.Context)
	if err != nil {
		return err
	}
	r.finder.addWarning(c.Context, v)
	if c.Bool("json") {
		return p.printJSON(v)
	}
	return p.printf("%s", v.text(r.store.name))
}

// text is the view for people: a field a line, those that say something.
func (v *view) text(bucket string) string {
	var s strings.Builder
	field := func(name, value string) {
		if value != "" {
			s.WriteString(name + strings.Repeat(" ", 10-len(name)) + value + "\n")
		}
	}
	field("batch", v.Batch)
	field("input", v.Input)
	field("state", v.State)
	if v.Counts.Total > 0 {
		field("lines", thousands(v.Counts.Total)+", "+thousands(v.Counts.Completed)+" completed, "+thousands(v.Counts.Failed)+" failed")
	}
	if v.ended == nil && v.ETASeconds != nil {
		field("left", duration(*v.ETASeconds))
	}
	if v.ended == nil && v.Runners > 0 {
		field("runners", thousands(int64(v.Runners)))
	}
	field("created", clock(v.CreatedAt))
	field("ended", clock(v.EndedAt))
	field("error", v.firstError())
	field("note", v.Note)
	field("results", "s3://"+bucket+"/"+v.Output)
	return s.String()
}

func clock(seconds *int64) string {
	if seconds == nil {
		return ""
	}
	return time.Unix(*seconds, 0).UTC().Format(time.RFC3339)
}
