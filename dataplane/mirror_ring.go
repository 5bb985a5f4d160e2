package dataplane

import (
	"net/netip"
	"sync/atomic"
)

// A mirror has a ring for each thread of the path, so that threads share nothing
// and do not wait: what finds its ring full is counted and lost.

const (
	// mirrorMemory is what the rings of one mirror take of frames, at most, unless
	// there are so many threads that each would have less than leastRing.
	mirrorMemory        = 64 << 20
	leastRing, mostRing = 512 << 10, 4 << 20
	// ringFrame is about how many bytes of frames there are to a slot.
	ringFrame = 512
)

// sighting is a frame as it was seen at a point of the path.
type sighting struct {
	at        int64    // nanoseconds since 1970, of its batch
	of        *netBase // nil = it belongs to no network
	peer      netip.Addr
	from, end uint64 // where its bytes lie in the ring
	length    uint32 // of all its bytes, also those that were not kept
	flow      uint32 // of what goes out
	segs      uint16 // of a GSO packet
	segSize   uint16 // payload bytes of each
	port      uint16 // outer destination port of what belongs to no network
	source    uint16 // outer source port of what came in; 0 = not known
	point     Point
	drop      Drop
	way       Direction
	tos, ttl  uint8 // outer
	has       trait
}

// trait says what is true of a sighting.
type trait uint8

const (
	hasHeader     trait = 1 << iota // its bytes begin with the VXLAN header
	hasDF                           // it leaves with DF set
	hasUnfinished                   // its transport checksum is left to a device
	hasReply                        // the engine itself made it
	hasIPIP                         // it is no VXLAN
)

// ring takes sightings from one thread to one reader. Bytes and slots are used
// round and round; both counts go up for ever.
type ring struct {
	slots []sighting // a power of two
	data  []byte     // a power of two

	_     [64]byte
	head  atomic.Uint64 // slots written; the thread's
	wrote uint64        // bytes written, the thread's alone
	lost  atomic.Uint64
	_     [64]byte
	tail  atomic.Uint64 // slots given back; the reader's
	freed atomic.Uint64 // bytes given back
	_     [64]byte
}

// newRing returns a ring for so many bytes of frames, whose memory is there
// already: the path must meet no page fault.
func newRing(bytes int) *ring {
	r := &ring{slots: make([]sighting, bytes/ringFrame), data: make([]byte, bytes)}
	for i := 0; i < len(r.data); i += 4096 {
		r.data[i] = 1
	}
	for i := range r.slots {
		r.slots[i].length = 1
	}
	return r
}

// ringBytes is the size of each ring of a mirror of so many threads.
func ringBytes(threads int) int {
	size := mostRing
	for size > leastRing && size*threads > mirrorMemory {
		size /= 2
	}
	return size
}

// put copies s, and the first keep bytes of the parts, into the ring when there
// is room. The thread calls it.
func (r *ring) put(s *sighting, parts [][]byte, keep int) {
	head := r.head.Load()
	size := uint64(len(r.data))
	at := r.wrote
	if left := size - at&(size-1); left < uint64(keep) {
		at += left // no frame wraps around
	}
	if head-r.tail.Load() >= uint64(len(r.slots)) || at+uint64(keep)-r.freed.Load() > size {
		r.lost.Add(1)
		return
	}
	to := r.data[at&(size-1):][:keep]
	for _, p := range parts {
		to = to[copy(to, p):]
		if len(to) == 0 {
			break
		}
	}
	s.from, s.end = at, at+uint64(keep)
	r.slots[head&uint64(len(r.slots)-1)] = *s
	r.wrote = s.end
	r.head.Store(head + 1)
}

// waiting returns how many sightings there are to read, at most most. The reader
// calls it, as it does slot, bytes and free.
func (r *ring) waiting(most int) int {
	return min(int(r.head.Load()-r.tail.Load()), most)
}

// slot is the i-th of those that wait.
func (r *ring) slot(i int) *sighting {
	return &r.slots[(r.tail.Load()+uint64(i))&uint64(len(r.slots)-1)]
}

// bytes are those kept of s, until it is given back.
func (r *ring) bytes(s *sighting) []byte {
	n := int(s.end - s.from)
	return r.data[s.from&uint64(len(r.data)-1):][:n:n]
}

// free gives back the first n.
func (r *ring) free(n int) {
	if n > 0 {
		r.freed.Store(r.slot(n - 1).end)
		r.tail.Add(uint64(n))
	}
}
