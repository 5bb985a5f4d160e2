package host

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"overtap/cmd/internal/bridgeport"
)

// Finding is a link that stands as it was put, by an operator, a container or a
// spanning tree protocol, and keeps frames from containers. It is nothing that
// Repair puts back.
type Finding struct {
	About string // what it is of, the same for as long as it lasts
	Text  string // a sentence: what is wrong, and what to do
	// Cut: nothing crosses the whole network. Else one port is cut off.
	Cut bool
}

// member is a link that was a port of a network's bridge.
type member struct{ network, bridge string }

// Health looks at the links of the networks that were set up: their devices,
// bridges and ports. The containers are those that `overtap attach` joined, by
// which the findings name their veths.
func (h *Host) Health(containers []Container) ([]Finding, error) {
	links, err := h.links()
	if err != nil {
		return nil, fmt.Errorf("listing this host's devices: %w", err)
	}
	ports, err := bridgeport.List(h.raw)
	if err != nil {
		return nil, err
	}
	s := scene{
		byIndex: make(map[int]netlink.Link, len(links)), byName: make(map[string]netlink.Link, len(links)),
		ports: ports, containers: make(map[string]Container, len(containers)),
	}
	for _, l := range links {
		s.byIndex[l.Attrs().Index], s.byName[l.Attrs().Name] = l, l
	}
	for _, c := range containers {
		s.containers[c.Veth] = c
	}

	h.mu.Lock()
	defer h.mu.Unlock()
	own := make(map[string]bool)
	bridges := make(map[int]Network) // one of the networks of each
	for _, name := range slices.Sorted(maps.Keys(h.networks)) {
		n := h.networks[name]
		own[n.Device] = true
		s.device(n)
		if br := s.byName[n.Bridge]; br != nil && n.Bridge != "" {
			bridges[br.Attrs().Index] = n.Network
		}
	}
	for _, l := range links {
		a := l.Attrs()
		n, ours := bridges[a.MasterIndex]
		if !ours || a.MasterIndex == 0 || own[a.Name] {
			continue
		}
		h.members[a.Index] = member{n.Name, n.Bridge}
		s.port(n, l)
	}
	for index, m := range h.members {
		l := s.byIndex[index]
		switch _, used := h.networks[m.network]; {
		case l == nil, !used, own[l.Attrs().Name]:
			delete(h.members, index)
		case l.Attrs().MasterIndex == 0 && h.hasAddress(l):
			delete(h.members, index) // it is a host's device now, or was one
		case l.Attrs().MasterIndex == 0:
			s.off(m, l)
		case bridges[l.Attrs().MasterIndex].Bridge != m.bridge:
			delete(h.members, index) // someone gave it another master
		}
	}
	s.detached(h.networks)
	slices.SortFunc(s.found, func(a, b Finding) int { return strings.Compare(a.About, b.About) })
	return slices.CompactFunc(s.found, func(a, b Finding) bool { return a.About == b.About }), nil
}

// ofHealth reports whether an event of the link may change what Health finds: it
// is, was or becomes a port of a network's bridge.
func (h *Host) ofHealth(index int, masters ...int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, was := h.members[index]; was {
		return true
	}
	for _, n := range h.networks {
		if n.bridge != 0 && slices.Contains(masters, n.bridge) {
			return true
		}
	}
	return false
}

// hasAddress reports whether the link has more than link-local addresses: as a
// port of a bridge they would be of no use.
func (h *Host) hasAddress(l netlink.Link) bool {
	list, err := h.addresses(l)
	if err != nil {
		return true
	}
	return slices.ContainsFunc(list, func(a netlink.Addr) bool { return !a.IP.IsLinkLocalUnicast() })
}

// scene is the host as one call of Health sees it.
type scene struct {
	byIndex    map[int]netlink.Link
	byName     map[string]netlink.Link
	ports      map[int]bridgeport.Port
	containers map[string]Container // by veth
	found      []Finding
}

func (s *scene) add(about string, cut bool, format string, args ...any) {
	s.found = append(s.found, Finding{About: about, Cut: cut, Text: fmt.Sprintf(format, args...)})
}

// AboutDevice is Finding.About of what is wrong with the device of a network.
func AboutDevice(network string) string { return "device of network " + network }

// device looks at a network's TAP on its bridge. Where the TAP is no port, the
// one that carries the addresses, Repair says what is wrong with it; of one that
// is gone the engine does.
func (s *scene) device(n placed) {
	tap, br := s.byName[n.Device], s.byName[n.Bridge]
	if n.Bridge == "" || tap == nil || br == nil || tap.Attrs().MasterIndex != br.Attrs().Index {
		return
	}
	about := AboutDevice(n.Name)
	port, known := s.ports[tap.Attrs().Index]
	state := port.State
	switch {
	case tap.Attrs().RawFlags&unix.IFF_UP == 0:
		s.add(about, true, "network %s: its device %s is down: set it up with `ip link set %s up`", n.Name, n.Device, n.Device)
	case br.Attrs().RawFlags&unix.IFF_UP == 0:
		// Repair says so.
	case !known || state == bridgeport.Forwarding:
	case state.Starting():
		s.add(about, true, "network %s: waiting for the spanning tree of %s, which keeps the port %s %s: it forwards after twice the bridge's forward delay",
			n.Name, n.Bridge, n.Device, state)
	case state == bridgeport.Blocking:
		s.add(about, true, "network %s: the spanning tree of %s keeps the port %s blocking: there is another way to the same hosts, a loop; look at `bridge link show dev %s`",
			n.Name, n.Bridge, n.Device, n.Device)
	default:
		s.add(about, true, "network %s: the bridge %s keeps the port %s %s: look at `bridge link show dev %s`",
			n.Name, n.Bridge, n.Device, state, n.Device)
	}
}

// port looks at another port of a network's bridge.
func (s *scene) port(n Network, l netlink.Link) {
	a := l.Attrs()
	about := "port " + a.Name
	switch state := s.ports[a.Index].State; {
	case a.RawFlags&unix.IFF_UP == 0:
		s.add(about, false, "network %s: %s is down, a port of %s: what is behind it is cut off; set it up with `ip link set %s up`",
			n.Name, s.name(l), n.Bridge, a.Name)
	case a.RawFlags&unix.IFF_RUNNING == 0 && l.Type() == "veth":
		s.add(about, false, "network %s: the other end of %s, a port of %s, is down: set it up, in the container",
			n.Name, s.name(l), n.Bridge)
	case a.RawFlags&unix.IFF_RUNNING == 0:
		s.add(about, false, "network %s: %s, a port of %s, has no carrier: look at its cable, or at the other end", n.Name, s.name(l), n.Bridge)
	case state.Starting():
		s.add(about, false, "network %s: the spanning tree of %s keeps %s %s: it forwards after twice the bridge's forward delay",
			n.Name, n.Bridge, s.name(l), state)
	}
}

// off names a link that was a port and is none.
func (s *scene) off(m member, l netlink.Link) {
	a := l.Attrs()
	s.add("port "+a.Name, false, "network %s: %s was a port of %s and is no port now: what is behind it is cut off; put it back with `ip link set %s master %s`",
		m.network, s.name(l), m.bridge, a.Name, m.bridge)
}

// detached names the containers whose veth is on no bridge though their network
// runs: of those the bridge may be one that was never seen with them.
func (s *scene) detached(networks map[string]placed) {
	for veth, c := range s.containers {
		l := s.byName[veth]
		n, runs := networks[c.Network]
		if l == nil || !runs || n.Bridge == "" || l.Attrs().MasterIndex != 0 {
			continue
		}
		s.off(member{c.Network, n.Bridge}, l)
	}
}

// name is what a sentence calls a port.
func (s *scene) name(l netlink.Link) string {
	name := l.Attrs().Name
	if c, ok := s.containers[name]; ok {
		return fmt.Sprintf("%s (%s)", name, c.Name)
	}
	return name
}
