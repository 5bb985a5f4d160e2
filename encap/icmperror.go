package encap

import "encoding/binary"

// ICMPErrorLen and ICMPErrorFrameLen are the most that PutTooBig and
// PutUnreachable write, and PutTooBigFrame, in bytes: an IPv6 packet of the
// least MTU there is, and before it an Ethernet header with two tags.
const (
	ICMPErrorLen      = maxICMPv6Error
	ICMPErrorFrameLen = EthernetHeaderLen + maxVLANTags*VLANTagLen + ICMPErrorLen
)

// An error quotes as much of the packet as leaves itself, IP header included,
// within these: RFC 1812 section 4.3.2.3, RFC 4443 section 2.4(c). It quotes
// eight bytes behind the IP header where there are so many (RFC 792).
const (
	maxICMPv4Error = 576
	maxICMPv6Error = int(MinOverlayMTU6)
)

// icmpErrorTTL is that of the errors, which do not go far.
const icmpErrorTTL = 64

// internetworkControl is the precedence of ICMPv4 errors (RFC 1812 section
// 4.3.2.5).
const internetworkControl = 0xc0

// Unreachable says what a packet could not reach.
type Unreachable uint8

// What can be unreachable: there is no route to the destination, or nothing at
// the end of it answers.
const (
	NetUnreachable Unreachable = iota
	HostUnreachable
)

// ICMPv4CodeNetUnreachable and the others are codes of ICMPv4Unreachable (RFC
// 792) and ICMPv6Unreachable (RFC 4443 section 3.1).
const (
	ICMPv4CodeNetUnreachable     = 0
	ICMPv4CodeHostUnreachable    = 1
	ICMPv6CodeNoRoute            = 0
	ICMPv6CodeAddressUnreachable = 3
)

// PutTooBig writes an IP packet to the start of b that says to the sender of the
// given one that no more than mtu bytes pass: ICMPv4 Fragmentation Needed (RFC
// 792, RFC 1191), or ICMPv6 Packet Too Big (RFC 4443 section 3.2). It returns
// its length, at most ICMPErrorLen, which b must have; what stood there does not
// matter. It comes from the packet's destination, the one address that the
// sender is sure to take it from.
//
// packet is an IP packet or the start of one, at least its headers and eight
// bytes behind them; it may be a gsoPacket. Zero says that it must not be
// answered: it may be fragmented (IPv4 without DF), mtu is below what its
// version of IP can live with, or an error never answers such a packet: an error
// itself, a fragment but the first, from or to an address that is no single
// host's (RFC 1122 section 3.2.2, RFC 4443 section 2.4; kernel
// skb_tunnel_check_pmtu).
func PutTooBig(b, packet []byte, mtu OverlayMTU) int {
	switch ipVersion(packet) {
	case 4:
		if mtu < MinOverlayMTU4 || len(packet) < IPv4HeaderLen || !IPv4(packet).DF() {
			return 0
		}
		return putICMPv4Error(b, packet, ICMPv4Unreachable, ICMPv4CodeFragNeeded, uint32(mtu))
	case 6:
		if mtu < MinOverlayMTU6 {
			return 0
		}
		return putICMPv6Error(b, packet, ICMPv6PacketTooBig, 0, uint32(mtu))
	}
	return 0
}

// PutUnreachable writes, as PutTooBig does, a packet that says to the sender of
// the given one that it did not arrive: Destination Unreachable of RFC 792 or
// RFC 4443 section 3.1.
func PutUnreachable(b, packet []byte, what Unreachable) int {
	switch ipVersion(packet) {
	case 4:
		code := uint8(ICMPv4CodeNetUnreachable)
		if what == HostUnreachable {
			code = ICMPv4CodeHostUnreachable
		}
		return putICMPv4Error(b, packet, ICMPv4Unreachable, code, 0)
	case 6:
		code := uint8(ICMPv6CodeNoRoute)
		if what == HostUnreachable {
			code = ICMPv6CodeAddressUnreachable
		}
		return putICMPv6Error(b, packet, ICMPv6Unreachable, code, 0)
	}
	return 0
}

// PutTooBigFrame is PutTooBig for the packet in an Ethernet frame, or its
// start: what it writes, at most ICMPErrorFrameLen bytes, is a frame back to its
// sender with the same tags. A frame that was not sent to one station is not
// answered.
func PutTooBigFrame(b, frame []byte, mtu OverlayMTU) int {
	eth, err := ParseEthernet(frame)
	if err != nil || !eth.Src().IsSource() || !eth.Dst().IsSource() {
		return 0
	}
	l3 := eth.L3Offset()
	switch version := ipVersion(frame[l3:]); eth.EtherType() {
	case EtherTypeIPv4:
		if version != 4 {
			return 0
		}
	case EtherTypeIPv6:
		if version != 6 {
			return 0
		}
	default:
		return 0
	}
	n := PutTooBig(b[l3:], frame[l3:], mtu)
	if n == 0 {
		return 0
	}
	src, dst := eth.Src(), eth.Dst()
	src.Put(b)
	dst.Put(b[MACLen:])
	copy(b[2*MACLen:l3], frame[2*MACLen:])
	return l3 + n
}

// ipVersion returns that of the packet, 0 for no packet.
func ipVersion(packet []byte) uint8 {
	if len(packet) == 0 {
		return 0
	}
	return packet[0] >> 4
}

func putICMPv4Error(b, packet []byte, kind, code uint8, word uint32) int {
	quote, ok := quotable4(packet)
	if !ok {
		return 0
	}
	n := IPv4HeaderLen + ICMPHeaderLen + len(quote)
	b = b[:n]
	p := IPv4(packet)
	src, dst := p.DstBytes(), p.SrcBytes()
	b[0], b[1] = 0x45, internetworkControl
	binary.BigEndian.PutUint16(b[2:], uint16(n))
	// No identification: that is for what may be fragmented (RFC 6864).
	binary.BigEndian.PutUint32(b[4:], ipv4DF)
	b[8], b[9] = icmpErrorTTL, ProtoICMPv4
	binary.BigEndian.PutUint16(b[10:], 0)
	copy(b[12:], src[:])
	copy(b[16:], dst[:])
	binary.BigEndian.PutUint16(b[10:], ^Fold(Sum(b[:IPv4HeaderLen], 0)))

	msg := b[IPv4HeaderLen:]
	putICMPError(msg, quote, kind, code, word)
	binary.BigEndian.PutUint16(msg[2:], ^Fold(Sum(msg, 0)))
	return n
}

func putICMPv6Error(b, packet []byte, kind, code uint8, word uint32) int {
	quote, ok := quotable6(packet)
	if !ok {
		return 0
	}
	length := ICMPHeaderLen + len(quote)
	b = b[:IPv6HeaderLen+length]
	p := IPv6(packet)
	src, dst := p.DstBytes(), p.SrcBytes()
	binary.BigEndian.PutUint32(b, 6<<28)
	binary.BigEndian.PutUint16(b[4:], uint16(length))
	b[6], b[7] = ProtoICMPv6, icmpErrorTTL
	copy(b[8:], src[:])
	copy(b[24:], dst[:])

	msg := b[IPv6HeaderLen:]
	putICMPError(msg, quote, kind, code, word)
	sum := Sum(msg, PseudoSum6(src, dst, ProtoICMPv6, uint32(length)))
	binary.BigEndian.PutUint16(msg[2:], ^Fold(sum))
	return len(b)
}

// putICMPError writes all of a message but its checksum, which is zero.
func putICMPError(msg, quote []byte, kind, code uint8, word uint32) {
	binary.BigEndian.PutUint32(msg, uint32(kind)<<24|uint32(code)<<16)
	binary.BigEndian.PutUint32(msg[4:], word)
	copy(msg[ICMPHeaderLen:], quote)
}

// quotable4 returns what an error quotes of the packet, or false when it must
// not be answered.
func quotable4(packet []byte) ([]byte, bool) {
	if len(packet) < IPv4HeaderLen {
		return nil, false
	}
	p := IPv4(packet)
	header, total := p.HeaderLen(), p.TotalLen()
	if header < IPv4HeaderLen || header >= len(packet) || total <= header || p.FragmentOffset() != 0 ||
		!isHost4(p.SrcBytes()) || !isHost4(p.DstBytes()) {
		return nil, false
	}
	if p.Protocol() == ProtoICMPv4 {
		m, err := ParseICMPv4(packet[header:])
		if err != nil || m.IsError() {
			return nil, false
		}
	}
	return packet[:min(len(packet), total, maxICMPv4Error-IPv4HeaderLen-ICMPHeaderLen)], true
}

// quotable6 is quotable4 for IPv6.
func quotable6(packet []byte) ([]byte, bool) {
	if len(packet) < IPv6HeaderLen {
		return nil, false
	}
	p := IPv6(packet)
	proto, offset, fragment, ok := p.Transport()
	if !ok || offset >= len(packet) || !isHost6(p.SrcBytes()) || !isHost6(p.DstBytes()) {
		return nil, false
	}
	if fragment && binary.BigEndian.Uint16(packet[offset-ipv6ExtensionUnit+2:])>>3 != 0 {
		return nil, false
	}
	if proto == ProtoICMPv6 {
		m, err := ParseICMPv6(packet[offset:])
		if err != nil || m.IsError() {
			return nil, false
		}
	}
	total := IPv6HeaderLen + p.PayloadLen()
	return packet[:min(len(packet), total, maxICMPv6Error-IPv6HeaderLen-ICMPHeaderLen)], true
}

// isHost4 reports whether an address on the wire can be a single host's.
func isHost4(a [4]byte) bool { return a[0] != 0 && a[0] != 127 && a[0] < 224 }

// isHost6 reports whether an address on the wire can be a single host's.
func isHost6(a [16]byte) bool {
	if a[0] == 0xff {
		return false
	}
	// Neither :: nor ::1.
	return binary.BigEndian.Uint64(a[:]) != 0 || binary.BigEndian.Uint64(a[8:]) > 1
}
