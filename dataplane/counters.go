package dataplane

import (
	"encoding/binary"
	"net/netip"
	"runtime"
	"sync/atomic"

	"overtap/fdb"
)

// counters holds one network's counters of one thread. Only that thread adds to
// it, Stats reads it, and the padding keeps other threads' lines out of it.
type counters struct {
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
	unlisted     atomic.Uint64 // and the last of them:
	unlistedMAC  atomic.Uint64
	unlistedPeer atomic.Uint32
	unlistedAt   atomic.Uint32 // fdb.Clock
	answered     atomic.Uint64
	fragmented   atomic.Uint64
	clearedDF    atomic.Uint64
	unreachable  atomic.Uint64
	probes       atomic.Uint64
	drops        [dropCount]atomic.Uint64
	last         atomic.Pointer[[dropCount]lastDrop] // nil until something is dropped
	clock        *fdb.Clock
	peers        atomic.Pointer[[]*peerCounterChunk]
	answers      allowance // the thread's alone, as asks is
	asks         allowance
	_            [64]byte
}

// peerCounterChunk are the counters of a chunk of consecutive peers.
type peerCounterChunk [peerChunk]peerCounters

const peerChunk = 64

type peerCounters struct{ packets, bytes atomic.Uint64 }

// count adds frames and bytes to the network and, unless it is fdb.NoPeer, to
// the peer. The chunk of a peer seen for the first time is allocated here: once
// per 64 peers, never per frame.
func (t *counters) count(id fdb.PeerID, frames, bytes int) {
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

// drop counts frames dropped. peer is the sender of what came in, or the
// destination of what was to go out; it is invalid where there is none.
func (t *counters) drop(d Drop, frames int, peer netip.Addr) {
	last := t.last.Load()
	if last == nil {
		last = new([dropCount]lastDrop) // once, not per frame
		t.last.Store(last)
	}
	last[d].note(peer, t.clock.Now())
	t.drops[d].Add(uint64(frames)) // last: what is counted is noted
}

// lastDrop is when a thread dropped for one reason last, and whose frame that
// was. The thread writes it, and any goroutine may read it: seq is odd while it is
// being written.
type lastDrop struct {
	seq    atomic.Uint32
	second atomic.Uint32 // of the clock; 0 = never
	high   atomic.Uint64 // the address in its 16 bytes; 0 with low = there is none
	low    atomic.Uint64
}

func (l *lastDrop) note(peer netip.Addr, second uint32) {
	var high, low uint64
	if peer.IsValid() {
		b := peer.As16()
		high, low = binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
	}
	l.seq.Add(1)
	l.second.Store(second)
	l.high.Store(high)
	l.low.Store(low)
	l.seq.Add(1)
}

// load returns what was noted; second is 0 when nothing was.
func (l *lastDrop) load() (peer netip.Addr, second uint32) {
	for {
		seq := l.seq.Load()
		second = l.second.Load()
		high, low := l.high.Load(), l.low.Load()
		if seq&1 == 0 && l.seq.Load() == seq {
			if high|low == 0 {
				return netip.Addr{}, second
			}
			var b [16]byte
			binary.BigEndian.PutUint64(b[:8], high)
			binary.BigEndian.PutUint64(b[8:], low)
			return netip.AddrFrom16(b).Unmap(), second
		}
		runtime.Gosched()
	}
}

// newCounters returns the counters of so many threads.
func newCounters(threads int, c *fdb.Clock) []counters {
	t := make([]counters, threads)
	for i := range t {
		t[i].clock = c
	}
	return t
}

// peer returns the peer's counters, nil when nothing was counted yet.
func (t *counters) peer(id fdb.PeerID) *peerCounters {
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
func (t *counters) grow(id fdb.PeerID) *peerCounters {
	var old []*peerCounterChunk
	if p := t.peers.Load(); p != nil {
		old = *p
	}
	grown := make([]*peerCounterChunk, max(len(old), int(id/peerChunk)+1))
	copy(grown, old)
	grown[id/peerChunk] = new(peerCounterChunk)
	t.peers.Store(&grown)
	return &grown[id/peerChunk][id%peerChunk]
}

// forget clears the counters of a peer whose ID is to be used again.
func (t *counters) forget(id fdb.PeerID) {
	if p := t.peer(id); p != nil {
		p.packets.Store(0)
		p.bytes.Store(0)
	}
}
