package dataplane

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"overtap/encap"
	"overtap/fdb"
)

// outbound explains a frame from the TAP (outbound.forward).
func (x *explainer) outbound(n *network) {
	p := n.policy.Load()
	s := newStage(x.e.edges, atHand{peers: n.peers, mtu: p.mtu})
	s.n, s.p = n, p
	f := x.frame(encap.FindTransport)
	x.out.Direction = Outbound
	if x.lost(&n.overlay, n.config.Device) {
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
	if ok && !(eth.Dst() == eth.Src() && n.table.ForeseeForget(eth.Src())) {
		x.unicast(s, f, eth, id)
	} else {
		x.flood(s, f, eth)
	}
	x.told(s)
}

// described says what kind of frame it is.
func described(f *Frame, eth encap.Ethernet) string {
	what := fmt.Sprintf("%d bytes", len(f.Data))
	if eth.Tags() != 0 {
		what += fmt.Sprintf(", %d VLAN tags", eth.Tags())
	}
	if f.VNet.GSOSize != 0 {
		what += fmt.Sprintf(", a superframe of segments of %d bytes", f.VNet.GSOSize)
	}
	if eth.EtherType() == encap.EtherTypeARP {
		return what + ", ARP"
	}
	if _, ok := encap.FindTransport(f.Data); !ok {
		what += fmt.Sprintf(", no IP packet (EtherType %#04x)", eth.EtherType())
	}
	return what
}

// source tells what the table makes of a source on our own side.
func (x *explainer) source(n *network, src encap.MAC) {
	entry, ok := n.table.Entry(src)
	switch {
	case n.table.ForeseeForget(src):
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

// suppressed tells whether the network's neighbours answer the question that the
// frame is.
func (x *explainer) suppressed(s *stage, f *Frame, eth encap.Ethernet) bool {
	if size := s.answerFor(f, eth); size != 0 {
		mac := encap.MACFrom(s.answer[encap.MACLen:])
		x.step("suppress", stepAnswer, "answered here from the network's neighbours: %s", mac)
		x.out.Verdict, x.out.Told = OutcomeAnswered, "the answer: "+mac.String()
		return true
	}
	x.step("suppress", stepNote, "not a question that the network's neighbours answer")
	return false
}

// unicast explains a frame for a MAC that has an entry.
func (x *explainer) unicast(s *stage, f *Frame, eth encap.Ethernet, id fdb.PeerID) {
	to := s.n.peers.Addr(id)
	if !x.checked("lookup", gone(to), "%s is behind %s: %s", eth.Dst(), to, x.origin(s.n, eth.Dst())) {
		return
	}
	u, d := s.inspect(f, eth, id)
	if !x.fits(s, f, &u, d) {
		return
	}
	x.send(s, &u, f, []fdb.Target{{ID: id, Addr: to}})
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

// flood explains a frame for everybody, or for a MAC without an entry.
func (x *explainer) flood(s *stage, f *Frame, eth encap.Ethernet) {
	targets := s.n.peers.Flood()
	group := s.p.group.IsValid()
	why := fmt.Sprintf("%s has no entry", eth.Dst())
	if eth.Dst().IsMulticast() {
		why += " (it is a group address)"
	}
	switch {
	case group:
		x.step("lookup", stepPass, "%s: to the multicast group %s", why, s.p.group)
		targets = []fdb.Target{{ID: fdb.NoPeer, Addr: s.p.group}}
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
		if !x.checked("storm", storm(s.n.spares(kind, s.p, u.segs), kind), "%s", bound(kind, &s.p.storm)) {
			return
		}
	}
	u.copies = group || len(targets) > 1
	x.send(s, &u, f, targets)
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

// fits tells whether a unit is no longer than the network's MTU, as which an IP
// packet counts. d is what inspecting it said.
func (x *explainer) fits(s *stage, f *Frame, u *unit, d Drop) bool {
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
		if p, ok := planSegments(f, t, isIP); ok {
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

// send explains how a unit leaves to each of its receivers.
func (x *explainer) send(s *stage, u *unit, f *Frame, targets []fdb.Target) {
	long := make(map[netip.Addr]bool) // of whom it is known beforehand
	for _, t := range targets {
		before := s.dropped()
		s.deliver(u, f, t.Addr, t.ID, s.wire)
		long[t.Addr] = s.dropped() != before
	}
	s.flush(s.wire)
	x.copies(s, u, targets, long)
}

// copies tells what the road gave to the wire, and what the underlay would say.
func (x *explainer) copies(s *stage, u *unit, targets []fdb.Target, long map[netip.Addr]bool) {
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
	sends := make(map[netip.Addr]*Send, len(targets))
	for i := range s.wire.sends {
		one := &s.wire.sends[i]
		c := byPeer[one.To.Addr()]
		c.leaves(one.To.Port(), one.TOS, one.TTL, one.DF)
		if one.To.Port() != 0 {
			c.SourcePort = x.e.edges.SourcePort(one.Flow, one.DF)
		}
		if c.Way != wayRuns {
			c.Way = waySingly
			if !s.at.packets && one.SegSize != 0 && x.e.edges.TakesRuns(c.Peer) {
				c.Way = wayRuns
			}
		}
		sends[c.Peer] = one
	}
	for i := range s.wire.wholes {
		one := &s.wire.wholes[i]
		c := byPeer[one.To.Addr()]
		c.leaves(one.To.Port(), one.TOS, one.TTL, true)
		c.Way = wayUplink
		if one.To.Port() != 0 {
			c.SourcePort = x.e.edges.SourcePort(one.Flow, true)
		}
	}
	x.out.Verdict = OutcomeDropped
	for i, t := range targets {
		c := &x.out.Copies[i]
		c.PathMTU = s.at.peers.PathMTU(t.ID)
		if long[t.Addr] {
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
// that goes uncut was asked about before.
func (x *explainer) underlay(st *stage, c *Copy, s *Send) {
	path := x.e.edges.PathMTU(c.Peer)
	if c.PathMTU == 0 {
		c.PathMTU = path
	}
	switch {
	case s == nil:
	case path == 0 && !c.Peer.IsMulticast():
		c.Reason = wireDrop(unix.ENETUNREACH)
		if st.at.packets {
			st.tellUnreachable(s.Parts[0], encap.HostUnreachable)
		}
	case path != 0 && c.DF && c.Length > int(path):
		c.Reason = wireDrop(unix.EMSGSIZE)
		if believed := believable(path, c.Peer); believed != 0 {
			st.tellRefused(s, believed)
		}
	}
}

// sent tells of one copy.
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

// told notes what the sender would hear by ICMP.
func (x *explainer) told(s *stage) {
	for _, answer := range s.dev.answers {
		x.out.Told = icmpTold(answer, s.at.packets)
		x.step("icmp", stepNote, "its sender is told: %s", x.out.Told)
	}
}

// icmpTold says what the ICMP error is.
func icmpTold(b []byte, packet bool) string {
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
