package dataplane

import (
	"encoding/binary"
	"net/netip"

	"overtap/dataplane/netio"
	"overtap/encap"
)

// suppress answers an ARP request or a neighbour solicitation from the network's
// neighbours and reports whether it did: the frame then goes nowhere. Everything
// else goes on like any frame: what is not known, what is malformed, replies and
// announcements, the questions whether an address is free, and all that bears a
// VLAN tag, since the neighbours are those of untagged frames.
//
// The answer leaves the TAP with the neighbour's MAC as its source, so that a
// bridge learns that it is reached by the TAP. Hence a neighbour whose MAC is
// not known to be behind a peer is not answered for: it may stand on our side.
func (o *txVXLAN) suppress(f *netio.Frame, eth encap.Ethernet, dev netio.Device) bool {
	n := o.replyFor(f, eth)
	if n == 0 || dev.Inject(o.answer[:n]) != 0 {
		return false
	}
	o.counters.suppressed.Add(1)
	if o.mirror.on() {
		o.mirror.mirrorReply(o.at.of, o.answer[:n])
	}
	return true
}

// replyFor writes the answer to a question to o.answer and returns its length, 0
// when there is none.
func (o *txVXLAN) replyFor(f *netio.Frame, eth encap.Ethernet) int {
	if eth.Tags() != 0 || f.VNet.GSO() != encap.VnetGSONone {
		return 0
	}
	switch eth.EtherType() {
	case encap.EtherTypeARP:
		return o.replyARP(eth)
	case encap.EtherTypeIPv6:
		return o.replyNeighborSolicit(eth)
	}
	return 0
}

// replyARP writes the reply to a request to o.answer and returns its length, 0
// when there is none.
func (o *txVXLAN) replyARP(eth encap.Ethernet) int {
	a, err := encap.ParseARP(eth.Payload())
	if err != nil || a.Op() != encap.ARPRequest || a.IsProbe() || a.IsGratuitous() || a.SenderMAC() != eth.Src() {
		return 0
	}
	mac, ok := o.remote(a.TargetIP(), eth)
	if !ok {
		return 0
	}
	putEthernet(o.answer[:], eth.Src(), mac, encap.EtherTypeARP)
	encap.PutARP(o.answer[encap.EthernetHeaderLen:], encap.ARPReply,
		mac, a.TargetIP().As4(), a.SenderMAC(), a.SenderIP().As4())
	return encap.EthernetHeaderLen + encap.ARPLen
}

// replyNeighborSolicit writes the advertisement that answers a solicitation to
// o.answer and returns its length, 0 when there is none. It says "solicited,
// override", as the kernel does for its proxy (vxlan_na_create), and "no router".
func (o *txVXLAN) replyNeighborSolicit(eth encap.Ethernet) int {
	p, err := encap.ParseIPv6(eth.Payload())
	// The validity checks of RFC 4861 section 7.1.1; an unspecified source is
	// duplicate address detection.
	if err != nil || p.NextHeader() != encap.ProtoICMPv6 || p.HopLimit() != 255 ||
		p.Src().IsUnspecified() || p.Src().IsMulticast() {
		return 0
	}
	d, err := encap.ParseND(p.Payload())
	if err != nil || d.IsAdvert() || p.Src() == d.Target() {
		return 0
	}
	if link, ok := d.LinkAddr(); ok && link != eth.Src() {
		return 0
	}
	target := d.Target().As16()
	if dst := p.DstBytes(); dst != target && dst != encap.SolicitedNode(target) {
		return 0
	}
	msg := p.Payload()
	sum := encap.PseudoSum6(p.SrcBytes(), p.DstBytes(), encap.ProtoICMPv6, uint32(len(msg)))
	if encap.Fold(encap.Sum(msg, sum)) != 0xffff {
		return 0
	}
	mac, ok := o.remote(d.Target(), eth)
	if !ok {
		return 0
	}
	putEthernet(o.answer[:], eth.Src(), mac, encap.EtherTypeIPv6)
	return encap.EthernetHeaderLen + encap.PutNeighborAdvert(o.answer[encap.EthernetHeaderLen:],
		target, p.SrcBytes(), target, mac, false, true, true)
}

// remote returns the MAC of a neighbour that may be answered for: it is behind a
// peer, is not the asker itself, and the question goes to all hosts or to that
// very MAC. Who asks another one must hear what that one says.
func (o *txVXLAN) remote(target netip.Addr, eth encap.Ethernet) (encap.MAC, bool) {
	mac, ok := o.p.neighbors.Lookup(target)
	if !ok || mac == eth.Src() || !eth.Dst().IsMulticast() && eth.Dst() != mac {
		return 0, false
	}
	_, ok = o.n.table.Lookup(mac)
	return mac, ok
}

// putEthernet writes a header without tags.
func putEthernet(b []byte, dst, src encap.MAC, etherType uint16) {
	dst.Put(b)
	src.Put(b[encap.MACLen:])
	binary.BigEndian.PutUint16(b[2*encap.MACLen:], etherType)
}
