package sqstest

import (
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
)

var messageChecks = []check{ //nolint:gochecknoglobals // never written
	{"a message arrives as it was sent", messageWhole},
	{"message attributes arrive, those asked for", messageAttributes},
	{"a group id is accepted on a standard queue and comes back", messageGroup},
	{"a trace header comes back as a system attribute", messageTrace},
	{"a delayed message is counted and arrives later", messageDelayed},
	{"a message of 1 MiB fits and one byte more does not", messageSize},
	{"attributes count against the size", messageSizeAttributes},
	{"a message with a control character is refused", messageCharacters},
	{"a wrong send is refused", messageWrong},
	{"eight consumers get each message once", messageOnce},
}

func messageWhole(s *suite) {
	url := s.queue()
	body := "{\"shard\":1}\n\tgrüße \U0001F680 <&>\""
	before := time.Now().Add(-time.Second).UnixMilli()
	out, err := s.SendMessage(s.Context(), &sqs.SendMessageInput{QueueUrl: url, MessageBody: &body})
	s.must(err)
	sum := md5.Sum([]byte(body))
	wantEqual(s, "MD5OfMessageBody", *out.MD5OfMessageBody, hex.EncodeToString(sum[:]))
	m := s.one(url, 0, -1)
	wantEqual(s, "body", *m.Body, body)
	wantEqual(s, "id", *m.MessageId, *out.MessageId)
	wantEqual(s, "MD5OfBody", *m.MD5OfBody, hex.EncodeToString(sum[:]))
	wantEqual(s, "receive count", m.Attributes["ApproximateReceiveCount"], "1")
	sent, first := millis(s, m, "SentTimestamp"), millis(s, m, "ApproximateFirstReceiveTimestamp")
	if sent < before || first < sent || first > time.Now().Add(time.Second).UnixMilli() {
		s.Errorf("SentTimestamp %d, ApproximateFirstReceiveTimestamp %d are not after %d and in order", sent, first, before)
	}
}

func millis(s *suite, m types.Message, name string) int64 {
	n, err := strconv.ParseInt(m.Attributes[name], 10, 64)
	if err != nil {
		s.Fatalf("attribute %s: %v", name, err)
	}
	return n
}

func messageAttributes(s *suite) {
	url := s.queue()
	binary := []byte{0, 1, 255}
	out, err := s.SendMessage(s.Context(), &sqs.SendMessageInput{
		QueueUrl: url, MessageBody: aws.String("x"),
		MessageAttributes: map[string]types.MessageAttributeValue{
			"trace.id":   {DataType: aws.String("String"), StringValue: aws.String("grün")},
			"trace.n":    {DataType: aws.String("Number"), StringValue: aws.String("42")},
			"other.blob": {DataType: aws.String("Binary"), BinaryValue: binary},
		},
	})
	s.must(err)
	// By the developer guide's rule: (length name, length type, 1 or 2, length value), in the order of the names.
	var d bytes.Buffer
	for _, f := range [][3]string{
		{"other.blob", "Binary", "\x02\x00\x00\x00\x03\x00\x01\xff"},
		{"trace.id", "String", "\x01\x00\x00\x00\x05grün"},
		{"trace.n", "Number", "\x01\x00\x00\x00\x0242"},
	} {
		d.Write([]byte{0, 0, 0, byte(len(f[0]))})
		d.WriteString(f[0])
		d.Write([]byte{0, 0, 0, byte(len(f[1]))})
		d.WriteString(f[1] + f[2])
	}
	sum := md5.Sum(d.Bytes())
	wantEqual(s, "MD5OfMessageAttributes", *out.MD5OfMessageAttributes, hex.EncodeToString(sum[:]))

	m := s.one(url, 0, 1)
	wantEqual(s, "attributes", len(m.MessageAttributes), 3)
	wantEqual(s, "text", *m.MessageAttributes["trace.id"].StringValue, "grün")
	wantEqual(s, "number", *m.MessageAttributes["trace.n"].StringValue, "42")
	wantEqual(s, "binary", string(m.MessageAttributes["other.blob"].BinaryValue), string(binary))
	wantEqual(s, "MD5 received", *m.MD5OfMessageAttributes, *out.MD5OfMessageAttributes)
	some, err := s.ReceiveMessage(s.Context(), &sqs.ReceiveMessageInput{
		QueueUrl: url, WaitTimeSeconds: 5, MessageAttributeNames: []string{"trace.*"},
	})
	s.must(err)
	if len(some.Messages) != 1 {
		s.Fatalf("received %d messages, want 1", len(some.Messages))
	}
	wantEqual(s, "attributes by prefix", len(some.Messages[0].MessageAttributes), 2)
	wantEqual(s, "system attributes not asked for", len(some.Messages[0].Attributes), 0)
}

func messageGroup(s *suite) {
	url := s.queue()
	_, err := s.SendMessage(s.Context(), &sqs.SendMessageInput{
		QueueUrl: url, MessageBody: aws.String("x"), MessageGroupId: aws.String("tenant-1"),
	})
	s.must(err)
	wantEqual(s, "group", s.one(url, 0, -1).Attributes["MessageGroupId"], "tenant-1")
}

func messageTrace(s *suite) {
	url := s.queue()
	_, err := s.SendMessage(s.Context(), &sqs.SendMessageInput{
		QueueUrl: url, MessageBody: aws.String("x"),
		MessageSystemAttributes: map[string]types.MessageSystemAttributeValue{
			"AWSTraceHeader": {DataType: aws.String("String"), StringValue: aws.String("Root=1-2-3")},
		},
	})
	s.must(err)
	wantEqual(s, "AWSTraceHeader", s.one(url, 0, -1).Attributes["AWSTraceHeader"], "Root=1-2-3")
}

func messageDelayed(s *suite) {
	url := s.queue()
	start := time.Now()
	_, err := s.SendMessage(s.Context(), &sqs.SendMessageInput{QueueUrl: url, MessageBody: aws.String("later"), DelaySeconds: 8})
	s.must(err)
	s.wantCounts(url, "0/0/1")
	s.none(url)
	wantEqual(s, "body", *s.one(url, 20, -1).Body, "later")
	if took := time.Since(start); took < 7500*time.Millisecond || took > 19*time.Second {
		s.Errorf("arrived after %s, want 8 s, not the 20 s of the wait", took)
	}
	s.wantCounts(url, "0/1/0")
}

const mebibyte = 1 << 20

func messageSize(s *suite) {
	url := s.queue()
	body := strings.Repeat("x", mebibyte)
	s.send(url, body)
	wantEqual(s, "bytes", len(*s.one(url, 0, -1).Body), mebibyte)
	body += "x"
	_, err := s.SendMessage(s.Context(), &sqs.SendMessageInput{QueueUrl: url, MessageBody: &body})
	s.wantCode(err, "InvalidParameterValue")
}

func messageSizeAttributes(s *suite) {
	url := s.queue("MaximumMessageSize", "1024")
	send := func(n int) error {
		_, err := s.SendMessage(s.Context(), &sqs.SendMessageInput{
			QueueUrl: url, MessageBody: aws.String(strings.Repeat("x", n)),
			MessageAttributes: map[string]types.MessageAttributeValue{
				"name": {DataType: aws.String("String"), StringValue: aws.String("value")},
			},
		})
		return err
	}
	rest := 1024 - len("name") - len("String") - len("value")
	s.must(send(rest))
	s.wantCode(send(rest+1), "InvalidParameterValue")
}

func messageCharacters(s *suite) {
	_, err := s.SendMessage(s.Context(), &sqs.SendMessageInput{QueueUrl: s.queue(), MessageBody: aws.String("a\x00b")})
	wantType[*types.InvalidMessageContents](s, err)
}

func messageWrong(s *suite) {
	url := s.queue()
	for what, in := range map[string]*sqs.SendMessageInput{
		"delay over 900 s": {MessageBody: aws.String("x"), DelaySeconds: 901},
		"dedup id":         {MessageBody: aws.String("x"), MessageDeduplicationId: aws.String("d")},
		"attribute type": {MessageBody: aws.String("x"), MessageAttributes: map[string]types.MessageAttributeValue{
			"a": {DataType: aws.String("Float"), StringValue: aws.String("1")},
		}},
		"empty attribute": {MessageBody: aws.String("x"), MessageAttributes: map[string]types.MessageAttributeValue{
			"a": {DataType: aws.String("String"), StringValue: aws.String("")},
		}},
	} {
		in.QueueUrl = url
		_, err := s.SendMessage(s.Context(), in)
		s.Log(what)
		s.wantCode(err, "InvalidParameterValue")
	}
	_, err := s.SendMessage(s.Context(), &sqs.SendMessageInput{QueueUrl: url, MessageBody: aws.String("")})
	s.wantCode(err, "MissingParameter")
	s.wantCounts(url, "0/0/0")
}

// messageOnce: without a lease running out nobody may see a message twice, and none may be missed.
func messageOnce(s *suite) {
	const messages, consumers = 200, 8
	url := s.queue()
	for i := 0; i < messages; i += 10 {
		in := &sqs.SendMessageBatchInput{QueueUrl: url}
		for k := range 10 {
			id := strconv.Itoa(i + k)
			in.Entries = append(in.Entries, types.SendMessageBatchRequestEntry{Id: &id, MessageBody: &id})
		}
		_, err := s.SendMessageBatch(s.Context(), in)
		s.must(err)
	}
	var mu sync.Mutex
	seen := map[string]int{}
	var all sync.WaitGroup
	for range consumers {
		all.Go(func() {
			for {
				got := s.receive(url, 1, -1)
				if len(got) == 0 {
					return
				}
				for _, m := range got {
					mu.Lock()
					seen[*m.Body]++
					mu.Unlock()
					if err := s.remove(url, m.ReceiptHandle); err != nil {
						s.Error(err)
					}
				}
			}
		})
	}
	all.Wait()
	wantEqual(s, "different messages", len(seen), messages)
	for body, n := range seen {
		wantEqual(s, "deliveries of "+body, n, 1)
	}
	s.wantCounts(url, "0/0/0")
}
