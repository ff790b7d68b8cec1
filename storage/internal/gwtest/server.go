package gwtest

import (
	"context"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// What the servers accept.
const (
	AccessKey = "testaccess"
	SecretKey = "testsecret"
	Region    = "us-east-1"
)

// Server is a running S3 server with one bucket.
type Server struct {
	Endpoint string
	Bucket   string
}

// Setenv gives the test the server's credentials, in the way that all AWS tools read them, and hides
// whatever the machine is configured with.
func (s Server) Setenv(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", SecretKey)
	t.Setenv("AWS_REGION", Region)
	for _, name := range []string{"AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_CA_BUNDLE"} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_CONFIG_FILE", os.DevNull)
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", os.DevNull)
}

// StartMoto starts moto, and stops it when the test ends. Without it the test is skipped, or fails if
// SPOOL_REQUIRE_ALL is 1.
func StartMoto(t *testing.T) Server {
	t.Helper()
	path, err := exec.LookPath("moto_server")
	if err != nil {
		if os.Getenv("SPOOL_REQUIRE_ALL") == "1" {
			t.Fatalf("SPOOL_REQUIRE_ALL is set, but: %v", err)
		}
		t.Skipf("moto is not installed (pip install 'moto[server]'): %v", err)
	}
	addr := freeAddr(t)
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "-H", "127.0.0.1", "-p", port) //nolint:noctx // it is ended by a signal
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
	return start(t, addr, cmd, &log, func() error { return cmd.Process.Signal(os.Interrupt) })
}

const (
	startTimeout = time.Minute
	stopTimeout  = 10 * time.Second
)

// start runs cmd, waits until it answers, and makes its bucket. At the end it calls stop, and kills
// what does not heed it.
func start(t *testing.T, addr string, cmd *exec.Cmd, log *strings.Builder, stop func() error) Server {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait() // how it ended is of no interest: it was stopped, or the log tells
		close(exited)
	}()
	t.Cleanup(func() {
		_ = stop() // it may have ended by itself
		select {
		case <-exited:
		case <-time.After(stopTimeout):
			_ = cmd.Process.Kill()
			<-exited
		}
		if t.Failed() {
			text := log.String()
			t.Logf("the last that %s said:\n%s", cmd.Path, text[max(0, len(text)-2000):])
		}
	})
	s := Server{Endpoint: "http://" + addr, Bucket: "test-bucket"}
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	for !answers(ctx, s.Endpoint) {
		select {
		case <-exited:
			t.Fatalf("%s ended before it answered:\n%s", cmd.Path, log)
		case <-ctx.Done():
			t.Fatalf("%s did not answer within %v", cmd.Path, startTimeout)
		case <-time.After(20 * time.Millisecond):
		}
	}
	s.createBucket(t)
	return s
}

func answers(ctx context.Context, endpoint string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint, nil)
	if err != nil {
		return false
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	return resp.Body.Close() == nil
}

func (s Server) createBucket(t *testing.T) {
	t.Helper()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	client, err := minio.New(strings.TrimPrefix(s.Endpoint, "http://"), &minio.Options{
		Creds:     credentials.NewStaticV4(AccessKey, SecretKey, ""),
		Region:    Region,
		Transport: transport,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := client.MakeBucket(t.Context(), s.Bucket, minio.MakeBucketOptions{Region: Region}); err != nil {
		t.Fatal(err)
	}
}

// freeAddr is an address that was free a moment ago.
func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
