package vllmsim

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestUnixSocketIsNeitherTakenOverNorRemoved(t *testing.T) {
	addr := "unix://" + filepath.Join(t.TempDir(), "v.sock")
	path := strings.TrimPrefix(addr, "unix://")
	for range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		addrs, done := make(chan net.Addr, 1), make(chan error, 1)
		go func() { done <- Run(ctx, Config{Instant: true}, addr, nil, func(a net.Addr) { addrs <- a }) }()
		if a := <-addrs; a.Network() != "unix" || a.String() != path {
			t.Errorf("address %s %s, want %s", a.Network(), a, path)
		}
		c := newClient(t, "http://engine", &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}})
		if a := c.do(ctx, "GET", "/health", "", ""); a.status != 200 || a.body != "" {
			t.Errorf("health: %+v, want 200 and nothing", a)
		}
		if err := Run(ctx, Config{}, addr, nil, nil); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("second server: %v, want address already in use", err)
		}
		c.http.CloseIdleConnections()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
		if err := Run(t.Context(), Config{}, addr, nil, nil); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("on the file that was left: %v, want address already in use", err)
		}
		if err := os.Remove(path); err != nil {
			t.Errorf("the file is gone: %v", err)
		}
	}
}

func TestConnectionsAreRefusedWhileItLoads(t *testing.T) {
	bound, err := Bind("unix://" + filepath.Join(t.TempDir(), "v.sock"))
	if err != nil {
		t.Fatal(err)
	}
	dial := func() error {
		conn, err := new(net.Dialer).DialContext(t.Context(), "unix", strings.TrimPrefix(bound.addr, "unix://"))
		if err == nil {
			err = conn.Close()
		}
		return err
	}
	if err := dial(); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("before it listens: %v, want connection refused", err)
	}
	l, err := bound.Listen()
	if err != nil {
		t.Fatal(err)
	}
	if err := dial(); err != nil {
		t.Errorf("when it listens: %v", err)
	}
	if err := errors.Join(l.Close(), bound.Close()); err != nil {
		t.Error(err)
	}
	if err := dial(); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("afterwards: %v, want connection refused", err)
	}
}

func TestRunWaitsForLoadTimeAndCanBeStoppedInIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		stop := errors.New("terminated")
		done := make(chan error, 1)
		go func() {
			done <- Run(ctx, Config{LoadTime: time.Hour}, "127.0.0.1:0", nil, func(net.Addr) { t.Error("ready while loading") })
		}()
		elapse(59 * time.Minute)
		cancel(stop)
		if err := <-done; !errors.Is(err, stop) {
			t.Errorf("run: %v, want the cause", err)
		}
	})
}

func TestIdleConnectionsAreClosed(t *testing.T) {
	c, _ := serve(t, newServer(t, Config{Instant: true, KeepAlive: time.Millisecond}))
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(c.base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET /health HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	reply, err := io.ReadAll(conn) // until the server closes it
	if err != nil || !strings.HasPrefix(string(reply), "HTTP/1.1 200 OK\r\n") {
		t.Errorf("reply %q, error %v", reply, err)
	}
}
