package dataplane

import (
	"net/netip"

	"overtap/dataplane/netio"
	"overtap/encap"
	"overtap/fdb"
)

// The path of a packet to a TUN:
//
//  1. run: Conn.ReadBatch receives packets without their outer headers.
//  2. admit: the sender gives the tunnel, and is admitted, before anything inside is read.
//  3. deliver: the inner IPv4 header is checked.
//  4. What claims to be from this host is dropped, and with check_source what does not
//     route back to the sender.
//  5. A congestion mark is carried in.
//  6. deliverer.enqueue, and all that follows, is as for frames.

// rxIPIP is the path from the underlay to the TUNs for one worker. Its thread alone
// uses it.
type rxIPIP struct {
	*deliverer
	self netip.Addr // our own outer address

	c    *snapshot
	t    *tunnel // of the current packets; nil at the start of a batch
	p    *Tunnel
	from netip.Addr // the sender of the last of them

	answer [encap.ICMPErrorLen]byte
	reply  [1]netio.OutFrame // the answer, for WriteBatch
	whole  [1][]byte         // its part
}

// run takes one batch from the wire to the devices (step 1 of the path).
func (in *rxIPIP) run(c *snapshot, w netio.Conn) error {
	count, err := w.ReadBatch(in.datagrams)
	in.c, in.t, in.port = c, nil, 0
	in.arrival.begin(c.ingress)
	in.mirror.begin()
	for i := range in.datagrams[:count] {
		in.datagram(&in.datagrams[i])
	}
	in.flush()
	in.mirror.end()
	return err
}

// datagram takes one packet in, and counts it when it is dropped.
func (in *rxIPIP) datagram(d *netio.Datagram) {
	foreign := in.arrival.fromOverlay(d)
	if d.Quoted {
		if d.Unreachable && !foreign {
			in.unreachable(d)
		}
		return
	}
	if d.Truncated {
		in.stray(DropTruncated, d, d.Data)
		return
	}
	if foreign {
		in.refuse(d)
		return
	}
	id, admission := in.admit(d.From)
	if in.t == nil || admission > fdb.AdmitAdded {
		in.stray(admissionDrop(admission), d, d.Data)
		return
	}
	in.counters.offered.Add(1)
	if in.mirror.on() {
		in.showReceived(d, d.Data, d.SegSize)
	}
	if drop := in.deliver(d, id); drop != dropNone {
		in.drop(drop, d, d.Data, d.SegSize)
	}
}

// refuse counts a packet that came out of an overlay network of this host: for the
// tunnel whose peer it claims to be from, where there is one.
func (in *rxIPIP) refuse(d *netio.Datagram) {
	t := in.c.byPeer[d.From]
	if t == nil {
		in.stray(DropFromOverlay, d, d.Data)
		return
	}
	in.enter(t, d.From)
	in.counters.offered.Add(1)
	in.drop(DropFromOverlay, d, d.Data, d.SegSize)
}

// admit makes the sender's tunnel the current one (step 2): that which lists the
// sender as a peer, else the first whose policy lets it in.
func (in *rxIPIP) admit(from netip.Addr) (fdb.PeerID, fdb.Admission) {
	if in.t == nil || in.from != from {
		t := in.c.byPeer[from]
		if t == nil {
			t, id, admission := in.c.admitUnmatched(from, (*fdb.Peers).Admit)
			if t != nil {
				in.enter(t, from)
			}
			return id, admission
		}
		in.enter(t, from)
	}
	return in.t.peers.Admit(from)
}

// admitUnmatched asks the tunnels that admit others than listed peers, in order,
// until one does not deny the sender.
func (c *snapshot) admitUnmatched(from netip.Addr, ask func(*fdb.Peers, netip.Addr) (fdb.PeerID, fdb.Admission)) (*tunnel, fdb.PeerID, fdb.Admission) {
	for _, t := range c.open {
		if id, admission := ask(t.peers, from); admission != fdb.AdmitDenied {
			return t, id, admission
		}
	}
	return nil, fdb.NoPeer, fdb.AdmitDenied
}

func (in *rxIPIP) enter(t *tunnel, from netip.Addr) {
	in.from = from
	if in.t == t {
		return
	}
	in.flush()
	in.t, in.p = t, t.config.Load()
	in.counters = &t.counters[in.thread]
	in.sink = sink{of: &t.netBase, dev: t.devices[in.worker], mtu: in.p.MTU, plain: in.p.Plain || t.singly.Load(), gso: t.gso}
}

// deliver checks an admitted packet and queues it for the TUN (steps 3 to 6).
func (in *rxIPIP) deliver(d *netio.Datagram, id fdb.PeerID) Drop {
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
	if in.p.CheckSource {
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
	if in.p.ClampMSS && t.Proto == encap.ProtoTCP {
		in.clamp(packet, t, in.t.peers, id, encap.IPIPOverhead)
	}
	return in.enqueue(packet, t, true, id, d.SegSize)
}

// unreachable sends the sender of a packet that did not arrive what its router
// said to us (RFC 2003 section 4), as far as that quotes enough of it. Who forges
// such an error must quote a packet that we would have sent there.
func (in *rxIPIP) unreachable(d *netio.Datagram) {
	t := in.c.byPeer[d.From]
	if t == nil || len(d.Data) < encap.IPv4HeaderLen {
		return
	}
	if to, ok := t.routes.Lookup(encap.IPv4(d.Data).Dst()); !ok || to.Addr != d.From {
		return
	}
	in.enter(t, d.From)
	n := encap.PutUnreachable(in.answer[:], d.Data, encap.HostUnreachable)
	if n == 0 || !in.counters.answers.take() {
		return
	}
	in.whole[0] = in.answer[:n]
	in.reply[0] = netio.OutFrame{Parts: in.whole[:]}
	if in.sink.dev.WriteBatch(in.reply[:]) == 0 {
		in.counters.unreachable.Add(1)
		if in.mirror.on() {
			in.mirror.mirrorReply(&t.netBase, in.answer[:n])
		}
	}
}
