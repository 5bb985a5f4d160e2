package host

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// RouteProtocol marks the routes that were made here (rtm_protocol of
// rtnetlink(7)), so that only they are replaced and removed. No other program
// is known to use the number: `ip route show proto 79`. Neighbours bear it too.
const RouteProtocol = 79

// Route is a route of this host, in the main table.
type Route struct {
	Prefix netip.Prefix // without host bits
	// Via is the next hop, of the same family; invalid = all of the prefix is on
	// the link, as behind a tunnel.
	Via netip.Addr
}

// String writes the route as `ip route` takes it, without the device.
func (r Route) String() string {
	if !r.Via.IsValid() {
		return r.Prefix.String()
	}
	return fmt.Sprintf("%s via %s", r.Prefix, r.Via)
}

// scope is that of the kernel's routes: of one without next hop it is the link
// (fib_create_info).
func (r Route) scope() netlink.Scope {
	if !r.Via.IsValid() && r.Prefix.Addr().Is4() {
		return netlink.SCOPE_LINK
	}
	return netlink.SCOPE_UNIVERSE
}

// SetupRoutes makes plain routes, whose next hops must be on a link of this
// host. After an error, Undo removes what the failed call made.
func (h *Host) SetupRoutes(routes []Route) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.routes = routes
	h.watchMore()
	return h.plainRoutes(new(pass))
}

// plainRoutes puts what is missing of the plain routes. It goes on after an
// error and returns all of them.
func (h *Host) plainRoutes(p *pass) error {
	there, err := h.routesTo(h.routes)
	if err != nil {
		return err
	}
	clear(h.routeLinks)
	var errs []error
	for _, r := range h.routes {
		index, err := h.nextHop(r)
		if err == nil {
			h.routeLinks[index] = true
			err = h.route(r, there[r.Prefix], index, 0, p)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// networkRoutes puts what is missing of n's routes by way of its link. The next
// hops need not be of any of its subnets.
func (h *Host) networkRoutes(n Network, link netlink.Link, p *pass) error {
	if len(n.Routes) == 0 {
		return nil
	}
	there, err := h.routesTo(n.Routes)
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range n.Routes {
		flags := 0
		if r.Via.IsValid() {
			flags = unix.RTNH_F_ONLINK
		}
		errs = append(errs, h.route(r, there[r.Prefix], link.Attrs().Index, flags, p))
	}
	return errors.Join(errs...)
}

// route makes r by way of the link, unless it stands already. There are the
// routes of the same prefix.
func (h *Host) route(r Route, there []netlink.Route, index, flags int, p *pass) error {
	stands := false
	for i := range there {
		switch x := &there[i]; {
		case leads(x, r, index):
			stands = true
			if x.Protocol != RouteProtocol {
				return nil // another program's, which may remove it
			}
		case x.Protocol != RouteProtocol:
			return h.shadowed(r, x)
		default:
			// Of a run that crashed, or of a link that was made again.
			if err := h.nl.RouteDel(x); err != nil && !gone(err) {
				return fmt.Errorf("removing the old route %s: %w", r.Prefix, err)
			}
		}
	}
	ours := &netlink.Route{
		LinkIndex: index, Dst: ipNet(r.Prefix), Gw: r.Via.AsSlice(),
		Protocol: RouteProtocol, Flags: flags, Scope: r.scope(),
	}
	remove := Step{Do: removeRoute, Route: r}
	h.undo.remember(remove)
	if !stands {
		if err := h.nl.RouteAdd(ours); err != nil {
			h.undo.forget(remove)
			return fmt.Errorf("adding the route %s dev %s: %w", r, h.linkName(index), err)
		}
		p.did("the route %s", r)
	}
	return nil
}

// leads reports whether x is what r asks for on the link.
func leads(x *netlink.Route, r Route, index int) bool {
	gw, _ := netip.AddrFromSlice(x.Gw) // invalid without one, as Via
	return gw.Unmap() == r.Via && x.LinkIndex == index && x.Type == unix.RTN_UNICAST && len(x.MultiPath) == 0
}

// shadowed names the route of another program that stands where r should.
func (h *Host) shadowed(r Route, x *netlink.Route) error {
	it := r.Prefix.String()
	switch {
	case len(x.MultiPath) > 0:
	case x.Type != unix.RTN_UNICAST:
		it = map[int]string{unix.RTN_BLACKHOLE: "blackhole ", unix.RTN_UNREACHABLE: "unreachable ", unix.RTN_PROHIBIT: "prohibit "}[x.Type] + it
	case x.Gw != nil:
		it += fmt.Sprintf(" via %s dev %s", x.Gw, h.linkName(x.LinkIndex))
	default:
		it += " dev " + h.linkName(x.LinkIndex)
	}
	if x.Priority != 0 {
		it += fmt.Sprintf(" metric %d", x.Priority)
	}
	const is = "the route %s would hide one that is there already, %s proto %s: take the prefix out of the configuration"
	if h.needed(r.Prefix, x) {
		return fmt.Errorf(is, r, it, x.Protocol)
	}
	return fmt.Errorf(is+", or remove that route with `ip route del %s` if nothing needs it", r, it, x.Protocol, it)
}

// needed reports whether a route is one that this host may hang on: a default
// route, one that the kernel made of an address or that a routing daemon keeps, or
// one over the underlay's device.
func (h *Host) needed(p netip.Prefix, x *netlink.Route) bool {
	// Others are set by hand: 3 is "boot", of ip route, and 4 "static".
	byHand := x.Protocol == unix.RTPROT_BOOT || x.Protocol == unix.RTPROT_STATIC
	return p.Bits() == 0 || !byHand || len(x.MultiPath) > 0 || h.marks.isUnderlay(x.LinkIndex)
}

// nextHop returns the link that r's next hop is on.
func (h *Host) nextHop(r Route) (int, error) {
	const want = "want a neighbour of this host on a link that is up"
	got, err := h.nl.RouteGet(r.Via.AsSlice())
	switch {
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH), err == nil && len(got) == 0:
		return 0, fmt.Errorf("the next hop of the route %s cannot be reached: %s", r, want)
	case err != nil:
		return 0, fmt.Errorf("looking for the next hop of the route %s: %w", r, err)
	case got[0].Type == unix.RTN_LOCAL:
		return 0, fmt.Errorf("the next hop of the route %s is this host itself: %s", r, want)
	case got[0].Type != unix.RTN_UNICAST:
		return 0, fmt.Errorf("the next hop of the route %s cannot be sent to: %s", r, want)
	case got[0].Gw != nil:
		return 0, fmt.Errorf("the next hop of the route %s is not on a link, but behind the gateway %s: %s", r, got[0].Gw, want)
	}
	return got[0].LinkIndex, nil
}

// routesTo reads the routes of the main table that have the prefixes of want.
func (h *Host) routesTo(want []Route) (map[netip.Prefix][]netlink.Route, error) {
	wanted := make(map[netip.Prefix]bool)
	families := make(map[int]bool)
	for _, r := range want {
		wanted[r.Prefix] = true
		family := unix.AF_INET
		if r.Prefix.Addr().Is6() {
			family = unix.AF_INET6
		}
		families[family] = true
	}
	there := make(map[netip.Prefix][]netlink.Route)
	for family := range families {
		// The table may be that of a router of the internet: nothing of it is
		// kept but what is asked for.
		list, err := untorn(func() (list []netlink.Route, err error) {
			err = h.nl.RouteListFilteredIter(family, &netlink.Route{}, 0, func(x netlink.Route) bool {
				if p, ok := prefixOf(x.Dst); ok && wanted[p] {
					list = append(list, x)
				}
				return true
			})
			return list, err
		})
		if err != nil {
			return nil, fmt.Errorf("listing routes: %w", err)
		}
		for _, x := range list {
			p, _ := prefixOf(x.Dst)
			there[p] = append(there[p], x)
		}
	}
	return there, nil
}

// checkRoutes looks whether the routes of p can be made.
func (h *Host) checkRoutes(p Plan) error {
	var errs []error
	there, err := h.routesTo(p.Routes)
	if err != nil {
		return err
	}
	for _, r := range p.Routes {
		index, err := h.nextHop(r)
		if err == nil {
			err = h.checkRoute(r, there[r.Prefix], index)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// checkNetworkRoutes looks whether n's routes can be made; index is that of its
// bridge, 0 when there is none yet.
func (h *Host) checkNetworkRoutes(n Network, index int) error {
	there, err := h.routesTo(n.Routes)
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range n.Routes {
		errs = append(errs, h.checkRoute(r, there[r.Prefix], index))
	}
	return errors.Join(errs...)
}

// checkRoute is an error when another program's route stands where r must be.
func (h *Host) checkRoute(r Route, there []netlink.Route, index int) error {
	for i := range there {
		if x := &there[i]; x.Protocol != RouteProtocol && !leads(x, r, index) {
			return h.shadowed(r, x)
		}
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
