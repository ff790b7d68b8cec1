package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"spool/storage"
	"spool/storage/batch"
	"spool/storage/queue"
)

// Where doctor writes: not under in/, where it would be taken for input.
const (
	probePrefix = batch.SysPrefix + "probe/"
	mostSkew    = 5 * time.Minute // S3 refuses requests that are 15 min off (RequestTimeTooSkewed)
)

func (p *program) doctorCommand() *cli.Command {
	return &cli.Command{
		Name:     "doctor",
		Usage:    "find out whether bucket, queues and credentials will do",
		Category: forOperators,
		Description: "Asks the store for the promises that spool relies on, with races where they are about races; looks at the queues,\n" +
			"the clock, and what these credentials may do. Writes some small objects under " + probePrefix + " and deletes them.\n" +
			"Exits 9 if a check fails. A warning is no failure: a runner, for instance, must not be able to delete.\n\n" +
			"Examples:\n   spool doctor --bucket my-bucket\n   spool doctor --bucket my-bucket --store-driver minio --json",
		Flags: append(append(storeFlags(), queueFlags()...), configFlag(), jsonFlag(),
			&cli.BoolFlag{Name: "quick", Usage: "fewer rounds, and no race of multipart uploads"},
			&cli.BoolFlag{Name: "no-queues", Usage: "do not look at the queues"}),
		Action: p.doctor,
	}
}

// Outcomes of a check.
const (
	checkOK   = "ok"
	checkWarn = "warning"
	checkFail = "failed"
)

// checkResult is one line of the doctor's report.
type checkResult struct {
	Name   string `json:"name"`
	Result string `json:"result"` // ok, warning or failed
	Detail string `json:"detail"`
	Hint   string `json:"hint"`
}

type doctorReport struct {
	OK     bool          `json:"ok"`
	Checks []checkResult `json:"checks"`
}

func (r *doctorReport) add(name, result, detail, hint string) {
	r.Checks = append(r.Checks, checkResult{name, result, detail, hint})
	r.OK = r.OK && result != checkFail
}

// addErr adds a failure, or success.
func (r *doctorReport) addErr(name string, err error, detail string) {
	if err == nil {
		r.add(name, checkOK, detail, "")
		return
	}
	f := explain(err)
	r.add(name, checkFail, f.err.Error(), strings.TrimSuffix(f.hint, ": spool doctor")) // which this is
}

func (p *program) doctor(c *cli.Context) error {
	if _, err := exactArgs(c, 0, 0); err != nil {
		return err
	}
	s, closeLog, err := p.openForUser(c, "")
	if err != nil {
		return err
	}
	defer closeLog()
	cfg, err := readConfig(c)
	if err != nil {
		return err
	}
	r := &doctorReport{OK: true}
	ctx := c.Context
	if r.reach(ctx, s) {
		r.skew(ctx, s)
		r.permissions(ctx, s)
		r.promises(ctx, s, c.Bool("quick"))
	}
	if !c.Bool("no-queues") {
		r.queues(c, cfg)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err := p.printReport(c, r); err != nil {
		return err
	}
	if !r.OK {
		return failf(exitUnfit, "", "bucket %s or its queues are unfit", s.name)
	}
	return nil
}

func (p *program) printReport(c *cli.Context, r *doctorReport) error {
	if c.Bool("json") {
		return p.printJSON(r)
	}
	w := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	for _, k := range r.Checks {
		fmt.Fprintf(w, "%s\t%s\t%s\n", k.Result, k.Name, strings.ReplaceAll(k.Detail, "\n", " "))
		if k.Hint != "" {
			fmt.Fprintf(w, "\t\t-> %s\n", k.Hint)
		}
	}
	return w.Flush()
}

// reach lists the bucket: the cheapest way to learn that it is there and who may read it.
func (r *doctorReport) reach(ctx context.Context, s *store) bool {
	_, err := firstKey(ctx, s, batch.InPrefix)
	r.addErr("bucket can be listed", err, "s3://"+s.name+"/"+batch.InPrefix)
	return err == nil
}

func firstKey(ctx context.Context, b storage.Bucket, prefix string) (string, error) {
	for obj, err := range b.List(ctx, prefix, "") {
		return obj.Key, err
	}
	return "", nil
}

// skew compares this machine's clock with the store's, to the second that the store tells.
func (r *doctorReport) skew(ctx context.Context, s *store) {
	key := probePrefix + "clock-" + instanceName("d")
	if _, err := s.Put(ctx, key, nil, storage.PutOptions{}); err != nil {
		r.add("clock", checkWarn, err.Error(), "without the right to write under sys/ the clock cannot be compared")
		return
	}
	defer s.Delete(ctx, key) //nolint:errcheck // permissions will say so
	asked := time.Now()
	obj, err := s.Head(ctx, key)
	if err != nil {
		r.addErr("clock", err, "")
		return
	}
	// The store's clock, cut to a second, is of some moment of the request.
	skew := asked.Add(time.Since(asked) / 2).Sub(obj.Date.Add(time.Second / 2))
	detail := "in step with the store's, to 2 s"
	if skew.Abs() > 2*time.Second {
		detail = fmt.Sprintf("%s off the store's", skew.Round(time.Second))
	}
	if skew.Abs() > mostSkew {
		r.add("clock", checkFail, detail, "set this machine's clock: stores refuse requests from 15 min on")
		return
	}
	r.add("clock", checkOK, detail, "")
}

// permissions tries what each role needs, each under the prefix where it needs it.
func (r *doctorReport) permissions(ctx context.Context, s *store) {
	for _, prefix := range []string{batch.OutPrefix, batch.LogsPrefix, batch.SysPrefix} {
		_, err := firstKey(ctx, s, prefix)
		r.access("list "+prefix, err, "users list in/, out/ and logs/; runners and watchers list all")
	}
	key := probePrefix + "access-" + instanceName("d")
	_, err := s.Put(ctx, key, []byte("spool doctor"), storage.PutOptions{})
	r.access("write "+batch.SysPrefix, err, "runners and watchers need it, users do not")
	if err != nil {
		return
	}
	_, _, err = storage.ReadAll(ctx, s, key)
	r.access("read "+batch.SysPrefix, err, "runners and watchers need it, users do not")
	r.access("delete "+batch.SysPrefix, s.Delete(ctx, key), "watchers need it; runners must not have it")
}

func (r *doctorReport) access(name string, err error, hint string) {
	switch {
	case err == nil:
		r.add(name, checkOK, "allowed", "")
	case storage.KindOf(err) == storage.KindDenied:
		r.add(name, checkWarn, "denied", hint)
	default:
		r.addErr(name, err, "")
	}
}

func (r *doctorReport) promises(ctx context.Context, s *store, quick bool) {
	opt := storage.ProbeOptions{Deleter: s.Deleter}
	if quick {
		opt.Rounds, opt.Uploads = 2, -1
	}
	report, err := storage.Probe(ctx, s.Bucket, probePrefix, opt)
	for _, k := range report.Checks {
		if k.OK {
			r.add("store: "+k.Name, checkOK, k.Detail, "")
		} else {
			r.add("store: "+k.Name, checkFail, k.Detail, "spool would lose or double lines on this store: use another one, or a newer version")
		}
	}
	if storage.KindOf(err) == storage.KindDenied {
		r.add("store", checkWarn, err.Error(), "ask again with the credentials of a watcher")
	} else if err != nil {
		r.addErr("store", err, "")
	}
}

func (r *doctorReport) queues(c *cli.Context, cfg *fileConfig) {
	client, err := openQueues(c)
	if err != nil {
		r.addErr("queues", err, "")
		return
	}
	for _, pool := range cfg.names() {
		for _, name := range []string{queue.PoolQueue(pool), queue.FastQueue(pool), queue.DeadQueue(pool)} {
			if !r.queue(c.Context, client, name) {
				return
			}
		}
	}
	_, err = client.Open(c.Context, queue.EventsQueue)
	if isNoQueue(err) {
		r.add("queue "+queue.EventsQueue, checkWarn, "there is none", "without it new files are found by listing only: spool watch --create-queues")
		return
	}
	r.addErr("queue "+queue.EventsQueue, err, "there")
}

// queue looks at one queue; false if asking for others is of no use.
func (r *doctorReport) queue(ctx context.Context, client *queue.Client, name string) bool {
	q, err := client.Open(ctx, name)
	if err != nil {
		r.addErr("queue "+name, err, "")
		return isNoQueue(err)
	}
	n, err := q.Counts(ctx)
	if errors.Is(err, queue.ErrDenied) {
		r.add("queue "+name, checkWarn, "its counts are denied", "watchers need sqs:GetQueueAttributes")
		return true
	}
	r.addErr("queue "+name, err, fmt.Sprintf("%d visible, %d in flight, %d delayed", n.Visible, n.InFlight, n.Delayed))
	return err == nil
}
