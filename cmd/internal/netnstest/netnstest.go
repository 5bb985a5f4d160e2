// Package netnstest runs a package's tests inside a network namespace of their
// own: the whole process lives there, every thread of it, and the kernel
// removes the namespace with all its links when the process ends, however it
// ends.
package netnstest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
)

// inside marks the process that runs in the namespace.
const inside = "OVERTAP_TEST_NETNS"

// Main is TestMain's body: it starts the test binary again in a new network
// namespace with the loopback up, and returns the tests' exit code. Without
// root it runs the tests where they are; those that need the namespace ask
// Require.
func Main(m interface{ Run() int }) int {
	if os.Geteuid() != 0 {
		return m.Run()
	}
	if os.Getenv(inside) != "" {
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "bringing the loopback up:", err)
			return 1
		}
		return m.Run()
	}

	// Pdeathsig fires when the thread that forked ends.
	runtime.LockOSThread()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return max(exit.ExitCode(), 1)
	}
	fmt.Fprintln(os.Stderr, "running the tests in a network namespace:", err)
	return 1
}

// Require skips the test when the process is in no namespace of its own for
// lack of root, or fails it when REQUIRE_ROOT is 1.
func Require(t testing.TB) {
	t.Helper()
	if os.Getenv(inside) != "" {
		return
	}
	if os.Getenv("REQUIRE_ROOT") == "1" {
		t.Fatal("this test needs root")
	}
	t.Skip("this test needs root")
}
