//go:build !nolocal

package main

import (
	"os"
	"os/exec"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestScripts runs testdata/*.txtar with this binary as spool, against a local stack of its own each.
func TestScripts(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Condition: func(program string) (bool, error) {
			_, err := exec.LookPath(program)
			if err != nil && os.Getenv("SPOOL_REQUIRE_ALL") == "1" {
				return false, err
			}
			return err == nil, nil
		},
		Setup: func(env *testscript.Env) error {
			// Without these, AWS's tools would look for files and machines that tests have no business with.
			env.Setenv("AWS_EC2_METADATA_DISABLED", "true")
			env.Setenv("HOME", env.WorkDir)
			return nil
		},
	})
}
