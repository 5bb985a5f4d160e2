package dataplane

import (
	"net/netip"
	"overtap/dataplane/netio"
	"overtap/encap"
	"overtap/fdb"

	"golang.org/x/sys/unix"
)

const (
	// A batch of frames: many small ones, or seven GSO packets.
	outFrames = 128
	outArena  = 512 << 10
	// outSends, outParts and outHeaders bound what waits for one WriteBatch. There
	// are parts for every header slot: header and payload.
	outSends   = 256
	outParts   = 2048
	outHeaders = 512
	// maxRunBytes keeps a run below UDP's longest payload, whatever the family.
	maxRunBytes = 65000
)

// sender is what leaves to the underlay by one worker: what both txVXLAN and txIPIP
// queue on, of which one batch at a time is at work. The worker's thread alone uses it.
type sender struct {
	thread int
	batch  *netio.FrameBatch

	at          current
	counters    *counters
	mirror      mirroring
	plan        plan              // of the current GSO packet
	unsegmented netio.Unsegmented // the current GSO packet
	answer      [maxReply]byte    // to the current frame
	sends       []netio.Send
	retry       []netio.Send     // of a refused send, without DF
	cut         [headerSlot]byte // headers of the segment that is fragmented
	parts       [][]byte
	header      []byte // slots, from the first free one
	slots       []byte
}

func newSender(thread int, a *armed) *sender {
	s := &sender{
		thread: thread,
		batch:  netio.NewFrameBatch(outFrames, outArena),
		mirror: mirroring{armed: a, thread: thread},
		sends:  make([]netio.Send, 0, outSends),
		parts:  make([][]byte, 0, outParts),
		slots:  make([]byte, outHeaders*headerSlot),
	}
	s.header = s.slots
	return s
}

// drop counts a frame that goes nowhere.
func (o *sender) drop(d Drop, f *netio.Frame) {
	o.counters.drop(d, f.Count(), netip.Addr{})
	if o.mirror.on() {
		o.showDropped(d, f)
	}
}

// countAll is how many frames these stand for, by their metadata.
func countAll(frames []netio.Frame) uint64 {
	n := 0
	for i := range frames {
		n += frames[i].Count()
	}
	return uint64(n)
}

// settle corrects what was offered, once it is known how many segments the frame
// falls into and how many receivers each has.
func (o *sender) settle(f *netio.Frame, u *txPacket, receivers int) {
	if n := u.segs*receivers - f.Count(); n != 0 {
		o.counters.offered.Add(uint64(n))
	}
}

// txPacket is a frame on its way to its destinations.
type txPacket struct {
	flow    uint32
	tos     uint8 // of the outer header
	segs    int   // frames it stands for
	bytes   int   // of inner frames
	longest int   // bytes of the longest of these frames
	segSize int   // bytes a payload when there are several
	super   bool  // it is a GSO packet, cut by the path's plan
	first   int   // index of its first part
	parts   int   // 0 = it has no headers yet
	copies  bool  // it goes to several
	df      bool  // of the outer header, by destination
}

// planPacket plans how a GSO packet falls into segments that fit mtu, each behind
// head bytes of the encapsulation's own header.
func (o *sender) planPacket(u *txPacket, f *netio.Frame, t encap.Transport, isIP bool, mtu encap.OverlayMTU, head int) Drop {
	p, drop := planSegments(f, t, isIP)
	switch {
	case drop != dropNone:
		return drop
	case p.longest()-t.L3 > int(mtu):
		o.replyTooBig(f.Data, mtu)
		return DropTooBig
	}
	o.plan, u.super, u.longest = p, true, p.longest()
	u.segs, u.bytes = p.count, t.End-p.headers+p.count*p.headers
	if p.count > 1 {
		u.segSize = head + p.headers + p.size
	}
	return dropNone
}

// round is the part of the GSO packet u from its segment first on that there are
// header slots for. TCP with a small MSS makes more segments than that, which are
// cut in rounds, for each destination again.
func (o *sender) round(u *txPacket, first int) txPacket {
	p, r := &o.plan, *u
	r.segs = min(u.segs-first, outHeaders)
	r.bytes = r.segs*p.headers + min(r.segs*p.size, p.t.End-p.headers-first*p.size)
	return r
}

// sendUnsegmented sends the current GSO packet unsegmented, behind what waits of its flow.
func (o *sender) sendUnsegmented(u *txPacket, id fdb.PeerID, w netio.Conn) bool {
	for i := range o.sends {
		if o.sends[i].Flow == u.flow {
			o.send(w)
			break
		}
	}
	if !w.WriteUnsegmented(&o.unsegmented) {
		return false
	}
	o.counters.count(id, u.segs, u.bytes)
	if o.mirror.on() {
		o.mirrorUnsegmented(u)
	}
	return true
}

// reserve makes room for a packet's parts and header slots: what waits is sent
// first when there is too little.
func (o *sender) reserve(parts, slots int, w netio.Conn) {
	if len(o.parts)+parts > cap(o.parts) || slots*headerSlot > len(o.header) {
		o.flush(w)
	}
}

// queue addresses a packet to one destination (step 8): joined to the run before
// it where both are alike, else as a send of its own.
func (o *sender) queue(u txPacket, to netip.Addr, id fdb.PeerID, w netio.Conn) {
	if o.join(u, to) {
		return
	}
	if u.segs == 1 {
		o.append(u, to, id, w)
		return
	}
	// The payloads of a GSO packet, two parts each: those that the send before
	// it still takes, and the rest in as many sends as it needs.
	for n := o.extends(&u, to); u.segs != 0; n = 0 {
		one := u
		if room := u.payloadsPerSend() - n; u.segs > room {
			one.segs, one.parts = room, 2*room
			one.bytes = room * (u.segSize - encap.VXLANHeaderLen)
		}
		if n != 0 {
			o.extend(one)
		} else {
			o.append(one, to, id, w)
		}
		u.first += one.parts
		u.parts -= one.parts
		u.segs -= one.segs
		u.bytes -= one.bytes
	}
}

// extends returns how many payloads the last send has when the GSO packet u goes
// on behind them: the same flow to the same peer, payloads of the same size and
// none of them short. It returns 0 when it does not, or the send is full.
func (o *sender) extends(u *txPacket, to netip.Addr) int {
	if len(o.sends) == 0 {
		return 0
	}
	s := &o.sends[len(o.sends)-1]
	if s.Flow != u.flow || s.To.Addr() != to || s.TOS != u.tos || s.DF != u.df || s.SegSize != u.segSize ||
		s.First+len(s.Parts) != u.first || s.Copies || u.copies ||
		s.Bytes != s.Count*(s.SegSize-encap.VXLANHeaderLen) || s.Count >= u.payloadsPerSend() {
		return 0
	}
	return s.Count
}

// extend appends payloads to the last send.
func (o *sender) extend(u txPacket) {
	s := &o.sends[len(o.sends)-1]
	s.Parts = o.parts[s.First : u.first+u.parts]
	s.Count += u.segs
	s.Bytes += u.bytes
}

// join appends a single frame to the last send when that is a run of single
// frames of one flow's port to the same peer, all of one size: one system call
// and one walk through the stack for all. A shorter frame ends the run.
func (o *sender) join(u txPacket, to netip.Addr) bool {
	if len(o.sends) == 0 || u.segs != 1 || u.parts != 1 {
		return false
	}
	s := &o.sends[len(o.sends)-1]
	size := u.bytes + encap.VXLANHeaderLen
	last := len(s.Parts)
	if last != s.Count || s.To.Addr() != to || s.Flow != u.flow || s.TOS != u.tos || s.DF != u.df ||
		u.first != s.First+last || s.Count == netio.MaxRun {
		return false
	}
	run := len(s.Parts[0])
	if size > run || len(s.Parts[last-1]) != run || (last+1)*run > maxRunBytes {
		return false
	}
	s.Parts = o.parts[s.First : u.first+1]
	s.SegSize = run
	s.Count++
	s.Bytes += u.bytes
	return true
}

func (o *sender) append(u txPacket, to netip.Addr, id fdb.PeerID, w netio.Conn) {
	if len(o.sends) == cap(o.sends) {
		o.send(w)
	}
	s := netio.Send{
		To: netip.AddrPortFrom(to, o.at.port), Flow: u.flow,
		Parts: o.parts[u.first : u.first+u.parts],
		TOS:   u.tos, TTL: o.at.ttl, DF: u.df,
		Peer: id, First: u.first, Count: u.segs, Bytes: u.bytes, Copies: u.copies,
	}
	if u.segs > 1 {
		s.SegSize = u.segSize
	}
	o.sends = append(o.sends, s)
}

// flush sends what waits and frees parts and header slots.
func (o *sender) flush(w netio.Conn) {
	o.send(w)
	o.parts = o.parts[:0]
	o.header = o.slots
}

// send hands what waits to the Conn and counts what became of it (step 9).
func (o *sender) send(w netio.Conn) {
	if len(o.sends) == 0 {
		return
	}
	w.WriteBatch(o.sends)
	for i := range o.sends {
		s := &o.sends[i]
		if s.Errno == unix.EMSGSIZE && s.DF {
			o.learnPath(s, w)
		}
		if s.Refused != 0 {
			o.counters.drop(wireDrop(s.Errno), s.Refused, s.To.Addr())
			if o.at.packets && wireDrop(s.Errno) == DropNoRoute {
				o.sendUnreachable(s.Parts[0], encap.HostUnreachable)
			}
		}
		if sent := s.Count - s.Refused; sent > 0 {
			o.counters.count(s.Peer, sent, s.Bytes*sent/s.Count)
		}
	}
	if o.mirror.on() {
		o.showSent()
	}
	o.sends = o.sends[:0]
}
