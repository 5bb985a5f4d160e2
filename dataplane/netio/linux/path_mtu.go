package linux

import (
	"fmt"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"

	"overtap/encap"
)

// pathProbe asks the kernel for path MTUs: those of the routes that a socket
// connected to the peer would send by, with what routers said of them. One
// goroutine may ask at a time. It sends nothing, and has a port only while it
// asks.
type pathProbe struct {
	fd int
	v6 bool
}

// openPathProbe opens one that asks for packets from the underlay address.
func (e *Backend) openPathProbe() (*pathProbe, error) {
	family := unix.AF_INET
	if e.Underlay.Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP)
	if err != nil {
		return nil, fmt.Errorf("open a socket to ask for path MTUs: %w", err)
	}
	p := &pathProbe{fd: fd, v6: e.Underlay.Is6()}
	if err := p.prepare(e); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return p, nil
}

func (p *pathProbe) prepare(e *Backend) error {
	// Without this it would have a port from now on, which a network may want.
	if err := unix.SetsockoptInt(p.fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
		return fmt.Errorf("set IP_BIND_ADDRESS_NO_PORT: %w", err)
	}
	if e.Device != "" {
		if err := unix.BindToDevice(p.fd, e.Device); err != nil {
			return fmt.Errorf("bind to device %s: %w", e.Device, err)
		}
	}
	if err := unix.Bind(p.fd, sockaddr(e.Underlay, 0)); err != nil {
		return bindError(e.Underlay, 0, err)
	}
	return nil
}

// discardPort is where the probe connects to; nothing is ever sent there.
const discardPort = 9

// ask returns the path MTU to the peer, or 0 when there is no route.
func (p *pathProbe) ask(peer netip.Addr) encap.UnderlayMTU {
	if unix.Connect(p.fd, sockaddr(peer, discardPort)) != nil {
		return 0
	}
	level, opt := unix.IPPROTO_IP, unix.IP_MTU
	if p.v6 {
		level, opt = unix.IPPROTO_IPV6, unix.IPV6_MTU
	}
	mtu, err := unix.GetsockoptInt(p.fd, level, opt)
	p.disconnect()
	if err != nil || mtu < 0 {
		return 0
	}
	return encap.UnderlayMTU(mtu)
}

// disconnect forgets route and port (kernel __udp_disconnect).
func (p *pathProbe) disconnect() {
	var unspec unix.RawSockaddrInet6 // of family AF_UNSPEC
	_, _, _ = unix.Syscall(unix.SYS_CONNECT, uintptr(p.fd), uintptr(unsafe.Pointer(&unspec)), unix.SizeofSockaddrInet6)
}

func (p *pathProbe) close() error { return unix.Close(p.fd) }
