// Package linux is the backend of a Linux host: TAPs and TUNs, UDP and raw sockets, the
// pool of source ports, path MTUs, steering of flows to queues, and the uplink that takes
// GSO packets unsegmented (package uplink).
package linux

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"overtap/dataplane/netio"
	"overtap/dataplane/netio/linux/epoll"
	"overtap/dataplane/netio/linux/uplink"
	"overtap/encap"
)

const (
	// receiveBytes is about how much one recvmmsg must take.
	receiveBytes = 512 << 10
	// bufferStride staggers the buffers, so that their first lines do not all
	// fall into the same sets of the cache.
	bufferStride = netio.MaxDatagram + 1 + 3*64
	// ipv6AutoFlowLabel is IPV6_AUTOFLOWLABEL of linux/in6.h.
	ipv6AutoFlowLabel = 70
)

// Options are fixed for a Backend's life.
type Options struct {
	Underlay netip.Addr // outer source address; sockets bind to it
	Device   string     // bind the sockets to this device too; "" = any
	// Links are the interfaces on which groups are joined, to the first of which what
	// is for a group is sent; empty = Device, or that which has Underlay.
	Links   []int
	Workers int // of the engine
	// SourcePorts is the size of the pool of source ports that spreads flows
	// over the underlay's equal-cost paths; 0 = 32.
	SourcePorts int
	// NoTunnelGSO switches the uplink off: the sockets send segments.
	NoTunnelGSO bool
	// Offloads are those not to be used.
	Offloads netio.Offloads
	// Adopt is called before a device is opened. It reports whether one of that name
	// exists that an earlier backend left and that fits; it may remove one that does
	// not. nil = a device that exists is an error.
	Adopt func(netio.DeviceSpec) (bool, error)
	// Handover is what another backend, which is at work, leaves to this one. Its
	// descriptors become this backend's as far as it uses them; the others stay the
	// caller's.
	Handover *netio.Handover
}

// Backend opens this host's TAPs, TUNs and sockets.
type Backend struct {
	Options
	sources  *sourcePool
	paths    *pathProbe
	routes   *routeProbe // nil where a send says that there is no route
	steering *steering
	handover inherited
	up       *uplink.Uplink // nil without one
	noUplink error          // why there is none
	alone    transmitter    // of SendOne
}

// New opens the pool of source ports on the underlay address, and the uplink where
// this host has what it takes.
func New(o Options) (*Backend, error) {
	if o.SourcePorts == 0 {
		o.SourcePorts = defaultSourcePorts
	}
	if !o.Underlay.IsValid() || o.Underlay.Is4In6() {
		return nil, fmt.Errorf("underlay address %q: want an IPv4 or IPv6 address", o.Underlay)
	}
	if h := o.Handover; h != nil && h.Workers != o.Workers {
		return nil, fmt.Errorf("%d workers cannot go on with the devices and sockets of %d", o.Workers, h.Workers)
	}
	e := &Backend{Options: o, steering: newSteering(), handover: inherited{o.Handover}}
	pool, err := openSources(e, o.SourcePorts)
	if err != nil {
		return nil, err
	}
	e.sources = pool
	segment, _ := e.SupportsUDP()
	pool.noRuns = o.Offloads.NoUDPSegment || !segment
	if e.paths, err = e.openPathProbe(); err != nil {
		return nil, errors.Join(err, pool.close())
	}
	if e.routes, err = e.openRouteProbe(); err != nil {
		return nil, errors.Join(err, pool.close(), e.paths.close())
	}
	if o.NoTunnelGSO {
		e.noUplink = errors.New("it is switched off")
		return e, nil
	}
	index, err := e.interfaceIndex()
	if err != nil {
		return nil, errors.Join(err, pool.close(), e.paths.close(), e.routes.close())
	}
	e.up, e.noUplink = uplink.Open(o.Underlay, index, o.Device, o.Workers)
	return e, nil
}

// NewPoller implements netio.Backend.
func (e *Backend) NewPoller() (netio.Poller, error) { return epoll.New() }

// OpenDevice has the device deal its flows to the queues so that each keeps its
// own. Where the kernel takes no program for it, it deals them as it likes.
func (e *Backend) OpenDevice(s netio.DeviceSpec) ([]netio.Device, error) {
	if queues, err := e.handover.device(s); queues != nil || err != nil {
		return queues, err
	}
	adopt := false
	if e.Adopt != nil {
		var err error
		if adopt, err = e.Adopt(s); err != nil {
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

func (e *Backend) Close() error {
	err := errors.Join(e.sources.close(), e.paths.close(), e.routes.close())
	if e.up != nil {
		err = errors.Join(err, e.up.Close())
	}
	return err
}

func (e *Backend) PathMTU(peer netip.Addr) encap.UnderlayMTU { return e.paths.ask(peer) }

func (e *Backend) NoRoute() func(netip.Addr) bool {
	if e.routes == nil {
		return nil
	}
	return e.routes.missing
}

func (e *Backend) Tick() {
	e.sources.forgetRefusals()
	if e.up != nil {
		e.up.Tick()
	}
}

func (e *Backend) Uplink() netio.UplinkInfo {
	if e.up == nil {
		return netio.UplinkInfo{Reason: e.noUplink.Error()}
	}
	return e.up.Info()
}

func (e *Backend) SourcePort(flow uint32, df bool) uint16 { return e.sources.port(flow, df) }

func (e *Backend) TakesUnsegmented(peer netip.Addr, packets bool) bool {
	if e.up == nil || !e.up.Offers(peer) || packets && e.up.IPIPRefused.Load() != nil {
		return false
	}
	return e.up.Reason() == nil // else the program refuses them
}

func (e *Backend) TakesRuns(peer netip.Addr) bool { return e.sources.runs(peer) != runsRefused }

// SourcePorts lists those that send with DF, as nearly every network does.
func (e *Backend) SourcePorts() []uint16 {
	ports := make([]uint16, len(e.sources.df))
	for i := range ports {
		ports[i] = uint16(e.sources.ports[i].Load())
	}
	return ports
}

// OpenUDP binds a socket per worker to the underlay address; the kernel deals
// flows to them by the hash of addresses and ports (SO_REUSEPORT).
func (e *Backend) OpenUDP(port uint16, workers int) (wires []netio.Conn, err error) {
	fds := e.handover.udp(port, netip.Addr{})
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
			e.setGRO(fd)
		} else if fd, err = e.socket(e.Underlay, port, workers > 1); err != nil {
			return wires, fmt.Errorf("open UDP port %d: %w", port, err)
		}
		w, err := newUDPConn(fd, e)
		if err != nil {
			return wires, fmt.Errorf("open UDP port %d: %w", port, err)
		}
		if e.up != nil {
			w.up = &e.up.Workers[i]
		}
		wires = append(wires, w)
	}
	return wires, nil
}

// probePort is an error when another socket has the port. SO_REUSEPORT alone would let
// a second process of the same user share it and steal every other flow.
func (e *Backend) probePort(port uint16) error {
	fd, err := e.socket(e.Underlay, port, false)
	if err != nil {
		return fmt.Errorf("open UDP port %d: %w", port, err)
	}
	return unix.Close(fd)
}

// OpenGroup binds to the group itself: a socket bound to a unicast address gets
// no multicast. There is one for all workers, since each of several would get
// its own copy.
func (e *Backend) OpenGroup(group netip.Addr, port uint16) (netio.Conn, error) {
	fd, err := e.groupSocket(group, port)
	if err != nil {
		return nil, err
	}
	w, err := newUDPConn(fd, e)
	if err != nil {
		return nil, fmt.Errorf("open UDP port %d of group %s: %w", port, group, err)
	}
	return w, nil
}

func (e *Backend) groupSocket(group netip.Addr, port uint16) (int, error) {
	if fds := e.handover.udp(port, group); fds != nil {
		e.setGRO(fds[0])
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

// join joins the group on every link by which its packets may come.
func (e *Backend) join(fd int, group netip.Addr) error {
	if len(e.Links) == 0 {
		index, err := e.interfaceIndex()
		if err != nil {
			return err
		}
		return joinOn(fd, group, index)
	}
	for _, index := range e.Links {
		if err := joinOn(fd, group, index); err != nil {
			return err
		}
	}
	return nil
}

func joinOn(fd int, group netip.Addr, index int) error {
	if group.Is4() {
		return unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP,
			&unix.IPMreqn{Multiaddr: group.As4(), Ifindex: int32(index)})
	}
	return unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP,
		&unix.IPv6Mreq{Multiaddr: group.As16(), Interface: uint32(index)})
}

// interfaceIndex is that of the first of the links given, of the underlay device, or
// else of the device that has the underlay address.
func (e *Backend) interfaceIndex() (int, error) {
	if len(e.Links) > 0 {
		return e.Links[0], nil
	}
	ifs, err := net.Interfaces()
	if err != nil {
		return 0, fmt.Errorf("list interfaces: %w", err)
	}
	for _, i := range ifs {
		if e.Device != "" {
			if i.Name == e.Device {
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
				if ip, ok := netip.AddrFromSlice(n.IP); ok && ip.Unmap() == e.Underlay.WithZone("") {
					return i.Index, nil
				}
			}
		}
	}
	return 0, fmt.Errorf("no interface has the underlay address %s", e.Underlay)
}

// socket opens a non-blocking UDP socket bound to addr and port, ready to
// receive runs of datagrams with the outer TOS.
func (e *Backend) socket(addr netip.Addr, port uint16, share bool) (int, error) {
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

func (e *Backend) prepare(fd, family int, share bool) error {
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
	e.setGRO(fd)
	growBuffers(fd)
	if e.Device != "" {
		if err := unix.BindToDevice(fd, e.Device); err != nil {
			return fmt.Errorf("bind to device %s: %w", e.Device, err)
		}
	}
	return nil
}

// setGRO asks for UDP_GRO, or does without. It is since kernel 5.0; without it
// every datagram comes alone.
func (e *Backend) setGRO(fd int) {
	on := 1
	if e.Offloads.NoUDPGRO {
		on = 0
	}
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, on)
}

// enablePktinfo has the socket say by which interface a datagram came in. Sockets that
// another engine left are asked for it too, as it may be of a version that did not.
func enablePktinfo(fd int, underlay netip.Addr) error {
	level, opt := unix.IPPROTO_IP, unix.IP_PKTINFO
	if underlay.Is6() {
		level, opt = unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO
	}
	if err := unix.SetsockoptInt(fd, level, opt, 1); err != nil {
		return fmt.Errorf("have a socket say by which interface a datagram came in: %w", err)
	}
	return nil
}

// omitPathMTU has the kernel believe no ICMP error that quotes what this socket
// would have sent: it sends nothing, so such errors are forged, and both their
// ports would be known to everyone (ip_sk_accept_pmtu).
func omitPathMTU(fd int, v6 bool) error {
	level, opt, value := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_OMIT
	if v6 {
		level, opt, value = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_OMIT
	}
	if err := unix.SetsockoptInt(fd, level, opt, value); err != nil {
		return fmt.Errorf("have a socket that receives take no path MTUs: %w", err)
	}
	return nil
}

// growBuffers asks for SocketBuffer, past rmem_max and wmem_max where
// CAP_NET_ADMIN allows it, else as far as they go.
func growBuffers(fd int) {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, netio.SocketBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, netio.SocketBuffer)
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, netio.SocketBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, netio.SocketBuffer)
	}
}

func sockaddr(a netip.Addr, port uint16) unix.Sockaddr {
	if a.Is4() {
		return &unix.SockaddrInet4{Addr: a.As4(), Port: int(port)}
	}
	return &unix.SockaddrInet6{Addr: a.As16(), Port: int(port)}
}
