package dataplane

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"overtap/dataplane/netio"
	"overtap/encap"
	"overtap/fdb"
)

// The path of a frame from a TAP:
//
//  1. run: Device.ReadBatch fills an arena. A GSO packet comes in one piece, with
//     Headroom before it.
//  2. forward: the Ethernet header is checked, what was learned of the source elsewhere
//     is withdrawn, and the destination is looked up in the network's FDB. On a network
//     that suppresses, an ARP request or neighbour solicitation that a known neighbour
//     answers ends here (suppress.go).
//  3. flood: an unknown or group destination goes to the flood list, or to the
//     underlay's multicast group.
//  4. With no peer to send to, the frame is a drop with a name.
//  5. inspect: the flow is hashed, the checksum finished, and the metadata of a GSO packet
//     checked against its bytes (gso.go).
//  6. deliver: what the path to a destination does not take is dropped and its sender
//     gets an ICMP error (path_mtu.go), or it is fragmented (fragment.go). To a
//     destination whose Conn takes GSO packets unsegmented, a GSO packet goes at once as
//     it is, and is done.
//  7. encapsulate: once for all other destinations, the VXLAN header is put before the
//     frame, or before each segment of a GSO packet, whose payload stays where it was
//     read.
//  8. sender.queue: one Send per destination, or one more payload of the run before.
//  9. sender.send: Conn.WriteBatch. What it refused is a drop with a name, and an EMSGSIZE
//     gives the peer's path MTU, which the frame's sender gets by an ICMP error.

// txVXLAN is the path from the TAPs to the underlay for one worker. Its thread alone
// uses it.
type txVXLAN struct {
	*sender

	n *network // of the current batch
	p *policy
}

// run takes one batch from the device to the wire (step 1 of the path).
func (o *txVXLAN) run(n *network, dev netio.Device, w netio.Conn) error {
	o.n, o.p, o.counters = n, n.policy.Load(), &n.counters[o.thread]
	o.at = current{of: &n.netBase, peers: n.peers, dev: dev, mtu: o.p.MTU, port: o.p.Port, vni: o.p.VNI, ttl: o.p.TTL}
	o.batch.Reset()
	err := dev.ReadBatch(o.batch)
	frames := o.batch.Frames()
	o.counters.offered.Add(countAll(frames))
	if o.mirror.begin() {
		o.showRead(frames)
	}
	for i := range frames {
		if d := o.forward(&frames[i], dev, w); d != dropNone {
			o.drop(d, &frames[i])
		}
	}
	o.flush(w)
	o.mirror.end()
	return err
}

// forward decides where a frame goes (steps 2 to 4).
func (o *txVXLAN) forward(f *netio.Frame, dev netio.Device, w netio.Conn) Drop {
	eth, err := encap.ParseEthernet(f.Data)
	if err != nil {
		return DropTooShort
	}
	src, dst := eth.Src(), eth.Dst()
	if d := o.p.checkOut(eth); d != dropNone {
		return d
	}
	// A MAC that speaks on our side has moved here: what was learned of it
	// elsewhere goes at once.
	o.n.table.Forget(src)
	if o.p.neighbors != nil && o.suppress(f, eth, dev) {
		return dropNone
	}

	if id, ok := o.n.table.Lookup(dst); ok {
		to := o.n.peers.Addr(id)
		if !to.IsValid() {
			return DropVXLANNoRemote // the peer went this moment
		}
		u, d := o.inspect(f, eth, id)
		if d == dropNone {
			o.settle(f, &u, 1)
			o.deliver(&u, f, to, id, w)
		}
		return d
	}
	return o.flood(f, eth, w)
}

// checkOut names what keeps a frame from the TAP on this host, whatever is known
// of its destination.
func (p *policy) checkOut(eth encap.Ethernet) Drop {
	switch {
	case !eth.Src().IsSource():
		return DropMACInvalidSource
	case p.keeps(eth.Dst()):
		return DropBridgeControl
	case p.VLANDrop && eth.Tags() != 0:
		return DropVLANTagged
	}
	return dropNone
}

// flood sends a frame whose destination is not known to everyone who asked for
// such frames, or to the underlay's multicast group. The copies share headers
// and payload. A frame from the wire never comes here: split horizon.
func (o *txVXLAN) flood(f *netio.Frame, eth encap.Ethernet, w netio.Conn) Drop {
	targets := o.n.peers.Flood()
	group := o.p.Group.IsValid()
	if len(targets) == 0 && !group {
		return DropVXLANNoRemote
	}
	u, d := o.inspect(f, eth, fdb.NoPeer)
	if d != dropNone {
		return d
	}
	if o.p.stormy {
		if kind := stormKind(eth.Dst()); !o.n.allow(kind, o.p, u.segs) {
			return stormDrops[kind]
		}
	}
	o.counters.flooded.Add(uint64(u.segs))
	if group {
		o.settle(f, &u, 1)
	} else {
		o.settle(f, &u, len(targets))
	}
	u.copies = group || len(targets) > 1
	if group {
		o.deliver(&u, f, o.p.Group, fdb.NoPeer, w)
		return dropNone
	}
	for _, t := range targets {
		o.deliver(&u, f, t.Addr, t.ID, w)
	}
	return dropNone
}

// inspect finds what is to be known of a frame before it gets its headers: its
// flow, and how a GSO packet falls into segments (step 5). It is for the peer, or
// for several: NoPeer.
func (o *txVXLAN) inspect(f *netio.Frame, eth encap.Ethernet, id fdb.PeerID) (u txPacket, d Drop) {
	t, isIP := encap.FindTransport(f.Data)
	tos, hasTOS := encap.InnerTOS(f.Data)
	u.tos = o.p.TOS.outer(tos, hasTOS)
	if isIP {
		u.flow = t.FlowHash(f.Data)
	} else {
		u.flow = encap.FlowHash(f.Data)
	}
	if f.VNet.GSO() == encap.VnetGSONone {
		u.segs, u.bytes, u.longest = 1, len(f.Data), len(f.Data)
		if o.p.ClampMSS && isIP && t.Proto == encap.ProtoTCP {
			o.clamp(f, t, id)
		}
		switch {
		case len(f.Data)-eth.L3Offset() > int(o.p.MTU):
			o.replyTooBig(f.Data, o.p.MTU)
			return u, DropTooBig
		case f.VNet.Flags&encap.VnetNeedsCsum != 0 && !finishChecksum(f):
			return u, DropBadOffload
		}
		return u, dropNone
	}
	return u, o.planPacket(&u, f, t, isIP, o.p.MTU, encap.VXLANHeaderLen)
}

// deliver brings a packet to one destination: a GSO packet unsegmented where the Conn
// takes it so, everything else by way of the queue (step 6). What the path to it
// is known not to take is fragmented, or dropped.
func (o *txVXLAN) deliver(u *txPacket, f *netio.Frame, to netip.Addr, id fdb.PeerID, w netio.Conn) {
	u.df = o.p.DF
	if o.n.peers.Narrow() && !o.fits(vxlanOuter(to)+u.longest, id) && !o.remedied(u, f, to, id, w) {
		return
	}
	if u.segs > 1 && u.df && w.TakesUnsegmented(to) && o.writeUnsegmented(u, f, to, id, w) {
		return
	}
	if u.segs > outHeaders {
		for first := 0; first < u.segs; first += outHeaders {
			r := o.round(u, first)
			o.encapsulate(&r, f, first, w)
			o.queue(r, to, id, w)
		}
		return
	}
	if u.parts == 0 {
		o.encapsulate(u, f, 0, w)
	}
	o.queue(*u, to, id, w)
}

// writeUnsegmented sends a GSO packet unsegmented.
func (o *txVXLAN) writeUnsegmented(u *txPacket, f *netio.Frame, to netip.Addr, id fdb.PeerID, w netio.Conn) bool {
	o.unsegmented = netio.Unsegmented{
		To: netip.AddrPortFrom(to, o.p.Port), Flow: u.flow, VNI: o.p.VNI,
		Data: f.Data[:o.plan.t.End], VNet: o.plan.vnet(f), L3: o.plan.t.L3,
		TOS: u.tos, TTL: o.p.TTL,
	}
	return o.sendUnsegmented(u, id, w)
}

// encapsulate puts the VXLAN header before the frame, or before each segment of
// a GSO packet, which is cut by its headers only (step 7). u may be a round of it,
// which begins with the segment first.
func (o *txVXLAN) encapsulate(u *txPacket, f *netio.Frame, first int, w netio.Conn) {
	if !u.super {
		o.reserve(1, 0, w)
		payload := f.WithHeadroom(encap.VXLANHeaderLen)
		encap.PutVXLAN(payload, o.p.VNI)
		u.first, u.parts = len(o.parts), 1
		o.parts = append(o.parts, payload)
		return
	}
	p := &o.plan
	o.reserve(2*u.segs, u.segs, w)
	u.first, u.parts = len(o.parts), 2*u.segs
	for i := range u.segs {
		header, payload := p.header(o.header[:headerSlot], f.Data, o.p.VNI, first+i)
		o.header = o.header[headerSlot:]
		o.parts = append(o.parts, header, payload)
	}
}

// payloadsPerSend is how many of its payloads one UDP_SEGMENT takes.
func (u *txPacket) payloadsPerSend() int {
	if u.segSize == 0 {
		return 1
	}
	return max(min(netio.MaxRun, maxRunBytes/u.segSize), 1)
}

// wireDrop names what a socket's errno means for a frame.
func wireDrop(e unix.Errno) Drop {
	switch e {
	case unix.EAGAIN, unix.ENOBUFS, unix.ENOMEM:
		return DropWireFull
	case unix.EMSGSIZE:
		return DropTooBig
	case unix.ENETUNREACH, unix.EHOSTUNREACH, unix.ENETDOWN, unix.EHOSTDOWN,
		unix.ENODEV, unix.ENXIO, unix.EADDRNOTAVAIL, unix.EINVAL:
		// EINVAL is what the route look-up says of a source address that left
		// the host (ip_route_output_key_hash_rcu).
		return DropNoRoute
	case unix.EPERM, unix.EACCES:
		return DropWireRefused
	}
	return DropWireError
}
