package gwtest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/versity/versitygw/auth"
	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/s3api"
	"github.com/versity/versitygw/s3api/middlewares"
	"go.uber.org/goleak"
)

// childArg makes a test binary the gateway: childArg, directory, address.
const childArg = "gwtest-gateway"

// Main is to be called by TestMain: os.Exit(gwtest.Main(m)). It also looks for goroutines left behind.
func Main(m *testing.M) int {
	if len(os.Args) == 4 && os.Args[1] == childArg {
		if err := serve(os.Args[2], os.Args[3]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	}
	code := m.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// serve runs the gateway until standard input ends, that is until its parent does.
func serve(dir, addr string) error {
	be, err := posix.New(dir, meta.XattrMeta{}, posix.PosixOpts{Concurrency: 5000, CopyObjectThreshold: 5 << 30})
	if err != nil {
		return fmt.Errorf("open backend: %w", err)
	}
	root := auth.Account{Access: AccessKey, Secret: SecretKey, Role: auth.RoleAdmin}
	srv, err := s3api.New(be, middlewares.RootUserConfig{Access: AccessKey, Secret: SecretKey}, Region,
		auth.NewIAMServiceSingle(root), nil, nil, nil, nil,
		s3api.WithQuiet(), s3api.WithKeepAlive(), s3api.WithConcurrencyLimiter(1024, 1024))
	if err != nil {
		return fmt.Errorf("make server: %w", err)
	}
	done := make(chan error, 1)
	go func() { done <- srv.ServeMultiPort([]string{addr}) }()
	parent := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, os.Stdin)
		parent <- err
	}()
	select {
	case err := <-done:
		return err
	case err := <-parent:
		return errors.Join(err, srv.ShutDown(), <-done)
	}
}

// StartGateway starts versitygw on a directory of its own, and stops it when the test ends.
func StartGateway(t *testing.T) Server {
	t.Helper()
	addr := freeAddr(t)
	cmd := exec.Command(os.Args[0], childArg, t.TempDir(), addr) //nolint:noctx // it ends when its standard input does
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
	return start(t, addr, cmd, &log, stdin.Close)
}
