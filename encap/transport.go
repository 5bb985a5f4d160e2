package encap

// Transport says where the IP packet of a frame and its transport header stand.
// Offsets count bytes from the start of the frame; L3 < L4 <= End.
type Transport struct {
	L3 int // the IP header; 0 where the frame is the packet itself, without Ethernet
	L4 int // the transport header, whole or not: its own view checks that
	// End is where the IP packet ends; what follows in the frame is padding.
	End int
	Kind
}

// Kind says what Transport's offsets lead to. It is a struct of its own because
// the compiler keeps structs of up to four fields in registers, which the hot
// path feels.
type Kind struct {
	V6    bool
	Proto uint8 // transport protocol, ProtoTCP and so on
	// Fragment reports a part of a datagram. Only a first fragment has a
	// transport header at L4, and none has a checksum that can be judged.
	Fragment bool
}

// FindTransport finds the IP packet in an Ethernet frame and the transport
// header in it, looking through up to two VLAN tags and IPv6's extension
// headers. It reports false for what is not IP, or is cut off or malformed
// down to there. GSOPackets are frames like others.
func FindTransport(frame []byte) (Transport, bool) {
	eth, err := ParseEthernet(frame)
	if err != nil {
		return Transport{}, false
	}
	switch eth.EtherType() {
	case EtherTypeIPv4:
		return transport4(eth.Payload(), eth.L3Offset())
	case EtherTypeIPv6:
		return transport6(eth.Payload(), eth.L3Offset())
	}
	return Transport{}, false
}

// FindPacketTransport is FindTransport for an IPv4 packet without Ethernet
// header, as a TUN device has it: L3 is 0.
func FindPacketTransport(packet []byte) (Transport, bool) { return transport4(packet, 0) }

// transport4 is FindTransport for the IPv4 packet at the start of b, which
// stands at l3 in its frame.
func transport4(b []byte, l3 int) (Transport, bool) {
	p, err := ParseIPv4(b)
	if err != nil {
		return Transport{}, false
	}
	return Transport{
		L3: l3, L4: l3 + p.HeaderLen(), End: l3 + len(p),
		Kind: Kind{Proto: p.Protocol(), Fragment: p.IsFragment()},
	}, true
}

// transport6 is transport4 for IPv6.
func transport6(b []byte, l3 int) (Transport, bool) {
	p, err := ParseIPv6(b)
	if err != nil {
		return Transport{}, false
	}
	proto, offset, fragment, ok := p.Transport()
	if !ok {
		return Transport{}, false
	}
	return Transport{
		L3: l3, L4: l3 + offset, End: l3 + len(p),
		Kind: Kind{V6: true, Proto: proto, Fragment: fragment},
	}, true
}
