package queue_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"

	"spool/localstack/localtest"
	"spool/localstack/sqs"
	"spool/storage/queue"
)

// lab is one server and what it lacks.
type lab struct {
	client *queue.Client
	raw    *awssqs.Client // to look at what the client made
	lacks  map[string]string
}

func TestOwnServer(t *testing.T) {
	server := sqs.New(sqs.Config{})
	web := httptest.NewServer(server)
	t.Cleanup(func() {
		server.Close()
		web.Close()
	})
	keys := credentials.NewStaticCredentialsProvider(sqs.DefaultAccessKey, sqs.DefaultSecretKey, "")
	conform(t, newLab(t, web.URL, keys, nil))

	t.Run("wrong secret is denied", func(t *testing.T) {
		wrong := credentials.NewStaticCredentialsProvider(sqs.DefaultAccessKey, "wrong", "")
		_, err := newLab(t, web.URL, wrong, nil).client.Open(t.Context(), "spool-p")
		if !errors.Is(err, queue.ErrDenied) {
			t.Errorf("got %v, want ErrDenied", err)
		}
	})
}

func TestMoto(t *testing.T) {
	keys := credentials.NewStaticCredentialsProvider("id", "secret", "")
	conform(t, newLab(t, localtest.Moto(t), keys, map[string]string{
		"extending a deleted message fails": "moto 5 says yes to a receipt of a deleted message",
	}))
}

// TestOtherServer judges any server, LocalStack for one: SPOOL_TEST_SQS_ENDPOINT=http://127.0.0.1:4566.
func TestOtherServer(t *testing.T) {
	endpoint := os.Getenv("SPOOL_TEST_SQS_ENDPOINT")
	if endpoint == "" {
		t.Skip("SPOOL_TEST_SQS_ENDPOINT is not set")
	}
	conform(t, newLab(t, endpoint, credentials.NewStaticCredentialsProvider("test", "test", ""), nil))
}

func newLab(t *testing.T, endpoint string, keys aws.CredentialsProvider, lacks map[string]string) lab {
	t.Helper()
	transport := http.DefaultTransport.(*http.Transport).Clone()
	t.Cleanup(transport.CloseIdleConnections)
	web := &http.Client{Transport: transport}
	t.Setenv("AWS_ENDPOINT_URL_SQS", endpoint) // the way of the AWS CLI
	t.Setenv("AWS_REGION", "")
	t.Setenv("AWS_DEFAULT_REGION", "")
	client, err := queue.New(t.Context(), queue.Config{Credentials: keys, HTTPClient: web})
	if err != nil {
		t.Fatal(err)
	}
	raw := awssqs.New(awssqs.Options{BaseEndpoint: aws.String(endpoint), Region: "us-east-1", Credentials: keys, HTTPClient: web})
	return lab{client, raw, lacks}
}
