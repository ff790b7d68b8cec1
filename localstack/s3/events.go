//go:build !nolocal

package s3

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	client "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/gofiber/fiber/v3"
	"github.com/versity/versitygw/auth"
	"github.com/versity/versitygw/s3api/utils"
	"github.com/versity/versitygw/s3event"
)

const (
	eventBuffer  = 4096             // events that wait to be sent; more are dropped
	eventTimeout = time.Minute      // for one event, with the tries of the SDK
	eventGrace   = 2 * time.Second  // for those that wait when the server stops
	headTimeout  = 10 * time.Second // to ask for the size of an object
)

// header is what events ask of the backend.
type header interface {
	HeadObject(context.Context, *client.HeadObjectInput) (*client.HeadObjectOutput, error)
}

// events sends what SendEvent is told to the queue, in the background: a PUT neither waits for the queue nor fails
// with it.
type events struct {
	cfg      Config
	objects  header
	queue    *sqs.Client // nil: nobody is told
	out      io.Writer   // for what went wrong
	sequence atomic.Int64

	mu      sync.RWMutex // a send on pending against Close
	closed  bool
	pending chan created
	dropped atomic.Int64

	cancel context.CancelFunc
	done   chan struct{}
}

var _ s3event.S3EventSender = (*events)(nil)

// startEvents makes the sender, and sends the test event first.
func startEvents(cfg Config, objects header, out io.Writer) (*events, error) {
	ctx, cancel := context.WithCancel(context.Background())
	e := &events{
		cfg: cfg, objects: objects, out: out,
		pending: make(chan created, eventBuffer), cancel: cancel, done: make(chan struct{}),
	}
	e.sequence.Store(time.Now().UnixNano())
	if cfg.Events.QueueURL == "" {
		close(e.done)
		return e, nil
	}
	u, err := url.Parse(cfg.Events.QueueURL)
	if err != nil || u.Host == "" {
		cancel()
		return nil, fmt.Errorf("use event queue %q: not a URL: %w", cfg.Events.QueueURL, err)
	}
	e.queue = sqs.New(sqs.Options{
		BaseEndpoint: aws.String(u.Scheme + "://" + u.Host), Region: cfg.Region,
		Credentials: credentials.NewStaticCredentialsProvider(cfg.AccessKey, cfg.SecretKey, ""),
	})
	go e.run(ctx)
	return e, nil
}

func (e *events) run(ctx context.Context) {
	defer close(e.done)
	body, err := testEvent(e.cfg.Bucket, time.Now())
	e.send(ctx, "test event", body, err)
	for c := range e.pending {
		if n := e.dropped.Swap(0); n > 0 {
			say(e.out, "dropped %d events: the queue is too slow", n)
		}
		e.complete(ctx, &c)
		body, err := c.marshal()
		e.send(ctx, c.key, body, err)
	}
}

// complete asks for size and ETag where the server does not tell them: after a multipart upload, and a copy.
func (e *events) complete(ctx context.Context, c *created) {
	if c.size > 0 && c.etag != "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, headTimeout)
	defer cancel()
	head, err := e.objects.HeadObject(ctx, &client.HeadObjectInput{Bucket: &c.bucket, Key: &c.key})
	if err != nil || head == nil {
		return // gone already: the event says that something happened, which is all that is asked of it
	}
	c.size, c.etag = aws.ToInt64(head.ContentLength), unquote(head.ETag)
}

func (e *events) send(ctx context.Context, what, body string, err error) {
	ctx, cancel := context.WithTimeout(ctx, eventTimeout)
	defer cancel()
	if err == nil {
		_, err = e.queue.SendMessage(ctx, &sqs.SendMessageInput{QueueUrl: &e.cfg.Events.QueueURL, MessageBody: &body})
	}
	if err != nil {
		say(e.out, "send event about %q: %v", what, err)
	}
}

// SendEvent is called for every change, after it was made and before the client hears of it. It never waits. The
// context belongs to the request, whose buffers are used again: what is kept of it must be copied.
func (e *events) SendEvent(ctx fiber.Ctx, meta s3event.EventMeta) {
	if e.queue == nil || !strings.HasPrefix(string(meta.EventName), "s3:ObjectCreated:") {
		return
	}
	name, key, _ := strings.Cut(strings.TrimPrefix(ctx.Path(), "/"), "/")
	if name != e.cfg.Bucket || key == "" || !strings.HasPrefix(key, e.cfg.Events.Prefix) {
		return
	}
	account, _ := utils.ContextKeyAccount.Get(ctx).(auth.Account)
	requestID, hostID := utils.EnsureRequestIDs(ctx)
	e.enqueue(created{
		name: strings.TrimPrefix(string(meta.EventName), "s3:"), region: e.cfg.Region,
		bucket: e.cfg.Bucket, key: strings.Clone(key), size: meta.ObjectSize, etag: unquote(meta.ObjectETag),
		principal: strings.Clone(account.Access), address: strings.Clone(ctx.IP()),
		requestID: strings.Clone(requestID), hostID: strings.Clone(hostID),
		at: time.Now(), sequence: e.sequence.Add(1),
	})
}

func (e *events) enqueue(c created) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if e.closed {
		return
	}
	select {
	case e.pending <- c:
	default:
		e.dropped.Add(1)
	}
}

// Close sends what waits, for two seconds at most. It may be called twice.
func (e *events) Close() error {
	e.mu.Lock()
	if !e.closed {
		e.closed = true
		close(e.pending)
	}
	e.mu.Unlock()
	timer := time.AfterFunc(eventGrace, e.cancel)
	defer timer.Stop()
	<-e.done
	e.cancel()
	return nil
}

func unquote(etag *string) string { return strings.Clone(strings.Trim(aws.ToString(etag), `"`)) }
