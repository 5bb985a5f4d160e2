package dataplane

import (
	"encoding/binary"
	"net/netip"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// sendBatch messages go to one sendmmsg.
	sendBatch = 64
	// maxRun is how many payloads one UDP_SEGMENT may carry: UDP_MAX_SEGMENTS,
	// 64 before kernel 6.9.
	maxRun = 64
	// maxIovecs is UIO_MAXIOV, the most one message may gather.
	maxIovecs = 1024
	// defaultTTL stands on every sending socket; another one takes a control
	// message.
	defaultTTL = 64
)

// transmitter is the memory of one sendmmsg.
type transmitter struct {
	msgs    [sendBatch]mmsghdr
	names   [sendBatch]unix.RawSockaddrInet6
	control [sendBatch][controlLen]byte
	index   [sendBatch]int // of each message in the sends
	iovs    [2 * maxIovecs]unix.Iovec
	todo    []int // sends that wait
}

// WriteBatch sends by the socket of each flow: all that leave by one socket go
// in one or few sendmmsg, in order.
func (w *udpWire) WriteBatch(s []Send) (refused int) {
	for i := range s {
		s[i].Errno, s[i].Refused = 0, 0
	}
	if w.sources.refused.Load() == nil {
		return w.writeAll(&w.tx, s)
	}
	return w.writeAround(s)
}

// writeAround is WriteBatch where some routes do not take runs: sends to those
// go payload by payload, in their place among the others.
func (w *udpWire) writeAround(s []Send) (refused int) {
	first := 0
	for i := range s {
		if s[i].SegSize != 0 && !w.sources.segments(s[i].To.Addr()) {
			refused += w.writeAll(&w.tx, s[first:i])
			refused += w.writeSingly(&s[i])
			first = i + 1
		}
	}
	return refused + w.writeAll(&w.tx, s[first:])
}

func (w *udpWire) writeAll(t *transmitter, s []Send) (refused int) {
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
func (w *udpWire) gather(t *transmitter, s []Send, fd int) (n int) {
	iovs, full, rest := t.iovs[:0], false, t.todo[:0]
	for _, i := range t.todo {
		m := &s[i]
		if w.sources.socket(m.Flow, m.DF) != fd || full {
			rest = append(rest, i)
			continue
		}
		if n == sendBatch || len(iovs)+len(m.Parts) > cap(iovs) {
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
func (t *transmitter) encode(n int, m *Send, iov []unix.Iovec) {
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
	if m.TTL != defaultTTL {
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
func (w *udpWire) send(t *transmitter, s []Send, fd, n int) (refused int) {
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
		if m.SegSize != 0 && refusesRuns(e, m.DF) {
			if w.writeSingly(m) == 0 {
				if m.DF {
					w.sources.refuse(m.To.Addr(), e)
				}
				continue
			}
		} else {
			m.Errno, m.Refused = e, max(m.segs, 1)
		}
		refused++
	}
	return refused
}

// refusesRuns reports whether the errno may mean that a route takes no runs,
// where it would take their payloads one by one. udp_send_skb says EIO when the
// route's device sums no checksums or IPsec stands in the way, and EINVAL or
// EMSGSIZE when a segment does not fit the path, which without DF is for the
// kernel to fragment: that lasts as long as the path is so, and is not noted.
func refusesRuns(e unix.Errno, df bool) bool {
	return e == unix.EIO || e == unix.EINVAL || (e == unix.EMSGSIZE && !df)
}

// writeSingly sends a run payload by payload and returns 1 when some of them
// were refused.
func (w *udpWire) writeSingly(m *Send) (refused int) {
	w.singles = appendPayloads(w.singles[:0], m)
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

// appendPayloads cuts a run into sends of one payload each.
func appendPayloads(out []Send, m *Send) []Send {
	first, size := 0, 0
	for i, p := range m.Parts {
		if m.SegSize != 0 && size == m.SegSize {
			out = append(out, payload(m, first, i))
			first, size = i, 0
		}
		size += len(p)
	}
	return append(out, payload(m, first, len(m.Parts)))
}

func payload(m *Send, first, end int) Send {
	one := *m
	one.Parts, one.SegSize, one.segs = m.Parts[first:end], 0, 1
	return one
}
