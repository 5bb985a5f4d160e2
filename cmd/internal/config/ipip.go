package config

import (
	"fmt"
	"math"
	"net/netip"
	"slices"

	"overtap/dataplane"
	"overtap/encap"
)

// ipip checks one IP-in-IP tunnel (RFC 2003): IPv4 in IPv4.
func (c *checker) ipip(raw *rawIPIP, own netip.Addr, names *names) IPIP {
	t := IPIP{
		Name:        c.networkName(raw.section, raw.Name, names),
		Addresses:   c.tunnelAddresses(raw.Addresses, own),
		Admit:       c.admit(raw.Admit, own),
		CheckSource: raw.Check.or(false),
		TTL:         number(c, raw.TTL, uint8(defaultTTL), 1, math.MaxUint8),
		TOS:         c.tos(raw.TOS),
		DF:          raw.DF.or(true),
		ClampMSS:    raw.ClampMSS.or(false),
	}
	if t.Name != "" && c.ifname(raw.Name) != "" {
		unique(c, names.devices, t.Name, raw.Name.at) // its TUN bears the name
	}
	if own.Is6() {
		c.fail(raw.at, "carries IPv4 in IPv4, but the underlay address %s is IPv6; want an IPv4 underlay", own)
	}
	t.MTU = c.mtu(raw.MTU, nil, math.MaxUint16-encap.IPIPOverhead)
	t.mtuAt = c.place(raw.unset("mtu"))
	if raw.MTU.at != nil {
		t.mtuAt = c.place(raw.MTU.at)
	}
	t.Routes = c.tunnelRoutes(raw, &t, own, names)
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

// tunnelRoutes checks which peer each inner prefix lives behind. The prefixes
// become routes of this host, by way of the TUN.
func (c *checker) tunnelRoutes(raw *rawIPIP, t *IPIP, own netip.Addr, names *names) []dataplane.TunnelRoute {
	var out []dataplane.TunnelRoute
	var prefixes []*node // of out
	for _, r := range raw.Route {
		before := len(c.errs)
		p := c.routePrefix(r.section, r.Prefix, names.routes)
		if r.Peer.at == nil {
			c.missing(r.section, "peer", "the underlay address of another host")
		}
		peer := c.vtep(r.Peer, own)
		if p.IsValid() {
			c.tunnelPrefix(r.Prefix.at, p, t, own)
		}
		if peer.IsValid() {
			c.tunnelPeer(r.Peer.at, peer, raw, names)
		}
		if len(c.errs) == before {
			out = append(out, dataplane.TunnelRoute{Prefix: p, Peer: peer})
			prefixes = append(prefixes, r.Prefix.at)
		}
	}
	c.withoutPeers(prefixes, out)
	return out
}

// tunnelPrefix checks what one prefix must not take away.
func (c *checker) tunnelPrefix(at *node, p netip.Prefix, t *IPIP, own netip.Addr) {
	switch {
	case p.Addr().Is6():
		c.fail(at, "is IPv6, but the tunnel carries IPv4; want an IPv4 prefix")
		return
	case p.Bits() == 0:
		c.fail(at, "is the default route, which would take the whole of this host's traffic; want a longer prefix")
		return
	case own.IsValid() && p.Contains(own):
		c.fail(at, "holds our own underlay address %s, and so the way to its neighbours; want a prefix without it", own)
		return
	}
	for _, a := range t.Addresses {
		if a.Masked() == p && !a.IsSingleIP() {
			c.fail(at, "is the subnet of %s in addresses, which is on the device already; want another prefix", a)
		} else if p == netip.PrefixFrom(a.Addr(), 32) {
			c.fail(at, "is this host's own address %s; want one behind the peer", a)
		}
	}
}

// tunnelPeer notes whose tunnel a peer is: nothing in a packet but its sender
// says which tunnel it belongs to.
func (c *checker) tunnelPeer(at *node, peer netip.Addr, raw *rawIPIP, names *names) {
	first, taken := names.tunnels[peer]
	if !taken {
		names.tunnels[peer] = raw.at
		return
	}
	if first != raw.at {
		c.fail(at, "is a peer of %s on line %d; want all routes to one peer in one tunnel", first.path(), first.line)
	}
}

// withoutPeers reports the prefixes that hold a peer: what is encapsulated for
// it would go into the tunnel again.
func (c *checker) withoutPeers(at []*node, routes []dataplane.TunnelRoute) {
	var peers []netip.Addr
	for _, r := range routes {
		peers = append(peers, r.Peer)
	}
	slices.SortFunc(peers, netip.Addr.Compare)
	for i, r := range routes {
		first, _ := slices.BinarySearchFunc(peers, r.Prefix.Addr(), netip.Addr.Compare)
		if first < len(peers) && r.Prefix.Contains(peers[first]) {
			c.fail(at[i], "holds the peer %s: what is encapsulated for it would go into the tunnel again; want a prefix without peers", peers[first])
		}
	}
}

// OverlayMTU returns the tunnel's MTU on an underlay of the given MTU: what is
// configured, or derived. It is an error when the underlay cannot carry it.
func (t *IPIP) OverlayMTU(underlay encap.UnderlayMTU) (encap.OverlayMTU, error) {
	underlay = min(underlay, math.MaxUint16) // no IP packet is larger
	most, err := underlay.IPIPOverlay()
	switch {
	case err != nil:
		return 0, fmt.Errorf("no MTU fits the %w", err)
	case t.MTU > most:
		return 0, fmt.Errorf("the underlay's MTU of %d leaves room for %d; want at most that, or 0 to derive it", underlay, most)
	case t.MTU != 0:
		return t.MTU, nil
	}
	return most, nil
}
