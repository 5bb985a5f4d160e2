package config

import (
	"net/netip"
	"slices"

	"overtap/dataplane"
)

// neighbors checks the addresses whose MACs are known beforehand.
func (c *checker) neighbors(raw []rawNeighbor, v *VXLAN) []dataplane.Neighbor {
	var out []dataplane.Neighbor
	seen := make(map[netip.Addr]*node)
	for _, r := range raw {
		if r.Address.at == nil {
			c.missing(r.section, "address", "an inner address of another host")
		}
		if r.MAC.at == nil {
			c.missing(r.section, "mac", "the MAC that the address is at")
		}
		a := c.unicast(r.Address)
		m, ok := c.sourceMAC(r.MAC)
		switch {
		case !a.IsValid():
		case slices.ContainsFunc(v.Addresses, func(own netip.Prefix) bool { return own.Addr() == a }):
			c.fail(r.Address.at, "is this host's own address in the network; want that of another host")
		default:
			unique(c, seen, a, r.Address.at)
		}
		if ok && m == v.MAC {
			c.fail(r.MAC.at, "is this network's own TAP; want an address behind a peer")
		}
		out = append(out, dataplane.Neighbor{Address: a, MAC: m})
	}
	return out
}

// HostNeighbors returns the neighbours that this host's own stack is to know:
// those of the families in which it has an address or a route in the network.
func (v *VXLAN) HostNeighbors() []dataplane.Neighbor {
	var four, six bool
	note := func(a netip.Addr) { four, six = four || a.Is4(), six || a.Is6() }
	for _, a := range v.Addresses {
		note(a.Addr())
	}
	for _, r := range v.Routes {
		note(r.Via)
	}
	var out []dataplane.Neighbor
	for _, n := range v.Neighbors {
		if n.Address.Is4() && four || n.Address.Is6() && six {
			out = append(out, n)
		}
	}
	return out
}
