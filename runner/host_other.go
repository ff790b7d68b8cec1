//go:build !linux

package runner

import "spool/monitoring"

// collectHost is for Linux only.
func collectHost(monitoring.Emit, string) {}
