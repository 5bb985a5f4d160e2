package fdb

import (
	"errors"
	"fmt"

	"overtap/encap"
)

// Errors of Put and Peers.Set.
var (
	// ErrOutranked: an entry of a higher origin stands.
	ErrOutranked = errors.New("an entry of a higher rank exists")
	// ErrFull: no slot or no ID is left.
	ErrFull = errors.New("table full")
	// ErrInvalid: the arguments can never make an entry.
	ErrInvalid = errors.New("invalid")
)

// roomSlots is how many slots Learn sweeps when the table or the peer's share of
// it is at its bound: 16 cache lines in a row. Once it has been all around
// within one second it sweeps no more until the next, for nothing ages in
// between: a flood of new addresses stays cheap to refuse, and keeps the lock
// from others no longer than that.
const roomSlots = 64

// learn is Learn for an address that is new, moved or aged out.
func (t *Table) learn(m encap.MAC, p PeerID, now uint32) Verdict {
	if !t.writer.try() {
		return LearnBusy
	}
	defer t.writer.release()

	i, found := t.seek(m)
	if found {
		s := &t.slots[i]
		v := s.val.Load()
		if verdict, settled := t.judge(v, p, now); settled {
			if verdict == LearnKnown && originOf(v) == Learned {
				s.val.Store(v&^tickBits | uint64(now))
			}
			return verdict
		}
		return t.move(i, m, p, now)
	}
	if r := t.tracker(m); r != nil {
		if r.until != 0 && since(now, r.heard.Load()) >= ReleaseAfter {
			t.release(r)
		}
		if r.until != 0 || r.local && t.moved(m, p, false, r.heard.Load(), now) != moveMade {
			return LearnFrozen
		}
	}
	if t.atCapacity(p) {
		swept := 0
		if t.ageing != never && !t.isSwept(now) {
			swept = t.sweep(roomSlots, now)
		}
		switch {
		case t.overQuota(p):
			return LearnQuota
		case swept == 0:
			return LearnFull
		}
		i, _ = t.seek(m)
	}
	t.insert(i, m, pack(p, Learned, now))
	t.note(EntryLearned, m, NoPeer, p, Learned)
	return LearnAdded
}

// move makes the learned entry of m in slot i be p's; aged out, it may be p's
// already.
func (t *Table) move(i uint64, m encap.MAC, p PeerID, now uint32) Verdict {
	s := &t.slots[i]
	t.unfreeze(i)
	v := s.val.Load()
	from, aged := peerOf(v), t.aged(v, now)
	move := moveMade
	if !aged {
		move = t.moved(m, p, false, tickOf(v), now)
	}
	verdict := t.moving(from, p, aged, move)
	switch verdict {
	case LearnFrozen:
		if move == moveFrozen {
			s.val.Store(v | valueFrozen)
		}
		return verdict
	case LearnQuota:
		// Where it was it is no longer: frames for it are flooded.
		t.remove(i)
		t.note(gone(aged), m, from, NoPeer, Learned)
		return verdict
	}
	t.own(from, -1)
	t.own(p, 1)
	s.val.Store(pack(p, Learned, now))
	if aged {
		t.note(EntryAged, m, from, NoPeer, Learned)
		t.note(EntryLearned, m, NoPeer, p, Learned)
		return verdict
	}
	t.note(EntryMoved, m, from, p, Learned)
	return verdict
}

// moving is what comes of a learned entry that is to move, or, aged out, to begin
// again; move is what its MAC's moves say.
func (t *Table) moving(from, to PeerID, aged bool, move movement) Verdict {
	switch {
	case move != moveMade:
		return LearnFrozen
	case from != to && t.overQuota(to):
		return LearnQuota
	case aged:
		return LearnAdded
	}
	return LearnMoved
}

// leave removes the learned entry of m, which was seen on our own side. When that
// is a move too many, m is frozen there: what our own bridge sees counts for more
// than what a peer claims.
func (t *Table) leave(m encap.MAC) bool {
	i, found := t.seek(m)
	if !found {
		return false
	}
	s := &t.slots[i]
	v := s.val.Load()
	now := t.clock.Now()
	if !t.departs(v, now) {
		return false
	}
	t.unfreeze(i)
	t.moved(m, peerOf(v), true, tickOf(v), now)
	t.remove(i)
	t.note(EntryLocal, m, peerOf(v), NoPeer, Learned)
	return true
}

// unfreeze thaws the entry in slot i if it is frozen.
func (t *Table) unfreeze(i uint64) {
	if s := &t.slots[i]; s.val.Load()&valueFrozen != 0 {
		t.release(t.tracker(macOf(s.key.Load())))
	}
}

// Put binds m to p on behalf of origin o, which must be above Learned. It
// rewrites an entry of the same origin and displaces one of a lower: when o
// withdraws, the lower one does not come back by itself. The error is
// ErrOutranked, ErrFull or ErrInvalid.
func (t *Table) Put(m encap.MAC, p PeerID, o Origin) error {
	switch {
	case m == 0 || m > macBits:
		return fmt.Errorf("put %s: MAC %#x: %w", m, uint64(m), ErrInvalid)
	case p == NoPeer || p > maxPeerID:
		return fmt.Errorf("put %s: peer %d: %w", m, p, ErrInvalid)
	case o <= Learned || o > Static:
		return fmt.Errorf("put %s: %s: %w", m, o, ErrInvalid)
	}
	t.writer.take()
	defer t.writer.release()

	now := t.clock.Now()
	v := pack(p, o, now)
	i, found := t.seek(m)
	if !found {
		if !t.hasSlot() {
			return fmt.Errorf("put %s: %d entries in %d slots: %w", m, t.Len(), len(t.slots), ErrFull)
		}
		t.insert(i, m, v)
		t.note(EntryAdded, m, NoPeer, p, o)
		return nil
	}
	s := &t.slots[i]
	old := s.val.Load()
	was := originOf(old)
	if was > o {
		return fmt.Errorf("put %s as %s over %s: %w", m, o, was, ErrOutranked)
	}
	if was == Learned {
		t.learned.Add(-1)
		t.own(peerOf(old), -1)
		t.unfreeze(i)
	}
	s.val.Store(v)
	from := peerOf(old)
	if t.aged(old, now) {
		t.note(EntryAged, m, from, NoPeer, Learned)
		from = NoPeer
	}
	if was != o || from != p {
		t.note(EntryAdded, m, from, p, o)
	}
	return nil
}

// Delete removes the entry of m if it is of origin o, and reports whether there
// was one.
func (t *Table) Delete(m encap.MAC, o Origin) bool {
	t.writer.take()
	defer t.writer.release()
	return t.delete(m, o)
}

// What follows is for the caller that holds the lock: to it the table stands still, but for
// the times of learned entries.

func (t *Table) hasSlot() bool { return 4*t.Len() < 3*len(t.slots) }

// atCapacity reports whether an entry behind p needs room to be made first.
func (t *Table) atCapacity(p PeerID) bool {
	return t.LenLearned() >= t.max || !t.hasSlot() || t.overQuota(p)
}

// seek returns the index of m's slot, or of the empty one where it would go.
func (t *Table) seek(m encap.MAC) (i uint64, found bool) {
	want := (keyLive | uint64(m)) << countBits
	for i = t.home(m); ; i = t.next(i) {
		k := t.slots[i].key.Load()
		if k<<countBits == want {
			return i, true
		}
		if isEmpty(k) {
			return i, false
		}
	}
}

func (t *Table) home(m encap.MAC) uint64 { return t.hash.word(uint64(m)) & t.mask }
func (t *Table) next(i uint64) uint64    { return (i + 1) & t.mask }

// insert makes an entry in the empty slot i.
func (t *Table) insert(i uint64, m encap.MAC, v uint64) {
	t.slots[i].write(m, v)
	t.live.Add(1)
	if originOf(v) == Learned {
		t.learned.Add(1)
		t.own(peerOf(v), 1)
	}
}

func (t *Table) delete(m encap.MAC, o Origin) bool {
	i, found := t.seek(m)
	if !found {
		return false
	}
	v := t.slots[i].val.Load()
	if originOf(v) != o {
		return false
	}
	aged := t.aged(v, t.clock.Now())
	t.remove(i)
	t.note(gone(aged), m, peerOf(v), NoPeer, o)
	return !aged
}

// gone is the event of an entry that is taken away: one that had aged out
// before was only not swept yet.
func gone(aged bool) Change {
	if aged {
		return EntryAged
	}
	return EntryDeleted
}

// remove deletes the entry in slot i and moves those behind it back, each as far
// as its home allows, until an empty slot ends the run.
func (t *Table) remove(i uint64) {
	t.live.Add(-1)
	if v := t.slots[i].val.Load(); originOf(v) == Learned {
		t.learned.Add(-1)
		t.own(peerOf(v), -1)
		t.unfreeze(i)
	}
	for j := t.next(i); ; j = t.next(j) {
		s := &t.slots[j]
		k := s.key.Load()
		if isEmpty(k) {
			break
		}
		m := macOf(k)
		if (j-t.home(m))&t.mask < (j-i)&t.mask {
			continue // its home is behind the hole
		}
		t.slots[i].write(m, s.val.Load())
		// Between the copy and the loss of the original: see Table.
		t.moves.Add(1)
		i = j
	}
	t.slots[i].set(0)
}

// write makes s hold m with value v, whatever it held.
func (s *slot) write(m encap.MAC, v uint64) {
	s.set(keyBusy)
	s.val.Store(v)
	s.set(keyLive | uint64(m)&macBits)
}

// set stores a key and counts the store.
func (s *slot) set(k uint64) {
	s.key.Store((s.key.Load()+keyCount)&^(keyCount-1) | k)
}
