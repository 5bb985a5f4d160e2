package fdb

import "overtap/encap"

// Restore learns that m was seen as a source behind p age seconds ago, as another
// table says that was in use until now, unless something newer is known of it. A
// frozen entry is frozen again, for a whole window. It reports whether it took the
// entry: one that has aged out, or beyond a bound, it does not.
func (t *Table) Restore(m encap.MAC, p PeerID, age uint32, frozen bool) bool {
	t.writer.take()
	defer t.writer.release()
	now := t.clock.Now()
	frozen = frozen && t.guard.limits.Moves != 0
	v := pack(p, Learned, now-age)
	if t.aged(v, now) && !frozen {
		return false
	}
	i, found := t.seek(m)
	if found {
		old := t.slots[i].val.Load()
		if originOf(old) > Learned || old&valueFrozen != 0 || since(tickOf(old), now-age) >= 0 && !t.aged(old, now) {
			return false
		}
		if peerOf(old) != p && t.overQuota(p) {
			return false
		}
		t.own(peerOf(old), -1)
		t.own(p, 1)
		t.slots[i].val.Store(v)
		t.note(EntryMoved, m, peerOf(old), p, Learned)
	} else {
		if t.LenLearned() >= t.max || !t.hasSlot() || t.overQuota(p) {
			return false
		}
		t.insert(i, m, v)
		t.note(EntryLearned, m, NoPeer, p, Learned)
	}
	if frozen {
		t.refreeze(i, m, now)
	}
	return true
}

// refreeze freezes the entry of m in slot i for a window from now on, where there
// is room to remember it. No second alarm is raised.
func (t *Table) refreeze(i uint64, m encap.MAC, now uint32) {
	g := &t.guard
	if g.trackers == nil {
		g.trackers = new(moveTrackers)
	}
	r := t.tracker(m)
	if r == nil {
		r = t.spot(m, NoPeer, now)
	}
	if r == nil || r.until != 0 {
		return
	}
	t.assign(r, m, NoPeer, now)
	t.freeze(r, m, NoPeer, now)
	s := &t.slots[i]
	s.val.Store(s.val.Load() | valueFrozen)
}
