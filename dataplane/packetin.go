package dataplane

import (
	"net/netip"

	"overtap/encap"
	"overtap/fdb"
)

// packetIn is the road from the wire to the TUNs for one worker. It shares what
// waits for a device with the road of frames, as packetOut does.
type packetIn struct {
	in   *inbound
	self netip.Addr // our own outer address

	c    *catalogue
	t    *tunnel // of the packets at hand; nil at the start of a batch
	p    *tunnelPolicy
	from netip.Addr // the sender of the last of them

	answer [encap.ICMPErrorLen]byte
	reply  [1]OutFrame // the answer, for WriteBatch
	parts  [1][]byte   // of the reply
}

func newPacketIn(in *inbound, self netip.Addr) *packetIn {
	return &packetIn{in: in, self: self}
}

// run takes one batch from the wire to the devices (step 1 of the road).
func (in *packetIn) run(c *catalogue, w Wire) error {
	count, err := w.ReadBatch(in.in.datagrams)
	in.c, in.t, in.in.port = c, nil, 0
	in.in.mirror.begin()
	for i := range in.in.datagrams[:count] {
		in.datagram(&in.in.datagrams[i])
	}
	in.in.flush()
	in.in.mirror.end()
	return err
}

// datagram takes one packet in, and counts it when it is dropped.
func (in *packetIn) datagram(d *Datagram) {
	if d.Quoted {
		if d.Unreachable {
			in.unreachable(d)
		}
		return
	}
	if d.Truncated {
		in.in.stray(DropTruncated, d, d.Data)
		return
	}
	id, admission := in.admit(d.From)
	if in.t == nil || admission > fdb.AdmitAdded {
		in.in.stray(admissionDrop(admission), d, d.Data)
		return
	}
	in.in.tally.offered.Add(1)
	if in.in.mirror.on() {
		in.in.showReceived(d, d.Data, d.SegSize)
	}
	if drop := in.deliver(d, id); drop != dropNone {
		in.in.drop(drop, d, d.Data, d.SegSize)
	}
}

// admit makes the sender's tunnel the one at hand (step 2): that which lists the
// sender as a peer, else the first whose policy lets it in.
func (in *packetIn) admit(from netip.Addr) (fdb.PeerID, fdb.Admission) {
	if in.t == nil || in.from != from {
		t := in.c.byPeer[from]
		if t == nil {
			t, id, admission := in.c.admitStranger(from, (*fdb.Peers).Admit)
			if t != nil {
				in.enter(t, from)
			}
			return id, admission
		}
		in.enter(t, from)
	}
	return in.t.peers.Admit(from)
}

// admitStranger asks the tunnels that admit others than listed peers, in order,
// until one does not deny the sender.
func (c *catalogue) admitStranger(from netip.Addr, ask func(*fdb.Peers, netip.Addr) (fdb.PeerID, fdb.Admission)) (*tunnel, fdb.PeerID, fdb.Admission) {
	for _, t := range c.open {
		if id, admission := ask(t.peers, from); admission != fdb.AdmitDenied {
			return t, id, admission
		}
	}
	return nil, fdb.NoPeer, fdb.AdmitDenied
}

func (in *packetIn) enter(t *tunnel, from netip.Addr) {
	in.from = from
	if in.t == t {
		return
	}
	in.in.flush()
	in.t, in.p = t, t.policy.Load()
	in.in.tally = &t.tallies[in.in.thread]
	in.in.sink = sink{of: &t.overlay, dev: t.devices[in.in.worker], mtu: in.p.mtu, plain: in.p.plain, uso: in.p.uso}
}

// deliver checks an admitted packet and queues it for the TUN (steps 3 to 6).
func (in *packetIn) deliver(d *Datagram, id fdb.PeerID) Drop {
	t, drop := innerPacket(d.Data)
	if drop != dropNone {
		return drop
	}
	packet := d.Data[:t.End:t.End]
	ip := encap.IPv4(packet)
	src := ip.Src()
	if src == in.self {
		return DropLoop
	}
	if in.p.checkSource {
		if behind, ok := in.t.routes.Lookup(src); !ok || behind.ID != id {
			return DropSourceNotRouted
		}
	}
	if outer := d.TOS & encap.ECNMask; outer != encap.NotECT {
		ecn, ok := encap.DecapECN(ip.TOS(), outer)
		if !ok {
			return DropIPTunnelECN
		}
		if ecn != ip.TOS()&encap.ECNMask {
			ip.SetTOS(ip.TOS()&^encap.ECNMask | ecn)
		}
	}
	if in.p.clampMSS && t.Proto == encap.ProtoTCP {
		in.in.clamp(packet, t, in.t.peers, id, encap.IPIPOverhead)
	}
	return in.in.enqueue(packet, t, true, id, d.SegSize, d.Verified)
}

// unreachable tells the sender of a packet that did not arrive what its router
// said to us (RFC 2003 section 4), as far as that quotes enough of it. Who forges
// such an error must quote a packet that we would have sent there.
func (in *packetIn) unreachable(d *Datagram) {
	t := in.c.byPeer[d.From]
	if t == nil || len(d.Data) < encap.IPv4HeaderLen {
		return
	}
	if to, ok := t.routes.Lookup(encap.IPv4(d.Data).Dst()); !ok || to.Addr != d.From {
		return
	}
	in.enter(t, d.From)
	n := encap.PutUnreachable(in.answer[:], d.Data, encap.HostUnreachable)
	if n == 0 || !in.in.tally.answers.take() {
		return
	}
	in.parts[0] = in.answer[:n]
	in.reply[0] = OutFrame{Parts: in.parts[:]}
	if in.in.sink.dev.WriteBatch(in.reply[:]) == 0 {
		in.in.tally.unreachable.Add(1)
		if in.in.mirror.on() {
			in.in.mirror.showAnswer(&t.overlay, in.answer[:n])
		}
	}
}
