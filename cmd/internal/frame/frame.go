// Package frame makes the frames that `overtap trace` asks about.
package frame

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"overtap/dataplane"
	"overtap/encap"
)

// Spec describes a frame, or with no MAC at all an IP packet.
type Spec struct {
	// Src and Dst are the MACs; Ethernet says that there are any.
	Ethernet bool
	Src, Dst encap.MAC
	VLAN     uint16 // 802.1Q tag, 1 to 4094; 0 = none
	// IPSrc and IPDst make it an IP packet; both invalid: it is none.
	IPSrc, IPDst netip.Addr
	// Proto is "tcp", "udp", "icmp", or "" for icmp.
	Proto        string
	SPort, DPort uint16 // of tcp and udp
	TOS, TTL     uint8  // of the IP packet
	DF           bool   // of an IPv4 packet
	// ARP makes it the question of IPSrc who has this address: an ARP request or
	// a neighbour solicitation, to all hosts unless Dst says otherwise.
	ARP netip.Addr
	// Size is the length in bytes of the IP packet, or of what is in the frame
	// when it is none; 0 = as short as may be.
	Size int
}

const (
	maxPacket = 65535
	maxVLAN   = 4094
	etherLab  = 0x88b5 // IEEE 802: for local experiments
	ipv4DF    = 0x4000
	// icmp is the Proto of a packet that no other is asked for.
	icmp = "icmp"
)

// Put sets what of p is the frame: its bytes up to the payload, which is zeros,
// and its length. An error says what about the spec cannot be.
func (s Spec) Put(p *dataplane.Query) error {
	payload, etherType, err := s.packet()
	if err != nil {
		return err
	}
	size := s.Size
	switch {
	case size == 0:
		size = len(payload)
	case size < len(payload):
		return fmt.Errorf("size %d: want at least %d, for the headers", size, len(payload))
	case size > maxPacket:
		return fmt.Errorf("size %d: want at most %d", size, maxPacket)
	}
	if !s.Ethernet {
		p.Frame, p.Size, p.Packet = payload, size, true
		return nil
	}
	dst := s.Dst
	if s.ARP.IsValid() && dst.IsZero() {
		dst = encap.BroadcastMAC
		if s.ARP.Is6() {
			dst = encap.MulticastMAC6(encap.SolicitedNode(s.ARP.As16()))
		}
	}
	b := make([]byte, 2*encap.MACLen, encap.EthernetHeaderLen+encap.VLANTagLen+len(payload))
	dst.Put(b)
	s.Src.Put(b[encap.MACLen:])
	if s.VLAN > maxVLAN {
		return fmt.Errorf("VLAN %d: want 1 to %d", s.VLAN, maxVLAN)
	}
	if s.VLAN != 0 {
		b = binary.BigEndian.AppendUint16(b, encap.EtherTypeVLAN)
		b = binary.BigEndian.AppendUint16(b, s.VLAN)
	}
	b = binary.BigEndian.AppendUint16(b, etherType)
	p.Size = len(b) + size
	p.Frame = append(b, payload...)
	return nil
}

// packet is what is in the frame, up to its payload, with the EtherType.
func (s Spec) packet() ([]byte, uint16, error) {
	switch {
	case s.ARP.IsValid():
		return s.question()
	case !s.IPSrc.IsValid() && !s.IPDst.IsValid():
		if s.Proto != "" {
			return nil, 0, fmt.Errorf("protocol %s: want the packet's IP addresses too", s.Proto)
		}
		return nil, etherLab, nil
	case !s.IPSrc.IsValid() || !s.IPDst.IsValid():
		return nil, 0, errors.New("one IP address: want that of the source and that of the destination")
	case s.IPSrc.Is4() != s.IPDst.Is4():
		return nil, 0, fmt.Errorf("IP addresses %s and %s: want two of one family", s.IPSrc, s.IPDst)
	case !s.Ethernet && !s.IPSrc.Is4():
		return nil, 0, fmt.Errorf("IP addresses %s and %s: want IPv4, for IP-in-IP carries no other", s.IPSrc, s.IPDst)
	}
	l4, proto, err := s.transport()
	if err != nil {
		return nil, 0, err
	}
	if s.IPSrc.Is4() {
		return s.ipv4(l4, proto), encap.EtherTypeIPv4, nil
	}
	return s.ipv6(l4, proto), encap.EtherTypeIPv6, nil
}

// question is an ARP request or a neighbour solicitation.
func (s Spec) question() ([]byte, uint16, error) {
	switch {
	case !s.Ethernet:
		return nil, 0, errors.New("a question for an address: want the MAC of who asks")
	case !s.IPSrc.IsValid() || s.IPSrc.Is4() != s.ARP.Is4():
		return nil, 0, fmt.Errorf("a question for %s: want the address of who asks, of the same family", s.ARP)
	case s.IPDst.IsValid() || s.Proto != "":
		return nil, 0, fmt.Errorf("a question for %s: want neither a destination address nor a protocol", s.ARP)
	}
	if s.ARP.Is4() {
		b := make([]byte, encap.ARPLen)
		encap.PutARP(b, encap.ARPRequest, s.Src, s.IPSrc.As4(), 0, s.ARP.As4())
		return b, encap.EtherTypeARP, nil
	}
	b := make([]byte, encap.NDPacketLen)
	target := s.ARP.As16()
	return b[:encap.PutNeighborSolicit(b, s.IPSrc.As16(), encap.SolicitedNode(target), target, s.Src)], encap.EtherTypeIPv6, nil
}

// transport is the transport header, its checksum zero.
func (s Spec) transport() ([]byte, uint8, error) {
	ports := s.SPort != 0 || s.DPort != 0
	switch s.Proto {
	case "tcp":
		b := make([]byte, encap.TCPHeaderLen)
		b[12], b[13] = encap.TCPHeaderLen/4<<4, encap.TCPACK
		binary.BigEndian.PutUint16(b, s.SPort)
		binary.BigEndian.PutUint16(b[2:], s.DPort)
		return b, encap.ProtoTCP, nil
	case "udp":
		b := make([]byte, encap.UDPHeaderLen)
		binary.BigEndian.PutUint16(b, s.SPort)
		binary.BigEndian.PutUint16(b[2:], s.DPort)
		return b, encap.ProtoUDP, nil
	case "", icmp:
		if ports {
			return nil, 0, errors.New("ports: want the protocol tcp or udp")
		}
		b := make([]byte, encap.ICMPHeaderLen)
		if s.IPSrc.Is4() {
			b[0] = encap.ICMPv4EchoRequest
			return b, encap.ProtoICMPv4, nil
		}
		b[0] = encap.ICMPv6EchoRequest
		return b, encap.ProtoICMPv6, nil
	}
	return nil, 0, fmt.Errorf("protocol %q: want tcp, udp or icmp", s.Proto)
}

// ipv4 puts an IPv4 header before the transport header and finishes both. What is
// not there yet of the packet is zeros, which no checksum notices.
func (s Spec) ipv4(l4 []byte, proto uint8) []byte {
	b := append(make([]byte, encap.IPv4HeaderLen), l4...)
	total := max(s.Size, len(b))
	b[0], b[1] = 0x45, s.TOS
	binary.BigEndian.PutUint16(b[2:], uint16(total))
	if s.DF {
		binary.BigEndian.PutUint16(b[6:], ipv4DF)
	}
	b[8], b[9] = s.TTL, proto
	src, dst := s.IPSrc.As4(), s.IPDst.As4()
	copy(b[12:], src[:])
	copy(b[16:], dst[:])
	binary.BigEndian.PutUint16(b[10:], ^encap.Fold(encap.Sum(b[:encap.IPv4HeaderLen], 0)))
	length := total - encap.IPv4HeaderLen
	sum := encap.PseudoSum4(src, dst, proto, uint32(length))
	if proto == encap.ProtoICMPv4 {
		sum = 0
	}
	finish(b[encap.IPv4HeaderLen:], proto, length, sum)
	return b
}

// ipv6 is ipv4 for IPv6.
func (s Spec) ipv6(l4 []byte, proto uint8) []byte {
	b := append(make([]byte, encap.IPv6HeaderLen), l4...)
	length := max(s.Size, len(b)) - encap.IPv6HeaderLen
	binary.BigEndian.PutUint32(b, 6<<28|uint32(s.TOS)<<20)
	binary.BigEndian.PutUint16(b[4:], uint16(length))
	b[6], b[7] = proto, s.TTL
	src, dst := s.IPSrc.As16(), s.IPDst.As16()
	copy(b[8:], src[:])
	copy(b[24:], dst[:])
	finish(b[encap.IPv6HeaderLen:], proto, length, encap.PseudoSum6(src, dst, proto, uint32(length)))
	return b
}

// finish writes the length and checksum of a transport header.
func finish(l4 []byte, proto uint8, length int, sum uint64) {
	at := 2 // ICMP
	switch proto {
	case encap.ProtoTCP:
		at = 16
	case encap.ProtoUDP:
		at = 6
		binary.BigEndian.PutUint16(l4[4:], uint16(length))
	}
	folded := ^encap.Fold(encap.Sum(l4, sum))
	if folded == 0 && proto == encap.ProtoUDP {
		folded = 0xffff // zero says "no checksum" (RFC 768)
	}
	binary.BigEndian.PutUint16(l4[at:], folded)
}
