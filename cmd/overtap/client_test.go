package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"overtap/cmd/internal/control"
	"overtap/cmd/internal/netnstest"
)

// serveFake serves a stand-in for the daemon in a directory that every user may
// enter, and returns its socket.
func serveFake(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ot")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "sock")
	l, err := control.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- control.Serve(ctx, l, &fakeDaemon{full: true}, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return path
}

// TestNoPermission runs the verbs as a user who may not open the socket.
func TestNoPermission(t *testing.T) {
	netnstest.Require(t)
	socket := serveFake(t)
	// A copy, because the build's directory is root's alone.
	program := filepath.Join(filepath.Dir(socket), "overtap")
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(own)
	if err == nil {
		err = os.WriteFile(program, text, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(filepath.Dir(socket), "overtap.toml")
	if err := os.WriteFile(file, []byte("[underlay]\naddress = \"127.0.0.1\"\n[control]\nsocket = \""+socket+"\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"run", "status", "stats", "peers", "fdb show", "fdb flush", "fdb monitor", "neigh show", "reload"} {
		// testscript's main runs the command that the program is called by.
		args := append(strings.Fields(verb), "--socket", socket)
		if verb == "run" {
			args = []string{verb, "--config", file}
		}
		cmd := exec.Command(program, args...)
		cmd.Dir, cmd.Env = "/", []string{"HOME=/"}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		err := cmd.Run()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != exitError {
			t.Errorf("%s: %v, want exit code %d", verb, err, exitError)
		}
		if want := "overtap: may not open " + socket + ": run the command as root\n"; stderr.String() != want || stdout.Len() != 0 {
			t.Errorf("%s: %q %q, want %q", verb, stdout.String(), stderr.String(), want)
		}
	}
}

// terminal returns both ends of a new pseudo-terminal.
func terminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	var n int
	if err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err == nil {
		n, err = unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	}
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	return master, slave
}

// TestColorOnTerminal checks that there is color on a terminal, unless the environment or the
// flag says otherwise.
func TestColorOnTerminal(t *testing.T) {
	socket := serveFake(t)
	for _, c := range []struct {
		name, noColor, term string
		args                []string
		colored             bool
	}{
		{name: "terminal", term: "xterm", colored: true},
		{name: "watched", term: "xterm", args: []string{"--watch"}, colored: true},
		{name: "NO_COLOR", noColor: "1", term: "xterm"},
		{name: "dumb", term: "dumb"},
		{name: "never", term: "xterm", args: []string{"--color=never"}},
		{name: "always", noColor: "1", term: "xterm", args: []string{"--color=always"}, colored: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("NO_COLOR", c.noColor)
			t.Setenv("TERM", c.term)
			master, slave := terminal(t)
			// A hang-up ends the reading, and in watch the context does.
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			shown := make(chan string)
			go func() {
				var all bytes.Buffer
				b := make([]byte, 4096)
				for !strings.Contains(all.String(), "PATH TO") {
					n, err := master.Read(b)
					all.Write(b[:n])
					if err != nil {
						break
					}
				}
				cancel()
				shown <- all.String()
			}()
			code := execute(ctx, append([]string{"status", "--socket", socket}, c.args...), slave, io.Discard)
			slave.Close()
			if text := <-shown; code != exitOK || strings.Contains(text, "\x1b[32mready") != c.colored {
				t.Errorf("exit code %d, %q", code, text)
			}
		})
	}
}
