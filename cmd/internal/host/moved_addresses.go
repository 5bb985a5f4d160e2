package host

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// movedAddresses is what a port carried before it was moved to its bridge, and gets back.
// The names of its fields are those of the journal.
type movedAddresses struct {
	Addrs  []netlink.Addr
	Routes []netlink.Route
	Bridge int    // index of the bridge that has it all; 0 = still on its way
	Of     string // the bridge's name
	// Rest: what the bridge got meanwhile, of a lease say, goes to this port.
	Rest bool
	// Own is what the bridge had before addresses were moved to it, or has by the configuration.
	Own map[string]bool
}

// savedRoute is a moved route as JSON: netlink's own has interfaces where there may be a
// gateway of the other family, and what a port is refused for.
type savedRoute struct {
	netlink.Route
	Via           *netlink.Via
	Encap, NewDst *struct{} `json:",omitempty"`
}

// MarshalJSON implements json.Marshaler.
func (l *movedAddresses) MarshalJSON() ([]byte, error) {
	type plain movedAddresses
	out := struct {
		*plain
		Routes []savedRoute
	}{plain: (*plain)(l)}
	for _, r := range l.Routes {
		via, _ := r.Via.(*netlink.Via)
		out.Routes = append(out.Routes, savedRoute{Route: r, Via: via})
	}
	return json.Marshal(out)
}

// UnmarshalJSON implements json.Unmarshaler.
func (l *movedAddresses) UnmarshalJSON(b []byte) error {
	type plain movedAddresses
	in := struct {
		*plain
		Routes []savedRoute
	}{plain: (*plain)(l)}
	if err := json.Unmarshal(b, &in); err != nil {
		return err
	}
	l.Routes = nil
	for _, r := range in.Routes {
		if r.Via != nil {
			r.Route.Via = r.Via
		}
		l.Routes = append(l.Routes, r.Route)
	}
	return nil
}

// noteAddresses notes what the port carries, before it joins the bridge.
func (h *Host) noteAddresses(n Network, port, bridge netlink.Link) error {
	name := port.Attrs().Name
	addrs, err := h.movableAddresses(port)
	if err != nil {
		return err
	}
	routes, err := h.movableRoutes(port)
	if err != nil {
		return err
	}
	if ln := h.moved[name]; ln != nil {
		// The bridge was made again, and the port was released by the end of the
		// old one; or it is another device now.
		if len(addrs)+len(routes) > 0 {
			ln.Addrs, ln.Routes, ln.Bridge = append(ln.Addrs, addrs...), append(ln.Routes, routes...), 0
			h.undo.remember(Step{Do: restoreAddresses, Link: name, Moved: ln})
		}
		return nil
	}
	own, err := h.ownOf(n, bridge)
	if err != nil {
		return err
	}
	h.moved[name] = &movedAddresses{Addrs: addrs, Routes: routes, Of: n.Bridge, Rest: !h.hasMoved(n.Bridge), Own: own}
	h.undo.remember(Step{Do: restoreAddresses, Link: name, Moved: h.moved[name]})
	return nil
}

// hasMoved reports whether the bridge has addresses or routes of ports.
func (h *Host) hasMoved(bridge string) bool {
	for _, ln := range h.moved {
		if ln.Of == bridge {
			return true
		}
	}
	return false
}

// adoptMoved notes what a run that crashed left on its own bridge as that of the network's
// first port, so that it goes back there when the bridge is removed.
func (h *Host) adoptMoved(n Network, name string, bridge netlink.Link) error {
	if h.moved[name] != nil {
		h.undo.keep(Step{Do: restoreAddresses, Link: name})
		return nil
	}
	if !h.ours(bridgeMark, bridge) || name != n.Ports[0] {
		return nil
	}
	h.moved[name] = &movedAddresses{Bridge: bridge.Attrs().Index, Of: n.Bridge, Rest: true, Own: h.configured(n)}
	h.undo.remember(Step{Do: restoreAddresses, Link: name, Moved: h.moved[name]})
	return nil
}

// moveToBridge moves what the port carried to the bridge, unless it is there.
func (h *Host) moveToBridge(name string, bridge netlink.Link) error {
	ln := h.moved[name]
	if ln == nil || ln.Bridge == bridge.Attrs().Index {
		return nil
	}
	port, err := h.nl.LinkByName(name)
	if err != nil {
		return fmt.Errorf("looking for the port %s: %w", name, err)
	}
	if err := h.move(ln.Addrs, ln.Routes, port, bridge); err != nil {
		return err
	}
	ln.Bridge = bridge.Attrs().Index
	h.undo.remember(Step{Do: restoreAddresses, Link: name, Moved: ln})
	if len(ln.Addrs) > 0 {
		h.log.Info("the port's addresses and routes moved to the bridge", "port", name, "bridge", bridge.Attrs().Name,
			"addresses", len(ln.Addrs), "routes", len(ln.Routes))
	}
	return nil
}

// restoreMoved moves to the port what is its own on the bridge by now: a lease may
// have been renewed, a route changed. Of a bridge that is gone it is what there
// was at first.
func (h *Host) restoreMoved(name string) error {
	ln := h.moved[name]
	if ln == nil {
		return nil
	}
	delete(h.moved, name)
	port, err := h.nl.LinkByName(name)
	if err != nil {
		if len(ln.Addrs) > 0 {
			h.log.Warn("the port is gone, and so are the addresses that it should get back", "port", name)
		}
		return err
	}
	addrs, routes := ln.Addrs, ln.Routes
	br, err := h.nl.LinkByName(ln.Of)
	if err != nil {
		return h.move(addrs, routes, nil, port)
	}
	hasAddrs, err := h.movableAddresses(br)
	if err != nil {
		return err
	}
	hasRoutes, err := h.movableRoutes(br)
	if err != nil {
		return err
	}
	mine := func(key string, moved bool) bool { return moved || ln.Rest && !ln.Own[key] && !h.hasMovedKey(key) }
	hasAddrs = slices.DeleteFunc(hasAddrs, func(a netlink.Addr) bool {
		return !mine(addrKey(a), slices.ContainsFunc(ln.Addrs, a.Equal))
	})
	hasRoutes = slices.DeleteFunc(hasRoutes, func(r netlink.Route) bool {
		key := routeKey(r)
		return r.Protocol == RouteProtocol || !mine(key, slices.ContainsFunc(ln.Routes, func(x netlink.Route) bool { return routeKey(x) == key }))
	})
	if ln.Bridge != 0 {
		addrs, routes = hasAddrs, hasRoutes
	}
	return h.move(addrs, routes, br, port)
}

// hasMovedKey reports whether it is a port's that has not got it back.
func (h *Host) hasMovedKey(key string) bool {
	for _, ln := range h.moved {
		if slices.ContainsFunc(ln.Addrs, func(a netlink.Addr) bool { return addrKey(a) == key }) ||
			slices.ContainsFunc(ln.Routes, func(r netlink.Route) bool { return routeKey(r) == key }) {
			return true
		}
	}
	return false
}

// move takes addresses and routes from one link, which may be nil, and gives
// them to another. What is gone already, or there already, is no error.
func (h *Host) move(addrs []netlink.Addr, routes []netlink.Route, from, to netlink.Link) error {
	if from != nil {
		for _, r := range routes {
			r.LinkIndex = from.Attrs().Index
			if err := h.nl.RouteDel(&r); err != nil && !gone(err) {
				return fmt.Errorf("removing the route %s from %s: %w", r.Dst, from.Attrs().Name, err)
			}
		}
		// Backwards: secondary addresses go with their primary one
		// (__inet_del_ifa).
		for _, a := range slices.Backward(addrs) {
			a.Label = ""
			if err := h.nl.AddrDel(from, &a); err != nil && !gone(err) {
				return fmt.Errorf("removing the address %s from %s: %w", a.IPNet, from.Attrs().Name, err)
			}
		}
	}
	for _, a := range addrs {
		a.Label = "" // begins with the link's name
		a.Flags &= unix.IFA_F_NOPREFIXROUTE | unix.IFA_F_HOMEADDRESS
		if a.IP.To4() == nil {
			a.Flags |= unix.IFA_F_NODAD // it was found to be ours on this very wire
		}
		if err := h.nl.AddrAdd(to, &a); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("adding the address %s to %s: %w", a.IPNet, to.Attrs().Name, err)
		}
	}
	// First those on the link: the others' gateways are found by them.
	slices.SortStableFunc(routes, func(a, b netlink.Route) int { return cmp.Compare(len(a.Gw), len(b.Gw)) })
	for _, r := range routes {
		r.LinkIndex = to.Attrs().Index
		r.Flags &= unix.RTNH_F_ONLINK
		if err := h.nl.RouteAdd(&r); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("adding the route %s to %s: %w", r.Dst, to.Attrs().Name, err)
		}
	}
	return nil
}

// movableAddresses lists the addresses of a link that may move: an IPv6 link-local
// one belongs to its link.
func (h *Host) movableAddresses(l netlink.Link) ([]netlink.Addr, error) {
	list, err := h.addresses(l)
	if err != nil {
		return nil, fmt.Errorf("listing the addresses of %s: %w", l.Attrs().Name, err)
	}
	return slices.DeleteFunc(list, func(a netlink.Addr) bool {
		return a.IP.To4() == nil && a.IP.IsLinkLocalUnicast()
	}), nil
}

// movableRoutes lists the routes over a link that may move.
func (h *Host) movableRoutes(l netlink.Link) ([]netlink.Route, error) {
	list, err := h.allRoutes()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list, func(r netlink.Route) bool {
		over, several := by(&r, l.Attrs().Index)
		return !over || several
	}), nil
}

// allRoutes lists the routes of all tables that a program made: not those that
// the kernel makes for addresses and links, and makes again.
func (h *Host) allRoutes() ([]netlink.Route, error) {
	list, err := untorn(func() ([]netlink.Route, error) {
		return h.nl.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("listing routes: %w", err)
	}
	return slices.DeleteFunc(list, func(r netlink.Route) bool {
		return r.Protocol == unix.RTPROT_KERNEL || r.Table == unix.RT_TABLE_LOCAL || r.Type != unix.RTN_UNICAST
	}), nil
}

// ownOf lists what belongs to the bridge itself.
func (h *Host) ownOf(n Network, bridge netlink.Link) (map[string]bool, error) {
	own := h.configured(n)
	addrs, err := h.movableAddresses(bridge)
	if err != nil {
		return nil, err
	}
	routes, err := h.movableRoutes(bridge)
	if err != nil {
		return nil, err
	}
	for _, a := range addrs {
		own[addrKey(a)] = true
	}
	for _, r := range routes {
		own[routeKey(r)] = true
	}
	return own, nil
}

// configured lists the addresses of the networks on n's bridge.
func (h *Host) configured(n Network) map[string]bool {
	own := make(map[string]bool)
	add := func(addresses []netip.Prefix) {
		for _, a := range addresses {
			own[a.String()] = true
		}
	}
	add(n.Addresses)
	for _, o := range h.networks {
		if o.Bridge == n.Bridge {
			add(o.Addresses)
		}
	}
	return own
}

func addrKey(a netlink.Addr) string {
	p, _ := prefixOf(a.IPNet)
	return p.String()
}

func routeKey(r netlink.Route) string {
	return fmt.Sprintf("%v via %v table %d metric %d", r.Dst, r.Gw, r.Table, r.Priority)
}
