package config

import (
	"math"
	"net/netip"

	"overtap/encap"
)

// neighbors checks the entries from which ARP and ND are answered.
func (c *checker) neighbors(raw []rawNeighbor) {
	seen := make(map[netip.Addr]*node)
	for _, r := range raw {
		if r.Address.at == nil {
			c.missing(r.section, "address", "the inner address to answer for")
		}
		if r.MAC.at == nil {
			c.missing(r.section, "mac", "the address to answer with")
		}
		if a := c.unicast(r.Address); a.IsValid() {
			unique(c, seen, a, r.Address.at)
		}
		c.sourceMAC(r.MAC)
	}
}

// bridgePorts checks the further devices that a network's bridge takes in.
func (c *checker) bridgePorts(raw *rawVXLAN, v *VXLAN) {
	seen := make(map[string]*node)
	for _, l := range raw.Ports.v {
		name := c.ifname(l)
		switch {
		case name == "":
		case name == v.TAP || name == v.Bridge:
			c.fail(l.at, "is the network's own TAP or bridge; want another device")
		default:
			unique(c, seen, name, l.at)
		}
	}
	if len(raw.Ports.v) > 0 && raw.Bridge.v == "" {
		c.fail(raw.Ports.at, "has no bridge to join; want bridge set too")
	}
}

// routes checks host routes, by way of a network's device or of the underlay.
func (c *checker) routes(raw []rawRoute) {
	seen := make(map[netip.Prefix]*node)
	for _, r := range raw {
		p := c.routePrefix(r.section, r.Prefix, seen)
		if r.Via.at == nil {
			c.missing(r.section, "via", "the address of the next hop")
		}
		via := c.unicast(r.Via)
		if p.IsValid() && via.IsValid() && p.Addr().BitLen() != via.BitLen() {
			c.fail(r.Via.at, "is %s, but the prefix %s is %s; want the same family", family(via), p, family(p.Addr()))
		}
	}
}

// routePrefix checks the destination of a route, once in each table of routes.
func (c *checker) routePrefix(s section, l leaf[string], seen map[netip.Prefix]*node) netip.Prefix {
	if l.at == nil {
		c.missing(s, "prefix", "the addresses the route is for")
	}
	p := c.prefix(l)
	if p.IsValid() {
		unique(c, seen, p, l.at)
	}
	return p
}

// ipip checks one IP-in-IP tunnel (RFC 2003): IPv4 in IPv4.
func (c *checker) ipip(raw *rawIPIP, own netip.Addr, names *names) {
	if name := c.networkName(raw.section, raw.Name, names); name != "" && c.ifname(raw.Name) != "" {
		unique(c, names.devices, name, raw.Name.at) // its TUN bears the name
	}
	if own.Is6() {
		c.fail(raw.at, "carries IPv4 in IPv4, but the underlay address %s is IPv6; want an IPv4 underlay", own)
	}
	addresses := c.addresses(raw.Addresses, own)
	c.mtu(raw.MTU, addresses, math.MaxUint16-encap.IPv4HeaderLen)
	c.admit(raw.Admit, own)
	seen := make(map[netip.Prefix]*node)
	for _, r := range raw.Route {
		c.routePrefix(r.section, r.Prefix, seen)
		if r.Peer.at == nil {
			c.missing(r.section, "peer", "the underlay address of another host")
		}
		c.vtep(r.Peer, own)
	}
}
