//go:build !nolocal

package main

import "syscall"

// childAttr ends a child with its parent, however the parent dies: with it went the store and the queues, so there is
// nothing left to hand over to.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
