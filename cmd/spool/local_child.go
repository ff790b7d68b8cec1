//go:build !nolocal

package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// stopPatience is how long a child may take to end after SIGTERM; a runner hands over within 10 s, and its vLLM has 20 s
// more.
const stopPatience = 35 * time.Second

// child is this binary under another command, with its log in a file.
type child struct {
	name    string
	logFile string
	logFrom int64 // where its own lines begin: those before are of an earlier one
	cmd     *exec.Cmd
	asked   sync.Once // to end
	done    chan struct{}
	err     error // how it ended; after done
}

// start starts this binary. It is in a process group of its own, so that Ctrl-C reaches the parent alone,
// which then stops it in order.
func (l *local) start(name string, args ...string) (*child, error) {
	c := &child{name: name, logFile: filepath.Join(l.dirs.logs, name+".log"), done: make(chan struct{})}
	file, err := os.OpenFile(c.logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open log of %s: %w", name, err)
	}
	if info, err := file.Stat(); err == nil {
		c.logFrom = info.Size()
	}
	var out io.Writer = file
	if l.verbose {
		out = io.MultiWriter(file, l.p.stderr)
	}
	c.cmd = exec.Command(l.exe, args...) //nolint:noctx // it is ended by a signal, in order
	c.cmd.Env, c.cmd.Stdout, c.cmd.Stderr = l.env, out, out
	c.cmd.SysProcAttr = childAttr()
	if err := c.cmd.Start(); err != nil {
		_ = file.Close() // nothing was written
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		c.err = c.cmd.Wait()
		_ = file.Close() // a log: what is lost is lost
		close(c.done)
	}()
	return c, nil
}

func (c *child) alive() bool {
	select {
	case <-c.done:
		return false
	default:
		return true
	}
}

// state says how the child ended; call it after done.
func (c *child) state() string {
	if c.err == nil {
		return "exit status 0"
	}
	return c.err.Error()
}

// refusal is the error of a child that found its command line or configuration wrong, as its log has it; nil if it
// ended otherwise. A panic of Go ends with the same code, but says nothing like it.
func (c *child) refusal() error {
	if c.cmd.ProcessState.ExitCode() != int(exitUsage) {
		return nil
	}
	text, err := os.ReadFile(c.logFile)
	if err != nil || int64(len(text)) < c.logFrom {
		return nil
	}
	for line := range strings.Lines(string(text[c.logFrom:])) {
		if said, ok := strings.CutPrefix(strings.TrimSpace(line), "spool: "); ok { // before it had a log
			return failf(exitUsage, "see "+c.logFile, "%s: %s", c.name, said)
		}
		var l struct {
			Error, Hint string
			Code        int `json:"exit_code"`
		}
		if json.Unmarshal([]byte(line), &l) == nil && l.Code == int(exitUsage) {
			return failf(exitUsage, cmp.Or(l.Hint, "see "+c.logFile), "%s: %s", c.name, l.Error)
		}
	}
	return nil
}

// interrupt asks the child to end, once however often it is called: a second SIGTERM would kill a runner that is
// handing over.
func (c *child) interrupt() {
	c.asked.Do(func() { _ = c.cmd.Process.Signal(syscall.SIGTERM) }) // it may have ended already
}

// stop ends the child in its own time, or kills it and what it started. It waits for the end.
func (c *child) stop() {
	c.interrupt()
	timer := time.NewTimer(stopPatience)
	defer timer.Stop()
	select {
	case <-c.done:
	case <-timer.C:
		_ = syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL) // it may end at this moment
		<-c.done
	}
}

// childEnv is the environment of the watcher and the runners: without the variables of spool's own flags, which are
// meant for the parent, but for the one that says what is traced, without its log file, which one process rotates, and without
// its format: what children log is read by programs.
func childEnv(env []string) []string {
	return slices.DeleteFunc(commandEnv(env), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return strings.HasPrefix(name, "SPOOL_") && name != envName("trace-every") || name == "LOG_FILE" || name == "LOG_FORMAT"
	})
}

// commandEnv is the environment of CMD: without what would lead it past the local stack.
func commandEnv(env []string) []string {
	elsewhere := []string{"AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
		envName("s3-endpoint"), envName("sqs-endpoint"), envName("region")}
	return slices.DeleteFunc(slices.Clone(env), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return slices.Contains(elsewhere, name)
	})
}
