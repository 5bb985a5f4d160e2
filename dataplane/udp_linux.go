package dataplane

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"overtap/encap"
)

const (
	// SocketBuffer, in bytes, is asked for on every socket that carries traffic: at
	// 10 Gbit/s it holds some milliseconds, the time a busy CPU may take to
	// come round.
	SocketBuffer = 8 << 20
	// receiveBatch datagrams are taken by one recvmmsg at most. Their buffers
	// hold 64 KiB each, of which small datagrams touch only the first page.
	receiveBatch = 256
	// receiveBytes is about how much one recvmmsg shall take.
	receiveBytes = 512 << 10
	// bufferStride staggers the buffers, so that their first lines do not all
	// fall into the same sets of the cache.
	bufferStride = MaxDatagram + 1 + 3*64
	// ipv6AutoFlowLabel is IPV6_AUTOFLOWLABEL of linux/in6.h.
	ipv6AutoFlowLabel = 70
)

// hostEdges are this host's TAPs and UDP sockets.
type hostEdges struct {
	underlay netip.Addr
	device   string
	sources  *sourcePool
	paths    *pathProbe
	steering *steering
	adopt    func(DeviceSpec) (bool, error) // nil = never
	heritage *Bequest                       // nil = none
	up       *uplink                        // nil without one
	noUplink error                          // why there is none
	alone    transmitter                    // of SendAlone
}

// newHostEdges opens the pool of source ports on the underlay address, and the
// uplink where this host has what it takes.
func newHostEdges(o Options, workers int) (*hostEdges, error) {
	n := o.SourcePorts
	if n == 0 {
		n = defaultSourcePorts
	}
	e := &hostEdges{
		underlay: o.Underlay, device: o.Device, steering: newSteering(),
		adopt: o.Adopt, heritage: o.Inherit,
	}
	pool, err := openSources(e, n)
	if err != nil {
		return nil, err
	}
	e.sources = pool
	if e.paths, err = e.openPathProbe(); err != nil {
		return nil, errors.Join(err, pool.close())
	}
	if o.NoTunnelGSO {
		e.noUplink = errors.New("it is switched off")
		return e, nil
	}
	index, err := e.interfaceIndex()
	if err != nil {
		return nil, errors.Join(err, pool.close(), e.paths.close())
	}
	e.up, e.noUplink = openUplink(o.Underlay, index, e.device, workers)
	return e, nil
}

// OpenDevice has the device deal its flows to the queues so that each keeps its
// own. Where the kernel takes no program for it, it deals them as it likes.
func (e *hostEdges) OpenDevice(s DeviceSpec) ([]Device, error) {
	if queues, err := e.heritage.device(s); queues != nil || err != nil {
		return queues, err
	}
	adopt := false
	if e.adopt != nil {
		var err error
		if adopt, err = e.adopt(s); err != nil {
			return nil, err
		}
	}
	queues, err := openTap(s, adopt)
	if err != nil || s.Queues == 1 || e.steering.attach(queues[0].FD(), s.TUN) != nil {
		return queues, err
	}
	for _, q := range queues {
		q := q.(*tapQueue)
		q.offloads = append(slices.Clone(q.offloads), steered)
	}
	return queues, nil
}

func (e *hostEdges) Close() error {
	err := errors.Join(e.sources.close(), e.paths.close())
	if e.up != nil {
		err = errors.Join(err, e.up.close())
	}
	return err
}

func (e *hostEdges) PathMTU(peer netip.Addr) encap.UnderlayMTU { return e.paths.ask(peer) }

func (e *hostEdges) Beat() {
	if e.up != nil {
		e.up.beat()
	}
}

func (e *hostEdges) Uplink() UplinkInfo {
	if e.up == nil {
		return UplinkInfo{Reason: e.noUplink.Error()}
	}
	return e.up.info()
}

func (e *hostEdges) SegmentationRefused() error {
	refused := e.sources.refused.Load()
	if refused == nil {
		return nil
	}
	peers := slices.SortedFunc(maps.Keys(*refused), netip.Addr.Compare)
	return fmt.Errorf("send segments to %v: %w", peers, (*refused)[peers[0]])
}

func (e *hostEdges) SourcePort(flow uint32, df bool) uint16 { return e.sources.port(flow, df) }

func (e *hostEdges) TakesWhole(peer netip.Addr, packets bool) bool {
	if e.up == nil || !e.up.offers(peer) || packets && e.up.ipipRefused.Load() != nil {
		return false
	}
	return e.up.reason() == nil // else the program refuses them
}

func (e *hostEdges) TakesRuns(peer netip.Addr) bool { return e.sources.segments(peer) }

// SourcePorts lists those that send with DF, as nearly every network does.
func (e *hostEdges) SourcePorts() []uint16 {
	ports := make([]uint16, len(e.sources.df))
	for i := range ports {
		ports[i] = uint16(e.sources.ports[i].Load())
	}
	return ports
}

// OpenPort binds a socket per worker to the underlay address; the kernel deals
// flows to them by the hash of addresses and ports (SO_REUSEPORT).
func (e *hostEdges) OpenPort(port uint16, workers int) (wires []Wire, err error) {
	fds := e.heritage.port(port, netip.Addr{})
	if fds == nil {
		if err := e.sources.vacate(e, port); err != nil {
			return nil, err
		}
		if err := e.probePort(port); err != nil {
			return nil, err
		}
	}
	defer func() {
		if err != nil {
			for _, w := range wires {
				w.Close()
			}
		}
	}()
	for i := range workers {
		var fd int
		if fds != nil {
			fd = fds[i]
		} else if fd, err = e.socket(e.underlay, port, workers > 1); err != nil {
			return wires, fmt.Errorf("open UDP port %d: %w", port, err)
		}
		w, err := newUDPWire(fd, e)
		if err != nil {
			return wires, fmt.Errorf("open UDP port %d: %w", port, err)
		}
		if e.up != nil {
			w.up = &e.up.workers[i]
		}
		wires = append(wires, w)
	}
	return wires, nil
}

// probePort is an error when anybody has the port. SO_REUSEPORT alone would let
// a second process of the same user share it and steal every other flow.
func (e *hostEdges) probePort(port uint16) error {
	fd, err := e.socket(e.underlay, port, false)
	if err != nil {
		return fmt.Errorf("open UDP port %d: %w", port, err)
	}
	return unix.Close(fd)
}

// OpenGroup binds to the group itself: a socket bound to a unicast address gets
// no multicast. There is one for all workers, since each of several would get
// its own copy.
func (e *hostEdges) OpenGroup(group netip.Addr, port uint16) (Wire, error) {
	fd, err := e.groupSocket(group, port)
	if err != nil {
		return nil, err
	}
	w, err := newUDPWire(fd, e)
	if err != nil {
		return nil, fmt.Errorf("open UDP port %d of group %s: %w", port, group, err)
	}
	return w, nil
}

func (e *hostEdges) groupSocket(group netip.Addr, port uint16) (int, error) {
	if fds := e.heritage.port(port, group); fds != nil {
		return fds[0], nil
	}
	fd, err := e.socket(group, port, false)
	if err != nil {
		return -1, fmt.Errorf("open UDP port %d of group %s: %w", port, group, err)
	}
	if err := e.join(fd, group); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("join group %s: %w", group, err)
	}
	return fd, nil
}

func (e *hostEdges) join(fd int, group netip.Addr) error {
	index, err := e.interfaceIndex()
	if err != nil {
		return err
	}
	if group.Is4() {
		return unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP,
			&unix.IPMreqn{Multiaddr: group.As4(), Ifindex: int32(index)})
	}
	return unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP,
		&unix.IPv6Mreq{Multiaddr: group.As16(), Interface: uint32(index)})
}

// interfaceIndex is that of the underlay device, or else of the device that
// has the underlay address.
func (e *hostEdges) interfaceIndex() (int, error) {
	ifs, err := net.Interfaces()
	if err != nil {
		return 0, fmt.Errorf("list interfaces: %w", err)
	}
	for _, i := range ifs {
		if e.device != "" {
			if i.Name == e.device {
				return i.Index, nil
			}
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			continue
		}
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok {
				if ip, ok := netip.AddrFromSlice(n.IP); ok && ip.Unmap() == e.underlay.WithZone("") {
					return i.Index, nil
				}
			}
		}
	}
	return 0, fmt.Errorf("no interface has the underlay address %s", e.underlay)
}

// socket opens a non-blocking UDP socket bound to addr and port, ready to
// receive runs of datagrams with the outer TOS.
func (e *hostEdges) socket(addr netip.Addr, port uint16, share bool) (int, error) {
	family := unix.AF_INET
	if addr.Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	if err := e.prepare(fd, family, share); err != nil {
		unix.Close(fd)
		return -1, err
	}
	if err := unix.Bind(fd, sockaddr(addr, port)); err != nil {
		unix.Close(fd)
		return -1, bindError(addr, port, err)
	}
	return fd, nil
}

func bindError(addr netip.Addr, port uint16, err error) error {
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return fmt.Errorf("bind %s: %w: another process or a kernel vxlan device has it",
			netip.AddrPortFrom(addr, port), err)
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Errorf("bind %s: %w: the address is not on this host",
			netip.AddrPortFrom(addr, port), err)
	}
	return fmt.Errorf("bind %s: %w", netip.AddrPortFrom(addr, port), err)
}

type sockopt struct {
	name       string
	level, opt int
	value      int
}

func (e *hostEdges) prepare(fd, family int, share bool) error {
	opts := []sockopt{
		{"IP_RECVTOS", unix.IPPROTO_IP, unix.IP_RECVTOS, 1},
		{"IP_MULTICAST_ALL", unix.IPPROTO_IP, unix.IP_MULTICAST_ALL, 0},
		{"IP_MULTICAST_LOOP", unix.IPPROTO_IP, unix.IP_MULTICAST_LOOP, 0},
	}
	if family == unix.AF_INET6 {
		opts = []sockopt{
			{"IPV6_V6ONLY", unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1},
			{"IPV6_RECVTCLASS", unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, 1},
			{"IPV6_MULTICAST_ALL", unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_ALL, 0},
			{"IPV6_MULTICAST_LOOP", unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_LOOP, 0},
		}
	}
	if share {
		opts = append(opts, sockopt{"SO_REUSEPORT", unix.SOL_SOCKET, unix.SO_REUSEPORT, 1})
	}
	for _, o := range opts {
		if err := unix.SetsockoptInt(fd, o.level, o.opt, o.value); err != nil {
			return fmt.Errorf("set %s: %w", o.name, err)
		}
	}
	// UDP_GRO is since kernel 5.0; without it every datagram comes alone.
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1)
	growBuffers(fd)
	if e.device != "" {
		if err := unix.BindToDevice(fd, e.device); err != nil {
			return fmt.Errorf("bind to device %s: %w", e.device, err)
		}
	}
	return nil
}

// growBuffers asks for SocketBuffer, past rmem_max and wmem_max where
// CAP_NET_ADMIN allows it, else as far as they go.
func growBuffers(fd int) {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, SocketBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, SocketBuffer)
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, SocketBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, SocketBuffer)
	}
}

func sockaddr(a netip.Addr, port uint16) unix.Sockaddr {
	if a.Is4() {
		return &unix.SockaddrInet4{Addr: a.As4(), Port: int(port)}
	}
	return &unix.SockaddrInet6{Addr: a.As16(), Port: int(port)}
}
