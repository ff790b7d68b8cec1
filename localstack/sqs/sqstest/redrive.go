package sqstest

import (
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
)

var redriveChecks = []check{ //nolint:gochecknoglobals // never written
	{"a message goes to the dead-letter queue after maxReceiveCount as a number", func(s *suite) { deadLetter(s, "2") }},
	{"a message goes to the dead-letter queue after maxReceiveCount as a string", func(s *suite) { deadLetter(s, `"2"`) }},
	{"a dead-letter queue knows its sources", deadLetterSources},
	{"a move task brings dead letters back", deadLetterMove},
	{"a move task needs a dead-letter queue", deadLetterMoveWrong},
}

// pair makes a queue and its dead-letter queue.
func (s *suite) pair(maxReceives string) (source, dead *string, deadARN string) {
	s.Helper()
	dead = s.queue()
	deadARN = s.attribute(dead, types.QueueAttributeNameQueueArn)
	source = s.queue("RedrivePolicy", `{"deadLetterTargetArn":"`+deadARN+`","maxReceiveCount":`+maxReceives+`}`)
	return source, dead, deadARN
}

// die receives the one message of source until it is a dead letter.
func (s *suite) die(source *string, receives int) {
	s.Helper()
	for range receives {
		s.must(s.change(source, s.one(source, 5, -1).ReceiptHandle, 0))
	}
	s.none(source)
}

func deadLetter(s *suite, maxReceives string) {
	source, dead, _ := s.pair(maxReceives)
	id := s.send(source, "poison")
	s.die(source, 2)
	s.wantCounts(source, "0/0/0")
	s.wantCounts(dead, "1/0/0")
	m := s.one(dead, 5, -1)
	wantEqual(s, "id", *m.MessageId, id)
	wantEqual(s, "body", *m.Body, "poison")
}

func deadLetterSources(s *suite) {
	source, dead, _ := s.pair("3")
	out, err := s.ListDeadLetterSourceQueues(s.Context(), &sqs.ListDeadLetterSourceQueuesInput{QueueUrl: dead})
	s.must(err)
	wantEqual(s, "sources", strings.Join(out.QueueUrls, " "), *source)
}

func deadLetterMove(s *suite) {
	source, dead, deadARN := s.pair("1")
	s.send(source, "poison")
	s.die(source, 1)
	_, err := s.StartMessageMoveTask(s.Context(), &sqs.StartMessageMoveTaskInput{SourceArn: &deadARN})
	s.must(err)
	m := s.one(source, 10, -1)
	wantEqual(s, "body", *m.Body, "poison")
	wantEqual(s, "receive count", m.Attributes["ApproximateReceiveCount"], "1")
	s.wantCounts(dead, "0/0/0")
	tasks, err := s.ListMessageMoveTasks(s.Context(), &sqs.ListMessageMoveTasksInput{SourceArn: &deadARN})
	s.must(err)
	if len(tasks.Results) != 1 {
		s.Fatalf("%d tasks, want 1", len(tasks.Results))
	}
	wantEqual(s, "moved", tasks.Results[0].ApproximateNumberOfMessagesMoved, 1)
	wantEqual(s, "status", *tasks.Results[0].Status, "COMPLETED")
}

func deadLetterMoveWrong(s *suite) {
	arn := s.attribute(s.queue(), types.QueueAttributeNameQueueArn)
	_, err := s.StartMessageMoveTask(s.Context(), &sqs.StartMessageMoveTaskInput{SourceArn: &arn})
	s.wantCode(err, "InvalidParameterValue", "AWS.SimpleQueueService.UnsupportedOperation")
}
