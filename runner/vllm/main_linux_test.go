package vllm

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"spool/runner/vllm/vllmsim"
)

// Variables that make the test binary another program.
const (
	simEnv   = "VLLM_TEST_SIM"   // vllmsim in the place of vLLM, with this Config
	ownerEnv = "VLLM_TEST_OWNER" // a program that owns a Server, with this Config of vllmsim; see own
	shellEnv = "VLLM_TEST_SHELL" // of the owner: a script in the place of vllmsim
)

func TestMain(m *testing.M) {
	if cfg, ok := os.LookupEnv(simEnv); ok {
		os.Exit(sim(cfg))
	}
	if cfg, ok := os.LookupEnv(ownerEnv); ok {
		os.Exit(own(cfg))
	}
	goleak.VerifyTestMain(m)
}

func sim(arg string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var cfg vllmsim.Config
	if err := json.Unmarshal([]byte(arg), &cfg); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	return vllmsim.Serve(ctx, cfg, os.Args[1:], os.Stdout)
}

// owned is what makes a Server start the test binary as vllmsim.
func owned(cfg vllmsim.Config) Config {
	arg, err := json.Marshal(cfg)
	if err != nil {
		panic(err)
	}
	return Config{
		Command: []string{os.Args[0]}, Model: "m", Env: []string{simEnv + "=" + string(arg), ownerEnv + "="},
		Slots: 2, Backoff: time.Millisecond, ShutdownTimeout: time.Second,
	}
}

// eventually polls until ok holds, and fails the test after 30 s.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(30 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

// own runs a Server until it is killed, and prints the number of its engine's process.
func own(arg string) int {
	var sim vllmsim.Config
	if err := json.Unmarshal([]byte(arg), &sim); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	const prSetChildSubreaper = 36 // prctl(2): orphans are left to this process, as to number 1 of a container
	if _, _, errno := syscall.Syscall(syscall.SYS_PRCTL, prSetChildSubreaper, 1, 0); errno != 0 {
		fmt.Fprintln(os.Stderr, errno)
		return 1
	}
	cfg := owned(sim)
	if script := os.Getenv(shellEnv); script != "" {
		cfg.Command = []string{"/bin/sh", "-c", script}
	}
	s, err := NewServer(cfg)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for s.life.Load() == nil {
		<-tick.C
	}
	fmt.Fprintln(os.Stdout, s.life.Load().proc.pid())
	io.Copy(io.Discard, os.Stdin) // until the test closes it
	cancel()
	if err := <-done; err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
