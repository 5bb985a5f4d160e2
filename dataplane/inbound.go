package dataplane

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"overtap/encap"
	"overtap/fdb"
)

const (
	// inDatagrams are taken from a socket at once.
	inDatagrams = receiveBatch
	// inFrames wait for one WriteBatch to a TAP.
	inFrames = 512
)

// inbound is the road from the wire to the TAPs for one worker. Its thread
// alone touches it.
type inbound struct {
	thread    int
	worker    int
	strangers *tally // for frames that belong to no network
	mirror    mirroring
	probes    *probeBox

	datagrams []Datagram
	port      uint16                 // where they came in; 0 = IP-in-IP
	vnis      map[encap.VNI]*network // of the port at hand

	n      *network // of the frames at hand; nil at the start of a batch
	p      *policy
	tally  *tally
	sink   sink
	frames []OutFrame
	parts  [][]byte
	trains []train
	slots  []byte // headers of segments cut for a plain TAP, one a frame
}

// sink is the device that the frames at hand are for, and what it takes.
type sink struct {
	of    *overlay
	dev   Device
	mtu   encap.OverlayMTU
	plain bool // no vnet header
	uso   bool // UDP superframes
}

func newInbound(thread, worker int, strangers *tally, probes *probeBox, a *armed) *inbound {
	in := &inbound{
		thread: thread, worker: worker, strangers: strangers, probes: probes,
		mirror:    mirroring{armed: a, thread: thread},
		datagrams: make([]Datagram, inDatagrams),
		frames:    make([]OutFrame, 0, inFrames),
		parts:     make([][]byte, 0, 2*inFrames),
		trains:    make([]train, 0, maxTrains),
		slots:     make([]byte, inFrames*headerSlot),
	}
	for i := range in.trains[:maxTrains] {
		in.trains[:maxTrains][i].parts = make([][]byte, 0, maxTrain)
	}
	return in
}

// run takes one batch from the wire to the devices (step 1 of the road).
func (in *inbound) run(c *catalogue, port uint16, w Wire) error {
	count, err := w.ReadBatch(in.datagrams)
	in.port, in.vnis, in.n = port, c.byPort[port], nil
	in.mirror.begin()
	for i := range in.datagrams[:count] {
		in.datagram(&in.datagrams[i])
	}
	in.flush()
	in.mirror.end()
	return err
}

// datagram takes a received run apart (step 2).
func (in *inbound) datagram(d *Datagram) {
	if d.Truncated {
		in.stray(DropTruncated, d, d.Data)
		return
	}
	if d.SegSize == 0 || d.SegSize >= len(d.Data) {
		in.payload(d, d.Data, 0)
		return
	}
	if superframe(d) {
		in.payload(d, d.Data, d.SegSize)
		return
	}
	for rest := d.Data; len(rest) > 0; {
		size := min(d.SegSize, len(rest))
		in.payload(d, rest[:size:size], 0)
		rest = rest[size:]
	}
}

// superframe tells the two meanings of SegSize apart: an inner packet that goes
// on beyond the first segment's end is one UDP superframe, cut by nobody yet.
func superframe(d *Datagram) bool {
	if len(d.Data) < encap.VXLANHeaderLen {
		return false
	}
	t, ok := encap.FindTransport(d.Data[encap.VXLANHeaderLen:])
	return ok && encap.VXLANHeaderLen+t.End > d.SegSize
}

// payload takes one VXLAN packet in (steps 3 to 7) and counts it when it is
// dropped.
func (in *inbound) payload(d *Datagram, b []byte, segSize int) {
	h, err := encap.ParseVXLAN(b)
	if err != nil {
		in.stray(headerDrop(err), d, b)
		return
	}
	if !in.enter(h.VNI) {
		in.stray(DropVXLANVNINotFound, d, b)
		return
	}
	in.tally.offered.Add(1)
	if in.mirror.on() {
		in.showReceived(d, b, segSize)
	}
	id, admission := in.n.peers.Admit(d.From)
	if admission > fdb.AdmitAdded {
		in.drop(admissionDrop(admission), d, b, segSize)
		return
	}
	if h.Reserved {
		if in.p.reservedDrop {
			in.drop(DropVXLANInvalidHdr, d, b, segSize)
			return
		}
		in.tally.reserved.Add(1)
	}
	if drop := in.deliver(b[encap.VXLANHeaderLen:], id, d, segSize); drop != dropNone {
		in.drop(drop, d, b, segSize)
	}
}

// stray counts what belongs to no network.
func (in *inbound) stray(drop Drop, d *Datagram, b []byte) {
	in.strangers.drop(drop, 1)
	if in.mirror.on() {
		in.showStray(drop, d, b, in.port)
	}
}

// drop counts what came for the network at hand and goes nowhere.
func (in *inbound) drop(drop Drop, d *Datagram, b []byte, segSize int) {
	in.tally.drop(drop, 1)
	if in.mirror.on() {
		in.showDropped(drop, d, b, segSize)
	}
}

// enter makes the VNI's network the one at hand (step 3).
func (in *inbound) enter(vni encap.VNI) bool {
	if in.n != nil && in.p.vni == vni {
		return true
	}
	n := in.vnis[vni]
	if n == nil {
		return false
	}
	in.flush()
	in.n, in.p, in.tally = n, n.policy.Load(), &n.tallies[in.thread]
	in.sink = sink{of: &n.overlay, dev: n.devices[in.worker], mtu: in.p.mtu, plain: in.p.plain, uso: in.p.uso}
	return true
}

// deliver checks an admitted frame, learns from it and queues it for the TAP
// (steps 5 to 7).
func (in *inbound) deliver(frame []byte, id fdb.PeerID, d *Datagram, segSize int) Drop {
	eth, err := encap.ParseEthernet(frame)
	if err != nil {
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
	if in.p.learning && in.learn(src, id) == fdb.LearnOutranked {
		return DropVXLANEntryExists
	}
	if in.p.stormy && eth.Dst().IsMulticast() {
		kind, n := stormKind(eth.Dst()), stormCount(len(frame), segSize, in.p.mtu)
		if !in.n.spareFrom(id, kind, in.p, n) {
			return stormDrops[kind]
		}
	}
	return in.pass(frame, id, d, segSize)
}

// checkIn names what is wrong with a frame from the wire, whoever sent it.
func (p *policy) checkIn(eth encap.Ethernet) Drop {
	src := eth.Src()
	switch {
	case !src.IsSource():
		return DropMACInvalidSource
	case src == p.mac:
		return DropLocalMAC
	case eth.Dst().IsBridgeControl():
		return DropBridgeControl
	case p.vlanDrop && eth.Tags() != 0:
		return DropVLANTagged
	}
	return dropNone
}

// pass takes a frame that nothing forbids to the device.
func (in *inbound) pass(frame []byte, id fdb.PeerID, d *Datagram, segSize int) Drop {
	t, isIP := encap.FindTransport(frame)
	if in.p.clampMSS && isIP && t.Proto == encap.ProtoTCP {
		in.clamp(frame, t, in.n.peers, id, vxlanOuter(d.From))
	}
	return in.enqueue(frame, t, isIP, id, segSize, d.Verified)
}

// takeProbe hands a probe to the prober. It leaves the road here: what was offered
// is one less. Bridge protocols, to which the address belongs, do not cross the
// overlay.
func (in *inbound) takeProbe(frame []byte, from netip.Addr) Drop {
	p, ok := encap.ParseProbe(frame)
	if !ok {
		return DropBridgeControl
	}
	if !in.probes.add(p, in.n, from) {
		return DropProbeLimited
	}
	in.tally.offered.Add(^uint64(0))
	in.tally.probes.Add(1)
	return dropNone
}

// enqueue queues a frame for the device at hand, joined to what waits of its
// flow where that may be (step 7). verified says that an outer checksum covered
// it.
func (in *inbound) enqueue(frame []byte, t encap.Transport, isIP bool, id fdb.PeerID, segSize int, verified bool) Drop {
	vnet, headers, ok := describe(frame, t, isIP, in.sink.mtu, segSize)
	if !ok {
		return DropTooBig
	}
	if in.sink.plain || (vnet.GSO() == encap.VnetGSOUDPL4 && !in.sink.uso) {
		return in.queuePlain(frame, t, vnet, id)
	}
	if len(in.frames) == cap(in.frames) {
		in.flush()
	}
	unfinished := vnet.Flags&encap.VnetNeedsCsum != 0
	if vnet.GSOSize != 0 || (t.Proto == encap.ProtoUDP && !in.sink.uso) ||
		!joinable(frame, t, headers, unfinished, verified) {
		if headers != 0 && len(in.trains) != 0 {
			in.seal(t.FlowHash(frame)) // what follows must not overtake it
		}
		in.queue(frame, vnet, id)
		return dropNone
	}
	s := segmentOf{frame: frame[:t.End], t: t, headers: headers, hash: t.FlowHash(frame)}
	joined, begins := in.coalesce(&s)
	if !joined {
		in.queue(frame, vnet, id)
	}
	if begins {
		in.begin(&s, len(in.frames)-1)
	}
	return dropNone
}

// decapECN carries a congestion mark from the outer header into the inner one
// (step 5; RFC 6040 section 4.2).
func (in *inbound) decapECN(frame []byte, outer uint8) Drop {
	if outer&encap.ECNMask == encap.NotECT {
		return dropNone // nothing to carry in
	}
	inner, isIP := encap.InnerTOS(frame)
	if !isIP {
		return dropNone
	}
	ecn, ok := encap.DecapECN(inner, outer)
	if !ok {
		return DropIPTunnelECN
	}
	if ecn != inner&encap.ECNMask {
		encap.SetInnerECN(frame, ecn)
	}
	return dropNone
}

// pinned holds peers to the MACs that are bound to them, and the MACs to them.
func (in *inbound) pinned(src encap.MAC, id fdb.PeerID) Drop {
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
func (in *inbound) learn(src encap.MAC, id fdb.PeerID) fdb.Verdict {
	v := in.n.table.Learn(src, id)
	switch v {
	case fdb.LearnFull:
		in.tally.learnRefused.Add(1)
	case fdb.LearnMoved:
		in.tally.learnMoved.Add(1)
	case fdb.LearnQuota:
		in.tally.learnQuota.Add(1)
	case fdb.LearnFrozen:
		in.tally.learnFrozen.Add(1)
	case fdb.LearnBusy:
		in.tally.learnBusy.Add(1)
	}
	return v
}

// queue appends the frame to those that wait for the TAP (step 7).
func (in *inbound) queue(frame []byte, vnet encap.VnetHdr, id fdb.PeerID) {
	f := OutFrame{VNet: vnet, Parts: in.part(frame), peer: id, segs: 1, size: len(frame)}
	if vnet.GSOSize != 0 {
		headers, size := int(vnet.HdrLen), int(vnet.GSOSize)
		f.segs = max((len(frame)-headers+size-1)/size, 1)
		f.size += (f.segs - 1) * headers
		in.tally.offered.Add(uint64(f.segs - 1))
	}
	in.frames = append(in.frames, f)
}

// part appends b to the list of parts and returns it as a list of its own.
func (in *inbound) part(b ...[]byte) [][]byte {
	first := len(in.parts)
	in.parts = append(in.parts, b...)
	return in.parts[first:]
}

// queuePlain does what the kernel would: it finishes the checksum and cuts the
// superframe, for a TAP without a vnet header, or one of a kernel before 6.2,
// which takes no UDP superframes.
func (in *inbound) queuePlain(frame []byte, t encap.Transport, vnet encap.VnetHdr, id fdb.PeerID) Drop {
	f := Frame{VNet: vnet, Data: frame}
	count := 1
	var p plan
	if vnet.GSOSize != 0 {
		var ok bool
		if p, ok = planSegments(&f, t, true); !ok || p.count > inFrames {
			return DropBadOffload
		}
		count = p.count
		in.tally.offered.Add(uint64(count - 1))
	} else if vnet.Flags&encap.VnetNeedsCsum != 0 && !finishChecksum(&f) {
		return DropBadOffload
	}
	if len(in.frames)+count > cap(in.frames) {
		in.flush()
	}
	if vnet.GSOSize == 0 {
		in.queue(frame, encap.VnetHdr{}, id)
		return dropNone
	}
	for i := range p.count {
		slot := in.slots[len(in.frames)*headerSlot:][:headerSlot]
		header, payload := p.segment(slot, frame, i)
		in.frames = append(in.frames, OutFrame{
			Parts: in.part(header, payload), peer: id, segs: 1, size: len(header) + len(payload),
		})
	}
	return dropNone
}

// flush writes what waits to the device at hand and counts what
// became of it (step 8).
func (in *inbound) flush() {
	if len(in.frames) == 0 {
		return
	}
	in.finishTrains()
	in.sink.dev.WriteBatch(in.frames)
	for i := range in.frames {
		f := &in.frames[i]
		if f.Errno != 0 {
			in.tally.drop(tapDrop(f.Errno), f.segs)
		} else {
			in.tally.count(f.peer, f.segs, f.size)
		}
	}
	if in.mirror.on() {
		in.showWritten()
	}
	in.frames = in.frames[:0]
	in.parts = in.parts[:0]
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
	return DropTapDown
}
