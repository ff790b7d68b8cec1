//go:build !nolocal

package s3_test

import (
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	client "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/google/go-cmp/cmp"

	"spool/localstack/s3"
	"spool/localstack/sqs"
)

func httptransport() *http.Client {
	return &http.Client{Transport: http.DefaultTransport.(*http.Transport).Clone()}
}

// listener is an SQS server with a queue for events.
type listener struct {
	*testing.T
	client *awssqs.Client
	url    string
}

func listen(t *testing.T) *listener {
	t.Helper()
	srv := sqs.New(sqs.Config{})
	must(t, srv.CreateQueue("events", nil))
	web := httptest.NewServer(srv)
	t.Cleanup(func() {
		srv.Close()
		web.Close()
	})
	transport := httptransport()
	t.Cleanup(transport.CloseIdleConnections)
	c := awssqs.New(awssqs.Options{
		BaseEndpoint: &web.URL, Region: sqs.DefaultRegion, HTTPClient: transport,
		Credentials: credentials.NewStaticCredentialsProvider(sqs.DefaultAccessKey, sqs.DefaultSecretKey, ""),
	})
	return &listener{t, c, web.URL + "/" + sqs.DefaultAccount + "/events"}
}

// next waits for one message and returns its body.
func (l *listener) next() string {
	l.Helper()
	out, err := l.client.ReceiveMessage(l.Context(), &awssqs.ReceiveMessageInput{QueueUrl: &l.url, WaitTimeSeconds: 10})
	must(l.T, err)
	if len(out.Messages) != 1 {
		l.Fatal("no event came")
	}
	return *out.Messages[0].Body
}

// event is what a reader of AWS's events looks at.
type event struct {
	Records []struct {
		EventVersion, EventSource, AwsRegion, EventTime, EventName string
		S3                                                         struct {
			Bucket struct{ Name, Arn string }
			Object struct {
				Key, ETag, Sequencer string
				Size                 int64
			}
		}
	}
}

// record is the event that came next, in short, and its sequencer.
func (l *listener) record() (got map[string]any, sequencer string) {
	l.Helper()
	body := l.next()
	var e event
	must(l.T, json.Unmarshal([]byte(body), &e))
	if len(e.Records) != 1 {
		l.Fatalf("%d records in %s", len(e.Records), body)
	}
	r := e.Records[0]
	if at, err := time.Parse(time.RFC3339, r.EventTime); err != nil || time.Since(at).Abs() > time.Minute {
		l.Errorf("eventTime = %s", r.EventTime)
	}
	return map[string]any{
		"version": r.EventVersion, "source": r.EventSource, "region": r.AwsRegion, "name": r.EventName,
		"bucket": r.S3.Bucket.Name, "arn": r.S3.Bucket.Arn,
		"key": r.S3.Object.Key, "etag": r.S3.Object.ETag, "size": r.S3.Object.Size,
	}, r.S3.Object.Sequencer
}

func want(name, key, etag string, size int64) map[string]any {
	return map[string]any{
		"version": "2.1", "source": "aws:s3", "region": "us-east-1", "name": name,
		"bucket": "spool", "arn": "arn:aws:s3:::spool", "key": key, "etag": etag, "size": size,
	}
}

func startWithEvents(t *testing.T) (*store, *listener) {
	t.Helper()
	l := listen(t)
	s := start(t, s3.Config{Dir: t.TempDir(), Events: s3.Events{QueueURL: l.url, Prefix: "in/"}})
	var hello map[string]string
	must(t, json.Unmarshal([]byte(l.next()), &hello))
	if hello["Event"] != "s3:TestEvent" || hello["Bucket"] != "spool" {
		t.Fatalf("first message %v, want a test event", hello)
	}
	return s, l
}

func TestEventsComeInTheFormatOfAWS(t *testing.T) {
	s, l := startWithEvents(t)
	last := ""
	for key, escaped := range map[string]string{
		"in/plain.jsonl":         "in/plain.jsonl",
		"in/a b+c.jsonl":         "in/a+b%2Bc.jsonl",
		"in/größe/日本.jsonl":      "in/gr%C3%B6%C3%9Fe/%E6%97%A5%E6%9C%AC.jsonl",
		"in/%41&=?#'\"(1).jsonl": "in/%2541%26%3D%3F%23%27%22%281%29.jsonl",
	} {
		etag := s.put(key, "{}\n")
		got, sequencer := l.record()
		if diff := cmp.Diff(want("ObjectCreated:Put", escaped, etag, 3), got); diff != "" {
			t.Errorf("%s: %s", key, diff)
		}
		if sequencer <= last {
			t.Errorf("sequencer %s comes after %s", sequencer, last)
		}
		last = sequencer
	}
}

func TestEventOfAMultipartUploadHasTheSize(t *testing.T) {
	s, l := startWithEvents(t)
	etag := s.upload("in/big.jsonl", "tail")
	got, _ := l.record()
	if diff := cmp.Diff(want("ObjectCreated:CompleteMultipartUpload", "in/big.jsonl", etag, 5<<20+4), got); diff != "" {
		t.Error(diff)
	}
}

func TestEventOfACopyHasTheSize(t *testing.T) {
	s, l := startWithEvents(t)
	etag := s.put("elsewhere.jsonl", "{}\n")
	_, err := s.CopyObject(s.Context(), &client.CopyObjectInput{
		Bucket: s.bucket, Key: aws.String("in/copy.jsonl"), CopySource: aws.String("spool/elsewhere.jsonl"),
	})
	must(t, err)
	got, _ := l.record()
	if diff := cmp.Diff(want("ObjectCreated:Copy", "in/copy.jsonl", etag, 3), got); diff != "" {
		t.Error(diff)
	}
}

func TestOnlyNewObjectsUnderThePrefixMakeEvents(t *testing.T) {
	s, l := startWithEvents(t)
	s.put("out/other.jsonl", "x")
	s.put("in/gone.jsonl", "x")
	l.record()
	key := aws.String("in/gone.jsonl")
	tags := &types.Tagging{TagSet: []types.Tag{{Key: aws.String("a"), Value: aws.String("b")}}}
	_, err := s.PutObjectTagging(s.Context(), &client.PutObjectTaggingInput{Bucket: s.bucket, Key: key, Tagging: tags})
	must(t, err)
	_, err = s.DeleteObject(s.Context(), &client.DeleteObjectInput{Bucket: s.bucket, Key: key})
	must(t, err)
	s.put("in/last.jsonl", "x")
	got, _ := l.record()
	if got["key"] != "in/last.jsonl" {
		t.Errorf("event of %v, want that of in/last.jsonl", got["key"])
	}
}

func TestPutSucceedsWhenNobodyTakesTheEvents(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections, and never answers
	must(t, err)
	defer silent.Close()
	url := "http://" + silent.Addr().String() + "/000000000000/events"
	s := start(t, s3.Config{Dir: t.TempDir(), Events: s3.Events{QueueURL: url, Prefix: "in/"}})
	begin := time.Now()
	for range 5 { // each would wait for a minute
		s.put("in/a.jsonl", strings.Repeat("x", 100))
	}
	if took := time.Since(begin); took > 50*time.Second {
		t.Errorf("5 PUTs took %s", took)
	}
	must(t, s.Stop())
}
