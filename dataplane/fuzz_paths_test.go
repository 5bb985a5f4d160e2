package dataplane_test

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"

	"overtap/dataplane"
	"overtap/dataplane/netio"
	"overtap/dataplane/netio/netiotest"
	"overtap/encap"
)

// What a fuzzed network is like, by the bits of its script's first two bytes.
const (
	likeNoLearning = 1 << iota
	likeVLANDrop
	likeReservedDrop
	likePlain
	likeClamp
	likeSuppress
	likeGroup
	likePinned
	likeStorm
	likeLimits
	likeAdmitAny
	likeAdmitPrefix
	likeNoDF
	likeV6
	likeNoFlood
	likeNoUSO
)

// journey is one execution of FuzzPaths.
type journey struct {
	*paths
	t           *testing.T
	like        uint16
	senders     []netip.Addr // host b, host c, one who may be admitted, an unlisted sender, ourselves
	room        []int
	unsegmented bool               // the wire takes GSO packets unsegmented
	claims      map[encap.MAC]bool // sources of all that came in
	entered     map[netip.Addr]bool
}

var fuzzGroup = netip.MustParseAddr("239.1.1.1")

// newJourney opens a network that is like that.
func newJourney(t *testing.T, like uint16) *journey {
	self, b, c, admitted, other := addrA, addrB, addrC, netip.MustParseAddr("198.51.100.200"), unlisted
	prefix := netip.MustParsePrefix("198.51.100.192/26")
	if like&likeV6 != 0 {
		six := func(n byte) netip.Addr { return netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 14: n, 15: n}) }
		self, b, c, admitted, other = six(1), six(2), six(3), six(200), six(9)
		prefix = netip.PrefixFrom(six(200), 120).Masked()
	}
	n := testNetwork(self, b, c)
	n.MAC = tapMAC(addrA)
	if like&likeSuppress != 0 {
		n.Suppress, n.Neighbors = true, suppressing().Neighbors
		n.FDB = []dataplane.StaticEntry{{MAC: macB, Peer: b}}
	}
	if like&likePinned != 0 {
		n.Peers[1].MACs = []encap.MAC{macC} // c's
	}
	if like&likeGroup != 0 && like&likeV6 == 0 {
		n.Group = fuzzGroup
	}
	if like&likeStorm != 0 {
		n.Storm = dataplane.Storm{Broadcast: 4, UnknownUnicast: 3, Multicast: 2}
		n.PeerStorm = dataplane.Storm{Broadcast: 2, Multicast: 1}
	}
	if like&likeLimits != 0 {
		n.MaxEntries, n.MaxPerPeer, n.MaxMoves, n.MoveWindow, n.Ageing = 4, 2, 2, 2e9, 3e9
	}
	if like&likeAdmitPrefix != 0 {
		n.Admit.Prefixes = []netip.Prefix{prefix}
	}
	n.Admit.Any = like&likeAdmitAny != 0
	n.Learning = like&likeNoLearning == 0
	n.VLANDrop, n.ReservedDrop = like&likeVLANDrop != 0, like&likeReservedDrop != 0
	n.Plain, n.ClampMSS, n.DF = like&likePlain != 0, like&likeClamp != 0, like&likeNoDF == 0
	if like&likeNoFlood != 0 {
		n.Peers[1].Flood = false
	}
	u := netiotest.NewUnderlay(t)
	edges := u.Backend(self)
	if like&likeNoUSO != 0 {
		edges.WithoutUSO()
	}
	r, err := dataplane.NewPaths(dataplane.Options{Underlay: self, Backend: edges}, n)
	if err != nil {
		t.Fatal(err)
	}
	edges.Record()
	return &journey{
		paths: &paths{Paths: r, u: u, backend: edges, tap: edges.TAP(n.Device), tb: t, net: n},
		t:     t, like: like, senders: []netip.Addr{b, c, admitted, other, self}, room: r.Room(),
		claims: make(map[encap.MAC]bool), entered: make(map[netip.Addr]bool),
	}
}

// admits reports whether the network takes frames from the sender.
func (j *journey) admits(from netip.Addr) bool {
	return from == j.senders[0] || from == j.senders[1] || from != j.senders[4] &&
		(j.net.Admit.Any || slices.ContainsFunc(j.net.Admit.Prefixes, func(p netip.Prefix) bool { return p.Contains(from) }))
}

// do does one deed and looks at what came of it.
func (j *journey) do(d deed) {
	switch d.kind {
	case deedOut:
		j.goOut(d)
	case deedIn:
		j.comeIn(d)
	case deedRefuse:
		j.tap.RefuseWrites(refusals[int(d.value>>8)%len(refusals)])
		j.backend.RefuseSends(refusals[int(d.value)%len(refusals)], 1+d.sender)
	case deedPath:
		j.backend.SetPathMTU(j.senders[d.sender], encap.UnderlayMTU(d.value))
	case deedEdges:
		j.unsegmented = d.value&1 != 0
		j.backend.TakeUnsegmented(j.unsegmented)
	case deedTick:
		j.Tick()
	}
	s := j.Engine.Stats()
	if problem := unbalanced(s); problem != "" {
		j.t.Fatalf("not conserved: %s", problem)
	}
	var byPeer dataplane.Traffic
	for _, p := range s.Peers {
		byPeer.TxPackets += p.TxPackets
		byPeer.RxPackets += p.RxPackets
		if !j.admits(p.Peer) {
			j.t.Fatalf("%s is a peer", p.Peer)
		}
	}
	if n := s.Networks[0]; byPeer.RxPackets != n.RxPackets || byPeer.TxPackets > n.TxPackets ||
		byPeer.TxPackets != n.TxPackets && !j.net.Group.IsValid() {
		j.t.Fatalf("the peers have %+v, the network %+v", byPeer, n.Traffic)
	}
	if now := j.Room(); !slices.Equal(now, j.room) {
		j.t.Fatalf("the paths had room for %v, and have for %v", j.room, now)
	}
	j.checkTable(s.Networks[0])
}

// goOut takes frames out. Who gets them is a peer or the group; what the TAP is sent
// is for who sent them.
func (j *journey) goOut(d deed) {
	if len(d.frame.Data) > netio.MaxFrame {
		return
	}
	before := j.Engine.Stats().Networks[0]
	for range d.times {
		j.tap.Inject(d.frame)
	}
	if err := j.Outbound(); err != nil {
		j.t.Fatal(err)
	}
	after := j.Engine.Stats().Networks[0]
	count, whole := uint64(0), false
	cleared := after.ClearedDF > before.ClearedDF // on a path too narrow for it
	for _, s := range j.backend.Sent() {
		to := s.To.Addr()
		if s.To.Port() != j.net.Port || to != j.net.Group && !(j.admits(to) && (to == j.senders[0] || to == j.senders[1] || j.entered[to])) {
			j.t.Fatalf("sent to %s", s.To)
		}
		refused := len(s.Payloads) == 0
		if s.TTL != j.net.TTL || s.DF != j.net.DF && (s.DF || !cleared && !refused) {
			j.t.Fatalf("sent as %+v", s)
		}
		for _, p := range s.Payloads {
			if h, err := encap.ParseVXLAN(p); err != nil || h.VNI != j.net.VNI || h.Reserved {
				j.t.Fatalf("VXLAN header % x", p[:encap.VXLANHeaderLen])
			}
			eth := j.checkFrame(p[encap.VXLANHeaderLen:])
			if p := j.bound(eth.Dst()); p.IsValid() && p != to {
				j.t.Fatalf("sent to %s what is for %s behind %s", to, eth.Dst(), p)
			}
			tooLong := len(p)-encap.VXLANHeaderLen-eth.L3Offset() > int(j.net.MTU)
			if whole = whole || tooLong; tooLong && (!j.unsegmented || d.frame.VNet.GSO() == encap.VnetGSONone) {
				j.t.Fatalf("a packet of %d bytes left", len(p)-encap.VXLANHeaderLen-eth.L3Offset())
			}
			count++
		}
	}
	if sent := after.TxPackets - before.TxPackets; count != sent && !(j.unsegmented && count < sent) {
		j.t.Fatalf("%d frames left, %d are counted", count, sent)
	}
	answers := j.tap.Written()
	if want := after.Suppressed + after.Answered - before.Suppressed - before.Answered; uint64(len(answers)) != want {
		j.t.Fatalf("%d answers, %d are counted", len(answers), want)
	}
	for _, a := range answers {
		asked, err := encap.ParseEthernet(d.frame.Data)
		if reply, _ := encap.ParseEthernet(a.Data); err != nil || reply.Dst() != asked.Src() || a.VNet != (encap.VnetHdr{}) {
			j.t.Fatalf("% x is answered by % x", d.frame.Data, a.Data)
		}
	}
}

// comeIn takes datagrams in. Nothing of them leaves by the wire, and nothing reaches
// the TAP that an unlisted sender sent, or that the network does not take.
func (j *journey) comeIn(d deed) {
	before := j.Engine.Stats()
	j.claim(d.d)
	for range d.times {
		j.u.Deliver(netip.AddrPortFrom(j.senders[4], j.net.Port), d.d)
	}
	if err := j.Inbound(); err != nil {
		j.t.Fatal(err)
	}
	if sent := j.backend.Sent(); len(sent) != 0 {
		j.t.Fatalf("what came in left again: %+v", sent)
	}
	after := j.Engine.Stats()
	offered := after.Networks[0].RxOffered - before.Networks[0].RxOffered
	offered += after.Networks[0].ProbesReceived - before.Networks[0].ProbesReceived
	if unmatched := dropsOfNone(after) - dropsOfNone(before); len(d.d.Data) > 0 && offered+unmatched < uint64(d.times) {
		j.t.Fatalf("%d datagrams, of which %d are counted", d.times, offered+unmatched)
	}
	written := cutAll(j.t, j.tap.Written())
	if got := after.Networks[0].RxPackets - before.Networks[0].RxPackets; got != uint64(len(written)) {
		j.t.Fatalf("%d frames written, %d counted", len(written), got)
	}
	if len(written) > 0 && (!j.admits(d.d.From) || d.d.Truncated) {
		j.t.Fatalf("taken from %s: %+v", d.d.From, d.d)
	}
	for _, f := range written {
		eth := j.checkFrame(f)
		if eth.Src() == j.net.MAC {
			j.t.Fatal("our own frame came in")
		}
		if p := j.bound(eth.Src()); p.IsValid() && p != d.d.From && (j.net.Learning || j.pinned()) {
			j.t.Fatalf("taken from %s: %s, which is behind %s", d.d.From, eth.Src(), p)
		}
		if j.pinned() && d.d.From == j.senders[1] && eth.Src() != macC {
			j.t.Fatalf("a pinned peer sent as %s", eth.Src())
		}
	}
}

// checkFrame wants what passes either way to be a frame that the network takes.
func (j *journey) checkFrame(f []byte) encap.Ethernet {
	eth, err := encap.ParseEthernet(f)
	if err != nil || !eth.Src().IsSource() || eth.Dst().IsBridgeControl() || j.net.VLANDrop && eth.Tags() != 0 {
		j.t.Fatalf("passed: % x (%v)", f, err)
	}
	return eth
}

// bound is the peer that a static entry or a pin binds the MAC to.
func (j *journey) bound(m encap.MAC) netip.Addr {
	for _, e := range j.net.FDB {
		if e.MAC == m {
			return e.Peer
		}
	}
	for _, p := range j.net.Peers {
		if slices.Contains(p.MACs, m) {
			return p.Address
		}
	}
	return netip.Addr{}
}

// pinned reports whether the second peer may send from its own MAC alone.
func (j *journey) pinned() bool { return len(j.net.Peers[1].MACs) > 0 }

// claim notes who a datagram says is behind its sender, whichever way it is cut.
func (j *journey) claim(d netio.Datagram) {
	if !j.admits(d.From) {
		return
	}
	j.entered[d.From] = true
	size := d.SegSize
	if size == 0 {
		size = len(d.Data)
	}
	for rest := d.Data; len(rest) > 0; rest = rest[min(size, len(rest)):] {
		if len(rest) >= encap.VXLANHeaderLen {
			if eth, err := encap.ParseEthernet(rest[encap.VXLANHeaderLen:]); err == nil {
				j.claims[eth.Src()] = true
			}
		}
	}
}

// checkTable wants the static entries to stand, and nothing to be learned that
// no admitted peer claimed, or beyond the bounds.
func (j *journey) checkTable(n dataplane.NetworkStats) {
	entries, err := j.Engine.FDB("")
	if err != nil {
		j.t.Fatal(err)
	}
	static, byPeer := 0, make(map[netip.Addr]int)
	for _, e := range entries {
		if e.Origin == "static" {
			static++
			if j.bound(e.MAC) != e.Peer {
				j.t.Fatalf("static entry %+v", e)
			}
			continue
		}
		byPeer[e.Peer]++
		if !j.net.Learning || !j.claims[e.MAC] || !j.admits(e.Peer) || !e.MAC.IsSource() || e.MAC == j.net.MAC ||
			j.bound(e.MAC).IsValid() || j.pinned() && e.Peer == j.senders[1] {
			j.t.Fatalf("learned: %+v", e)
		}
		if most := j.net.MaxPerPeer; most > 0 && byPeer[e.Peer] > most {
			j.t.Fatalf("%d entries behind %s", byPeer[e.Peer], e.Peer)
		}
	}
	if static != len(j.net.FDB)+len(j.net.Peers[1].MACs) || n.EntriesLearned > j.net.MaxEntries {
		j.t.Fatalf("%d static entries, %d learned", static, n.EntriesLearned)
	}
}

// dropsOfNone are the drops that belong to no network.
func dropsOfNone(s dataplane.Stats) (n uint64) {
	for _, d := range s.Drops {
		if d.Network == "" {
			n += d.Count
		}
	}
	return n
}

// FuzzPaths has any script of frames out, datagrams in and faults happen to any
// network. The backend checks each send and each write; here nothing is lost uncounted,
// nothing is sent to a host that is no peer, nothing is learned that was not to be, and the
// paths need no more memory than at first.
func FuzzPaths(f *testing.F) {
	syn := flowSpec{src: macA, dst: macB, tcpFlags: encap.TCPSYN, tcpOptions: 8}
	tcp := flowSpec{src: macA, dst: macB, tcpFlags: encap.TCPACK}
	udp6 := flowSpec{src: macA, dst: macB, udp: true, v6: true, tags: 1}
	back := flowSpec{src: macB, dst: macA, tcpFlags: encap.TCPACK}
	back6 := flowSpec{src: macB, dst: macA, udp: true, v6: true}
	var run []byte
	for _, segment := range back.segments(f, pattern(400), 100) {
		run = append(run, vxlan(testVNI, segment)...)
	}
	runSize := encap.VXLANHeaderLen + back.payloadAt() + 100
	for _, like := range []uint16{0, likeSuppress | likePinned, likeGroup | likeStorm, likeLimits | likeAdmitAny,
		likePlain | likeNoUSO, likeV6 | likeClamp | likeAdmitPrefix, likeNoLearning | likeVLANDrop | likeReservedDrop, likeNoDF | likeNoFlood} {
		f.Add([]byte(newScript(like).
			out(1, syn.partial(f, nil)).
			in(0, flagVXLAN, encap.ECT0, 0, plainFrame(macA, macB, "hello").Data).
			out(2, tcp.gsoPacket(f, pattern(3000), 700)).
			in(1, flagVXLAN, 0, 0, plainFrame(macA, macC, "hello").Data).
			in(1, flagVXLAN, 0, 0, plainFrame(macA, macB, "moved").Data)))
		f.Add([]byte(newScript(like).
			in(0, 0, encap.CE, runSize, run).
			in(0, flagVXLAN, 0, 120, back6.partial(f, pattern(600)).Data).
			in(2, flagVXLAN, 0, 0, plainFrame(encap.BroadcastMAC, macC, "to all").Data).
			set(deedTick, 0, 0).
			out(3, plainFrame(encap.BroadcastMAC, macA, "to all")).
			out(1, asks(encap.BroadcastMAC, ipKnown)).out(1, solicits(ip6Known))))
		f.Add([]byte(newScript(like).
			set(deedPath, 0, 900).set(deedEdges, 0, 1).
			out(1, udp6.gsoPacket(f, pattern(2000), 500)).
			out(1, tcp.partial(f, pattern(1400))).
			set(deedRefuse, 1, 0x0101).
			out(4, tcp.gsoPacket(f, pattern(9000), 1300)).
			in(3, flagVXLAN, 0, 0, back.complete(f, pattern(50)))))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s := reader(b)
		j := newJourney(t, s.uint16())
		defer func() {
			if err := j.Paths.Close(); err != nil {
				t.Error(err)
			}
		}()
		for range maxDeeds {
			if len(s) == 0 {
				break
			}
			j.do(s.next(j.senders))
		}
	})
}

// TestScript wants a seed to be read as it was written.
func TestScript(t *testing.T) {
	frame := flowSpec{src: macA, dst: macB}.partial(t, pattern(9))
	s := reader(newScript(7).out(3, frame).in(1, flagVXLAN, 2, 300, []byte("abc")).set(deedPath, 2, 1400))
	senders := []netip.Addr{addrB, addrC, unlisted}
	like := s.uint16()
	first, second, third := s.next(senders), s.next(senders), s.next(senders)
	if like != 7 || first.kind != deedOut || first.times != 3 || first.frame.VNet != frame.VNet || !bytes.Equal(first.frame.Data, frame.Data) {
		t.Errorf("%d, %+v", like, first)
	}
	if d := second.d; second.kind != deedIn || d.From != addrC || d.TOS != 2 || d.SegSize != 300 || d.Truncated ||
		!bytes.Equal(d.Data, vxlan(testVNI, []byte("abc"))) {
		t.Errorf("%+v", second)
	}
	if third.kind != deedPath || third.sender != 2 || third.value != 1400 || len(s) != 0 {
		t.Errorf("%+v, %d bytes left", third, len(s))
	}
}
