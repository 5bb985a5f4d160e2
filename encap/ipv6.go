package encap

import (
	"encoding/binary"
	"net/netip"
)

// Extension headers that are walked (RFC 8200 section 4).
const (
	ipv6HopByHop    = 0
	ipv6Routing     = 43
	ipv6Fragment    = 44
	ipv6DestOptions = 60
)

// maxIPv6Extensions bounds the walk. RFC 8200 has each header once and
// destination options twice; real traffic has no more.
const maxIPv6Extensions = 8

// ipv6ExtensionUnit is the length of the shortest extension header and the unit
// in which the others count theirs beyond it.
const ipv6ExtensionUnit = 8

// IPv6 is a view over one packet (RFC 8200), header and payload, ending where
// its payload length says.
type IPv6 []byte

// ParseIPv6 checks the packet at the start of b; what follows its payload
// length, as Ethernet's padding, is not part of the view. ErrShort means that b
// ends before the header or the payload length does, ErrBadHeader another
// version. Extension headers are Transport's business. Jumbograms (RFC 2675)
// are not known: a payload length of zero is zero.
func ParseIPv6(b []byte) (IPv6, error) {
	if len(b) < IPv6HeaderLen {
		return nil, ErrShort
	}
	total := IPv6HeaderLen + IPv6(b).PayloadLen()
	switch {
	case b[0]>>4 != 6:
		return nil, ErrBadHeader
	case total > len(b):
		return nil, ErrShort
	}
	return IPv6(b[:total]), nil
}

// TrafficClass returns DSCP (upper six bits) and ECN (lower two).
func (p IPv6) TrafficClass() uint8 { return uint8(binary.BigEndian.Uint16(p) >> 4) }

// SetTrafficClass writes DSCP and ECN. No checksum covers them.
func (p IPv6) SetTrafficClass(tc uint8) {
	binary.BigEndian.PutUint16(p, binary.BigEndian.Uint16(p)&0xf00f|uint16(tc)<<4)
}

// FlowLabel returns the 20-bit flow label (RFC 6437).
func (p IPv6) FlowLabel() uint32 { return binary.BigEndian.Uint32(p) & 0xf_ffff }

// PayloadLen returns the length of all that follows the 40 bytes of header.
func (p IPv6) PayloadLen() int { return int(binary.BigEndian.Uint16(p[4:])) }

// NextHeader returns the type of what follows: an extension header or the
// transport protocol.
func (p IPv6) NextHeader() uint8 { return p[6] }

// HopLimit returns the hops left.
func (p IPv6) HopLimit() uint8 { return p[7] }

// Src returns the source address.
func (p IPv6) Src() netip.Addr { return netip.AddrFrom16(p.SrcBytes()) }

// Dst returns the destination address.
func (p IPv6) Dst() netip.Addr { return netip.AddrFrom16(p.DstBytes()) }

// SrcBytes returns a copy of the source address.
func (p IPv6) SrcBytes() [16]byte { return [16]byte(p[8:]) }

// DstBytes returns a copy of the destination address.
func (p IPv6) DstBytes() [16]byte { return [16]byte(p[24:]) }

// Payload returns what follows the 40 bytes of header, extension headers first.
func (p IPv6) Payload() []byte { return p[IPv6HeaderLen:] }

// Transport walks hop-by-hop options, routing, destination options and fragment
// headers, and returns the protocol after them and where it starts, in bytes
// from the start of the IPv6 header. Any other type ends the walk and is
// returned as the protocol, "no next header" (59) included.
//
// At a fragment header the walk ends with fragment set, also when the one
// fragment is the whole datagram (RFC 6946): proto is then what the fragment
// header names, which all fragments of a datagram share, and only a first
// fragment has that header at offset. ok is false when a header is cut off or
// there are more than eight.
func (p IPv6) Transport() (proto uint8, offset int, fragment, ok bool) {
	proto, offset = p.NextHeader(), IPv6HeaderLen
	for range maxIPv6Extensions + 1 {
		switch proto {
		case ipv6HopByHop, ipv6Routing, ipv6DestOptions, ipv6Fragment:
		default:
			return proto, offset, false, true
		}
		if len(p)-offset < ipv6ExtensionUnit {
			return 0, 0, false, false
		}
		next := p[offset]
		if proto == ipv6Fragment {
			return next, offset + ipv6ExtensionUnit, true, true
		}
		offset += (1 + int(p[offset+1])) * ipv6ExtensionUnit
		if offset > len(p) {
			return 0, 0, false, false
		}
		proto = next
	}
	return 0, 0, false, false
}
