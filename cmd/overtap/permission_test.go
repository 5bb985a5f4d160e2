package main

import (
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"overtap/cmd/internal/control"
)

// nobody is the user of that name, which owns no files.
const nobody = 65534

// Verbs that another user than root runs say that the socket is root's.
func TestSocketIsRootsAlone(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("REQUIRE_ROOT") == "1" {
			t.Fatal("this test needs root, to become another user")
		}
		t.Skip("needs root, to become another user")
	}
	dir, err := os.MkdirTemp("", "overtap") // not t.TempDir, which others may not enter
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "control.sock")
	l, err := control.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- control.Serve(t.Context(), l, &fakeDaemon{full: true}, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	program := filepath.Join(dir, "overtap")
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, self, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"status"}, {"stats"}, {"fdb", "show"}, {"trace", "--ip", "198.51.100.1,198.51.100.2"}} {
		c := exec.Command(program, append(args, "--socket", socket)...)
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		c.Dir = "/"
		c.Env = []string{"PATH=/nonexistent"}
		out, err := c.CombinedOutput()
		var exit *exec.ExitError
		if want := "overtap: may not open " + socket + ": run the command as root\n"; !errors.As(err, &exit) || exit.ExitCode() != exitError || string(out) != want {
			t.Errorf("overtap %s: %v: %q, want %q", strings.Join(args, " "), err, out, want)
		}
	}
}
