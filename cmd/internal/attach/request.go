package attach

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"overtap/encap"
)

// maxIfName is IFNAMSIZ less the closing zero (Linux include/uapi/linux/if.h).
const maxIfName = 15

// check refuses what cannot work whatever the target is.
func (r Request) check(n Network) error {
	if err := CheckTarget(r.Target); err != nil {
		return err
	}
	if err := checkIfName(r.IfName); err != nil {
		return err
	}
	switch m := r.MAC; {
	case m.IsZero():
	case !m.IsSource():
		return fmt.Errorf("%s cannot be a device's MAC: want a unicast one", m)
	case m == n.MAC:
		return fmt.Errorf("the MAC %s is that of the network's own device: choose another", m)
	}
	if len(r.Addresses) == 0 {
		return errors.New("want at least one address, with its prefix length")
	}
	for i, p := range r.Addresses {
		if err := checkAddress(p, n); err != nil {
			return err
		}
		for _, q := range r.Addresses[:i] {
			if p.Addr() == q.Addr() {
				return fmt.Errorf("the address %s is named twice", p.Addr())
			}
		}
	}
	return r.checkGateways()
}

// checkIfName refuses what the kernel would refuse as a device's name
// (dev_valid_name in net/core/dev.c), or take for a pattern ("%d",
// __dev_alloc_name). "" is for the daemon to choose.
func checkIfName(s string) error {
	if len(s) > maxIfName || s == "." || s == ".." || strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r > '~' || r == '/' || r == ':' || r == '%'
	}) {
		return fmt.Errorf("%q cannot be an interface's name: want 1 to %d printable ASCII characters, "+
			"none of them a space, '/', ':' or '%%'", s, maxIfName)
	}
	return nil
}

func checkAddress(p netip.Prefix, n Network) error {
	a := p.Addr()
	switch {
	case !p.IsValid() || a.Is4In6() || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() || p.Bits() == 0:
		return fmt.Errorf("%s cannot be a container's address: want one such as 198.51.100.2/24", p)
	case a.Is4() && p.Bits() < 31 && a == p.Masked().Addr():
		return fmt.Errorf("%s is the address of the subnet itself: want that of a host in it", p)
	case a.Is4() && p.Bits() < 31 && a == lastOf(p):
		return fmt.Errorf("%s is the broadcast address of its subnet: want that of a host in it", p)
	case a.Is6() && n.MTU < encap.MinOverlayMTU6:
		return fmt.Errorf("the network's MTU of %d is too small for the IPv6 address %s: want at least %d (RFC 8200 section 5)",
			n.MTU, a, encap.MinOverlayMTU6)
	}
	return nil
}

// lastOf returns the last address of an IPv4 prefix.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	for bit := p.Bits(); bit < 32; bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	return netip.AddrFrom4(b)
}

func (r Request) checkGateways() error {
	var seen4, seen6 bool
	for _, g := range r.Gateways {
		seen := &seen4
		if g.Is6() {
			seen = &seen6
		}
		if *seen {
			return fmt.Errorf("the gateway %s is the second of its family: want one", g)
		}
		*seen = true
		switch {
		case !g.IsValid() || g.Is4In6() || g.Zone() != "" || g.IsUnspecified() || g.IsMulticast() || g.IsLoopback():
			return fmt.Errorf("%s cannot be a gateway: want the unicast address of a router on the network", g)
		case slices.ContainsFunc(r.Addresses, func(p netip.Prefix) bool { return p.Addr() == g }):
			return fmt.Errorf("the gateway %s is the container's own address: want a router's", g)
		case !slices.ContainsFunc(r.Addresses, func(p netip.Prefix) bool {
			return p.Contains(g) || p.Addr().Is6() && g.Is6() && g.IsLinkLocalUnicast()
		}):
			return fmt.Errorf("the gateway %s is in the subnet of no address: give the container one there, "+
				"or widen a prefix length", g)
		}
	}
	return nil
}
