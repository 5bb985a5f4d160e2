package linux

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"overtap/dataplane/netio/linux/rtnl"
	"overtap/dataplane/netio/linux/uplink"
)

// routeProbe asks whether the device that the sockets are bound to has a route to a
// peer. Over IPv4 a send does not say: with a device given the kernel takes what no
// route holds for a neighbour of that device (ip_route_output_key_hash_rcu), and what
// it sends there is lost without an error. One goroutine may ask at a time.
type routeProbe struct {
	fd      int // netlink
	control int // for DeviceIndex
	self    netip.Addr
	device  func() uint32 // its index
}

// openRouteProbe returns nil where a send says whether there is a route.
func (e *Backend) openRouteProbe() (*routeProbe, error) {
	if e.Device == "" || e.Underlay.Is6() {
		return nil, nil
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a socket to ask for routes: %w", err)
	}
	control, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open a socket to look at devices: %w", err), unix.Close(fd))
	}
	return &routeProbe{fd: fd, self: e.Underlay, device: func() uint32 { return uplink.DeviceIndex(control, e.Device) }, control: control}, nil
}

// Of include/uapi/linux/rtnetlink.h.
const rtmFFIBMatch = 0x2000

// missing reports whether no route of the device holds the peer. Whatever else is
// wrong a send says.
func (p *routeProbe) missing(peer netip.Addr) bool {
	body := make([]byte, rtnl.MsgLen, 64)
	body[0], body[1], body[2] = unix.AF_INET, 32, 32
	binary.NativeEndian.PutUint32(body[8:], rtmFFIBMatch)
	attr := func(kind uint16, value []byte) {
		body = binary.NativeEndian.AppendUint16(body, unix.SizeofRtAttr+4)
		body = binary.NativeEndian.AppendUint16(body, kind)
		body = append(body, value...)
	}
	attr(unix.RTA_DST, peer.AsSlice())
	attr(unix.RTA_SRC, p.self.AsSlice())
	attr(unix.RTA_OIF, binary.NativeEndian.AppendUint32(nil, p.device()))
	err := rtnl.Request(p.fd, unix.RTM_GETROUTE, 0, body, func([]byte) {})
	return errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.ENETUNREACH)
}

func (p *routeProbe) close() error {
	if p == nil {
		return nil
	}
	return errors.Join(unix.Close(p.fd), unix.Close(p.control))
}
