package dataplane

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"overtap/encap"
	"overtap/fdb"
)

// Stats copies out all counters.
func (e *Engine) Stats() Stats {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := Stats{Networks: []NetworkStats{}, Peers: []PeerStats{}, Drops: []DropStats{}, Wire: []ConnStats{}, ChecksumErrors: e.backend.ChecksumErrors()}
	c := e.snapshot.Load()
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
			if p.LastHeard != 0 {
				one.LastHeard = e.timeOf(p.LastHeard)
			}
			one.Probe = e.probed(m, p.Addr)
			one.State = stateOf(p, e.clock.Now(), one.Probe)
			s.Peers = append(s.Peers, one)
		}
		s.Drops = e.appendDrops(s.Drops, o.name, o.counters)
	}
	s.Drops = e.appendDrops(s.Drops, "", e.unmatched)
	dropped := make(map[uint16]uint64)
	for at, wires := range e.conns {
		for _, w := range wires {
			dropped[at.port] += w.Dropped()
		}
	}
	for udp, count := range dropped {
		s.Wire = append(s.Wire, ConnStats{Port: udp, SocketDropped: count})
	}
	slices.SortFunc(s.Networks, func(a, b NetworkStats) int { return cmp.Compare(a.Network, b.Network) })
	slices.SortFunc(s.Peers, func(a, b PeerStats) int {
		return cmp.Or(cmp.Compare(a.Network, b.Network), a.Peer.Compare(b.Peer))
	})
	slices.SortFunc(s.Wire, func(a, b ConnStats) int { return cmp.Compare(a.Port, b.Port) })
	return s
}

// probed is what probes show of a peer; nil where it is not asked.
func (e *Engine) probed(m member, peer netip.Addr) *Probe {
	if n, ok := m.(*network); ok {
		return e.prober.result(n, peer)
	}
	return nil
}

// EachPeer calls f with how each listed peer fares, without the cost of Stats.
func (e *Engine) EachPeer(f func(network string, peer netip.Addr, state PeerState)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, m := range e.snapshot.Load().members {
		o := m.base()
		for p := range o.peers.All() {
			if !p.Learned {
				f(o.name, p.Addr, stateOf(p, e.clock.Now(), e.probed(m, p.Addr)))
			}
		}
	}
}

// timeOf is when a second of the coarse clock was, which may be before its first.
func (e *Engine) timeOf(second uint32) time.Time {
	return e.started.Add(time.Duration(int32(second-1)) * time.Second).Truncate(time.Second)
}

// threadDirection is the way of the frames that the i-th thread moves.
func threadDirection(i int) Direction { return Direction(i & 1) }

func (n *network) stats() NetworkStats {
	s := n.netBase.stats()
	s.Kind, s.VNI, s.Port = KindVXLAN, n.config().VNI, n.config().Port
	s.Entries, s.EntriesLearned, s.EntriesMax = n.table.Len(), n.table.LenLearned(), n.config().MaxEntries
	s.Frozen, s.MovesSaturated = n.table.Frozen(), n.table.Saturated()
	s.ProbesRefused = n.probesRefused.Load()
	return s
}

func (t *tunnel) stats() NetworkStats {
	s := t.netBase.stats()
	s.Kind, s.Entries = KindIPIP, t.routes.Len()
	return s
}

// stats sums the tallies.
func (o *netBase) stats() NetworkStats {
	s := NetworkStats{Network: o.name}
	for i := range o.counters {
		t := &o.counters[i]
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
		if n := t.unlisted.Load(); n != 0 {
			s.UnlistedSources += n
			if last := o.unlisted(t); s.Unlisted == nil || last.Age < s.Unlisted.Age {
				s.Unlisted = &last
			}
		}
		s.Answered += t.answered.Load()
		s.Fragmented += t.fragmented.Load()
		s.ClearedDF += t.clearedDF.Load()
		s.UnreachableAnswered += t.unreachable.Load()
		s.ProbesReceived += t.probes.Load()
	}
	return s
}

// unlisted is the last source that the thread found in no entry.
func (o *netBase) unlisted(t *counters) UnlistedSource {
	return UnlistedSource{
		MAC:  encap.MAC(t.unlistedMAC.Load()),
		Peer: o.peers.Addr(fdb.PeerID(t.unlistedPeer.Load())),
		Age:  o.peers.Since(t.unlistedAt.Load()),
	}
}

func (o *netBase) peerStats(p fdb.PeerInfo) PeerStats {
	s := PeerStats{Network: o.name, Peer: p.Addr, Flood: p.Flood, Learned: p.Learned, PathMTU: p.PathMTU}
	if p.PathMTU == fdb.NoRoute {
		s.PathMTU = 0
	}
	for i := range o.counters {
		t := o.counters[i].peer(p.ID)
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
func (e *Engine) appendDrops(out []DropStats, network string, tallies []counters) []DropStats {
	for dir := range directions {
		for d := range dropCount {
			one := DropStats{Network: network, Direction: dir, Reason: d}
			latest := uint32(0)
			for i := range tallies {
				t := &tallies[i]
				if threadDirection(i) != dir {
					continue
				}
				one.Count += t.drops[d].Load()
				if last := t.last.Load(); last != nil {
					if peer, second := last[d].load(); second > latest {
						latest, one.LastPeer = second, peer
					}
				}
			}
			if one.Count == 0 {
				continue
			}
			if latest != 0 {
				one.Last = e.timeOf(latest)
			}
			out = append(out, one)
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
		Networks: []NetworkInfo{}, Sources: e.backend.SourcePorts(),
		SegmentationRefused: len(e.backend.RunsRefused()) > 0,
		Offloads:            e.offloads(),
		Uplink:              e.backend.Uplink(),
	}
	for _, n := range e.snapshot.Load().networks {
		i.Networks = append(i.Networks, NetworkInfo{
			Network: n.config().Name, Kind: KindVXLAN, VNI: n.config().VNI, Port: n.config().Port,
			Device: n.config().Device, MAC: n.config().MAC, MTU: n.config().MTU,
			Queues: len(n.devices), Offloads: slices.Clone(n.devices[0].Offloads()),
			Lost: n.lost.Load(), TableBytes: n.table.Bytes(),
		})
	}
	for _, t := range e.snapshot.Load().tunnels {
		i.Networks = append(i.Networks, NetworkInfo{
			Network: t.name, Kind: KindIPIP, Device: t.config.Load().Device, MTU: t.config.Load().MTU,
			Queues: len(t.devices), Offloads: slices.Clone(t.devices[0].Offloads()),
			Lost: t.lost.Load(),
		})
	}
	return i
}

// named returns the network of that name, or all for "".
func (e *Engine) named(name string) ([]*network, error) {
	all := e.snapshot.Load().networks
	if name == "" {
		return all, nil
	}
	for _, n := range all {
		if n.config().Name == name {
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
		Network: n.config().Name, VNI: n.config().VNI, Port: n.config().Port,
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
		for _, one := range n.config().Neighbors {
			out = append(out, NeighborEntry{
				Network: n.config().Name, VNI: n.config().VNI,
				Address: one.Address, MAC: one.MAC, Origin: cmp.Or(one.Origin, fdb.Static).String(),
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
