package host

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Overlays are the devices of this host by which frames come out of its overlay
// networks, and the routes that lead into them. No peer is behind either.
type Overlays struct {
	Devices []int // interface indexes, sorted
	// Routes are the prefixes that lead into an overlay, and those within them that
	// lead elsewhere; of the underlay's family, each once.
	Routes []OverlayRoute
	// Underlay is the device of the underlay where a network has it too, as a LAN's
	// bridge that carries both: what a container sends by it looks like a peer's.
	// It is not among Devices. "" = it is none of a network's.
	Underlay string
}

// OverlayRoute is a route of the main table.
type OverlayRoute struct {
	Prefix  netip.Prefix
	Overlay bool
}

// Overlays looks at all links and routes for what belongs to the networks, set up or
// not: it goes by names. The underlay's link, as Underlay found it last, is none.
func (h *Host) Overlays(networks []Network) (Overlays, error) {
	links, err := h.links()
	if err != nil {
		return Overlays{}, fmt.Errorf("listing this host's devices: %w", err)
	}
	s := stackOf(links, networks, h.marks.underlayLink())
	h.mu.Lock()
	h.overlays = s.in
	h.mu.Unlock()
	o := Overlays{Devices: slices.Sorted(maps.Keys(s.in)), Underlay: s.both}
	o.Routes, err = h.overlayRoutes(s.in)
	return o, err
}

// Bystanders names the devices that are neither the networks' nor the underlay's, and
// have an address of the underlay's family: who is behind one can send to this host.
func (h *Host) Bystanders(networks []Network) ([]string, error) {
	links, err := h.links()
	if err != nil {
		return nil, fmt.Errorf("listing this host's devices: %w", err)
	}
	addresses, err := h.addresses(nil)
	if err != nil {
		return nil, fmt.Errorf("listing this host's addresses: %w", err)
	}
	has := make(map[int]bool)
	for _, a := range addresses {
		if p, ok := prefixOf(a.IPNet); ok && p.Addr().Is4() == h.underlay.Is4() && !p.Addr().IsLinkLocalUnicast() {
			has[a.LinkIndex] = true
		}
	}
	underlay := h.marks.underlayLink()
	s := stackOf(links, networks, underlay)
	var names []string
	for _, l := range links {
		a := l.Attrs()
		if has[a.Index] && !s.in[a.Index] && a.Index != underlay && a.RawFlags&unix.IFF_UP != 0 && a.RawFlags&unix.IFF_LOOPBACK == 0 {
			names = append(names, a.Name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// stack is how frames get from device to device.
type stack struct {
	in       map[int]bool // frames of an overlay come in by it
	followed map[int]bool // of those, by add
	both     string       // the underlay's, met on the way

	links    map[int]netlink.Link
	above    map[int][]netlink.Link // what stands on a link: VLANs, macvlans, the other end of a veth
	ports    map[int][]netlink.Link // of a bridge
	underlay int
}

// stackOf follows the frames of the networks' own devices through the links. Not
// followed is a port of a bridge, but to the other end of a veth: what stands on a
// network card that is a port takes its frames from the wire, before the bridge.
func stackOf(links []netlink.Link, networks []Network, underlay int) *stack {
	s := &stack{
		in: make(map[int]bool), followed: make(map[int]bool), underlay: underlay,
		links: make(map[int]netlink.Link), above: make(map[int][]netlink.Link), ports: make(map[int][]netlink.Link),
	}
	own := make(map[string]bool)
	for _, n := range networks {
		own[n.Device] = true
		if n.Bridge != "" {
			own[n.Bridge] = true
		}
	}
	for _, l := range links {
		a := l.Attrs()
		s.links[a.Index] = l
		if a.ParentIndex != 0 && a.NetNsID < 0 {
			s.above[a.ParentIndex] = append(s.above[a.ParentIndex], l)
		}
		if a.MasterIndex != 0 {
			s.ports[a.MasterIndex] = append(s.ports[a.MasterIndex], l)
		}
	}
	for _, l := range links {
		if own[l.Attrs().Name] {
			s.add(l)
		}
	}
	return s
}

// add has the frames come in by l, and by what they reach from there.
func (s *stack) add(l netlink.Link) {
	a := l.Attrs()
	if s.followed[a.Index] {
		return
	}
	if a.Index == s.underlay {
		s.both = a.Name
		return
	}
	s.in[a.Index], s.followed[a.Index] = true, true
	for _, up := range s.above[a.Index] {
		s.add(up)
	}
	if l.Type() == "bridge" {
		for _, p := range s.ports[a.Index] {
			s.port(p)
		}
	}
	if m := s.links[a.MasterIndex]; m != nil && m.Type() == "bridge" {
		s.add(m)
	}
}

// port is add for a port of a bridge.
func (s *stack) port(l netlink.Link) {
	a := l.Attrs()
	if a.Index == s.underlay {
		return
	}
	s.in[a.Index] = true
	if l.Type() != "veth" {
		return
	}
	for _, other := range s.above[a.Index] {
		if other.Type() == "veth" {
			s.add(other)
		}
	}
}

// overlayRoutes reads the routes of the main table for the underlay's family.
func (h *Host) overlayRoutes(in map[int]bool) ([]OverlayRoute, error) {
	if len(in) == 0 {
		return nil, nil
	}
	family, bits := unix.AF_INET, 32
	if h.underlay.Is6() {
		family, bits = unix.AF_INET6, 128
	}
	// One table may have a million routes. Two passes keep of them only those that
	// say something of the overlays.
	each := func(f func(netip.Prefix, bool)) error {
		_, err := untorn(func() ([]netlink.Route, error) {
			return nil, h.nl.RouteListFilteredIter(family, &netlink.Route{}, 0, func(r netlink.Route) bool {
				p, ok := prefixOf(r.Dst)
				if r.Dst == nil {
					p, ok = netip.PrefixFrom(unspecified(h.underlay), 0), true
				}
				if ok && p.Addr().BitLen() == bits && !p.Addr().IsLinkLocalUnicast() && !p.Addr().IsMulticast() {
					f(p.Masked(), in[r.LinkIndex] || slices.ContainsFunc(r.MultiPath, func(n *netlink.NexthopInfo) bool { return in[n.LinkIndex] }))
				}
				return true
			})
		})
		if err != nil {
			return fmt.Errorf("listing routes: %w", err)
		}
		return nil
	}
	var into []netip.Prefix
	if err := each(func(p netip.Prefix, overlay bool) {
		if overlay {
			into = append(into, p)
		}
	}); err != nil || len(into) == 0 {
		return nil, err
	}
	var all []OverlayRoute
	seen := make(map[netip.Prefix]bool)
	within := prefixSet(into)
	err := each(func(p netip.Prefix, overlay bool) {
		// Of one prefix the first route counts: the kernel lists them by metric.
		if !seen[p] && within(p) {
			seen[p] = true
			all = append(all, OverlayRoute{p, overlay})
		}
	})
	return all, err
}

// prefixSet returns a set to look up whether one of the prefixes holds all of another.
func prefixSet(prefixes []netip.Prefix) func(netip.Prefix) bool {
	set, lengths := make(map[netip.Prefix]bool), make(map[int]bool)
	for _, p := range prefixes {
		set[p], lengths[p.Bits()] = true, true
	}
	return func(p netip.Prefix) bool {
		for n := range lengths {
			if n <= p.Bits() && set[netip.PrefixFrom(p.Addr(), n).Masked()] {
				return true
			}
		}
		return false
	}
}

// unspecified is the address of zeros of a's family.
func unspecified(a netip.Addr) netip.Addr {
	if a.Is6() {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

// OverlayDevices are the interface indexes that Overlays found last, and those of the
// networks that were set up since.
func (h *Host) OverlayDevices() []int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Collect(maps.Keys(h.overlays))
}

// addOverlay has the devices of a network that was set up be among the overlays', but
// for a bridge that takes its ports' addresses: the underlay's may be among them. The
// caller holds mu.
func (h *Host) addOverlay(n placed) {
	underlay := h.marks.underlayLink()
	for _, index := range []int{n.tap, n.bridge} {
		if index != 0 && index != underlay && (index != n.bridge || !n.PortsTake) {
			h.overlays[index] = true
		}
	}
}

// OverlaysChanged reports whether what Overlays found may be another by now, once for
// all that happened since it was asked last. Changed delivers when it may.
func (h *Host) OverlaysChanged() bool {
	h.marks.mu.Lock()
	defer h.marks.mu.Unlock()
	changed := h.marks.overlays
	h.marks.overlays = false
	return changed
}

func (h *Host) markOverlays() {
	h.marks.mu.Lock()
	h.marks.overlays = true
	h.marks.mu.Unlock()
	h.marks.mark()
}

// ofOverlay reports whether Overlays found the device of that index.
func (h *Host) ofOverlay(index int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.overlays[index]
}

// restacked marks the overlays when a link that came, went, or stands elsewhere now
// has to do with them.
func (h *Host) restacked(name string, index int, was, is port) {
	h.mu.Lock()
	touched := h.overlays[index] || h.overlays[was.master] || h.overlays[was.parent] ||
		h.overlays[is.master] || h.overlays[is.parent]
	for _, n := range h.networks {
		touched = touched || name == n.Device || name == n.Bridge
	}
	h.mu.Unlock()
	if touched {
		h.markOverlays()
	}
}
