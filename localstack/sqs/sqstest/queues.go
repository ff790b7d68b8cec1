package sqstest

import (
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/google/uuid"
)

var queueChecks = []check{ //nolint:gochecknoglobals // never written
	{"a queue is found by name and gone after delete", queueLife},
	{"creating a queue again is no error unless attributes differ", queueAgain},
	{"queues are listed by prefix, in pages", queueList},
	{"attributes are set and read", queueAttributes},
	{"a wrong attribute is refused", queueWrongAttributes},
	{"tags are kept", queueTags},
	{"purge drops what is visible and what is in flight", queuePurge},
	{"a wrong secret is refused", wrongSecret},
	{"an unknown access key is refused", wrongKey},
}

func queueLife(s *suite) {
	url := s.queue()
	name := (*url)[strings.LastIndexByte(*url, '/')+1:]
	got, err := s.GetQueueUrl(s.Context(), &sqs.GetQueueUrlInput{QueueName: &name})
	s.must(err)
	wantEqual(s, "url", *got.QueueUrl, *url)
	wantEqual(s, "end of the ARN", strings.HasSuffix(s.attribute(url, types.QueueAttributeNameQueueArn), ":"+name), true)

	_, err = s.DeleteQueue(s.Context(), &sqs.DeleteQueueInput{QueueUrl: url})
	s.must(err)
	_, err = s.GetQueueUrl(s.Context(), &sqs.GetQueueUrlInput{QueueName: &name})
	wantType[*types.QueueDoesNotExist](s, err)
	s.wantCode(err, "AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist")
	_, err = s.SendMessage(s.Context(), &sqs.SendMessageInput{QueueUrl: url, MessageBody: aws.String("x")})
	wantType[*types.QueueDoesNotExist](s, err)
}

func queueAgain(s *suite) {
	name := aws.String("check-" + uuid.NewString())
	create := func(visibility string) (*sqs.CreateQueueOutput, error) {
		return s.CreateQueue(s.Context(), &sqs.CreateQueueInput{
			QueueName: name, Attributes: map[string]string{"VisibilityTimeout": visibility},
		})
	}
	first, err := create("77")
	s.must(err)
	defer func() { _, _ = s.DeleteQueue(s.Context(), &sqs.DeleteQueueInput{QueueUrl: first.QueueUrl}) }()
	again, err := create("77")
	s.must(err)
	wantEqual(s, "url", *again.QueueUrl, *first.QueueUrl)
	_, err = create("78")
	wantType[*types.QueueNameExists](s, err)
	s.wantCode(err, "QueueAlreadyExists", "QueueNameExists")
}

func queueList(s *suite) {
	prefix := "list-" + uuid.NewString()
	var want, got []string
	for _, suffix := range []string{"-a", "-b", "-c"} {
		out, err := s.CreateQueue(s.Context(), &sqs.CreateQueueInput{QueueName: aws.String(prefix + suffix)})
		s.must(err)
		defer func() { _, _ = s.DeleteQueue(s.Context(), &sqs.DeleteQueueInput{QueueUrl: out.QueueUrl}) }()
		want = append(want, *out.QueueUrl)
	}
	pages := sqs.NewListQueuesPaginator(s.Client, &sqs.ListQueuesInput{QueueNamePrefix: &prefix, MaxResults: aws.Int32(2)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(s.Context())
		s.must(err)
		wantEqual(s, "page of at most two", len(page.QueueUrls) <= 2, true)
		got = append(got, page.QueueUrls...)
	}
	slices.Sort(got)
	wantEqual(s, "urls", strings.Join(got, " "), strings.Join(want, " "))
}

func queueAttributes(s *suite) {
	url := s.queue("VisibilityTimeout", "45", "ReceiveMessageWaitTimeSeconds", "0")
	_, err := s.SetQueueAttributes(s.Context(), &sqs.SetQueueAttributesInput{
		QueueUrl: url, Attributes: map[string]string{"MessageRetentionPeriod": "3600", "DelaySeconds": "0"},
	})
	s.must(err)
	out, err := s.GetQueueAttributes(s.Context(), &sqs.GetQueueAttributesInput{
		QueueUrl: url, AttributeNames: []types.QueueAttributeName{types.QueueAttributeNameAll},
	})
	s.must(err)
	for name, want := range map[string]string{
		"VisibilityTimeout": "45", "ReceiveMessageWaitTimeSeconds": "0", "MessageRetentionPeriod": "3600",
		"DelaySeconds": "0", "MaximumMessageSize": "1048576", "ApproximateNumberOfMessages": "0",
	} {
		wantEqual(s, name, out.Attributes[name], want)
	}
}

func queueWrongAttributes(s *suite) {
	url := s.queue()
	set := func(name, value string) error {
		_, err := s.SetQueueAttributes(s.Context(), &sqs.SetQueueAttributesInput{
			QueueUrl: url, Attributes: map[string]string{name: value},
		})
		return err
	}
	s.wantCode(set("VisibilityTimeout", "43201"), "InvalidAttributeValue")
	s.wantCode(set("NoSuchThing", "1"), "InvalidAttributeName")
	s.wantCode(set("RedrivePolicy", `{"deadLetterTargetArn":"arn:aws:sqs:us-east-1:000000000000:absent","maxReceiveCount":1}`),
		"InvalidParameterValue", "InvalidAttributeValue", "AWS.SimpleQueueService.NonExistentQueue")
	wantEqual(s, "VisibilityTimeout", s.attribute(url, "VisibilityTimeout"), "30")
}

func queueTags(s *suite) {
	url := s.queue()
	_, err := s.TagQueue(s.Context(), &sqs.TagQueueInput{QueueUrl: url, Tags: map[string]string{"team": "a", "cost": "7"}})
	s.must(err)
	_, err = s.UntagQueue(s.Context(), &sqs.UntagQueueInput{QueueUrl: url, TagKeys: []string{"team"}})
	s.must(err)
	out, err := s.ListQueueTags(s.Context(), &sqs.ListQueueTagsInput{QueueUrl: url})
	s.must(err)
	wantEqual(s, "number of tags", len(out.Tags), 1)
	wantEqual(s, "cost", out.Tags["cost"], "7")
}

func queuePurge(s *suite) {
	url := s.queue()
	s.send(url, "one")
	s.one(url, 0, -1)
	s.send(url, "two")
	_, err := s.PurgeQueue(s.Context(), &sqs.PurgeQueueInput{QueueUrl: url})
	s.must(err)
	s.none(url)
	s.wantCounts(url, "0/0/0")
}

func wrongSecret(s *suite) {
	other := s.target
	other.SecretKey += "x"
	_, err := other.Client().ListQueues(s.Context(), &sqs.ListQueuesInput{})
	s.wantCode(err, "SignatureDoesNotMatch")
}

func wrongKey(s *suite) {
	other := s.target
	other.AccessKey += "x"
	_, err := other.Client().ListQueues(s.Context(), &sqs.ListQueuesInput{})
	s.wantCode(err, "InvalidClientTokenId")
}
