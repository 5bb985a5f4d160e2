package host

import (
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"overtap/encap"
)

// marks are what events touched and no pass has looked at yet.
type marks struct {
	signal chan struct{} // one is waiting when there are any

	mu     sync.Mutex      // not held over any call of netlink
	due    map[string]bool // networks, and PlainRoutes, that may need Repair
	faulty map[string]bool // of which something is missing
	device string          // the underlay's; "" = any
	link   int             // index of the underlay's link; 0 = gone

	overlays bool // what Overlays found may be another by now
}

func newMarks() marks {
	return marks{signal: make(chan struct{}, 1), due: make(map[string]bool), faulty: make(map[string]bool)}
}

// Changed delivers when something that the set-up or the underlay depends on
// may have changed since the last delivery. Watch fills it.
func (h *Host) Changed() <-chan struct{} { return h.marks.signal }

// Affected returns what may need Repair since it was last asked, sorted.
func (h *Host) Affected() []string {
	m := &h.marks
	m.mu.Lock()
	defer m.mu.Unlock()
	all := slices.Sorted(maps.Keys(m.due))
	clear(m.due)
	return all
}

// mark has Affected name the subjects.
func (m *marks) mark(subjects ...string) {
	m.mu.Lock()
	for _, s := range subjects {
		m.due[s] = true
	}
	m.mu.Unlock()
	select {
	case m.signal <- struct{}{}:
	default:
	}
}

// fault remembers of what something is missing: then any event may be the one
// that brings it back.
func (m *marks) fault(subject string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err == nil {
		delete(m.faulty, subject)
	} else {
		m.faulty[subject] = true
	}
}

// faults lists of what something is missing.
func (m *marks) faults() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Keys(m.faulty))
}

// underlay remembers where the underlay runs, for its events.
func (m *marks) underlay(device string, link int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.link != link {
		m.overlays = true // it is none of the overlays' devices
	}
	m.device, m.link = device, link
}

// underlayLink is the index of the underlay's link, 0 when it was not found.
func (m *marks) underlayLink() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.link
}

// ofUnderlay reports whether an event of a link is the underlay's.
func (m *marks) ofUnderlay(name string, index int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.link == 0 || index == m.link || name == m.device && name != ""
}

// isUnderlay reports whether the underlay runs over the link of an index.
func (m *marks) isUnderlay(index int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.link != 0 && index == m.link
}

// linkChanged marks what an event of a link touches.
func (h *Host) linkChanged(u netlink.LinkUpdate) {
	name, index := u.Attrs().Name, int(u.Index)
	touched := h.marks.faults()
	h.mu.Lock()
	for _, n := range h.networks {
		if name == n.Device || name == n.Bridge || slices.Contains(n.Ports, name) || index == n.tap || index == n.bridge {
			touched = append(touched, n.Name)
		}
	}
	if h.routeLinks[index] {
		touched = append(touched, PlainRoutes)
	}
	h.mu.Unlock()
	if len(touched) > 0 || h.ofWays.Load() || h.marks.ofUnderlay(name, index) {
		h.marks.mark(touched...)
	}
}

// addressChanged marks what an event of an address touches.
func (h *Host) addressChanged(u netlink.AddrUpdate) {
	touched := h.marks.faults()
	h.mu.Lock()
	for _, n := range h.networks {
		if u.LinkIndex == n.bridge || u.LinkIndex == n.tap {
			touched = append(touched, n.Name)
		}
	}
	if h.routeLinks[u.LinkIndex] {
		touched = append(touched, PlainRoutes)
	}
	h.mu.Unlock()
	if h.ofOverlay(u.LinkIndex) {
		h.markOverlays()
	}
	a, ok := netip.AddrFromSlice(u.LinkAddress.IP)
	if len(touched) > 0 || ok && a.Unmap() == h.underlay.WithZone("") {
		h.marks.mark(touched...)
	}
}

// routeChanged marks what an event of a route touches.
func (h *Host) routeChanged(u netlink.RouteUpdate) {
	if h.ofOverlay(u.LinkIndex) {
		h.markOverlays()
	}
	if h.ofWays.Load() {
		h.marks.mark() // it may be of a way to a peer
	}
	p, ok := prefixOf(u.Dst)
	if !ok || u.Table != unix.RT_TABLE_MAIN {
		return
	}
	is := func(r Route) bool { return r.Prefix == p }
	var touched []string
	h.mu.Lock()
	for _, n := range h.networks {
		if slices.ContainsFunc(n.Routes, is) {
			touched = append(touched, n.Name)
		}
	}
	if slices.ContainsFunc(h.routes, is) {
		touched = append(touched, PlainRoutes)
	}
	h.mu.Unlock()
	if len(touched) > 0 {
		h.marks.mark(touched...)
	}
}

// neighborChanged marks what an event of a neighbour touches.
func (h *Host) neighborChanged(u netlink.NeighUpdate) {
	a, ok := netip.AddrFromSlice(u.IP)
	if !ok || u.Family != unix.AF_INET && u.Family != unix.AF_INET6 {
		return // of a bridge's forwarding table, mostly
	}
	var touched []string
	h.mu.Lock()
	for _, n := range h.networks {
		if u.LinkIndex != n.bridge && u.LinkIndex != n.tap {
			continue
		}
		m, known := n.known[a]
		asShould := u.Type == unix.RTM_NEWNEIGH && u.State&unix.NUD_PERMANENT != 0 &&
			len(u.HardwareAddr) == encap.MACLen && encap.MACFrom(u.HardwareAddr) == m
		if known && !asShould {
			touched = append(touched, n.Name)
		}
	}
	h.mu.Unlock()
	if len(touched) > 0 {
		h.marks.mark(touched...)
	}
}
