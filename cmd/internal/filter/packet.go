package filter

import (
	"encoding/binary"
	"net/netip"

	"overtap/dataplane"
	"overtap/encap"
)

// packet is a frame as far as the primitives ask for it. It may be cut short
// anywhere: what is not there is not matched.
type packet struct {
	record *dataplane.Record

	ethernet       bool
	srcMAC, dstMAC encap.MAC
	tags           [2]uint16
	vlans          []uint16 // in tags
	etherType      uint16
	src, dst       netip.Addr // of IP, or ARP's protocol addresses
	proto          uint8      // behind IP
	isIP           bool       // proto is set
	hasPorts       bool
	srcPort        uint16
	dstPort        uint16
}

// is reports whether the frame is of the protocol.
func (p *packet) is(proto string) bool {
	switch proto {
	case "ip":
		return p.etherType == encap.EtherTypeIPv4
	case "ip6":
		return p.etherType == encap.EtherTypeIPv6
	case "arp":
		return p.etherType == encap.EtherTypeARP
	case "tcp":
		return p.isIP && p.proto == encap.ProtoTCP
	case "udp":
		return p.isIP && p.proto == encap.ProtoUDP
	case "icmp":
		return p.isIP && p.proto == icmp && p.etherType == encap.EtherTypeIPv4
	}
	return p.isIP && p.proto == encap.ProtoICMPv6 && p.etherType == encap.EtherTypeIPv6 // icmp6
}

// hasVNI reports whether the frame is one of VXLAN with that VNI.
func (p *packet) hasVNI(v encap.VNI) bool {
	return p.record.Kind == dataplane.KindVXLAN && p.record.VNI == v
}

// decode reads a frame, or a packet without Ethernet header.
func (p *packet) decode(b []byte, ethernet bool) {
	if !ethernet {
		if len(b) > 0 {
			switch b[0] >> 4 {
			case 4:
				p.etherType = encap.EtherTypeIPv4
			case 6:
				p.etherType = encap.EtherTypeIPv6
			}
		}
		p.network(b)
		return
	}
	if len(b) < encap.EthernetHeaderLen {
		return
	}
	p.ethernet = true
	p.dstMAC, p.srcMAC = encap.MACFrom(b), encap.MACFrom(b[encap.MACLen:])
	p.etherType = binary.BigEndian.Uint16(b[2*encap.MACLen:])
	b = b[encap.EthernetHeaderLen:]
	for isTag(p.etherType) && len(p.vlans) < len(p.tags) && len(b) >= encap.VLANTagLen {
		p.tags[len(p.vlans)] = binary.BigEndian.Uint16(b) & 0xfff
		p.vlans = p.tags[:len(p.vlans)+1]
		p.etherType = binary.BigEndian.Uint16(b[2:])
		b = b[encap.VLANTagLen:]
	}
	p.network(b)
}

// isTag reports whether it is a type of 802.1Q or 802.1ad.
func isTag(t uint16) bool { return t == encap.EtherTypeVLAN || t == encap.EtherTypeSVLAN }

func (p *packet) network(b []byte) {
	switch p.etherType {
	case encap.EtherTypeIPv4:
		p.ipv4(b)
	case encap.EtherTypeIPv6:
		p.ipv6(b)
	case encap.EtherTypeARP:
		// Of Ethernet and IPv4 (RFC 826).
		if a, err := encap.ParseARP(b); err == nil {
			p.src, p.dst = a.SenderIP(), a.TargetIP()
		}
	}
}

func (p *packet) ipv4(b []byte) {
	if len(b) < encap.IPv4HeaderLen || b[0]>>4 != 4 {
		return
	}
	ip := encap.IPv4(b)
	p.src, p.dst, p.proto, p.isIP = ip.Src(), ip.Dst(), ip.Protocol(), true
	if n := ip.HeaderLen(); ip.FragmentOffset() == 0 && n >= encap.IPv4HeaderLen && n <= len(b) {
		p.transport(b[n:])
	}
}

// icmp is the protocol number of ICMP over IPv4.
const icmp = 1

// The extension headers that may stand before the transport header.
const (
	hopByHop = 0
	routing  = 43
	fragment = 44
	ah       = 51
	options  = 60
)

func (p *packet) ipv6(b []byte) {
	if len(b) < encap.IPv6HeaderLen || b[0]>>4 != 6 {
		return
	}
	ip := encap.IPv6(b)
	p.src, p.dst, p.proto, p.isIP = ip.Src(), ip.Dst(), ip.NextHeader(), true
	b = b[encap.IPv6HeaderLen:]
	for len(b) >= 8 {
		n := 8
		switch p.proto {
		case hopByHop, routing, options:
			n += int(b[1]) * 8
		case ah:
			n = (int(b[1]) + 2) * 4
		case fragment:
			if binary.BigEndian.Uint16(b[2:])&^7 != 0 {
				p.proto = b[0]
				return // no ports behind the first
			}
		default:
			p.transport(b)
			return
		}
		p.proto = b[0]
		if n > len(b) {
			return
		}
		b = b[n:]
	}
	p.transport(b)
}

func (p *packet) transport(b []byte) {
	if (p.proto == encap.ProtoTCP || p.proto == encap.ProtoUDP) && len(b) >= 4 {
		p.hasPorts = true
		p.srcPort, p.dstPort = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	}
}
