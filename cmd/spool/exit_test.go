package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"spool/runner"
	"spool/runner/gpu"
	"spool/runner/vllm"
	"spool/storage"
	"spool/storage/batch"
	"spool/storage/queue"
)

func TestErrorsHaveTheirExitCodes(t *testing.T) {
	denied := &storage.Error{Op: "get", Key: "k", Kind: storage.KindDenied}
	for name, c := range map[string]struct {
		err  error
		want exitCode
		hint string
	}{
		"anything":          {errors.New("boom"), exitInternal, ""},
		"interrupted":       {fmt.Errorf("get: %w", context.Canceled), exitInternal, ""},
		"denied":            {fmt.Errorf("look: %w", denied), exitUnfit, "credentials"},
		"no bucket":         {&storage.Error{Kind: storage.KindNotFound}, exitUnfit, "--bucket"},
		"no store":          {&storage.Error{Kind: storage.KindInvalid}, exitUnfit, "credentials (they may have expired), the region, and --s3-endpoint"},
		"nonsense":          {&storage.Error{Kind: storage.KindUnknown}, exitUnfit, "credentials (they may have expired), the region, and --s3-endpoint"},
		"refused write":     {&storage.Error{Kind: storage.KindPrecondition}, exitUnfit, ""},
		"no queue":          {&queue.Error{Kind: queue.ErrNoQueue}, exitUnfit, "--create-queues"},
		"queue unavailable": {&queue.Error{Kind: queue.ErrUnavailable}, exitUnfit, "--sqs-endpoint"},
		"usage":             {fmt.Errorf("read: %w", usagef("what?")), exitUsage, ""},
		"engine down":       {elsewhere(runner.ErrEngineDown), exitInternal, "--engine-url"},
		"GPU unfit":         {elsewhere(fmt.Errorf("run: %w", &gpu.UnfitError{XID: 79, Cause: "XID 79"})), exitGPU, "give this machine up"},
		"no start": {elsewhere(fmt.Errorf("%w: %w", runner.ErrElsewhere, &vllm.StartError{Cause: vllm.CauseDevice})), exitInternal,
			"docs/ENGINE.md says what to do about no_device"},
		"wrong model": {elsewhere(fmt.Errorf("x: %w", runner.ErrElsewhere)), exitInternal, "model"},
	} {
		f := explain(c.err)
		if f.code != c.want || !strings.Contains(f.hint, c.hint) || c.hint == "" && f.hint != "" {
			t.Errorf("%s: exit %d with hint %q, want %d with %q", name, f.code, f.hint, c.want, c.hint)
		}
	}
}

// TestEveryExitCode ends a command with each code, the way that it ends for a user.
func TestEveryExitCode(t *testing.T) {
	const key = "in/a.jsonl"
	ended := func(status string, completed, failed int64) func(w *world) []string {
		return func(w *world) []string {
			w.end(key, w.upload(key, 3, nil), status, completed, failed)
			return []string{"wait", key}
		}
	}
	for code, arrange := range map[exitCode]func(w *world) []string{
		exitOK:          ended(batch.Completed, 3, 0),
		exitInternal:    func(w *world) []string { w.upload(key, 1, nil); return []string{"results", key} },
		exitUsage:       func(*world) []string { return []string{"wait", "a.jsonl"} },
		exitLinesFailed: ended(batch.Completed, 2, 1),
		exitRejected: func(w *world) []string {
			w.reject(key, w.upload(key, 1, nil), batch.BatchError{Code: "invalid_json", Message: "bad"})
			return []string{"wait", key}
		},
		exitCancelled: ended(batch.Cancelled, 1, 2),
		exitExpired:   ended(batch.Expired, 1, 2),
		exitTimeout:   func(w *world) []string { w.upload(key, 1, nil); return []string{"wait", key, "--timeout", "1h"} },
		exitNoInput:   func(*world) []string { return []string{"wait", key} },
		exitUnfit: func(w *world) []string {
			w.denied = func(string, string) bool { return true }
			w.upload(key, 1, nil)
			return []string{"status", key}
		},
		exitFailed: ended(batch.Failed, 1, 2),
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			args := append(arrange(w), "--bucket", bucketName)
			began := time.Now()
			_, stderr, got := w.spool(args...)
			if got != code {
				t.Errorf("spool %s: exit %d, want %d (%s)\n%s", strings.Join(args, " "), got, code, exitMeanings()[code], stderr)
			}
			took := time.Since(began)
			if code == exitTimeout && took != time.Hour || code == exitNoInput && took != appearWithin {
				t.Errorf("exit %d after %s", code, took)
			}
		})
	}
}

// TestAnAbsentBucketIsNoAbsentInput: HEAD answers 404 for both, without a body.
func TestAnAbsentBucketIsNoAbsentInput(t *testing.T) {
	for _, args := range []string{"status in/a.jsonl", "wait in/a.jsonl", "check in/a.jsonl", "cancel in/a.jsonl", "retry in/a.jsonl", "results in/a.jsonl"} {
		w := newWorld(t)
		w.gone = true
		_, stderr, code := w.spool(append(strings.Fields(args), "--bucket", bucketName)...)
		if code != exitUnfit || !strings.Contains(stderr, "check the name of the bucket") {
			t.Errorf("%s: exit %d, %s", args, code, stderr)
		}
	}
}

// A runner that is told to end while it starts, as while a driver of GPUs hangs, ends in order.
func TestARunnerThatIsInterruptedBeforeItBeginsEndsInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, stderr, code := w.spoolIn(ctx, "run", "--engine-url", "http://e", "--bucket", "spool"); code != exitOK {
			t.Errorf("exit %d: %s", code, stderr)
		}
	})
}
