package sqstest

import (
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
)

var receiveChecks = []check{ //nolint:gochecknoglobals // never written
	{"a short poll of an empty queue returns at once", pollShort},
	{"a long poll of an empty queue takes its time", pollEmpty},
	{"a long poll wakes when a message arrives", pollArrival},
	{"a long poll wakes when a lease runs out, and the count is 2", pollExpiry},
	{"the queue's own wait holds if none is given", pollQueueDefault},
	{"a changed visibility of 0 gives the message back", visibilityZero},
	{"a changed visibility extends the lease", visibilityExtend},
	{"visibility of a message that is not in flight cannot change", visibilityNotInFlight},
	{"a lease cannot exceed 12 hours", visibilityWall},
	{"a stale handle deletes nothing and cannot extend", staleHandle},
	{"deleting twice is no error, a made-up handle is", deleteHandles},
	{"a receive out of bounds is refused", receiveBounds},
	{"counts tell visible, in flight and gone", receiveCounts},
}

func pollShort(s *suite) {
	url := s.queue()
	fastest := time.Hour
	for range 5 { // the shortest wait that SQS knows is 1 s; one of five tells, however busy the machine
		start := time.Now()
		s.none(url)
		fastest = min(fastest, time.Since(start))
	}
	if fastest > 900*time.Millisecond {
		s.Errorf("the fastest of five took %s", fastest)
	}
}

func pollEmpty(s *suite) {
	url := s.queue()
	start := time.Now()
	wantEqual(s, "messages", len(s.receive(url, 2, -1)), 0)
	if took := time.Since(start); took < 1500*time.Millisecond || took > 15*time.Second {
		s.Errorf("took %s, want 2 s", took)
	}
}

func pollArrival(s *suite) {
	url := s.queue()
	start := time.Now()
	sent := make(chan error, 1)
	timer := time.AfterFunc(500*time.Millisecond, func() {
		_, err := s.SendMessage(s.Context(), &sqs.SendMessageInput{QueueUrl: url, MessageBody: aws.String("now")})
		sent <- err
	})
	defer timer.Stop()
	wantEqual(s, "body", *s.one(url, 15, -1).Body, "now")
	s.must(<-sent)
	if took := time.Since(start); took > 12*time.Second {
		s.Errorf("took %s, want a little over 0.5 s, not the 15 s of the wait", took)
	}
}

func pollExpiry(s *suite) {
	url := s.queue()
	s.send(url, "again")
	start := time.Now()
	first := s.one(url, 0, 2)
	second := s.one(url, 15, -1)
	if took := time.Since(start); took < 1500*time.Millisecond || took > 12*time.Second {
		s.Errorf("took %s, want 2 s, not the 15 s of the wait", took)
	}
	wantEqual(s, "id", *second.MessageId, *first.MessageId)
	wantEqual(s, "receive count", second.Attributes["ApproximateReceiveCount"], "2")
	wantEqual(s, "first receive", second.Attributes["ApproximateFirstReceiveTimestamp"], first.Attributes["ApproximateFirstReceiveTimestamp"])
	if *second.ReceiptHandle == *first.ReceiptHandle {
		s.Error("the second receive has the handle of the first")
	}
}

func pollQueueDefault(s *suite) {
	url := s.queue("ReceiveMessageWaitTimeSeconds", "1")
	start := time.Now()
	s.none(url)
	if took := time.Since(start); took < 700*time.Millisecond {
		s.Errorf("took %s, want 1 s", took)
	}
}

func visibilityZero(s *suite) {
	url := s.queue()
	s.send(url, "x")
	s.must(s.change(url, s.one(url, 0, -1).ReceiptHandle, 0))
	wantEqual(s, "receive count", s.one(url, 5, -1).Attributes["ApproximateReceiveCount"], "2")
}

func visibilityExtend(s *suite) {
	url := s.queue()
	s.send(url, "x")
	m := s.one(url, 0, 10)
	s.must(s.change(url, m.ReceiptHandle, 60))
	wantEqual(s, "messages after the first lease", len(s.receive(url, 11, -1)), 0)
	s.wantCounts(url, "0/1/0")
}

func visibilityNotInFlight(s *suite) {
	url := s.queue()
	s.send(url, "x")
	m := s.one(url, 0, -1)
	s.must(s.change(url, m.ReceiptHandle, 0))
	err := s.change(url, m.ReceiptHandle, 30)
	wantType[*types.MessageNotInflight](s, err)
}

func visibilityWall(s *suite) {
	url := s.queue()
	s.send(url, "x")
	m := s.one(url, 0, 30)
	s.must(s.change(url, m.ReceiptHandle, 43000))
	s.wantCode(s.change(url, m.ReceiptHandle, 43201), "InvalidParameterValue")
	_, err := s.ReceiveMessage(s.Context(), &sqs.ReceiveMessageInput{QueueUrl: url, VisibilityTimeout: 43201})
	s.wantCode(err, "InvalidParameterValue")
}

func staleHandle(s *suite) {
	url := s.queue()
	s.send(url, "x")
	first := s.one(url, 0, -1)
	s.must(s.change(url, first.ReceiptHandle, 0))
	second := s.one(url, 5, -1)
	s.must(s.remove(url, first.ReceiptHandle))
	s.wantCounts(url, "0/1/0")
	s.wantCode(s.change(url, first.ReceiptHandle, 30), "InvalidParameterValue")
	s.must(s.change(url, second.ReceiptHandle, 30))
	s.must(s.remove(url, second.ReceiptHandle))
	s.wantCounts(url, "0/0/0")
}

func deleteHandles(s *suite) {
	url := s.queue()
	s.send(url, "x")
	m := s.one(url, 0, -1)
	s.must(s.remove(url, m.ReceiptHandle))
	s.must(s.remove(url, m.ReceiptHandle))
	wantType[*types.ReceiptHandleIsInvalid](s, s.remove(url, aws.String("made-up")))
	wantType[*types.ReceiptHandleIsInvalid](s, s.change(url, aws.String("made-up"), 3))
}

func receiveBounds(s *suite) {
	url := s.queue()
	for _, in := range []*sqs.ReceiveMessageInput{
		{QueueUrl: url, MaxNumberOfMessages: 11},
		{QueueUrl: url, WaitTimeSeconds: 21},
	} {
		_, err := s.ReceiveMessage(s.Context(), in)
		s.wantCode(err, "InvalidParameterValue")
	}
}

func receiveCounts(s *suite) {
	url := s.queue()
	for _, body := range []string{"a", "b", "c"} {
		s.send(url, body)
	}
	s.wantCounts(url, "3/0/0")
	out, err := s.ReceiveMessage(s.Context(), &sqs.ReceiveMessageInput{QueueUrl: url, MaxNumberOfMessages: 2})
	s.must(err)
	if len(out.Messages) != 2 {
		s.Fatalf("received %d messages, want 2", len(out.Messages))
	}
	s.wantCounts(url, "1/2/0")
	s.must(s.remove(url, out.Messages[0].ReceiptHandle))
	s.wantCounts(url, "1/1/0")
}
