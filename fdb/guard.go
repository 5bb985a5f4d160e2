package fdb

import "overtap/encap"

// Limits bound what senders can do to a Table by the addresses they claim.
type Limits struct {
	// PerPeer is how many learned entries may be behind one peer; 0 = as many as
	// the table takes.
	PerPeer int
	// Moves of one MAC, between peers or between a peer and our own side, within
	// Window freeze it where it is for as long (RFC 7432 section 15.1); 0 = never.
	Moves  int
	Window uint32 // seconds
}

const (
	// moverSets of moverWays bound the memory of moves: MACs that moved lately.
	// When a set is full the one that began first is forgotten, but none that is
	// frozen.
	moverSets = 256
	moverWays = 4
)

// mover is a MAC that moved.
type mover struct {
	mac   encap.MAC // 0 = none
	first uint32    // second of the first move of its window
	until uint32    // second in which it thaws; 0 = not frozen
	moves uint16    // since first
	local bool      // it was seen on our own side last
}

// guard is what a table knows of its senders beside the entries. It belongs to
// the token's holder.
type guard struct {
	limits Limits
	owned  []int32 // learned entries by peer
	movers *[moverSets * moverWays]mover
	thaw   int         // frozen ones among them
	alarms []encap.MAC // frozen since TakeFrozen
}

// maxAlarms bounds how many freezes wait to be told.
const maxAlarms = 16

// SetLimits makes the limits be l. What is there beyond a narrower limit stays
// until it ages out.
func (t *Table) SetLimits(l Limits) {
	t.writer.take()
	defer t.writer.release()
	t.guard.limits = l
	if l.Moves == 0 && t.guard.movers != nil {
		for i := range t.guard.movers {
			t.release(&t.guard.movers[i])
		}
		t.guard.movers = nil
	}
}

// Frozen returns how many MACs are frozen now.
func (t *Table) Frozen() int { return int(t.frozen.Load()) }

// TakeFrozen returns MACs that froze since the last call, at most 16 of them.
func (t *Table) TakeFrozen() []encap.MAC {
	if t.frozen.Load() == 0 {
		return nil
	}
	t.writer.take()
	defer t.writer.release()
	taken := t.guard.alarms
	t.guard.alarms = nil
	return taken
}

// What follows is for the token's holder.

// own adds n to the learned entries behind p. The list grows with the first
// entry of a peer whose ID is beyond it, never in the steady state.
func (t *Table) own(p PeerID, n int32) {
	g := &t.guard
	if int(p) >= len(g.owned) {
		grown := make([]int32, max(64, 2*len(g.owned), int(p)+1))
		copy(grown, g.owned)
		g.owned = grown
	}
	g.owned[p] += n
}

// satiated reports whether p has as many learned entries as it may have.
func (t *Table) satiated(p PeerID) bool { return t.satiatedBut(p, 0) }

// satiatedBut is satiated as if so many of p's entries were gone.
func (t *Table) satiatedBut(p PeerID, gone int) bool {
	g := &t.guard
	return g.limits.PerPeer != 0 && int(p) < len(g.owned) && int(g.owned[p])-gone >= g.limits.PerPeer
}

// mover returns what is known of m's moves, or nil.
func (t *Table) mover(m encap.MAC) *mover {
	if t.guard.movers == nil {
		return nil
	}
	set := t.moverSet(m)
	for i := range set {
		if set[i].mac == m {
			return &set[i]
		}
	}
	return nil
}

func (t *Table) moverSet(m encap.MAC) []mover {
	at := t.hash.word(uint64(m)) % moverSets * moverWays
	return t.guard.movers[at : at+moverWays]
}

// moved notes a move of m, to our own side or away from it, and reports whether
// it is one too many: m is frozen from now on. What moved away from our side, or
// between peers, must stay where it was.
func (t *Table) moved(m encap.MAC, local bool, now uint32) bool {
	g := &t.guard
	if g.limits.Moves == 0 {
		return false
	}
	if g.movers == nil {
		g.movers = new([moverSets * moverWays]mover)
	}
	r := t.mover(m)
	if r == nil {
		set := t.moverSet(m)
		for i := range set {
			if s := &set[i]; s.until == 0 && (r == nil || s.mac == 0 || r.mac != 0 && since(r.first, s.first) > 0) {
				r = s
			}
		}
		if r == nil {
			return false // every one of the set is frozen
		}
		*r = mover{mac: m, first: now}
	}
	often := t.often(r, now)
	if t.calmed(r, now) {
		r.first, r.moves = now, 0
	}
	r.moves++
	if !often {
		r.local = local
		return false
	}
	r.until = max(now+g.limits.Window, 1)
	g.thaw++
	t.frozen.Add(1)
	if len(g.alarms) < maxAlarms {
		g.alarms = append(g.alarms, m)
	}
	t.tell(EntryFrozen, m, NoPeer, NoPeer, Learned)
	return true
}

// calmed reports whether the window of r's moves is over.
func (t *Table) calmed(r *mover, now uint32) bool {
	return since(now, r.first) >= int32(t.guard.limits.Window)
}

// often reports whether one more move of r now is one too many.
func (t *Table) often(r *mover, now uint32) bool {
	moves := int(r.moves) + 1
	if t.calmed(r, now) {
		moves = 1
	}
	return moves >= t.guard.limits.Moves
}

// release ends what r is frozen for.
func (t *Table) release(r *mover) {
	if r == nil || r.mac == 0 || r.until == 0 {
		return
	}
	if i, found := t.seek(r.mac); found {
		s := &t.slots[i]
		s.val.Store(s.val.Load() &^ valueFrozen)
	}
	t.guard.thaw--
	t.frozen.Add(-1)
	t.tell(EntryThawed, r.mac, NoPeer, NoPeer, Learned)
	*r = mover{}
}

// thaw releases those whose time is over.
func (t *Table) thaw(now uint32) {
	if t.guard.thaw == 0 {
		return
	}
	for i := range t.guard.movers {
		if r := &t.guard.movers[i]; r.until != 0 && since(now, r.until) >= 0 {
			t.release(r)
		}
	}
}
