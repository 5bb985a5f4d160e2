package config

import (
	"cmp"
	"net/netip"

	"overtap/dataplane"
)

// ipip checks one IP-in-IP tunnel (RFC 2003): IPv4 in IPv4.
func (c *checker) ipip(raw *rawIPIP, cfg *Config, names *names) IPIP {
	own := cfg.Underlay.Address
	t := IPIP{
		Tunnel: dataplane.Tunnel{
			Name:        c.networkName(raw.section, raw.Name),
			MTU:         c.mtu(raw.MTU, nil, dataplane.MTURange(dataplane.KindIPIP, own)),
			Plain:       !cfg.Engine.Offload,
			Admit:       c.admit(raw.Admit, own),
			CheckSource: raw.Check.or(false),
			TTL:         number(c, raw.TTL, uint8(defaultTTL)),
			TOS:         c.tos(raw.TOS),
			DF:          raw.DF.or(true),
			ClampMSS:    raw.ClampMSS.or(false),
		},
		Addresses: c.tunnelAddresses(raw.Addresses, own),
		mtuAt:     c.place(cmp.Or(raw.MTU.at, raw.unset("mtu"))),
	}
	t.Device = t.Name
	c.device(t.Device, raw.Name.at, names)
	t.Routes = c.tunnelRoutes(raw, &t, names)
	return t
}

// tunnelAddresses is addresses of a device that carries IPv4 alone.
func (c *checker) tunnelAddresses(l list, own netip.Addr) []netip.Prefix {
	for _, e := range l.v {
		if p, err := netip.ParsePrefix(e.v); e.ok && err == nil && p.Addr().Is6() && !p.Addr().Is4In6() {
			c.fail(e.at, "is IPv6, but the tunnel carries IPv4; want one such as %q", "198.51.100.1/30")
		}
	}
	return c.addresses(l, own)
}

// tunnelRoutes reads which peer each inner prefix lives behind. The prefixes
// become routes of this host, by way of the TUN.
func (c *checker) tunnelRoutes(raw *rawIPIP, t *IPIP, names *names) (out []dataplane.TunnelRoute) {
	for _, r := range raw.Route {
		p := c.routePrefix(r.section, r.Prefix, names.routes)
		c.required(r.section, r.Peer.at, "peer", "the underlay address of another host")
		for _, a := range t.Addresses {
			if a.Masked() == p && !a.IsSingleIP() {
				c.fail(r.Prefix.at, "is the subnet of %s in addresses, which is on the device already; want another prefix", a)
			} else if p == netip.PrefixFrom(a.Addr(), 32) {
				c.fail(r.Prefix.at, "is this host's own address %s; want one behind the peer", a)
			}
		}
		out = append(out, dataplane.TunnelRoute{Prefix: p, Peer: c.address(r.Peer)})
	}
	return out
}
