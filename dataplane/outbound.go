package dataplane

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"overtap/encap"
	"overtap/fdb"
)

const (
	// A batch of frames: many small ones, or seven superframes.
	outFrames = 128
	outArena  = 512 << 10
	// outSends, outParts and outHeaders bound what waits for one WriteBatch.
	outSends   = 256
	outParts   = 2048
	outHeaders = 512
	// maxRunBytes keeps a run below UDP's longest payload, whatever the family.
	maxRunBytes = 65000
)

// outbound is the road from the TAPs to the wire for one worker. Its thread
// alone touches it.
type outbound struct {
	thread int
	batch  *FrameBatch

	n      *network // of the batch at hand
	p      *policy
	at     atHand
	tally  *tally
	mirror mirroring
	plan   plan            // of the superframe at hand
	whole  Whole           // the superframe at hand
	answer [maxAnswer]byte // to the frame at hand
	sends  []Send
	parts  [][]byte
	header []byte // slots, from the first free one
	slots  []byte
}

func newOutbound(thread int, a *armed) *outbound {
	o := &outbound{
		thread: thread,
		batch:  NewFrameBatch(outFrames, outArena),
		mirror: mirroring{armed: a, thread: thread},
		sends:  make([]Send, 0, outSends),
		parts:  make([][]byte, 0, outParts),
		slots:  make([]byte, outHeaders*headerSlot),
	}
	o.header = o.slots
	return o
}

// run takes one batch from the device to the wire (step 1 of the road).
func (o *outbound) run(n *network, dev Device, w Wire) error {
	o.n, o.p, o.tally = n, n.policy.Load(), &n.tallies[o.thread]
	o.at = atHand{of: &n.overlay, peers: n.peers, dev: dev, mtu: o.p.mtu}
	o.batch.Reset()
	err := dev.ReadBatch(o.batch)
	frames := o.batch.Frames()
	o.tally.offered.Add(countAll(frames))
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

// drop counts a frame that goes nowhere.
func (o *outbound) drop(d Drop, f *Frame) {
	o.tally.drop(d, f.count())
	if o.mirror.on() {
		o.showDropped(d, f)
	}
}

// countAll is how many frames these stand for, by their metadata.
func countAll(frames []Frame) uint64 {
	n := 0
	for i := range frames {
		n += frames[i].count()
	}
	return uint64(n)
}

// settle corrects what was offered, once it is known how many segments the frame
// falls into and how many receivers each has.
func (o *outbound) settle(f *Frame, u *unit, receivers int) {
	if n := u.segs*receivers - f.count(); n != 0 {
		o.tally.offered.Add(uint64(n))
	}
}

// forward decides where a frame goes (steps 2 to 4).
func (o *outbound) forward(f *Frame, dev Device, w Wire) Drop {
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
	case eth.Dst().IsBridgeControl():
		return DropBridgeControl
	case p.vlanDrop && eth.Tags() != 0:
		return DropVLANTagged
	}
	return dropNone
}

// flood sends a frame whose destination is not known to everyone who asked for
// such frames, or to the underlay's multicast group. The copies share headers
// and payload. A frame from the wire never comes here: split horizon.
func (o *outbound) flood(f *Frame, eth encap.Ethernet, w Wire) Drop {
	targets := o.n.peers.Flood()
	group := o.p.group.IsValid()
	if len(targets) == 0 && !group {
		return DropVXLANNoRemote
	}
	u, d := o.inspect(f, eth, fdb.NoPeer)
	if d != dropNone {
		return d
	}
	if o.p.stormy {
		if kind := stormKind(eth.Dst()); !o.n.spare(kind, o.p, u.segs) {
			return stormDrops[kind]
		}
	}
	o.tally.flooded.Add(uint64(u.segs))
	if group {
		o.settle(f, &u, 1)
	} else {
		o.settle(f, &u, len(targets))
	}
	u.copies = group || len(targets) > 1
	if group {
		o.deliver(&u, f, o.p.group, fdb.NoPeer, w)
		return dropNone
	}
	for _, t := range targets {
		o.deliver(&u, f, t.Addr, t.ID, w)
	}
	return dropNone
}

// unit is a frame on its way to its destinations.
type unit struct {
	flow    uint32
	tos     uint8 // of the outer header
	segs    int   // frames it stands for
	bytes   int   // of inner frames
	longest int   // bytes of the longest of these frames
	segSize int   // bytes a payload when there are several
	super   bool  // it is a superframe, cut by the road's plan
	first   int   // index of its first part
	parts   int   // 0 = it has no headers yet
	copies  bool  // it goes to several
}

// inspect finds what is to be known of a frame before it gets its headers: its
// flow, and how a superframe falls into segments (step 5). It is for the peer, or
// for several: NoPeer.
func (o *outbound) inspect(f *Frame, eth encap.Ethernet, id fdb.PeerID) (u unit, d Drop) {
	t, isIP := encap.FindTransport(f.Data)
	tos, hasTOS := encap.InnerTOS(f.Data)
	u.tos = o.p.tos.outer(tos, hasTOS)
	if isIP {
		u.flow = t.FlowHash(f.Data)
	} else {
		u.flow = encap.FlowHash(f.Data)
	}
	if f.VNet.GSO() == encap.VnetGSONone {
		u.segs, u.bytes, u.longest = 1, len(f.Data), len(f.Data)
		if o.p.clampMSS && isIP && t.Proto == encap.ProtoTCP {
			o.clamp(f, t, id)
		}
		switch {
		case len(f.Data)-eth.L3Offset() > int(o.p.mtu):
			o.tell(f.Data, o.p.mtu)
			return u, DropTooBig
		case f.VNet.Flags&encap.VnetNeedsCsum != 0 && !finishChecksum(f):
			return u, DropBadOffload
		}
		return u, dropNone
	}
	return u, o.planUnit(&u, f, t, isIP, o.p.mtu, encap.VXLANHeaderLen)
}

// planUnit plans how a superframe falls into segments that fit mtu, each behind
// head bytes of the encapsulation's own header.
func (o *outbound) planUnit(u *unit, f *Frame, t encap.Transport, isIP bool, mtu encap.OverlayMTU, head int) Drop {
	p, ok := planSegments(f, t, isIP)
	switch {
	case !ok:
		return DropBadOffload
	case p.longest()-t.L3 > int(mtu):
		o.tell(f.Data, mtu)
		return DropTooBig
	case 2*p.count > outParts || p.count > outHeaders:
		return DropBadOffload // segments of a few bytes: nobody honest
	}
	o.plan, u.super, u.longest = p, true, p.longest()
	u.segs, u.bytes = p.count, t.End-p.headers+p.count*p.headers
	if p.count > 1 {
		u.segSize = head + p.headers + p.size
	}
	return dropNone
}

// deliver brings a unit to one destination: a superframe uncut where the wire
// takes it so, everything else by way of the queue (step 6). What the path to it
// is known not to take is dropped.
func (o *outbound) deliver(u *unit, f *Frame, to netip.Addr, id fdb.PeerID, w Wire) {
	if o.n.peers.Narrow() && o.p.df && !o.fits(vxlanOuter(to)+u.longest, id) {
		o.tooLong(u, f.Data, to, id)
		return
	}
	if u.segs > 1 && o.p.df && w.TakesWhole(to) && o.writeWhole(u, f, to, id, w) {
		return
	}
	if u.parts == 0 {
		o.encapsulate(u, f, w)
	}
	o.queue(*u, to, id, w)
}

// writeWhole sends a superframe uncut.
func (o *outbound) writeWhole(u *unit, f *Frame, to netip.Addr, id fdb.PeerID, w Wire) bool {
	o.whole = Whole{
		To: netip.AddrPortFrom(to, o.p.port), Flow: u.flow, VNI: o.p.vni,
		Data: f.Data[:o.plan.t.End], VNet: o.plan.vnet(f), L3: o.plan.t.L3,
		TOS: u.tos, TTL: o.p.ttl,
	}
	return o.passWhole(u, id, w)
}

// passWhole sends the superframe at hand uncut, behind what waits of its flow.
func (o *outbound) passWhole(u *unit, id fdb.PeerID, w Wire) bool {
	for i := range o.sends {
		if o.sends[i].Flow == u.flow {
			o.send(w)
			break
		}
	}
	if !w.WriteWhole(&o.whole) {
		return false
	}
	o.tally.count(id, u.segs, u.bytes)
	if o.mirror.on() {
		o.showWhole(u)
	}
	return true
}

// encapsulate puts the VXLAN header before the frame, or before each segment of
// a superframe, which is cut by its headers only (step 7).
func (o *outbound) encapsulate(u *unit, f *Frame, w Wire) {
	if !u.super {
		o.reserve(1, 0, w)
		payload := f.room[Headroom-encap.VXLANHeaderLen:]
		encap.PutVXLAN(payload, o.p.vni)
		u.first, u.parts = len(o.parts), 1
		o.parts = append(o.parts, payload)
		return
	}
	p := &o.plan
	o.reserve(2*p.count, p.count, w)
	u.first, u.parts = len(o.parts), 2*p.count
	for i := range p.count {
		header, payload := p.header(o.header[:headerSlot], f.Data, o.p.vni, i)
		o.header = o.header[headerSlot:]
		o.parts = append(o.parts, header, payload)
	}
}

// reserve makes room for a unit's parts and header slots: what waits is sent
// first when there is too little.
func (o *outbound) reserve(parts, slots int, w Wire) {
	if len(o.parts)+parts > cap(o.parts) || slots*headerSlot > len(o.header) {
		o.flush(w)
	}
}

// queue addresses a unit to one destination (step 8): joined to the run before
// it where both are alike, else as a send of its own.
func (o *outbound) queue(u unit, to netip.Addr, id fdb.PeerID, w Wire) {
	if o.join(u, to) {
		return
	}
	if u.segs == 1 {
		o.append(u, to, id, w)
		return
	}
	// The payloads of a superframe, two parts each: those that the send before
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

// extends returns how many payloads the last send has when the superframe u goes
// on behind them: the same flow to the same peer, payloads of the same size and
// none of them short. It returns 0 when it does not, or the send is full.
func (o *outbound) extends(u *unit, to netip.Addr) int {
	if len(o.sends) == 0 {
		return 0
	}
	s := &o.sends[len(o.sends)-1]
	if s.Flow != u.flow || s.To.Addr() != to || s.TOS != u.tos || s.SegSize != u.segSize ||
		s.first+len(s.Parts) != u.first || s.copies || u.copies ||
		s.bytes != s.segs*(s.SegSize-encap.VXLANHeaderLen) || s.segs >= u.payloadsPerSend() {
		return 0
	}
	return s.segs
}

// extend appends payloads to the last send.
func (o *outbound) extend(u unit) {
	s := &o.sends[len(o.sends)-1]
	s.Parts = o.parts[s.first : u.first+u.parts]
	s.segs += u.segs
	s.bytes += u.bytes
}

// payloadsPerSend is how many of its payloads one UDP_SEGMENT takes.
func (u *unit) payloadsPerSend() int {
	if u.segSize == 0 {
		return 1
	}
	return max(min(maxRun, maxRunBytes/u.segSize), 1)
}

// join appends a single frame to the last send when that is a run of single
// frames of one flow's port to the same peer, all of one size: one system call
// and one walk through the stack for all. A shorter frame ends the run.
func (o *outbound) join(u unit, to netip.Addr) bool {
	if len(o.sends) == 0 || u.segs != 1 || u.parts != 1 {
		return false
	}
	s := &o.sends[len(o.sends)-1]
	size := u.bytes + encap.VXLANHeaderLen
	last := len(s.Parts)
	if last != s.segs || s.To.Addr() != to || s.Flow != u.flow || s.TOS != u.tos ||
		u.first != s.first+last || s.segs == maxRun {
		return false
	}
	run := len(s.Parts[0])
	if size > run || len(s.Parts[last-1]) != run || (last+1)*run > maxRunBytes {
		return false
	}
	s.Parts = o.parts[s.first : u.first+1]
	s.SegSize = run
	s.segs++
	s.bytes += u.bytes
	return true
}

func (o *outbound) append(u unit, to netip.Addr, id fdb.PeerID, w Wire) {
	if len(o.sends) == cap(o.sends) {
		o.send(w)
	}
	s := Send{
		To: netip.AddrPortFrom(to, o.p.port), Flow: u.flow,
		Parts: o.parts[u.first : u.first+u.parts],
		TOS:   u.tos, TTL: o.p.ttl, DF: o.p.df,
		peer: id, first: u.first, segs: u.segs, bytes: u.bytes, copies: u.copies,
	}
	if u.segs > 1 {
		s.SegSize = u.segSize
	}
	o.sends = append(o.sends, s)
}

// flush sends what waits and frees parts and header slots.
func (o *outbound) flush(w Wire) {
	o.send(w)
	o.parts = o.parts[:0]
	o.header = o.slots
}

// send hands what waits to the wire and counts what became of it (step 9).
func (o *outbound) send(w Wire) {
	if len(o.sends) == 0 {
		return
	}
	w.WriteBatch(o.sends)
	for i := range o.sends {
		s := &o.sends[i]
		if s.Refused != 0 {
			o.tally.drop(wireDrop(s.Errno), s.Refused)
			if s.Errno == unix.EMSGSIZE && s.DF {
				o.learnPath(s, w)
			} else if o.at.packets && wireDrop(s.Errno) == DropNoRoute {
				o.tellUnreachable(s.Parts[0], encap.HostUnreachable)
			}
		}
		if sent := s.segs - s.Refused; sent > 0 {
			o.tally.count(s.peer, sent, s.bytes*sent/s.segs)
		}
	}
	if o.mirror.on() {
		o.showSent()
	}
	o.sends = o.sends[:0]
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
