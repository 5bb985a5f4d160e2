package dataplane

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"overtap/dataplane/netio"
	"overtap/encap"
	"overtap/fdb"
)

// outbound explains a frame from the TAP (outbound.forward).
func (x *explainer) outbound(n *network) {
	p := n.policy.Load()
	s := newDryRun(x.e.backend, current{peers: n.peers, mtu: p.MTU, port: p.Port, ttl: p.TTL})
	s.n, s.p = n, p
	f := x.frame(encap.FindTransport)
	x.out.Direction = Outbound
	if x.lost(&n.netBase, n.config().Device) {
		return
	}
	eth, err := encap.ParseEthernet(f.Data)
	if err != nil {
		x.checked("frame", DropTooShort, "")
		return
	}
	if !x.checked("frame", p.checkOut(eth), "%s to %s, %s", eth.Src(), eth.Dst(), described(f, eth)) {
		return
	}
	x.source(n, eth.Src())
	if p.neighbors != nil && x.suppressed(s, f, eth) {
		return
	}
	id, ok := n.table.Lookup(eth.Dst())
	if ok && !(eth.Dst() == eth.Src() && n.table.WouldForget(eth.Src())) {
		x.unicast(s, f, eth, id)
	} else {
		x.flood(s, f, eth)
	}
	x.notified(s)
}

// described says what kind of frame it is.
func described(f *netio.Frame, eth encap.Ethernet) string {
	what := fmt.Sprintf("%d bytes", len(f.Data))
	if eth.Tags() != 0 {
		what += fmt.Sprintf(", %d VLAN tags", eth.Tags())
	}
	if f.VNet.GSOSize != 0 {
		what += fmt.Sprintf(", a GSO packet of segments of %d bytes", f.VNet.GSOSize)
	}
	if eth.EtherType() == encap.EtherTypeARP {
		return what + ", ARP"
	}
	if _, ok := encap.FindTransport(f.Data); !ok {
		what += fmt.Sprintf(", no IP packet (EtherType %#04x)", eth.EtherType())
	}
	return what
}

// source adds what the table makes of a source on our own side.
func (x *explainer) source(n *network, src encap.MAC) {
	entry, ok := n.table.Entry(src)
	switch {
	case n.table.WouldForget(src):
		x.step("source", stepNote, "%s was learned behind %s: it has moved here, and its entry goes",
			src, n.peers.Addr(entry.Peer))
	case ok && entry.Frozen:
		x.step("source", stepNote, "%s is frozen behind %s: it moved too often, and its entry stays for a while",
			src, n.peers.Addr(entry.Peer))
	case ok && entry.Origin > fdb.Learned:
		x.step("source", stepNote, "%s has a %s entry behind %s, which stays though it speaks here",
			src, entry.Origin, n.peers.Addr(entry.Peer))
	default:
		x.step("source", stepPass, "%s is not known elsewhere", src)
	}
}

// suppressed reports whether the network's neighbours answer the question that the
// frame is.
func (x *explainer) suppressed(s *dryRun, f *netio.Frame, eth encap.Ethernet) bool {
	if size := s.replyFor(f, eth); size != 0 {
		mac := encap.MACFrom(s.answer[encap.MACLen:])
		x.step("suppress", stepReply, "answered here from the network's neighbours: %s", mac)
		x.out.Verdict, x.out.Notified = OutcomeAnswered, "the answer: "+mac.String()
		return true
	}
	x.step("suppress", stepNote, "not a question that the network's neighbours answer")
	return false
}

// unicast explains a frame for a MAC that has an entry.
func (x *explainer) unicast(s *dryRun, f *netio.Frame, eth encap.Ethernet, id fdb.PeerID) {
	to := s.n.peers.Addr(id)
	if !x.checked("lookup", gone(to), "%s is behind %s: %s", eth.Dst(), to, x.origin(s.n, eth.Dst())) {
		return
	}
	u, d := s.inspect(f, eth, id)
	if !x.fits(s, f, &u, d) {
		return
	}
	x.send(s, &u, []fdb.Target{{ID: id, Addr: to}}, s.deliverer(&u, f))
}

// gone is the drop of a frame whose peer was removed at this moment.
func gone(to netip.Addr) Drop {
	if !to.IsValid() {
		return DropVXLANNoRemote
	}
	return dropNone
}

// origin says where an entry is from.
func (x *explainer) origin(n *network, m encap.MAC) string {
	entry, _ := n.table.Entry(m)
	if entry.Origin > fdb.Learned {
		return entry.Origin.String() + " entry"
	}
	text := fmt.Sprintf("learned, last seen %d s ago", entry.Age)
	if entry.Frozen {
		text += ", frozen"
	}
	return text
}

// flood explains a broadcast or multicast frame, or one for a MAC without an entry.
func (x *explainer) flood(s *dryRun, f *netio.Frame, eth encap.Ethernet) {
	targets := s.n.peers.Flood()
	group := s.p.Group.IsValid()
	why := fmt.Sprintf("%s has no entry", eth.Dst())
	if eth.Dst().IsMulticast() {
		why += " (it is a group address)"
	}
	switch {
	case group:
		x.step("lookup", stepPass, "%s: to the multicast group %s", why, s.p.Group)
		targets = []fdb.Target{{ID: fdb.NoPeer, Addr: s.p.Group}}
	case len(targets) == 0:
		x.drop("lookup", DropVXLANNoRemote, why+", and no peer has flood = true")
		return
	default:
		x.step("lookup", stepPass, "%s: flooded to %d of %d peers", why, len(targets), s.n.peers.Len())
	}
	u, d := s.inspect(f, eth, fdb.NoPeer)
	if !x.fits(s, f, &u, d) {
		return
	}
	if s.p.stormy {
		kind := stormKind(eth.Dst())
		if !x.checked("storm", storm(s.n.wouldAllow(kind, s.p, u.segs), kind), "%s", bound(kind, &s.p.storm)) {
			return
		}
	}
	u.copies = group || len(targets) > 1
	x.send(s, &u, targets, s.deliverer(&u, f))
}

// storm is the drop of flooded frames that are not spared.
func storm(spared bool, kind int) Drop {
	if spared {
		return dropNone
	}
	return stormDrops[kind]
}

// bound says how many flooded frames of the kind may pass.
func bound(kind int, r *rates) string {
	if r[kind] == 0 {
		return "frames of this kind are not bounded"
	}
	return fmt.Sprintf("the bound of %d frames a second is not reached", 1e9/r[kind])
}

// fits reports whether a packet is no longer than the network's MTU, as which an IP
// packet counts. d is what inspecting it said.
func (x *explainer) fits(s *dryRun, f *netio.Frame, u *txPacket, d Drop) bool {
	find := encap.FindTransport
	if s.at.packets {
		find = encap.FindPacketTransport
	}
	t, isIP := find(f.Data)
	l3, end := t.L3, len(f.Data)
	if s.at.packets {
		end = t.End
	}
	if eth, err := encap.ParseEthernet(f.Data); !isIP && err == nil {
		l3 = eth.L3Offset()
	}
	if d == DropTooBig {
		size := fmt.Sprintf("%d bytes", end-l3)
		if p, bad := planSegments(f, t, isIP); bad == dropNone {
			size = fmt.Sprintf("%d segments, the longest of %d bytes", p.count, p.longest()-l3)
		}
		x.drop("size", d, tooBig(size, s.at.mtu))
		return false
	}
	if u.segs > 1 {
		return x.checked("size", d, "%d segments, the longest of %d bytes: within the network's MTU of %d", u.segs, u.longest-l3, s.at.mtu)
	}
	return x.checked("size", d, "%d bytes: within the network's MTU of %d", u.longest-l3, s.at.mtu)
}

// tooBig says that a packet is longer than the network takes.
func tooBig(size string, mtu encap.OverlayMTU) string {
	return fmt.Sprintf("%s: larger than the network's MTU of %d", size, mtu)
}

// send explains how a packet leaves to each of its receivers, to which deliver
// brings it.
func (x *explainer) send(s *dryRun, u *txPacket, targets []fdb.Target, deliver func(fdb.Target)) {
	long := make(map[netip.Addr]bool) // of whom it is known beforehand
	for _, t := range targets {
		before := s.dropped()
		deliver(t)
		long[t.Addr] = s.dropped() != before
	}
	s.flush(s.conn)
	x.copies(s, u, targets, long)
	if n := s.counters.fragmented.Load(); n != 0 {
		x.step("fragment", stepNote, "the path is too narrow and DF is not set: %d packets are fragmented before they are encapsulated", n)
	}
}

// deliverer delivers a frame's txPacket as the tx path does.
func (s *dryRun) deliverer(u *txPacket, f *netio.Frame) func(fdb.Target) {
	return func(t fdb.Target) { s.deliver(u, f, t.Addr, t.ID, s.conn) }
}

// copies adds what the path gave to the Conn, and what the underlay would say.
func (x *explainer) copies(s *dryRun, u *txPacket, targets []fdb.Target, long map[netip.Addr]bool) {
	byPeer := make(map[netip.Addr]*Copy, len(targets))
	for _, t := range targets {
		c := Copy{Peer: t.Addr, Overhead: s.at.outer(t.Addr)}
		if !s.at.packets {
			c.Overhead += encap.EthernetHeaderLen
		}
		c.Frames, c.Length = u.segs, u.longest+s.at.outer(t.Addr)
		x.out.Copies = append(x.out.Copies, c)
	}
	for i := range x.out.Copies {
		byPeer[x.out.Copies[i].Peer] = &x.out.Copies[i]
	}
	sends := make(map[netip.Addr]*netio.Send, len(targets))
	for i := range s.conn.sends {
		one := &s.conn.sends[i]
		c := byPeer[one.To.Addr()]
		c.leaves(one.To.Port(), one.TOS, one.TTL, one.DF)
		if one.To.Port() != 0 {
			c.SourcePort = x.e.backend.SourcePort(one.Flow, one.DF)
		}
		if c.Way != wayRuns {
			c.Way = waySingly
			if !s.at.packets && one.SegSize != 0 && x.e.backend.TakesRuns(c.Peer) {
				c.Way = wayRuns
			}
		}
		if sends[c.Peer] == nil {
			c.Frames, c.Length = 0, 0
		}
		c.Frames += one.Count
		c.Length = max(c.Length, s.outerLen(one))
		sends[c.Peer] = one
	}
	for i := range s.conn.unsegmented {
		one := &s.conn.unsegmented[i]
		c := byPeer[one.To.Addr()]
		c.leaves(one.To.Port(), one.TOS, one.TTL, true)
		c.Way = wayUplink
		if one.To.Port() != 0 {
			c.SourcePort = x.e.backend.SourcePort(one.Flow, true)
		}
	}
	x.out.Verdict = OutcomeDropped
	for i, t := range targets {
		c := &x.out.Copies[i]
		c.PathMTU = s.at.peers.PathMTU(t.ID)
		if c.PathMTU == fdb.NoRoute {
			c.PathMTU, c.Reason = 0, DropNoRoute
		} else if long[t.Addr] {
			c.Reason = DropTooBig
		} else {
			x.underlay(s, c, sends[c.Peer])
		}
		if c.Reason == dropNone {
			x.out.Verdict = OutcomeSent
		}
		x.sent(c)
	}
	if x.out.Verdict == OutcomeDropped {
		x.out.Reason = x.out.Copies[0].Reason
	}
}

// The ways in which copies leave.
const (
	wayUplink = "uplink"
	wayRuns   = "UDP_SEGMENT"
	waySingly = "sendmmsg"
)

func (c *Copy) leaves(port uint16, tos, ttl uint8, df bool) {
	c.Port, c.TOS, c.TTL, c.DF = port, tos, ttl, df
}

// underlay asks what the underlay would say to a copy. s is how it was sent; one
// that goes unsegmented was asked about before.
func (x *explainer) underlay(st *dryRun, c *Copy, s *netio.Send) {
	path := x.e.backend.PathMTU(c.Peer)
	if c.PathMTU == 0 {
		c.PathMTU = path
	}
	switch {
	case s == nil:
	case path == 0 && !c.Peer.IsMulticast():
		c.Reason = wireDrop(unix.ENETUNREACH)
		if st.at.packets {
			st.sendUnreachable(s.Parts[0], encap.HostUnreachable)
		}
	case path != 0 && c.DF && c.Length > int(path):
		if r, _, _ := st.at.remedy(st.inner(s), path, c.Peer); r != sendTooBig {
			c.DF = false // it is refused, and sent again so
			return
		}
		c.Reason = wireDrop(unix.EMSGSIZE)
		st.reportRefused(s, path)
	}
}

// sent adds a step for one copy.
func (x *explainer) sent(c *Copy) {
	switch c.Reason {
	case dropNone:
		from := ""
		if c.SourcePort != 0 {
			from = fmt.Sprintf(" port %d from our port %d", c.Port, c.SourcePort)
		}
		x.step("send", stepPass, "to %s%s, %s", c.Peer, from, c.outer())
	case DropTooBig:
		x.refused(c, fmt.Sprintf("to %s: outer packets of %d bytes: larger than the path's MTU of %d", c.Peer, c.Length, c.PathMTU))
	default:
		x.refused(c, fmt.Sprintf("to %s: %s", c.Peer, c.Reason.Text()))
	}
}

func (x *explainer) refused(c *Copy, detail string) {
	x.out.Steps = append(x.out.Steps, Step{Name: "send", Verdict: stepDrop, Reason: c.Reason, Detail: detail})
}

// outer says what the outer packets are like.
func (c *Copy) outer() string {
	what := fmt.Sprintf("by %s: an outer packet of %d bytes", c.Way, c.Length)
	if c.Frames > 1 {
		what = fmt.Sprintf("by %s: %d outer packets of at most %d bytes", c.Way, c.Frames, c.Length)
	}
	df := "DF set"
	if !c.DF {
		df = "DF not set, longer ones are fragmented"
	}
	return fmt.Sprintf("%s (%d more than the inner one), path MTU %d, %s, TTL %d, TOS %#02x",
		what, c.Overhead, c.PathMTU, df, c.TTL, c.TOS)
}

// notified adds what the sender would get by ICMP.
func (x *explainer) notified(s *dryRun) {
	for _, answer := range s.dev.injected {
		x.out.Notified = quotedICMP(answer, s.at.packets)
		x.step("icmp", stepNote, "its sender gets an ICMP error: %s", x.out.Notified)
	}
}

// quotedICMP says what the ICMP error is.
func quotedICMP(b []byte, packet bool) string {
	t, ok := encap.FindTransport(b)
	if packet {
		t, ok = encap.FindPacketTransport(b)
	}
	if !ok || t.End-t.L4 < 8 {
		return "an ICMP error"
	}
	icmp := b[t.L4:]
	switch {
	case t.V6:
		return fmt.Sprintf("Packet Too Big, at most %d bytes", binary.BigEndian.Uint32(icmp[4:]))
	case icmp[1] == encap.ICMPv4CodeFragNeeded:
		return fmt.Sprintf("Fragmentation Needed, at most %d bytes", binary.BigEndian.Uint16(icmp[6:]))
	case icmp[1] == encap.ICMPv4CodeNetUnreachable:
		return "Network Unreachable"
	}
	return "Host Unreachable"
}
