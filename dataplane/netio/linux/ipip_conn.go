package linux

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"overtap/dataplane/netio"
	"overtap/dataplane/netio/linux/uplink"
	"overtap/encap"
)

// OpenIPIP opens a raw socket for each worker to send by, and one that receives:
// each of several would get a copy of every packet (raw_v4_input), so that the
// first worker takes all that comes in.
func (e *Backend) OpenIPIP(workers int) (wires []netio.Conn, err error) {
	defer func() {
		if err != nil {
			for _, w := range wires {
				w.Close()
			}
		}
	}()
	uncut := e.up != nil && e.up.OpenIPIP() == nil
	rx, tx := e.handover.ipip()
	for i := range workers {
		w := &ipipConn{rx: -1, tx: -1, self: e.Underlay.As4()}
		wires = append(wires, w)
		if w.paths, err = e.openPathProbe(); err != nil {
			return wires, err
		}
		if uncut {
			w.up = &e.up.Workers[i]
		}
		if tx != nil {
			if w.tx = tx[i]; i == 0 {
				w.rx = rx
				if err := enablePktinfo(rx, e.Underlay); err != nil {
					return wires, err
				}
				w.receiver = new(receiver)
				w.receiver.init()
			}
			continue
		}
		if w.tx, err = e.rawSocket(unix.IPPROTO_RAW); err != nil {
			return wires, err
		}
		// IPPROTO_RAW is a protocol number too: what comes in under it is
		// dropped before it is queued.
		if err := rejectAll(w.tx); err != nil {
			return wires, err
		}
		if i == 0 {
			if w.rx, err = e.rawSocket(unix.IPPROTO_IPIP); err != nil {
				return wires, err
			}
			// What routers answer to what was sent is for the socket of that
			// protocol (raw_icmp_error).
			if err := unix.SetsockoptInt(w.rx, unix.IPPROTO_IP, unix.IP_RECVERR, 1); err != nil {
				return wires, fmt.Errorf("set IP_RECVERR: %w", err)
			}
			if err := enablePktinfo(w.rx, e.Underlay); err != nil {
				return wires, err
			}
			w.receiver = new(receiver)
			w.receiver.init()
		}
	}
	return wires, nil
}

// rawSocket opens a non-blocking raw socket bound to the underlay address.
func (e *Backend) rawSocket(protocol int) (int, error) {
	fail := func(fd int, err error) (int, error) {
		if fd >= 0 {
			unix.Close(fd)
		}
		return -1, fmt.Errorf("open a raw socket for IP-in-IP on %s: %w", e.Underlay, err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return fail(-1, fmt.Errorf("socket: %w: this needs CAP_NET_RAW", err))
	}
	growBuffers(fd)
	if e.Device != "" {
		if err := unix.BindToDevice(fd, e.Device); err != nil {
			return fail(fd, fmt.Errorf("bind to device %s: %w", e.Device, err))
		}
	}
	if err := unix.Bind(fd, sockaddr(e.Underlay, 0)); err != nil {
		return fail(fd, bindError(e.Underlay, 0, err))
	}
	return fd, nil
}

// rejectAll attaches a socket filter that takes nothing.
func rejectAll(fd int) error {
	reject := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
	err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &reject})
	if err != nil {
		return fmt.Errorf("attach a filter to a raw socket: %w", err)
	}
	return nil
}

// ipipConn sends and receives inner packets by raw sockets. The outer header of
// what is sent is written here (IP_HDRINCL, which IPPROTO_RAW implies), so that
// TTL, TOS and DF need no control message; the kernel adds its checksum, and the
// identification where that is zero (raw_send_hdrinc).
type ipipConn struct {
	rx   int // -1 where another worker receives
	tx   int
	self [4]byte

	paths     *pathProbe
	up        *uplink.Worker // nil without an uplink
	*receiver                // nil without rx
	out       ipipTransmitter
	id        uint16 // of the last outer packet with DF
}

// ipipTransmitter is the memory of one sendmmsg of outer packets.
type ipipTransmitter struct {
	msgs    [SendBatch]mmsghdr
	names   [SendBatch]unix.RawSockaddrInet4
	headers [SendBatch][encap.IPv4HeaderLen]byte
	index   [SendBatch]int // of each message in the sends
	iovs    [3 * SendBatch]unix.Iovec
	n, iov  int // messages and vectors in use
}

// FD is that of the socket that receives, or of one that never does.
func (w *ipipConn) FD() int {
	if w.rx < 0 {
		return w.tx
	}
	return w.rx
}

func (w *ipipConn) Close() error {
	var errs []error
	for _, fd := range []int{w.rx, w.tx} {
		if fd >= 0 {
			errs = append(errs, unix.Close(fd))
		}
	}
	if w.paths != nil {
		errs = append(errs, w.paths.close())
	}
	return errors.Join(errs...)
}

func (w *ipipConn) PathMTU(peer netip.Addr) encap.UnderlayMTU { return w.paths.ask(peer) }

func (w *ipipConn) TakesUnsegmented(peer netip.Addr) bool { return w.up != nil && w.up.Takes(peer) }

func (w *ipipConn) WriteUnsegmented(s *netio.Unsegmented) bool { return w.up.SendIPIP(s) }

// AcceptZeroChecksums does nothing: IP-in-IP has no checksum of its own.
func (w *ipipConn) AcceptZeroChecksums(netio.PortZeroChecksum) error { return nil }

func (w *ipipConn) Dropped() uint64 {
	if w.rx < 0 {
		return 0
	}
	return socketDrops(w.rx)
}

// ReadBatch receives packets with their outer headers, which the kernel has
// checked and put together from fragments (ip_local_deliver).
func (w *ipipConn) ReadBatch(d []netio.Datagram) (int, error) {
	if w.rx < 0 {
		return 0, nil
	}
	n, err := w.receive(w.rx, len(d))
	for i := range n {
		w.decode(i, &d[i])
	}
	if err != nil {
		// The socket's error says that others wait in its queue, which would
		// keep it readable for ever.
		if n = w.readErrors(d); n > 0 {
			err = nil
		}
	}
	return n, err
}

// readErrors fills d with what routers said of packets that were sent, and
// returns how much it read.
func (w *ipipConn) readErrors(d []netio.Datagram) (n int) {
	r := w.receiver
	for n < min(len(d), netio.ReceiveBatch) {
		h := &r.msgs[n].hdr
		h.Namelen, h.Flags = unix.SizeofSockaddrInet6, 0
		h.SetControllen(controlLen)
		size, _, e := unix.Syscall(unix.SYS_RECVMSG, uintptr(w.rx),
			uintptr(unsafe.Pointer(h)), unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		if e == unix.EINTR {
			continue
		}
		if e != 0 {
			return n
		}
		r.msgs[n].len = uint32(size)
		// The payload is what was quoted behind the outer header, the name whom
		// that was for (raw_err, ip_recv_error).
		data, _ := r.message(n)
		control := r.control[n][:min(int(h.Controllen), controlLen)]
		d[n] = netio.Datagram{
			From: netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(&r.names[n])).Addr),
			Data: data, Quoted: true,
			Unreachable: meansUnreachable(control),
		}
		parseControl(control, &d[n])
		n++
	}
	return n
}

// meansUnreachable reports whether an error of the socket's queue is to be relayed
// to the inner sender as "host unreachable" (RFC 2003 section 4). Of what is
// too big is the path MTU's; port unreachable and source route failed are the
// tunnel's own affair.
func meansUnreachable(control []byte) bool {
	const headerLen, unreachable, timeExceeded = 16, 3, 11
	const port, tooBig, sourceRoute = 3, 4, 5
	// ip_recv_error puts what else was asked for before it.
	for len(control) >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
		if h.Len < unix.SizeofCmsghdr || int(h.Len) > len(control) {
			return false
		}
		if h.Level == unix.IPPROTO_IP && h.Type == unix.IP_RECVERR && h.Len >= unix.SizeofCmsghdr+headerLen {
			ee := (*unix.SockExtendedErr)(unsafe.Pointer(&control[unix.SizeofCmsghdr]))
			return ee.Origin == unix.SO_EE_ORIGIN_ICMP && (ee.Type == timeExceeded ||
				ee.Type == unreachable && ee.Code != port && ee.Code != tooBig && ee.Code != sourceRoute)
		}
		control = control[min(cmsgAlign(int(h.Len)), len(control)):]
	}
	return false
}

// decode fills d from the i-th message.
func (w *ipipConn) decode(i int, d *netio.Datagram) {
	data, truncated := w.message(i)
	*d = netio.Datagram{Truncated: truncated}
	if len(data) < encap.IPv4HeaderLen {
		return // no packet has less; as an inner one it is too short
	}
	parseControl(w.control[i][:min(int(w.msgs[i].hdr.Controllen), controlLen)], d)
	outer := encap.IPv4(data)
	d.From, d.TOS = outer.Src(), outer.TOS()
	d.Data = data[min(outer.HeaderLen(), len(data)):]
}

// WriteBatch sends each payload as a packet of its own.
func (w *ipipConn) WriteBatch(s []netio.Send) (refused int) {
	for i := range s {
		m := &s[i]
		m.Errno, m.Refused = 0, 0
		first, size := 0, 0
		for j, p := range m.Parts {
			if m.SegSize != 0 && size == m.SegSize {
				w.append(s, i, m.Parts[first:j])
				first, size = j, 0
			}
			size += len(p)
		}
		w.append(s, i, m.Parts[first:])
	}
	w.flush(s)
	for i := range s {
		if s[i].Refused != 0 {
			refused++
		}
	}
	return refused
}

// append adds a packet of the i-th send; what waits is sent first when there is
// too little room.
func (w *ipipConn) append(s []netio.Send, i int, parts [][]byte) {
	t := &w.out
	if t.n == SendBatch || t.iov+1+len(parts) > len(t.iovs) {
		w.flush(s)
	}
	first := t.iov
	iovs := append(t.iovs[:first], unix.Iovec{})
	for _, p := range parts {
		iovs = appendIovec(iovs, p)
	}
	t.iov = len(iovs)
	w.encode(t.n, &s[i], t.iovs[first:t.iov])
	t.index[t.n] = i
	t.n++
}

// encode fills the n-th message, whose first vector is for the outer header.
func (w *ipipConn) encode(n int, m *netio.Send, iovs []unix.Iovec) {
	t := &w.out
	h := t.headers[n][:]
	length := encap.IPv4HeaderLen
	for i := range iovs {
		length += int(iovs[i].Len)
	}
	id := uint16(0) // the kernel chooses what fragments share
	if m.DF {
		// RFC 6864: what is never fragmented may have any identification. They
		// count up, for a receiver's GRO; zero would have the kernel look for one.
		w.id = max(w.id+1, 1)
		id = w.id
	}
	uplink.PutOuterIPv4(h, length, id, m.DF, m.TOS, m.TTL, w.self, m.To.Addr())
	iovs[0].Base = &h[0]
	iovs[0].SetLen(len(h))

	t.names[n] = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: m.To.Addr().As4()}
	hdr := &t.msgs[n].hdr
	hdr.Name, hdr.Namelen = (*byte)(unsafe.Pointer(&t.names[n])), unix.SizeofSockaddrInet4
	hdr.Iov = &iovs[0]
	hdr.SetIovlen(len(iovs))
}

// flush passes what waits to the kernel, going on behind each packet that it
// refuses.
func (w *ipipConn) flush(s []netio.Send) {
	t := &w.out
	for off := 0; off < t.n; {
		r, _, e := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(w.tx),
			uintptr(unsafe.Pointer(&t.msgs[off])), uintptr(t.n-off), unix.MSG_DONTWAIT, 0, 0)
		runtime.KeepAlive(s)
		switch e {
		case 0:
			off += int(r)
		case unix.EINTR:
		default:
			m := &s[t.index[off]]
			m.Errno = e
			m.Refused++
			off++
		}
	}
	t.n, t.iov = 0, 0
}
