package netlab

import (
	"fmt"
	"net/netip"
)

// UnderlayDev is the name of a host's underlay device.
const UnderlayDev = "eth0"

// switchHost is the namespace of the bridge that joins three hosts or more.
const switchHost = "switch"

// UnderlayAddr returns the underlay address of the nth host, counting from 1:
// 192.0.2.n or 2001:db8:0:1::n.
func UnderlayAddr(n int, v6 bool) netip.Addr {
	if v6 {
		return netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 1, 14: byte(n >> 8), 15: byte(n)})
	}
	return netip.AddrFrom4([4]byte{192, 0, 2, byte(n)})
}

// Underlay joins the hosts with an MTU in bytes: two by a veth pair, more by a
// bridge in a namespace of its own, named switch. Each gets a device eth0 with
// both its underlay addresses, numbered in the order given.
func (l *Lab) Underlay(mtu int, hosts ...*Host) error {
	if len(hosts) < 2 || len(hosts) > 254 {
		return fmt.Errorf("lab %s: underlay of %d hosts: want 2 to 254", l.name, len(hosts))
	}
	if err := l.wire(mtu, hosts); err != nil {
		return err
	}
	for i, h := range hosts {
		for _, p := range []netip.Prefix{
			netip.PrefixFrom(UnderlayAddr(i+1, false), 24),
			netip.PrefixFrom(UnderlayAddr(i+1, true), 64),
		} {
			if err := h.AddAddr(UnderlayDev, p); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *Lab) wire(mtu int, hosts []*Host) error {
	if len(hosts) == 2 {
		return AddVeth(hosts[0], UnderlayDev, hosts[1], UnderlayDev, mtu)
	}
	sw, err := l.AddHost(switchHost)
	if err != nil {
		return err
	}
	const bridge = "br0"
	if err := sw.AddBridge(bridge, 0); err != nil {
		return err
	}
	for _, h := range hosts {
		if err := AddVeth(sw, h.name, h, UnderlayDev, mtu); err != nil {
			return err
		}
		if err := sw.SetMaster(h.name, bridge); err != nil {
			return err
		}
	}
	return nil
}

// SetUnderlayOffload gives every underlay device of the hosts, and of the
// switch where there is one, that kind of offload.
func (l *Lab) SetUnderlayOffload(o Offload, hosts ...*Host) error {
	for _, h := range hosts {
		if err := h.SetOffload(UnderlayDev, o); err != nil {
			return err
		}
	}
	if len(hosts) == 2 {
		return nil
	}
	sw, err := l.Host(switchHost)
	if err != nil {
		return err
	}
	for _, h := range hosts {
		if err := sw.SetOffload(h.name, o); err != nil {
			return err
		}
	}
	return nil
}
