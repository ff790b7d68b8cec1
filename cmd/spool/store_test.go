package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"spool/storage"
)

// TestAStoreThatDoesNotAnswerIsToldOnce: each try as a line of JSON is for operators, who ask for it.
func TestAStoreThatDoesNotAnswerIsToldOnce(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "k")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "s")
	const end = "denied: StatusCode 403\n  check the credentials (AWS_PROFILE, AWS_ACCESS_KEY_ID) and what they may do: spool doctor\n"
	for args, want := range map[string]string{
		"":                   "the store does not answer as it should: trying again\nspool: " + end,
		"--log-level warn":   "{store_retry}\n{store_retry}\n{store_retry}\nspool: " + end,
		"--log-level error":  "spool: " + end,
		"--log-file log.txt": "the store does not answer as it should: trying again\nspool: " + end,
	} {
		t.Chdir(t.TempDir())
		var asked atomic.Int64
		store := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if asked.Add(1) <= 3 {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			w.WriteHeader(http.StatusForbidden)
		}))
		var stderr bytes.Buffer
		p := &program{stdout: &stderr, stderr: &stderr, connect: connect}
		code := p.main(t.Context(), append([]string{"spool", "status", "in/a.jsonl", "--bucket", "b", "--region", "us-east-1", "--s3-endpoint", store.URL}, strings.Fields(args)...))
		store.Close()
		if diff := cmp.Diff(want, simplified(stderr.String())); diff != "" || code != exitUnfit {
			t.Errorf("%q: exit %d %s", args, code, diff)
		}
		if log, _ := os.ReadFile("log.txt"); strings.Contains(args, "log.txt") && bytes.Count(log, []byte(`"event":"store_retry"`)) != 3 {
			t.Errorf("the file has %s", log)
		}
	}
}

// simplified leaves of a line of the log its event, and of an error of the driver its end.
func simplified(text string) string {
	var s strings.Builder
	for line := range strings.Lines(text) {
		switch {
		case strings.HasPrefix(line, "{") && strings.Contains(line, `"event":"store_retry"`):
			line = "{store_retry}\n"
		case strings.HasPrefix(line, "spool: "):
			line = "spool: denied: StatusCode 403\n"
		}
		s.WriteString(line)
	}
	return s.String()
}

func TestWhatIsTriedAgainIsToldAboveTheBar(t *testing.T) {
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	for want, err := range map[string]error{
		"":                     &storage.Error{Op: "put", Kind: storage.KindConflict},
		"(connection refused)": &storage.Error{Op: "head", Kind: storage.KindUnavailable, Err: fmt.Errorf("send: %w", refused)},
		"(no such host)":       &storage.Error{Op: "head", Kind: storage.KindUnavailable, Err: &net.DNSError{Err: "no such host", Name: "s3"}},
		"(no answer in time)":  &storage.Error{Op: "head", Kind: storage.KindUnavailable, Err: context.DeadlineExceeded},
		"as it should":         &storage.Error{Op: "head", Kind: storage.KindUnavailable, Err: errors.New("503")},
	} {
		var out bytes.Buffer
		p := &program{stderr: &out, bar: &bar{out: &out}}
		p.bar.update(&view{State: "waiting"})
		say := p.sayOnce()
		say(err)
		say(err)
		p.bar.end()
		if want != "" {
			want = clearLine + "the store does not answer " + want + ": trying again\nwaiting  "
		}
		if diff := cmp.Diff(clearLine+"waiting  "+want+clearLine, out.String()); diff != "" {
			t.Error(diff)
		}
		out.Reset()
		if p.sayf("later"); out.String() != "later\n" {
			t.Errorf("without a bar: %q", out.String())
		}
	}
}
