package vllmsim

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
)

// unixPrefix starts the addresses of unix sockets, as in unix:///run/v.sock.
const unixPrefix = "unix://"

// backlog is uvicorn's.
const backlog = 2048

// Bound is an address that is taken but not listened on: connections are refused. vLLM is in that
// state while it loads its model.
type Bound struct {
	addr string
	file *os.File
}

// Bind takes "host:port" (port 0 for any) or "unix:///path". Like vLLM it does not remove a socket
// file that exists, but fails with "address already in use"; nor does anything remove the file afterwards.
func Bind(addr string) (*Bound, error) {
	family, to, err := resolve(addr)
	if err != nil {
		return nil, fmt.Errorf("bind %q: %w", addr, err)
	}
	syscall.ForkLock.RLock()
	fd, err := syscall.Socket(family, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fd)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, fmt.Errorf("bind %q: %w", addr, os.NewSyscallError("socket", err))
	}
	if family != syscall.AF_UNIX {
		err = syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1)
	}
	if err == nil {
		err = syscall.Bind(fd, to)
	}
	if err != nil {
		return nil, fmt.Errorf("bind %q: %w", addr, errors.Join(err, syscall.Close(fd)))
	}
	return &Bound{addr: addr, file: os.NewFile(uintptr(fd), addr)}, nil
}

func resolve(addr string) (family int, to syscall.Sockaddr, err error) {
	if path, ok := strings.CutPrefix(addr, unixPrefix); ok {
		return syscall.AF_UNIX, &syscall.SockaddrUnix{Name: path}, nil
	}
	tcp, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		return 0, nil, err
	}
	if ip4 := tcp.IP.To4(); ip4 != nil || tcp.IP == nil {
		to := &syscall.SockaddrInet4{Port: tcp.Port}
		copy(to.Addr[:], ip4)
		return syscall.AF_INET, to, nil
	}
	to6 := &syscall.SockaddrInet6{Port: tcp.Port}
	copy(to6.Addr[:], tcp.IP.To16())
	return syscall.AF_INET6, to6, nil
}

// Listen turns the Bound into a listener, and thus uses it up.
func (b *Bound) Listen() (l net.Listener, err error) {
	defer func() { err = errors.Join(err, b.file.Close()) }()
	if err := syscall.Listen(int(b.file.Fd()), backlog); err != nil {
		return nil, fmt.Errorf("listen on %q: %w", b.addr, err)
	}
	l, err = net.FileListener(b.file)
	if err != nil {
		return nil, fmt.Errorf("listen on %q: %w", b.addr, err)
	}
	return l, nil
}

// Close gives the address back; after Listen it does nothing.
func (b *Bound) Close() error {
	if err := b.file.Close(); !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

// Listen is Bind and Bound.Listen in one.
func Listen(addr string) (net.Listener, error) {
	b, err := Bind(addr)
	if err != nil {
		return nil, err
	}
	return b.Listen()
}
