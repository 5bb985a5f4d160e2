package linux

import (
	"encoding/binary"
	"net/netip"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"overtap/dataplane/netio"
)

const (
	// SendBatch messages go to one sendmmsg.
	SendBatch = 64
	// MaxIovecs is UIO_MAXIOV, the most one message may gather.
	MaxIovecs = 1024
)

// transmitter is the memory of one sendmmsg.
type transmitter struct {
	msgs    [SendBatch]mmsghdr
	names   [SendBatch]unix.RawSockaddrInet6
	control [SendBatch][controlLen]byte
	index   [SendBatch]int // of each message in the sends
	iovs    [2 * MaxIovecs]unix.Iovec
	todo    []int // sends that wait
}

// WriteBatch sends by the socket of each flow: all that leave by one socket go
// in one or few sendmmsg, in order.
func (w *udpConn) WriteBatch(s []netio.Send) (refused int) {
	for i := range s {
		s[i].Errno, s[i].Refused = 0, 0
	}
	if w.sources.refused.Load() == nil && !w.sources.noRuns {
		return w.writeAll(&w.tx, s)
	}
	return w.writeAround(s)
}

// writeAround is WriteBatch where some routes do not take runs, or none is to be
// sent: those sends go payload by payload, in their place among the others. A run
// by which a route is tried again goes by itself.
func (w *udpConn) writeAround(s []netio.Send) (refused int) {
	first := 0
	for i := range s {
		if s[i].SegSize == 0 {
			continue
		}
		to := s[i].To.Addr()
		how := w.sources.runs(to)
		if how == runsSent {
			continue
		}
		refused += w.writeAll(&w.tx, s[first:i])
		first = i + 1
		if how == runsRefused {
			refused += w.writeSingly(&s[i])
			continue
		}
		refused += w.writeAll(&w.tx, s[i:first])
		if s[i].Errno == 0 {
			w.sources.accept(to)
		}
	}
	return refused + w.writeAll(&w.tx, s[first:])
}

func (w *udpConn) writeAll(t *transmitter, s []netio.Send) (refused int) {
	t.todo = t.todo[:0]
	for i := range s {
		t.todo = append(t.todo, i)
	}
	for len(t.todo) > 0 {
		first := &s[t.todo[0]]
		fd := w.sources.socket(first.Flow, first.DF)
		refused += w.send(t, s, fd, w.gather(t, s, fd))
	}
	return refused
}

// gather encodes what leaves by socket fd, as much as fits, takes it off the
// list and returns how many messages that is: at least one.
func (w *udpConn) gather(t *transmitter, s []netio.Send, fd int) (n int) {
	iovs, full, rest := t.iovs[:0], false, t.todo[:0]
	for _, i := range t.todo {
		m := &s[i]
		if w.sources.socket(m.Flow, m.DF) != fd || full {
			rest = append(rest, i)
			continue
		}
		if n == SendBatch || len(iovs)+len(m.Parts) > cap(iovs) {
			full = true // what follows in its flow must not overtake it
			rest = append(rest, i)
			continue
		}
		first := len(iovs)
		for _, p := range m.Parts {
			iovs = appendIovec(iovs, p)
		}
		t.encode(n, m, iovs[first:])
		t.index[n] = i
		n++
	}
	t.todo = rest
	return n
}

// encode fills the n-th message.
func (t *transmitter) encode(n int, m *netio.Send, iov []unix.Iovec) {
	h := &t.msgs[n].hdr
	v6 := m.To.Addr().Is6()
	h.Namelen = putName(&t.names[n], m.To)
	h.Name = (*byte)(unsafe.Pointer(&t.names[n]))
	h.Iov = &iov[0]
	h.SetIovlen(len(iov))
	c := t.control[n][:0]
	if m.SegSize != 0 {
		c = appendCmsg(c, unix.IPPROTO_UDP, unix.UDP_SEGMENT, 2)
		binary.NativeEndian.PutUint16(c[len(c)-8:], uint16(m.SegSize))
	}
	if m.TOS != 0 {
		if v6 {
			c = appendCmsg(c, unix.IPPROTO_IPV6, unix.IPV6_TCLASS, 4)
		} else {
			c = appendCmsg(c, unix.IPPROTO_IP, unix.IP_TOS, 4)
		}
		binary.NativeEndian.PutUint32(c[len(c)-8:], uint32(m.TOS))
	}
	if m.TTL != netio.DefaultTTL {
		if v6 {
			c = appendCmsg(c, unix.IPPROTO_IPV6, unix.IPV6_HOPLIMIT, 4)
		} else {
			c = appendCmsg(c, unix.IPPROTO_IP, unix.IP_TTL, 4)
		}
		binary.NativeEndian.PutUint32(c[len(c)-8:], uint32(m.TTL))
	}
	h.Control, h.Flags = nil, 0
	h.SetControllen(len(c))
	if len(c) != 0 {
		h.Control = &t.control[n][0]
	}
}

// appendCmsg appends the header of a control message and eight bytes for its
// data, of which size count.
func appendCmsg(c []byte, level, typ int32, size int) []byte {
	at := len(c)
	c = c[:at+unix.SizeofCmsghdr+8]
	h := (*unix.Cmsghdr)(unsafe.Pointer(&c[at]))
	h.Level, h.Type = level, typ
	h.SetLen(unix.SizeofCmsghdr + size)
	return c
}

// putName writes a as struct sockaddr_in or sockaddr_in6 and returns its length.
func putName(name *unix.RawSockaddrInet6, a netip.AddrPort) uint32 {
	port := (*[2]byte)(unsafe.Pointer(&name.Port))
	binary.BigEndian.PutUint16(port[:], a.Port())
	if a.Addr().Is6() {
		name.Family, name.Addr = unix.AF_INET6, a.Addr().As16()
		return unix.SizeofSockaddrInet6
	}
	name.Family = unix.AF_INET
	(*unix.RawSockaddrInet4)(unsafe.Pointer(name)).Addr = a.Addr().As4()
	return unix.SizeofSockaddrInet4
}

// send passes the first n messages to the kernel, going on behind each that it
// refuses.
func (w *udpConn) send(t *transmitter, s []netio.Send, fd, n int) (refused int) {
	for off := 0; off < n; {
		r, _, e := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd),
			uintptr(unsafe.Pointer(&t.msgs[off])), uintptr(n-off), unix.MSG_DONTWAIT, 0, 0)
		runtime.KeepAlive(s)
		if e == 0 {
			off += int(r)
			continue
		}
		if e == unix.EINTR {
			continue
		}
		m := &s[t.index[off]]
		off++
		if m.SegSize != 0 && mayRefuseRun(e) {
			if w.writeSingly(m) == 0 {
				if e == unix.EIO || e == unix.EINVAL && m.DF {
					w.sources.refuse(m.To.Addr(), e)
				}
				continue
			}
		} else {
			m.Errno, m.Refused = e, max(m.Count, 1)
		}
		refused++
	}
	return refused
}

// mayRefuseRun reports whether the errno may mean that a route takes no run, where
// it would take the payloads one by one, or some of them. udp_send_skb returns EIO
// when the route's device sums no checksums or IPsec stands in the way. It returns
// EMSGSIZE, in older kernels EINVAL, when the longest payload does not fit the
// path: that lasts as long as the path is so, and is not noted.
func mayRefuseRun(e unix.Errno) bool {
	return e == unix.EIO || e == unix.EINVAL || e == unix.EMSGSIZE
}

// writeSingly sends a run payload by payload and returns 1 when some of them
// were refused.
func (w *udpConn) writeSingly(m *netio.Send) (refused int) {
	w.singles = netio.AppendPayloads(w.singles[:0], m)
	if w.writeAll(&w.replay, w.singles) == 0 {
		return 0
	}
	for i := range w.singles {
		if e := w.singles[i].Errno; e != 0 {
			m.Errno = e
			m.Refused++
		}
	}
	return 1
}
