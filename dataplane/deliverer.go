package dataplane

import (
	"overtap/dataplane/netio"
	"overtap/encap"
	"overtap/fdb"
)

const (
	// inDatagrams are taken from a socket at once.
	inDatagrams = netio.ReceiveBatch
	// inFrames wait for one WriteBatch to a TAP.
	inFrames = 512
)

// deliverer is what goes to the devices by one worker: what both rxVXLAN and rxIPIP
// queue on, of which one batch at a time is at work. The worker's thread alone uses it.
type deliverer struct {
	thread    int
	worker    int
	unmatched *counters // for frames that belong to no network
	mirror    mirroring

	datagrams []netio.Datagram
	port      uint16  // where they came in; 0 = IP-in-IP
	arrival   arrival // of the current datagram

	counters *counters // of the current network or tunnel
	sink     sink
	frames   []netio.OutFrame
	parts    [][]byte
	flows    []groFlow
	slots    []byte // headers of segments cut for a plain TAP, one a frame
	retry    retry
}

func newDeliverer(thread, worker int, unmatched *counters, a *armed) *deliverer {
	d := &deliverer{
		thread: thread, worker: worker, unmatched: unmatched,
		mirror:    mirroring{armed: a, thread: thread},
		datagrams: make([]netio.Datagram, inDatagrams),
		frames:    make([]netio.OutFrame, 0, inFrames),
		parts:     make([][]byte, 0, 2*inFrames),
		flows:     make([]groFlow, 0, maxGROFlows),
		slots:     make([]byte, inFrames*headerSlot),
		retry:     newRetry(),
	}
	for i := range d.flows[:maxGROFlows] {
		d.flows[:maxGROFlows][i].parts = make([][]byte, 0, maxGROSegments)
	}
	return d
}

// sink is the device that the current frames are for, and what it takes.
type sink struct {
	of    *netBase
	dev   netio.Device
	mtu   encap.OverlayMTU
	plain bool // no vnet header, or no offloads for a while
	gso   gsoTaken
}

// stray counts what belongs to no network.
func (in *deliverer) stray(drop Drop, d *netio.Datagram, b []byte) {
	in.unmatched.drop(drop, 1, d.From)
	if in.mirror.on() {
		in.showStray(drop, d, b, in.port)
	}
}

// drop counts what came for the current network and goes nowhere.
func (in *deliverer) drop(drop Drop, d *netio.Datagram, b []byte, segSize int) {
	in.counters.drop(drop, 1, d.From)
	if in.mirror.on() {
		in.showDropped(drop, d, b, segSize)
	}
}

// enqueue queues a frame for the current device, joined to what waits of its
// flow where that may be (step 7).
func (in *deliverer) enqueue(frame []byte, t encap.Transport, isIP bool, id fdb.PeerID, segSize int) Drop {
	vnet, headers, ok := describe(frame, t, isIP, in.sink.mtu, segSize)
	if !ok {
		return DropTooBig
	}
	if in.sink.plain || !in.sink.gso.takes(vnet.GSO()) {
		return in.queuePlain(frame, t, vnet, id)
	}
	if vnet.GSOSize != 0 && !headerSumRight(frame, t) {
		return DropBadChecksum // the kernel that cuts it would make it right
	}
	in.makeRoom()
	unfinished := vnet.Flags&encap.VnetNeedsCsum != 0
	if vnet.GSOSize != 0 || !in.sink.gso.joins(t.Proto) ||
		!joinable(frame, t, headers, unfinished) {
		if headers != 0 && len(in.flows) != 0 {
			in.seal(t.FlowHash(frame)) // what follows must not overtake it
		}
		in.queue(frame, vnet, id)
		return dropNone
	}
	s := groSegment{frame: frame[:t.End], t: t, headers: headers, hash: t.FlowHash(frame)}
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
func (in *deliverer) decapECN(frame []byte, outer uint8) Drop {
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

// queue appends the frame to those that wait for the TAP (step 7).
func (in *deliverer) queue(frame []byte, vnet encap.VnetHdr, id fdb.PeerID) {
	f := netio.OutFrame{VNet: vnet, Parts: in.part(frame), Peer: id, Count: 1, Size: len(frame)}
	if vnet.GSOSize != 0 {
		headers, size := int(vnet.HdrLen), int(vnet.GSOSize)
		f.Count = max((len(frame)-headers+size-1)/size, 1)
		f.Size += (f.Count - 1) * headers
		in.counters.offered.Add(uint64(f.Count - 1))
	}
	in.frames = append(in.frames, f)
}

// part appends b to the list of parts and returns it as a list of its own.
func (in *deliverer) part(b ...[]byte) [][]byte {
	first := len(in.parts)
	in.parts = append(in.parts, b...)
	return in.parts[first:]
}

// queuePlain does what the kernel would: it finishes the checksum and cuts the
// GSO packet, for a TAP without a vnet header, or one that takes no GSO packets of
// its kind: of UDP before kernel 6.2, or by configuration. More segments than there
// are header slots are written in rounds.
func (in *deliverer) queuePlain(frame []byte, t encap.Transport, vnet encap.VnetHdr, id fdb.PeerID) Drop {
	f := netio.Frame{VNet: vnet, Data: frame[:t.End]} // padding is not summed
	if vnet.GSOSize == 0 {
		if vnet.Flags&encap.VnetNeedsCsum != 0 && !finishChecksum(&f) {
			return DropBadOffload
		}
		in.makeRoom()
		in.queue(frame, encap.VnetHdr{}, id)
		return dropNone
	}
	p, drop := planSegments(&f, t, true)
	if drop != dropNone {
		return drop
	}
	in.counters.offered.Add(uint64(p.count - 1))
	for i := range p.count {
		in.makeRoom()
		slot := in.slots[len(in.frames)*headerSlot:][:headerSlot]
		header, payload := p.segment(slot, frame, i)
		in.frames = append(in.frames, netio.OutFrame{
			Parts: in.part(header, payload), Peer: id, Count: 1, Size: len(header) + len(payload),
		})
	}
	return dropNone
}

// makeRoom makes room for one more frame: what waits is written when there is
// none.
func (in *deliverer) makeRoom() {
	if len(in.frames) == cap(in.frames) {
		in.flush()
	}
}

// flush writes what waits to the current device and counts what
// became of it (step 8).
func (in *deliverer) flush() {
	if len(in.frames) == 0 {
		return
	}
	in.flushGRO()
	if in.sink.dev.WriteBatch(in.frames) != 0 {
		in.retryRefused()
	}
	for i := range in.frames {
		f := &in.frames[i]
		lost := f.Refused()
		if lost == 0 {
			in.counters.count(f.Peer, f.Count, f.Size)
			continue
		}
		in.counters.drop(tapDrop(f.Errno), lost, in.sink.of.peers.Addr(f.Peer))
		if written := f.Count - lost; written > 0 {
			in.counters.count(f.Peer, written, f.Size*written/f.Count)
		}
	}
	if in.mirror.on() {
		in.showWritten()
	}
	in.frames = in.frames[:0]
	in.parts = in.parts[:0]
}
