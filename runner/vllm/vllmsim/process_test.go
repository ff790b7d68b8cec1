package vllmsim

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// child is a server in a process of its own.
type child struct {
	*client
	cmd *exec.Cmd
}

func startChild(t *testing.T, cfg Config) *child {
	t.Helper()
	arg, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), processEnv+"="+string(arg))
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	addr, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("process did not become ready: %v", err)
	}
	return &child{newClient(t, "http://"+strings.TrimSpace(addr), &http.Transport{}), cmd}
}

func TestTwoProcessesAnswerAlikeAndShareALedger(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger")
	cfg := Config{Slots: 2, TokenTime: time.Microsecond, TokenTimeFull: 2 * time.Microsecond, LedgerPath: path}
	a, b := startChild(t, cfg), startChild(t, cfg)
	n := 0
	for path, body := range oneOfEach() {
		for i, c := range []*child{a, b} {
			reply := c.post(path, fmt.Sprintf("%s-%d", path, i), body)
			if reply.status != 200 {
				t.Errorf("%s: status %d, error %v", path, reply.status, reply.err)
			} else if err := cfg.Check(path, []byte(body), []byte(reply.body)); err != nil {
				t.Errorf("%s: %v", path, err)
			}
			n++
		}
	}
	checkLedger(t, path, n)
	entries, err := ReadLedger(path)
	if err != nil {
		t.Fatal(err)
	}
	pids := map[int]int{}
	for _, e := range entries {
		pids[e.PID]++
	}
	if len(pids) != 2 || pids[a.cmd.Process.Pid] != n || pids[b.cmd.Process.Pid] != n {
		t.Errorf("entries by process: %v, want %d of %d and %d", pids, n, a.cmd.Process.Pid, b.cmd.Process.Pid)
	}
	for _, c := range []*child{a, b} {
		if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if err := c.cmd.Wait(); err != nil {
			t.Errorf("after SIGTERM: %v, want exit 0", err)
		}
	}
}

func TestKilledProcessLeavesItsLedger(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger")
	c := startChild(t, Config{Slots: 4, TokenTime: time.Minute, LedgerPath: path})
	const requests = 3
	var replies []<-chan answered
	for i := range requests {
		replies = append(replies, c.start(t.Context(), chatPath, fmt.Sprint(i), chat("x", "")))
	}
	asked := func() map[string]string {
		entries, err := ReadLedger(path)
		if err != nil {
			t.Fatal(err)
		}
		events := map[string]string{}
		for _, e := range entries {
			events[e.ID] += e.Event
		}
		return events
	}
	eventually(t, "all are asked", func() bool { return len(asked()) == requests })
	if err := c.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for i, r := range replies {
		if a := <-r; a.err == nil {
			t.Errorf("request %d: status %d from a killed process", i, a.status)
		}
	}
	for id, events := range asked() {
		if events != Asked {
			t.Errorf("request %s: %q in the ledger, want only that it was asked", id, events)
		}
	}
}
