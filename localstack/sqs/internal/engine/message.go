package engine

import (
	"crypto/md5"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Limits of the service, from the quotas of the Amazon SQS developer guide.
const (
	MaxBatch          = 10
	MaxBytes          = 1 << 20 // of a message with its attributes, and of a batch of them
	maxAttributes     = 10
	maxVisibility     = 12 * time.Hour // counted from the receive, however often it is changed
	maxInFlight       = 120_000
	maxDelaySeconds   = 900
	maxWaitSeconds    = 20
	maxGroupIDLength  = 128
	purgeInterval     = time.Minute
	maxVisibleSeconds = int(maxVisibility / time.Second)
)

// Attribute is one message attribute. DataType is String, Number or Binary, perhaps with a suffix
// (Number.int); a Binary has its value in Binary, the others in String.
type Attribute struct {
	DataType string
	String   string
	Binary   []byte
}

func (a Attribute) binary() bool { return strings.HasPrefix(a.DataType, "Binary") }

func (a Attribute) value() []byte {
	if a.binary() {
		return a.Binary
	}
	return []byte(a.String)
}

// Send is a message to be sent. Delay is in seconds, nil for the queue's own.
type Send struct {
	Body       string
	Delay      *int
	Attributes map[string]Attribute
	System     map[string]Attribute // AWSTraceHeader only
	GroupID    string
	DedupID    string // refused: it has a meaning on FIFO queues only
}

// Size is what counts against MaxBytes.
func (s Send) Size() int {
	n := len(s.Body)
	for name, a := range s.Attributes {
		n += len(name) + len(a.DataType) + len(a.value())
	}
	return n
}

// Sent describes a message that was taken in.
type Sent struct {
	ID            string
	MD5Body       string
	MD5Attributes string // "" without attributes
	MD5System     string // "" without system attributes
}

// Delivery is a message in the hands of a receiver. It shares its maps with the queue: read only.
type Delivery struct {
	ID         string
	Handle     string
	Body       string
	MD5Body    string
	Attributes map[string]Attribute
	System     map[string]string
}

// state is where a message stands: visible, or waiting for visibleAt after a receive or a delayed send.
type state int

const (
	ready state = iota
	leased
	delayed
)

type message struct {
	Send
	id       string
	md5      string
	sent     time.Time
	origin   string // the queue it was moved away from as a dead letter; "" if none
	sequence uint64

	state      state
	index      int       // in the heap of its state
	visibleAt  time.Time // unless ready
	received   int
	receivedAt time.Time // the latest
	firstAt    time.Time // the first receive
}

// handle is valid until the next receive. Clients must not look inside.
func (m *message) handle(queue string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(queue + "/" + m.id + "/" + strconv.Itoa(m.received)))
}

// parseHandle takes a handle apart. It fails for what is no handle, or one of another queue.
func parseHandle(queue, handle string) (id string, received int, err error) {
	if handle == "" {
		return "", 0, Errorf(CodeMissing, "The request must contain the parameter ReceiptHandle.")
	}
	raw, decodeErr := base64.RawURLEncoding.DecodeString(handle)
	parts := strings.Split(string(raw), "/")
	if decodeErr != nil || len(parts) != 3 || parts[0] != queue {
		return "", 0, errHandle(handle)
	}
	received, convErr := strconv.Atoi(parts[2])
	if convErr != nil {
		return "", 0, errHandle(handle)
	}
	return parts[1], received, nil
}

func (m *message) deliver(q *queue) Delivery {
	system := map[string]string{
		"SenderId":                         q.engine.account,
		"SentTimestamp":                    millis(m.sent),
		"ApproximateReceiveCount":          strconv.Itoa(m.received),
		"ApproximateFirstReceiveTimestamp": millis(m.firstAt),
	}
	if m.GroupID != "" {
		system["MessageGroupId"] = m.GroupID
	}
	if m.origin != "" {
		system["DeadLetterQueueSourceArn"] = q.engine.ARN(m.origin)
	}
	for name, a := range m.System {
		system[name] = a.String
	}
	return Delivery{
		ID: m.id, Handle: m.handle(q.name), Body: m.Body, MD5Body: m.md5,
		Attributes: m.Attributes, System: system,
	}
}

func millis(t time.Time) string { return strconv.FormatInt(t.UnixMilli(), 10) }

// check refuses what AWS refuses. maxSize is in bytes.
func (s Send) check(maxSize int) error {
	switch {
	case s.Body == "":
		return Errorf(CodeMissing, "The request must contain the parameter MessageBody.")
	case s.Size() > maxSize:
		return Errorf(CodeInvalidValue, "One or more parameters are invalid. Reason: Message must be shorter than %d bytes.", maxSize)
	case !validText(s.Body):
		return Errorf(CodeInvalidContents, "The message contains characters outside the allowed set.")
	case s.Delay != nil && (*s.Delay < 0 || *s.Delay > maxDelaySeconds):
		return errRange("DelaySeconds", *s.Delay, 0, maxDelaySeconds)
	case s.DedupID != "":
		return Errorf(CodeInvalidValue, "The request includes a parameter that is not valid for this queue type. "+
			"Reason: MessageDeduplicationId is for FIFO queues.")
	case len(s.GroupID) > maxGroupIDLength:
		return Errorf(CodeInvalidValue, "MessageGroupId can only be 1 to %d characters long.", maxGroupIDLength)
	case len(s.Attributes) > maxAttributes:
		return Errorf(CodeInvalidValue, "Number of message attributes [%d] exceeds the allowed maximum [%d].", len(s.Attributes), maxAttributes)
	}
	for name := range s.System {
		if name != "AWSTraceHeader" {
			return Errorf(CodeInvalidValue, "Message system attribute name '%s' is invalid.", name)
		}
	}
	return checkAttributes(s.Attributes)
}

func checkAttributes(attrs map[string]Attribute) error {
	for name, a := range attrs {
		kind, _, _ := strings.Cut(a.DataType, ".")
		switch {
		case name == "" || len(name) > 256:
			return Errorf(CodeInvalidValue, "Length of message attribute name must be between 1 and 256 bytes.")
		case kind != "String" && kind != "Number" && kind != "Binary":
			return Errorf(CodeInvalidValue, "The type of message (user) attribute '%s' is invalid. "+
				"You must use only the following supported type prefixes: Binary, Number, String.", name)
		case len(a.value()) == 0:
			return Errorf(CodeInvalidValue, "Message (user) attribute '%s' must contain a non-empty value of type '%s'.", name, kind)
		case !a.binary() && !validText(a.String):
			return Errorf(CodeInvalidContents, "Message (user) attribute '%s' contains characters outside the allowed set.", name)
		}
	}
	return nil
}

// validText tells whether s is of the characters that SendMessage allows: those of XML 1.0.
func validText(s string) bool {
	for i, r := range s {
		switch {
		case r == utf8.RuneError:
			if _, n := utf8.DecodeRuneInString(s[i:]); n == 1 {
				return false
			}
		case r < 0x20 && r != '\t' && r != '\n' && r != '\r', r == 0xFFFE, r == 0xFFFF:
			return false
		}
	}
	return true
}

func md5Hex(s string) string {
	sum := md5.Sum([]byte(s))
	return hex.EncodeToString(sum[:])
}

// MD5Attributes is the digest that clients check: over the attributes in the order of their names, each as
// length and bytes of name and type, one byte 1 (text) or 2 (binary), length and bytes of the value. It is ""
// for no attributes. (SQS developer guide, "Calculating the MD5 message digest for message attributes".)
func MD5Attributes(attrs map[string]Attribute) string {
	if len(attrs) == 0 {
		return ""
	}
	var b []byte
	field := func(v []byte) {
		b = binary.BigEndian.AppendUint32(b, uint32(len(v)))
		b = append(b, v...)
	}
	for _, name := range slices.Sorted(maps.Keys(attrs)) {
		a := attrs[name]
		field([]byte(name))
		field([]byte(a.DataType))
		if a.binary() {
			b = append(b, 2)
		} else {
			b = append(b, 1)
		}
		field(a.value())
	}
	return md5Hex(string(b))
}
