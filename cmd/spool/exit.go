package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"

	"spool/storage"
	"spool/storage/batch"
	"spool/storage/queue"
)

// exitCode is a promise to scripts: codes keep their meaning for ever. docs/CLI.md lists them.
type exitCode int

const (
	exitOK          exitCode = iota
	exitInternal             // anything else; of run: try elsewhere
	exitUsage                // usage or configuration
	exitLinesFailed          // done, some lines failed
	exitRejected             // by validation
	exitCancelled
	exitExpired
	exitTimeout // of wait
	exitNoInput // no such input
	exitUnfit   // store or queue unfit, or not to be reached
	exitFailed  // the batch failed otherwise
	exitGPU     // of run: a GPU is unfit

	exitInterrupted exitCode = 130 // as shells say it of SIGINT; waiting ended, what was waited for goes on
)

// exitMeanings is the table of docs/CLI.md, by code.
func exitMeanings() map[exitCode]string {
	return map[exitCode]string{
		exitOK:          "done; `run`: idle, or handed over",
		exitInternal:    "internal error; `run`: try elsewhere",
		exitUsage:       "usage or configuration",
		exitLinesFailed: "done, some lines failed",
		exitRejected:    "rejected by validation",
		exitCancelled:   "cancelled",
		exitExpired:     "expired",
		exitTimeout:     "time-out of `wait`",
		exitNoInput:     "no such input",
		exitUnfit:       "store or queue unfit, or out of reach",
		exitFailed:      "failed otherwise",
		exitGPU:         "`run`: a GPU is unfit",
		exitInterrupted: "`wait`, `--wait` and `logs -f`: interrupted, by SIGINT or SIGTERM; the batch goes on",
	}
}

// failure is an error with an exit code and, if there is one, advice.
type failure struct {
	code exitCode
	err  error
	hint string // what to do about it; "" for none
	said bool   // it was reported already
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

func failf(code exitCode, hint, format string, args ...any) error {
	return &failure{code: code, err: fmt.Errorf(format, args...), hint: hint}
}

// usagef is the error of a wrong command line.
func usagef(format string, args ...any) error { return failf(exitUsage, "", format, args...) }

// explain finds the exit code and the advice for any error.
func explain(err error) *failure {
	if f, ok := errors.AsType[*failure](err); ok {
		return &failure{f.code, err, f.hint, f.said}
	}
	if errors.Is(err, context.Canceled) {
		return &failure{code: exitInternal, err: errors.New("interrupted")}
	}
	if _, ok := errors.AsType[*storage.Error](err); ok {
		return &failure{code: exitUnfit, err: err, hint: storeHint(storage.KindOf(err))}
	}
	if e, ok := errors.AsType[*queue.Error](err); ok {
		return &failure{code: exitUnfit, err: err, hint: queueHint(e)}
	}
	return &failure{code: exitInternal, err: err}
}

func storeHint(k storage.Kind) string {
	switch k {
	case storage.KindDenied:
		return "check the credentials (AWS_PROFILE, AWS_ACCESS_KEY_ID) and what they may do: spool doctor"
	case storage.KindUnavailable:
		return "check the endpoint (--s3-endpoint, AWS_ENDPOINT_URL) and the network: spool doctor"
	case storage.KindNotFound:
		return "check the name of the bucket (--bucket) and the region"
	case storage.KindInvalid, storage.KindUnknown:
		return "check the credentials (they may have expired), the region, and --s3-endpoint (AWS_ENDPOINT_URL_S3) if the store is not AWS"
	default:
		return ""
	}
}

func queueHint(e *queue.Error) string {
	if errors.Is(e, queue.ErrNoQueue) {
		return "create the queues with spool watch --create-queues, or infra/"
	}
	return "check the endpoint (--sqs-endpoint, AWS_ENDPOINT_URL_SQS), the region and the credentials: spool doctor"
}

// cause is why a connection failed, in few words; "" of any other error.
func cause(err error) string {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno.Error()
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return dns.Err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return "no answer in time"
	}
	return ""
}

// outcomeCode gives the exit code of a batch that has ended.
func outcomeCode(o *batch.Object) exitCode {
	switch o.Status {
	case batch.Completed:
		if o.RequestCounts.Failed > 0 {
			return exitLinesFailed
		}
		return exitOK
	case batch.Cancelled:
		return exitCancelled
	case batch.Expired:
		return exitExpired
	}
	if o.OutputFileID == nil { // output.jsonl exists unless the file was rejected
		return exitRejected
	}
	return exitFailed
}
