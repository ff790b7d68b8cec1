//go:build !nolocal

package s3_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	client "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"spool/localstack/s3"
)

// The test binary plays the server, or a parent of one, if its first argument says so.
const (
	childName  = "local-s3-child"
	parentName = "local-s3-parent"
)

func TestMain(m *testing.M) {
	role := ""
	if len(os.Args) > 1 {
		role = os.Args[1]
	}
	switch role {
	case childName:
		exit(s3.RunChild(context.Background(), os.Stdin, os.Stdout))
	case parentName:
		exit(playParent(os.Args[2]))
	default:
		goleak.VerifyTestMain(m)
	}
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// playParent starts a server, says where, and waits to be killed.
func playParent(dir string) error {
	p, err := s3.Start(context.Background(), command(), s3.Config{Dir: dir}, zap.NewNop())
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stdout, strings.TrimPrefix(p.Endpoint, "http://"))
	<-p.Done()
	return p.Err()
}

func command() []string { return []string{os.Args[0], childName} }

// store is a running server and a client for its bucket.
type store struct {
	*testing.T
	*s3.Process
	*client.Client
	bucket *string
}

func start(t *testing.T, cfg s3.Config) *store {
	t.Helper()
	p, err := s3.Start(t.Context(), command(), cfg, zap.NewNop())
	must(t, err)
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	})
	transport := httptransport()
	t.Cleanup(transport.CloseIdleConnections)
	c := client.New(client.Options{
		BaseEndpoint: &p.Endpoint, Region: "us-east-1", UsePathStyle: true, HTTPClient: transport,
		Credentials:                credentials.NewStaticCredentialsProvider("spool", "spool-local-secret", ""),
		RequestChecksumCalculation: aws.RequestChecksumCalculationWhenSupported,
		ResponseChecksumValidation: aws.ResponseChecksumValidationWhenSupported,
		Retryer:                    aws.NopRetryer{},
	})
	return &store{t, p, c, aws.String("spool")}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (s *store) put(key, body string) string {
	s.Helper()
	out, err := s.PutObject(s.Context(), &client.PutObjectInput{Bucket: s.bucket, Key: &key, Body: strings.NewReader(body)})
	must(s.T, err)
	return strings.Trim(*out.ETag, `"`)
}

func (s *store) get(key string) string {
	s.Helper()
	out, err := s.GetObject(s.Context(), &client.GetObjectInput{Bucket: s.bucket, Key: &key})
	must(s.T, err)
	defer out.Body.Close()
	body, err := io.ReadAll(out.Body)
	must(s.T, err)
	return string(body)
}

// upload puts key in two parts, the first of 5 MiB, and returns the ETag.
func (s *store) upload(key string, second string) string {
	s.Helper()
	up, err := s.CreateMultipartUpload(s.Context(), &client.CreateMultipartUploadInput{
		Bucket: s.bucket, Key: &key, ChecksumAlgorithm: types.ChecksumAlgorithmCrc32,
	})
	must(s.T, err)
	done := &types.CompletedMultipartUpload{}
	for i, body := range []string{strings.Repeat("x", 5<<20), second} {
		part, err := s.UploadPart(s.Context(), &client.UploadPartInput{
			Bucket: s.bucket, Key: &key, UploadId: up.UploadId, PartNumber: aws.Int32(int32(i + 1)),
			Body: strings.NewReader(body), ChecksumAlgorithm: types.ChecksumAlgorithmCrc32,
		})
		must(s.T, err)
		done.Parts = append(done.Parts, types.CompletedPart{
			ETag: part.ETag, PartNumber: aws.Int32(int32(i + 1)), ChecksumCRC32: part.ChecksumCRC32,
		})
	}
	out, err := s.CompleteMultipartUpload(s.Context(), &client.CompleteMultipartUploadInput{
		Bucket: s.bucket, Key: &key, UploadId: up.UploadId, MultipartUpload: done,
	})
	must(s.T, err)
	return strings.Trim(*out.ETag, `"`)
}

func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	if api, ok := errors.AsType[smithy.APIError](err); !ok || api.ErrorCode() != code {
		t.Errorf("got %v, want error %s", err, code)
	}
}

func TestObjectsAreWrittenReadAndConditional(t *testing.T) {
	s := start(t, s3.Config{Dir: t.TempDir()})
	etag := s.put("in/a.jsonl", "first")
	if got := s.get("in/a.jsonl"); got != "first" {
		t.Errorf("read %q", got)
	}
	write := func(in client.PutObjectInput) error {
		in.Bucket, in.Key, in.Body = s.bucket, aws.String("in/a.jsonl"), strings.NewReader("second")
		_, err := s.PutObject(s.Context(), &in)
		return err
	}
	wantCode(t, write(client.PutObjectInput{IfNoneMatch: aws.String("*")}), "PreconditionFailed")
	wantCode(t, write(client.PutObjectInput{IfMatch: aws.String(`"00000000000000000000000000000000"`)}), "PreconditionFailed")
	must(t, write(client.PutObjectInput{IfMatch: aws.String(`"` + etag + `"`)}))
	if got := s.get("in/a.jsonl"); got != "second" {
		t.Errorf("read %q", got)
	}
}

func TestMultipartUploadIsReadBackWhole(t *testing.T) {
	s := start(t, s3.Config{Dir: t.TempDir()})
	s.upload("in/big.jsonl", "tail")
	if got := s.get("in/big.jsonl"); len(got) != 5<<20+4 || !strings.HasSuffix(got, "xtail") {
		t.Errorf("read %d bytes", len(got))
	}
}

func TestObjectsSurviveARestart(t *testing.T) {
	dir := t.TempDir()
	first := start(t, s3.Config{Dir: dir})
	etag := first.put("in/kept.jsonl", "kept")
	must(t, first.Stop())
	second := start(t, s3.Config{Dir: dir})
	if got := second.get("in/kept.jsonl"); got != "kept" {
		t.Errorf("read %q", got)
	}
	head, err := second.HeadObject(second.Context(), &client.HeadObjectInput{Bucket: second.bucket, Key: aws.String("in/kept.jsonl")})
	must(t, err)
	if got := strings.Trim(*head.ETag, `"`); got != etag {
		t.Errorf("ETag %s, was %s", got, etag)
	}
}

func TestWrongSecretIsRefused(t *testing.T) {
	s := start(t, s3.Config{Dir: t.TempDir()})
	_, err := s.ListBuckets(s.Context(), &client.ListBucketsInput{}, func(o *client.Options) {
		o.Credentials = credentials.NewStaticCredentialsProvider("spool", "another", "")
	})
	wantCode(t, err, "SignatureDoesNotMatch")
}

func TestStartReportsAPortThatIsTaken(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer ln.Close()
	_, err = s3.Start(t.Context(), command(), s3.Config{Dir: t.TempDir(), Address: ln.Addr().String()}, zap.NewNop())
	if !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("got %v, want EADDRINUSE", err)
	}
}

func TestStartReportsWhatTheChildSaid(t *testing.T) {
	core, logged := observer.New(zap.WarnLevel)
	_, err := s3.Start(t.Context(), []string{os.Args[0], "-no-such-flag"}, s3.Config{Dir: t.TempDir()}, zap.New(core))
	if err == nil || !strings.Contains(err.Error(), "exit status 2") {
		t.Errorf("got %v, want the exit status", err)
	}
	if logged.FilterMessage("s3 server").Len() == 0 {
		t.Error("the output of the child is not in the log")
	}
}

func TestChildEndsWhenItsParentIsKilled(t *testing.T) {
	t.Parallel()
	parent := exec.Command(os.Args[0], parentName, t.TempDir())
	out, err := parent.StdoutPipe()
	must(t, err)
	must(t, parent.Start())
	address, err := bufio.NewReader(out).ReadString('\n')
	must(t, err)
	address = strings.TrimSpace(address)
	conn := stall(t, address)
	must(t, parent.Process.Kill())
	_ = parent.Wait()
	wantCutOff(t, conn)
	if again, err := net.Dial("tcp", address); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial: %v, %v: the child still listens", again, err)
	}
}

func TestStopDoesNotWaitForAClientThatStalls(t *testing.T) {
	t.Parallel()
	s := start(t, s3.Config{Dir: t.TempDir()})
	conn := stall(t, strings.TrimPrefix(s.Endpoint, "http://"))
	must(t, s.Stop())
	wantCutOff(t, conn)
}

// stall begins a request, and says no more.
func stall(t *testing.T, address string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	_, err = io.WriteString(conn, "PUT /spool/in/half.jsonl HTTP/1.1\r\nHost: ")
	must(t, err)
	return conn
}

// wantCutOff waits for the end of the connection, which is that of the server's process, and for no answer.
func wantCutOff(t *testing.T, conn net.Conn) {
	t.Helper()
	must(t, conn.SetReadDeadline(time.Now().Add(time.Minute)))
	if answer, err := io.ReadAll(conn); len(answer) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %q, %v, want the connection cut off", answer, err)
	}
}

func TestChildWithoutConfigurationEnds(t *testing.T) {
	if err := s3.RunChild(t.Context(), strings.NewReader(""), io.Discard); !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want EOF", err)
	}
}

func TestDirectoryHoldsPlainFiles(t *testing.T) {
	dir := t.TempDir()
	s := start(t, s3.Config{Dir: dir, Bucket: "other"})
	s.bucket = aws.String("other")
	s.put("in/a b.jsonl", "plain")
	got, err := os.ReadFile(filepath.Join(dir, "other", "in", "a b.jsonl"))
	must(t, err)
	if string(got) != "plain" {
		t.Errorf("read %q", got)
	}
}
