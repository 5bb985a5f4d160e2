package dataplane

import (
	"net/netip"
	"time"

	"overtap/dataplane/netio"
	"overtap/encap"
	"overtap/fdb"
)

// Stats is a copy of every counter at one moment. The JSON names are part of
// the command line's contract.
type Stats struct {
	Networks []NetworkStats `json:"networks"`
	Peers    []PeerStats    `json:"peers"`
	Drops    []DropStats    `json:"drops"`
	Wire     []ConnStats    `json:"wire"`
	// ChecksumErrors is how many datagrams the kernel refused because their UDP
	// checksum was wrong, or over IPv6 zero where no network of the port takes that:
	// to any socket of this host since it started (Udp6InCsumErrors of
	// /proc/net/snmp6; over an IPv4 underlay InCsumErrors of /proc/net/snmp).
	ChecksumErrors uint64 `json:"udp_checksum_errors"`
}

// Traffic counts frames and bytes of inner Ethernet frames, of a tunnel inner IP
// packets; tx is toward the wire. A GSO packet counts as the frames it stands for, with their headers.
type Traffic struct {
	TxPackets uint64 `json:"tx_packets"`
	TxBytes   uint64 `json:"tx_bytes"`
	RxPackets uint64 `json:"rx_packets"`
	RxBytes   uint64 `json:"rx_bytes"`
}

// Kind says what a network is on the wire.
type Kind string

// The kinds.
const (
	KindVXLAN Kind = "vxlan" // a Network
	KindIPIP  Kind = "ipip"  // a Tunnel: VNI, port, MAC and table are zero
)

// NetworkStats counts one network or tunnel.
type NetworkStats struct {
	Network string    `json:"network"`
	Kind    Kind      `json:"kind"`
	VNI     encap.VNI `json:"vni"`
	Port    uint16    `json:"port"`
	Traffic
	// TxOffered is what the device gave, each receiver of a flooded frame counted:
	// packets sent, dropped and suppressed come to as many once all is done.
	TxOffered uint64 `json:"tx_offered"`
	// RxOffered is what the underlay brought for this network: packets delivered
	// and dropped come to as many.
	RxOffered      uint64 `json:"rx_offered"`
	Flooded        uint64 `json:"flooded"`         // BUM frames replicated
	Suppressed     uint64 `json:"suppressed"`      // ARP requests and neighbour solicitations answered here, and not sent
	ReservedBits   uint64 `json:"reserved_bits"`   // frames taken with nonzero reserved bits in the VXLAN header
	Entries        int    `json:"entries"`         // in the FDB; of a tunnel, its routes
	EntriesLearned int    `json:"entries_learned"` // of them learned
	EntriesMax     int    `json:"entries_max"`
	LearnRefused   uint64 `json:"learn_refused"` // frames delivered without learning: the table is at its bound
	LearnMoved     uint64 `json:"learn_moved"`   // learned MACs that changed peer
	LearnQuota     uint64 `json:"learn_quota"`   // frames delivered without learning: their peer has its share of the table
	LearnFrozen    uint64 `json:"learn_frozen"`  // frames delivered without learning: their MAC is frozen
	LearnBusy      uint64 `json:"learn_busy"`    // frames delivered without learning: another worker was at the table; the next teaches
	// UnlistedSources counts frames that were delivered although their source stands
	// in no entry, or in one of another peer, of a network with entries that learns
	// nothing. Frames to that peer likely go to a MAC that it has no more.
	UnlistedSources uint64 `json:"unlisted_sources"`
	// Unlisted is the last of them; nil while there is none.
	Unlisted *UnlistedSource `json:"unlisted,omitempty"`
	Frozen   int             `json:"frozen"` // MACs that moved too often and stay where they are for a while
	// MovesSaturated: within the last minute more MACs moved than are counted; moves
	// are then refused sooner, or later, than max_moves says.
	MovesSaturated bool   `json:"moves_saturated,omitempty"`
	Answered       uint64 `json:"too_big_answered"` // senders of frames too big that were sent an ICMP error
	// Fragmented counts packets without DF that were fragmented before they were
	// encapsulated, as the path to the peer does not take them whole. Each fragment
	// counts as a packet.
	Fragmented uint64 `json:"fragmented"`
	// ClearedDF counts packets that left in outer packets without DF, for the kernel
	// to fragment, as the path to the peer takes less than their senders go down to.
	ClearedDF uint64 `json:"cleared_df"`
	// UnreachableAnswered counts senders of a tunnel's packets that were notified by
	// ICMP that the packets did not arrive.
	UnreachableAnswered uint64 `json:"unreachable_answered"`
	// ProbesReceived counts requests and replies that peers sent to see whether
	// this end is alive. They are none of what was offered, sent or dropped.
	ProbesReceived uint64 `json:"probes_received"`
	ProbesRefused  uint64 `json:"probes_refused"` // of these requests without a reply: their peer asks too often
}

// UnlistedSource is a source MAC that no entry names behind its peer.
type UnlistedSource struct {
	MAC  encap.MAC  `json:"mac"`
	Peer netip.Addr `json:"peer"`
	Age  uint32     `json:"age_seconds"` // since its last frame
}

// PeerStats counts one peer of one network.
type PeerStats struct {
	Network string     `json:"network"`
	Peer    netip.Addr `json:"peer"`
	Flood   bool       `json:"flood"`
	Learned bool       `json:"learned"` // admitted by prefix or "any", not listed
	State   PeerState  `json:"state"`
	// LastHeard is when a frame or a probe of it was admitted last, to the
	// second; zero = never.
	LastHeard time.Time `json:"last_heard,omitzero"`
	// PathMTU is the longest outer packet in bytes that reaches the peer, 0
	// where nothing is known to be too long.
	PathMTU encap.UnderlayMTU `json:"pmtu"`
	Traffic
	*Probe // nil where the network does not probe, or not this peer
}

// PeerState says how a peer fares. One that ever answered a probe is judged by
// probes; of others, which may be kernel devices, only what they sent is known.
type PeerState string

// The states.
const (
	PeerAlive  PeerState = "alive"  // it answers probes
	PeerLost   PeerState = "lost"   // it answered probes, and does not any more
	PeerHeard  PeerState = "heard"  // it never answered one, and was heard within HeardWithin
	PeerSilent PeerState = "silent" // it never answered one, and was heard before that
	PeerNever  PeerState = "never"  // it was never heard, for longer than HeardWithin
	PeerNew    PeerState = "new"    // it was never heard, but is not listed for longer
)

// PeerStates are all of them.
var PeerStates = []PeerState{PeerAlive, PeerHeard, PeerSilent, PeerNew, PeerNever, PeerLost}

// HeardWithin is for how long a peer that answers no probes counts as heard, and
// how long one that was just listed may be silent.
const HeardWithin = time.Minute

// stateOf judges a peer; probe is nil where it is not asked.
// now is the clock's second.
func stateOf(p fdb.PeerInfo, now uint32, probe *Probe) PeerState {
	// Signed, because the clock may have moved between the two readings.
	within := func(seconds int32) bool { return seconds <= int32(HeardWithin/time.Second) }
	switch {
	case probe != nil && probe.Answered && probe.Alive:
		return PeerAlive
	case probe != nil && probe.Answered:
		return PeerLost
	case p.LastHeard != 0 && within(int32(now-p.LastHeard)):
		return PeerHeard
	case p.LastHeard != 0:
		return PeerSilent
	case within(int32(p.Known)):
		return PeerNew
	}
	return PeerNever
}

// Probe is what probes show of a peer.
type Probe struct {
	// Alive: it answered one of the last probes. A peer that is no overtap never
	// does.
	Alive bool `json:"alive"`
	// Answered: it answered one ever.
	Answered bool `json:"answered"`
	// RTT is the round trip of the last that was answered, in seconds.
	RTT float64 `json:"rtt_seconds,omitempty"`
	// UnansweredSince is when the first of those was sent that were not answered
	// since the last that was.
	UnansweredSince time.Time `json:"unanswered_since,omitzero"`
	// VerifiedMTU is the longest outer packet in bytes that a probe proved to
	// arrive, of up to FullMTU; 0 while that is not known.
	VerifiedMTU encap.UnderlayMTU `json:"verified_mtu,omitempty"`
	// FullMTU is the outer packet of the network's longest untagged frame.
	FullMTU encap.UnderlayMTU `json:"full_mtu,omitempty"`
}

// IsNarrow reports whether the path to the peer takes less than the network's
// frames, which probes found out.
func (p *Probe) IsNarrow() bool { return p.VerifiedMTU != 0 && p.VerifiedMTU < p.FullMTU }

// DropStats counts the frames dropped for one reason. Only reasons that
// happened are listed.
type DropStats struct {
	Network   string    `json:"network"` // "" when the frame belonged to none
	Direction Direction `json:"direction"`
	Reason    Drop      `json:"reason"`
	Count     uint64    `json:"count"`
	// LastPeer is who sent the last of them or, outbound, whom it was for. It is
	// invalid where that is not known: of a frame that has no destination yet.
	LastPeer netip.Addr `json:"last_peer,omitzero"`
	// Last is when that was, to the second.
	Last time.Time `json:"last,omitzero"`
}

// ConnStats counts what the sockets of one port lost before the engine saw it.
type ConnStats struct {
	Port          uint16 `json:"port"`           // 0 = IP-in-IP
	SocketDropped uint64 `json:"socket_dropped"` // datagrams the kernel dropped at a full receive buffer
}

// FDBEntry is one row of the forwarding table; its JSON names are part of the
// command line's contract.
type FDBEntry struct {
	Network string     `json:"network"`
	VNI     encap.VNI  `json:"vni"`
	MAC     encap.MAC  `json:"mac"`
	Peer    netip.Addr `json:"peer"`
	Port    uint16     `json:"port"`
	Origin  string     `json:"origin"`      // "static", "cluster" or "learned"
	Age     uint32     `json:"age_seconds"` // since last seen as a source; 0 for what does not age
	// Frozen: the MAC moved too often and stays where it is for a while.
	Frozen bool `json:"frozen,omitempty"`
}

// NeighborEntry is one neighbour; its JSON names are part of the command line's
// contract.
type NeighborEntry struct {
	Network string     `json:"network"`
	VNI     encap.VNI  `json:"vni"`
	Address netip.Addr `json:"address"`
	MAC     encap.MAC  `json:"mac"`
	Origin  string     `json:"origin"` // "static" or "cluster"
}

// Info describes what the engine was granted by this host.
type Info struct {
	Workers  int           `json:"workers"`
	Underlay netip.Addr    `json:"underlay"`
	Networks []NetworkInfo `json:"networks"`
	Sources  []uint16      `json:"source_ports"` // the pool of source ports
	// SegmentationRefused: the route to some peer refused UDP_SEGMENT, so that
	// every datagram is sent alone there for a while.
	SegmentationRefused bool             `json:"segmentation_refused"`
	Offloads            []OffloadInfo    `json:"offloads"` // each of Options.Offloads
	Uplink              netio.UplinkInfo `json:"uplink"`
}

// NetworkInfo describes the device of one network or tunnel.
type NetworkInfo struct {
	Network string           `json:"network"`
	Kind    Kind             `json:"kind"`
	VNI     encap.VNI        `json:"vni"`
	Port    uint16           `json:"port"`
	Device  string           `json:"device"`
	MAC     encap.MAC        `json:"mac"`
	MTU     encap.OverlayMTU `json:"mtu"`
	Queues  int              `json:"queues"`
	// Offloads are what the kernel granted: "csum", "tso4", "tso6", "ecn",
	// "uso", and "steering" where each flow keeps its queue, and so its worker.
	Offloads []string `json:"offloads"`
	Lost     bool     `json:"lost"` // the device was deleted under us
	// TableBytes is what the forwarding table takes when it is full.
	TableBytes int `json:"table_bytes"`
}
