package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"

	"github.com/urfave/cli/v2"

	"spool/monitoring/report"
	"spool/storage"
	"spool/storage/batch"
	"spool/storage/finalize"
)

func (p *program) reportCommand() *cli.Command {
	return &cli.Command{
		Name:      "report",
		Usage:     "make the report of an ended batch anew",
		ArgsUsage: "KEY",
		Category:  forUsers,
		Description: "Makes summary.json, summary.md and report.html of the newest batch anew, from what its runners recorded, puts\n" +
			"them over those beside the results, and prints where the report is. Writing there takes a watcher's or runner's rights.\n" +
			"With -o, --markdown or --json nothing is written to the bucket, and a user's rights will do: who may not read\n" +
			"sys/ has the summary.json of the results rendered. Exits 1 if the batch has not ended.\n\n" +
			"Examples:\n   spool report in/evals/prompts.jsonl\n   spool report in/evals/prompts.jsonl -o results/\n" +
			"   spool report in/evals/prompts.jsonl --markdown >> $GITHUB_STEP_SUMMARY",
		Flags: append(storeFlags(),
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "write the three files into the folder `DIR`, which is made"},
			&cli.BoolFlag{Name: "markdown", Usage: "print summary.md"}, jsonFlag()),
		Action: p.makeReport,
	}
}

func (p *program) makeReport(c *cli.Context) error {
	dir, markdown, asJSON := c.String("output"), c.Bool("markdown"), c.Bool("json")
	if markdown && asJSON {
		return usagef("--markdown and --json both want standard output")
	}
	r, err := p.openKeys(c, 1, 1)
	if err != nil {
		return err
	}
	defer r.close()
	v, err := r.newest(c.Context)
	if err != nil {
		return err
	}
	if v.ended == nil {
		return failf(exitInternal, "spool wait "+r.targets[0].String(), "no report yet: %s", v.summary())
	}
	if dir == "" && !markdown && !asJSON {
		return p.publishReport(c.Context, r, v)
	}
	s, err := r.summary(c.Context, v)
	if err != nil {
		return err
	}
	if dir != "" {
		path, err := writeReport(s, dir)
		if err != nil {
			return err
		}
		if !markdown && !asJSON {
			return p.printf("%s\n", path)
		}
	}
	if asJSON {
		return p.printJSON(s)
	}
	return p.printf("%s", report.Markdown(s))
}

// publishReport writes the report into the results.
func (p *program) publishReport(ctx context.Context, r *remote, v *view) error {
	const elsewhere = "spool report -o DIR needs no more than a user's rights"
	var plan batch.Plan
	_, err := r.finder.json(ctx, batch.PlanKey(v.Batch), &plan)
	if err == nil {
		var s *batch.Summary
		s, err = finalize.New(finalize.Config{Bucket: r.store.Bucket, Render: report.Render}).Report(ctx, &plan)
		if err == nil && s == nil {
			err = fmt.Errorf("batch %q has no manifest", v.Batch)
		}
	}
	if storage.KindOf(err) == storage.KindDenied {
		return failf(exitUnfit, elsewhere, "%w", err)
	}
	if err != nil {
		return err
	}
	return p.printf("s3://%s/%s\n", r.store.name, v.Output+batch.ReportName)
}

// summary makes the summary anew, or reads the one in the results if these credentials may not do that, or what it is made
// of is gone.
func (r *remote) summary(ctx context.Context, v *view) (*batch.Summary, error) {
	var plan batch.Plan
	_, err := r.finder.json(ctx, batch.PlanKey(v.Batch), &plan)
	if err == nil {
		s, err := finalize.New(finalize.Config{Bucket: r.store.Bucket}).Summary(ctx, &plan)
		if s != nil || err != nil && !outOfReach(err) {
			return s, err
		}
	} else if !outOfReach(err) {
		return nil, err
	}
	s := new(batch.Summary)
	_, err = r.finder.json(ctx, v.Output+batch.SummaryName, s)
	if storage.IsNotFound(err) {
		return nil, failf(exitInternal, "", "batch %s has no summary.json, and what it is made of cannot be read", v.Batch)
	}
	return s, err
}

func outOfReach(err error) bool {
	return storage.IsNotFound(err) || storage.KindOf(err) == storage.KindDenied
}

// writeReport writes the three files, and gives the path of the report.
func writeReport(s *batch.Summary, dir string) (path string, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", failf(exitUsage, "", "make output folder: %w", err)
	}
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return "", fmt.Errorf("encode summary: %w", err)
	}
	html, markdown := report.Render(s)
	for name, body := range map[string][]byte{batch.SummaryName: append(text, '\n'), batch.MarkdownName: markdown, batch.ReportName: html} {
		if err := os.WriteFile(filepath.Join(dir, name), body, 0o644); err != nil {
			return "", fmt.Errorf("write report: %w", err)
		}
	}
	return filepath.Join(dir, batch.ReportName), nil
}

// hourPriceFlag is how a runner learns what it costs.
func hourPriceFlag() cli.Flag {
	return &cli.StringFlag{Name: "hour-price", Usage: "`PRICE` of an hour of this machine, like 2.49 or \"2.49 USD\"; reports say what a batch cost (default: none)"}
}

var price = regexp.MustCompile(`^([0-9]{1,9}(?:\.[0-9]{1,6})?)(?: ?([A-Z]{3}|[$€£¥]))?$`)

// parsePrice reads "2.49 USD"; 0 of nothing.
func parsePrice(s string) (amount float64, currency string, err error) {
	if s == "" {
		return 0, "", nil
	}
	m := price.FindStringSubmatch(s)
	if m == nil {
		return 0, "", usagef("--hour-price %q: want a price like 2.49 or \"2.49 USD\"", s)
	}
	if amount, err = strconv.ParseFloat(m[1], 64); err != nil || amount <= 0 {
		return 0, "", usagef("--hour-price %q: must be more than 0", s)
	}
	return amount, m[2], nil
}
