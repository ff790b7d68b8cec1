package sqs_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"spool/localstack/sqs"
)

// query posts a form as clients of the Query protocol do, and returns status and body. The forms and answers in these
// tests are those of the SQS API reference, and were compared with what aws-cli 1.27.100 sends and reads.
func (q *queues) query(params ...string) (int, string) {
	q.Helper()
	form := url.Values{"Version": {"2012-11-05"}, "QueueUrl": {*q.url}}
	for i := 0; i < len(params); i += 2 {
		form.Set(params[i], params[i+1])
	}
	resp, text := post(q.Context(), q.T, *q.url, form.Encode(), sqs.DefaultSecretKey, "Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	return resp.StatusCode, text
}

// post sends a signed request with a header.
func post(ctx context.Context, t *testing.T, target, body, secret, header, value string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, target, strings.NewReader(body))
	must(t, err)
	r.Header.Set(header, value)
	sum := sha256.Sum256([]byte(body))
	creds := aws.Credentials{AccessKeyID: sqs.DefaultAccessKey, SecretAccessKey: secret}
	must(t, v4.NewSigner().SignHTTP(ctx, creds, r, hex.EncodeToString(sum[:]), "sqs", "eu-west-1", time.Now()))
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(r)
	must(t, err)
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	must(t, err)
	return resp, string(answer)
}

// inner is the text of the first element of that name, markup included.
func inner(t *testing.T, xml, name string) string {
	t.Helper()
	m := regexp.MustCompile(`(?s)<` + name + `>(.*?)</` + name + `>`).FindStringSubmatch(xml)
	if m == nil {
		t.Fatalf("no <%s> in %s", name, xml)
	}
	return m[1]
}

func TestQueryProtocolSendsReceivesAndDeletes(t *testing.T) {
	q := start(t, sqs.Config{})
	status, sent := q.query("Action", "SendMessage", "MessageBody", "a <b> & ü", "DelaySeconds", "0",
		"MessageAttribute.1.Name", "kind", "MessageAttribute.1.Value.DataType", "String", "MessageAttribute.1.Value.StringValue", "x",
		"MessageAttribute.2.Name", "blob", "MessageAttribute.2.Value.DataType", "Binary", "MessageAttribute.2.Value.BinaryValue", "AAH/")
	if status != http.StatusOK || !strings.Contains(sent, `<SendMessageResponse xmlns="http://queue.amazonaws.com/doc/2012-11-05/"><SendMessageResult>`) {
		t.Fatalf("%d %s", status, sent)
	}
	_, got := q.query("Action", "ReceiveMessage", "MaxNumberOfMessages", "10", "VisibilityTimeout", "60",
		"AttributeName.1", "ApproximateReceiveCount", "MessageAttributeName.1", "All")
	for name, want := range map[string]string{
		"Body":             "a &lt;b&gt; &amp; ü",
		"MessageId":        inner(t, sent, "MessageId"),
		"MD5OfBody":        inner(t, sent, "MD5OfMessageBody"),
		"Attribute":        "<Name>ApproximateReceiveCount</Name><Value>1</Value>",
		"MessageAttribute": "<Name>blob</Name><Value><DataType>Binary</DataType><BinaryValue>AAH/</BinaryValue></Value>",
	} {
		if text := inner(t, got, name); text != want {
			t.Errorf("%s = %s, want %s", name, text, want)
		}
	}
	q.wantCounts(sqs.Counts{InFlight: 1})
	status, _ = q.query("Action", "DeleteMessage", "ReceiptHandle", inner(t, got, "ReceiptHandle"))
	if status != http.StatusOK {
		t.Errorf("DeleteMessage: %d", status)
	}
	q.wantCounts(sqs.Counts{})
}

func TestQueryProtocolKnowsQueuesAttributesTagsAndBatches(t *testing.T) {
	q := start(t, sqs.Config{})
	_, got := q.query("Action", "CreateQueue", "QueueName", "other", "Attribute.1.Name", "VisibilityTimeout", "Attribute.1.Value", "7")
	other := inner(t, got, "QueueUrl")
	_, got = q.query("Action", "GetQueueAttributes", "QueueUrl", other, "AttributeName.1", "VisibilityTimeout")
	if text := inner(t, got, "Attribute"); text != "<Name>VisibilityTimeout</Name><Value>7</Value>" {
		t.Errorf("Attribute = %s", text)
	}
	_, got = q.query("Action", "ListQueues", "QueueNamePrefix", "oth")
	if text := inner(t, got, "ListQueuesResult"); text != "<QueueUrl>"+other+"</QueueUrl>" {
		t.Errorf("ListQueuesResult = %s", text)
	}
	q.query("Action", "TagQueue", "Tag.1.Key", "team", "Tag.1.Value", "a")
	_, got = q.query("Action", "ListQueueTags")
	if text := inner(t, got, "Tag"); text != "<Key>team</Key><Value>a</Value>" {
		t.Errorf("Tag = %s", text)
	}
	_, got = q.query("Action", "SendMessageBatch",
		"SendMessageBatchRequestEntry.1.Id", "one", "SendMessageBatchRequestEntry.1.MessageBody", "x",
		"SendMessageBatchRequestEntry.2.Id", "two", "SendMessageBatchRequestEntry.2.MessageBody", "y",
		"SendMessageBatchRequestEntry.2.DelaySeconds", "901")
	if id := inner(t, inner(t, got, "SendMessageBatchResultEntry"), "Id"); id != "one" {
		t.Errorf("successful Id = %s", id)
	}
	if code := inner(t, inner(t, got, "BatchResultErrorEntry"), "Code"); code != "InvalidParameterValue" {
		t.Errorf("failed Code = %s", code)
	}
}

func TestQueryProtocolErrors(t *testing.T) {
	q := start(t, sqs.Config{})
	status, got := q.query("Action", "GetQueueUrl", "QueueName", "absent")
	if code := inner(t, got, "Code"); status != http.StatusBadRequest || code != "AWS.SimpleQueueService.NonExistentQueue" {
		t.Errorf("%d %s", status, code)
	}
	if kind := inner(t, got, "Type"); kind != "Sender" {
		t.Errorf("Type = %s", kind)
	}
	status, got = q.query("Action", "NoSuchThing")
	if code := inner(t, got, "Code"); status != http.StatusBadRequest || code != "InvalidAction" {
		t.Errorf("%d %s", status, code)
	}
	status, got = q.query("Action", "ReceiveMessage", "MaxNumberOfMessages", "many")
	if code := inner(t, got, "Code"); status != http.StatusBadRequest || code != "MalformedInput" {
		t.Errorf("%d %s", status, code)
	}
	resp, got := post(q.Context(), t, *q.url, "Action=ListQueues", "another secret", "Content-Type", "application/x-www-form-urlencoded")
	if code := inner(t, got, "Code"); resp.StatusCode != http.StatusForbidden || code != "SignatureDoesNotMatch" {
		t.Errorf("%d %s", resp.StatusCode, code)
	}
}

// TestErrorsInJSON: an error of the model has the service's name space, one that all services share has another, and
// both tell what the Query protocol calls them. Statuses are those of the trait awsQueryError.
func TestErrorsInJSON(t *testing.T) {
	q := start(t, sqs.Config{Clock: sqs.NewManualClock(time.Unix(1_700_000_000, 0))})
	for _, c := range []struct {
		action, request, kind, code string
		status                      int
	}{
		{"ReceiveMessage", `{"MaxNumberOfMessages":11}`, "com.amazon.coral.service#InvalidParameterValueException", "InvalidParameterValue", 400},
		{"SendMessage", `{}`, "com.amazon.coral.service#MissingRequiredParameterException", "MissingParameter", 400},
		{"DeleteMessage", `{}`, "com.amazon.coral.service#MissingRequiredParameterException", "MissingParameter", 400},
		{"DeleteMessage", `{"ReceiptHandle":"made-up"}`, "com.amazonaws.sqs#ReceiptHandleIsInvalid", "ReceiptHandleIsInvalid", 404},
		{"SetQueueAttributes", `{"Attributes":{"None":"1"}}`, "com.amazonaws.sqs#InvalidAttributeName", "InvalidAttributeName", 400},
		{"SendMessageBatch", `{}`, "com.amazonaws.sqs#EmptyBatchRequest", "AWS.SimpleQueueService.EmptyBatchRequest", 400},
		{"StartMessageMoveTask", `{"SourceArn":"none"}`, "com.amazonaws.sqs#ResourceNotFoundException", "ResourceNotFoundException", 404},
		{"NoSuchThing", `{}`, "com.amazon.coral.service#UnknownOperationException", "InvalidAction", 400},
		{"SendMessage", `{"MessageBody":1}`, "com.amazon.coral.service#SerializationException", "MalformedInput", 400},
		{"PurgeQueue", `{}`, "", "", 200},
		{"PurgeQueue", `{}`, "com.amazonaws.sqs#PurgeQueueInProgress", "AWS.SimpleQueueService.PurgeQueueInProgress", 403},
	} {
		body := strings.Replace(c.request, "{", `{"QueueUrl":"`+*q.url+`",`, 1)
		body = strings.Replace(body, ",}", "}", 1)
		resp, answer := post(q.Context(), t, *q.url, body, sqs.DefaultSecretKey, "X-Amz-Target", "AmazonSQS."+c.action)
		var got struct {
			Type string `json:"__type"`
		}
		must(t, json.Unmarshal([]byte(answer), &got))
		code, _, _ := strings.Cut(resp.Header.Get("x-amzn-query-error"), ";")
		if resp.StatusCode != c.status || got.Type != c.kind || code != c.code {
			t.Errorf("%s %s: %d %s %s, want %d %s %s", c.action, c.request, resp.StatusCode, got.Type, code, c.status, c.kind, c.code)
		}
	}
}

func TestUnsignedRequestsAreRefused(t *testing.T) {
	q := start(t, sqs.Config{})
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := http.NewRequestWithContext(q.Context(), http.MethodPost, *q.url, strings.NewReader("{}"))
	must(t, err)
	r.Header.Set("X-Amz-Target", "AmazonSQS.ListQueues")
	resp, err := client.Do(r)
	must(t, err)
	defer resp.Body.Close()
	if code := resp.Header.Get("x-amzn-query-error"); resp.StatusCode != http.StatusForbidden || code != "MissingAuthenticationToken;Sender" {
		t.Errorf("%d %s", resp.StatusCode, code)
	}
}
