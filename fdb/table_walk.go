package fdb

import (
	"iter"

	"overtap/encap"
)

// chunk is how many slots control handles before it gives the lock back, so
// that the path does not go long without learning.
const chunk = 1024

// Entry is a copy of one row of a Table.
type Entry struct {
	MAC    encap.MAC
	Peer   PeerID
	Origin Origin
	Age    uint32 // seconds since last seen as a source; 0 for what does not age
	Frozen bool   // its MAC moved too often: it stays where it is for a while
}

// All yields every entry that has not aged out, in no order. It is not a
// snapshot, but an entry that is there all the while is yielded once; one that is
// removed and added again meanwhile may be yielded twice. The lock is not held
// while the loop's body runs, so that it may change the table.
func (t *Table) All() iter.Seq[Entry] {
	return func(yield func(Entry) bool) {
		for v := range t.walk() {
			if !v.aged && !yield(v.Entry) {
				return
			}
		}
	}
}

// Flush removes the entries of any origin that match accepts and returns how
// many went. Aged-out ones that match go too, uncounted. An entry that moves to
// another peer or origin while match looks at it stays. match may call the table.
func (t *Table) Flush(match func(Entry) bool) int {
	n := 0
	for v := range t.walk() {
		if match(v.Entry) && t.removeEntry(v.Entry) && !v.aged {
			n++
		}
	}
	return n
}

func (t *Table) removeEntry(e Entry) bool {
	t.writer.take()
	defer t.writer.release()
	i, found := t.seek(e.MAC)
	if !found {
		return false
	}
	v := t.slots[i].val.Load()
	if peerOf(v) != e.Peer || originOf(v) != e.Origin {
		return false
	}
	aged := t.aged(v, t.clock.Now())
	t.remove(i)
	t.note(gone(aged), e.MAC, e.Peer, NoPeer, e.Origin)
	return true
}

// Sweep removes aged-out entries from the next slots of the table and returns
// how many went; a later call goes on where it left. The tick calls it once a
// second with SweepSlots. It also thaws what was frozen for long enough.
func (t *Table) Sweep(slots int) int {
	gone := 0
	if t.frozen.Load() > 0 {
		t.writer.take()
		t.unfreezeDue(t.clock.Now())
		t.writer.release()
	}
	for slots = min(slots, len(t.slots)); slots > 0 && t.LenLearned() > 0 && t.ageing != never; slots -= chunk {
		t.writer.take()
		gone += t.sweep(min(slots, chunk), t.clock.Now())
		t.writer.release()
	}
	return gone
}

// SweepSlots returns the argument for a Sweep each second with which a pass over
// the table takes about a tenth of the ageing time; a little longer when much
// ages out at once, for a removal counts as a slot.
func (t *Table) SweepSlots() int {
	return max(minSlots, 10*len(t.slots)/int(t.ageing))
}

// isSwept reports whether a whole pass was made in the second now: what has not
// aged out by it does not before the next. It is for the caller that holds the lock.
func (t *Table) isSwept(now uint32) bool {
	return t.sweptAt == now && t.swept >= len(t.slots)
}

// sweep is for the caller that holds the lock.
func (t *Table) sweep(slots int, now uint32) (gone int) {
	if t.sweptAt != now {
		t.swept, t.sweptAt = 0, now
	}
	for range slots {
		s := &t.slots[t.cursor]
		if k, v := s.key.Load(), s.val.Load(); isLive(k) && t.aged(v, now) {
			t.remove(t.cursor) // and look at what moved here
			t.note(EntryAged, macOf(k), peerOf(v), NoPeer, Learned)
			gone++
			continue
		}
		t.cursor = t.next(t.cursor)
		t.swept++
	}
	return gone
}

type walked struct {
	Entry
	aged bool
}

// walk yields every entry, aged-out or not, copied chunk by chunk.
//
// Entries move while we walk, but only back and never past their home. Each
// chunk starts and ends at a slot that is empty while the lock is held: no entry
// ahead of an empty slot has its home behind it, hence none that we have not
// seen can slip behind us, and none that we saw can overtake us.
func (t *Table) walk() iter.Seq[walked] {
	return func(yield func(walked) bool) {
		var (
			buf   []walked
			start uint64 // the empty slot where the walk began
			done  int    // slots walked
		)
		for done < len(t.slots) {
			buf = buf[:0]
			now := t.clock.Now()
			t.writer.take()
			if done == 0 {
				for !isEmpty(t.slots[start].key.Load()) {
					start = t.next(start)
				}
			}
			for n := 0; done < len(t.slots); {
				s := &t.slots[(start+uint64(done))&t.mask]
				done++
				n++
				k := s.key.Load()
				if isLive(k) {
					buf = append(buf, t.copyOut(k, s.val.Load(), now))
				} else if n >= chunk {
					break
				}
			}
			t.writer.release()
			for _, w := range buf {
				if !yield(w) {
					return
				}
			}
		}
	}
}

func (t *Table) copyOut(k, v uint64, now uint32) walked {
	w := walked{
		Entry: Entry{MAC: macOf(k), Peer: peerOf(v), Origin: originOf(v)},
		aged:  t.aged(v, now),
	}
	if w.Origin == Learned {
		w.Age = uint32(max(0, since(now, tickOf(v))))
		w.Frozen = v&valueFrozen != 0
	}
	return w
}
