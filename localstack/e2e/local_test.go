package e2e

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"spool/storage/batch"
)

// TestNothingStaysBehind: however spool local ends, in mid-file and with a client of the store that stalls, nothing that
// it started outlives it.
func TestNothingStaysBehind(t *testing.T) {
	for signal, want := range map[syscall.Signal]int{syscall.SIGINT: 0, syscall.SIGTERM: 0, syscall.SIGKILL: -1} {
		t.Run(signal.String(), func(t *testing.T) {
			t.Parallel()
			s := emptyStack(t)
			p := s.local("--runners", "2")
			s.put(s.write("end.jsonl", requests("end", 1100, 5000)...), "in/end.jsonl", nil)
			stall(t, s.s3)
			var started map[int]string
			s.until("store, watcher, engine and two runners are there, and work", func() bool {
				started = children(t, p.Process.Pid)
				return len(started) == 5 && s.works("runner-1") && s.works("runner-2")
			})
			p.signal(signal)
			if code := p.ended(t); code != want {
				t.Errorf("ended with %d, want %d:\n%s", code, want, tail(p.log, 5))
			}
			for pid, command := range started {
				s.until(fmt.Sprintf("spool %s has gone too", command), func() bool { return !runs(pid) })
			}
		})
	}
}

// TestBatchWhoseEngineCannotStartEndsWithItsCause: at the third runner, not when its window is over.
func TestBatchWhoseEngineCannotStartEndsWithItsCause(t *testing.T) {
	for code, says := range map[string]string{
		"model_not_found": "OSError: no/such is not a local folder and is not a valid model identifier",
		"start_failed":    "AssertionError: nobody knows", // three times in each runner
	} {
		t.Run(code, func(t *testing.T) {
			t.Parallel()
			s := emptyStack(t)
			program := s.write("vllm", "#!/bin/sh", fmt.Sprintf("echo '%s'", says), "exit 1")
			if err := os.Chmod(program, 0o755); err != nil {
				t.Fatal(err)
			}
			s.local("--model", "no/such", "--vllm", program)
			s.put(s.write("a.jsonl", requests("a", 3, 10)...), "in/a.jsonl", nil)
			done := s.wait("in/a.jsonl", 1)[0]
			if done.Status != batch.Failed || done.Errors == nil || len(done.Errors.Data) != 1 {
				t.Fatalf("batch %+v, want it failed for one reason", done)
			}
			if e := done.Errors.Data[0]; e.Code != code || !strings.Contains(e.Message, says) {
				t.Errorf("reason %+v, want %s with %q", e, code, says)
			}
		})
	}
}

// stall begins a request to the store, and says no more.
func stall(t *testing.T, endpoint string) {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(endpoint, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := conn.Write([]byte("PUT /spool/in/half.jsonl HTTP/1.1\r\n")); err != nil {
		t.Fatal(err)
	}
}

// works reports whether a runner of spool local has a shard.
func (s *stack) works(runner string) bool {
	log, _ := os.ReadFile(filepath.Join(s.dir, "data", "logs", runner+".log")) // none before it is started
	return bytes.Contains(log, []byte("shard_taken"))
}

// keys lists the keys under a prefix.
func (s *stack) keys(prefix string) []string {
	s.t.Helper()
	var keys []string
	for obj, err := range s.bucket.List(s.t.Context(), prefix, "") {
		if err != nil {
			s.t.Fatal(err)
		}
		keys = append(keys, obj.Key)
	}
	return keys
}

// children are the processes that a process started, with the command of spool that they run.
func children(t *testing.T, parent int) map[int]string {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[int]string)
	for _, stat := range stats {
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(stat)))
		args := strings.Split(procFile(fmt.Sprintf("%d/cmdline", pid)), "\x00")
		if f := procStat(pid); len(f) > 1 && f[1] == strconv.Itoa(parent) && len(args) > 1 {
			found[pid] = args[1]
		}
	}
	return found
}

// runs reports whether a process is there. One that ended may stay for a while, until its parent asks how.
func runs(pid int) bool {
	f := procStat(pid)
	return len(f) > 0 && f[0] != "Z"
}

// procStat is what the kernel says of a process from its state on, nothing if it has gone.
func procStat(pid int) []string {
	_, rest, _ := strings.Cut(procFile(fmt.Sprintf("%d/stat", pid)), ") ")
	return strings.Fields(rest)
}

// procFile reads a file of /proc, "" if the process is gone.
func procFile(name string) string {
	text, err := os.ReadFile(filepath.Join("/proc", name))
	if err != nil {
		return ""
	}
	return string(text)
}
