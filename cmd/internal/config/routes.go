package config

import (
	"net/netip"
	"slices"

	"overtap/cmd/internal/host"
	"overtap/dataplane"
)

// Route is a route of this host, never the default one, by a next hop.
type Route = host.Route

// hostRoutes checks the plain routes, whose next hops are on the underlay.
func (c *checker) hostRoutes(raw []rawRoute, own netip.Addr, names *names) []Route {
	var out []Route
	for _, r := range raw {
		route, ok := c.route(r, names)
		err := NewEnds(own, nil).Holds(route.Prefix)
		switch {
		case !ok:
		case err != nil:
			c.fail(r.Prefix.at, "%v", err)
		case route.Via == own:
			c.fail(r.Via.at, "is our own underlay address; want the address of another host")
		case dataplane.CheckPeer(route.Via, netip.Addr{}) != nil:
			c.fail(r.Via.at, "%v", dataplane.CheckPeer(route.Via, netip.Addr{}))
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
func (c *checker) networkRoutes(raw *rawVXLAN, v *VXLAN, names *names) []Route {
	var out []Route
	for _, r := range raw.Route {
		route, ok := c.route(r, names)
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
		out = append(out, route)
	}
	return out
}

// route checks what holds for every route of this host. It reports false when
// something is wrong.
func (c *checker) route(r rawRoute, names *names) (Route, bool) {
	before := len(c.errs)
	p := c.routePrefix(r.section, r.Prefix, names.routes)
	c.required(r.section, r.Via.at, "via", "the address of the next hop")
	via := c.checked(r.Via, dataplane.CheckUnicast)
	if p.IsValid() && via.IsValid() && p.Addr().BitLen() != via.BitLen() {
		c.fail(r.Via.at, "is %s, but the prefix %s is %s; want the same family", family(via), p, family(p.Addr()))
	}
	return Route{Prefix: p, Via: via}, len(c.errs) == before
}

// routePrefix checks the destination of a route; no two routes of a file share
// one.
func (c *checker) routePrefix(s section, l leaf[string], seen map[netip.Prefix]*node) netip.Prefix {
	c.required(s, l.at, "prefix", "the addresses the route is for")
	p := c.prefix(l)
	switch {
	case !p.IsValid():
	case p.Bits() == 0:
		c.fail(l.at, "is the default route, which would take all of this host's traffic; want a longer prefix")
		return netip.Prefix{}
	default:
		unique(c, seen, p, l.at)
	}
	return p
}
