package attach

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

var errNoNamespace = errors.New("it is no network namespace")

// checkNamespace looks whether f is a network namespace.
func checkNamespace(f *os.File) error {
	kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	// ENOTTY: no namespace of any kind.
	if err != nil && !errors.Is(err, unix.ENOTTY) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("asking for the kind of namespace: %w", err)
	}
	if err != nil || kind != unix.CLONE_NEWNET {
		return errNoNamespace
	}
	return nil
}

// isOwn reports whether ns is the network namespace of the calling thread.
func isOwn(ns *os.File) (bool, error) {
	own, err := os.Stat("/proc/thread-self/ns/net")
	if err != nil {
		return false, fmt.Errorf("looking for this process's network namespace: %w", err)
	}
	other, err := ns.Stat()
	if err != nil {
		return false, fmt.Errorf("looking at the target's network namespace: %w", err)
	}
	return os.SameFile(own, other), nil
}

// inside runs f on a thread in the network namespace ns and returns its error.
// A socket that f opens belongs to the namespace for good. The caller's thread
// is not touched; one that cannot be moved back stays locked, and dies with its
// goroutine rather than serve others from the wrong namespace.
func inside(ns *os.File, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("opening this process's network namespace: %w", err)
			return
		}
		defer unix.Close(home)
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("entering the target's network namespace: %w", err)
			return
		}
		err = f()
		if unix.Setns(home, unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}
