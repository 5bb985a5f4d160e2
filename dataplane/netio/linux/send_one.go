package linux

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"overtap/dataplane/netio"
)

// SendOne sends by the socket of the flow, as the path does.
func (e *Backend) SendOne(s *netio.Send) unix.Errno {
	t := &e.alone
	iov := appendIovec(t.iovs[:0], s.Parts[0])
	t.encode(0, s, iov)
	for {
		_, _, errno := unix.Syscall6(unix.SYS_SENDMSG, uintptr(e.sources.socket(s.Flow, s.DF)),
			uintptr(unsafe.Pointer(&t.msgs[0].hdr)), unix.MSG_DONTWAIT, 0, 0, 0)
		if errno != unix.EINTR {
			return errno
		}
	}
}
