package bench

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"sync/atomic"
	"syscall"

	"overtap/bench/netlab"
)

var (
	beds    atomic.Uint32
	labName = regexp.MustCompile(`^bench([0-9]+)n[0-9]+$`)
)

// newLabName returns the name of a lab that says whose it is.
func newLabName() string { return labNameOf(os.Getpid(), beds.Add(1)) }

func labNameOf(pid int, n uint32) string { return fmt.Sprintf("bench%dn%d", pid, n) }

// Sweep removes the beds of processes that died without closing them.
func Sweep() error {
	names, err := netlab.List()
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		m := labName.FindStringSubmatch(name)
		if m == nil {
			continue
		}
		pid, err := strconv.Atoi(m[1])
		if err != nil || !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
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
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove what an earlier run left: %w", err)
	}
	return nil
}
