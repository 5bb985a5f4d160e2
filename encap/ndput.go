package encap

import "encoding/binary"

// NDPacketLen is the most that PutNeighborSolicit and PutNeighborAdvert write,
// in bytes: an IPv6 header, the message, and one option with a link-layer
// address.
const NDPacketLen = IPv6HeaderLen + ndFixedLen + ndOptionUnit

// ndHopLimit is that of every neighbour discovery packet: proof that no router
// forwarded it (RFC 4861 section 7.1).
const ndHopLimit = 255

// AllNodes is ff02::1, every IPv6 host on the link (RFC 4291 section 2.7.1).
var AllNodes = [16]byte{0: 0xff, 1: 0x02, 15: 1}

// SolicitedNode returns the multicast address that the holder of a listens to
// (RFC 4291 section 2.7.1): ff02::1:ff00:0/104 and a's last 24 bits.
func SolicitedNode(a [16]byte) [16]byte {
	return [16]byte{0: 0xff, 1: 0x02, 11: 1, 12: 0xff, 13: a[13], 14: a[14], 15: a[15]}
}

// MulticastMAC6 returns the Ethernet address of an IPv6 multicast address:
// 33:33 and its last 32 bits (RFC 2464 section 7).
func MulticastMAC6(a [16]byte) MAC {
	return 0x3333<<32 | MAC(binary.BigEndian.Uint32(a[12:]))
}

// PutNeighborSolicit writes an IPv6 packet that asks for target's link-layer
// address (RFC 4861 section 4.3), its checksum made, to the start of b and
// returns its length, at most NDPacketLen, which b must have; what stood there
// does not matter. The option with the sender's own address is left out where
// link is zero, as it must be from the unspecified address: that is duplicate
// address detection (RFC 4862 section 5.4.2).
func PutNeighborSolicit(b []byte, src, dst, target [16]byte, link MAC) int {
	return putND(b, src, dst, target, ICMPv6NeighborSolicit, 0, ndSourceLinkAddr, link)
}

// PutNeighborAdvert writes, as PutNeighborSolicit does, an IPv6 packet that
// says that target is at link (RFC 4861 section 4.4). An unsolicited one
// goes to AllNodes without solicited; override replaces what caches hold.
func PutNeighborAdvert(b []byte, src, dst, target [16]byte, link MAC, router, solicited, override bool) int {
	var flags uint8
	for _, f := range [...]struct {
		set bool
		bit uint8
	}{{router, ndRouter}, {solicited, ndSolicited}, {override, ndOverride}} {
		if f.set {
			flags |= f.bit
		}
	}
	return putND(b, src, dst, target, ICMPv6NeighborAdvert, flags, ndTargetLinkAddr, link)
}

func putND(b []byte, src, dst, target [16]byte, kind, flags, option uint8, link MAC) int {
	length := ndFixedLen
	if link != 0 {
		length += ndOptionUnit
	}
	b = b[:IPv6HeaderLen+length]
	binary.BigEndian.PutUint32(b, 6<<28)
	binary.BigEndian.PutUint16(b[4:], uint16(length))
	b[6], b[7] = ProtoICMPv6, ndHopLimit
	copy(b[8:], src[:])
	copy(b[24:], dst[:])

	msg := b[IPv6HeaderLen:]
	binary.BigEndian.PutUint32(msg, uint32(kind)<<24)
	binary.BigEndian.PutUint32(msg[4:], uint32(flags)<<24)
	copy(msg[ICMPHeaderLen:], target[:])
	if link != 0 {
		msg[ndFixedLen], msg[ndFixedLen+1] = option, 1 // in units of eight bytes
		link.Put(msg[ndFixedLen+2:])
	}
	sum := Sum(msg, PseudoSum6(src, dst, ProtoICMPv6, uint32(length)))
	binary.BigEndian.PutUint16(msg[2:], ^Fold(sum))
	return len(b)
}
