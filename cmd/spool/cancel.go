package main

import (
	"context"

	"github.com/urfave/cli/v2"

	"spool/storage"
	"spool/storage/batch"
)

func (p *program) cancelCommand() *cli.Command {
	return &cli.Command{
		Name:      "cancel",
		Usage:     "ask for the end of a batch; lines that are finished are kept",
		ArgsUsage: "KEY",
		Category:  forUsers,
		Description: "Puts the empty object KEY.cancel beside the input, as `aws s3 cp` could, or in/_long/BATCH.cancel if KEY.cancel is too long\n" +
			"for the store. A watcher stops the batch at its next scan; lines that have no answer then get the code batch_cancelled\n" +
			"in errors.jsonl. A batch that has ended is left alone.\n\n" +
			"Examples:\n   spool cancel in/evals/prompts.jsonl && spool wait in/evals/prompts.jsonl",
		Flags:  append(storeFlags(), jsonFlag()),
		Action: p.cancel,
	}
}

func (p *program) cancel(c *cli.Context) error {
	r, err := p.openKeys(c, 1, 1)
	if err != nil {
		return err
	}
	defer r.close()
	v, err := r.newest(c.Context)
	if err != nil {
		return err
	}
	asked := v.ended == nil
	if asked {
		if err := wish(c.Context, r.store, v); err != nil {
			return err
		}
	}
	if c.Bool("json") {
		return p.printJSON(struct {
			*view
			Asked bool `json:"cancel_asked"`
		}{v, asked})
	}
	if !asked {
		p.sayf("%s has ended already: %s", v.Batch, v.State)
		return nil
	}
	return p.printf("%s\n", v.Batch)
}

// wish puts the wish to cancel a batch where watchers look for it.
func wish(ctx context.Context, b storage.Bucket, v *view) error {
	_, err := b.Put(ctx, batch.CancelKey(v.Input), nil, storage.PutOptions{})
	if storage.KindOf(err) == storage.KindInvalid { // too long
		_, err = b.Put(ctx, batch.LongCancelKey(v.Batch), nil, storage.PutOptions{})
	}
	return err
}
