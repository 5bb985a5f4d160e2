package dataplane

import (
	"sync/atomic"

	"overtap/fdb"
)

// tally holds one network's counters of one thread. Only that thread adds to
// it, Stats reads it, and the padding keeps other threads' lines out of it.
type tally struct {
	_            [64]byte
	offered      atomic.Uint64 // packets and drops come to as many, once all is done
	packets      atomic.Uint64
	bytes        atomic.Uint64
	flooded      atomic.Uint64
	suppressed   atomic.Uint64
	reserved     atomic.Uint64
	learnRefused atomic.Uint64
	learnMoved   atomic.Uint64
	learnQuota   atomic.Uint64
	learnFrozen  atomic.Uint64
	learnBusy    atomic.Uint64
	answered     atomic.Uint64
	unreachable  atomic.Uint64
	probes       atomic.Uint64
	drops        [dropCount]atomic.Uint64
	peers        atomic.Pointer[[]*peerTallies]
	answers      allowance // the thread's alone, as asks is
	asks         allowance
	_            [64]byte
}

// peerTallies are the counters of a chunk of consecutive peers.
type peerTallies [peerChunk]peerTally

const peerChunk = 64

type peerTally struct{ packets, bytes atomic.Uint64 }

// count adds frames and bytes to the network and, unless it is fdb.NoPeer, to
// the peer. The chunk of a peer seen for the first time is allocated here: once
// per 64 peers, never per frame.
func (t *tally) count(id fdb.PeerID, frames, bytes int) {
	t.packets.Add(uint64(frames))
	t.bytes.Add(uint64(bytes))
	if id == fdb.NoPeer {
		return
	}
	p := t.peer(id)
	if p == nil {
		p = t.grow(id)
	}
	p.packets.Add(uint64(frames))
	p.bytes.Add(uint64(bytes))
}

func (t *tally) drop(d Drop, frames int) { t.drops[d].Add(uint64(frames)) }

// peer returns the peer's counters, nil when nothing was counted yet.
func (t *tally) peer(id fdb.PeerID) *peerTally {
	chunks := t.peers.Load()
	if chunks == nil || int(id/peerChunk) >= len(*chunks) {
		return nil
	}
	c := (*chunks)[id/peerChunk]
	if c == nil {
		return nil
	}
	return &c[id%peerChunk]
}

// grow makes the counters of the peer; the owning thread calls it.
func (t *tally) grow(id fdb.PeerID) *peerTally {
	var old []*peerTallies
	if p := t.peers.Load(); p != nil {
		old = *p
	}
	grown := make([]*peerTallies, max(len(old), int(id/peerChunk)+1))
	copy(grown, old)
	grown[id/peerChunk] = new(peerTallies)
	t.peers.Store(&grown)
	return &grown[id/peerChunk][id%peerChunk]
}

// forget clears the counters of a peer whose ID is to be used again.
func (t *tally) forget(id fdb.PeerID) {
	if p := t.peer(id); p != nil {
		p.packets.Store(0)
		p.bytes.Store(0)
	}
}
