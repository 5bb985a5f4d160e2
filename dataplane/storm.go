package dataplane

import (
	"time"

	"overtap/encap"
	"overtap/fdb"
)

// Storm bounds flooded frames, in frames a second of each kind; 0 = no bound. A
// bucket holds a second's worth. A superframe counts as its segments.
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
// superframe of UDP says how long its segments are, one of TCP is as many as the
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

// take takes n tokens that come every interval nanoseconds, from a bucket of a
// second's worth, and reports whether there were so many. A bucket that holds
// less than n when full gives them when it is full.
func (m *meter) take(now, interval uint64, n int) bool {
	for {
		full := (*fdb.Meter)(m).Load()
		next, ok := emptied(full, now, interval, n)
		if !ok {
			return false
		}
		if (*fdb.Meter)(m).CompareAndSwap(full, next) {
			return true
		}
	}
}

// emptied is when a bucket that is full at the given time is full again if n
// tokens are taken now, and whether it has so many.
func emptied(full, now, interval uint64, n int) (next uint64, ok bool) {
	need := interval * uint64(n)
	next = max(full, now) + need
	return next, next <= now+max(uint64(time.Second), need)
}

// holds reports whether take would take them.
func (m *meter) holds(now, interval uint64, n int) bool {
	_, ok := emptied((*fdb.Meter)(m).Load(), now, interval, n)
	return ok
}

// storms meter one network's flooded frames each way.
type storms [directions][stormKinds]meter

// clockNow is a monotonic time in nanoseconds.
func clockNow() uint64 { return uint64(time.Since(epochStart)) }

// epochStart is long enough ago for a full bucket's time not to be negative.
var epochStart = time.Now()

// spare reports whether the network still takes n frames of that kind in the
// direction.
func (n *network) spare(d Direction, kind int, r *rates, frames int) bool {
	interval := r[kind]
	return interval == 0 || n.storms[d][kind].take(clockNow(), interval, frames)
}

// spares reports whether spare would, and takes nothing.
func (n *network) spares(d Direction, kind int, r *rates, frames int) bool {
	interval := r[kind]
	return interval == 0 || n.storms[d][kind].holds(clockNow(), interval, frames)
}

// sparesOf reports whether spareOf would, and takes nothing.
func (n *network) sparesOf(id fdb.PeerID, kind int, r *rates, frames int) bool {
	interval := r[kind]
	full := n.peers.Meter(id, kind)
	return interval == 0 || full == nil || (*meter)(full).holds(clockNow(), interval, frames)
}

// spareOf is the same for what one peer sends.
func (n *network) spareOf(id fdb.PeerID, kind int, r *rates, frames int) bool {
	interval := r[kind]
	if interval == 0 {
		return true
	}
	full := n.peers.Meter(id, kind)
	return full == nil || (*meter)(full).take(clockNow(), interval, frames)
}
