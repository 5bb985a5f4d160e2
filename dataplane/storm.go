package dataplane

import (
	"time"

	"overtap/encap"
	"overtap/fdb"
)

// Storm bounds flooded frames, in frames a second of each kind; 0 = no bound. A
// bucket holds a second's worth. A GSO packet counts as its segments. What a
// network receives its peers share: see network.spareFrom.
type Storm struct {
	Broadcast      uint32
	UnknownUnicast uint32 // outbound only: whom a peer's frame is for, the bridge knows
	Multicast      uint32
}

// The kinds of flooded frames.
const (
	stormBroadcast = iota
	stormUnknown
	stormMulticast
	stormKinds
)

var stormDrops = [stormKinds]Drop{DropStormBroadcast, DropStormUnknown, DropStormMulticast}

// rates are the nanoseconds between frames of each kind; 0 = no bound.
type rates [stormKinds]uint64

func (s Storm) rates() (r rates) {
	for i, n := range [stormKinds]uint32{s.Broadcast, s.UnknownUnicast, s.Multicast} {
		if n != 0 {
			r[i] = max(uint64(time.Second)/uint64(n), 1)
		}
	}
	return r
}

func (s Storm) any() bool { return s != Storm{} }

// stormKind is the kind of a flooded frame for dst.
func stormKind(dst encap.MAC) int {
	switch {
	case dst == encap.BroadcastMAC:
		return stormBroadcast
	case dst.IsMulticast():
		return stormMulticast
	}
	return stormUnknown
}

// stormCount is about how many frames a received one of size bytes stands for: a
// GSO packet of UDP says how long its segments are, one of TCP is as many as the
// network's MTU makes of it.
func stormCount(size, segSize int, mtu encap.OverlayMTU) int {
	if segSize == 0 {
		segSize = int(mtu) + encap.EthernetHeaderLen + 2*encap.VLANTagLen
	}
	return max((size+segSize-1)/segSize, 1)
}

// meter is a token bucket that any thread takes from without waiting: the time,
// in nanoseconds, at which it is full again (the generic cell rate algorithm,
// ITU-T I.371). The zero value is full.
type meter fdb.Meter

// The depths of buckets, in nanoseconds' worth of tokens.
const (
	depth = uint64(time.Second)
	// reserve is how much deeper a network's bucket is for peers that have not
	// sent their share.
	reserve = depth / 2
)

// take takes n tokens that come every interval nanoseconds, from a bucket that
// holds those of so many nanoseconds, and reports whether there were so many. A
// bucket that holds less than n when full gives them when it is full.
func (m *meter) take(now, interval uint64, n int, depth uint64) bool {
	for {
		full := (*fdb.Meter)(m).Load()
		next, ok := drained(full, now, interval, n, depth)
		if !ok {
			return false
		}
		if (*fdb.Meter)(m).CompareAndSwap(full, next) {
			return true
		}
	}
}

// drained is when a bucket that is full at the given time is full again if n
// tokens are taken now, and whether it has so many.
func drained(full, now, interval uint64, n int, depth uint64) (next uint64, ok bool) {
	need := interval * uint64(n)
	next = max(full, now) + need
	return next, next <= now+max(depth, need)
}

// holds reports whether take would take them.
func (m *meter) holds(now, interval uint64, n int, depth uint64) bool {
	_, ok := drained((*fdb.Meter)(m).Load(), now, interval, n, depth)
	return ok
}

// giveBack returns what a take of the same interval and n took.
func (m *meter) giveBack(interval uint64, n int) {
	(*fdb.Meter)(m).Add(-(interval * uint64(n)))
}

// storms meter one network's flooded frames each way.
type storms [directions][stormKinds]meter

// A peer's meters in package fdb: its bound and its share of the network's, by
// kind. A constant that overflows says that they are too few.
const _ = uint(fdb.PeerMeters - 2*stormKinds)

// clockNow is a monotonic time in nanoseconds.
func clockNow() uint64 { return uint64(time.Since(epochStart)) }

// epochStart is long enough ago for a full bucket's time not to be negative.
var epochStart = time.Now()

// allow reports whether the network still floods n frames of that kind to its
// peers.
func (n *network) allow(kind int, p *policy, frames int) bool {
	interval := p.storm[kind]
	return interval == 0 || n.storms[Outbound][kind].take(clockNow(), interval, frames, depth)
}

// allowFrom reports whether so many frames of that kind from a peer are still
// taken: by its own bound, and by the network's. Of that each peer has an equal
// share, and while others leave theirs, as much more as there is; but not the
// reserve, so that a peer that storms does not cost the others their share.
func (n *network) allowFrom(id fdb.PeerID, kind int, p *policy, frames int) bool {
	now, own, whole := clockNow(), p.peerStorm[kind], p.storm[kind]
	bound := (*meter)(n.peers.Meter(id, kind))
	if bound == nil {
		own = 0 // the peer went this moment
	}
	if own != 0 && !bound.take(now, own, frames, depth) {
		return false
	}
	if whole == 0 {
		return true
	}
	share, each := (*meter)(n.peers.Meter(id, stormKinds+kind)), whole*uint64(max(n.peers.Len(), 1))
	within := share != nil && share.take(now, each, frames, depth)
	most := depth
	if within {
		most += reserve
	}
	if n.storms[Inbound][kind].take(now, whole, frames, most) {
		return true
	}
	if own != 0 {
		bound.giveBack(own, frames)
	}
	if within {
		share.giveBack(each, frames)
	}
	return false
}

// wouldAllow reports whether spare would, and takes nothing.
func (n *network) wouldAllow(kind int, p *policy, frames int) bool {
	interval := p.storm[kind]
	return interval == 0 || n.storms[Outbound][kind].holds(clockNow(), interval, frames, depth)
}

// wouldAllowFrom reports whether spareFrom would, and takes nothing. NoPeer is a peer
// that is yet to be, and has sent nothing.
func (n *network) wouldAllowFrom(id fdb.PeerID, kind int, p *policy, frames int) bool {
	now, own, whole := clockNow(), p.peerStorm[kind], p.storm[kind]
	bound := (*meter)(n.peers.Meter(id, kind))
	if bound != nil && own != 0 && !bound.holds(now, own, frames, depth) {
		return false
	}
	share, each := (*meter)(n.peers.Meter(id, stormKinds+kind)), whole*uint64(max(n.peers.Len(), 1))
	most := depth
	if id == fdb.NoPeer || share != nil && share.holds(now, each, frames, depth) {
		most += reserve
	}
	return whole == 0 || n.storms[Inbound][kind].holds(now, whole, frames, most)
}
