package fdb

import (
	"net/netip"
	"sync/atomic"
)

// Peers holds the remote VTEPs of one network: the listed ones, which Set names,
// and the learned ones, which the policy of Set let in when they first sent.
//
// Readers find a peer by its address in an index and by its ID in a list, both
// published whole or filled in place under the lock. A peer's address and ID
// never change, so what a reader found is right however old it is.
type Peers struct {
	hash  hashKey
	clock *Clock
	self  netip.Addr
	max   int // bound of learned peers

	policy atomic.Pointer[policy]
	index  atomic.Pointer[index]
	byID   atomic.Pointer[[]atomic.Pointer[peer]] // a retired peer stays until released
	flood  atomic.Pointer[[]Target]

	narrow  atomic.Uint64 // not 0 while a peer may have a path MTU; changes with each
	writer  tryLock
	count   atomic.Int64
	learned atomic.Int64
	nextID  PeerID   // never given so far
	free    []PeerID // released, the oldest first; the writer's
}

// Target is one receiver of BUM frames.
type Target struct {
	ID   PeerID
	Addr netip.Addr
}

// peer is one VTEP.
type peer struct {
	id    PeerID
	addr  netip.Addr // unmapped
	state atomic.Uint32
	heard atomic.Uint32 // second of the last frame; 0 = none yet
	since atomic.Uint32 // second in which it was listed, or became a learned peer
	pmtu  atomic.Uint32 // bytes; 0 = no limit is known
	asked atomic.Uint32 // second in which pmtu was set

	pinned atomic.Bool // sends from MACs bound to it only
	meters [PeerMeters]Meter
}

// PeerMeters is how many meters each peer has.
const PeerMeters = 6

// Meter is a word that the owner of the Peers keeps for a peer, such as the
// state of a token bucket. It is zero at first.
type Meter struct{ atomic.Uint64 }

// Meter returns the i-th meter of the peer, nil when there is no peer of that ID.
func (p *Peers) Meter(id PeerID, i int) *Meter {
	if r := p.lookup(id); r != nil {
		return &r.meters[i]
	}
	return nil
}

// Pinned reports whether the peer was listed as Pinned.
func (p *Peers) Pinned(id PeerID) bool {
	r := p.lookup(id)
	return r != nil && r.pinned.Load()
}

// The states of a peer.
const (
	stateLearned uint32 = iota
	stateListed
	stateFlood   // listed, with flood set
	stateRetired // removed, its ID not yet released
)

// NewPeers returns an empty set, which admits no host. self is the network's own
// underlay address, which never is a peer; invalid is none. At most maxLearned
// peers are admitted beyond the listed ones.
func NewPeers(self netip.Addr, maxLearned int, c *Clock) *Peers {
	p := &Peers{hash: newHashKey(), clock: c, self: self.Unmap(), max: maxLearned, nextID: 1}
	p.policy.Store(new(policy))
	p.index.Store(newIndex(0))
	p.byID.Store(new([]atomic.Pointer[peer]))
	p.flood.Store(new([]Target))
	return p
}

// Admit says whether a frame from underlay address a is taken, and as whose. An
// IPv4-mapped IPv6 address counts as the IPv4 one. For a known peer nothing is
// stored but, once a second, the time. Only the first frame of a newly admitted
// peer allocates: its record, and at times a larger index.
func (p *Peers) Admit(a netip.Addr) (PeerID, Admission) {
	a = a.Unmap()
	if r := p.index.Load().find(a, p.hash.addr(a)); r != nil {
		r.touch(p.clock)
		return r.id, AdmitKnown
	}
	if a == p.self || !p.policy.Load().admits(a) {
		return NoPeer, AdmitDenied
	}
	return p.admit(a)
}

// admit is Admit for an unlisted sender whom the policy lets in.
func (p *Peers) admit(a netip.Addr) (PeerID, Admission) {
	if !p.writer.try() {
		return NoPeer, AdmitBusy
	}
	defer p.writer.release()

	// Another worker, or Set, may have been here first.
	hash := p.hash.addr(a)
	if id, admission := p.consider(a, hash); admission != AdmitAdded {
		return id, admission
	}
	r := p.newPeer(a, stateLearned)
	x := p.index.Load()
	if x.isFull() {
		x = p.reindex(x.peers())
	}
	x.insert(r, hash)
	p.count.Add(1)
	p.learned.Add(1)
	return r.id, AdmitAdded
}

// consider is what becomes of a, for the caller that holds the lock: to be AdmitAdded it has
// no ID yet.
func (p *Peers) consider(a netip.Addr, hash uint64) (PeerID, Admission) {
	if r := p.index.Load().find(a, hash); r != nil {
		return r.id, AdmitKnown
	}
	if a == p.self || !p.policy.Load().admits(a) {
		return NoPeer, AdmitDenied
	}
	if p.LenLearned() >= p.max || p.idsLeft() == 0 {
		return NoPeer, AdmitFull
	}
	return NoPeer, AdmitAdded
}

// touch notes the time of a frame from r.
func (r *peer) touch(c *Clock) {
	if now := c.Now(); r.heard.Load() != now {
		r.heard.Store(now)
	}
}

// idle is how many seconds ago r was heard, or became what it is if that was
// later.
func (r *peer) idle(now uint32) uint32 {
	idle := since(now, r.since.Load())
	if heard := r.heard.Load(); heard != 0 {
		idle = min(idle, since(now, heard))
	}
	return uint32(max(0, idle))
}

// Restore is Admit for a peer that was heard age seconds ago, by another engine.
func (p *Peers) Restore(a netip.Addr, age uint32) (PeerID, Admission) {
	a = a.Unmap()
	now := p.clock.Now()
	at := now - age
	if at == 0 {
		at-- // 0 is never
	}
	if r := p.index.Load().find(a, p.hash.addr(a)); r != nil {
		if heard := r.heard.Load(); heard == 0 || since(at, heard) > 0 {
			r.heard.Store(at)
		}
		return r.id, AdmitKnown
	}
	return p.Admit(a)
}

// Addr returns the address of the peer with that ID. It answers for a removed
// peer too, until Release; then and for an ID never given it returns the invalid
// address.
func (p *Peers) Addr(id PeerID) netip.Addr {
	if r := p.lookup(id); r != nil {
		return r.addr
	}
	return netip.Addr{}
}

func (p *Peers) lookup(id PeerID) *peer {
	if byID := *p.byID.Load(); int(id) < len(byID) {
		return byID[id].Load()
	}
	return nil
}

// Flood returns who gets a copy of each BUM frame: the peers listed with Flood,
// in the order of their listing. Learned peers are not among them. RFC 7348
// leaves replication to the sender, and the sender's operator lists the
// receivers: an unlisted sender who falls under an admitted prefix must not, by sending
// one frame, subscribe to the network's broadcasts. The slice is shared and must
// not be modified; a later Set publishes another.
func (p *Peers) Flood() []Target { return *p.flood.Load() }

// ID returns the ID of the peer, listed or learned, with that address.
func (p *Peers) ID(a netip.Addr) (PeerID, bool) {
	a = a.Unmap()
	if r := p.index.Load().find(a, p.hash.addr(a)); r != nil {
		return r.id, true
	}
	return NoPeer, false
}

// Len returns the number of peers, listed and learned; removed ones whose ID was
// not released do not count.
func (p *Peers) Len() int { return int(p.count.Load()) }

// LenLearned returns how many of Len are learned.
func (p *Peers) LenLearned() int { return int(p.learned.Load()) }
