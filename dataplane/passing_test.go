package dataplane_test

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"overtap/dataplane"
)

// What routers and peers answer never ends a socket: every errno that an ICMP
// error turns into (kernel icmp_err_convert, raw_err) passes. What says that the
// socket itself is gone does not.
func TestPassing(t *testing.T) {
	for _, e := range []unix.Errno{
		unix.ENETUNREACH, unix.EHOSTUNREACH, unix.ENOPROTOOPT, unix.ECONNREFUSED, unix.EMSGSIZE,
		unix.EOPNOTSUPP, unix.EHOSTDOWN, unix.ENONET, unix.EPROTO, unix.ENETDOWN, unix.ENOMEM,
	} {
		if !dataplane.Passing(fmt.Errorf("receive: %w", e)) {
			t.Errorf("%v ends the socket", e)
		}
	}
	for _, e := range []unix.Errno{unix.EBADF, unix.ENOTSOCK, unix.EBADFD} {
		if dataplane.Passing(e) {
			t.Errorf("%v passes", e)
		}
	}
}
