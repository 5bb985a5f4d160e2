package netlab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
)

// HopDev is the device of both routers of a routed underlay on the link between
// them.
const HopDev = "hop"

// RoutedUnderlay joins two hosts by two routers, named r1 and r2, which tell the
// sender of what does not fit:
//
//	a eth0 ──mtu── a r1 hop ──hop── hop r2 b ──mtu── eth0 b
//
// The hosts have the addresses that Underlay gives them, and no route to
// anything but each other.
func (l *Lab) RoutedUnderlay(mtu, hop int, a, b *Host) error {
	var routers [2]*Host
	for i := range routers {
		r, err := l.AddHost(fmt.Sprintf("r%d", i+1))
		if err != nil {
			return err
		}
		if err := r.forward(); err != nil {
			return err
		}
		routers[i] = r
	}
	r1, r2 := routers[0], routers[1]
	if err := errors.Join(
		AddVeth(r1, a.name, a, UnderlayDev, mtu),
		AddVeth(r1, HopDev, r2, HopDev, hop),
		AddVeth(r2, b.name, b, UnderlayDev, mtu),
	); err != nil {
		return err
	}
	for _, v6 := range []bool{false, true} {
		// Of the hosts, and of the routers' ends towards them and each other.
		at := [2]netip.Addr{UnderlayAddr(1, v6), UnderlayAddr(2, v6)}
		gate := [2]netip.Addr{UnderlayAddr(201, v6), UnderlayAddr(202, v6)}
		next := [2]netip.Addr{UnderlayAddr(211, v6), UnderlayAddr(212, v6)}
		for i, h := range []*Host{a, b} {
			r, other := routers[i], 1-i
			if err := errors.Join(
				h.AddAddr(UnderlayDev, single(at[i])),
				h.AddRoute(single(gate[i]), netip.Addr{}, UnderlayDev),
				h.AddRoute(single(at[other]), gate[i], UnderlayDev),
				r.AddAddr(h.name, single(gate[i])),
				r.AddRoute(single(at[i]), netip.Addr{}, h.name),
				r.AddAddr(HopDev, single(next[i])),
				r.AddRoute(single(next[other]), netip.Addr{}, HopDev),
				r.AddRoute(single(at[other]), next[other], HopDev),
			); err != nil {
				return err
			}
		}
	}
	return nil
}

// single is the prefix of one address.
func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// forward makes the host a router that answers as often as it is asked.
func (h *Host) forward() error {
	for _, s := range [][2]string{
		{"net/ipv4/ip_forward", "1"},
		{"net/ipv4/icmp_ratelimit", "0"},
		{"net/ipv6/conf/all/forwarding", "1"},
		{"net/ipv6/icmp/ratelimit", "0"},
	} {
		if err := h.Sysctl(s[0], s[1]); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}
