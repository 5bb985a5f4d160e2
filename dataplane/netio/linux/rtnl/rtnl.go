// Package rtnl asks the kernel by rtnetlink(7), for the few questions that a backend has
// while frames flow.
package rtnl

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// MsgLen is the length of struct rtmsg (include/uapi/linux/rtnetlink.h), in bytes.
const MsgLen = 12

// Request sends a message by the socket fd and calls found with the body of each
// message that answers it.
func Request(fd int, kind, flags uint16, body []byte, found func([]byte)) error {
	q := make([]byte, unix.SizeofNlMsghdr, unix.SizeofNlMsghdr+len(body))
	binary.NativeEndian.PutUint32(q, uint32(len(q)+len(body)))
	binary.NativeEndian.PutUint16(q[4:], kind)
	binary.NativeEndian.PutUint16(q[6:], unix.NLM_F_REQUEST|flags)
	if err := unix.Sendto(fd, append(q, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	buf := make([]byte, 1<<16)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			return err
		}
		for b := buf[:n]; len(b) >= unix.SizeofNlMsghdr; {
			size, kind := int(binary.NativeEndian.Uint32(b)), binary.NativeEndian.Uint16(b[4:])
			if size < unix.SizeofNlMsghdr || size > len(b) {
				return fmt.Errorf("an answer of %d bytes that says %d", len(b), size)
			}
			switch one := b[unix.SizeofNlMsghdr:size]; kind {
			case unix.NLMSG_DONE:
				return nil
			case unix.NLMSG_ERROR:
				if len(one) < 4 {
					return fmt.Errorf("an error of %d bytes", len(one))
				}
				return unix.Errno(-int32(binary.NativeEndian.Uint32(one)))
			default:
				found(one)
			}
			b = b[min((size+3)&^3, len(b)):]
		}
		if flags&unix.NLM_F_DUMP == 0 {
			return nil
		}
	}
}

// Attributes calls found with each attribute behind the header of a message.
func Attributes(b []byte, header int, found func(kind uint16, value []byte)) {
	for b = b[min(header, len(b)):]; len(b) >= unix.SizeofRtAttr; {
		size := int(binary.NativeEndian.Uint16(b))
		if size < unix.SizeofRtAttr || size > len(b) {
			return
		}
		found(binary.NativeEndian.Uint16(b[2:]), b[unix.SizeofRtAttr:size])
		b = b[min((size+3)&^3, len(b)):]
	}
}
