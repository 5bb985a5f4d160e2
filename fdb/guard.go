package fdb

import (
	"sync/atomic"

	"overtap/encap"
)

// Limits bound what senders can do to a Table by the addresses they claim.
type Limits struct {
	// PerPeer is how many learned entries may be behind one peer; 0 = as many as
	// the table takes.
	PerPeer int
	// Moves of one MAC, between peers or between a peer and our own side, within
	// Window freeze it where it is (RFC 7432 section 15.1), for as long or until it
	// was not heard there for Silence; 0 = never.
	Moves  int
	Window uint32 // seconds
}

// Silence is how many seconds a frozen MAC is not heard from where it is before it
// may be elsewhere: who was frozen in the wrong place, by a loop that is cut or by
// a liar who is gone, need not wait for the end of the window.
const Silence = 10

const (
	// moverSets of moverWays bound the memory of moves: MACs that moved lately.
	// When a set is full the one that began first is forgotten, but none that is
	// frozen.
	moverSets = 256
	moverWays = 4
)

// mover is a MAC that moved.
type mover struct {
	mac   atomic.Uint64 // 0 = none
	heard atomic.Uint32 // second in which it was seen on our own side, kept while MACs are frozen
	first uint32        // second of the first move of its window
	until uint32        // second in which it thaws; 0 = not frozen
	moves uint16        // since first
	local bool          // it was seen on our own side last
}

// become makes r be of m, which moves for the first time.
func (r *mover) become(m encap.MAC, now uint32) {
	r.mac.Store(uint64(m))
	r.first, r.until, r.moves, r.local = now, 0, 0, false
}

// guard is what a table knows of its senders beside the entries. It belongs to
// the token's holder.
type guard struct {
	limits Limits
	owned  []int32 // learned entries by peer
	movers *movers
	thaw   int         // frozen ones among them
	alarms []encap.MAC // frozen since TakeFrozen
}

type movers [moverSets * moverWays]mover

// set returns those that may be of m.
func (all *movers) set(m encap.MAC, h hashKey) []mover {
	at := h.word(uint64(m)) % moverSets * moverWays
	return all[at : at+moverWays]
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

// TakeFrozen returns MACs that froze since the last call, each freeze once, at
// most 16 of them; also those that have thawed meanwhile.
func (t *Table) TakeFrozen() []encap.MAC {
	if !t.alarmed.Load() {
		return nil
	}
	t.writer.take()
	defer t.writer.release()
	taken := t.guard.alarms
	t.guard.alarms = nil
	t.alarmed.Store(false)
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

// hear notes that m, which is not in the table, was seen on our own side: it may
// be frozen there. It needs no token.
func (t *Table) hear(m encap.MAC) {
	all := t.iced.Load()
	if all == nil {
		return
	}
	now := t.clock.Now()
	set := all.set(m, t.hash)
	for i := range set {
		if r := &set[i]; r.mac.Load() == uint64(m) && r.heard.Load() != now {
			r.heard.Store(now)
		}
	}
}

// mover returns what is known of m's moves, or nil.
func (t *Table) mover(m encap.MAC) *mover {
	if t.guard.movers == nil {
		return nil
	}
	set := t.guard.movers.set(m, t.hash)
	for i := range set {
		if set[i].mac.Load() == uint64(m) {
			return &set[i]
		}
	}
	return nil
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
		g.movers = new(movers)
	}
	r := t.mover(m)
	if r == nil {
		set := g.movers.set(m, t.hash)
		for i := range set {
			if s := &set[i]; s.until == 0 && (r == nil || s.mac.Load() == 0 || r.mac.Load() != 0 && since(r.first, s.first) > 0) {
				r = s
			}
		}
		if r == nil {
			return false // every one of the set is frozen
		}
		r.become(m, now)
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
	t.freeze(r, m, now)
	if len(g.alarms) < maxAlarms {
		g.alarms = append(g.alarms, m)
		t.alarmed.Store(true)
	}
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

// freeze keeps m, whose moves r counts, where it is for a window.
func (t *Table) freeze(r *mover, m encap.MAC, now uint32) {
	g := &t.guard
	r.until = max(now+g.limits.Window, 1)
	r.heard.Store(now)
	g.thaw++
	t.frozen.Add(1)
	t.iced.Store(g.movers)
	t.tell(EntryFrozen, m, NoPeer, NoPeer, Learned)
}

// release ends what r is frozen for.
func (t *Table) release(r *mover) {
	if r == nil || r.until == 0 {
		return
	}
	m := encap.MAC(r.mac.Load())
	if i, found := t.seek(m); found {
		s := &t.slots[i]
		s.val.Store(s.val.Load() &^ valueFrozen)
	}
	t.guard.thaw--
	if t.frozen.Add(-1) == 0 {
		t.iced.Store(nil)
	}
	t.tell(EntryThawed, m, NoPeer, NoPeer, Learned)
	r.become(0, 0)
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
