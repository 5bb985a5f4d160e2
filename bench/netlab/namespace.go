package netlab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// runDir is where iproute2 keeps the namespaces that have names: one file each,
// with the namespace mounted on it.
const runDir = "/run/netns"

var errNotReturned = errors.New("the function did not return")

// onThread moves a thread into another network namespace by enter, runs f
// there and moves it back. The caller's thread is never touched. A thread that
// cannot be moved back stays locked, and dies with its goroutine rather than
// serve others from the wrong namespace.
func onThread(enter, f func() error) error {
	done := make(chan error, 1)
	go func() {
		// Set before anything can leave by runtime.Goexit, as t.FailNow does.
		err := errNotReturned
		defer func() { done <- err }()
		runtime.LockOSThread()
		home, e := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if e != nil {
			runtime.UnlockOSThread()
			err = fmt.Errorf("open the thread's network namespace: %w", e)
			return
		}
		defer unix.Close(home)
		defer func() {
			if unix.Setns(home, unix.CLONE_NEWNET) == nil {
				runtime.UnlockOSThread()
			}
		}()
		if e := enter(); e != nil {
			err = e
			return
		}
		err = f()
	}()
	return <-done
}

// unshare moves the thread into a new network namespace.
func unshare() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("make a network namespace: %w", err)
	}
	return nil
}

// createNamespace makes a network namespace with the given name. It fails with
// fs.ErrExist when the name is taken.
func createNamespace(name string) error {
	if err := os.MkdirAll(runDir, 0o755); err != nil {
		return err
	}
	path := filepath.Join(runDir, name)
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return err
	}
	f.Close()
	err = onThread(unshare, func() error {
		if err := unix.Mount("/proc/thread-self/ns/net", path, "bind", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount the network namespace on %s: %w", path, err)
		}
		return nil
	})
	if err != nil {
		return errors.Join(err, deleteNamespace(name))
	}
	return nil
}

// deleteNamespace removes the name, whole or half built; a name that is not
// there is no error. The kernel frees the namespace and its links when nothing
// uses it any more.
func deleteNamespace(name string) error {
	path := filepath.Join(runDir, name)
	// EINVAL: nothing is mounted there, as when a process died before mounting.
	err := unix.Unmount(path, unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
