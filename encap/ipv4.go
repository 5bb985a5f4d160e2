package encap

import (
	"encoding/binary"
	"net/netip"
)

// Protocol numbers (IANA), also IPv6 next headers.
const (
	ProtoICMPv4 = 1
	ProtoIPIP   = 4
	ProtoTCP    = 6
	ProtoUDP    = 17
	ProtoICMPv6 = 58
	ProtoSCTP   = 132
)

// The word at offset 6 of the header: flags and fragment offset.
const (
	ipv4DF         = 0x4000
	ipv4MF         = 0x2000
	ipv4OffsetMask = 0x1fff // in units of eight bytes
)

// IPv4 is a view over one packet (RFC 791), header and payload, ending where
// its total length says.
type IPv4 []byte

// ParseIPv4 checks the packet at the start of b; what follows its total length,
// as Ethernet's padding, is not part of the view. ErrShort means that b ends
// before the header or the total length does, ErrBadHeader another version or
// impossible lengths. The checksum is not looked at.
func ParseIPv4(b []byte) (IPv4, error) {
	if len(b) < IPv4HeaderLen {
		return nil, ErrShort
	}
	header, total := IPv4(b).HeaderLen(), IPv4(b).TotalLen()
	switch {
	case b[0]>>4 != 4 || header < IPv4HeaderLen || total < header:
		return nil, ErrBadHeader
	case total > len(b):
		return nil, ErrShort
	}
	return IPv4(b[:total]), nil
}

// HeaderLen returns the header's length in bytes, options included.
func (p IPv4) HeaderLen() int { return int(p[0]&0xf) * 4 }

// TotalLen returns the length of header and payload in bytes.
func (p IPv4) TotalLen() int { return int(binary.BigEndian.Uint16(p[2:])) }

// TOS returns DSCP (upper six bits) and ECN (lower two).
func (p IPv4) TOS() uint8 { return p[1] }

// SetTOS writes DSCP and ECN and corrects the header checksum by the
// difference, so that a wrong checksum stays wrong.
func (p IPv4) SetTOS(tos uint8) {
	from := binary.BigEndian.Uint16(p)
	to := from&0xff00 | uint16(tos)
	binary.BigEndian.PutUint16(p[10:], UpdateChecksum(p.Checksum(), from, to))
	p[1] = tos
}

// ID returns the identification that a datagram's fragments share.
func (p IPv4) ID() uint16 { return binary.BigEndian.Uint16(p[4:]) }

// DF reports whether fragmentation is forbidden.
func (p IPv4) DF() bool { return p.fragmentWord()&ipv4DF != 0 }

// MF reports whether more fragments follow.
func (p IPv4) MF() bool { return p.fragmentWord()&ipv4MF != 0 }

// FragmentOffset returns where the payload stands in its datagram, in bytes.
func (p IPv4) FragmentOffset() int { return int(p.fragmentWord()&ipv4OffsetMask) * 8 }

// IsFragment reports whether the packet is a part of a datagram, the first and
// the last included.
func (p IPv4) IsFragment() bool { return p.fragmentWord()&(ipv4MF|ipv4OffsetMask) != 0 }

func (p IPv4) fragmentWord() uint16 { return binary.BigEndian.Uint16(p[6:]) }

// TTL returns the time to live in hops.
func (p IPv4) TTL() uint8 { return p[8] }

// Protocol returns the payload's protocol number.
func (p IPv4) Protocol() uint8 { return p[9] }

// Checksum returns the header checksum as it stands.
func (p IPv4) Checksum() uint16 { return binary.BigEndian.Uint16(p[10:]) }

// Src returns the source address.
func (p IPv4) Src() netip.Addr { return netip.AddrFrom4(p.SrcBytes()) }

// Dst returns the destination address.
func (p IPv4) Dst() netip.Addr { return netip.AddrFrom4(p.DstBytes()) }

// SrcBytes returns a copy of the source address.
func (p IPv4) SrcBytes() [4]byte { return [4]byte(p[12:]) }

// DstBytes returns a copy of the destination address.
func (p IPv4) DstBytes() [4]byte { return [4]byte(p[16:]) }

// Payload returns what follows the header and its options.
func (p IPv4) Payload() []byte { return p[p.HeaderLen():] }
