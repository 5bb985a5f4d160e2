package config

import (
	"net/netip"
	"slices"
)

// Route is a route of this host.
type Route struct {
	Prefix netip.Prefix // without host bits; never the default route
	Via    netip.Addr   // the next hop, of the same family
}

// hostRoutes checks the plain routes, whose next hops stand on the underlay.
func (c *checker) hostRoutes(raw []rawRoute, own netip.Addr, names *names) []Route {
	var out []Route
	for _, r := range raw {
		route, ok := c.route(r, own, names)
		switch {
		case !ok:
		case route.Via == own:
			c.fail(r.Via.at, "is our own underlay address; want the address of another host")
		case route.Via.Is6() && route.Via.IsLinkLocalUnicast():
			c.fail(r.Via.at, "is a link-local address, which means nothing without its link; want a global or unique local one")
		case route.Prefix.Contains(route.Via):
			c.fail(r.Via.at, "lies in the prefix %s itself; want a next hop outside of what it leads to", route.Prefix)
		default:
			out = append(out, route)
		}
	}
	return out
}

// networkRoutes checks the routes by way of v's bridge or TAP. Their next hops
// are taken to be on the link, so that they may lie in the prefix.
func (c *checker) networkRoutes(raw *rawVXLAN, v *VXLAN, own netip.Addr, names *names) []Route {
	var out []Route
	for _, r := range raw.Route {
		route, ok := c.route(r, own, names)
		if !ok {
			continue
		}
		if i := slices.IndexFunc(v.Addresses, func(a netip.Prefix) bool { return a.Masked() == route.Prefix && !a.IsSingleIP() }); i >= 0 {
			c.fail(r.Prefix.at, "is the subnet of %s in addresses, which is on the link already; want another prefix", v.Addresses[i])
			continue
		}
		if slices.ContainsFunc(v.Addresses, func(a netip.Prefix) bool { return a.Addr() == route.Via }) {
			c.fail(r.Via.at, "is this host's own address in the network; want that of another host")
			continue
		}
		looped := false
		for _, p := range v.allPeers() {
			if route.Prefix.Contains(p.Address) {
				c.fail(r.Prefix.at, "holds the peer %s: what is encapsulated for it would go into the network again; want a prefix without peers", p.Address)
				looped = true
				break
			}
		}
		if !looped {
			out = append(out, route)
		}
	}
	return out
}

// route checks what holds for every route of this host. It reports false when
// something is wrong.
func (c *checker) route(r rawRoute, own netip.Addr, names *names) (Route, bool) {
	before := len(c.errs)
	p := c.routePrefix(r.section, r.Prefix, names.routes)
	if r.Via.at == nil {
		c.missing(r.section, "via", "the address of the next hop")
	}
	via := c.unicast(r.Via)
	switch {
	case !p.IsValid():
	case p.Bits() == 0:
		c.fail(r.Prefix.at, "is the default route, which would take the whole of this host's traffic; want a longer prefix")
	case own.IsValid() && p.Contains(own):
		c.fail(r.Prefix.at, "holds our own underlay address %s, and so the way to its neighbours; want a prefix without it", own)
	}
	if p.IsValid() && via.IsValid() && p.Addr().BitLen() != via.BitLen() {
		c.fail(r.Via.at, "is %s, but the prefix %s is %s; want the same family", family(via), p, family(p.Addr()))
	}
	return Route{p, via}, len(c.errs) == before
}

// routePrefix checks the destination of a route; no two routes of a file share
// one.
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
