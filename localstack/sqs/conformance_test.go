package sqs_test

import (
	"net/http/httptest"
	"testing"

	"go.uber.org/goleak"

	"spool/localstack/sqs"
	"spool/localstack/sqs/sqstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func serve(t testing.TB, cfg sqs.Config) (*sqs.Server, sqstest.Target) {
	t.Helper()
	srv := sqs.New(cfg)
	web := httptest.NewServer(srv)
	t.Cleanup(func() {
		srv.Close()
		web.Close()
	})
	return srv, sqstest.Target{
		Endpoint: web.URL, Region: sqs.DefaultRegion, AccessKey: sqs.DefaultAccessKey, SecretKey: sqs.DefaultSecretKey,
	}
}

func TestConformance(t *testing.T) {
	_, target := serve(t, sqs.Config{})
	sqstest.RunConformance(t, target)
}
