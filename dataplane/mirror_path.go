package dataplane

import (
	"net/netip"
	"time"

	"overtap/dataplane/netio"
	"overtap/encap"
	"overtap/fdb"
)

// mirroring is how a path shows what it does to the mirrors that are open. While
// there is none it costs one load a batch, and a comparison a frame.
type mirroring struct {
	armed  *armed
	thread int

	now *mirrors // of the current batch; nil = none is open
	at  int64    // when that was read
	s   sighting // the current frame
	one [1][]byte
}

// begin takes over who looks at the batch that was just read, and reports whether
// anybody does.
func (m *mirroring) begin() bool {
	m.now = m.armed.Load()
	if m.now == nil {
		return false
	}
	m.at = time.Now().UnixNano()
	return true
}

// end forgets who looked: a thread that sleeps must not keep their memory.
func (m *mirroring) end() { m.now = nil }

// on reports whether a mirror is open for the current batch.
func (m *mirroring) on() bool { return m.now != nil }

// showBytes shows the current frame, which is b.
func (m *mirroring) showBytes(b []byte) {
	m.one[0] = b
	m.show(m.one[:])
	m.one[0] = nil
}

// show gives the current frame, which is the concatenation of the parts, to every
// mirror that asked for its like.
func (m *mirroring) show(parts [][]byte) {
	s := &m.s
	length := 0
	for _, p := range parts {
		length += len(p)
	}
	s.at, s.length = m.at, uint32(length)
	for _, one := range *m.now {
		if !one.spec.Points.Has(s.point) ||
			one.spec.Network != "" && (s.of == nil || s.of.name != one.spec.Network) {
			continue
		}
		keep := length
		if snap := one.spec.SnapLen; snap != 0 {
			if s.has&hasHeader != 0 {
				snap += encap.VXLANHeaderLen
			}
			keep = min(keep, snap)
		}
		one.rings[m.thread].put(s, parts, keep)
	}
}

// traits are those that every frame of the network has.
func (o *netBase) traits() trait {
	if o.kind == KindIPIP {
		return hasIPIP
	}
	return 0
}

// super notes what a vnet header says of the current frame, which stands for segs.
func (s *sighting) super(v encap.VnetHdr, segs int) {
	if v.Flags&encap.VnetNeedsCsum != 0 {
		s.has |= hasUnfinished
	}
	if v.GSOSize != 0 {
		s.segs, s.segSize = uint16(segs), v.GSOSize
	}
}

// showRead shows what was read from the device.
func (o *sender) showRead(frames []netio.Frame) {
	for i := range frames {
		f := &frames[i]
		o.mirror.s = sighting{of: o.at.of, point: PointTapIn, way: Outbound, has: o.at.of.traits()}
		o.mirror.s.super(f.VNet, f.Count())
		o.mirror.showBytes(f.Data)
	}
}

// showDropped shows a frame that goes nowhere.
func (o *sender) showDropped(d Drop, f *netio.Frame) {
	o.mirror.s = sighting{of: o.at.of, point: PointDropped, drop: d, way: Outbound, has: o.at.of.traits()}
	o.mirror.s.super(f.VNet, f.Count())
	o.mirror.showBytes(f.Data)
}

// showUndeliverable shows a packet that the path to the peer does not take.
func (o *sender) showUndeliverable(d Drop, u *txPacket, frame []byte, to netip.Addr) {
	o.mirror.s = sighting{of: o.at.of, peer: to, point: PointDropped, drop: d, way: Outbound, has: o.at.of.traits()}
	if u.super {
		o.mirror.s.segs, o.mirror.s.segSize = uint16(u.segs), uint16(o.plan.size)
	}
	o.mirror.showBytes(frame)
}

// mirrorUnsegmented shows the current GSO packet, which left unsegmented.
func (o *sender) mirrorUnsegmented(u *txPacket) {
	w := &o.unsegmented
	o.mirror.s = sighting{
		of: o.at.of, peer: w.To.Addr(), flow: w.Flow, tos: w.TOS, ttl: w.TTL,
		point: PointWireOut, way: Outbound, has: hasDF | o.at.of.traits(),
	}
	o.mirror.s.super(w.VNet, u.segs)
	o.mirror.showBytes(w.Data)
}

// showSent shows what became of all that was given to the wire. Of a run that was
// refused in part it is not known which payloads were: it shows the first of them.
func (o *sender) showSent() {
	for i := range o.sends {
		s := &o.sends[i]
		dropped := s.Refused
		for first := 0; first < len(s.Parts); dropped-- {
			end, size := first+1, len(s.Parts[first])
			for end < len(s.Parts) && (s.SegSize == 0 || size < s.SegSize) {
				size += len(s.Parts[end])
				end++
			}
			o.showPayload(s, s.Parts[first:end], dropped > 0)
			first = end
		}
	}
}

func (o *sender) showPayload(s *netio.Send, parts [][]byte, dropped bool) {
	o.mirror.s = sighting{
		of: o.at.of, peer: s.To.Addr(), flow: s.Flow, tos: s.TOS, ttl: s.TTL,
		point: PointWireOut, way: Outbound, has: o.at.of.traits(),
	}
	if !o.at.packets {
		o.mirror.s.has |= hasHeader
	}
	if s.DF {
		o.mirror.s.has |= hasDF
	}
	if dropped {
		o.mirror.s.point, o.mirror.s.drop = PointDropped, wireDrop(s.Errno)
	}
	o.mirror.show(parts)
}

// mirrorReply shows a frame that the path itself made for the device's side.
func (m *mirroring) mirrorReply(of *netBase, answer []byte) {
	m.s = sighting{of: of, point: PointTapOut, way: Inbound, has: hasReply | of.traits()}
	m.showBytes(answer)
}

// showReceived shows what came for the current network: a VXLAN packet, or a
// tunnel's packet.
func (in *deliverer) showReceived(d *netio.Datagram, b []byte, segSize int) {
	in.sight(d, segSize, len(b))
	in.mirror.s.point = PointWireIn
	in.mirror.showBytes(b)
}

// showDropped shows what came for the current network and goes nowhere.
func (in *deliverer) showDropped(drop Drop, d *netio.Datagram, b []byte, segSize int) {
	in.sight(d, segSize, len(b))
	in.mirror.s.point, in.mirror.s.drop = PointDropped, drop
	in.mirror.showBytes(b)
}

// sight makes what came in for the current network the current frame.
func (in *deliverer) sight(d *netio.Datagram, segSize, length int) {
	of := in.sink.of
	in.mirror.s = sighting{
		of: of, peer: d.From, source: d.FromPort, tos: d.TOS, way: Inbound, has: of.traits(),
	}
	s := &in.mirror.s
	headers := 0
	if of.kind == KindVXLAN {
		s.has |= hasHeader
		headers = encap.VXLANHeaderLen + encap.EthernetHeaderLen + 2*encap.VLANTagLen
	}
	if segSize != 0 || length-headers > int(in.sink.mtu) {
		n := 1
		if segSize != 0 {
			n = stormCount(length-headers, segSize, in.sink.mtu)
		}
		s.segs, s.segSize = uint16(n), uint16(segSize)
	}
}

// showStray shows what belongs to no network.
func (in *deliverer) showStray(drop Drop, d *netio.Datagram, b []byte, port uint16) {
	in.mirror.s = sighting{
		peer: d.From, source: d.FromPort, port: port, tos: d.TOS,
		point: PointDropped, drop: drop, way: Inbound,
	}
	switch {
	case port == 0:
		in.mirror.s.has |= hasIPIP
	case len(b) >= encap.VXLANHeaderLen:
		in.mirror.s.has |= hasHeader
	}
	in.mirror.showBytes(b)
}

// showWritten shows what became of all that was given to the current device.
func (in *deliverer) showWritten() {
	of := in.sink.of
	for i := range in.frames {
		f := &in.frames[i]
		in.mirror.s = sighting{of: of, point: PointTapOut, way: Inbound, has: of.traits()}
		if f.Peer != fdb.NoPeer {
			in.mirror.s.peer = of.peers.Addr(f.Peer)
		}
		if f.Refused() == f.Count {
			in.mirror.s.point, in.mirror.s.drop = PointDropped, tapDrop(f.Errno)
		}
		in.mirror.s.super(f.VNet, f.Count)
		in.mirror.show(f.Parts)
	}
}
