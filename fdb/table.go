package fdb

import (
	"math"
	"math/bits"
	"sync/atomic"
	"unsafe"

	"overtap/encap"
)

// Table is the MAC table of one network: which MAC is behind which peer.
//
// It is one array of slots with open addressing and linear probing, at most
// three quarters full, so that a lookup touches one cache line in the common
// case. The array never grows. It is twice max entries, rounded up to a power
// of two, and so large from the start; but of Memory that the kernel gives page by
// page, those without an entry take none.
//
// # Readers against the writer
//
// A slot is two words, key and value, and a reader that took the key of one
// entry with the value of another would send a frame to the wrong host. So:
//
//   - A reader loads key, value, key, and starts over when the key changed.
//   - The writer stores a key that matches nothing, then the value, then the
//     key. A reader that sees the key sees its value.
//   - The key may have changed and changed back in between (ABA). Therefore its
//     upper 15 bits count the stores to the slot. To be fooled, a reader would
//     have to stand still between two adjacent loads for an exact multiple of
//     32768 stores to that one slot.
//
// Deletion leaves no tombstones: with those, a table that is half full under
// churn fills with them until a miss probes hundreds of slots. Instead the
// entries behind the hole move back into it. Such an entry is for a moment in
// both slots, never in none; but a reader that had passed the new place before
// and comes to the old one after would miss it. Therefore moves counts them, and
// a miss holds only if the count stood still during the probe.
type Table struct {
	slots          []slot
	mask           uint64 // len(slots) - 1
	hash           hashKey
	clock          *Clock
	ageing         int32 // seconds
	max            int
	frozenTrackers atomic.Pointer[moveTrackers] // while MACs are frozen

	_     [64]byte // what the writer stores to shares no cache line with the above
	moves atomic.Uint64
	_     [64]byte

	writer  tryLock
	live    atomic.Int64 // entries, aged-out ones that were not swept yet included
	learned atomic.Int64 // of them learned
	frozen  atomic.Int64 // MACs frozen
	alarmed atomic.Bool  // TakeFrozen has something to return
	// saturated is the second in which the guard last lacked a place; 0 = never.
	saturated atomic.Uint32
	watched   atomic.Pointer[ring]

	// The writer's.
	cursor   uint64 // next slot to sweep
	swept    int    // slots swept in the second sweptAt
	sweptAt  uint32
	guard    guard
	watchers int
}

// slot is one place of the table. Four share a cache line.
//
//	key: stores to this slot 15 | live 1 | MAC 48
//	val: PeerID 24 | reserved, zero 3 | frozen 1 | Origin 4 | second last seen 32
type slot struct {
	key, val atomic.Uint64
}

const (
	macBits  = 1<<48 - 1
	keyLive  = 1 << 48
	keyBusy  = 1 // neither empty nor live: being written
	keyCount = 1 << 49

	valueFrozen = 1 << 36
	tickBits    = 1<<32 - 1

	// countBits is the width of the store count; shifting a key left by it
	// leaves what readers compare.
	countBits = 15

	minSlots = 64
	never    = math.MaxInt32
)

// NewTable returns an empty table for at most max learned entries, which age out
// when not seen as a source for ageing seconds of c; 0 is never. Entries by Put
// do not count toward max: they share the slots that are left, three quarters of
// the next power of two from 2*max, at least 64.
func NewTable(max int, ageing uint32, c *Clock) *Table { return NewTableIn(nil, max, ageing, c) }

// NewTableIn is NewTable with an array of that memory.
func NewTableIn(m Memory, max int, ageing uint32, c *Clock) *Table {
	n := minSlots
	if max > minSlots/2 {
		n = 1 << bits.Len(uint(2*max-1))
	}
	t := &Table{
		mask:   uint64(n - 1),
		hash:   newHashKey(),
		clock:  c,
		ageing: never,
		max:    max,
	}
	t.slots = m.slotsOf(t, n)
	if ageing != 0 && ageing < never {
		t.ageing = int32(ageing)
	}
	return t
}

// Lookup returns the peer that m is behind. A learned entry that has aged out is
// absent at once, swept or not. m may be a multicast address: Put takes those.
func (t *Table) Lookup(m encap.MAC) (PeerID, bool) {
	s, v := t.find(m)
	if s == nil || t.aged(v, t.clock.Now()) {
		return NoPeer, false
	}
	return peerOf(v), true
}

// Bound returns the peer that an entry above Learned binds m to.
func (t *Table) Bound(m encap.MAC) (PeerID, bool) {
	s, v := t.find(m)
	if s == nil || originOf(v) <= Learned {
		return NoPeer, false
	}
	return peerOf(v), true
}

// Verdict is what Learn made of a source address.
type Verdict uint8

// The verdicts. In every case but LearnOutranked the frame goes on.
const (
	LearnKnown     Verdict = iota // as it was
	LearnAdded                    // a new entry
	LearnMoved                    // the entry was another peer's
	LearnFull                     // not learned: the table is at its bound
	LearnOutranked                // a static or control-plane entry names another peer
	LearnBusy                     // not learned: another writer is at it; the next frame teaches
	LearnQuota                    // not learned: the peer has as many entries as it may have
	LearnFrozen                   // not moved: the MAC moved too often lately
	verdicts
)

var verdictNames = [verdicts]string{"known", "added", "moved", "full", "outranked", "busy", "quota", "frozen"}

// String returns the verdict in one word.
func (v Verdict) String() string {
	if v >= verdicts {
		return "invalid"
	}
	return verdictNames[v]
}

// Learn notes that a frame with source m came from peer p. The caller has
// dropped sources that are zero, multicast or our own. A move to another peer
// shows in the very next Lookup. For a known address nothing is stored but, once
// a second, its time.
//
// The compare-and-swap of that time is made without the lock. If in between the
// slot came to hold another entry whose value is equal bit for bit (same peer,
// same second), that entry ages out later, once; and a time stored while the
// entry moves to another slot is lost. Both are harmless.
func (t *Table) Learn(m encap.MAC, p PeerID) Verdict {
	now := t.clock.Now()
	s, v := t.find(m)
	if s != nil {
		if verdict, settled := t.judge(v, p, now); settled {
			if verdict == LearnKnown && originOf(v) == Learned && since(now, tickOf(v)) > 0 {
				s.val.CompareAndSwap(v, v&^tickBits|uint64(now))
			}
			return verdict
		}
	}
	return t.learn(m, p, now)
}

// judge is what Learn makes of the entry v when p claims its MAC; not settled is
// an entry that is to move to p, or to begin again.
func (t *Table) judge(v uint64, p PeerID, now uint32) (_ Verdict, settled bool) {
	same := peerOf(v) == p
	switch {
	case originOf(v) > Learned && !same:
		return LearnOutranked, true
	case originOf(v) > Learned || same && !t.aged(v, now):
		return LearnKnown, true
	}
	return LearnFrozen, t.fixed(v, now)
}

// Forget notes that m was seen as a source on our own side: a learned entry is
// wrong from now on and goes. It reports whether one went. When another writer
// is at the table, or when m is frozen, it does nothing, and the next frame tries
// again.
func (t *Table) Forget(m encap.MAC) bool {
	s, v := t.find(m)
	if s == nil {
		t.hear(m)
		return false
	}
	if !t.departs(v, t.clock.Now()) {
		return false
	}
	if !t.writer.try() {
		return false
	}
	defer t.writer.release()
	return t.leave(m)
}

// departs reports whether an entry goes when its MAC is seen on our own side.
func (t *Table) departs(v uint64, now uint32) bool {
	return originOf(v) == Learned && !t.fixed(v, now) && !t.aged(v, now)
}

// Len returns the number of entries, of which aged-out ones are part until they
// are swept.
func (t *Table) Len() int { return int(t.live.Load()) }

// LenLearned returns how many of Len are learned; never more than Max.
func (t *Table) LenLearned() int { return int(t.learned.Load()) }

// Max returns the bound of learned entries.
func (t *Table) Max() int { return t.max }

// Bytes returns the memory that the table takes once all of it was touched.
func (t *Table) Bytes() int {
	return int(unsafe.Sizeof(*t)) + len(t.slots)*int(unsafe.Sizeof(slot{}))
}

// find returns the slot and the value of m, or nil. It needs no tryLock. Some slot
// is always empty, so every probe ends.
func (t *Table) find(m encap.MAC) (*slot, uint64) {
	want := (keyLive | uint64(m)) << countBits
	home := t.hash.word(uint64(m))
again:
	moves := t.moves.Load()
	for i := home; ; i++ {
		s := &t.slots[i&t.mask]
		k := s.key.Load()
		if k<<countBits == want {
			v := s.val.Load()
			if s.key.Load() != k {
				goto again
			}
			return s, v
		}
		if isEmpty(k) {
			if t.moves.Load() != moves {
				goto again
			}
			return nil, 0
		}
	}
}

// aged reports whether a learned entry is too old. A frozen one does not age: its
// MAC could be learned nowhere else.
func (t *Table) aged(v uint64, now uint32) bool {
	return originOf(v) == Learned && v&valueFrozen == 0 && since(now, tickOf(v)) >= t.ageing
}

// fixed reports whether an entry is frozen, and its MAC was heard from its peer
// lately.
func (t *Table) fixed(v uint64, now uint32) bool {
	return v&valueFrozen != 0 && since(now, tickOf(v)) < ReleaseAfter
}

// pack makes a value. Bits of p beyond 24 would fall off the upper end.
func pack(p PeerID, o Origin, tick uint32) uint64 {
	return uint64(p)<<40 | uint64(o)<<32 | uint64(tick)
}

func peerOf(v uint64) PeerID   { return PeerID(v >> 40) }
func originOf(v uint64) Origin { return Origin(v >> 32 & 0xf) }
func tickOf(v uint64) uint32   { return uint32(v) }

func isEmpty(k uint64) bool    { return k<<countBits == 0 }
func isLive(k uint64) bool     { return k&keyLive != 0 }
func macOf(k uint64) encap.MAC { return encap.MAC(k & macBits) }
