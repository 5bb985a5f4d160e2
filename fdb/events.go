package fdb

import (
	"sync/atomic"

	"overtap/encap"
)

// Change says what happened to an entry.
type Change uint8

// The changes.
const (
	EntryLearned Change = iota + 1 // new, from a received frame
	EntryMoved                     // to another peer
	EntryLocal                     // gone: its MAC was seen on our own side
	EntryAged                      // gone: not seen as a source for the ageing time
	EntryFrozen                    // its MAC moves too often: it stays where it is
	EntryThawed                    // it may move again
	EntryAdded                     // by the operator or a control plane
	EntryDeleted                   // by the same, flushed, gone with its peer, or moved to one that has its share
	changes
)

var changeNames = [changes]string{"", "learn", "move", "local", "age", "freeze", "thaw", "add", "delete"}

// String returns the change in one word.
func (c Change) String() string {
	if c == 0 || c >= changes {
		return "invalid"
	}
	return changeNames[c]
}

// Event is one change of a Table.
type Event struct {
	Change   Change
	MAC      encap.MAC
	From, To PeerID // NoPeer where there is none
	Origin   Origin
}

// ringSize is how many events a Watch may be behind.
const ringSize = 4096

// ring holds the last events. The holder of the lock writes, any goroutine reads: each
// slot is two words, so that a reader that is overtaken reads nonsense but no
// torn word, and finds out by the head.
type ring struct {
	slots [ringSize]struct{ who, where atomic.Uint64 }
	head  atomic.Uint64 // events written so far
}

// note records an event for the watchers. Without one it costs a load.
func (t *Table) note(c Change, m encap.MAC, from, to PeerID, o Origin) {
	r := t.watched.Load()
	if r == nil {
		return
	}
	h := r.head.Load()
	s := &r.slots[h%ringSize]
	s.who.Store(uint64(m)&macBits | uint64(c)<<48 | uint64(o)<<56)
	s.where.Store(uint64(from) | uint64(to)<<32)
	r.head.Store(h + 1)
}

// Watch reads a table's events from its beginning on. It belongs to one
// goroutine.
type Watch struct {
	table *Table
	ring  *ring
	next  uint64
}

// Watch begins to watch. Close must be called.
func (t *Table) Watch() *Watch {
	t.writer.take()
	defer t.writer.release()
	r := t.watched.Load()
	if r == nil {
		r = new(ring)
		t.watched.Store(r)
	}
	t.watchers++
	return &Watch{table: t, ring: r, next: r.head.Load()}
}

// Read appends the events since the last Read to out and returns it, with the
// number of those that were overwritten before they could be read.
func (w *Watch) Read(out []Event) (events []Event, lost uint64) {
	head := w.ring.head.Load()
	if head-w.next > ringSize {
		lost = head - ringSize - w.next
		w.next = head - ringSize
	}
	first := len(out)
	for i := w.next; i < head; i++ {
		s := &w.ring.slots[i%ringSize]
		who, where := s.who.Load(), s.where.Load()
		out = append(out, Event{
			Change: Change(who >> 48 & 0xff), MAC: encap.MAC(who & macBits), Origin: Origin(who >> 56),
			From: PeerID(uint32(where)), To: PeerID(where >> 32),
		})
	}
	// A slot is overwritten from when the head stands a round before its event.
	if over := w.ring.head.Load(); over >= ringSize && over-ringSize >= w.next {
		gone := min(over-ringSize+1-w.next, head-w.next)
		out = append(out[:first], out[first+int(gone):]...)
		lost += gone
	}
	w.next = head
	return out, lost
}

// Close ends the watch.
func (w *Watch) Close() {
	t := w.table
	t.writer.take()
	defer t.writer.release()
	if t.watchers--; t.watchers == 0 {
		t.watched.Store(nil)
	}
}
