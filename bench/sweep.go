package bench

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync/atomic"
	"syscall"

	"overtap/bench/netlab"
)

var (
	beds    atomic.Uint32
	labName = regexp.MustCompile(`^bench([0-9]+)n[0-9]+(-.*)?$`)
)

// NewLabName returns a name for a lab that Sweep removes when this process has
// died without destroying it.
func NewLabName() string { return newLabName() }

// newLabName returns a name, of a lab or directory, that says whose it is.
func newLabName() string { return labNameOf(os.Getpid(), beds.Add(1)) }

func labNameOf(pid int, n uint32) string { return fmt.Sprintf("bench%dn%d", pid, n) }

// orphan reports whether the name is of a process that is no more.
func orphan(name string) bool {
	m := labName.FindStringSubmatch(name)
	if m == nil {
		return false
	}
	pid, err := strconv.Atoi(m[1])
	return err == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
}

// Sweep removes the beds of processes that died without closing them, and the
// files of their daemons.
func Sweep() error {
	names, err := netlab.List()
	errs := []error{err}
	for _, name := range names {
		if !orphan(name) {
			continue
		}
		lab, err := netlab.Open(name)
		if errors.Is(err, netlab.ErrNotFound) {
			continue // swept by another
		}
		if err == nil {
			err = lab.Destroy()
		}
		errs = append(errs, err)
	}
	dirs, err := os.ReadDir(os.TempDir())
	errs = append(errs, err)
	for _, d := range dirs {
		if d.IsDir() && orphan(d.Name()) {
			errs = append(errs, os.RemoveAll(filepath.Join(os.TempDir(), d.Name())))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove what an earlier run left: %w", err)
	}
	return nil
}
