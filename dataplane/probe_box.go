package dataplane

import (
	"net/netip"
	"sync/atomic"
	"time"

	"overtap/encap"
)

// probeBoxSize is how many probes of one thread may wait for the prober. It is a
// power of two.
const probeBoxSize = 256

// probeBox passes the probes that one rx thread received to the prober: a
// ring with one writer and one reader.
type probeBox struct {
	_     [64]byte
	put   atomic.Uint64 // how many the thread put in
	_     [64]byte
	taken atomic.Uint64 // how many the prober took out
	slots [probeBoxSize]receivedProbe
	wake  chan<- struct{}
}

// receivedProbe is a probe from an admitted sender.
type receivedProbe struct {
	encap.Probe
	network *network
	from    netip.Addr
	at      time.Time
}

// add is the thread's; it reports whether there was room. It neither waits nor
// allocates.
func (b *probeBox) add(p encap.Probe, n *network, from netip.Addr) bool {
	put := b.put.Load()
	if put-b.taken.Load() == probeBoxSize {
		return false
	}
	b.slots[put%probeBoxSize] = receivedProbe{p, n, from, time.Now()}
	b.put.Store(put + 1)
	select {
	case b.wake <- struct{}{}:
	default: // it is awake
	}
	return true
}

// next is the prober's; it reports whether a probe waited.
func (b *probeBox) next() (p receivedProbe, ok bool) {
	taken := b.taken.Load()
	if taken == b.put.Load() {
		return p, false
	}
	slot := &b.slots[taken%probeBoxSize]
	p, *slot = *slot, receivedProbe{} // or a network that is gone would live on
	b.taken.Store(taken + 1)
	return p, true
}
