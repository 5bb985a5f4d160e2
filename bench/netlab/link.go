package netlab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"overtap/encap"
)

// onLink looks the device up and runs f with it; errors get the host, the
// device and what was being done.
func (h *Host) onLink(doing, dev string, f func(*netlink.Handle, netlink.Link) error) error {
	nl, err := h.Netlink()
	if err != nil {
		return err
	}
	l, err := nl.LinkByName(dev)
	if err == nil {
		err = f(nl, l)
	}
	if err != nil {
		return fmt.Errorf("host %s: device %s: %s: %w", h.name, dev, doing, err)
	}
	return nil
}

// AddVeth joins a and b by a veth pair with the given ends and MTU, both up.
// An MTU of 0 is the kernel's 1500. It returns once frames pass.
func AddVeth(a *Host, aDev string, b *Host, bDev string, mtu int) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = aDev, mtu
	v := netlink.NewVeth(attrs)
	v.PeerName, v.PeerMTU, v.PeerNamespace = bDev, uint32(mtu), netlink.NsFd(b.ns.Fd())
	nl, err := a.Netlink()
	if err != nil {
		return err
	}
	if err := nl.LinkAdd(v); err != nil {
		return fmt.Errorf("add veth %s on host %s with %s on host %s: %w", aDev, a.name, bDev, b.name, err)
	}
	if err := a.SetUp(aDev); err != nil {
		return err
	}
	if err := b.SetUp(bDev); err != nil {
		return err
	}
	return awaitCarrier(a, aDev, b, bDev)
}

// awaitCarrier waits until both ends of a veth pair carry frames. The kernel
// says so after the fact, from a work queue (linkwatch_do_dev); until then a
// bridge keeps the port blocked and an end drops what it is given.
func awaitCarrier(a *Host, aDev string, b *Host, bDev string) error {
	deadline := time.Now().Add(10 * time.Second)
	for _, end := range []struct {
		h   *Host
		dev string
	}{{a, aDev}, {b, bDev}} {
		for up := false; !up; {
			err := end.h.onLink("wait for its carrier", end.dev, func(_ *netlink.Handle, l netlink.Link) error {
				up = l.Attrs().OperState == netlink.OperUp
				if !up && time.Now().After(deadline) {
					return fmt.Errorf("still %v after 10 s", l.Attrs().OperState)
				}
				return nil
			})
			if err != nil {
				return err
			}
			if !up {
				time.Sleep(time.Millisecond)
			}
		}
	}
	return nil
}

// AddBridge makes a bridge and sets it up. It floods multicast without
// snooping. An MTU of 0 follows the least of its ports.
func (h *Host) AddBridge(name string, mtu int) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = name, mtu
	snooping := false
	nl, err := h.Netlink()
	if err != nil {
		return err
	}
	if err := nl.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}); err != nil {
		return fmt.Errorf("host %s: add bridge %s: %w", h.name, name, err)
	}
	return h.SetUp(name)
}

// SetUp sets the device up.
func (h *Host) SetUp(dev string) error {
	return h.onLink("set up", dev, func(nl *netlink.Handle, l netlink.Link) error { return nl.LinkSetUp(l) })
}

// SetDown sets the device down.
func (h *Host) SetDown(dev string) error {
	return h.onLink("set down", dev, func(nl *netlink.Handle, l netlink.Link) error { return nl.LinkSetDown(l) })
}

// SetMTU sets the device's MTU in bytes.
func (h *Host) SetMTU(dev string, mtu int) error {
	return h.onLink("set MTU", dev, func(nl *netlink.Handle, l netlink.Link) error { return nl.LinkSetMTU(l, mtu) })
}

// SetMAC sets the device's address.
func (h *Host) SetMAC(dev string, mac encap.MAC) error {
	return h.onLink("set MAC", dev, func(nl *netlink.Handle, l netlink.Link) error {
		return nl.LinkSetHardwareAddr(l, hardwareAddr(mac))
	})
}

// SetMaster makes the device a port of the bridge.
func (h *Host) SetMaster(dev, bridge string) error {
	return h.onLink("make a port of "+bridge, dev, func(nl *netlink.Handle, l netlink.Link) error {
		br, err := nl.LinkByName(bridge)
		if err != nil {
			return err
		}
		return nl.LinkSetMaster(l, br)
	})
}

// DeleteLink removes the device, and a veth's other end with it.
func (h *Host) DeleteLink(dev string) error {
	return h.onLink("delete", dev, func(nl *netlink.Handle, l netlink.Link) error { return nl.LinkDel(l) })
}

// AddAddr gives the device an address, usable at once.
func (h *Host) AddAddr(dev string, p netip.Prefix) error {
	return h.onLink("add address "+p.String(), dev, func(nl *netlink.Handle, l netlink.Link) error {
		a := &netlink.Addr{IPNet: ipNet(p)}
		if p.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD
		}
		return nl.AddrAdd(l, a)
	})
}

// Addrs returns the device's addresses without link-local ones.
func (h *Host) Addrs(dev string) (ps []netip.Prefix, err error) {
	err = h.onLink("list addresses", dev, func(nl *netlink.Handle, l netlink.Link) error {
		list, err := untorn(func() ([]netlink.Addr, error) { return nl.AddrList(l, netlink.FAMILY_ALL) })
		for _, a := range list {
			ip, _ := netip.AddrFromSlice(a.IP)
			if ip = ip.Unmap(); !ip.IsLinkLocalUnicast() {
				bits, _ := a.Mask.Size()
				ps = append(ps, netip.PrefixFrom(ip, bits))
			}
		}
		return err
	})
	return ps, err
}

// AddRoute adds a route to dst by way of the device, through via when it is
// valid. 0.0.0.0/0 and ::/0 are the default routes.
func (h *Host) AddRoute(dst netip.Prefix, via netip.Addr, dev string) error {
	return h.onLink("add route to "+dst.String(), dev, func(nl *netlink.Handle, l netlink.Link) error {
		r := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(dst.Masked())}
		if via.IsValid() {
			r.Gw = via.AsSlice()
		} else {
			r.Scope = netlink.SCOPE_LINK
		}
		return nl.RouteAdd(r)
	})
}

// AddOnlinkRoute adds a route to dst by way of the device, through a next hop
// that is taken to be on its link although no subnet says so.
func (h *Host) AddOnlinkRoute(dst netip.Prefix, via netip.Addr, dev string) error {
	return h.onLink("add route to "+dst.String(), dev, func(nl *netlink.Handle, l netlink.Link) error {
		return nl.RouteAdd(&netlink.Route{
			LinkIndex: l.Attrs().Index, Dst: ipNet(dst.Masked()), Gw: via.AsSlice(), Flags: int(netlink.FLAG_ONLINK),
		})
	})
}

// ErrNoMAC is what MAC returns of a device without one, such as a TUN.
var ErrNoMAC = errors.New("it has none")

// MAC returns the device's address.
func (h *Host) MAC(dev string) (mac encap.MAC, err error) {
	err = h.onLink("read MAC", dev, func(_ *netlink.Handle, l netlink.Link) error {
		if len(l.Attrs().HardwareAddr) != encap.MACLen {
			return ErrNoMAC
		}
		mac = encap.MACFrom(l.Attrs().HardwareAddr)
		return nil
	})
	return mac, err
}

// MTU returns the device's MTU in bytes.
func (h *Host) MTU(dev string) (mtu int, err error) {
	err = h.onLink("read MTU", dev, func(_ *netlink.Handle, l netlink.Link) error {
		mtu = l.Attrs().MTU
		return nil
	})
	return mtu, err
}

// Counters returns the device's packets, bytes, errors and drops so far.
func (h *Host) Counters(dev string) (c netlink.LinkStatistics, err error) {
	err = h.onLink("read counters", dev, func(_ *netlink.Handle, l netlink.Link) error {
		if l.Attrs().Statistics == nil {
			return errors.New("it has none")
		}
		c = *l.Attrs().Statistics
		return nil
	})
	return c, err
}

// Links returns the names of the host's devices without the loopback.
func (h *Host) Links() ([]string, error) {
	nl, err := h.Netlink()
	if err != nil {
		return nil, err
	}
	list, err := untorn(nl.LinkList)
	if err != nil {
		return nil, fmt.Errorf("host %s: list devices: %w", h.name, err)
	}
	var names []string
	for _, l := range list {
		if l.Attrs().Flags&net.FlagLoopback == 0 {
			names = append(names, l.Attrs().Name)
		}
	}
	return names, nil
}

// untorn repeats a dump that changed under the kernel's hands (NLM_F_DUMP_INTR).
func untorn[T any](dump func() (T, error)) (v T, err error) {
	for range 10 {
		if v, err = dump(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return v, err
}

func hardwareAddr(m encap.MAC) net.HardwareAddr {
	b := make(net.HardwareAddr, encap.MACLen)
	m.Put(b)
	return b
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
