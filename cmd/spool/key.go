package main

import (
	"context"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"spool/storage/batch"
)

// target is what a KEY names: an input, or a batch.
type target struct {
	bucket string // "" for that of --bucket
	key    string // of an input; "" if id is set
	id     string
}

func (t target) String() string {
	if t.id != "" {
		return t.id
	}
	return t.key
}

// parseKey reads s3://b/in/x.jsonl, in/x.jsonl, or a batch id.
func parseKey(s string) (target, error) {
	if batch.ValidID(s) {
		return target{id: s}, nil
	}
	t := target{key: s}
	if rest, ok := strings.CutPrefix(s, "s3://"); ok {
		if t.bucket, t.key, ok = strings.Cut(rest, "/"); !ok || t.bucket == "" {
			return t, failf(exitUsage, "", "KEY %q: want s3://BUCKET/in/…", s)
		}
	}
	if strings.HasPrefix(t.key, batch.OutPrefix) {
		return t, failf(exitUsage, t.ofResults(), "KEY %q is of results", s)
	}
	if batch.Path(t.key) == "" || !strings.HasPrefix(t.key, batch.InPrefix) {
		return t, failf(exitUsage, "inputs are under in/: in/"+strings.TrimPrefix(t.key, "/"), "KEY %q is neither s3://BUCKET/in/…, in/… nor a batch id", s)
	}
	return t, nil
}

// ofResults says which KEY means the batch whose folder of results, or a file of it, was given: out/<path of the input>/<id>/…
func (t target) ofResults() string {
	parts := strings.Split(strings.TrimPrefix(t.key, batch.OutPrefix), "/")
	if i := slices.IndexFunc(parts, batch.ValidID); i > 0 && parts[0] != "_long" {
		input := batch.InPrefix + strings.Join(parts[:i], "/")
		if t.bucket != "" {
			input = "s3://" + t.bucket + "/" + input
		}
		return "give its input, " + input + ", or its batch id, " + parts[i]
	}
	return "give the key of its input, under " + batch.InPrefix
}

// parseKeys reads several, which must all be in one bucket.
func parseKeys(args []string) (targets []target, bucket string, err error) {
	for _, a := range args {
		t, err := parseKey(a)
		if err != nil {
			return nil, "", err
		}
		if bucket != "" && t.bucket != "" && t.bucket != bucket {
			return nil, "", usagef("KEYs of two buckets, %s and %s: ask for each on its own", bucket, t.bucket)
		}
		if t.bucket != "" {
			bucket = t.bucket
		}
		targets = append(targets, t)
	}
	return targets, bucket, nil
}

// remote is what a command about KEYs works with.
type remote struct {
	targets []target
	finder  *finder
	store   *store
	close   func()
}

// openKeys reads the KEYs of a command and opens their bucket.
func (p *program) openKeys(c *cli.Context, min, max int) (*remote, error) {
	args, err := exactArgs(c, min, max)
	if err != nil {
		return nil, err
	}
	targets, bucket, err := parseKeys(args)
	if err != nil {
		return nil, err
	}
	s, closeLog, err := p.openForUser(c, bucket)
	if err != nil {
		return nil, err
	}
	return &remote{targets: targets, finder: &finder{bucket: userBucket{s.Bucket}, name: s.name}, store: s, close: closeLog}, nil
}

// newest finds the batch of the one KEY of a command; exit 8 if there is none.
func (r *remote) newest(ctx context.Context) (*view, error) { return r.finder.find(ctx, r.targets[0]) }
