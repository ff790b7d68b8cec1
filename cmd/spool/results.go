package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"spool/storage"
	"spool/storage/batch"
)

func (p *program) resultsCommand() *cli.Command {
	return &cli.Command{
		Name:      "results",
		Usage:     "fetch the results of an input's newest batch",
		ArgsUsage: "KEY",
		Category:  forUsers,
		Description: "Streams output.jsonl to standard output; with -o all results go to a folder: output.jsonl, errors.jsonl,\n" +
			"invalid.jsonl, summary.json, summary.md, report.html and batch.json, as far as there are any. Those that an\n" +
			"earlier batch left there, and this one does not have, are removed.\n" +
			"Exits 0 when they were fetched, whatever the outcome; 4 if the file was rejected and there is no output; 1 if the\n" +
			"batch has not ended.\n\n" +
			"Examples:\n   spool results in/evals/prompts.jsonl > output.jsonl\n   spool results in/evals/prompts.jsonl -o results/",
		Flags: append(storeFlags(),
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "fetch all into the folder `DIR`, which is made"}),
		Action: p.results,
	}
}

func (p *program) results(c *cli.Context) error {
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
		return failf(exitInternal, "spool wait "+r.targets[0].String(), "no results yet: %s", v.summary())
	}
	if dir := c.String("output"); dir != "" {
		return p.fetchAll(c.Context, r.store, v, dir)
	}
	if v.OutputFileID == nil {
		return v.verdict(r.store.name)
	}
	body, _, err := r.store.Get(c.Context, *v.OutputFileID, storage.GetOptions{})
	if err != nil {
		return err
	}
	defer body.Close()
	if _, err := io.Copy(p.stdout, body); err != nil {
		return fmt.Errorf("copy %q: %w", *v.OutputFileID, err)
	}
	if v.code() != exitOK { // the output is not all, and may be nothing
		p.sayf("%s\n  %s", v.summary(), v.advice(r.store.name))
	}
	return nil
}

// fetchAll fetches the folder of the results. A file appears under its name when it is whole.
func (p *program) fetchAll(ctx context.Context, s *store, v *view, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return failf(exitUsage, "", "make output folder: %w", err)
	}
	var names []string
	for obj, err := range s.List(ctx, v.Output, "") {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(obj.Key, v.Output)
		if filepath.IsLocal(name) && !strings.Contains(name, "/") { // else it is nothing that spool wrote
			names = append(names, name)
		}
	}
	old := readObject(filepath.Join(dir, batch.ObjectName))
	for _, name := range names {
		path := filepath.Join(dir, name)
		if err := fetch(ctx, s, v.Output+name, path); err != nil {
			return err
		}
		if err := p.printf("%s\n", path); err != nil {
			return err
		}
	}
	if old != nil && old.ID != v.Batch {
		if err := p.removeOld(dir, old, names); err != nil {
			return err
		}
	}
	if v.OutputFileID == nil {
		return v.verdict(s.name)
	}
	return nil
}

// readObject reads a batch.json that was fetched earlier; nil if there is none of spool's.
func readObject(path string) *batch.Object {
	text, err := os.ReadFile(path)
	var o batch.Object
	if err != nil || json.Unmarshal(text, &o) != nil || !batch.ValidID(o.ID) {
		return nil
	}
	return &o
}

// removeOld removes the lines of an earlier batch that this fetch did not replace: whoever finds errors.jsonl beside output.jsonl
// takes them for one batch's. What the earlier one did not have is not spool's.
func (p *program) removeOld(dir string, old *batch.Object, fetched []string) error {
	had := map[string]bool{
		batch.OutputName: old.OutputFileID != nil, batch.ErrorsName: old.ErrorFileID != nil,
		batch.InvalidName: old.Errors != nil && slices.ContainsFunc(old.Errors.Data, func(e batch.BatchError) bool { return e.Line != nil }),
	}
	for _, name := range slices.Sorted(maps.Keys(had)) {
		path := filepath.Join(dir, name)
		if _, err := os.Lstat(path); err != nil || !had[name] || slices.Contains(fetched, name) {
			continue
		}
		if err := os.Remove(path); err != nil {
			return failf(exitUsage, "", "remove what batch %s left: %w", old.ID, err)
		}
		p.sayf("removed %s: it was of batch %s", path, old.ID)
	}
	return nil
}

func fetch(ctx context.Context, b storage.Bucket, key, path string) (err error) {
	body, _, err := b.Get(ctx, key, storage.GetOptions{})
	if err != nil {
		return err
	}
	defer body.Close()
	f, err := os.CreateTemp(filepath.Dir(path), ".spool-*")
	if err != nil {
		return fmt.Errorf("make file: %w", err)
	}
	defer os.Remove(f.Name()) // in vain after the rename
	_, err = io.Copy(f, body)
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
		return fmt.Errorf("fetch %q: %w", key, err)
	}
	return os.Rename(f.Name(), path)
}
