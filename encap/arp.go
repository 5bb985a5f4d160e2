package encap

import (
	"encoding/binary"
	"net/netip"
)

// ARPLen is the length of an ARP message for IPv4 over Ethernet in bytes.
const ARPLen = 28

// Operations of an ARP message.
const (
	ARPRequest = 1
	ARPReply   = 2
)

// arpEthernetIPv4 is the start of every message handled here: hardware type
// Ethernet, protocol type IPv4, and the lengths of their addresses.
const arpEthernetIPv4 = uint64(1)<<32 | EtherTypeIPv4<<16 | MACLen<<8 | 4

// ARP is a view over one message (RFC 826) for IPv4 over Ethernet.
type ARP []byte

// ParseARP checks the message at the start of b, an Ethernet payload; padding
// is not part of the view. ErrShort means fewer than ARPLen bytes, ErrBadHeader
// addresses of another kind.
func ParseARP(b []byte) (ARP, error) {
	if len(b) < ARPLen {
		return nil, ErrShort
	}
	if binary.BigEndian.Uint64(b)>>16 != arpEthernetIPv4 {
		return nil, ErrBadHeader
	}
	return ARP(b[:ARPLen]), nil
}

// PutARP writes a message to the first ARPLen bytes of b, which must have them;
// what stood there does not matter. A request leaves targetMAC zero.
func PutARP(b []byte, op uint16, senderMAC MAC, senderIP [4]byte, targetMAC MAC, targetIP [4]byte) {
	_ = b[ARPLen-1]
	binary.BigEndian.PutUint64(b, arpEthernetIPv4<<16|uint64(op))
	senderMAC.Put(b[8:])
	copy(b[14:], senderIP[:])
	targetMAC.Put(b[18:])
	copy(b[24:], targetIP[:])
}

// Op returns the operation, ARPRequest or ARPReply as a rule.
func (a ARP) Op() uint16 { return binary.BigEndian.Uint16(a[6:]) }

// SenderMAC returns the sender's hardware address.
func (a ARP) SenderMAC() MAC { return MACFrom(a[8:]) }

// SenderIP returns the sender's protocol address.
func (a ARP) SenderIP() netip.Addr { return netip.AddrFrom4([4]byte(a[14:])) }

// TargetMAC returns the target's hardware address; zero in a request.
func (a ARP) TargetMAC() MAC { return MACFrom(a[18:]) }

// TargetIP returns the target's protocol address.
func (a ARP) TargetIP() netip.Addr { return netip.AddrFrom4([4]byte(a[24:])) }

// IsProbe reports whether the sender asks if an address is free before taking
// it (RFC 5227 section 1.1): it has none yet.
func (a ARP) IsProbe() bool {
	return a.Op() == ARPRequest && binary.BigEndian.Uint32(a[14:]) == 0
}

// IsGratuitous reports whether the sender announces its own address (RFC 5227
// section 3), by request or reply.
func (a ARP) IsGratuitous() bool { return [4]byte(a[14:]) == [4]byte(a[24:]) }
