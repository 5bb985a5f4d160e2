package encap

// ECN codepoints (RFC 3168 section 5): the lower two bits of IPv4's TOS and
// IPv6's traffic class.
const (
	NotECT uint8 = 0 // the transport does not understand ECN
	ECT1   uint8 = 1
	ECT0   uint8 = 2
	CE     uint8 = 3 // congestion experienced

	// ECNMask selects them; the rest is DSCP.
	ECNMask uint8 = 3
)

// EncapECN returns the codepoint of the outer header for an inner packet's:
// the same, CE included (RFC 6040 section 4.1, normal mode). Bits above the
// codepoint are ignored.
func EncapECN(inner uint8) uint8 { return inner & ECNMask }

// DecapECN returns the codepoint that an inner packet leaves the tunnel with,
// given its own and that of the outer header it arrived in (RFC 6040 section
// 4.2, figure 4). ok is false for the packet that must be dropped: congestion
// was marked outside, and the inner transport would not understand it. Bits
// above the codepoints are ignored.
func DecapECN(inner, outer uint8) (ecn uint8, ok bool) {
	inner, outer = inner&ECNMask, outer&ECNMask
	switch {
	case outer == CE:
		if inner == NotECT {
			return NotECT, false
		}
		return CE, true
	case inner == ECT0 && outer == ECT1:
		return ECT1, true
	}
	return inner, true
}

// InnerTOS returns the TOS of the IPv4 packet or the traffic class of the IPv6
// packet in an Ethernet frame, VLAN tags looked through. isIP is false for
// other frames and for those in which the fixed IP header is not whole.
func InnerTOS(frame []byte) (tos uint8, isIP bool) {
	v4, v6 := innerIP(frame)
	switch {
	case v4 != nil:
		return v4.TOS(), true
	case v6 != nil:
		return v6.TrafficClass(), true
	}
	return 0, false
}

// SetInnerECN writes the codepoint into the frame's IP header, with IPv4's
// checksum, and leaves DSCP alone. It does nothing where InnerTOS finds no IP.
func SetInnerECN(frame []byte, ecn uint8) {
	v4, v6 := innerIP(frame)
	switch {
	case v4 != nil:
		v4.SetTOS(v4.TOS()&^ECNMask | ecn&ECNMask)
	case v6 != nil:
		v6.SetTrafficClass(v6.TrafficClass()&^ECNMask | ecn&ECNMask)
	}
}

// innerIP returns the frame's IP packet as one of two views, without the checks
// of lengths that would hide a mark in a packet cut short.
func innerIP(frame []byte) (IPv4, IPv6) {
	eth, err := ParseEthernet(frame)
	if err != nil {
		return nil, nil
	}
	b := eth.Payload()
	switch {
	case eth.EtherType() == EtherTypeIPv4 && len(b) >= IPv4HeaderLen && b[0]>>4 == 4:
		return IPv4(b), nil
	case eth.EtherType() == EtherTypeIPv6 && len(b) >= IPv6HeaderLen && b[0]>>4 == 6:
		return nil, IPv6(b)
	}
	return nil, nil
}
