package vllm

import (
	"bytes"
	"os"
	"strconv"
	"strings"
	"syscall"
)

func processAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}

// relatives are the processes that live of the group, and descendants that left it, known by the mark. What is dead
// and this process's to reap (it has the number 1, or is a subreaper) is reaped. It is not called concurrently.
func (p *process) relatives() []int {
	var alive []int
	for _, q := range processes() {
		switch {
		case q.group != p.pid() && !p.strays[q.pid] && !hasMark(q.pid, p.mark):
			continue
		case q.group != p.pid():
			p.strays[q.pid] = true // the dead have no environment to know them by
		}
		switch {
		case q.state != 'Z' && q.state != 'X':
			alive = append(alive, q.pid)
		case q.parent == os.Getpid() && q.pid != p.pid():
			reap(q.pid)
		}
	}
	return alive
}

// killAll kills every relative once and tells how many there were.
func (p *process) killAll() int {
	alive := p.relatives()
	for _, pid := range alive {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may end at this moment
	}
	return len(alive)
}

// reapOrphans reaps the dead that were left to this process as number 1 of a container. Those that it started itself
// are waited for where they were started: they are in its own group, or lead one.
func reapOrphans() {
	own := syscall.Getpgrp()
	for _, q := range processes() {
		if q.state == 'Z' && q.parent == os.Getpid() && q.group != own && q.group != q.pid {
			reap(q.pid)
		}
	}
}

func reap(pid int) {
	_, _ = syscall.Wait4(pid, nil, syscall.WNOHANG, nil) // who is not there any more needs no reaping
}

// processInfo is of /proc/<pid>/stat.
type processInfo struct {
	pid, parent, group int
	state              byte
}

// processes lists those that can be seen; without /proc there are none.
func processes() []processInfo {
	proc, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer proc.Close()
	names, _ := proc.Readdirnames(-1) // what was read before an error counts
	var all []processInfo
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if q, ok := readStat(pid); ok {
			all = append(all, q)
		}
	}
	return all
}

// readStat reads "pid (name) state ppid pgrp …"; the name may hold anything (man proc_pid_stat).
func readStat(pid int) (processInfo, bool) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return processInfo{}, false
	}
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(fields) < 3 {
		return processInfo{}, false
	}
	parent, errParent := strconv.Atoi(fields[1])
	group, errGroup := strconv.Atoi(fields[2])
	return processInfo{pid, parent, group, fields[0][0]}, errParent == nil && errGroup == nil
}

// hasMark says whether the environment with which a process was started has the entry. Other users' cannot be read.
func hasMark(pid int, mark string) bool {
	env, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
	return err == nil && bytes.Contains(env, []byte(mark))
}
