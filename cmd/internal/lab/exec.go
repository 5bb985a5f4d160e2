package lab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"overtap/bench/netlab"
	"overtap/cmd/internal/control"
)

// Exec replaces this process by a command inside a host or container, so that
// terminal, signals and exit code are the command's own. The arguments are
// [LAB] MEMBER [--] [COMMAND [ARG]...]; without a command it is a shell. It
// returns only with an error.
func Exec(p *Printer, args []string) error {
	if err := needRoot(p, "exec"); err != nil {
		return err
	}
	var t *Topology
	if len(args) > 0 {
		if found, err := Find(args[0]); err == nil {
			t, args = found, args[1:]
		}
	}
	t, err := running(p, t)
	if err != nil {
		return err
	}
	if len(args) == 0 || !slices.Contains(t.members(), args[0]) {
		return fmt.Errorf("lab %s: name one of its hosts and containers: %s", t.Name, strings.Join(t.members(), ", "))
	}
	member, argv := args[0], args[1:]
	if len(argv) > 0 && argv[0] == "--" {
		argv = argv[1:]
	}
	if len(argv) == 0 {
		argv = []string{shell()}
	}
	l, err := netlab.Open(t.Name)
	if err != nil {
		return err
	}
	h, err := l.Host(member)
	if err != nil {
		return err
	}
	if err := t.setEnv(member); err != nil {
		return err
	}
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return fmt.Errorf("run %s in %s: %w", argv[0], member, err)
	}
	// The kernel makes the thread that calls execve(2) the whole process, and
	// this one is inside the namespace.
	err = h.Do(func() error { return syscall.Exec(path, argv, os.Environ()) })
	return fmt.Errorf("run %s in %s: %w", path, member, err)
}

// setEnv has the lab's own copy found as overtap, and the daemon of the
// member's host asked. Where there is none its socket is missing: better than
// to ask a daemon outside the lab.
func (t *Topology) setEnv(member string) error {
	if err := os.Setenv(control.SocketVar, t.socket(t.hostOf(member))); err != nil {
		return err
	}
	binary := t.binary()
	if binary == "" {
		return nil
	}
	return os.Setenv("PATH", filepath.Dir(binary)+string(filepath.ListSeparator)+os.Getenv("PATH"))
}

func shell() string {
	if s := os.Getenv("SHELL"); s != "" {
		return s
	}
	return "/bin/sh"
}

// running returns t, or the only lab there is for nil; an error when it is not
// up. A damaged lab may be looked into as far as it is there.
func running(p *Printer, t *Topology) (*Topology, error) {
	there, err := present()
	if err != nil {
		return nil, err
	}
	switch {
	case t != nil && !slices.Contains(there, t):
		return nil, fmt.Errorf("lab %s is not up: start it by `%s lab up %s`", t.Name, p.Command, t.Name)
	case t != nil:
		return t, nil
	case len(there) == 0:
		return nil, fmt.Errorf("no lab is up: start one by `%s lab up`", p.Command)
	case len(there) > 1:
		return nil, fmt.Errorf("several labs are up: name one of %s first", joinNames(there))
	}
	return there[0], nil
}
