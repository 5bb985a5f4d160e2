package config

import (
	"math"
	"net/netip"

	"overtap/encap"
)

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
	for _, r := range raw.Route {
		c.routePrefix(r.section, r.Prefix, names.routes)
		if r.Peer.at == nil {
			c.missing(r.section, "peer", "the underlay address of another host")
		}
		c.vtep(r.Peer, own)
	}
}
