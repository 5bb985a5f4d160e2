package top

import (
	"net/netip"
	"time"

	"overtap/dataplane"
)

// Rate is what travels in a second; tx is toward the wire.
type Rate struct {
	TxBits    float64 `json:"tx_bits_per_second"`
	TxPackets float64 `json:"tx_packets_per_second"`
	RxBits    float64 `json:"rx_bits_per_second"`
	RxPackets float64 `json:"rx_packets_per_second"`
}

// bits returns the bits per second of both ways.
func (r Rate) bits() float64 { return r.TxBits + r.RxBits }

// Network is one network or tunnel.
type Network struct {
	Network string         `json:"network"`
	Kind    dataplane.Kind `json:"kind"`
	Rate
	Drops      float64 `json:"drops_per_second"`
	Entries    int     `json:"entries"` // in the FDB; of a tunnel, its routes
	EntriesMax int     `json:"entries_max"`
}

// Peer is one peer of one network.
type Peer struct {
	Network string     `json:"network"`
	Peer    netip.Addr `json:"peer"`
	PathMTU int        `json:"pmtu"` // 0 = nothing is known to be too long
	Rate
}

// Drop is one reason for which frames are dropped.
type Drop struct {
	Network   string  `json:"network"` // "" when they belong to none
	Direction string  `json:"direction"`
	Reason    string  `json:"reason"`
	Rate      float64 `json:"drops_per_second"`
	Count     uint64  `json:"count"` // since the daemon's start
	// LastPeer is who sent the last of them or, outbound, whom it was for.
	LastPeer netip.Addr `json:"last_peer,omitzero"`
	Last     time.Time  `json:"last,omitzero"` // when that was
	text     string     // the reason in words
}

// Rates is what two samples say of the time between them.
type Rates struct {
	// Seconds lie between the samples; 0 = there was one only, and all rates
	// are zero.
	Seconds  float64   `json:"interval_seconds"`
	Networks []Network `json:"networks"`
	Peers    []Peer    `json:"peers"`
	Drops    []Drop    `json:"drops"`
	total    Rate
	drops    float64
}

// socketDropped is the reason of what the kernel dropped before the engine saw
// it, in the words of `overtap stats`.
const socketDropped = "socket_dropped"

// rates compares a sample with the one before it, nil = there is none. What was
// not there before began at zero. So did what counts less than before: the daemon,
// or the network, was started again.
func rates(before, now *sample) Rates {
	r := Rates{Networks: []Network{}, Peers: []Peer{}, Drops: []Drop{}}
	was := index{}
	if before != nil {
		r.Seconds = max(now.at.Sub(before.at).Seconds(), 0)
		if before.status.PID == now.status.PID {
			was = newIndex(&before.stats)
		}
	}
	per := func(n uint64) float64 {
		if r.Seconds == 0 {
			return 0
		}
		return float64(n) / r.Seconds
	}

	dropped := make(map[string]float64)
	drop := func(k dropKey, text string, count uint64, last dataplane.DropStats) {
		rate := per(since(was.drops[k], count))
		dropped[k.network] += rate
		r.drops += rate
		r.Drops = append(r.Drops, Drop{k.network, k.direction, k.reason, rate, count, last.LastPeer, last.Last, text})
	}
	for _, d := range now.stats.Drops {
		drop(dropKey{d.Network, d.Direction.String(), d.Reason.String()}, d.Reason.Text(), d.Count, d)
	}
	var sockets uint64
	for _, w := range now.stats.Wire {
		sockets += w.SocketDropped
	}
	if sockets > 0 {
		drop(socketKey, "the kernel found the receive buffer full", sockets, dataplane.DropStats{})
	}

	for _, n := range now.stats.Networks {
		row := Network{
			Network: n.Network, Kind: n.Kind, Rate: traffic(was.networks[n.Network], n.Traffic, per),
			Drops: dropped[n.Network], Entries: n.Entries, EntriesMax: n.EntriesMax,
		}
		r.total = Rate{
			r.total.TxBits + row.TxBits, r.total.TxPackets + row.TxPackets,
			r.total.RxBits + row.RxBits, r.total.RxPackets + row.RxPackets,
		}
		r.Networks = append(r.Networks, row)
	}
	for _, p := range now.stats.Peers {
		r.Peers = append(r.Peers, Peer{p.Network, p.Peer, int(p.PathMTU), traffic(was.peers[peerKey{p.Network, p.Peer}], p.Traffic, per)})
	}
	return r
}

// since returns how much a counter has counted.
func since(was, now uint64) uint64 {
	if now < was {
		return now
	}
	return now - was
}

// traffic is the rate of counters that are set to zero together.
func traffic(was, now dataplane.Traffic, per func(uint64) float64) Rate {
	if now.TxPackets < was.TxPackets || now.TxBytes < was.TxBytes || now.RxPackets < was.RxPackets || now.RxBytes < was.RxBytes {
		was = dataplane.Traffic{}
	}
	return Rate{
		TxBits: 8 * per(now.TxBytes-was.TxBytes), TxPackets: per(now.TxPackets - was.TxPackets),
		RxBits: 8 * per(now.RxBytes-was.RxBytes), RxPackets: per(now.RxPackets - was.RxPackets),
	}
}

type peerKey struct {
	network string
	peer    netip.Addr
}

type dropKey struct{ network, direction, reason string }

// socketKey is that of all ports' sockets together.
var socketKey = dropKey{direction: dataplane.Inbound.String(), reason: socketDropped}

// index finds the counters of a sample.
type index struct {
	networks map[string]dataplane.Traffic
	peers    map[peerKey]dataplane.Traffic
	drops    map[dropKey]uint64
}

func newIndex(s *dataplane.Stats) index {
	x := index{
		networks: make(map[string]dataplane.Traffic, len(s.Networks)),
		peers:    make(map[peerKey]dataplane.Traffic, len(s.Peers)),
		drops:    make(map[dropKey]uint64, len(s.Drops)),
	}
	for _, n := range s.Networks {
		x.networks[n.Network] = n.Traffic
	}
	for _, p := range s.Peers {
		x.peers[peerKey{p.Network, p.Peer}] = p.Traffic
	}
	for _, d := range s.Drops {
		x.drops[dropKey{d.Network, d.Direction.String(), d.Reason.String()}] = d.Count
	}
	for _, w := range s.Wire {
		x.drops[socketKey] += w.SocketDropped
	}
	return x
}
