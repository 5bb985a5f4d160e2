package host

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"overtap/encap"
)

// Underlay is the link that the underlay runs over, as it is now.
type Underlay struct {
	Name  string
	Index int // another one when the device was made again
	MTU   encap.UnderlayMTU
	Up    bool // not taken down
	// Links are the indexes of the links by which the ways to the peers lead, where
	// the address stands on one that no packet leaves by; else nil.
	Links []int
	// Guessed: the address stands on such a link and there is no peer to have a way to,
	// so that any MTU will do.
	Guessed bool
}

// fallbackMTU is that of an underlay of which no way is known yet: Ethernet's.
const fallbackMTU = 1500

// Underlay looks for the link: the device when it is named, else the one that
// carries the address. It is an error when either is missing. Where the address
// stands on the loopback device or a dummy, as in routed fabrics, it is the links by
// which the routes to the peers lead: the MTU is the least of them and of the routes,
// the name and index are the first's. Watch follows what was looked for last.
func (h *Host) Underlay(addr netip.Addr, device string, peers ...netip.Addr) (Underlay, error) {
	l, err := h.underlayLink(addr, device)
	if err == nil && device != "" {
		// The address may stand on another link (a loopback address that
		// routing makes known), but it must be here.
		_, err = h.underlayLink(addr, "")
	}
	if err != nil {
		h.marks.underlay(device, 0)
		return Underlay{}, err
	}
	a := l.Attrs()
	if device == "" && (a.Flags&net.FlagLoopback != 0 || l.Type() == "dummy") {
		return h.ways(l, addr, peers)
	}
	h.ofWays.Store(false)
	h.marks.underlay(device, a.Index)
	return Underlay{Name: a.Name, Index: a.Index, MTU: encap.UnderlayMTU(a.MTU), Up: a.RawFlags&unix.IFF_UP != 0}, nil
}

// ways is the underlay by the ways to the peers from an address on l.
func (h *Host) ways(l netlink.Link, addr netip.Addr, peers []netip.Addr) (Underlay, error) {
	if !h.ofWays.Swap(true) {
		h.mu.Lock()
		h.watchMore() // the routes
		h.mu.Unlock()
	}
	u := Underlay{Name: l.Attrs().Name, Index: l.Attrs().Index, MTU: encap.UnderlayMTU(min(l.Attrs().MTU, fallbackMTU)), Up: true,
		Guessed: len(peers) == 0}
	least, here := 0, false // here: a peer is on this host
	note := func(mtu int) {
		if mtu != 0 && (least == 0 || mtu < least) {
			least = mtu
		}
	}
	for _, peer := range peers {
		o := &netlink.RouteGetOptions{SrcAddr: addr.AsSlice(), FIBMatch: true}
		if peer.IsMulticast() {
			// With a source the kernel sends by the device that has it
			// (ip_route_output_key_hash_rcu), which is what this must not find.
			o = nil
		}
		routes, err := h.nl.RouteGetWithOptions(peer.AsSlice(), o)
		if err != nil {
			continue // no_route, as long as there is none
		}
		for _, r := range routes {
			if r.Type == unix.RTN_LOCAL || r.LinkIndex == l.Attrs().Index {
				here = true
				continue
			}
			note(r.MTU)
			hops := []int{r.LinkIndex}
			for _, hop := range r.MultiPath {
				hops = append(hops, hop.LinkIndex)
			}
			for _, index := range hops {
				if index != 0 && !slices.Contains(u.Links, index) {
					u.Links = append(u.Links, index)
				}
			}
		}
	}
	if len(peers) > 0 && len(u.Links) == 0 && !here {
		h.marks.underlay("", 0)
		return Underlay{}, fmt.Errorf("the underlay address %s is on %s, and no route leads from it to any peer: add routes, or set underlay.device", addr, u.Name)
	}
	slices.Sort(u.Links)
	for i, index := range u.Links {
		l, err := h.nl.LinkByIndex(index)
		if err != nil {
			return Underlay{}, fmt.Errorf("looking for the link of a route to a peer: %w", err)
		}
		note(l.Attrs().MTU)
		if i == 0 {
			u.Name, u.Index = l.Attrs().Name, index
		}
	}
	if least != 0 {
		u.MTU = encap.UnderlayMTU(least)
	}
	h.marks.underlay("", u.Index)
	return u, nil
}

func (h *Host) underlayLink(addr netip.Addr, device string) (netlink.Link, error) {
	if device != "" {
		l, err := h.nl.LinkByName(device)
		if gone(err) {
			return nil, fmt.Errorf("the underlay device %s does not exist: name one of %s as underlay.device",
				device, h.linkNames())
		}
		if err != nil {
			return nil, fmt.Errorf("looking for the underlay device %s: %w", device, err)
		}
		return l, nil
	}
	all, err := h.addresses(nil)
	if err != nil {
		return nil, fmt.Errorf("listing this host's addresses: %w", err)
	}
	var others []string
	there := "it has none of that family"
	for _, a := range all {
		p, ok := prefixOf(a.IPNet)
		if !ok {
			continue
		}
		if p.Addr() == addr.WithZone("") {
			if err := usable(&a); err != nil {
				return nil, err
			}
			l, err := h.nl.LinkByIndex(a.LinkIndex)
			if err != nil {
				return nil, fmt.Errorf("looking for the link of %s: %w", addr, err)
			}
			return l, nil
		}
		if p.Addr().Is4() == addr.Is4() && !p.Addr().IsLoopback() && !p.Addr().IsLinkLocalUnicast() {
			l, err := h.nl.LinkByIndex(a.LinkIndex)
			if err != nil {
				continue // it is gone
			}
			if marked(l) {
				there = "of that family it has those of its networks only"
				continue
			}
			others = append(others, fmt.Sprintf("%s (%s)", p.Addr(), l.Attrs().Name))
		}
	}
	if len(others) > 0 {
		there = "it has " + strings.Join(others, ", ")
	}
	return nil, fmt.Errorf("the underlay address %s is not on this host (%s): give it to this host, or set underlay.address to one that it has", addr, there)
}

// usable is an error when the kernel does not let sockets have the address yet, or
// for good (IFA_F_TENTATIVE, RFC 4862 section 5.4; inet6_bind).
func usable(a *netlink.Addr) error {
	switch {
	case a.Flags&unix.IFA_F_DADFAILED != 0:
		return fmt.Errorf("the underlay address %s is in use by another host of the link, which duplicate address detection found: give this host another", a.IP)
	case a.Flags&unix.IFA_F_TENTATIVE != 0 && a.Flags&unix.IFA_F_OPTIMISTIC == 0:
		return fmt.Errorf("the underlay address %s is tentative: duplicate address detection is not over", a.IP)
	}
	return nil
}

// LeavesBy names the devices that the routes from one address to another lead by, of
// several next hops all; none where the other is this host's own.
func (h *Host) LeavesBy(from, to netip.Addr) ([]string, error) {
	routes, err := h.nl.RouteGetWithOptions(to.AsSlice(), &netlink.RouteGetOptions{SrcAddr: from.AsSlice(), FIBMatch: true})
	if err != nil {
		return nil, fmt.Errorf("looking for the route to %s: %w", to, err)
	}
	var all []string
	for _, r := range routes {
		if r.Type == unix.RTN_LOCAL {
			continue
		}
		if r.LinkIndex != 0 {
			all = append(all, h.linkName(r.LinkIndex))
		}
		for _, hop := range r.MultiPath {
			all = append(all, h.linkName(hop.LinkIndex))
		}
	}
	return all, nil
}

// linkNames lists the links for an error.
func (h *Host) linkNames() string {
	links, err := h.links()
	if err != nil || len(links) == 0 {
		return "this host's devices"
	}
	names := make([]string, len(links))
	for i, l := range links {
		names[i] = l.Attrs().Name
	}
	return strings.Join(names, ", ")
}
