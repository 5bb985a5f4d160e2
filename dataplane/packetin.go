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
}

func newPacketIn(in *inbound, self netip.Addr) *packetIn {
	return &packetIn{in: in, self: self}
}

// run takes one batch from the wire to the devices (step 1 of the road).
func (in *packetIn) run(c *catalogue, w Wire) error {
	count, err := w.ReadBatch(in.in.datagrams)
	in.c, in.t = c, nil
	for i := range in.in.datagrams[:count] {
		in.datagram(&in.in.datagrams[i])
	}
	in.in.flush()
	return err
}

// datagram takes one packet in, and counts it when it is dropped.
func (in *packetIn) datagram(d *Datagram) {
	if d.Truncated {
		in.in.strangers.drop(DropTruncated, 1)
		return
	}
	id, admission := in.admit(d.From)
	if in.t == nil || admission > fdb.AdmitAdded {
		in.in.strangers.drop(admissionDrop(admission), 1)
		return
	}
	if drop := in.deliver(d, id); drop != dropNone {
		in.in.tally.drop(drop, 1)
	}
}

// admit makes the sender's tunnel the one at hand (step 2): that which lists the
// sender as a peer, else the first whose policy lets it in.
func (in *packetIn) admit(from netip.Addr) (fdb.PeerID, fdb.Admission) {
	if in.t == nil || in.from != from {
		t := in.c.byPeer[from]
		if t == nil {
			return in.admitStranger(from)
		}
		in.enter(t, from)
	}
	return in.t.peers.Admit(from)
}

func (in *packetIn) admitStranger(from netip.Addr) (fdb.PeerID, fdb.Admission) {
	for _, t := range in.c.open {
		if id, admission := t.peers.Admit(from); admission != fdb.AdmitDenied {
			in.enter(t, from)
			return id, admission
		}
	}
	return fdb.NoPeer, fdb.AdmitDenied
}

func (in *packetIn) enter(t *tunnel, from netip.Addr) {
	in.from = from
	if in.t == t {
		return
	}
	in.in.flush()
	in.t, in.p = t, t.policy.Load()
	in.in.tally = &t.tallies[in.in.thread]
	in.in.sink = sink{dev: t.devices[in.in.worker], mtu: in.p.mtu, plain: in.p.plain, uso: in.p.uso}
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
	return in.in.enqueue(packet, t, true, id, d.SegSize, d.Verified)
}
