package fdb

import (
	"math/bits"
	"net/netip"
	"sync/atomic"
)

// index finds peers by address: open addressing with linear probing, at most
// half full. Peers are only ever added to a published index; one without some of
// them is built again. A nil slot ends every probe.
type index struct {
	slots []atomic.Pointer[peer]
	used  int // the writer's
}

// newIndex returns an empty index with room for at least n peers.
func newIndex(n int) *index {
	return &index{slots: make([]atomic.Pointer[peer], 1<<bits.Len(uint(max(2*n, 15))))}
}

func (x *index) find(a netip.Addr, hash uint64) *peer {
	mask := uint64(len(x.slots) - 1)
	for i := hash; ; i++ {
		r := x.slots[i&mask].Load()
		if r == nil || r.addr == a {
			return r
		}
	}
}

// isFull reports whether one peer more would make the index more than half full.
func (x *index) isFull() bool { return 2*(x.used+1) > len(x.slots) }

// insert adds r, which is not in x; the caller holds the lock and has checked
// isFull.
func (x *index) insert(r *peer, hash uint64) {
	mask := uint64(len(x.slots) - 1)
	i := hash
	for x.slots[i&mask].Load() != nil {
		i++
	}
	x.slots[i&mask].Store(r)
	x.used++
}

// holds reports whether match accepts a peer in x. It needs no tryLock.
func (x *index) holds(match func(*peer) bool) bool {
	for i := range x.slots {
		if r := x.slots[i].Load(); r != nil && match(r) {
			return true
		}
	}
	return false
}

// peers returns the peers in x; the caller holds the lock.
func (x *index) peers() []*peer {
	all := make([]*peer, 0, x.used)
	for i := range x.slots {
		if r := x.slots[i].Load(); r != nil {
			all = append(all, r)
		}
	}
	return all
}

// reindex publishes an index of exactly these peers, with room for as many more.
func (p *Peers) reindex(peers []*peer) *index {
	x := newIndex(2 * len(peers))
	for _, r := range peers {
		x.insert(r, p.hash.addr(r.addr))
	}
	p.index.Store(x)
	return x
}

// newPeer makes a peer with an ID and lists it by that. The caller holds the
// tryLock, has made sure that an ID is left, and adds it to the index: last, so
// that who finds it there finds it by its ID.
func (p *Peers) newPeer(a netip.Addr, state uint32) *peer {
	r := &peer{addr: a}
	if len(p.free) > 0 {
		r.id = p.free[0]
		p.free = p.free[1:]
	} else {
		r.id = p.nextID
		p.nextID++
	}
	r.state.Store(state)
	now := p.clock.Now()
	r.since.Store(now)
	if state == stateLearned {
		r.heard.Store(now)
	}

	byID := *p.byID.Load()
	if int(r.id) >= len(byID) {
		grown := make([]atomic.Pointer[peer], 2*(int(r.id)+1))
		for i := range byID {
			grown[i].Store(byID[i].Load())
		}
		byID = grown
		p.byID.Store(&byID)
	}
	byID[r.id].Store(r)
	return r
}

// idsLeft returns how many peers more can get an ID.
func (p *Peers) idsLeft() int { return len(p.free) + int(maxPeerID) + 1 - int(p.nextID) }
