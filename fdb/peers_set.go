package fdb

import (
	"cmp"
	"fmt"
	"iter"
	"net/netip"
	"slices"

	"overtap/encap"
)

// Peer is a listed VTEP as it must be.
type Peer struct {
	Addr  netip.Addr
	Flood bool // gets a copy of every BUM frame
	// Pinned: it may send only from MACs that are bound to it by Put. The
	// caller that takes frames in checks it; Admit does not look inside.
	Pinned bool
}

// PeerInfo is a copy of what is known of one peer.
type PeerInfo struct {
	ID      PeerID
	Addr    netip.Addr
	Flood   bool
	Learned bool   // admitted by the policy, not listed
	Idle    uint32 // seconds since the last frame from a learned peer; 0 for listed ones
	// LastHeard is the clock's second in which a frame of it was admitted last; 0 =
	// none ever was. It may be before the clock's first, where Restore said so.
	LastHeard uint32
	Known     uint32            // seconds since it was listed, or became a learned peer
	PathMTU   encap.UnderlayMTU // 0 = no limit is known
}

// Set makes want the listed peers and policy the admission. Peers that stay keep
// their ID. One that is listed no longer becomes a learned peer if the policy
// admits it and the bound of learned peers leaves room; one that is neither
// listed nor admitted goes, and its ID is among removed: see the package's
// comment for what to do with it. The network's own address in want is passed
// over, so that all hosts may share one list; of two peers with one address,
// either's Flood and Pinned count. On an error (ErrInvalid, ErrFull) nothing has changed.
func (p *Peers) Set(want []Peer, policy Policy) (removed []PeerID, err error) {
	pol, err := compile(policy)
	if err != nil {
		return nil, err
	}
	listed := make(map[netip.Addr]Peer, len(want))
	order := make([]netip.Addr, 0, len(want))
	for _, w := range want {
		a := w.Addr.Unmap()
		if !isUnicast(a) {
			return nil, fmt.Errorf("peer %s: not a unicast address: %w", w.Addr, ErrInvalid)
		}
		if a == p.self {
			continue
		}
		one, twice := listed[a]
		if !twice {
			order = append(order, a)
		}
		listed[a] = Peer{Flood: one.Flood || w.Flood, Pinned: one.Pinned || w.Pinned}
	}

	p.writer.take()
	defer p.writer.release()

	present := p.index.Load().peers()
	fresh := len(listed)
	for _, r := range present {
		if _, ok := listed[r.addr]; ok {
			fresh--
		}
	}
	if fresh > p.idsLeft() {
		return nil, fmt.Errorf("%d new peers: %w", fresh, ErrFull)
	}

	// Those learned already go before those that would become so.
	slices.SortFunc(present, func(a, b *peer) int {
		return cmp.Or(cmp.Compare(a.state.Load(), b.state.Load()), cmp.Compare(a.id, b.id))
	})
	stay := make([]*peer, 0, len(listed))
	known := make(map[netip.Addr]*peer, len(listed))
	learned := 0
	for _, r := range present {
		as, ok := listed[r.addr]
		r.pinned.Store(as.Pinned)
		switch {
		case ok:
			if r.state.Load() == stateLearned {
				r.since.Store(p.clock.Now())
			}
			r.state.Store(listedState(as.Flood))
			known[r.addr] = r
		case learned < p.max && pol.admits(r.addr):
			if r.state.Load() != stateLearned {
				r.since.Store(p.clock.Now())
				r.state.Store(stateLearned)
			}
			learned++
		default:
			r.state.Store(stateRetired)
			removed = append(removed, r.id)
			continue
		}
		stay = append(stay, r)
	}

	var flood []Target
	for _, a := range order {
		r := known[a]
		if r == nil {
			r = p.newPeer(a, listedState(listed[a].Flood))
			r.pinned.Store(listed[a].Pinned)
			stay = append(stay, r)
		}
		if listed[a].Flood {
			flood = append(flood, Target{ID: r.id, Addr: a})
		}
	}
	p.policy.Store(pol)
	p.reindex(stay)
	p.flood.Store(&flood)
	p.count.Store(int64(len(stay)))
	p.learned.Store(int64(learned))
	return removed, nil
}

func listedState(flood bool) uint32 {
	if flood {
		return stateFlood
	}
	return stateListed
}

// Expire removes the learned peers that have not sent for idle seconds, or none
// when idle is 0. With idle no shorter than the ageing time of the Table, all
// that was learned from such a peer has aged out before; the package's comment
// says what to do with the IDs.
func (p *Peers) Expire(idle uint32) (removed []PeerID) {
	if idle == 0 || p.LenLearned() == 0 {
		return nil
	}
	now := p.clock.Now()
	expired := func(r *peer) bool {
		return r.state.Load() == stateLearned && int64(r.idle(now)) >= int64(idle)
	}
	// Without the lock, which a sender on its way in would miss for so long.
	if !p.index.Load().holds(expired) {
		return nil
	}
	p.writer.take()
	defer p.writer.release()
	stay := slices.DeleteFunc(p.index.Load().peers(), func(r *peer) bool {
		if !expired(r) {
			return false
		}
		r.state.Store(stateRetired)
		removed = append(removed, r.id)
		return true
	})
	if len(removed) > 0 {
		p.reindex(stay)
		p.count.Add(-int64(len(removed)))
		p.learned.Add(-int64(len(removed)))
	}
	return removed
}

// Release lets new peers have the IDs of removed ones, the longest released
// first; the package's comment says when. IDs that are not a removed peer's are
// passed over.
func (p *Peers) Release(ids []PeerID) {
	p.writer.take()
	defer p.writer.release()
	for _, id := range ids {
		if r := p.lookup(id); r != nil && r.state.Load() == stateRetired {
			(*p.byID.Load())[id].Store(nil)
			p.free = append(p.free, id)
		}
	}
}

// All yields every peer that is not removed, in the order of their IDs. Peers
// added or removed meanwhile may or may not be among them.
func (p *Peers) All() iter.Seq[PeerInfo] {
	return func(yield func(PeerInfo) bool) {
		byID := *p.byID.Load()
		for i := range byID {
			r := byID[i].Load()
			if r == nil {
				continue
			}
			if info, ok := r.info(p.clock.Now()); ok && !yield(info) {
				return
			}
		}
	}
}

// info copies out what is known of r, unless it is removed.
func (r *peer) info(now uint32) (PeerInfo, bool) {
	info := PeerInfo{ID: r.id, Addr: r.addr, PathMTU: r.pathMTU(), Known: uint32(max(0, since(now, r.since.Load())))}
	info.LastHeard = r.heard.Load()
	switch r.state.Load() {
	case stateRetired:
		return PeerInfo{}, false
	case stateFlood:
		info.Flood = true
	case stateLearned:
		info.Learned = true
		info.Idle = r.idle(now)
	}
	return info, true
}
