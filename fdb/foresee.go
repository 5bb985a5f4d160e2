package fdb

import (
	"net/netip"

	"overtap/encap"
)

// What the road asks by Lookup, Learn, Forget and Admit, control asks here
// without leaving a trace: the answers are those that the road would get now,
// but for another writer in its way (LearnBusy, AdmitBusy).

// Entry returns the row of m, as All would: none for what has aged out.
func (t *Table) Entry(m encap.MAC) (Entry, bool) {
	s, v := t.find(m)
	if s == nil {
		return Entry{}, false
	}
	w := t.copyOut(keyLive|uint64(m), v, t.clock.Now())
	return w.Entry, !w.aged
}

// ForeseeForget reports whether Forget would remove an entry of m.
func (t *Table) ForeseeForget(m encap.MAC) bool {
	s, v := t.find(m)
	return s != nil && t.departs(v, t.clock.Now())
}

// ForeseeLearn returns what Learn would. For a peer without an ID yet, p is
// NoPeer.
func (t *Table) ForeseeLearn(m encap.MAC, p PeerID) Verdict {
	t.writer.take()
	defer t.writer.release()
	now := t.clock.Now()
	if i, found := t.seek(m); found {
		v := t.slots[i].val.Load()
		if verdict, settled := t.judge(v, p, now); settled {
			return verdict
		}
		r := t.mover(m)
		if v&valueFrozen != 0 { // it melts, and its moves are forgotten
			v, r = v&^valueFrozen, new(mover)
		}
		aged := t.aged(v, now)
		return t.moving(peerOf(v), p, aged, !aged && t.freezes(m, r, now))
	}
	if r := t.mover(m); r != nil && !(r.until != 0 && since(now, r.heard.Load()) >= Silence) &&
		(r.until != 0 || r.local && t.freezes(m, r, now)) {
		return LearnFrozen
	}
	if !t.crowded(p) {
		return LearnAdded
	}
	old, oldOfPeer := t.sweepable(p, now)
	switch {
	case t.satiatedBut(p, oldOfPeer):
		return LearnQuota
	case old == 0:
		return LearnFull
	}
	return LearnAdded
}

// freezes reports whether moved would, of a move away from our own side or between
// peers; r is what is known of m's moves, nil is nothing.
func (t *Table) freezes(m encap.MAC, r *mover, now uint32) bool {
	if t.guard.limits.Moves == 0 {
		return false
	}
	if r == nil && t.guard.movers != nil {
		frozen, set := 0, t.guard.movers.set(m, t.hash)
		for i := range set {
			if set[i].until != 0 {
				frozen++
			}
		}
		if frozen == len(set) {
			return false // there is no place to count its moves
		}
	}
	if r == nil {
		r = new(mover)
	}
	return t.often(r, now)
}

// sweepable counts the entries that the sweep of a crowded table would find aged
// out, and those of them behind p. Each that goes lets the sweep see a little
// less or more than the slots as they lie: the count of p's may be one off.
func (t *Table) sweepable(p PeerID, now uint32) (all, ofPeer int) {
	if t.ageing == never || t.isSwept(now) {
		return 0, 0
	}
	at := t.cursor
	for range min(roomSlots, len(t.slots)) {
		s := &t.slots[at]
		if k, v := s.key.Load(), s.val.Load(); isLive(k) && t.aged(v, now) {
			all++
			if peerOf(v) == p {
				ofPeer++
			}
		}
		at = t.next(at)
	}
	return all, ofPeer
}

// Foresee returns what Admit would. A sender that would be AdmitAdded has no ID
// yet: NoPeer.
func (p *Peers) Foresee(a netip.Addr) (PeerID, Admission) {
	a = a.Unmap()
	p.writer.take()
	defer p.writer.release()
	return p.consider(a, p.hash.addr(a))
}

// Peer copies out what is known of the peer with that ID, unless it was removed.
func (p *Peers) Peer(id PeerID) (PeerInfo, bool) {
	if r := p.lookup(id); r != nil {
		return r.info(p.clock.Now())
	}
	return PeerInfo{}, false
}

// AdmittedBy returns the longest admitted prefix that holds a; it is invalid
// where only Policy.Any admits a, and ok false where nothing does.
func (p *Peers) AdmittedBy(a netip.Addr) (prefix netip.Prefix, ok bool) {
	a = a.Unmap()
	pol := p.policy.Load()
	if !pol.admits(a) {
		return netip.Prefix{}, false
	}
	prefix, _ = pol.prefixes.LookupPrefixLPM(netip.PrefixFrom(a, a.BitLen()))
	return prefix, true
}

// Route returns the route that Lookup follows for a.
func (r *Routes) Route(a netip.Addr) (Route, bool) {
	prefix, to, ok := r.table.Load().LookupPrefixLPM(netip.PrefixFrom(a, a.BitLen()))
	return Route{Prefix: prefix, To: to}, ok
}
