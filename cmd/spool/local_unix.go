//go:build !nolocal && unix && !linux

package main

import "syscall"

// childAttr puts a child in a group of its own. Where the system cannot tell it that its parent died, a
// parent that is killed leaves runners behind until they are idle, and the watcher.
func childAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
