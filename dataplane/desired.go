package dataplane

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"overtap/dataplane/netio"
	"overtap/encap"
	"overtap/fdb"
)

// Desired is all that the engine must forward by: plain data, made by the
// configuration, the command line or a control plane. Apply compares it with what
// runs and changes only what differs.
type Desired struct {
	Networks []Network
	Tunnels  []Tunnel // none has the name or the device of one of Networks
}

// Only returns the part of d that is of one network or tunnel.
func (d *Desired) Only(name string) (one Desired) {
	for i := range d.Networks {
		if d.Networks[i].Name == name {
			one.Networks = append(one.Networks, d.Networks[i])
		}
	}
	for i := range d.Tunnels {
		if d.Tunnels[i].Name == name {
			one.Tunnels = append(one.Tunnels, d.Tunnels[i])
		}
	}
	return one
}

// Tunnel is one IP-in-IP tunnel (RFC 2003, IPv4 in IPv4): a TUN whose packets go to
// the peer that their destination's longest prefix names.
type Tunnel struct {
	Name   string
	Device string           // name of the TUN
	MTU    encap.OverlayMTU // of the TUN
	// Plain opens the TUN without IFF_VNET_HDR, as in Network.
	Plain bool
	// ClampMSS is as in Network.
	ClampMSS bool

	Admit Admit
	// CheckSource drops received packets whose inner source does not route to
	// the peer they came from.
	CheckSource bool

	TTL uint8 // of the outer packet
	TOS TOS   // of the outer packet
	// DF is set on every outer packet; else on those whose inner packet has it
	// (RFC 2003 section 3.1).
	DF bool

	// Routes name the peers; at most one tunnel may name a peer, since nothing
	// in a packet but its sender says which tunnel it belongs to.
	Routes []TunnelRoute
}

// TunnelRoute says behind which peer the addresses of an inner prefix live.
type TunnelRoute struct {
	Prefix netip.Prefix // IPv4, without host bits
	Peer   netip.Addr
}

// Network is one VXLAN segment.
type Network struct {
	Name string
	VNI  encap.VNI
	Port uint16 // UDP port, ours and the peers': 4789 (IANA) or 8472 (old Linux)

	Device string           // name of the TAP
	MAC    encap.MAC        // of the TAP, set before it comes up
	MTU    encap.OverlayMTU // of the TAP
	// Plain opens the TAP without IFF_VNET_HDR: every frame alone, every
	// checksum complete.
	Plain bool
	// ClampMSS lowers the segment size that TCP announces, both ways, to what fits
	// the MTU, or the path to the peer.
	ClampMSS bool

	Learning   bool
	Ageing     time.Duration // whole seconds; 0 = learned entries never age
	MaxEntries int           // bound of learned entries
	// MaxPerPeer bounds the learned entries behind one peer; 0 = half of
	// MaxEntries, or all where there is but one peer.
	MaxPerPeer int
	// MaxMoves of one MAC within MoveWindow, whole seconds, each less than
	// fdb.Settle after the one before, freeze it for as long (RFC 7432 section
	// 15.1); 0 = never.
	MaxMoves   int
	MoveWindow time.Duration
	// Storm bounds what is flooded, each way; PeerStorm what each peer sends of
	// it. A PeerStorm has no UnknownUnicast.
	Storm, PeerStorm Storm
	Admit            Admit
	// VLANDrop drops inner 802.1Q-tagged frames both ways, as RFC 7348 section
	// 6.1 has it for decapsulation; the default passes them, as the kernel does.
	VLANDrop bool
	// ReservedDrop drops datagrams with nonzero reserved bits in the VXLAN
	// header, as the kernel does; the default ignores the bits (RFC 7348
	// section 5) and counts them.
	ReservedDrop bool
	// ZeroChecksum says from whom datagrams without UDP checksum are taken over
	// IPv6; over IPv4 they are, from all.
	ZeroChecksum netio.ZeroChecksum
	// BridgeControl passes frames to 01:80:c2:00:00:0X, which bridges keep (IEEE
	// 802.1D clause 7.12.6): LLDP, LACP, STP, EAPOL and the like, in both directions;
	// the default drops them. Those to 01:80:c2:00:00:01 are dropped either way: MAC
	// control (PAUSE) belongs to one link, and probes go there.
	BridgeControl bool
	Group         netip.Addr // underlay multicast group for BUM frames; invalid = per-peer copies

	TTL uint8 // of the outer packet
	TOS TOS   // of the outer packet
	DF  bool  // do not let routers fragment

	// Probe is the time between two probes to each listed peer; 0 = none. Probes of
	// admitted senders are answered either way.
	Probe time.Duration

	Peers []Peer
	FDB   []StaticEntry

	// Suppress answers ARP requests and neighbour solicitations from the TAP for
	// those Neighbors whose MAC the FDB has behind a peer; what is not known is
	// flooded.
	Suppress  bool
	Neighbors []Neighbor // none twice
}

// bound are all static entries, those that peers are held to behind the others.
func (n *Network) bound() []StaticEntry {
	all := slices.Clone(n.FDB)
	for _, p := range n.Peers {
		for _, m := range p.MACs {
			all = append(all, StaticEntry{MAC: m, Peer: p.Address})
		}
	}
	return all
}

// Bound is how many static entries the network has.
func (n *Network) Bound() int { return len(n.bound()) }

// pins reports whether some peer may send from its own MACs alone.
func (n *Network) pins() bool {
	return slices.ContainsFunc(n.Peers, func(p Peer) bool { return len(p.MACs) > 0 })
}

// AllPeers are the listed peers, and behind them those that only a static entry names,
// which get nothing that is flooded. Those with MACs of their own are pinned.
func (n *Network) AllPeers() []fdb.Peer {
	peers := make([]fdb.Peer, 0, len(n.Peers))
	listed := make(map[netip.Addr]int)
	note := func(a netip.Addr, flood, pinned bool) {
		at, ok := listed[a]
		if !ok {
			at = len(peers)
			listed[a] = at
			peers = append(peers, fdb.Peer{Addr: a})
		}
		peers[at].Flood = peers[at].Flood || flood
		peers[at].Pinned = peers[at].Pinned || pinned
	}
	for _, p := range n.Peers {
		note(p.Address, p.Flood, len(p.MACs) > 0)
	}
	for _, e := range n.FDB {
		note(e.Peer, false, false)
	}
	return peers
}

// Admit says from whom, beyond the listed peers, a network takes frames.
type Admit struct {
	Any      bool           // from any sender
	Prefixes []netip.Prefix // and from these
}

// Peer is a remote VTEP.
type Peer struct {
	Address netip.Addr
	Flood   bool // gets a copy of every broadcast, unknown unicast and multicast frame
	// MACs are static entries of this peer, which may send from them alone, and from
	// those of FDB; none = from any.
	MACs []encap.MAC
}

// StaticEntry binds a MAC to a peer; learning never displaces it.
type StaticEntry struct {
	MAC  encap.MAC
	Peer netip.Addr
	// Origin is the control plane that has the entry; zero = the operator
	// (fdb.Static).
	Origin fdb.Origin
}

// rank is the entry's origin.
func (s *StaticEntry) rank() fdb.Origin { return cmp.Or(s.Origin, fdb.Static) }

// Neighbor binds an inner address to a MAC.
type Neighbor = fdb.Neighbor

// TOS says what the outer DSCP is. The two ECN bits always follow RFC 6040.
type TOS struct {
	Inherit bool  // the inner packet's DSCP
	Value   uint8 // else this octet, of which the upper six bits count
}

// Diff names what an Apply changed, each list in the order of the names.
type Diff struct {
	Added, Removed, Changed []string // networks and tunnels
}

// Empty reports whether nothing changed.
func (d Diff) Empty() bool {
	return len(d.Added)+len(d.Removed)+len(d.Changed) == 0
}
