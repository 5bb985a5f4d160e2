package fdb

import (
	"net/netip"

	"overtap/encap"
)

// What the path asks by Lookup, Learn, Forget and Admit, control asks here
// without leaving a trace: the answers are those that the path would get now,
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

// WouldForget reports whether Forget would remove an entry of m.
func (t *Table) WouldForget(m encap.MAC) bool {
	s, v := t.find(m)
	return s != nil && t.departs(v, t.clock.Now())
}

// WouldLearn returns what Learn would. For a peer without an ID yet, p is
// NoPeer.
func (t *Table) WouldLearn(m encap.MAC, p PeerID) Verdict {
	t.writer.take()
	defer t.writer.release()
	now := t.clock.Now()
	if i, found := t.seek(m); found {
		v := t.slots[i].val.Load()
		if verdict, settled := t.judge(v, p, now); settled {
			return verdict
		}
		r := t.tracker(m)
		if v&valueFrozen != 0 { // it is released, and its moves are forgotten
			v, r = v&^valueFrozen, new(moveTracker)
		}
		aged, move := t.aged(v, now), moveMade
		if !aged {
			move = t.wouldMove(m, r, p, tickOf(v), now)
		}
		return t.moving(peerOf(v), p, aged, move)
	}
	if r := t.tracker(m); r != nil && !(r.until != 0 && since(now, r.heard.Load()) >= ReleaseAfter) &&
		(r.until != 0 || r.local && t.wouldMove(m, r, p, r.heard.Load(), now) != moveMade) {
		return LearnFrozen
	}
	if !t.atCapacity(p) {
		return LearnAdded
	}
	old, oldOfPeer := t.sweepable(p, now)
	switch {
	case t.overQuotaBut(p, oldOfPeer):
		return LearnQuota
	case old == 0:
		return LearnFull
	}
	return LearnAdded
}

// wouldMove returns what moved would, of a move away from our own side or between
// peers; r is what is known of m's moves, nil is nothing.
func (t *Table) wouldMove(m encap.MAC, r *moveTracker, by PeerID, heard, now uint32) movement {
	if t.guard.limits.Moves == 0 {
		return moveMade
	}
	if r == nil && (t.guard.trackers == nil || t.spot(m, by, now) != nil) {
		r = new(moveTracker)
		r.become(m, by, now)
	}
	return t.weigh(r, by, heard, now)
}

// sweepable counts the entries that the sweep of a table at capacity would find aged
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

// WouldAdmit returns what Admit would. A sender that would be AdmitAdded has no ID
// yet: NoPeer.
func (p *Peers) WouldAdmit(a netip.Addr) (PeerID, Admission) {
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
