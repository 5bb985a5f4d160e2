package dataplane

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"overtap/encap"
	"overtap/fdb"
)

// Stats copies out all counters.
func (e *Engine) Stats() Stats {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := Stats{Networks: []NetworkStats{}, Peers: []PeerStats{}, Drops: []DropStats{}, Wire: []WireStats{}}
	c := e.catalogue.Load()
	for _, n := range c.networks {
		s.Networks = append(s.Networks, n.stats())
	}
	for _, t := range c.tunnels {
		s.Networks = append(s.Networks, t.stats())
	}
	for _, m := range c.members {
		o := m.base()
		for p := range o.peers.All() {
			one := o.peerStats(p)
			if n, ok := m.(*network); ok {
				one.Probe = e.prober.result(n, p.Addr)
			}
			s.Peers = append(s.Peers, one)
		}
		s.Drops = appendDrops(s.Drops, o.name, o.tallies)
	}
	s.Drops = appendDrops(s.Drops, "", e.strangers)
	dropped := make(map[uint16]uint64)
	for at, wires := range e.wires {
		for _, w := range wires {
			dropped[at.port] += w.Dropped()
		}
	}
	for udp, count := range dropped {
		s.Wire = append(s.Wire, WireStats{Port: udp, SocketDropped: count})
	}
	slices.SortFunc(s.Networks, func(a, b NetworkStats) int { return cmp.Compare(a.Network, b.Network) })
	slices.SortFunc(s.Peers, func(a, b PeerStats) int {
		return cmp.Or(cmp.Compare(a.Network, b.Network), a.Peer.Compare(b.Peer))
	})
	slices.SortFunc(s.Wire, func(a, b WireStats) int { return cmp.Compare(a.Port, b.Port) })
	return s
}

// threadDirection is the way of the frames that the i-th thread moves.
func threadDirection(i int) Direction { return Direction(i & 1) }

func (n *network) stats() NetworkStats {
	s := n.overlay.stats()
	s.Kind, s.VNI, s.Port = KindVXLAN, n.config.VNI, n.config.Port
	s.Entries, s.EntriesLearned, s.EntriesMax = n.table.Len(), n.table.LenLearned(), n.config.MaxEntries
	s.Frozen = n.table.Frozen()
	s.ProbesRefused = n.probesRefused.Load()
	return s
}

func (t *tunnel) stats() NetworkStats {
	s := t.overlay.stats()
	s.Kind, s.Entries = KindIPIP, t.routes.Len()
	return s
}

// stats sums the tallies.
func (o *overlay) stats() NetworkStats {
	s := NetworkStats{Network: o.name}
	for i := range o.tallies {
		t := &o.tallies[i]
		if threadDirection(i) == Outbound {
			s.TxOffered += t.offered.Load()
			s.TxPackets += t.packets.Load()
			s.TxBytes += t.bytes.Load()
		} else {
			s.RxOffered += t.offered.Load()
			s.RxPackets += t.packets.Load()
			s.RxBytes += t.bytes.Load()
		}
		s.Flooded += t.flooded.Load()
		s.Suppressed += t.suppressed.Load()
		s.ReservedBits += t.reserved.Load()
		s.LearnRefused += t.learnRefused.Load()
		s.LearnMoved += t.learnMoved.Load()
		s.LearnQuota += t.learnQuota.Load()
		s.LearnFrozen += t.learnFrozen.Load()
		s.LearnBusy += t.learnBusy.Load()
		s.Answered += t.answered.Load()
		s.UnreachableAnswered += t.unreachable.Load()
		s.ProbesReceived += t.probes.Load()
	}
	return s
}

func (o *overlay) peerStats(p fdb.PeerInfo) PeerStats {
	s := PeerStats{Network: o.name, Peer: p.Addr, Flood: p.Flood, Learned: p.Learned, PathMTU: p.PathMTU}
	for i := range o.tallies {
		t := o.tallies[i].peer(p.ID)
		switch {
		case t == nil:
		case threadDirection(i) == Outbound:
			s.TxPackets += t.packets.Load()
			s.TxBytes += t.bytes.Load()
		default:
			s.RxPackets += t.packets.Load()
			s.RxBytes += t.bytes.Load()
		}
	}
	return s
}

// appendDrops sums the drops of the tallies by direction and reason.
func appendDrops(out []DropStats, network string, tallies []tally) []DropStats {
	var sums [directions][dropCount]uint64
	for i := range tallies {
		for d := range tallies[i].drops {
			sums[threadDirection(i)][d] += tallies[i].drops[d].Load()
		}
	}
	for dir := range sums {
		for d, count := range sums[dir] {
			if count != 0 {
				out = append(out, DropStats{Network: network, Direction: Direction(dir), Reason: Drop(d), Count: count})
			}
		}
	}
	return out
}

// Info says what the kernel granted.
func (e *Engine) Info() Info {
	e.mu.Lock()
	defer e.mu.Unlock()
	i := Info{
		Workers: e.workers, Underlay: e.options.Underlay,
		Networks: []NetworkInfo{}, Sources: e.edges.SourcePorts(),
		SegmentationRefused: e.edges.SegmentationRefused() != nil,
		Uplink:              e.edges.Uplink(),
	}
	for _, n := range e.catalogue.Load().networks {
		i.Networks = append(i.Networks, NetworkInfo{
			Network: n.config.Name, Kind: KindVXLAN, VNI: n.config.VNI, Port: n.config.Port,
			Device: n.config.Device, MAC: n.config.MAC, MTU: n.config.MTU,
			Queues: len(n.devices), Offloads: slices.Clone(n.devices[0].Offloads()),
			Lost: n.lost.Load(), TableBytes: n.table.Bytes(),
		})
	}
	for _, t := range e.catalogue.Load().tunnels {
		i.Networks = append(i.Networks, NetworkInfo{
			Network: t.name, Kind: KindIPIP, Device: t.config.Device, MTU: t.config.MTU,
			Queues: len(t.devices), Offloads: slices.Clone(t.devices[0].Offloads()),
			Lost: t.lost.Load(),
		})
	}
	return i
}

// named returns the network of that name, or all for "".
func (e *Engine) named(name string) ([]*network, error) {
	all := e.catalogue.Load().networks
	if name == "" {
		return all, nil
	}
	for _, n := range all {
		if n.config.Name == name {
			return []*network{n}, nil
		}
	}
	return nil, fmt.Errorf("no network is named %q", name)
}

// FDB copies out the forwarding entries of the named network, or of all for "",
// ordered by network and MAC.
func (e *Engine) FDB(network string) ([]FDBEntry, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	networks, err := e.named(network)
	if err != nil {
		return nil, err
	}
	out := []FDBEntry{}
	for _, n := range networks {
		for entry := range n.table.All() {
			out = append(out, n.fdbEntry(entry))
		}
	}
	slices.SortFunc(out, func(a, b FDBEntry) int {
		return cmp.Or(cmp.Compare(a.Network, b.Network), cmp.Compare(a.MAC, b.MAC))
	})
	return out, nil
}

func (n *network) fdbEntry(e fdb.Entry) FDBEntry {
	return FDBEntry{
		Network: n.config.Name, VNI: n.config.VNI, Port: n.config.Port,
		MAC: e.MAC, Peer: n.peers.Addr(e.Peer),
		Origin: e.Origin.String(), Age: e.Age, Frozen: e.Frozen,
	}
}

// Neighbors copies out the neighbours of the named network, or of all for "",
// ordered by network and address.
func (e *Engine) Neighbors(network string) ([]NeighborEntry, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	networks, err := e.named(network)
	if err != nil {
		return nil, err
	}
	out := []NeighborEntry{}
	for _, n := range networks {
		for _, one := range n.config.Neighbors {
			out = append(out, NeighborEntry{
				Network: n.config.Name, VNI: n.config.VNI,
				Address: one.Address, MAC: one.MAC, Origin: fdb.Static.String(),
			})
		}
	}
	slices.SortFunc(out, func(a, b NeighborEntry) int {
		return cmp.Or(cmp.Compare(a.Network, b.Network), a.Address.Compare(b.Address))
	})
	return out, nil
}

// Match selects learned entries; zero fields match everything.
type Match struct {
	Network string
	MAC     encap.MAC
	Peer    netip.Addr
}

// Flush forgets the learned entries that m selects and returns how many.
// Static entries go by Apply.
func (e *Engine) Flush(m Match) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	networks, err := e.named(m.Network)
	if err != nil {
		return 0, err
	}
	count := 0
	for _, n := range networks {
		count += n.table.Flush(func(entry fdb.Entry) bool {
			return entry.Origin == fdb.Learned &&
				(m.MAC == 0 || entry.MAC == m.MAC) &&
				(!m.Peer.IsValid() || n.peers.Addr(entry.Peer) == m.Peer)
		})
	}
	return count, nil
}
