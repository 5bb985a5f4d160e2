package fdb

import (
	"math"
	"sync/atomic"

	"overtap/encap"
)

// Limits bound what senders can do to a Table by the addresses they claim.
type Limits struct {
	// PerPeer is how many learned entries may be behind one peer; 0 = as many as
	// the table takes.
	PerPeer int
	// Moves of one MAC, between peers or between a peer and our own side, within
	// Window and each less than Settle after the one before, freeze it where it is
	// (RFC 7432 section 15.1), for Window or until it was not heard there for ReleaseAfter;
	// 0 = never.
	Moves  int
	Window uint32 // seconds
}

const (
	// ReleaseAfter is how many seconds a frozen MAC is not heard from where it is before
	// it may be elsewhere: a MAC that was frozen in the wrong place, by a loop that is
	// cut or by a liar who is gone, need not wait for the end of the window.
	ReleaseAfter = 10
	// Settle is how many seconds after a move the next one begins the count again. A
	// loop, or one MAC at two hosts, moves many times a second; a router that fails
	// over (RFC 5798: three seconds at the least by default) and a container that is
	// moved come to rest in between.
	Settle = 5
)

const (
	// moverSets of moverWays bound the memory of moves: MACs that moved lately. In a
	// set that is full the one that came to rest is forgotten first, then the one with
	// the fewest moves, and none that is frozen.
	trackerSets = 1024
	trackerWays = 8
	// maxPlaces bounds how many of the places are for one peer's moves: beyond it, the
	// peer's own are forgotten first. maxHeld bounds how many of them are frozen:
	// beyond it, what the peer moves too often is refused as if it were frozen, as long
	// as it is counted. So two peers that throw MACs to each other leave the others
	// theirs.
	maxPlaces = trackerSets * trackerWays / 8
	maxHeld   = maxPlaces / 2
	// saturation is how many seconds Saturated says so.
	saturation = 60
)

// moveTracker is a MAC that moved.
type moveTracker struct {
	mac   atomic.Uint64 // 0 = none
	heard atomic.Uint32 // second in which it was seen on our own side, kept while MACs are frozen
	first uint32        // second of the first move of its window
	last  uint32        // second of the last one, refused ones included
	until uint32        // second in which it thaws; 0 = not frozen
	by    PeerID        // whose move it is counted for, or was frozen by; NoPeer = of none
	moves uint16        // since first
	local bool          // it was seen on our own side last
}

// become makes r be of m, which moves for the first time, by a move of by.
func (r *moveTracker) become(m encap.MAC, by PeerID, now uint32) {
	r.mac.Store(uint64(m))
	r.first, r.last, r.until, r.by, r.moves, r.local = now, now, 0, by, 0, false
}

// assign makes the place r be m's, for a move of by.
func (t *Table) assign(r *moveTracker, m encap.MAC, by PeerID, now uint32) {
	g := &t.guard
	if r.mac.Load() != 0 {
		g.places = count(g.places, r.by, -1)
	}
	if m != 0 {
		g.places = count(g.places, by, 1)
	}
	r.become(m, by, now)
}

// guard is what a table knows of its senders beside the entries. It belongs to
// the holder of the lock.
type guard struct {
	limits   Limits
	owned    []int32 // learned entries by peer
	places   []int32 // moveTrackers by peer
	held     []int32 // of them frozen
	trackers *moveTrackers
	frozen   int         // frozen ones among them
	alarms   []encap.MAC // frozen since TakeFrozen
}

type moveTrackers [trackerSets * trackerWays]moveTracker

// set returns those that may be of m.
func (all *moveTrackers) set(m encap.MAC, h hashKey) []moveTracker {
	at := h.word(uint64(m)) % trackerSets * trackerWays
	return all[at : at+trackerWays]
}

// maxAlarms bounds how many freezes wait to be reported.
const maxAlarms = 16

// SetLimits makes the limits be l. What is there beyond a narrower limit stays
// until it ages out.
func (t *Table) SetLimits(l Limits) {
	t.writer.take()
	defer t.writer.release()
	t.guard.limits = l
	if l.Moves == 0 && t.guard.trackers != nil {
		for i := range t.guard.trackers {
			t.release(&t.guard.trackers[i])
		}
		t.guard.trackers, t.guard.places = nil, nil
	}
}

// Frozen returns how many MACs are frozen now.
func (t *Table) Frozen() int { return int(t.frozen.Load()) }

// Saturated reports whether, within the last minute, moves were not counted or not
// frozen for want of a place: many MACs move at once, perhaps by intent. Moves are
// then refused sooner than by Limits, or counted from the start.
func (t *Table) Saturated() bool {
	at := t.saturated.Load()
	return at != 0 && since(t.clock.Now(), at) < saturation
}

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

// What follows is for the caller that holds the lock.

// own adds n to the learned entries behind p.
func (t *Table) own(p PeerID, n int32) { t.guard.owned = count(t.guard.owned, p, n) }

// of is what is counted of p.
func of(list []int32, p PeerID) int {
	if int(p) >= len(list) {
		return 0
	}
	return int(list[p])
}

// count adds n to what is counted of p. The list grows with the first of a peer whose
// ID is beyond it, never in the steady state.
func count(list []int32, p PeerID, n int32) []int32 {
	if int(p) >= len(list) {
		grown := make([]int32, max(64, 2*len(list), int(p)+1))
		copy(grown, list)
		list = grown
	}
	list[p] += n
	return list
}

// overQuota reports whether p has as many learned entries as it may have.
func (t *Table) overQuota(p PeerID) bool { return t.overQuotaBut(p, 0) }

// overQuotaBut is overQuota as if so many of p's entries were gone.
func (t *Table) overQuotaBut(p PeerID, gone int) bool {
	g := &t.guard
	return g.limits.PerPeer != 0 && int(p) < len(g.owned) && int(g.owned[p])-gone >= g.limits.PerPeer
}

// hear notes that m, which is not in the table, was seen on our own side: it may
// be frozen there. It needs no tryLock.
func (t *Table) hear(m encap.MAC) {
	all := t.frozenTrackers.Load()
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

// moveTracker returns what is known of m's moves, or nil.
func (t *Table) tracker(m encap.MAC) *moveTracker {
	if t.guard.trackers == nil {
		return nil
	}
	set := t.guard.trackers.set(m, t.hash)
	for i := range set {
		if set[i].mac.Load() == uint64(m) {
			return &set[i]
		}
	}
	return nil
}

// movement is what becomes of a move.
type movement uint8

const (
	moveMade    movement = iota
	moveRefused          // it is one too many, and there is no place to freeze the MAC
	moveFrozen           // the same, and the MAC is frozen
)

// moved notes a move of m that by makes: to it from our own side or from another
// peer, or with local, from it to our own side. heard is the second in which m was last
// heard from where it is. What is not made of it must stay where it was; but a move to
// our own side is always made.
func (t *Table) moved(m encap.MAC, by PeerID, local bool, heard, now uint32) movement {
	g := &t.guard
	if g.limits.Moves == 0 {
		return moveMade
	}
	if g.trackers == nil {
		g.trackers = new(moveTrackers)
	}
	r := t.tracker(m)
	if r == nil {
		if r = t.spot(m, by, now); r == nil {
			t.saturate(now)
			return t.weigh(nil, by, heard, now)
		}
		if r.mac.Load() != 0 && !t.calmed(r, r.last, now) {
			t.saturate(now)
		}
		t.assign(r, m, by, now)
	}
	verdict := t.weigh(r, by, heard, now)
	if t.calmed(r, heard, now) {
		r.first, r.moves = now, 0
	}
	r.moves, r.last = min(r.moves, math.MaxUint16-1)+1, now
	if local {
		r.local = true
		r.heard.Store(now)
	}
	switch verdict {
	case moveMade:
		r.local = local
	case moveRefused:
		t.saturate(now)
	case moveFrozen:
		t.freeze(r, m, by, now)
		if len(g.alarms) < maxAlarms {
			g.alarms = append(g.alarms, m)
			t.alarmed.Store(true)
		}
	}
	return verdict
}

// spot returns the place where moves of m by a peer, of which nothing is known, would
// be counted; nil when every place of its set is frozen.
func (t *Table) spot(m encap.MAC, by PeerID, now uint32) *moveTracker {
	var best, own *moveTracker
	set := t.guard.trackers.set(m, t.hash)
	for i := range set {
		s := &set[i]
		if s.until != 0 {
			continue
		}
		if best == nil || t.sooner(s, best, now) {
			best = s
		}
		if s.by == by && s.mac.Load() != 0 && (own == nil || t.sooner(s, own, now)) {
			own = s
		}
	}
	if own != nil && of(t.guard.places, by) >= maxPlaces {
		return own
	}
	return best
}

// sooner reports whether a is forgotten before b.
func (t *Table) sooner(a, b *moveTracker, now uint32) bool {
	rank := func(r *moveTracker) int {
		switch {
		case r.mac.Load() == 0:
			return -2
		case t.calmed(r, r.last, now):
			return -1
		}
		return int(r.moves)
	}
	if x, y := rank(a), rank(b); x != y {
		return x < y
	}
	return since(b.last, a.last) > 0
}

// weigh says what one more move by a peer comes to, now; r is what is known of the
// MAC's moves, nil that there is no place to count them.
func (t *Table) weigh(r *moveTracker, by PeerID, heard, now uint32) movement {
	g := &t.guard
	if r == nil {
		if since(now, heard) < ReleaseAfter {
			return moveRefused
		}
		return moveMade
	}
	moves := int(r.moves) + 1
	if t.calmed(r, heard, now) {
		moves = 1
	}
	switch {
	case moves < g.limits.Moves:
		return moveMade
	case of(g.held, by) >= maxHeld:
		return moveRefused
	}
	return moveFrozen
}

// calmed reports whether the moves of r are over, so that the next one is the first:
// the window is, the MAC rested since the last, or it is heard no more from where it is.
func (t *Table) calmed(r *moveTracker, heard, now uint32) bool {
	return since(now, r.first) >= int32(t.guard.limits.Window) || since(now, r.last) >= Settle || since(now, heard) >= ReleaseAfter
}

// saturate notes that a move found no place.
func (t *Table) saturate(now uint32) { t.saturated.Store(max(now, 1)) }

// freeze keeps m, whose moves r counts, where it is for a window, for a move of by.
func (t *Table) freeze(r *moveTracker, m encap.MAC, by PeerID, now uint32) {
	g := &t.guard
	g.places = count(count(g.places, r.by, -1), by, 1)
	g.held = count(g.held, by, 1)
	r.until, r.by = max(now+g.limits.Window, 1), by
	r.heard.Store(now)
	g.frozen++
	t.frozen.Add(1)
	t.frozenTrackers.Store(g.trackers)
	t.note(EntryFrozen, m, NoPeer, NoPeer, Learned)
}

// release ends what r is frozen for.
func (t *Table) release(r *moveTracker) {
	if r == nil || r.until == 0 {
		return
	}
	m := encap.MAC(r.mac.Load())
	if i, found := t.seek(m); found {
		s := &t.slots[i]
		s.val.Store(s.val.Load() &^ valueFrozen)
	}
	t.guard.held = count(t.guard.held, r.by, -1)
	t.guard.frozen--
	if t.frozen.Add(-1) == 0 {
		t.frozenTrackers.Store(nil)
	}
	t.note(EntryThawed, m, NoPeer, NoPeer, Learned)
	t.assign(r, 0, NoPeer, 0)
}

// unfreezeDue releases those whose time is over.
func (t *Table) unfreezeDue(now uint32) {
	if t.guard.frozen == 0 {
		return
	}
	for i := range t.guard.trackers {
		if r := &t.guard.trackers[i]; r.until != 0 && since(now, r.until) >= 0 {
			t.release(r)
		}
	}
}
