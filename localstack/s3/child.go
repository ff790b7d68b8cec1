//go:build !nolocal

package s3

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/versity/versitygw/auth"
	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/s3api"
	"github.com/versity/versitygw/s3api/middlewares"
)

const (
	maxRequests   = 4096            // at once; more are answered 503 SlowDown
	copyThreshold = 5 << 30         // bytes; the largest CopyObject, as on AWS
	requestGrace  = 2 * time.Second // for requests that are at work when the server stops
)

// RunChild is the process that Start starts: it reads its Config from in, serves until in ends or ctx is done, and
// tells on out when it listens, and what goes wrong later, in lines of text. Call it with the standard input and output
// of a process that does nothing else and ends with it: it changes the working directory, and leaves goroutines behind.
func RunChild(ctx context.Context, in io.Reader, out io.Writer) error {
	input := json.NewDecoder(in)
	var cfg Config
	if err := input.Decode(&cfg); err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, in)
		cancel()
	}()
	return serve(ctx, cfg, out)
}

func serve(ctx context.Context, cfg Config, out io.Writer) error {
	if err := (meta.XattrMeta{}).Test(cfg.Dir); err != nil {
		return fmt.Errorf("use directory %q: %w; choose one on ext4, XFS, Btrfs, APFS or the like", cfg.Dir, err)
	}
	be, err := posix.New(cfg.Dir, meta.XattrMeta{}, posix.PosixOpts{
		Concurrency: maxRequests, CopyObjectThreshold: copyThreshold,
	})
	if err != nil {
		return fmt.Errorf("open directory %q: %w", cfg.Dir, err)
	}
	defer be.Shutdown()
	events, err := startEvents(cfg, be, out) //nolint:contextcheck // the events that wait are sent after ctx is done
	if err != nil {
		return err
	}
	defer events.Close() //nolint:errcheck // has none

	account := auth.Account{Access: cfg.AccessKey, Secret: cfg.SecretKey, Role: auth.RoleAdmin}
	server, err := s3api.New(be, middlewares.RootUserConfig{Access: cfg.AccessKey, Secret: cfg.SecretKey}, cfg.Region,
		auth.NewIAMServiceSingle(account), nil, nil, events, nil,
		s3api.WithQuiet(), s3api.WithKeepAlive(), s3api.WithConcurrencyLimiter(maxRequests, maxRequests),
		s3api.WithOnListen(func() { say(out, readyLine) }))
	if err != nil {
		return fmt.Errorf("make server: %w", err)
	}
	return listen(ctx, server, cfg.Address)
}

// listen serves until ctx is done. A client that stalls then is cut off with the process: left to itself, the server waits
// 10 s for it, and ends with an error.
func listen(ctx context.Context, server *s3api.S3ApiServer, address string) error {
	served := make(chan error, 1)
	go func() { served <- server.ServeMultiPort([]string{address}) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve on %s: %w", address, err)
	case <-ctx.Done():
	}
	stopped := make(chan error, 1)
	go func() { stopped <- server.ShutDown() }()
	select {
	case err := <-stopped:
		if err != nil {
			return fmt.Errorf("shut down: %w", err)
		}
	case <-time.After(requestGrace):
	}
	return nil
}

// say prints one line for the parent. If nobody reads it any more, the end of the input will tell.
func say(out io.Writer, format string, args ...any) {
	_, _ = fmt.Fprintf(out, format+"\n", args...)
}
