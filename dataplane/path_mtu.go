package dataplane

import (
	"net/netip"
	"slices"
	"time"

	"overtap/dataplane/netio"
	"overtap/encap"
	"overtap/fdb"
)

// The path MTU to a peer is the kernel's: routers report it by ICMP, it believes
// or not, and forgets in time (net.ipv4.route.mtu_expires). The path meets it as
// EMSGSIZE, asks, and keeps the answer with the peer (package fdb), so that what
// does not fit is answered by an ICMP error instead of tried. The tick asks again.

const (
	// answersPerSecond bounds the answers of one thread to one network's
	// senders, and how often it asks for a path MTU: each sender of a burst
	// needs one, a flood that does not listen must not take the thread's time.
	answersPerSecond = 200
	// pathMTUAge is how long a path MTU is kept before it is asked for again,
	// and pathMTUsPerBeat how many a network asks for in one tick.
	pathMTUAge      = 5 // seconds
	pathMTUsPerTick = 256
)

// maxAnswer is the longest frame that the path answers by: an ICMP error, which
// exceeds every reply of suppress.go.
const maxReply = encap.ICMPErrorFrameLen

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

// current is whose frames or packets are on the tx path, as far as path MTUs and
// answers are concerned.
type current struct {
	of      *netBase
	peers   *fdb.Peers
	dev     netio.Device
	mtu     encap.OverlayMTU
	port    uint16 // the peers'; 0 for a tunnel
	vni     encap.VNI
	ttl     uint8 // of the outer header
	packets bool  // a tunnel's: without Ethernet header
}

// outer is the length of the headers that go before a frame or packet to the
// peer.
func (a *current) outer(to netip.Addr) int {
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
func (o *sender) fits(packet int, id fdb.PeerID) bool {
	limit := o.at.peers.PathMTU(id)
	return limit == 0 || packet <= int(limit)
}

// remedy is what becomes of a packet that the path to its peer does not take.
type remedy uint8

const (
	// sendTooBig: it is dropped, and its sender gets how long it may be.
	sendTooBig remedy = iota
	// fragmentInner: it is fragmented before it is encapsulated, as it has no DF.
	fragmentInner
	// fragmentOuter: it leaves without DF, for the kernel to fragment the outer
	// packet. The sender would not go as low as the path is: TCP over IPv4 not below
	// 552 bytes (ip_rt_min_pmtu), no sender of IPv6 below 1280 (RFC 8200 section 5).
	// The kernel's tunnels do the same where a path MTU is locked (iptunnel_xmit).
	fragmentOuter
)

// remedy decides what becomes of a frame or packet, of which frame is the start at
// least, that a path of so many bytes does not take. It returns where the inner
// network header begins, and the longest inner packet that the path takes.
func (a *current) remedy(frame []byte, path encap.UnderlayMTU, to netip.Addr) (r remedy, l3, mtu int) {
	version := uint8(4)
	if !a.packets {
		eth, err := encap.ParseEthernet(frame)
		if err != nil {
			return sendTooBig, 0, 0
		}
		if l3 = eth.L3Offset(); eth.EtherType() == encap.EtherTypeIPv6 {
			version = 6
		} else if eth.EtherType() != encap.EtherTypeIPv4 {
			version = 0
		}
	}
	mtu = int(path) - a.outer(to) - l3
	least := int(encap.MinUnderlayMTU4)
	if version == 6 {
		least = int(encap.MinOverlayMTU6)
	}
	switch {
	case mtu < least:
		return fragmentOuter, l3, mtu
	case version == 4 && fragmentable(frame[l3:]):
		return fragmentInner, l3, mtu
	}
	return sendTooBig, l3, mtu
}

// tooLong drops a packet that the path does not take and notifies its sender, unless
// it goes to others too.
func (o *sender) tooLong(u *txPacket, frame []byte, to netip.Addr, id fdb.PeerID) {
	o.counters.drop(DropTooBig, u.segs, to)
	if o.mirror.on() {
		o.showUndeliverable(DropTooBig, u, frame, to)
	}
	if !u.copies {
		o.notifyPathMTU(frame, o.at.peers.PathMTU(id), to)
	}
}

// learnPath is what the Conn's EMSGSIZE says: the path to the peer has an MTU
// that is not known here. The sender of the refused frame is notified, or it is sent
// again without DF: from the next on the remedy comes first.
func (o *sender) learnPath(s *netio.Send, w netio.Conn) {
	to := s.To.Addr()
	path := o.at.peers.PathMTU(s.Peer)
	if o.counters.asks.take() {
		path = w.PathMTU(to)
		if s.Peer != fdb.NoPeer && path != 0 {
			o.at.peers.SetPathMTU(s.Peer, path)
		}
	}
	if path == 0 {
		return
	}
	if r, _, _ := o.at.remedy(o.inner(s), path, to); r == sendTooBig {
		o.reportRefused(s, path)
		return
	}
	o.resend(s, path, w)
}

// resend sends those payloads of a refused send without DF that the path does
// not take. The others have left.
func (o *sender) resend(s *netio.Send, path encap.UnderlayMTU, w netio.Conn) {
	o.retry = netio.AppendPayloads(o.retry[:0], s)
	o.retry = slices.DeleteFunc(o.retry, func(one netio.Send) bool { return o.outerLen(&one) <= int(path) })
	for i := range o.retry {
		o.retry[i].DF = false
	}
	if len(o.retry) == 0 {
		return
	}
	w.WriteBatch(o.retry)
	s.Errno, s.Refused = 0, 0
	for i := range o.retry {
		if e := o.retry[i].Errno; e != 0 {
			s.Errno = e
			s.Refused++
		}
	}
	o.counters.clearedDF.Add(uint64(len(o.retry) - s.Refused))
}

// outerLen is the length of the longest outer packet of a send.
func (o *sender) outerLen(s *netio.Send) int {
	n := s.SegSize
	if n == 0 {
		for _, p := range s.Parts {
			n += len(p)
		}
	}
	if !o.at.packets {
		n -= encap.VXLANHeaderLen
	}
	return n + o.at.outer(s.To.Addr())
}

// inner is the start of the first inner frame or packet of a send.
func (o *sender) inner(s *netio.Send) []byte {
	if o.at.packets {
		return s.Parts[0]
	}
	return s.Parts[0][encap.VXLANHeaderLen:]
}

// reportRefused notifies the sender of what the path refused, unless it went to others
// too.
func (o *sender) reportRefused(s *netio.Send, path encap.UnderlayMTU) {
	if s.Copies {
		return
	}
	o.notifyPathMTU(o.inner(s), path, s.To.Addr())
}

// notifyPathMTU notifies the sender of the frame, of which frame is the start at least,
// how long a packet reaches the peer. The peer may have got another path MTU
// meanwhile, or none: 0.
func (o *sender) notifyPathMTU(frame []byte, path encap.UnderlayMTU, to netip.Addr) {
	mtu := int(path) - o.at.outer(to)
	if !o.at.packets {
		eth, err := encap.ParseEthernet(frame)
		if err != nil {
			return
		}
		mtu -= eth.L3Offset()
	}
	o.replyTooBig(frame, encap.OverlayMTU(max(min(mtu, int(o.at.mtu)), 0)))
}

// replyTooBig sends the sender of the frame an ICMP error that packets of more than
// mtu bytes do not pass, if it may have one.
func (o *sender) replyTooBig(frame []byte, mtu encap.OverlayMTU) {
	n := 0
	if o.at.packets {
		n = encap.PutTooBig(o.answer[:], frame, mtu)
	} else {
		n = encap.PutTooBigFrame(o.answer[:], frame, mtu)
	}
	if o.reply(n) {
		o.counters.answered.Add(1)
	}
}

// sendUnreachable notifies the sender of a tunnel's packet that it did not arrive.
func (o *sender) sendUnreachable(packet []byte, what encap.Unreachable) {
	if o.reply(encap.PutUnreachable(o.answer[:], packet, what)) {
		o.counters.unreachable.Add(1)
	}
}

// reply gives the first n bytes of the answer to the device, unless n is 0 or the
// allowance is used up, and reports whether it did.
func (o *sender) reply(n int) bool {
	if n == 0 || !o.counters.answers.take() || o.at.dev.Inject(o.answer[:n]) != 0 {
		return false
	}
	if o.mirror.on() {
		o.mirror.mirrorReply(o.at.of, o.answer[:n])
	}
	return true
}

// checkPaths asks for the path MTUs again that were asked for long ago, of a
// network's or a tunnel's peers, and notifies the owner of those that changed. The
// engine calls it on its tick.
func (e *Engine) checkPaths(m member) {
	n := m.base()
	if !n.peers.Narrow() && len(n.paths) == 0 {
		return
	}
	left := pathMTUsPerTick
	now := make(map[netip.Addr]encap.UnderlayMTU)
	for _, p := range n.peers.PathMTUs() {
		if p.MTU == fdb.NoRoute {
			continue // routeLook
		}
		if p.Age >= pathMTUAge && left > 0 {
			left--
			p.MTU = e.backend.PathMTU(p.Addr)
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
		return // the next tick finds what changed since the last event
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

// routesPerBeat is for how many routes a tick asks at most, and peersPerBeat at how
// many peers of a network or tunnel it looks: they mostly share theirs.
const (
	routesPerTick = 1024
	peersPerTick  = 256
)

// routeLook is a tick's look at the peers that the underlay has no route to.
type routeLook struct {
	ask     func(netip.Addr) bool
	missing map[netip.Addr]bool // as was answered
}

// newRouteLook returns one by the given question; nil = none is needed.
func newRouteLook(ask func(netip.Addr) bool) *routeLook {
	if ask == nil {
		return nil
	}
	return &routeLook{ask: ask, missing: make(map[netip.Addr]bool)}
}

// look notes which of the next peers the underlay has no route to.
func (r *routeLook) look(o *netBase) {
	if r == nil {
		return
	}
	at := 0
	for p := range o.peers.All() {
		if at++; at <= o.routesSeen {
			continue
		}
		missing, known := r.missing[p.Addr]
		if at > o.routesSeen+peersPerTick || !known && len(r.missing) == routesPerTick {
			o.routesSeen = at - 1
			return
		}
		if !known {
			missing = r.ask(p.Addr)
			r.missing[p.Addr] = missing
		}
		if missing && p.PathMTU != fdb.NoRoute {
			o.peers.SetPathMTU(p.ID, fdb.NoRoute)
		} else if !missing && p.PathMTU == fdb.NoRoute {
			o.peers.SetPathMTU(p.ID, 0)
		}
	}
	o.routesSeen = 0
}
