// Package interop holds the tests of the program as its users have it: the
// binary, built once, runs in the hosts of throw-away labs (package netlab) and
// shares networks with the Linux kernel's own vxlan device, which must not be
// able to tell it from one of its own. Another kernel's vxlan and ipip devices
// are those of a guest (package guest).
//
// Every daemon that a test starts must say that it is ready, end with exit code
// 0 on SIGTERM, leave nothing behind that it made, and log no panic and no data
// race. The tests need root; under `go test -race` the binary is built with the
// race detector too.
package interop
