//go:build !nolocal

// Package localstack is everything that spool needs of a cloud, on one machine and with nothing to install: an S3
// server with its objects on disk, an SQS server, the events from one to the other, and a Pushgateway. The spool that
// runs against it is the one that runs against AWS; only endpoints differ.
//
// S3 runs in a child process (package localstack/s3 tells why), the rest in this one. All of it listens on 127.0.0.1
// only, with keys that everybody knows: it is no place for secrets. Objects outlive a restart, queues do not: a
// watcher that starts finds out from the bucket what is to be queued.
//
// The build tag nolocal leaves the package out, and with it versitygw and what that links.
package localstack

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"spool/localstack/pushgateway"
	"spool/localstack/s3"
	"spool/localstack/sqs"
)

const (
	// DefaultPortBase is where the parts listen if nobody says otherwise: S3 on it, SQS on the next port, the
	// Pushgateway on the one after. Config.PortBase does not default to it: tests want ports that are free.
	DefaultPortBase = 9700

	// EventsQueue is the queue that hears of new objects under EventsPrefix. It is made at the start.
	EventsQueue = "spool-events"

	// EventsPrefix is where users put their input.
	EventsPrefix = "in/"

	// S3Command is the hidden command of cmd/spool that plays the S3 server: it calls s3.RunChild.
	S3Command = "local-s3"
)

const (
	host          = "127.0.0.1"
	closePatience = 5 * time.Second
	headerTimeout = 10 * time.Second
)

// Config describes a Stack. Dir is required; zero values mean the defaults.
type Config struct {
	Dir       string   // objects are in Dir/s3; made if absent; one stack at a time
	PortBase  int      // the first of three ports; 0: the kernel chooses each
	Region    string   // default us-east-1
	AccessKey string   // default "spool"
	SecretKey string   // default "spool-local-secret"
	Bucket    string   // default "spool"; made if absent
	Exe       string   // the program that plays the S3 server; default: this one
	S3Args    []string // its arguments; default: S3Command
}

func (c Config) withDefaults() (Config, error) {
	if c.Dir == "" {
		return c, errors.New("no directory for the data")
	}
	if c.PortBase < 0 || c.PortBase > 65533 {
		return c, fmt.Errorf("port base %d is not between 0 and 65533", c.PortBase)
	}
	c.Region = cmp.Or(c.Region, sqs.DefaultRegion)
	c.AccessKey = cmp.Or(c.AccessKey, sqs.DefaultAccessKey)
	c.SecretKey = cmp.Or(c.SecretKey, sqs.DefaultSecretKey)
	c.Bucket = cmp.Or(c.Bucket, "spool")
	if c.S3Args == nil {
		c.S3Args = []string{S3Command}
	}
	if c.Exe == "" {
		exe, err := os.Executable()
		if err != nil {
			return c, fmt.Errorf("find this program: %w", err)
		}
		c.Exe = exe
	}
	return c, nil
}

// Endpoints are URLs without a path.
type Endpoints struct{ S3, SQS, Pushgateway string }

// Stack is a running local stack.
type Stack struct {
	Endpoints   Endpoints
	SQS         *sqs.Server         // for faults and counts
	Pushgateway *pushgateway.Server // to look at what was pushed
	S3          *s3.Process         // to kill it

	cfg     Config
	lock    *os.File
	servers []*http.Server
	group   errgroup.Group // everything that was started
	failed  chan error
	closing sync.Once
	closed  chan struct{}
	err     error // of Close
}

// Start starts all parts and returns when they answer. ctx bounds the start; afterwards the stack runs until Close. The
// three ports are taken one by one: an error names the one that is taken, and nothing is left running.
func Start(ctx context.Context, cfg Config, log *zap.Logger) (*Stack, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("configure local stack: %w", err)
	}
	if log == nil {
		log = zap.NewNop()
	}
	s := &Stack{
		SQS:         sqs.New(sqs.Config{Region: cfg.Region, AccessKey: cfg.AccessKey, SecretKey: cfg.SecretKey}),
		Pushgateway: pushgateway.New(nil), cfg: cfg, failed: make(chan error, 3), closed: make(chan struct{}),
	}
	if err := s.start(ctx, log); err != nil {
		return nil, errors.Join(fmt.Errorf("start local stack: %w", err), s.Close()) //nolint:contextcheck // ctx may be why it failed
	}
	return s, nil
}

func (s *Stack) start(ctx context.Context, log *zap.Logger) (err error) {
	if s.lock, err = lockDir(s.cfg.Dir); err != nil {
		return err
	}
	if err := s.SQS.CreateQueue(EventsQueue, nil); err != nil {
		return fmt.Errorf("create queue %q: %w", EventsQueue, err)
	}
	if s.Endpoints.SQS, err = s.serve(ctx, "SQS", 1, s.SQS); err != nil {
		return err
	}
	if s.Endpoints.Pushgateway, err = s.serve(ctx, "the Pushgateway", 2, s.Pushgateway); err != nil {
		return err
	}
	s.S3, err = s3.Start(ctx, append([]string{s.cfg.Exe}, s.cfg.S3Args...), s3.Config{
		Dir: filepath.Join(s.cfg.Dir, "s3"), Address: s.address(0),
		Region: s.cfg.Region, AccessKey: s.cfg.AccessKey, SecretKey: s.cfg.SecretKey, Bucket: s.cfg.Bucket,
		Events: s3.Events{QueueURL: s.QueueURL(EventsQueue), Prefix: EventsPrefix},
	}, log)
	if err != nil {
		return s.explain("S3", 0, err)
	}
	s.Endpoints.S3 = s.S3.Endpoint
	s.group.Go(func() error {
		<-s.S3.Done()
		s.fail("S3", s.S3.Err())
		return nil
	})
	return nil
}

// lockDir makes dir and keeps other stacks out of it until the file is closed, by us or by our end.
func lockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock data directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, &inUseError{dir: dir, err: err}
	}
	return f, nil
}

// inUseError is the refusal of a lock, whose own text, "resource temporarily unavailable", tells nobody what is wrong.
type inUseError struct {
	dir string
	err error
}

func (e *inUseError) Error() string {
	return fmt.Sprintf("directory %q is in use by another local stack", e.dir)
}
func (e *inUseError) Unwrap() error { return e.err }

// address is that of the n-th part.
func (s *Stack) address(n int) string {
	port := 0
	if s.cfg.PortBase != 0 {
		port = s.cfg.PortBase + n
	}
	return net.JoinHostPort(host, strconv.Itoa(port))
}

// serve serves the n-th part and returns its endpoint.
func (s *Stack) serve(ctx context.Context, name string, n int, h http.Handler) (string, error) {
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", s.address(n))
	if err != nil {
		return "", s.explain(name, n, err)
	}
	server := &http.Server{Handler: h, ReadHeaderTimeout: headerTimeout}
	s.servers = append(s.servers, server)
	s.group.Go(func() error {
		s.fail(name, server.Serve(ln))
		return nil
	})
	return "http://" + ln.Addr().String(), nil
}

// explain says what to do about a port that is taken.
func (s *Stack) explain(name string, n int, err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("port %d, for %s, is taken: choose three others with --port-base: %w", s.cfg.PortBase+n, name, err)
	}
	return err
}

// fail reports that a part ended, unless it was told to.
func (s *Stack) fail(name string, err error) {
	select {
	case <-s.closed:
	default:
		s.failed <- fmt.Errorf("%s of the local stack ended: %w", name, err)
	}
}

// Failed yields an error for each part that ends by itself. Without Close there is nothing else to expect of it.
func (s *Stack) Failed() <-chan error { return s.failed }

// QueueURL is the URL of a queue, whether it exists or not.
func (s *Stack) QueueURL(name string) string {
	return s.Endpoints.SQS + "/" + sqs.DefaultAccount + "/" + name
}

// Bucket is the bucket that was made at the start.
func (s *Stack) Bucket() string { return s.cfg.Bucket }

// Env is what a program needs in its environment, besides its own, to find this stack instead of AWS: NAME=value, to be
// appended, since a session token left over from elsewhere must not reach the servers.
func (s *Stack) Env() []string {
	return []string{
		"AWS_ACCESS_KEY_ID=" + s.cfg.AccessKey,
		"AWS_SECRET_ACCESS_KEY=" + s.cfg.SecretKey,
		"AWS_SESSION_TOKEN=",
		"AWS_REGION=" + s.cfg.Region,
		"AWS_DEFAULT_REGION=" + s.cfg.Region,
		"AWS_ENDPOINT_URL_S3=" + s.Endpoints.S3,
		"AWS_ENDPOINT_URL_SQS=" + s.Endpoints.SQS,
		"AWS_EC2_METADATA_DISABLED=true",
		"SPOOL_BUCKET=" + s.cfg.Bucket,
	}
}

// Close ends all parts, S3 first, so that its last events find their queue. It may be called any number of times, and
// returns when nothing runs any more.
func (s *Stack) Close() error {
	s.closing.Do(func() {
		close(s.closed)
		var errs []error
		if s.S3 != nil {
			errs = append(errs, s.S3.Stop())
		}
		s.SQS.Close()
		ctx, cancel := context.WithTimeout(context.Background(), closePatience)
		defer cancel()
		for _, server := range s.servers {
			if server.Shutdown(ctx) != nil {
				errs = append(errs, server.Close())
			}
		}
		_ = s.group.Wait() // they report by Failed
		if s.lock != nil {
			errs = append(errs, s.lock.Close())
		}
		s.err = errors.Join(errs...)
	})
	return s.err
}
