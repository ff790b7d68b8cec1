//go:build !nolocal

package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"spool/runner/vllm"
)

const engineHint = "  an engine is http://host:port, https://host, or unix:///path\n"

func TestLocalRefusesWhatRunRefuses(t *testing.T) {
	for args, want := range map[string]string{
		"--engine-url foo": `spool: engine url "foo": want http://host:port, https://host or unix:///path` + "\n" + engineHint,
		"--engine-url 127.0.0.1:8000": `spool: engine url "127.0.0.1:8000": parse "127.0.0.1:8000": first path segment in URL cannot contain colon` +
			"\n" + engineHint,
		"--port-base 65534": "spool: --port-base 65534: want 0 to 65533\n",
		"--port-base -1":    "spool: --port-base -1: want 0 to 65533\n",
	} {
		data := filepath.Join(t.TempDir(), "data")
		args := append([]string{"local", "--data", data}, strings.Fields(args)...)
		if _, stderr, code := newWorld(t).spool(args...); code != exitUsage || stderr != want {
			t.Errorf("spool %s: exit %d, %q, want %q", args, code, stderr, want)
		}
		if _, err := os.Stat(data); err == nil {
			t.Errorf("spool %s: it made its folder", args)
		}
	}
}

func TestASecondLocalIsToldWhatToDo(t *testing.T) {
	dir := t.TempDir()
	lock, err := os.Create(filepath.Join(dir, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		t.Fatal(err)
	}
	_, stderr, code := newWorld(t).spool("local", "--port-base", "0", "--data", dir)
	want := "spool: start local stack: directory \"" + dir + "\" is in use by another local stack\n  end it, or give --data DIR and --port-base N\n"
	if code != exitUnfit || stderr != want {
		t.Errorf("exit %d: %q, want %q", code, stderr, want)
	}
}

// deafLocal is a spool local whose words are kept.
func deafLocal(t *testing.T) (*local, *bytes.Buffer) {
	t.Helper()
	var said bytes.Buffer
	return &local{exe: "/bin/sh", dirs: localDirs{logs: t.TempDir()}, p: &program{stderr: &said}}, &said
}

// TestAnEngineThatDoesNotAnswerIsTold: runners say so only in their logs.
func TestAnEngineThatDoesNotAnswerIsTold(t *testing.T) {
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := "http://" + ln.Addr().String()
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	well := httptest.NewServer(http.NotFoundHandler()) // an engine without /health
	defer well.Close()
	l, said := deafLocal(t)
	for _, url := range []string{gone, well.URL, "unix:///none.sock"} {
		e, err := vllm.NewClient(url, vllm.Options{})
		if err != nil {
			t.Fatal(err)
		}
		l.engines = append(l.engines, e)
	}
	l.askEngines(t.Context())
	want := "engine " + gone + " does not answer: connection refused; runners wait for it\n" +
		"engine unix:///none.sock does not answer: no such file or directory; runners wait for it\n"
	if diff := cmp.Diff(want, said.String()); diff != "" {
		t.Error(diff)
	}
	said.Reset()
	ended, end := context.WithCancel(t.Context())
	end()
	if l.askEngines(ended); said.Len() > 0 {
		t.Errorf("at its end it said %q", said)
	}
}

// TestARunnerThatIsRefusedEndsLocal: the next one would be refused too. A panic ends with the same code.
func TestARunnerThatIsRefusedEndsLocal(t *testing.T) {
	refused := `{"level":"error","error":"start_limit: too short","hint":"see the pool","exit_code":2}`
	for script, want := range map[string]struct{ err, hint, said string }{
		"echo '" + refused + "'; exit 2":        {"runner-1: start_limit: too short", "see the pool", ""},
		"echo 'spool: no such flag'; exit 2":    {"runner-1: no such flag", "see LOG", ""},
		"echo 'panic: nil'; exit 2":             {"<nil>", "", "runner-1 ended: exit status 2; the next one starts in 5s; see LOG\n"},
		"echo '" + refused + "' >&2; exit 1":    {"<nil>", "", "runner-1 ended: exit status 1; the next one starts in 5s; see LOG\n"},
		"echo 'one that was before me'; exit 0": {"<nil>", "", ""},
	} {
		l, said := deafLocal(t)
		old, err := l.start("runner-1", "-c", "echo 'spool: long ago'")
		if err != nil {
			t.Fatal(err)
		}
		<-old.done
		r, err := l.start("runner-1", "-c", script)
		if err != nil {
			t.Fatal(err)
		}
		<-r.done
		f := &fleet{local: l, running: map[string][]*child{"default": {r}}}
		err, hint := f.reap("default"), ""
		if err != nil {
			hint = explain(err).hint
		}
		log := filepath.Join(l.dirs.logs, "runner-1.log")
		got := fmt.Sprint(err) + "|" + hint + "|" + said.String()
		if diff := cmp.Diff(strings.ReplaceAll(want.err+"|"+want.hint+"|"+want.said, "LOG", log), got); diff != "" {
			t.Errorf("%s: %s", script, diff)
		}
		if err != nil && explain(err).code != exitUsage {
			t.Errorf("%s: exit %d", script, explain(err).code)
		}
	}
}
