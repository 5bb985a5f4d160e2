package fdb

import (
	"net/netip"

	"overtap/encap"
)

// The path MTU to a peer is soft state: what the underlay last said of the way
// there, kept only while it is a limit. The path reads it, and writes it when a
// send was too long; control asks the underlay again from time to time and
// raises it.

// NoRoute stands for the path MTU to a peer that the underlay has no route to. No
// packet is as short.
const NoRoute encap.UnderlayMTU = 1

// PathMTU is the limit of the path to one peer.
type PathMTU struct {
	ID   PeerID
	Addr netip.Addr
	MTU  encap.UnderlayMTU
	Age  uint32 // seconds since it was set
}

// Now returns the time of the engine's clock.
func (p *Peers) Now() uint32 { return p.clock.Now() }

// Since returns the seconds since a time of Now.
func (p *Peers) Since(then uint32) uint32 { return uint32(max(0, since(p.clock.Now(), then))) }

// Narrow reports whether any peer has a path MTU. It is one load, so that where
// none has, as nearly everywhere, a frame pays no more. It may err on the side
// of true until the next PathMTUs.
func (p *Peers) Narrow() bool { return p.narrow.Load() != 0 }

// PathMTU returns the longest outer packet in bytes that reaches the peer, or 0
// when no limit is known.
func (p *Peers) PathMTU(id PeerID) encap.UnderlayMTU {
	if r := p.lookup(id); r != nil {
		return r.pathMTU()
	}
	return 0
}

func (r *peer) pathMTU() encap.UnderlayMTU { return encap.UnderlayMTU(r.pmtu.Load()) }

// SetPathMTU notes the path MTU to a peer; 0 is no limit. Any thread may call
// it; of several at once one counts. An ID never given, or released, is passed
// over.
func (p *Peers) SetPathMTU(id PeerID, mtu encap.UnderlayMTU) {
	r := p.lookup(id)
	if r == nil {
		return
	}
	r.asked.Store(p.clock.Now())
	r.pmtu.Store(uint32(mtu))
	if mtu != 0 {
		p.narrow.Add(1)
	}
}

// PathMTUs returns those of the peers that have one, in the order of their IDs.
func (p *Peers) PathMTUs() (all []PathMTU) {
	was := p.narrow.Load()
	if was == 0 {
		return nil
	}
	byID := *p.byID.Load()
	for i := range byID {
		r := byID[i].Load()
		if r == nil || r.state.Load() == stateRetired {
			continue
		}
		if mtu := r.pathMTU(); mtu != 0 {
			age := since(p.clock.Now(), r.asked.Load())
			all = append(all, PathMTU{ID: r.id, Addr: r.addr, MTU: mtu, Age: uint32(max(0, age))})
		}
	}
	if len(all) == 0 {
		p.narrow.CompareAndSwap(was, 0) // unless one was set meanwhile
	}
	return all
}
