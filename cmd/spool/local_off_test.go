//go:build nolocal

package main

import (
	"os/exec"
	"strings"
	"testing"
)

// TestWithoutLocalThereIsNoStack: images for production hold no servers.
func TestWithoutLocalThereIsNoStack(t *testing.T) {
	for _, name := range []string{"local", "local-s3"} {
		if _, stderr, code := newWorld(t).spool(name); code != exitUsage || !strings.Contains(stderr, "unknown command") {
			t.Errorf("spool %s: exit %d, %s", name, code, stderr)
		}
	}
	deps, err := exec.Command("go", "list", "-deps", "-tags", "nolocal", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for dep := range strings.Lines(string(deps)) {
		if strings.HasPrefix(dep, "spool/localstack") || strings.HasPrefix(dep, "github.com/versity/versitygw") {
			t.Errorf("the binary holds %s", dep)
		}
	}
}
