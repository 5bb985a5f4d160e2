package linux

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"overtap/dataplane/netio"
	"overtap/dataplane/netio/linux/uplink"
	"overtap/encap"
)

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
	_   [4]byte
}

// controlLen holds every control message asked for or sent: UDP_GRO or
// UDP_SEGMENT, TOS, TTL and the receiving interface.
const controlLen = 96

// udpConn receives on one socket and sends through the pool of source ports.
type udpConn struct {
	fd      int
	v6      bool
	sources *sourcePool
	paths   *pathProbe
	up      *uplink.Worker // nil without an uplink
	rx      receiver
	tx      transmitter
	replay  transmitter  // for runs that are sent again payload by payload
	singles []netio.Send // of such a run
	filters atomic.Bool  // a zeroFilter is attached
}

// newUDPConn takes over the socket, on an error too.
func newUDPConn(fd int, e *Backend) (*udpConn, error) {
	paths, err := e.openPathProbe()
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	if err := enablePktinfo(fd, e.Underlay); err != nil {
		return nil, errors.Join(err, unix.Close(fd), paths.close())
	}
	w := &udpConn{fd: fd, v6: e.Underlay.Is6(), sources: e.sources, paths: paths}
	if err := omitPathMTU(fd, w.v6); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	w.rx.init()
	return w, nil
}

func (w *udpConn) FD() int      { return w.fd }
func (w *udpConn) Close() error { return errors.Join(unix.Close(w.fd), w.paths.close()) }

func (w *udpConn) PathMTU(peer netip.Addr) encap.UnderlayMTU { return w.paths.ask(peer) }

func (w *udpConn) TakesUnsegmented(peer netip.Addr) bool { return w.up != nil && w.up.Takes(peer) }

func (w *udpConn) WriteUnsegmented(s *netio.Unsegmented) bool {
	return w.up.Send(s, w.sources.port(s.Flow, true))
}

func (w *udpConn) Dropped() uint64 { return socketDrops(w.fd) }

// socketDrops reads SK_MEMINFO_DROPS of the socket.
func socketDrops(fd int) uint64 {
	const skMeminfoDrops, skMeminfoVars, soMeminfo = 8, 9, 55
	var info [skMeminfoVars]uint32
	size := uint32(unsafe.Sizeof(info))
	_, _, e := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, soMeminfo,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if e != 0 {
		return 0
	}
	return uint64(info[skMeminfoDrops])
}

// receiver is the memory of one recvmmsg.
type receiver struct {
	msgs    [netio.ReceiveBatch]mmsghdr
	iovs    [netio.ReceiveBatch]unix.Iovec
	names   [netio.ReceiveBatch]unix.RawSockaddrInet6
	control [netio.ReceiveBatch][controlLen]byte
	buffers []byte
	want    int // messages to ask for next
}

func (r *receiver) init() {
	r.buffers = make([]byte, netio.ReceiveBatch*bufferStride)
	r.want = netio.ReceiveBatch / 16 // until it is known that messages are short
	for i := range r.msgs {
		r.iovs[i] = unix.Iovec{Base: &r.buffers[i*bufferStride]}
		r.iovs[i].SetLen(netio.MaxDatagram + 1)
		h := &r.msgs[i].hdr
		h.Iov = &r.iovs[i]
		h.SetIovlen(1)
		h.Name = (*byte)(unsafe.Pointer(&r.names[i]))
		h.Control = &r.control[i][0]
	}
}

func (w *udpConn) ReadBatch(d []netio.Datagram) (int, error) {
	n, err := w.rx.receive(w.fd, len(d))
	for i := range n {
		w.decode(i, &d[i])
	}
	return n, err
}

// receive takes up to want messages from the socket and returns how many; it
// does not block.
func (r *receiver) receive(fd, want int) (int, error) {
	want = min(want, r.want)
	for i := range want {
		r.msgs[i].hdr.Namelen = unix.SizeofSockaddrInet6
		r.msgs[i].hdr.SetControllen(controlLen)
		r.msgs[i].hdr.Flags = 0
	}
	n, _, e := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(fd),
		uintptr(unsafe.Pointer(&r.msgs[0])), uintptr(want), unix.MSG_DONTWAIT, 0, 0)
	if e != 0 {
		if e == unix.EAGAIN || e == unix.EINTR {
			return 0, nil
		}
		return 0, e
	}
	r.adapt(int(n))
	return int(n), nil
}

// adapt asks for fewer messages while they are long, so that a batch stays in
// the CPU's cache, and for more while they are short, so that GRO flows get long.
func (r *receiver) adapt(n int) {
	bytes := 1
	for i := range r.msgs[:n] {
		bytes += int(r.msgs[i].len)
	}
	r.want = min(max(receiveBytes*n/bytes, netio.ReceiveBatch/16), 2*r.want, netio.ReceiveBatch)
}

// message returns the bytes of the i-th message, and whether they are cut off.
func (r *receiver) message(i int) (data []byte, truncated bool) {
	m := &r.msgs[i]
	return r.buffers[i*bufferStride:][:m.len:m.len], m.hdr.Flags&unix.MSG_TRUNC != 0
}

// decode fills d from the i-th message.
func (w *udpConn) decode(i int, d *netio.Datagram) {
	m := &w.rx.msgs[i]
	data, truncated := w.rx.message(i)
	port := (*[2]byte)(unsafe.Pointer(&w.rx.names[i].Port))
	*d = netio.Datagram{Data: data, Truncated: truncated, FromPort: binary.BigEndian.Uint16(port[:])}
	if w.v6 {
		d.From = netip.AddrFrom16(w.rx.names[i].Addr)
	} else {
		d.From = netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(&w.rx.names[i])).Addr)
	}
	d.ZeroChecksum = len(data) == refusedLen && w.filters.Load()
	parseControl(w.rx.control[i][:min(int(m.hdr.Controllen), controlLen)], d)
}

// parseControl fills d from a message's control messages.
func parseControl(c []byte, d *netio.Datagram) {
	for len(c) >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&c[0]))
		if h.Len < unix.SizeofCmsghdr || int(h.Len) > len(c) {
			return
		}
		data := c[unix.SizeofCmsghdr:h.Len]
		switch {
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_TOS && len(data) >= 1:
			d.TOS = data[0]
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			d.Device = int32(binary.NativeEndian.Uint32(data)) // ipi_ifindex
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			d.Device = int32(binary.NativeEndian.Uint32(data[16:])) // ipi6_ifindex
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_TCLASS && len(data) >= 4:
			d.TOS = uint8(binary.NativeEndian.Uint32(data))
		case h.Level == unix.IPPROTO_UDP && h.Type == unix.UDP_GRO && len(data) >= 4:
			// An int here, though UDP_SEGMENT takes a u16 (net/ipv4/udp.c,
			// udp_cmsg_recv).
			d.SegSize = int(binary.NativeEndian.Uint32(data))
		}
		c = c[min(cmsgAlign(int(h.Len)), len(c)):]
	}
}

func cmsgAlign(n int) int { return (n + 7) &^ 7 }
