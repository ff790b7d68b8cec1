package infra_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestContainerOfTheWatcherRuns builds the last stage of the watcher's image, which is from scratch and so needs no registry,
// around a binary built with the command of its first stage, and runs it without network and on a read-only root.
func TestContainerOfTheWatcherRuns(t *testing.T) {
	if os.Getenv("SPOOL_TEST_DOCKER") != "1" {
		t.Skip("SPOOL_TEST_DOCKER=1 (make test-docker) runs this")
	}
	docker := startDocker(t)
	stages := readDockerfile(t, "docker/watcher.Dockerfile")
	dir := t.TempDir()
	buildRoot(t, stages[0], filepath.Join(dir, "rootfs"))
	writeImage(t, stages[1], filepath.Join(dir, "Dockerfile"))
	tag := fmt.Sprintf("spool-watcher-test:%d", os.Getpid())
	docker("build", "-q", "-t", tag, dir)
	t.Cleanup(func() { docker("rmi", "-f", tag) })

	run := func(args ...string) string {
		return docker(append([]string{"run", "--rm", "--network", "none", "--read-only", "--cap-drop", "ALL"}, args...)...)
	}
	if out := run("--entrypoint", "/spool", tag, "version"); !strings.HasPrefix(out, "spool ") {
		t.Errorf("spool version printed %q", out)
	}
	if out := run(tag, "--help"); !strings.Contains(out, "spool watch") {
		t.Errorf("the entrypoint with --help printed %q", out)
	}
	if user := docker("inspect", "-f", "{{.Config.User}}", tag); strings.TrimSpace(user) != "65532:65532" {
		t.Errorf("runs as %q", user)
	}
}

// buildRoot makes what the build stage leaves under /rootfs, with this machine's Go.
func buildRoot(t *testing.T, build stage, root string) {
	t.Helper()
	certs := filepath.Join(root, "etc", "ssl", "certs")
	for _, d := range []string{certs, filepath.Join(root, "tmp")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(certs, "ca-certificates.crt"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	command := regexp.MustCompile(`CGO_ENABLED=0 go build .*$`).FindString(build.last("RUN"))
	if !strings.Contains(command, " -o /rootfs/") {
		t.Fatalf("no go build into /rootfs in %q", build.last("RUN"))
	}
	cmd := exec.Command("sh", "-c", strings.Replace(command, " -o /rootfs/", " -o "+root+"/", 1))
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
}

// writeImage writes the last stage as a Dockerfile of its own, which copies from the context.
func writeImage(t *testing.T, image stage, name string) {
	t.Helper()
	if image.image != "scratch" {
		t.Fatalf("base is %q: it would have to be fetched", image.image)
	}
	text := "FROM scratch\n"
	for _, s := range image.steps {
		text += s.instruction + " " + strings.ReplaceAll(s.argument, "--from=build ", "") + "\n"
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// startDocker gives a function that runs the client: against the daemon that runs already, else against one that is started
// for the test, which needs root. It skips the test if neither can be had.
func startDocker(t *testing.T) func(args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("docker"); err != nil {
		t.Skip("docker is not installed")
	}
	env := os.Environ()
	if exec.Command("docker", "version").Run() != nil {
		if _, err := exec.LookPath("dockerd"); err != nil || os.Getuid() != 0 {
			t.Skip("no Docker daemon runs, and none can be started: that takes root and dockerd")
		}
		env = append(env, "DOCKER_HOST="+startDaemon(t), "DOCKER_BUILDKIT=0")
	}
	return func(args ...string) string {
		t.Helper()
		cmd := exec.Command("docker", args...)
		cmd.Env = env
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("docker %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
}

// startDaemon runs a dockerd with everything it has in a folder, and without touching the machine's network.
func startDaemon(t *testing.T) (host string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "spool-docker-") // short: the path of a socket has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	host = "unix://" + dir + "/docker.sock"
	var log strings.Builder
	cmd := exec.Command("dockerd", "--data-root", dir+"/root", "--exec-root", dir+"/exec", "--pidfile", dir+"/pid", "-H", host,
		"--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false")
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-ended
		_ = exec.Command("umount", dir+"/exec/netns/default").Run() // it stays mounted, if it was
		_ = os.RemoveAll(dir)
	})
	deadline := time.After(time.Minute)
	for tick := time.NewTicker(100 * time.Millisecond); ; {
		select {
		case err := <-ended:
			ended <- err
			t.Skipf("dockerd cannot run here: %v\n%s", err, log.String())
		case <-deadline:
			t.Fatal("dockerd did not answer within a minute")
		case <-tick.C:
			ping := exec.Command("docker", "version")
			ping.Env = append(os.Environ(), "DOCKER_HOST="+host)
			if ping.Run() == nil {
				tick.Stop()
				return host
			}
		}
	}
}
