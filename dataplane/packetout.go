package dataplane

import (
	"net/netip"

	"overtap/encap"
	"overtap/fdb"
)

// packetOut is the road from the TUNs to the wire for one worker. It shares the
// batch and what waits for the wire with the road of frames: one batch at a time
// is on a thread's road.
type packetOut struct {
	out  *outbound
	self netip.Addr // our own outer address

	t *tunnel // of the batch at hand
	p *tunnelPolicy
}

func newPacketOut(out *outbound, self netip.Addr) *packetOut {
	return &packetOut{out: out, self: self}
}

// run takes one batch from the device to the wire (step 1 of the road).
func (o *packetOut) run(t *tunnel, dev Device, w Wire) error {
	o.t, o.p = t, t.policy.Load()
	out := o.out
	out.tally = &t.tallies[out.thread]
	out.at = atHand{of: &t.overlay, peers: t.peers, dev: dev, mtu: o.p.mtu, packets: true}
	out.batch.Reset()
	err := dev.ReadBatch(out.batch)
	frames := out.batch.Frames()
	out.tally.offered.Add(countAll(frames))
	if out.mirror.begin() {
		out.showRead(frames)
	}
	for i := range frames {
		if d := o.forward(&frames[i], w); d != dropNone {
			out.drop(d, &frames[i])
		}
	}
	out.flush(w)
	out.mirror.end()
	return err
}

// forward takes a packet to where it goes.
func (o *packetOut) forward(f *Frame, w Wire) Drop {
	t, to, d := o.route(f.Data)
	if d == DropNoRoute {
		o.out.tellUnreachable(f.Data, encap.NetUnreachable)
	}
	if d != dropNone {
		return d
	}
	u, d := o.inspect(f, t, to.ID)
	if d == dropNone {
		o.out.settle(f, &u, 1)
		o.deliver(&u, f, t, to, w)
	}
	return d
}

// route decides where a packet goes (steps 2 to 4).
func (o *packetOut) route(packet []byte) (encap.Transport, fdb.Target, Drop) {
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

// deliver puts a unit on its way to its peer.
func (o *packetOut) deliver(u *unit, f *Frame, t encap.Transport, to fdb.Target, w Wire) {
	df := o.p.df || encap.IPv4(f.Data).DF()
	if df && o.t.peers.Narrow() && !o.out.fits(encap.IPIPOverhead+u.longest, to.ID) {
		o.out.tooLong(u, f.Data, to.Addr, to.ID)
		return
	}
	if u.segs > 1 && df && t.Proto == encap.ProtoTCP && w.TakesWhole(to.Addr) && o.writeWhole(u, f, to, w) {
		return
	}
	o.encapsulate(u, f, w)
	o.queue(u, to, df, w)
}

// writeWhole sends a superframe uncut. One of UDP is always cut: a receiver's raw
// socket would not say how long its segments are.
func (o *packetOut) writeWhole(u *unit, f *Frame, to fdb.Target, w Wire) bool {
	out := o.out
	out.whole = Whole{
		To: netip.AddrPortFrom(to.Addr, 0), Flow: u.flow,
		Data: f.Data[:out.plan.t.End], VNet: out.plan.vnet(f), TOS: u.tos, TTL: o.p.ttl,
	}
	return out.passWhole(u, to.ID, w)
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
// how a superframe falls into segments (step 5).
func (o *packetOut) inspect(f *Frame, t encap.Transport, id fdb.PeerID) (u unit, d Drop) {
	u.flow = t.FlowHash(f.Data)
	u.tos = o.p.tos.outer(encap.IPv4(f.Data).TOS(), true)
	if f.VNet.GSO() != encap.VnetGSONone {
		return u, o.out.planUnit(&u, f, t, true, o.p.mtu, 0)
	}
	// What stands behind the packet, as a sender on a packet socket may leave it,
	// stays here.
	u.segs, u.bytes, u.longest = 1, t.End, t.End
	if o.p.clampMSS && t.Proto == encap.ProtoTCP {
		o.out.clamp(f, t, id)
	}
	whole := Frame{VNet: f.VNet, Data: f.Data[:t.End]}
	switch {
	case t.End > int(o.p.mtu):
		o.out.tell(f.Data, o.p.mtu)
		return u, DropTooBig
	case f.VNet.Flags&encap.VnetNeedsCsum != 0 && (int(f.VNet.CsumStart) < t.L4 || !finishChecksum(&whole)):
		return u, DropBadOffload
	}
	return u, dropNone
}

// encapsulate lists what is sent of a packet: itself, or the segments of a
// superframe, which is cut by its headers only (step 6). The outer header is the
// wire's.
func (o *packetOut) encapsulate(u *unit, f *Frame, w Wire) {
	out := o.out
	if !u.super {
		out.reserve(1, 0, w)
		u.first, u.parts = len(out.parts), 1
		out.parts = append(out.parts, f.Data[:u.bytes])
		return
	}
	p := &out.plan
	out.reserve(2*p.count, p.count, w)
	u.first, u.parts = len(out.parts), 2*p.count
	for i := range p.count {
		header, payload := p.segment(out.header[:headerSlot], f.Data, i)
		out.header = out.header[headerSlot:]
		out.parts = append(out.parts, header, payload)
	}
}

// queue addresses a unit to its peer (step 7): one send, of however many
// packets.
func (o *packetOut) queue(u *unit, to fdb.Target, df bool, w Wire) {
	out := o.out
	if len(out.sends) == cap(out.sends) {
		out.send(w)
	}
	out.sends = append(out.sends, Send{
		To: netip.AddrPortFrom(to.Addr, 0), Flow: u.flow,
		Parts: out.parts[u.first : u.first+u.parts], SegSize: u.segSize,
		TOS: u.tos, TTL: o.p.ttl, DF: df,
		peer: to.ID, first: u.first, segs: u.segs, bytes: u.bytes,
	})
}
