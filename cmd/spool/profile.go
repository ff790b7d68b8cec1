//go:build profile

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime/pprof"
)

// profile records where the CPU time of this process goes, and what it allocates, until the function that it returns is
// called, in the folder that SPOOL_PROFILE names: COMMAND.cpu.pprof and COMMAND.allocs.pprof.
func profile(args []string) (end func()) {
	dir := os.Getenv("SPOOL_PROFILE")
	if dir == "" || len(args) < 2 {
		return func() {}
	}
	name := filepath.Join(dir, args[1])
	cpu, err := os.Create(name + ".cpu.pprof")
	if err == nil {
		err = pprof.StartCPUProfile(cpu)
	}
	return func() {
		pprof.StopCPUProfile()
		allocs, errAllocs := os.Create(name + ".allocs.pprof")
		if errAllocs == nil {
			errAllocs = pprof.Lookup("allocs").WriteTo(allocs, 0)
		}
		for _, err := range []error{err, errAllocs} {
			if err != nil {
				fmt.Fprintln(os.Stderr, "profile:", err)
			}
		}
	}
}
