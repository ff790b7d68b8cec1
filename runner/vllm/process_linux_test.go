package vllm

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"spool/runner/vllm/vllmsim"
)

// startOwner starts a process that owns a Server, and gives the number of its engine's process.
func startOwner(t *testing.T, sim vllmsim.Config) (owner *exec.Cmd, stdin io.Closer, engine int) {
	t.Helper()
	arg, err := json.Marshal(sim)
	if err != nil {
		t.Fatal(err)
	}
	owner = exec.Command(os.Args[0])
	owner.Env = append(owner.Environ(), ownerEnv+"="+string(arg), "TMPDIR="+shortDir(t))
	owner.Stderr = t.Output()
	in, errIn := owner.StdinPipe()
	out, errOut := owner.StdoutPipe()
	if errIn != nil || errOut != nil || owner.Start() != nil {
		t.Fatal("owner did not start")
	}
	t.Cleanup(func() { _ = owner.Process.Kill(); _ = owner.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("owner is not ready: %v", err)
	}
	if engine, err = strconv.Atoi(strings.TrimSpace(line)); err != nil {
		t.Fatal(err)
	}
	return owner, in, engine
}

// isAlive says whether the process runs; a zombie does not.
func isAlive(pid int) bool {
	q, ok := readStat(pid)
	return ok && q.state != 'Z' && q.state != 'X'
}

func TestEngineEndsWithItsOwnerHoweverThatDies(t *testing.T) {
	owner, _, engine := startOwner(t, instant())
	if !isAlive(engine) {
		t.Fatal("no engine")
	}
	if err := owner.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the engine's end", func() bool { return !isAlive(engine) })
}

// TestOwnerThatIsNumberOneReapsWhileAModelLoads is about the dead that nobody else waits for while vLLM runs, and is
// not ready.
func TestOwnerThatIsNumberOneReapsWhileAModelLoads(t *testing.T) {
	owner := exec.Command(os.Args[0])
	owner.Env = append(owner.Environ(), ownerEnv+"={}", "TMPDIR="+shortDir(t), shellEnv+"=(sleep 60 &); exec sleep 3600")
	owner.Stderr = t.Output()
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = owner.Process.Kill(); _ = owner.Wait() })
	orphan := func() (pid int) {
		for _, q := range processes() {
			if q.parent == owner.Process.Pid && q.pid != q.group && q.group != syscall.Getpgrp() {
				pid = q.pid
			}
		}
		return pid
	}
	var pid int
	eventually(t, "an orphan", func() bool { pid = orphan(); return pid != 0 })
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nothing is left of it", func() bool { return orphan() == 0 })
}

func TestOwnerThatIsNumberOneReapsTheDead(t *testing.T) {
	sim := instant()
	sim.Orphans = 2
	owner, stdin, engine := startOwner(t, sim)
	if err := syscall.Kill(engine, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	// Its orphans were left to the owner, a subreaper as number 1 is, which is to kill and to reap them.
	next := func() (pid int) {
		for _, q := range processes() {
			if q.parent == owner.Process.Pid && q.pid == q.group && q.pid != engine && q.state != 'Z' {
				pid = q.pid
			}
		}
		return pid
	}
	eventually(t, "the next engine", func() bool { return next() != 0 })
	eventually(t, "nothing of the first is left", func() bool {
		for _, q := range processes() {
			if q.group == engine || q.parent == owner.Process.Pid && q.state == 'Z' {
				return false
			}
		}
		return true
	})
	stdin.Close()
	if err := owner.Wait(); err != nil {
		t.Errorf("owner: %v", err)
	}
}
