package dataplane

import (
	"net/netip"
	"time"

	"overtap/encap"
	"overtap/fdb"
)

// The path MTU to a peer is the kernel's: routers tell it by ICMP, it believes
// or not, and forgets in time (net.ipv4.route.mtu_expires). The road meets it as
// EMSGSIZE, asks, and keeps the answer with the peer (package fdb), so that what
// does not fit is told to its sender instead of tried. The beat asks again.

const (
	// answersPerSecond bounds the answers of one thread to one network's
	// senders, and how often it asks for a path MTU: each sender of a burst
	// needs one, a flood that does not listen shall not take the thread's time.
	answersPerSecond = 200
	// pathMTUAge is how long a path MTU is kept before it is asked for again,
	// and pathMTUsPerBeat how many a network asks for in one beat.
	pathMTUAge      = 5 // seconds
	pathMTUsPerBeat = 256
)

// maxAnswer is the longest frame that the road answers by: an ICMP error, which
// exceeds every reply of suppress.go.
const maxAnswer = encap.ICMPErrorFrameLen

// allowance is a number of things to do in a second; one thread's.
type allowance struct {
	since time.Time
	used  int
}

// take reports whether one more may be done.
func (a *allowance) take() bool {
	if now := time.Now(); now.Sub(a.since) >= time.Second {
		a.since, a.used = now, 0
	}
	if a.used == answersPerSecond {
		return false
	}
	a.used++
	return true
}

// atHand is whose frames or packets are on the road out, as far as path MTUs and
// answers are concerned.
type atHand struct {
	of      *overlay
	peers   *fdb.Peers
	dev     Device
	mtu     encap.OverlayMTU
	packets bool // a tunnel's: without Ethernet header
}

// outer is the length of the headers that go before a frame or packet to the
// peer.
func (a *atHand) outer(to netip.Addr) int {
	if a.packets {
		return encap.IPIPOverhead
	}
	return vxlanOuter(to)
}

// vxlanOuter is the length of the headers that VXLAN puts before a frame to the
// peer.
func vxlanOuter(to netip.Addr) int {
	if to.Is6() {
		return encap.VXLANOverhead6 - encap.EthernetHeaderLen
	}
	return encap.VXLANOverhead4 - encap.EthernetHeaderLen
}

// fits reports whether the path to the peer takes an outer packet of so many
// bytes, as far as is known.
func (o *outbound) fits(packet int, id fdb.PeerID) bool {
	limit := o.at.peers.PathMTU(id)
	return limit == 0 || packet <= int(limit)
}

// tooLong drops a unit that the path does not take and tells its sender, unless
// it goes to others too.
func (o *outbound) tooLong(u *unit, frame []byte, to netip.Addr, id fdb.PeerID) {
	o.tally.drop(DropTooBig, u.segs)
	if o.mirror.on() {
		o.showTooLong(u, frame, to)
	}
	if !u.copies {
		o.tellPath(frame, o.at.peers.PathMTU(id), to)
	}
}

// learnPath is what the wire's EMSGSIZE says: the path to the peer has an MTU
// that is not known here. The sender of the refused frame is told.
func (o *outbound) learnPath(s *Send, w Wire) {
	if s.peer == fdb.NoPeer || !o.tally.asks.take() {
		return
	}
	to := s.To.Addr()
	path := believable(w.PathMTU(to), to)
	if path == 0 {
		return
	}
	o.at.peers.SetPathMTU(s.peer, path)
	o.tellRefused(s, path)
}

// tellRefused tells the sender of what the path refused, unless it went to others
// too.
func (o *outbound) tellRefused(s *Send, path encap.UnderlayMTU) {
	if s.copies {
		return
	}
	frame := s.Parts[0]
	if !o.at.packets {
		frame = frame[encap.VXLANHeaderLen:]
	}
	o.tellPath(frame, path, s.To.Addr())
}

// believable is the path MTU to the peer, or 0 for less than can be.
func believable(path encap.UnderlayMTU, to netip.Addr) encap.UnderlayMTU {
	least := encap.MinUnderlayMTU4
	if to.Is6() {
		least = encap.MinUnderlayMTU6
	}
	if path < least {
		return 0
	}
	return path
}

// tellPath tells the sender of the frame, of which frame is the start at least,
// how long a packet reaches the peer. The peer may have got another path MTU
// meanwhile, or none: 0.
func (o *outbound) tellPath(frame []byte, path encap.UnderlayMTU, to netip.Addr) {
	mtu := int(path) - o.at.outer(to)
	if !o.at.packets {
		eth, err := encap.ParseEthernet(frame)
		if err != nil {
			return
		}
		mtu -= eth.L3Offset()
	}
	o.tell(frame, encap.OverlayMTU(max(min(mtu, int(o.at.mtu)), 0)))
}

// tell tells the sender of the frame that packets of more than mtu bytes do not
// pass, if it may be told.
func (o *outbound) tell(frame []byte, mtu encap.OverlayMTU) {
	n := 0
	if o.at.packets {
		n = encap.PutTooBig(o.answer[:], frame, mtu)
	} else {
		n = encap.PutTooBigFrame(o.answer[:], frame, mtu)
	}
	if o.reply(n) {
		o.tally.answered.Add(1)
	}
}

// tellUnreachable tells the sender of a tunnel's packet that it did not arrive.
func (o *outbound) tellUnreachable(packet []byte, what encap.Unreachable) {
	if o.reply(encap.PutUnreachable(o.answer[:], packet, what)) {
		o.tally.unreachable.Add(1)
	}
}

// reply gives the first n bytes of the answer to the device, unless n is 0 or the
// allowance is used up, and reports whether it did.
func (o *outbound) reply(n int) bool {
	if n == 0 || !o.tally.answers.take() || o.at.dev.Answer(o.answer[:n]) != 0 {
		return false
	}
	if o.mirror.on() {
		o.mirror.showAnswer(o.at.of, o.answer[:n])
	}
	return true
}

// lookAtPaths asks for the path MTUs again that were asked for long ago, of a
// network's or a tunnel's peers, and tells the owner of those that changed. The
// door calls it on its beat.
func (e *Engine) lookAtPaths(m member) {
	n := m.base()
	if !n.peers.Narrow() && len(n.paths) == 0 {
		return
	}
	left := pathMTUsPerBeat
	now := make(map[netip.Addr]encap.UnderlayMTU)
	for _, p := range n.peers.PathMTUs() {
		if p.Age >= pathMTUAge && left > 0 {
			left--
			p.MTU = believable(e.edges.PathMTU(p.Addr), p.Addr)
			if p.MTU >= m.fills(p.Addr) {
				p.MTU = 0 // no limit any more
			}
			n.peers.SetPathMTU(p.ID, p.MTU)
		}
		if p.MTU != 0 {
			now[p.Addr] = p.MTU
		}
	}
	if e.isBehind() {
		return // the next beat finds what changed since it was last told
	}
	for addr, mtu := range now {
		if n.paths[addr] != mtu {
			e.notify(Event{Kind: PathMTUChanged, Network: n.name, Peer: addr, PathMTU: mtu})
		}
	}
	for addr := range n.paths {
		if _, still := now[addr]; !still {
			if _, peer := n.peers.ID(addr); peer {
				e.notify(Event{Kind: PathMTUChanged, Network: n.name, Peer: addr})
			}
		}
	}
	n.paths = now
}
