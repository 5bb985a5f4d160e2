package dataplane

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"overtap/dataplane/netio"
	"overtap/encap"
	"overtap/fdb"
)

// The path of a datagram to a TAP:
//
//  1. run: Conn.ReadBatch receives datagrams, or runs of them.
//  2. datagram: a run is taken apart.
//  3. payload: the VXLAN header is parsed and gives the network.
//  4. The sender is admitted, before anything behind the header is read.
//  5. deliver: the inner Ethernet header is checked, a congestion mark carried in. A
//     probe ends here (probe.go).
//  6. learn: the source MAC is bound to the sender.
//  7. deliverer.enqueue: the vnet header says which checksum the kernel must finish, and
//     where it must cut (describe, in gso.go).
//  8. deliverer.flush: Device.WriteBatch. What it refused with EINVAL is written again
//     without offloads (rx_retry.go), anything else is a drop with a name.

// rxVXLAN is the path from the underlay to the TAPs for one worker. Its thread alone
// uses it.
type rxVXLAN struct {
	*deliverer
	probes *probeBox

	foreign bool                   // the datagram came out of an overlay network of this host
	vnis    map[encap.VNI]*network // of the current port
	n       *network               // of the current frames; nil at the start of a batch
	p       *policy
}

// run takes one batch from the wire to the devices (step 1 of the path).
func (in *rxVXLAN) run(c *snapshot, port uint16, w netio.Conn) error {
	count, err := w.ReadBatch(in.datagrams)
	in.port, in.vnis, in.n = port, c.byPort[port], nil
	in.arrival.begin(c.ingress)
	in.mirror.begin()
	for i := range in.datagrams[:count] {
		in.datagram(&in.datagrams[i])
	}
	in.flush()
	in.mirror.end()
	return err
}

// datagram takes a received run apart (step 2).
func (in *rxVXLAN) datagram(d *netio.Datagram) {
	if d.Truncated {
		in.stray(DropTruncated, d, d.Data)
		return
	}
	in.foreign = in.arrival.fromOverlay(d)
	if d.SegSize == 0 || d.SegSize >= len(d.Data) {
		in.payload(d, d.Data, 0)
		return
	}
	claimed := gsoPacket(d)
	if claimed && !startsVXLAN(d.Data[d.SegSize:]) {
		in.payload(d, d.Data, d.SegSize)
		return
	}
	for rest := d.Data; len(rest) > 0; {
		size := min(d.SegSize, len(rest))
		if claimed {
			in.stray(DropBadOffload, d, rest[:size])
		} else {
			in.payload(d, rest[:size:size], 0)
		}
		rest = rest[size:]
	}
}

// gsoPacket distinguishes the two meanings of SegSize: an inner packet that goes
// on beyond the first segment's end is one UDP GSO packet that no kernel has cut,
// unless another datagram starts there (startsVXLAN).
func gsoPacket(d *netio.Datagram) bool {
	if len(d.Data) < encap.VXLANHeaderLen {
		return false
	}
	t, ok := encap.FindTransport(d.Data[encap.VXLANHeaderLen:])
	return ok && encap.VXLANHeaderLen+t.End > d.SegSize
}

// startsVXLAN reports whether a VXLAN header stands where a segment starts. Then
// the first inner packet claims what belongs to other datagrams, perhaps of other
// networks, or its payload imitates a header, to get a frame into one. In a GSO
// packet the bytes there look like a header by chance once in 2^40.
func startsVXLAN(segment []byte) bool {
	h, err := encap.ParseVXLAN(segment)
	return err == nil && !h.Reserved
}

// payload takes one VXLAN packet in (steps 3 to 7) and counts it when it is
// dropped.
func (in *rxVXLAN) payload(d *netio.Datagram, b []byte, segSize int) {
	h, err := encap.ParseVXLAN(b)
	if err != nil {
		in.stray(headerDrop(err), d, b)
		return
	}
	if !in.enter(h.VNI) {
		in.stray(DropVXLANVNINotFound, d, b)
		return
	}
	in.counters.offered.Add(1)
	if in.mirror.on() {
		in.showReceived(d, b, segSize)
	}
	if in.foreign {
		in.drop(DropFromOverlay, d, b, segSize)
		return
	}
	id, admission := in.n.peers.Admit(d.From)
	if admission > fdb.AdmitAdded {
		in.drop(admissionDrop(admission), d, b, segSize)
		return
	}
	if h.Reserved {
		if h.GPE {
			in.drop(DropVXLANGPE, d, b, segSize)
			return
		}
		if in.p.ReservedDrop {
			in.drop(DropVXLANInvalidHdr, d, b, segSize)
			return
		}
		in.counters.reserved.Add(1)
	}
	if drop := in.deliver(b[encap.VXLANHeaderLen:], id, d, segSize); drop != dropNone {
		in.drop(drop, d, b, segSize)
	}
}

// enter makes the VNI's network the current one (step 3).
func (in *rxVXLAN) enter(vni encap.VNI) bool {
	if in.n != nil && in.p.VNI == vni {
		return true
	}
	n := in.vnis[vni]
	if n == nil {
		return false
	}
	in.flush()
	in.n, in.p, in.counters = n, n.policy.Load(), &n.counters[in.thread]
	in.sink = sink{of: &n.netBase, dev: n.devices[in.worker], mtu: in.p.MTU, plain: in.p.Plain || n.singly.Load(), gso: n.gso}
	return true
}

// deliver checks an admitted frame, learns from it and queues it for the TAP
// (steps 5 to 7).
func (in *rxVXLAN) deliver(frame []byte, id fdb.PeerID, d *netio.Datagram, segSize int) Drop {
	eth, err := encap.ParseEthernet(frame)
	if err != nil {
		if d.ZeroChecksum {
			return DropUDP6ZeroCsum
		}
		return DropTooShort
	}
	switch drop := in.p.checkIn(eth); drop {
	case dropNone:
	case DropBridgeControl:
		return in.takeProbe(frame, d.From)
	default:
		return drop
	}
	src := eth.Src()
	if drop := in.decapECN(frame, d.TOS); drop != dropNone {
		return drop
	}
	if in.p.pinned {
		if drop := in.pinned(src, id); drop != dropNone {
			return drop
		}
	}
	switch {
	case in.p.Learning:
		if in.learn(src, id) == fdb.LearnOutranked {
			return DropVXLANEntryExists
		}
	case in.p.listed:
		in.checkListed(src, id)
	}
	if in.p.stormy && eth.Dst().IsMulticast() {
		kind, n := stormKind(eth.Dst()), stormCount(len(frame), segSize, in.p.MTU)
		if !in.n.allowFrom(id, kind, in.p, n) {
			return stormDrops[kind]
		}
	}
	return in.pass(frame, id, d, segSize)
}

// checkIn names what is wrong with a frame from the wire, of whichever sender.
func (p *policy) checkIn(eth encap.Ethernet) Drop {
	src := eth.Src()
	switch {
	case !src.IsSource():
		return DropMACInvalidSource
	case src == p.MAC:
		return DropLocalMAC
	case p.keeps(eth.Dst()):
		return DropBridgeControl
	case p.VLANDrop && eth.Tags() != 0:
		return DropVLANTagged
	}
	return dropNone
}

// pass takes a frame that nothing forbids to the device.
func (in *rxVXLAN) pass(frame []byte, id fdb.PeerID, d *netio.Datagram, segSize int) Drop {
	t, isIP := encap.FindTransport(frame)
	if in.p.ClampMSS && isIP && t.Proto == encap.ProtoTCP {
		in.clamp(frame, t, in.n.peers, id, vxlanOuter(d.From))
	}
	return in.enqueue(frame, t, isIP, id, segSize)
}

// takeProbe hands a probe to the prober. It leaves the path here: what was offered
// is one less. Bridge protocols, to which the address belongs, do not cross the
// overlay.
func (in *rxVXLAN) takeProbe(frame []byte, from netip.Addr) Drop {
	p, ok := encap.ParseProbe(frame)
	if !ok {
		return DropBridgeControl
	}
	if !in.probes.add(p, in.n, from) {
		return DropProbeLimited
	}
	in.counters.offered.Add(^uint64(0))
	in.counters.probes.Add(1)
	return dropNone
}

// pinned holds peers to the MACs that are bound to them, and the MACs to them.
func (in *rxVXLAN) pinned(src encap.MAC, id fdb.PeerID) Drop {
	at, bound := in.n.table.Bound(src)
	switch {
	case bound && at != id:
		return DropVXLANEntryExists
	case !bound && in.n.peers.Pinned(id):
		return DropMACNotAdmitted
	}
	return dropNone
}

// learn notes which peer the source lives behind (step 6). A frame is delivered
// also when nothing can be learned from it.
func (in *rxVXLAN) learn(src encap.MAC, id fdb.PeerID) fdb.Verdict {
	v := in.n.table.Learn(src, id)
	switch v {
	case fdb.LearnFull:
		in.counters.learnRefused.Add(1)
	case fdb.LearnMoved:
		in.counters.learnMoved.Add(1)
	case fdb.LearnQuota:
		in.counters.learnQuota.Add(1)
	case fdb.LearnFrozen:
		in.counters.learnFrozen.Add(1)
	case fdb.LearnBusy:
		in.counters.learnBusy.Add(1)
	}
	return v
}

// lists reports whether an entry above a learned one has the source behind the peer.
func (n *network) lists(src encap.MAC, id fdb.PeerID) bool {
	at, ok := n.table.Bound(src)
	return ok && at == id
}

// checkListed counts a source that no entry names, or names behind another peer,
// on a network that learns nothing: what is sent back to the peer goes to another
// MAC than the one it has now. The frame is delivered all the same, as by the
// kernel's device.
func (in *rxVXLAN) checkListed(src encap.MAC, id fdb.PeerID) {
	if in.n.lists(src, id) {
		return
	}
	t := in.counters
	t.unlisted.Add(1)
	t.unlistedMAC.Store(uint64(src))
	t.unlistedPeer.Store(uint32(id))
	t.unlistedAt.Store(in.n.peers.Now())
}

// headerDrop names what is wrong with a VXLAN header.
func headerDrop(err error) Drop {
	if err == encap.ErrNoVNIFlag {
		return DropVXLANInvalidHdr
	}
	return DropTooShort
}

// admissionDrop names why a sender was not admitted.
func admissionDrop(a fdb.Admission) Drop {
	switch a {
	case fdb.AdmitFull:
		return DropPeerTableFull
	case fdb.AdmitBusy:
		return DropPeerTableBusy
	}
	return DropPeerNotAdmitted
}

// tapDrop names what a TAP's errno means for a frame (drivers/net/tun.c,
// tun_get_user).
func tapDrop(e unix.Errno) Drop {
	switch e {
	case unix.EAGAIN, unix.ENOBUFS, unix.ENOMEM:
		return DropTapFull
	case unix.EIO, unix.EBADFD, unix.ENODEV, unix.ENETDOWN:
		return DropTapDown
	case unix.EINVAL:
		return DropBadOffload
	}
	return DropTapError
}
