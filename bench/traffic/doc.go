// Package traffic sends load between two hosts of a lab from within this
// process and says what became of it: TCP streams, UDP packets paced or as fast
// as they go, and round trips. It serves the interop tests, which look at every
// byte, and the benchmarks, which look at the clock.
//
// Sockets are opened inside the hosts' namespaces and block: a generator waits
// in the kernel, not in Go's poller, so that on a small machine it takes little
// from what is measured.
package traffic

import (
	"net/netip"

	"overtap/bench/netlab"
)

// End is where traffic starts or ends: an address of a host or container.
type End struct {
	Host *netlab.Host
	Addr netip.Addr
}
