//go:build !nolocal

package localstack_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/push"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"spool/localstack"
	"spool/localstack/localtest"
	"spool/localstack/s3"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == localstack.S3Command {
		if err := s3.RunChild(context.Background(), os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func start(t *testing.T, cfg localstack.Config) *localstack.Stack {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	s, err := localstack.Start(t.Context(), cfg, zap.NewNop())
	must(t, err)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// aws runs the AWS CLI with nothing but Env, and returns what it printed.
func aws(t *testing.T, s *localstack.Stack, args ...string) string {
	t.Helper()
	program := localtest.Program(t, "aws", "pip install awscli")
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Env = append(os.Environ(), s.Env()...)
	cmd.Env = append(cmd.Env, "NO_PROXY=127.0.0.1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("aws %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func TestAWSCLIFindsEverythingByTheEnvironment(t *testing.T) {
	s := start(t, localstack.Config{})
	file := t.TempDir() + "/a b.jsonl"
	must(t, os.WriteFile(file, []byte("{}\n"), 0o600))
	aws(t, s, "s3", "cp", file, "s3://spool/in/a b.jsonl")
	if got := aws(t, s, "s3", "cp", "s3://spool/in/a b.jsonl", "-"); got != "{}\n" {
		t.Errorf("read %q", got)
	}
	receive := []string{"--endpoint-url", s.Endpoints.SQS, "sqs", "receive-message", "--queue-url", s.QueueURL(localstack.EventsQueue),
		"--wait-time-seconds", "5", "--query", "Messages[].Body", "--output", "text"}
	if got := aws(t, s, receive...); !strings.Contains(got, "s3:TestEvent") {
		t.Errorf("first message %s, want the test event", got)
	}
	if got := aws(t, s, receive...); !strings.Contains(got, `"key":"in/a+b.jsonl"`) {
		t.Errorf("second message %s, want the event of the object", got)
	}
}

func TestPushgatewayTakesMetrics(t *testing.T) {
	s := start(t, localstack.Config{})
	up := prometheus.NewGauge(prometheus.GaugeOpts{Name: "up", Help: "Up."})
	up.Set(3)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	must(t, push.New(s.Endpoints.Pushgateway, "spool").Client(client).Collector(up).PushContext(t.Context()))
	want := "# HELP up Up.\n# TYPE up gauge\nup{instance=\"\",job=\"spool\"} 3\n"
	if err := testutil.GatherAndCompare(s.Pushgateway, strings.NewReader(want), "up"); err != nil {
		t.Error(err)
	}
}

func TestPortsAreThoseAfterTheBase(t *testing.T) {
	base := freePorts(t)
	s := start(t, localstack.Config{PortBase: base})
	for i, endpoint := range []string{s.Endpoints.S3, s.Endpoints.SQS, s.Endpoints.Pushgateway} {
		if want := "http://127.0.0.1:" + strconv.Itoa(base+i); endpoint != want {
			t.Errorf("endpoint %d is %s, want %s", i, endpoint, want)
		}
	}
}

// freePorts finds three ports in a row that were free a moment ago.
func freePorts(t *testing.T) int {
	t.Helper()
	for range 100 {
		first, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		base := first.Addr().(*net.TCPAddr).Port
		second, err2 := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(base+1))
		third, err3 := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(base+2))
		for _, ln := range []net.Listener{first, second, third} {
			if ln != nil {
				_ = ln.Close()
			}
		}
		if err2 == nil && err3 == nil {
			return base
		}
	}
	t.Fatal("no three free ports in a row")
	return 0
}

func TestAPortThatIsTakenIsNamedWithTheFlag(t *testing.T) {
	for n, part := range []string{"S3", "SQS", "the Pushgateway"} {
		t.Run(part, func(t *testing.T) {
			base := freePorts(t)
			taken, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(base+n))
			must(t, err)
			defer taken.Close()
			_, err = localstack.Start(t.Context(), localstack.Config{Dir: t.TempDir(), PortBase: base}, nil)
			want := "port " + strconv.Itoa(base+n) + ", for " + part + ", is taken: choose three others with --port-base"
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %s", err, want)
			}
		})
	}
}

func TestOneStackADirectory(t *testing.T) {
	dir := t.TempDir()
	start(t, localstack.Config{Dir: dir})
	_, err := localstack.Start(t.Context(), localstack.Config{Dir: dir}, nil)
	if !errors.Is(err, syscall.EWOULDBLOCK) || !strings.Contains(err.Error(), "in use by another local stack") {
		t.Errorf("got %v, want that the directory is in use", err)
	}
}

func TestEnvNamesEndpointsKeysRegionAndBucket(t *testing.T) {
	s := start(t, localstack.Config{Region: "eu-central-1", AccessKey: "k", SecretKey: "s", Bucket: "b-1"})
	for _, want := range []string{
		"AWS_ACCESS_KEY_ID=k", "AWS_SECRET_ACCESS_KEY=s", "AWS_REGION=eu-central-1", "AWS_DEFAULT_REGION=eu-central-1",
		"AWS_ENDPOINT_URL_S3=" + s.Endpoints.S3, "AWS_ENDPOINT_URL_SQS=" + s.Endpoints.SQS, "SPOOL_BUCKET=b-1", "AWS_SESSION_TOKEN=",
	} {
		if !slices.Contains(s.Env(), want) {
			t.Errorf("no %s in %v", want, s.Env())
		}
	}
	u, err := url.Parse(s.Endpoints.S3)
	if err != nil || u.Hostname() != "127.0.0.1" {
		t.Errorf("S3 is at %s, %v, want 127.0.0.1", s.Endpoints.S3, err)
	}
}

func TestAPartThatEndsByItselfIsReported(t *testing.T) {
	s, err := localstack.Start(t.Context(), localstack.Config{Dir: t.TempDir()}, nil)
	must(t, err)
	must(t, s.S3.Kill())
	select {
	case err := <-s.Failed():
		if !strings.Contains(err.Error(), "S3 of the local stack ended: signal: killed") {
			t.Errorf("got %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("nothing reported")
	}
	if err := s.Close(); err == nil {
		t.Error("Close does not tell that S3 was killed")
	}
}

func TestCloseIsNoFailureOfAPart(t *testing.T) {
	s := start(t, localstack.Config{})
	must(t, s.Close())
	must(t, s.Close())
	select {
	case err := <-s.Failed():
		t.Errorf("reported %v", err)
	default:
	}
}
