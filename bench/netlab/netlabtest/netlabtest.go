// Package netlabtest gives tests and benchmarks a lab of their own.
package netlabtest

import (
	"fmt"
	"os"
	"sync/atomic"
	"testing"

	"overtap/bench/netlab"
)

var labs atomic.Uint32

// Root skips the test when it has no root privilege, or fails it when the
// environment says REQUIRE_ROOT=1.
func Root(tb testing.TB) {
	tb.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("REQUIRE_ROOT") == "1" {
		tb.Fatal("network namespaces need root, and REQUIRE_ROOT=1 forbids to skip")
	}
	tb.Skip("network namespaces need root")
}

// KernelVXLAN skips the test when this kernel cannot make the vxlan devices that
// are to be its peer, or fails it when the environment says REQUIRE_ROOT=1.
// Without root it does as Root.
func KernelVXLAN(tb testing.TB) {
	tb.Helper()
	Root(tb)
	if netlab.HaveKernelVXLAN() {
		return
	}
	if os.Getenv("REQUIRE_ROOT") == "1" {
		tb.Fatal("this kernel has no vxlan to be the peer, and REQUIRE_ROOT=1 forbids to skip")
	}
	tb.Skip("this kernel has no vxlan to be the peer")
}

// New makes an empty lab with a name of its own and destroys it at the end of
// the test, also a failed one. Without root it does as Root.
func New(tb testing.TB) *netlab.Lab {
	tb.Helper()
	Root(tb)
	lab, err := netlab.New(fmt.Sprintf("t%dn%d", os.Getpid(), labs.Add(1)))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := lab.Destroy(); err != nil {
			tb.Error(err)
		}
	})
	return lab
}
