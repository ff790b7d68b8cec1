// Package engine holds the queues of the local SQS server: what a message goes through between being sent and
// being deleted. It knows no HTTP.
//
// All queues share one lock. An operation holds it for microseconds, and moving a message from one queue to
// another (a dead letter, a redrive) is then one step that nobody can see half of. Nothing happens in the
// background: messages whose time has come are put back in line by the next operation that looks at the
// queue, and a receiver that waits sets a timer for the first of them. So there is nothing to stop, and with a
// clock that is set by hand every outcome is determined.
//
// Standard queues only: delivery is in the order of sending as long as nobody lets a lease run out, which is
// more than SQS promises. Messages past their retention are dropped when they would be received; until then
// they are counted.
package engine

import (
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
)

// Engine is a set of queues in memory. All methods may be called concurrently.
type Engine struct {
	clock   Clock
	region  string
	account string
	done    chan struct{} // closed by Close

	mu       sync.Mutex
	queues   map[string]*queue
	sequence uint64
	faults   faults
	moves    []Move
	closing  sync.Once
}

// New makes an Engine without queues; region and account are parts of the ARNs of its queues.
func New(clock Clock, region, account string) *Engine {
	return &Engine{
		clock: clock, region: region, account: account,
		done: make(chan struct{}), queues: map[string]*queue{},
	}
}

// Close ends all waits: a Receive that waits, and every later one, returns what is there now. It may be called twice.
func (e *Engine) Close() { e.closing.Do(func() { close(e.done) }) }

// Account is the number of the account that the queues belong to.
func (e *Engine) Account() string { return e.account }

// ARN is the name of a queue in policies.
func (e *Engine) ARN(queue string) string {
	return "arn:aws:sqs:" + e.region + ":" + e.account + ":" + queue
}

// byARN finds a queue; the lock must be held.
func (e *Engine) byARN(arn string) (*queue, bool) {
	name, ok := strings.CutPrefix(arn, e.ARN(""))
	if !ok {
		return nil, false
	}
	q, ok := e.queues[name]
	return q, ok
}

// find returns a queue with all messages visible whose time has come; the lock must be held.
func (e *Engine) find(name string) (*queue, error) {
	q, ok := e.queues[name]
	if !ok {
		return nil, errNoQueue()
	}
	q.promote(e.clock.Now())
	return q, nil
}

var queueName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,80}$`)

// CreateQueue makes a queue, or does nothing if there is one with the same values of these attributes.
func (e *Engine) CreateQueue(name string, attrs, tags map[string]string) error {
	if strings.HasSuffix(name, ".fifo") {
		return errFIFO()
	}
	if !queueName.MatchString(name) {
		return Errorf(CodeInvalidValue, "Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length")
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	set, err := settings{}.with(attrs, e)
	if err != nil {
		return err
	}
	if old, ok := e.queues[name]; ok {
		if attr := old.set.differs(attrs); attr != "" {
			return Errorf(CodeQueueExists, "A queue already exists with the same name and a different value for attribute %s", attr)
		}
		return nil
	}
	e.queues[name] = newQueue(e, name, set, tags)
	return nil
}

// Exists returns an error if there is no such queue.
func (e *Engine) Exists(name string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	_, err := e.find(name)
	return err
}

// Queues lists the names that start with prefix, sorted.
func (e *Engine) Queues(prefix string) []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var names []string
	for _, name := range slices.Sorted(maps.Keys(e.queues)) {
		if strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	return names
}

// DeleteQueue drops a queue with its messages. Unlike AWS, which wants 60 s to pass, the name is free at once.
func (e *Engine) DeleteQueue(name string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	q, err := e.find(name)
	if err != nil {
		return err
	}
	delete(e.queues, name)
	q.wake()
	return nil
}

// Purge drops the messages of a queue, at most once a minute as AWS has it.
func (e *Engine) Purge(name string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	q, err := e.find(name)
	if err != nil {
		return err
	}
	now := e.clock.Now()
	if !q.purged.IsZero() && now.Sub(q.purged) < purgeInterval {
		return Errorf(CodePurgeInProgress, "Only one PurgeQueue operation on %s is allowed every 60 seconds.", name)
	}
	q.clear()
	q.purged = now
	return nil
}

// Attributes are all attributes of a queue, those that change by themselves included.
func (e *Engine) Attributes(name string) (map[string]string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	q, err := e.find(name)
	if err != nil {
		return nil, err
	}
	c := q.counts()
	attrs := map[string]string{
		"QueueArn":                              e.ARN(name),
		"ApproximateNumberOfMessages":           strconv.Itoa(c.Visible),
		"ApproximateNumberOfMessagesNotVisible": strconv.Itoa(c.InFlight),
		"ApproximateNumberOfMessagesDelayed":    strconv.Itoa(c.Delayed),
		"CreatedTimestamp":                      strconv.FormatInt(q.created.Unix(), 10),
		"LastModifiedTimestamp":                 strconv.FormatInt(q.modified.Unix(), 10),
	}
	for attr, n := range q.set.numbers {
		if attr != "KmsDataKeyReusePeriodSeconds" || q.set.texts["KmsMasterKeyId"] != "" {
			attrs[attr] = strconv.Itoa(n)
		}
	}
	maps.Copy(attrs, q.set.texts)
	return attrs, nil
}

// SetAttributes changes attributes: all of them, or none with an error.
func (e *Engine) SetAttributes(name string, attrs map[string]string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	q, err := e.find(name)
	if err != nil {
		return err
	}
	set, err := q.set.with(attrs, e)
	if err != nil {
		return err
	}
	if set.redrive.target == name {
		return Errorf(CodeInvalidValue, "A queue cannot be its own dead-letter queue.")
	}
	q.set, q.modified = set, e.clock.Now()
	return nil
}

// Tags returns the tags of a queue.
func (e *Engine) Tags(name string) (map[string]string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	q, err := e.find(name)
	if err != nil {
		return nil, err
	}
	return maps.Clone(q.tags), nil
}

// Tag sets the tags in set and takes away those in drop.
func (e *Engine) Tag(name string, set map[string]string, drop []string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	q, err := e.find(name)
	if err != nil {
		return err
	}
	maps.Copy(q.tags, set)
	for _, tag := range drop {
		delete(q.tags, tag)
	}
	return nil
}

// Counts are the messages of a queue.
type Counts struct {
	Visible  int // can be received now
	InFlight int // received, neither deleted nor visible again
	Delayed  int // sent with a delay that is not over
}

// Counts are exact at the moment of the call.
func (e *Engine) Counts(name string) (Counts, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	q, err := e.find(name)
	if err != nil {
		return Counts{}, err
	}
	return q.counts(), nil
}

// Send puts a message in line.
func (e *Engine) Send(name string, s Send) (Sent, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	q, err := e.find(name)
	if err != nil {
		return Sent{}, err
	}
	if err := s.check(q.set.seconds("MaximumMessageSize")); err != nil {
		return Sent{}, err
	}
	m := &message{Send: s, id: uuid.NewString(), md5: md5Hex(s.Body), sent: e.clock.Now()}
	delay := q.set.seconds("DelaySeconds")
	if s.Delay != nil {
		delay = *s.Delay
	}
	if !e.faults.drop.Hit() {
		q.take(m, time.Duration(delay)*time.Second)
	}
	return Sent{ID: m.id, MD5Body: m.md5, MD5Attributes: MD5Attributes(s.Attributes), MD5System: MD5Attributes(s.System)}, nil
}
