//go:build !nolocal

// Package s3 is the S3 server of the local stack: versitygw's posix backend, a real implementation with signatures,
// checksums, multipart uploads and conditional writes that hold under a race, on plain files.
//
// It runs in a process of its own, since that backend changes the working directory of the process it is in and works
// on relative paths: two of them, or one and anything that opens a relative path, spoil each other. The child is the
// same binary started again, which then calls RunChild. Its configuration, keys included, goes through its standard
// input, so that no process listing shows it; the pipe stays open, and its end, however the parent came to die, is
// the child's sign to stop. (PR_SET_PDEATHSIG would be Linux only, and bound to the thread of the parent that started
// the child rather than to the parent.)
//
// An object that was put under the configured prefix is announced on SQS in AWS's format. That is best effort, as
// on AWS, only worse: what cannot be sent within a minute, or finds 4096 others waiting, is dropped with a line in
// the log. Whoever relies on events must LIST now and then.
//
// Not here: fsync (a power cut may lose acknowledged objects), versions, lifecycle rules, and keys of which one is a
// directory of the other ("a" and "a/b").
package s3

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	client "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"go.uber.org/zap"
)

// Config describes the server. Dir is required; "" means the default elsewhere.
type Config struct {
	Dir       string // holds the buckets, one directory each; made if absent
	Address   string // host:port; default 127.0.0.1:0, where port 0 lets the kernel choose
	Region    string // default us-east-1; clients must sign for it
	AccessKey string // default "spool"
	SecretKey string // default "spool-local-secret"
	Bucket    string // default "spool"; made if absent
	Events    Events
}

// Events says who is told about new objects. Without a QueueURL nobody is.
type Events struct {
	QueueURL string // http://host:port/account/name of an SQS queue, for the keys and region of Config
	Prefix   string // only keys that start with it
}

func (c Config) withDefaults() (Config, error) {
	if c.Dir == "" {
		return c, errors.New("no directory for the objects")
	}
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return c, fmt.Errorf("find directory %q: %w", c.Dir, err)
	}
	c.Dir = dir
	c.Address = cmp.Or(c.Address, "127.0.0.1:0")
	c.Region = cmp.Or(c.Region, "us-east-1")
	c.AccessKey = cmp.Or(c.AccessKey, "spool")
	c.SecretKey = cmp.Or(c.SecretKey, "spool-local-secret")
	c.Bucket = cmp.Or(c.Bucket, "spool")
	return c, nil
}

// readyLine is what the child prints once it listens. All else that it prints is for the log.
const readyLine = "spool-local-s3: ready"

var errEnded = errors.New("without an error")

const (
	stopPatience = 20 * time.Second // then the child is killed; it takes itself requestGrace and eventGrace at most
	chosenTries  = 5                // a port that the kernel chose may be taken before the child listens on it
)

// Process is a running server.
type Process struct {
	Endpoint string // http://host:port

	cmd   *exec.Cmd
	stdin io.Closer
	stop  sync.Once
	done  chan struct{} // closed when the process is gone
	err   error         // how it went; after done
}

// Start runs command, which must call RunChild, and returns when the server answers and has the bucket. ctx bounds the
// start; afterwards the server runs until Stop. What the child prints goes to log.
func Start(ctx context.Context, command []string, cfg Config, log *zap.Logger) (*Process, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("configure s3: %w", err)
	}
	if err := os.MkdirAll(cfg.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("configure s3: %w", err)
	}
	host, port, err := net.SplitHostPort(cfg.Address)
	if err != nil {
		return nil, fmt.Errorf("configure s3: %w", err)
	}
	tries := 1
	if port == "0" {
		tries = chosenTries
	}
	var p *Process
	for range tries {
		if cfg.Address, err = free(ctx, net.JoinHostPort(host, port)); err != nil {
			return nil, err
		}
		p, err = start(ctx, command, cfg, log)
		if err == nil || !strings.Contains(err.Error(), syscall.EADDRINUSE.Error()) {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	if err := p.createBucket(ctx, cfg); err != nil {
		return nil, errors.Join(err, p.Stop())
	}
	return p, nil
}

// free finds out whether an address can be listened on, and which it is if the port is 0. The server's own library
// wants an address, not a listener.
func free(ctx context.Context, address string) (string, error) {
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return "", fmt.Errorf("start s3: %w", err)
	}
	return ln.Addr().String(), ln.Close()
}

// start runs one child and waits until it listens.
func start(ctx context.Context, command []string, cfg Config, log *zap.Logger) (*Process, error) {
	doc, err := json.Marshal(cfg)
	if err != nil {
		return nil, fmt.Errorf("start s3: %w", err)
	}
	out, childOut, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start s3: %w", err)
	}
	cmd := exec.Command(command[0], command[1:]...) //nolint:noctx // it outlives ctx; Stop ends it
	cmd.Stdout, cmd.Stderr = childOut, childOut
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a Ctrl-C at the terminal is for the parent to handle
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	_ = childOut.Close()
	if err != nil {
		_ = out.Close()
		return nil, fmt.Errorf("start s3: %w", err)
	}
	p := &Process{Endpoint: "http://" + cfg.Address, cmd: cmd, stdin: stdin, done: make(chan struct{})}
	ready, last := make(chan struct{}), make(chan string, 1)
	go func() {
		defer close(p.done)
		last <- follow(out, ready, log)
		p.err = cmd.Wait()
	}()
	_, _ = stdin.Write(append(doc, '\n')) // fails if the child is gone already, which says more below
	select {
	case <-ready:
		return p, nil
	case <-p.done:
		return nil, fmt.Errorf("start s3: %q ended: %w: %s", command, cmp.Or(p.err, errEnded), <-last)
	case <-ctx.Done():
		return nil, errors.Join(fmt.Errorf("start s3: %w", context.Cause(ctx)), p.Stop())
	}
}

// follow logs the lines of the child until it closes its output, closes ready at the first readyLine, and returns the
// last line of others.
func follow(out io.ReadCloser, ready chan struct{}, log *zap.Logger) (last string) {
	defer out.Close()
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		switch line := lines.Text(); {
		case line == readyLine && ready != nil:
			close(ready)
			ready = nil
		default:
			last = line
			log.Warn("s3 server", zap.String("line", line))
		}
	}
	_, _ = io.Copy(io.Discard, out) // after a line too long to scan: the child must not block
	return last
}

// createBucket proves on the way that the server answers signed requests.
func (p *Process) createBucket(ctx context.Context, cfg Config) error {
	transport := &http.Transport{DisableKeepAlives: true}
	c := client.New(client.Options{
		BaseEndpoint: &p.Endpoint, Region: cfg.Region, UsePathStyle: true, HTTPClient: &http.Client{Transport: transport},
		Credentials: credentials.NewStaticCredentialsProvider(cfg.AccessKey, cfg.SecretKey, ""),
	})
	_, err := c.CreateBucket(ctx, &client.CreateBucketInput{Bucket: aws.String(cfg.Bucket)})
	if _, ours := errors.AsType[*types.BucketAlreadyOwnedByYou](err); err != nil && !ours {
		return fmt.Errorf("create bucket %q: %w", cfg.Bucket, err)
	}
	return nil
}

// Done is closed when the process is gone, by Stop or by itself.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err tells how the process ended; nil while it runs and after a clean end.
func (p *Process) Err() error {
	select {
	case <-p.done:
		return p.err
	default:
		return nil
	}
}

// Kill ends the server as a crash would; Done and Err tell the rest.
func (p *Process) Kill() error {
	if err := p.cmd.Process.Kill(); err != nil {
		return fmt.Errorf("kill s3: %w", err)
	}
	return nil
}

// Stop gives the server 2 s for what it is at and 2 s for events that wait, kills it if it does not end, and returns when
// the process is gone. It may be called any number of times.
func (p *Process) Stop() error {
	p.stop.Do(func() {
		_ = p.stdin.Close()
		timer := time.AfterFunc(stopPatience, func() { _ = p.cmd.Process.Kill() })
		defer timer.Stop()
		<-p.done
	})
	<-p.done
	if p.err != nil {
		return fmt.Errorf("stop s3: %w", p.err)
	}
	return nil
}
