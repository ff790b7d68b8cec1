package sqstest

import (
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
)

var batchChecks = []check{ //nolint:gochecknoglobals // never written
	{"a batch send fails in part", batchSend},
	{"a batch delete fails in part", batchDelete},
	{"a batch change of visibility fails in part", batchVisibility},
	{"a wrong batch is refused as a whole", batchWrong},
	{"a batch over 1 MiB is refused as a whole", batchLong},
}

func entry(id, body string) types.SendMessageBatchRequestEntry {
	return types.SendMessageBatchRequestEntry{Id: &id, MessageBody: &body}
}

// outcome is "successful ids|failed ids with code" of a batch.
func outcome(successful []string, failed []types.BatchResultErrorEntry) string {
	var bad []string
	for _, f := range failed {
		bad = append(bad, *f.Id+":"+*f.Code+":"+strconv.FormatBool(f.SenderFault))
	}
	return strings.Join(successful, ",") + "|" + strings.Join(bad, ",")
}

func batchSend(s *suite) {
	url := s.queue()
	late := entry("late", "x")
	late.DelaySeconds = 901
	out, err := s.SendMessageBatch(s.Context(), &sqs.SendMessageBatchInput{
		QueueUrl: url, Entries: []types.SendMessageBatchRequestEntry{entry("one", "1"), late, entry("two", "2")},
	})
	s.must(err)
	var ok []string
	for _, r := range out.Successful {
		ok = append(ok, *r.Id)
	}
	wantEqual(s, "outcome", outcome(ok, out.Failed), "one,two|late:InvalidParameterValue:true")
	s.wantCounts(url, "2/0/0")
}

func batchDelete(s *suite) {
	url := s.queue()
	s.send(url, "x")
	m := s.one(url, 0, -1)
	out, err := s.DeleteMessageBatch(s.Context(), &sqs.DeleteMessageBatchInput{
		QueueUrl: url, Entries: []types.DeleteMessageBatchRequestEntry{
			{Id: aws.String("good"), ReceiptHandle: m.ReceiptHandle},
			{Id: aws.String("bad"), ReceiptHandle: aws.String("made-up")},
		},
	})
	s.must(err)
	var ok []string
	for _, r := range out.Successful {
		ok = append(ok, *r.Id)
	}
	wantEqual(s, "outcome", outcome(ok, out.Failed), "good|bad:ReceiptHandleIsInvalid:true")
	s.wantCounts(url, "0/0/0")
}

func batchVisibility(s *suite) {
	url := s.queue()
	s.send(url, "x")
	m := s.one(url, 0, -1)
	out, err := s.ChangeMessageVisibilityBatch(s.Context(), &sqs.ChangeMessageVisibilityBatchInput{
		QueueUrl: url, Entries: []types.ChangeMessageVisibilityBatchRequestEntry{
			{Id: aws.String("good"), ReceiptHandle: m.ReceiptHandle, VisibilityTimeout: 0},
			{Id: aws.String("bad"), ReceiptHandle: aws.String("made-up"), VisibilityTimeout: 3},
		},
	})
	s.must(err)
	var ok []string
	for _, r := range out.Successful {
		ok = append(ok, *r.Id)
	}
	wantEqual(s, "outcome", outcome(ok, out.Failed), "good|bad:ReceiptHandleIsInvalid:true")
	s.wantCounts(url, "1/0/0")
}

func batchWrong(s *suite) {
	url := s.queue()
	var eleven []types.SendMessageBatchRequestEntry
	for i := range 11 {
		eleven = append(eleven, entry(strconv.Itoa(i), "x"))
	}
	send := func(entries []types.SendMessageBatchRequestEntry) error {
		_, err := s.SendMessageBatch(s.Context(), &sqs.SendMessageBatchInput{QueueUrl: url, Entries: entries})
		return err
	}
	wantType[*types.EmptyBatchRequest](s, send([]types.SendMessageBatchRequestEntry{}))
	wantType[*types.TooManyEntriesInBatchRequest](s, send(eleven))
	wantType[*types.BatchEntryIdsNotDistinct](s, send([]types.SendMessageBatchRequestEntry{entry("a", "x"), entry("a", "y")}))
	wantType[*types.InvalidBatchEntryId](s, send([]types.SendMessageBatchRequestEntry{entry("a b", "x")}))
	s.wantCounts(url, "0/0/0")
}

func batchLong(s *suite) {
	url := s.queue()
	half := strings.Repeat("x", mebibyte/2)
	send := func(rest string) error {
		_, err := s.SendMessageBatch(s.Context(), &sqs.SendMessageBatchInput{
			QueueUrl: url, Entries: []types.SendMessageBatchRequestEntry{entry("a", half), entry("b", half+rest)},
		})
		return err
	}
	wantType[*types.BatchRequestTooLong](s, send("x"))
	s.wantCounts(url, "0/0/0")
	s.must(send(""))
	s.wantCounts(url, "2/0/0")
}
