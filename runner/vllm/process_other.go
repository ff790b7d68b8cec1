//go:build !linux

package vllm

import "syscall"

func processAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// killAll kills the group; 0 means that it has no members left. Descendants that left it are not found, and the dead
// count until they are reaped.
func (p *process) killAll() int {
	if syscall.Kill(-p.pid(), syscall.SIGKILL) != nil {
		return 0
	}
	return 1
}

func reapOrphans() {}
