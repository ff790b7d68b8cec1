// Package localtest starts servers that other people wrote, for tests that want a second opinion: moto, and LocalStack
// proper. A test whose server, or whose Program, is not installed is skipped with a message that tells how to get it, and
// fails if SPOOL_REQUIRE_ALL=1. ForgetSettings keeps the settings of whoever runs tests from what they start.
package localtest

import (
	"bytes"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	// LocalStackURL is the variable that names a LocalStack that runs already: http://127.0.0.1:4566.
	LocalStackURL = "SPOOL_LOCALSTACK_URL"

	startPatience = 3 * time.Minute // LocalStack may have to be installed
	stopPatience  = 20 * time.Second
)

// Region, AccessKey and SecretKey are taken by both servers; they check no signatures.
const (
	Region    = "us-east-1"
	AccessKey = "test"
	SecretKey = "test"
)

// Program gives the path of a program that a test cannot do without. how says how to install it.
func Program(t testing.TB, name, how string) (path string) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		missing(t, name+" is not installed: "+how)
	}
	return path
}

// Moto starts moto_server (pip install 'moto[server]') for the duration of the test and returns its endpoint.
func Moto(t testing.TB) string {
	t.Helper()
	program := Program(t, "moto_server", "pip install 'moto[server]'")
	host, port := freePort(t)
	return run(t, host, port, program, "-H", host, "-p", port)
}

// LocalStack returns the endpoint of the LocalStack that LocalStackURL names, or starts one for the duration of the test
// (25 s) if localstack/localstack.sh has installed it.
func LocalStack(t testing.TB) string {
	t.Helper()
	if url := os.Getenv(LocalStackURL); url != "" {
		return url
	}
	script := filepath.Join(moduleRoot(t), "localstack", "localstack.sh")
	if exec.CommandContext(t.Context(), script, "installed").Run() != nil {
		missing(t, "LocalStack is not installed: localstack/localstack.sh setup, or set "+LocalStackURL)
	}
	host, port := freePort(t)
	return run(t, host, port, script, "run", port)
}

func missing(t testing.TB, message string) {
	t.Helper()
	if os.Getenv("SPOOL_REQUIRE_ALL") == "1" {
		t.Fatal("SPOOL_REQUIRE_ALL=1: " + message)
	}
	t.Skip(message)
}

// run starts a server and returns its endpoint when it answers.
func run(t testing.TB, host, port, program string, args ...string) string {
	t.Helper()
	var out output
	cmd := exec.Command(program, args...) //nolint:noctx // the cleanup ends it, and its children too
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // it is told to end by a signal
	}()
	t.Cleanup(func() { stop(cmd.Process.Pid, ended) })
	endpoint := "http://" + net.JoinHostPort(host, port)
	await(t, endpoint, ended, &out)
	return endpoint
}

// stop ends a process group, and returns when its leader is gone.
func stop(group int, ended <-chan struct{}) {
	_ = syscall.Kill(-group, syscall.SIGTERM)
	select {
	case <-ended:
	case <-time.After(stopPatience):
	}
	_ = syscall.Kill(-group, syscall.SIGKILL)
	<-ended
}

// await returns when anything at all answers at endpoint.
func await(t testing.TB, endpoint string, ended <-chan struct{}, out *output) {
	t.Helper()
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(startPatience)
	for {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, endpoint, nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp, err := client.Do(r); err == nil {
			_ = resp.Body.Close()
			return
		}
		select {
		case <-tick.C:
		case <-ended:
			t.Fatalf("the server for %s ended: %s", endpoint, out)
		case <-deadline:
			t.Fatalf("no answer from %s: %s", endpoint, out)
		}
	}
}

// freePort is a port that was free a moment ago. Servers take seconds to bind theirs, so it is none of those that the kernel
// gives to whoever asks for any: Linux begins at 32768.
func freePort(t testing.TB) (host, port string) {
	t.Helper()
	host = "127.0.0.1"
	var err error
	for range 100 {
		port = strconv.Itoa(10_000 + rand.IntN(22_000))
		var ln net.Listener
		if ln, err = new(net.ListenConfig).Listen(t.Context(), "tcp", net.JoinHostPort(host, port)); err == nil {
			_ = ln.Close()
			return host, port
		}
	}
	t.Fatalf("no port is free: %v", err)
	return "", ""
}

// moduleRoot is the nearest folder upwards with a go.mod; tests run in the folder of their package.
func moduleRoot(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("no go.mod upwards of the test")
		}
		dir = filepath.Dir(dir)
	}
}

// output is a buffer that a process writes and a test reads.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}
