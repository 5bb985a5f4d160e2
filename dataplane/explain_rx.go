package dataplane

import (
	"fmt"
	"net/netip"
	"slices"

	"overtap/dataplane/netio"
	"overtap/encap"
	"overtap/fdb"
)

// inbound explains a frame in a datagram from a peer (inbound.payload). n is the
// network that the operator means; the datagram says which one it is for.
func (x *explainer) inbound(n *network) {
	x.out.Direction = Inbound
	port, vni := n.config().Port, n.config().VNI
	if x.query.Port != 0 {
		port = x.query.Port
	}
	if x.query.VNI != nil {
		vni = *x.query.VNI
	}
	vnis := x.e.snapshot.Load().byPort[port]
	if n = vnis[vni]; n == nil {
		x.out.Network = ""
		if vnis == nil {
			x.step("vni", stepDrop, "no network listens on port %d: the datagram is the kernel's", port)
			x.out.Verdict = OutcomeDropped
			return
		}
		x.checked("vni", DropVXLANVNINotFound, "")
		return
	}
	x.out.Network = n.name
	x.step("vni", stepPass, "VNI %d on port %d is network %q", vni, port, n.name)
	if x.fromOverlay() {
		return
	}
	id, admission := n.peers.WouldAdmit(x.query.From)
	static := slices.ContainsFunc(n.config().FDB, func(e StaticEntry) bool { return e.Peer == x.query.From })
	if !x.admitted(n.peers, n.config().Admit, id, admission, static) {
		return
	}
	in, dev := dryInbound()
	in.n, in.p = n, n.policy.Load()
	in.sink = sink{dev: dev, mtu: in.p.MTU, plain: in.p.Plain, gso: n.gso}
	x.deliver(in, id, dev)
}

// fromOverlay reports whether this host routes the sender's address into an overlay
// network of its own. By which device a datagram comes in, no query says.
func (x *explainer) fromOverlay() bool {
	if !x.e.snapshot.Load().ingress.leads(x.query.From) {
		return false
	}
	x.drop("ingress", DropFromOverlay, fmt.Sprintf("this host routes %s into an overlay network: no peer is there", x.query.From))
	return true
}

// admitted notes what lets the sender in, and reports whether anything does. static
// says that it is the peer of a static entry.
func (x *explainer) admitted(peers *fdb.Peers, admit Admit, id fdb.PeerID, admission fdb.Admission, static bool) bool {
	from := x.query.From
	switch {
	case admission > fdb.AdmitAdded:
		d := admissionDrop(admission)
		detail := d.Text()
		if d == DropPeerNotAdmitted {
			detail = fmt.Sprintf("%s is no listed peer, and %s", from, admit.others())
		}
		x.drop("admission", d, detail)
		return false
	case admission == fdb.AdmitAdded:
		x.step("admission", stepPass, "%s is not listed: %s; it would become a peer", from, rule(peers, from))
	default:
		info, _ := peers.Peer(id)
		switch {
		case info.Learned:
			x.step("admission", stepPass, "%s is not listed: %s; it is a peer since it sent, %d s ago last",
				from, rule(peers, from), info.Idle)
		case static && !info.Flood:
			x.step("admission", stepPass, "%s is the peer of a static entry", from)
		default:
			x.step("admission", stepPass, "%s is a listed peer", from)
		}
	}
	return true
}

// rule says what admits a sender that is not listed.
func rule(peers *fdb.Peers, from netip.Addr) string {
	prefix, _ := peers.AdmittedBy(from)
	if prefix.IsValid() {
		return "the prefix " + prefix.String() + " of admit holds it"
	}
	return "admit = \"any\""
}

// others says whom the policy lets in who is not listed.
func (a Admit) others() string {
	if len(a.Prefixes) == 0 {
		return "admit = \"peers\""
	}
	return fmt.Sprintf("no prefix of admit = %s holds it", a.Prefixes)
}

// deliver explains an admitted frame (inbound.deliver).
func (x *explainer) deliver(in *rxVXLAN, id fdb.PeerID, dev *dryDevice) {
	frame := x.room()[netio.Headroom:]
	n, p := in.n, in.p
	d := &netio.Datagram{From: x.query.From, TOS: x.query.TOS}
	eth, err := encap.ParseEthernet(frame)
	if err != nil {
		x.checked("frame", DropTooShort, "")
		return
	}
	src := eth.Src()
	if _, probes := encap.ParseProbe(frame); probes && p.checkIn(eth) == DropBridgeControl {
		x.step("frame", stepReply, "a probe of the peer's: answered, unless there are too many, and not delivered")
		x.out.Verdict = OutcomeAnswered
		return
	}
	if !x.checked("frame", p.checkIn(eth), "%s to %s, %s", src, eth.Dst(), described(&netio.Frame{Data: frame}, eth)) ||
		!x.checked("ecn", in.decapECN(frame, d.TOS), "%s", mark(d.TOS)) {
		return
	}
	if p.pinned && !x.checked("pins", in.pinned(src, id), "%s may come from this peer", src) {
		return
	}
	if !x.learn(n, p, src, id) {
		return
	}
	if p.stormy && eth.Dst().IsMulticast() {
		kind, count := stormKind(eth.Dst()), stormCount(len(frame), 0, p.MTU)
		if !x.checked("storm", storm(n.wouldAllowFrom(id, kind, p, count), kind),
			"of the network: %s; of the peer: %s", bound(kind, &p.storm), bound(kind, &p.peerStorm)) {
			return
		}
	}
	drop := in.pass(frame, id, d, 0)
	x.delivered(in, dev, &n.netBase, n.config().Device, drop, len(frame)-eth.L3Offset())
}

// mark says what congestion mark a datagram brings.
func mark(tos uint8) string {
	if tos&encap.ECNMask == encap.NotECT {
		return "the outer packet bears no congestion mark"
	}
	return "the congestion mark of the outer packet is carried in"
}

// learn adds what the table makes of the source, and reports whether the frame
// goes on.
func (x *explainer) learn(n *network, p *policy, src encap.MAC, id fdb.PeerID) bool {
	if !p.Learning {
		if p.listed && !n.lists(src, id) {
			x.step("learn", stepNote, "the network does not learn, and no entry has %s behind %s: counted as unlisted_sources", src, n.peers.Addr(id))
		} else {
			x.step("learn", stepNote, "the network does not learn")
		}
		return true
	}
	entry, _ := n.table.Entry(src)
	at := n.peers.Addr(entry.Peer)
	switch v := n.table.WouldLearn(src, id); v {
	case fdb.LearnOutranked:
		x.drop("learn", DropVXLANEntryExists, fmt.Sprintf("a %s entry has %s behind %s", entry.Origin, src, at))
		return false
	case fdb.LearnKnown:
		x.step("learn", stepPass, "%s is known behind it", src)
	case fdb.LearnAdded:
		x.step("learn", stepPass, "%s is new: it is learned", src)
	case fdb.LearnMoved:
		x.step("learn", stepPass, "%s was behind %s: it moves", src, at)
	case fdb.LearnFull:
		x.step("learn", stepNote, "nothing is learned: the table has its %d entries (max_entries)", n.table.Max())
	case fdb.LearnQuota:
		x.step("learn", stepNote, "nothing is learned: the peer has its share of the table (max_entries_per_peer)")
	case fdb.LearnFrozen:
		x.step("learn", stepNote, "nothing is learned: %s moved too often (max_moves) and stays where it is for a while", src)
	}
	return true
}

// delivered adds how the frame, an IP packet of size bytes, arrives at the device.
func (x *explainer) delivered(in *rxVXLAN, dev *dryDevice, o *netBase, device string, d Drop, size int) {
	in.flush()
	switch d {
	case dropNone:
	case DropTooBig:
		x.drop("deliver", d, tooBig(fmt.Sprintf("%d bytes", size), in.sink.mtu))
		return
	default:
		x.drop("deliver", d, d.Text())
		return
	}
	if x.lost(o, device) {
		return
	}
	x.step("deliver", stepPass, "to the device %s, %d bytes", device, dev.bytes)
	x.out.Verdict = OutcomeDelivered
}

// packetSteps are the checks of rxIPIP.deliver in order, with what they drop as.
var packetSteps = []struct {
	name   string
	drops  []Drop
	passed string
}{
	{"packet", []Drop{DropTooShort, DropIPInHdr, DropUnhandledProto}, "an IPv4 packet"},
	{"loop", []Drop{DropLoop}, "not from ourselves"},
	{"source", []Drop{DropSourceNotRouted}, "its source is not checked, or routes back to the peer"},
	{"ecn", []Drop{DropIPTunnelECN}, "no congestion mark is lost"},
}

// packetIn explains an IP-in-IP packet from a peer (rxIPIP.datagram).
func (x *explainer) packetIn() {
	x.out.Direction = Inbound
	c, from := x.e.snapshot.Load(), x.query.From
	if x.fromOverlay() {
		x.out.Network = ""
		if t := c.byPeer[from]; t != nil {
			x.out.Network = t.name
		}
		return
	}
	var id fdb.PeerID
	var admission fdb.Admission
	t := c.byPeer[from]
	if t != nil {
		id, admission = t.peers.WouldAdmit(from)
	} else {
		t, id, admission = c.admitUnmatched(from, (*fdb.Peers).WouldAdmit)
	}
	if t == nil {
		x.out.Network = ""
		x.drop("admission", admissionDrop(admission), fmt.Sprintf("%s is the peer of no tunnel's route, and none admits it otherwise", from))
		return
	}
	x.out.Network = t.name
	if !x.admitted(t.peers, t.config.Load().Admit, id, admission, false) {
		return
	}
	in, dev := dryInbound()
	p := t.config.Load()
	in.sink = sink{dev: dev, mtu: p.MTU, plain: p.Plain, gso: t.gso}
	path := &rxIPIP{deliverer: in.deliverer, self: x.e.options.Underlay, t: t, p: p}
	packet := x.room()[netio.Headroom:]
	d := path.deliver(&netio.Datagram{From: from, Data: packet, TOS: x.query.TOS}, id)
	for _, s := range packetSteps {
		if slices.Contains(s.drops, d) {
			x.drop(s.name, d, d.Text())
			return
		}
		x.step(s.name, stepPass, "%s", s.passed)
	}
	inner, _ := encap.FindPacketTransport(packet)
	x.delivered(in, dev, &t.netBase, t.config.Load().Device, d, inner.End)
}
