package dataplane

import (
	"net/netip"

	"overtap/dataplane/netio"
	"overtap/encap"
	"overtap/fdb"
)

// The path of a packet from a TUN:
//
//  1. run: as for frames. What is read has no Ethernet header.
//  2. forward: the inner IPv4 header is checked, and that hops are left.
//  3. The destination's longest prefix among the tunnel's routes gives the peer.
//  4. What is from or for an end of the tunnel itself would run in a circle.
//  5. inspect: the flow is hashed, the checksum finished, and a GSO packet checked.
//  6. encapsulate: nothing goes before the packet but, in a GSO packet, each segment's own
//     headers. The Conn puts the outer header.
//  7. sender.append: one Send for the packet, or for all segments of a GSO packet.
//  8. sender.send: as for frames.

// txIPIP is the path from the TUNs to the underlay for one worker. Its thread alone
// uses it.
type txIPIP struct {
	*sender
	self netip.Addr // our own outer address

	t *tunnel // of the current batch
	p *Tunnel
}

// run takes one batch from the device to the wire (step 1 of the path).
func (o *txIPIP) run(t *tunnel, dev netio.Device, w netio.Conn) error {
	o.t, o.p = t, t.config.Load()
	o.counters = &t.counters[o.thread]
	o.at = current{of: &t.netBase, peers: t.peers, dev: dev, mtu: o.p.MTU, ttl: o.p.TTL, packets: true}
	o.batch.Reset()
	err := dev.ReadBatch(o.batch)
	frames := o.batch.Frames()
	o.counters.offered.Add(countAll(frames))
	if o.mirror.begin() {
		o.showRead(frames)
	}
	for i := range frames {
		if d := o.forward(&frames[i], w); d != dropNone {
			o.drop(d, &frames[i])
		}
	}
	o.flush(w)
	o.mirror.end()
	return err
}

// forward takes a packet to where it goes.
func (o *txIPIP) forward(f *netio.Frame, w netio.Conn) Drop {
	t, to, d := o.route(f.Data)
	if d == DropNoRoute {
		o.sendUnreachable(f.Data, encap.NetUnreachable)
	}
	if d != dropNone {
		return d
	}
	u, d := o.inspect(f, t, to.ID)
	if d == dropNone {
		o.settle(f, &u, 1)
		o.deliver(&u, f, t, to, w)
	}
	return d
}

// route decides where a packet goes (steps 2 to 4).
func (o *txIPIP) route(packet []byte) (encap.Transport, fdb.Target, Drop) {
	t, d := innerPacket(packet)
	if d != dropNone {
		return t, fdb.Target{}, d
	}
	ip := encap.IPv4(packet)
	if ip.TTL() == 0 {
		return t, fdb.Target{}, DropTTLZero
	}
	src, dst := ip.Src(), ip.Dst()
	to, ok := o.t.routes.Lookup(dst)
	if !ok {
		return t, to, DropNoRoute
	}
	if loops(src, dst, o.self, to.Addr) {
		return t, to, DropLoop
	}
	return t, to, dropNone
}

// deliver puts a packet on its way to its peer.
func (o *txIPIP) deliver(u *txPacket, f *netio.Frame, t encap.Transport, to fdb.Target, w netio.Conn) {
	u.df = o.p.DF || encap.IPv4(f.Data).DF()
	if o.t.peers.Narrow() && !o.fits(encap.IPIPOverhead+u.longest, to.ID) &&
		!o.remedied(u, f, to.Addr, to.ID, w) {
		return
	}
	if u.segs > 1 && u.df && t.Proto == encap.ProtoTCP && w.TakesUnsegmented(to.Addr) && o.writeUnsegmented(u, f, to, w) {
		return
	}
	for first := 0; first < u.segs; first += outHeaders {
		r := *u
		if u.segs > outHeaders {
			r = o.round(u, first)
		}
		o.encapsulate(&r, f, first, w)
		o.append(r, to.Addr, to.ID, w) // step 7: one send, of however many packets
	}
}

// writeUnsegmented sends a GSO packet unsegmented. One of UDP is always cut: a receiver's raw
// socket would not say how long its segments are.
func (o *txIPIP) writeUnsegmented(u *txPacket, f *netio.Frame, to fdb.Target, w netio.Conn) bool {
	o.unsegmented = netio.Unsegmented{
		To: netip.AddrPortFrom(to.Addr, 0), Flow: u.flow,
		Data: f.Data[:o.plan.t.End], VNet: o.plan.vnet(f), TOS: u.tos, TTL: o.p.TTL,
	}
	return o.sendUnsegmented(u, to.ID, w)
}

// innerPacket finds the transport header of the IPv4 packet that b is.
func innerPacket(b []byte) (encap.Transport, Drop) {
	t, ok := encap.FindPacketTransport(b)
	if ok {
		return t, dropNone
	}
	if len(b) > 0 && b[0]>>4 != 4 {
		return t, DropUnhandledProto
	}
	if _, err := encap.ParseIPv4(b); err == encap.ErrBadHeader {
		return t, DropIPInHdr
	}
	return t, DropTooShort
}

// loops reports a packet that is from or for an end of the tunnel itself: it is
// one of the tunnel's own, or what it would become would be routed into the
// tunnel again (RFC 2003 section 4).
func loops(src, dst, self, peer netip.Addr) bool {
	return src == self || src == peer || dst == self || dst == peer
}

// inspect finds what is to be known of a packet before it leaves: its flow, and
// how a GSO packet falls into segments (step 5).
func (o *txIPIP) inspect(f *netio.Frame, t encap.Transport, id fdb.PeerID) (u txPacket, d Drop) {
	u.flow = t.FlowHash(f.Data)
	u.tos = o.p.TOS.outer(encap.IPv4(f.Data).TOS(), true)
	if f.VNet.GSO() != encap.VnetGSONone {
		return u, o.planPacket(&u, f, t, true, o.p.MTU, 0)
	}
	// What stands behind the packet, as a sender on a packet socket may leave it,
	// stays here.
	u.segs, u.bytes, u.longest = 1, t.End, t.End
	if o.p.ClampMSS && t.Proto == encap.ProtoTCP {
		o.clamp(f, t, id)
	}
	whole := netio.Frame{VNet: f.VNet, Data: f.Data[:t.End]}
	switch {
	case t.End > int(o.p.MTU):
		o.replyTooBig(f.Data, o.p.MTU)
		return u, DropTooBig
	case f.VNet.Flags&encap.VnetNeedsCsum != 0 && (int(f.VNet.CsumStart) < t.L4 || !finishChecksum(&whole)):
		return u, DropBadOffload
	}
	return u, dropNone
}

// encapsulate lists what is sent of a packet: itself, or the segments of a
// GSO packet, which is cut by its headers only (step 6), or a round of them, which
// begins with the segment first. The Conn puts the outer header.
func (o *txIPIP) encapsulate(u *txPacket, f *netio.Frame, first int, w netio.Conn) {
	if !u.super {
		o.reserve(1, 0, w)
		u.first, u.parts = len(o.parts), 1
		o.parts = append(o.parts, f.Data[:u.bytes])
		return
	}
	p := &o.plan
	o.reserve(2*u.segs, u.segs, w)
	u.first, u.parts = len(o.parts), 2*u.segs
	for i := range u.segs {
		header, payload := p.segment(o.header[:headerSlot], f.Data, first+i)
		o.header = o.header[headerSlot:]
		o.parts = append(o.parts, header, payload)
	}
}
