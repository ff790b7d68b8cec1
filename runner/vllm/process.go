package vllm

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"github.com/google/uuid"
)

// markName is in the environment of vLLM and thus of all it starts, with a value that no other start has.
const markName = "SPOOL_ENGINE"

// process is one run of a program, in a process group of its own, with all its descendants.
type process struct {
	cmd    *exec.Cmd
	mark   string        // "NAME=value", in the environment of every descendant
	exited chan struct{} // closed when the program itself has ended
	state  string        // how: "exit status 0"; after exited
	read   chan struct{} // closed when its output is at its end
	pipe   *os.File      // its output
	strays map[int]bool  // descendants that left the group
}

// newMark makes an environment entry that is found in descendants only.
func newMark() string { return markName + "=" + uuid.NewString() }

// startProcess starts the program. If this process dies, however it does, the program gets SIGTERM where the system
// can do that, which vLLM passes on to its children. The end of every process is waited for by end.
func startProcess(program string, args, env []string, mark string, out *output) (*process, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	p := &process{mark: mark, exited: make(chan struct{}), read: make(chan struct{}), pipe: r, strays: map[int]bool{}}
	p.cmd = exec.Command(program, args...) //nolint:noctx // it is ended by signals, in order, with its descendants
	p.cmd.Env = append(p.cmd.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = w, w // files, so that Wait does not wait for descendants that hold them
	p.cmd.SysProcAttr = processAttr()
	started := make(chan error)
	go p.wait(started)
	err = <-started
	_ = w.Close() // the program has its own
	if err != nil {
		_ = r.Close()
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	go func() {
		defer close(p.read)
		out.read(r)
	}()
	return p, nil
}

// wait starts the program and waits for it on one system thread: the death of the thread that started a child, not
// of the process, is what the system tells it.
func (p *process) wait(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := p.cmd.Start()
	started <- err
	if err != nil {
		return
	}
	if err := p.cmd.Wait(); p.cmd.ProcessState == nil {
		p.state = err.Error() // cannot be: somebody else reaped it
	} else {
		p.state = p.cmd.ProcessState.String()
	}
	close(p.exited)
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// terminate asks the program alone to end: vLLM stops its children in order.
func (p *process) terminate() { _ = p.cmd.Process.Signal(syscall.SIGTERM) } // it may have ended already

func (p *process) hasExited() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}
