package attach

import (
	"encoding/binary"
	"net/netip"

	"overtap/encap"
)

// Whether an address is free the bridge asks, by its own MAC, before anything of
// the attachment is made. So tables all over the network learn a MAC that is
// really behind this host, the same for every question, and one that the host's
// own addresses have too; the answer comes back to it.
//
// The container's own MAC would be one fewer. But where the holder of the address
// has the same MAC, as a container that was left behind on its old host has,
// bridges and VTEPs would learn that MAC to be here: the holder would be cut off
// by the question, and its answer be lost. A MAC made for the question would stay
// in every table until it ages.

// probe returns the frame that asks whether a host has a: an ARP probe (RFC
// 5227 section 2.1.1), or a solicitation as for duplicate address detection (RFC
// 4862 section 5.4.2).
func probe(a netip.Addr, prober encap.MAC) []byte {
	if a.Is4() {
		return arp(prober, [4]byte{}, a.As4())
	}
	group := encap.SolicitedNode(a.As16())
	b := ethernet(encap.MulticastMAC6(group), prober, encap.EtherTypeIPv6, encap.NDPacketLen)
	n := encap.PutNeighborSolicit(b[encap.EthernetHeaderLen:], [16]byte{}, group, a.As16(), 0)
	return b[:encap.EthernetHeaderLen+n]
}

// announcement returns the frame that announces to all hosts that a is at mac: an ARP
// announcement (RFC 5227 section 2.3), or an unsolicited advertisement (RFC 4861
// section 7.2.6).
func announcement(a netip.Addr, mac encap.MAC) []byte {
	if a.Is4() {
		return arp(mac, a.As4(), a.As4())
	}
	b := ethernet(encap.MulticastMAC6(encap.AllNodes), mac, encap.EtherTypeIPv6, encap.NDPacketLen)
	encap.PutNeighborAdvert(b[encap.EthernetHeaderLen:], a.As16(), encap.AllNodes, a.As16(), mac, false, false, true)
	return b
}

func arp(sender encap.MAC, ip, target [4]byte) []byte {
	b := ethernet(encap.BroadcastMAC, sender, encap.EtherTypeARP, encap.ARPLen)
	encap.PutARP(b[encap.EthernetHeaderLen:], encap.ARPRequest, sender, ip, 0, target)
	return b
}

// ethernet returns a frame with room for length bytes after its header.
func ethernet(dst, src encap.MAC, etherType uint16, length int) []byte {
	b := make([]byte, encap.EthernetHeaderLen+length)
	dst.Put(b)
	src.Put(b[encap.MACLen:])
	binary.BigEndian.PutUint16(b[2*encap.MACLen:], etherType)
	return b
}

// claim returns the address that a frame lays claim to, and for whom: its sender
// has it, says who has it, or is about to take it as we are. ok is false for any
// other frame, malformed ones included.
func claim(frame []byte) (a netip.Addr, holder encap.MAC, ok bool) {
	eth, err := encap.ParseEthernet(frame)
	if err != nil || eth.Tags() > 0 {
		return
	}
	switch eth.EtherType() {
	case encap.EtherTypeARP:
		m, err := encap.ParseARP(eth.Payload())
		if err != nil {
			return
		}
		if m.IsProbe() {
			return m.TargetIP(), m.SenderMAC(), true
		}
		return m.SenderIP(), m.SenderMAC(), true
	case encap.EtherTypeIPv6:
		return claimND(eth)
	}
	return
}

func claimND(eth encap.Ethernet) (a netip.Addr, holder encap.MAC, ok bool) {
	p, err := encap.ParseIPv6(eth.Payload())
	// RFC 4861 sections 7.1.1 and 7.1.2: what a router forwarded, or what is
	// damaged, does not count.
	if err != nil || p.NextHeader() != encap.ProtoICMPv6 || p.HopLimit() != 255 {
		return
	}
	msg := p.Payload()
	sum := encap.PseudoSum6(p.SrcBytes(), p.DstBytes(), encap.ProtoICMPv6, uint32(len(msg)))
	m, err := encap.ParseND(msg)
	if err != nil || encap.Fold(encap.Sum(msg, sum)) != 0xffff {
		return
	}
	// A solicitation from a true address resolves a neighbour.
	if !m.IsAdvert() && !p.Src().IsUnspecified() {
		return
	}
	holder = eth.Src()
	if link, ok := m.LinkAddr(); ok {
		holder = link
	}
	return m.Target(), holder, true
}
