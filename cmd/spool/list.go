package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"
	"golang.org/x/sync/errgroup"

	"spool/storage"
	"spool/storage/batch"
)

// listParallel is how many inputs are looked up at once: each costs two or three small requests.
const listParallel = 16

func (p *program) listCommand() *cli.Command {
	return &cli.Command{
		Name:      "list",
		Usage:     "list inputs and the state of their batches",
		ArgsUsage: "[PREFIX]",
		Category:  forUsers,
		Description: "PREFIX is in/…, s3://BUCKET/in/…, or what follows in/. The newest batch of each input is shown, in the order of keys.\n\n" +
			"Examples:\n   spool list\n   spool list in/evals/ --state failed --state expired\n   spool list --json | jq '.batches[] | select(.state == \"in_progress\").input'",
		Flags: append(storeFlags(), jsonFlag(),
			&cli.StringSliceFlag{Name: "state", Usage: "only batches in this `STATE` (repeatable)"},
			&cli.IntFlag{Name: "limit", Value: 1000, Usage: "the most inputs to look at"}),
		Action: p.list,
	}
}

func (p *program) list(c *cli.Context) error {
	args, err := exactArgs(c, 0, 1)
	if err != nil {
		return err
	}
	bucket, prefix, err := listPrefix(append(args, "")[0])
	if err != nil {
		return err
	}
	if err := positive(c, "limit"); err != nil {
		return err
	}
	for _, s := range c.StringSlice("state") {
		if !slices.Contains(states(), s) {
			return usagef("--state %q: want one of %s", s, strings.Join(states(), ", "))
		}
	}
	s, closeLog, err := p.openForUser(c, bucket)
	if err != nil {
		return err
	}
	defer closeLog()
	keys, more, err := inputKeys(c.Context, s, prefix, c.Int("limit"))
	if err != nil {
		return err
	}
	views, err := (&finder{bucket: userBucket{s.Bucket}, name: s.name}).all(c.Context, keys)
	if err != nil {
		return err
	}
	views = inStates(views, c.StringSlice("state"))
	if more {
		p.sayf("only the first %d inputs were looked at: give a PREFIX or a higher --limit", len(keys))
	}
	if c.Bool("json") {
		return p.printJSON(map[string]any{"batches": views})
	}
	return p.table(views)
}

// listPrefix reads PREFIX.
func listPrefix(s string) (bucket, prefix string, err error) {
	rest, isURL := strings.CutPrefix(s, "s3://")
	if isURL {
		bucket, s, _ = strings.Cut(rest, "/")
	}
	switch {
	case isURL && (bucket == "" || s != "" && !strings.HasPrefix(s, batch.InPrefix)):
		return "", "", usagef("PREFIX %q: want s3://BUCKET/in/…", "s3://"+rest)
	case !strings.HasPrefix(s, batch.InPrefix):
		s = batch.InPrefix + s
	}
	return bucket, s, nil
}

// inputKeys gives the keys of inputs, without wishes to cancel and folders; more says that there are others.
func inputKeys(ctx context.Context, b storage.Bucket, prefix string, limit int) (keys []string, more bool, err error) {
	for obj, err := range b.List(ctx, prefix, "") {
		if err != nil {
			return nil, false, err
		}
		if !isInput(obj.Key) {
			continue
		}
		if len(keys) == limit {
			return keys, true, nil
		}
		keys = append(keys, obj.Key)
	}
	return keys, false, nil
}

// isInput says which keys under in/ become batches.
func isInput(key string) bool {
	name := key[strings.LastIndex(key, "/")+1:]
	return name != "" && name[0] != '.' && !strings.HasSuffix(key, batch.CancelSuffix)
}

// all finds the batches of many inputs. One that was deleted meanwhile is left out.
func (f *finder) all(ctx context.Context, keys []string) ([]*view, error) {
	views := make([]*view, len(keys))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(listParallel)
	for i, key := range keys {
		group.Go(func() error {
			v, err := f.find(ctx, target{key: key})
			if err != nil && explain(err).code == exitNoInput {
				return nil
			}
			views[i] = v
			return err
		})
	}
	return views, group.Wait()
}

// inStates drops what is nil, and what is in none of states, if there are any.
func inStates(views []*view, states []string) []*view {
	kept := []*view{}
	for _, v := range views {
		if v != nil && (len(states) == 0 || slices.Contains(states, v.State)) {
			kept = append(kept, v)
		}
	}
	return kept
}

func (p *program) table(views []*view) error {
	w := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "STATE\tLINES\tDONE\tFAILED\tCREATED\tINPUT")
	for _, v := range views {
		created := clock(v.CreatedAt)
		if created == "" {
			created = "-"
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%s\t%s\n", v.State, v.Counts.Total, v.Counts.Completed+v.Counts.Failed, v.Counts.Failed, created, v.Input)
	}
	return w.Flush()
}
