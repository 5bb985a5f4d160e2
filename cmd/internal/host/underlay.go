package host

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"overtap/encap"
)

// Underlay is the link that the underlay runs over, as it is now.
type Underlay struct {
	Name  string
	Index int // another one when the device was made anew
	MTU   encap.UnderlayMTU
	Up    bool // not taken down
}

// Underlay looks for the link: the device when it is named, else the one that
// carries the address. It is an error when either is missing. Watch follows
// what was looked for last.
func (h *Host) Underlay(addr netip.Addr, device string) (Underlay, error) {
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
	h.marks.underlay(device, a.Index)
	return Underlay{Name: a.Name, Index: a.Index, MTU: encap.UnderlayMTU(a.MTU), Up: a.RawFlags&unix.IFF_UP != 0}, nil
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
	for _, a := range all {
		p, ok := prefixOf(a.IPNet)
		if !ok {
			continue
		}
		if p.Addr() == addr.WithZone("") {
			l, err := h.nl.LinkByIndex(a.LinkIndex)
			if err != nil {
				return nil, fmt.Errorf("looking for the link of %s: %w", addr, err)
			}
			return l, nil
		}
		if p.Addr().Is4() == addr.Is4() && !p.Addr().IsLoopback() && !p.Addr().IsLinkLocalUnicast() {
			others = append(others, fmt.Sprintf("%s (%s)", p.Addr(), h.linkName(a.LinkIndex)))
		}
	}
	there := "it has none of that family"
	if len(others) > 0 {
		there = "it has " + strings.Join(others, ", ")
	}
	return nil, fmt.Errorf("the underlay address %s is not on this host (%s): set underlay.address to one of its own", addr, there)
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
