package dataplane

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"time"

	"overtap/encap"
	"overtap/fdb"
)

// check reports everything about d that cannot be, all at once.
func (d *Desired) check(underlay netip.Addr) error {
	var errs []error
	names := make(map[string]bool)
	devices := make(map[string]string)
	vnis := make(map[[2]uint32]string)
	taken := func(name, device string, fail func(string, ...any)) {
		if name == "" || names[name] {
			fail("its name is empty or taken")
		}
		names[name] = true
		if other, ok := devices[device]; ok {
			fail("device %s belongs to %q", device, other)
		}
		devices[device] = name
	}
	for i := range d.Networks {
		n := &d.Networks[i]
		fail := func(format string, args ...any) {
			errs = append(errs, fmt.Errorf("network %q: "+format, append([]any{n.Name}, args...)...))
		}
		taken(n.Name, n.Device, fail)
		key := [2]uint32{uint32(n.Port), uint32(n.VNI)}
		if other, taken := vnis[key]; taken {
			fail("VNI %d on port %d belongs to network %q", n.VNI, n.Port, other)
		}
		vnis[key] = n.Name
		n.check(underlay, fail)
	}
	errs = append(errs, d.checkTunnels(underlay, taken)...)
	return errors.Join(errs...)
}

func (n *Network) check(underlay netip.Addr, fail func(string, ...any)) {
	if n.Device == "" || len(n.Device) > 15 {
		fail("TAP name %q: want 1 to 15 bytes", n.Device)
	}
	if n.VNI > encap.MaxVNI {
		fail("VNI %d: want at most %d", n.VNI, encap.MaxVNI)
	}
	if n.Port == 0 {
		fail("port 0: want 1 to 65535")
	}
	if !n.MAC.IsSource() {
		fail("MAC %s: want a unicast address", n.MAC)
	}
	if n.MTU < encap.MinOverlayMTU4 {
		fail("MTU %d: want at least %d", n.MTU, encap.MinOverlayMTU4)
	}
	if n.TTL == 0 {
		fail("TTL 0: want 1 to 255")
	}
	if n.MaxEntries < 1 {
		fail("bound of %d learned entries: want at least 1", n.MaxEntries)
	}
	if n.Ageing < 0 || n.Ageing%time.Second != 0 {
		fail("ageing %s: want whole seconds, or 0 for never", n.Ageing)
	}
	if n.MaxPerPeer < 0 {
		fail("bound of %d learned entries for a peer: want at least 1, or 0 for a share of all", n.MaxPerPeer)
	}
	if n.MaxMoves < 0 || n.MaxMoves == 1 || n.MaxMoves > math.MaxUint16 {
		fail("%d moves: want 2 to %d, or 0 for any number", n.MaxMoves, math.MaxUint16)
	}
	if w := n.MoveWindow; n.MaxMoves != 0 && (w < time.Second || w > 24*time.Hour || w%time.Second != 0) {
		fail("a window of %s for moves: want 1s to 24h in whole seconds", w)
	}
	if n.Probe != 0 && n.Probe < MinProbe {
		fail("probes every %s: want %s or more, or 0 for none", n.Probe, MinProbe)
	}
	if g := n.Group; g.IsValid() && (!g.IsMulticast() || g.Is4() != underlay.Is4()) {
		fail("group %s: want a multicast address of the underlay's family", g)
	}
	for _, p := range n.allPeers() {
		checkPeer(p.Addr, underlay, fail)
	}
	seen := make(map[encap.MAC]bool)
	for _, s := range n.bound() {
		if s.MAC.IsZero() || s.MAC == n.MAC || s.MAC > encap.BroadcastMAC {
			fail("static entry for %s: want another MAC than zero and the TAP's own", s.MAC)
		}
		if seen[s.MAC] {
			fail("static entry for %s stands twice", s.MAC)
		}
		seen[s.MAC] = true
	}
	n.checkNeighbors(fail)
}

// checkNeighbors reports neighbours that nobody can be.
func (n *Network) checkNeighbors(fail func(string, ...any)) {
	if len(n.Neighbors) > fdb.MaxNeighbors {
		fail("%d neighbours: want at most %d", len(n.Neighbors), fdb.MaxNeighbors)
	}
	seen := make(map[netip.Addr]bool)
	for _, one := range n.Neighbors {
		a := one.Address
		if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a.Is4In6() || a.Zone() != "" {
			fail("neighbour %s: want a unicast address without a zone", a)
		}
		if !one.MAC.IsSource() || one.MAC == n.MAC || one.MAC > encap.BroadcastMAC {
			fail("neighbour %s at %s: want a unicast MAC, and not the TAP's own", a, one.MAC)
		}
		if seen[a] {
			fail("neighbour %s stands twice", a)
		}
		seen[a] = true
	}
}

// allPeers are the listed peers and those that only a static entry names. Those that a pin names
// are pinned.
func (n *Network) allPeers() []fdb.Peer {
	peers := make([]fdb.Peer, 0, len(n.Peers))
	listed := make(map[netip.Addr]int)
	for _, p := range n.Peers {
		if i, twice := listed[p.Address]; twice {
			peers[i].Flood = peers[i].Flood || p.Flood
			continue
		}
		listed[p.Address] = len(peers)
		peers = append(peers, fdb.Peer{Addr: p.Address, Flood: p.Flood})
	}
	for i, s := range n.bound() {
		at, ok := listed[s.Peer]
		if !ok {
			at = len(peers)
			listed[s.Peer] = at
			peers = append(peers, fdb.Peer{Addr: s.Peer})
		}
		if i >= len(n.FDB) {
			peers[at].Pinned = true
		}
	}
	return peers
}

// checkPeer reports what cannot be a peer's address.
func checkPeer(a, underlay netip.Addr, fail func(string, ...any)) {
	if !a.IsValid() || a.Is4() != underlay.Is4() || a.Is4In6() || a.IsMulticast() || a.IsUnspecified() {
		fail("peer %s: want a unicast address of the underlay's family", a)
	}
	if a == underlay {
		fail("peer %s is this host's own underlay address", a)
	}
}
