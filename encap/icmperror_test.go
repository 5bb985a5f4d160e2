package encap

import (
	"bytes"
	"fmt"
	"net"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// put4 serialises an ICMPv4 error as it should be: the oracle is gopacket.
func put4(t *testing.T, packet []byte, code uint8, mtu uint16) []byte {
	t.Helper()
	p := IPv4(packet)
	quote := packet[:min(len(packet), 576-28)]
	ip := &layers.IPv4{Version: 4, TOS: 0xc0, TTL: 64, Flags: layers.IPv4DontFragment, Protocol: layers.IPProtocolICMPv4,
		SrcIP: p.Dst().AsSlice(), DstIP: p.Src().AsSlice()}
	icmp := &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, code), Seq: mtu}
	return build(t, ip, icmp, gopacket.Payload(quote))
}

// put6 is put4 for ICMPv6.
func put6(t *testing.T, packet []byte, kind, code uint8, mtu uint16) []byte {
	t.Helper()
	p := IPv6(packet)
	quote := packet[:min(len(packet), 1280-48)]
	ip := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolICMPv6,
		SrcIP: p.Dst().AsSlice(), DstIP: p.Src().AsSlice()}
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(kind, code)}
	if err := icmp.SetNetworkLayerForChecksum(ip); err != nil {
		t.Fatal(err)
	}
	return build(t, ip, icmp, gopacket.Payload([]byte{0, 0, byte(mtu >> 8), byte(mtu)}), gopacket.Payload(quote))
}

// packet4 and packet6 are UDP packets with so many bytes of payload.
func packet4(t *testing.T, size int, mod func(*layers.IPv4)) []byte {
	t.Helper()
	ip := header4(layers.IPProtocolUDP)
	if mod != nil {
		mod(ip)
	}
	return build(t, ip, headerUDP(ip), gopacket.Payload(bytes.Repeat([]byte{0x5a}, size)))
}

func packet6(t *testing.T, size int, mod func(*layers.IPv6)) []byte {
	t.Helper()
	ip := header6(layers.IPProtocolUDP)
	if mod != nil {
		mod(ip)
	}
	return build(t, ip, headerUDP(ip), gopacket.Payload(bytes.Repeat([]byte{0x5a}, size)))
}

// errorOf is what put writes, from a dirty buffer, and nothing beside it.
func errorOf(t *testing.T, want int, put func(b []byte) int) []byte {
	t.Helper()
	n := 0
	b := putInto(t, ICMPErrorFrameLen, func(b []byte) { n = put(b[:ICMPErrorFrameLen]) })
	for i, c := range b[n:] {
		if c != guard {
			t.Fatalf("byte %d was written, behind the %d of the message", n+i, n)
		}
	}
	equal(t, "length", n, want)
	return b[:n]
}

func TestPutTooBig(t *testing.T) {
	for _, size := range []int{0, 1, 30, 520, 521, 1400, 60000} {
		p4, p6 := packet4(t, size, nil), packet6(t, size, nil)
		want := put4(t, p4, 4, 1350)
		equalBytes(t, fmt.Sprintf("v4 with %d bytes", size), errorOf(t, len(want), func(b []byte) int { return PutTooBig(b, p4, 1350) }), want)
		want = put6(t, p6, 2, 0, 1330)
		equalBytes(t, fmt.Sprintf("v6 with %d bytes", size), errorOf(t, len(want), func(b []byte) int { return PutTooBig(b, p6, 1330) }), want)
	}
	// Padding is not the packet's.
	p4, p6 := packet4(t, 2, nil), packet6(t, 2, nil)
	pad := make([]byte, 16)
	want := put4(t, p4, 4, 68)
	equalBytes(t, "v4 padded", errorOf(t, len(want), func(b []byte) int { return PutTooBig(b, append(p4, pad...), 68) }), want)
	want = put6(t, p6, 2, 0, 1280)
	equalBytes(t, "v6 padded", errorOf(t, len(want), func(b []byte) int { return PutTooBig(b, append(p6, pad...), 1280) }), want)
	// Of a gsoPacket's segment only the headers are at hand.
	p4, p6 = packet4(t, 1400, nil)[:28], packet6(t, 1400, nil)[:48]
	want = put4(t, p4, 4, 1350)
	equalBytes(t, "v4 headers", errorOf(t, len(want), func(b []byte) int { return PutTooBig(b, p4, 1350) }), want)
	want = put6(t, p6, 2, 0, 1350)
	equalBytes(t, "v6 headers", errorOf(t, len(want), func(b []byte) int { return PutTooBig(b, p6, 1350) }), want)
}

func TestPutUnreachable(t *testing.T) {
	p4, p6 := packet4(t, 700, func(h *layers.IPv4) { h.Flags = 0 }), packet6(t, 1400, nil)
	for what, codes := range map[Unreachable][2]uint8{NetUnreachable: {0, 0}, HostUnreachable: {1, 3}} {
		want := put4(t, p4, codes[0], 0)
		equalBytes(t, "v4", errorOf(t, len(want), func(b []byte) int { return PutUnreachable(b, p4, what) }), want)
		want = put6(t, p6, 1, codes[1], 0)
		equalBytes(t, "v6", errorOf(t, len(want), func(b []byte) int { return PutUnreachable(b, p6, what) }), want)
	}
	equal(t, "no packet", PutUnreachable(make([]byte, ICMPErrorLen), nil, NetUnreachable), 0)
}

func TestPutTooBigFrame(t *testing.T) {
	p4, p6 := packet4(t, 1400, nil), packet6(t, 1400, nil)
	payload := gopacket.Payload(p4)
	back := &layers.Ethernet{SrcMAC: hwB, DstMAC: hwA, EthernetType: layers.EthernetTypeIPv4}
	for name, c := range map[string]struct{ frame, want []byte }{
		"v4": {build(t, ether(layers.EthernetTypeIPv4), payload), build(t, back, gopacket.Payload(put4(t, p4, 4, 1350)))},
		"v6 in a tag": {
			build(t, ether(layers.EthernetTypeDot1Q), tag(42, layers.EthernetTypeIPv6), gopacket.Payload(p6)),
			build(t, &layers.Ethernet{SrcMAC: hwB, DstMAC: hwA, EthernetType: layers.EthernetTypeDot1Q},
				tag(42, layers.EthernetTypeIPv6), gopacket.Payload(put6(t, p6, 2, 0, 1350))),
		},
		"v6 in two tags": {
			build(t, ether(layers.EthernetTypeQinQ), tag(7, layers.EthernetTypeDot1Q), tag(42, layers.EthernetTypeIPv6), gopacket.Payload(p6)),
			build(t, &layers.Ethernet{SrcMAC: hwB, DstMAC: hwA, EthernetType: layers.EthernetTypeQinQ},
				tag(7, layers.EthernetTypeDot1Q), tag(42, layers.EthernetTypeIPv6), gopacket.Payload(put6(t, p6, 2, 0, 1350))),
		},
	} {
		equalBytes(t, name, errorOf(t, len(c.want), func(b []byte) int { return PutTooBigFrame(b, c.frame, 1350) }), c.want)
	}
	group := &layers.Ethernet{SrcMAC: hwA, DstMAC: net.HardwareAddr{1, 0, 0x5e, 0, 0, 1}, EthernetType: layers.EthernetTypeIPv4}
	noMAC := &layers.Ethernet{SrcMAC: make([]byte, 6), DstMAC: hwB, EthernetType: layers.EthernetTypeIPv4}
	for name, frame := range map[string][]byte{
		"to a group":        build(t, group, payload),
		"from no MAC":       build(t, noMAC, payload),
		"no Ethernet frame": p4[:13],
		"no IP packet":      build(t, ether(layers.EthernetTypeARP), payload),
	} {
		t.Run(name, func(t *testing.T) {
			errorOf(t, 0, func(b []byte) int { return PutTooBigFrame(b, frame, 1350) })
		})
	}
}

// TestICMPErrorRules: what an error never answers.
func TestICMPErrorRules(t *testing.T) {
	addr4 := func(src, dst string) []byte {
		return packet4(t, 1400, func(h *layers.IPv4) {
			if src != "" {
				h.SrcIP = net.ParseIP(src)
			}
			if dst != "" {
				h.DstIP = net.ParseIP(dst)
			}
		})
	}
	addr6 := func(src, dst string) []byte {
		return packet6(t, 1400, func(h *layers.IPv6) {
			if src != "" {
				h.SrcIP = net.ParseIP(src)
			}
			if dst != "" {
				h.DstIP = net.ParseIP(dst)
			}
		})
	}
	icmp4 := func(kind uint8) []byte {
		return build(t, header4(layers.IPProtocolICMPv4), &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(kind, 0)},
			gopacket.Payload(make([]byte, 600)))
	}
	icmp6 := func(kind uint8) []byte {
		ip := header6(layers.IPProtocolICMPv6)
		m := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(kind, 0)}
		_ = m.SetNetworkLayerForChecksum(ip)
		return build(t, ip, m, gopacket.Payload(make([]byte, 1400)))
	}
	// fragment6 has a fragment header of that offset in units of eight bytes,
	// behind it the first byte of an ICMPv6 message.
	fragment6 := func(offset uint16, kind uint8) []byte {
		return build(t, header6(layers.IPProtocolIPv6Fragment),
			gopacket.Payload(append([]byte{ProtoICMPv6, 0, byte(offset >> 5), byte(offset<<3) | 1, 0, 0, 0, 9, kind}, make([]byte, 1300)...)))
	}
	good4, good6 := packet4(t, 1400, nil), packet6(t, 1400, nil)
	short4 := bytes.Clone(good4)
	short4[3], short4[2] = 20, 0
	ihl := bytes.Clone(good4)
	ihl[0] = 0x44
	version := bytes.Clone(good4)
	version[0] = 0x55
	for name, c := range map[string]struct {
		packet []byte
		mtu    OverlayMTU
		answer bool
	}{
		"v4":                          {good4, 1350, true},
		"v4 of the least MTU":         {good4, 68, true},
		"v4 below the least MTU":      {good4, 67, false},
		"v4 without DF":               {packet4(t, 1400, func(h *layers.IPv4) { h.Flags = 0 }), 1350, false},
		"v4 first fragment":           {packet4(t, 1400, func(h *layers.IPv4) { h.Flags |= layers.IPv4MoreFragments }), 1350, true},
		"v4 later fragment":           {packet4(t, 1400, func(h *layers.IPv4) { h.FragOffset = 185 }), 1350, false},
		"v4 echo request":             {icmp4(ICMPv4EchoRequest), 1350, true},
		"v4 unreachable":              {icmp4(ICMPv4Unreachable), 1350, false},
		"v4 time exceeded":            {icmp4(ICMPv4TimeExceeded), 1350, false},
		"v4 redirect":                 {icmp4(ICMPv4Redirect), 1350, false},
		"v4 to a group":               {addr4("", "224.0.0.251"), 1350, false},
		"v4 to all":                   {addr4("", "255.255.255.255"), 1350, false},
		"v4 to loopback":              {addr4("", "127.0.0.1"), 1350, false},
		"v4 from nowhere":             {addr4("0.0.0.0", ""), 1350, false},
		"v4 from this network":        {addr4("0.0.0.5", ""), 1350, false},
		"v4 from loopback":            {addr4("127.0.0.1", ""), 1350, false},
		"v4 from a group":             {addr4("224.0.0.1", ""), 1350, false},
		"v4 from all":                 {addr4("255.255.255.255", ""), 1350, false},
		"v4 without payload":          {short4, 1350, false},
		"v4 with half a header":       {ihl, 1350, false},
		"v4 header only":              {good4[:20], 1350, false},
		"v4 cut off":                  {good4[:19], 1350, false},
		"v4 cut off in ICMP":          {icmp4(ICMPv4EchoRequest)[:27], 1350, false},
		"version 5":                   {version, 1350, false},
		"nothing":                     {nil, 1350, false},
		"v6":                          {good6, 1350, true},
		"v6 of the least MTU":         {good6, 1280, true},
		"v6 below the least MTU":      {good6, 1279, false},
		"v6 echo request":             {icmp6(ICMPv6EchoRequest), 1350, true},
		"v6 neighbour solicitation":   {icmp6(ICMPv6NeighborSolicit), 1350, true},
		"v6 unreachable":              {icmp6(ICMPv6Unreachable), 1350, false},
		"v6 packet too big":           {icmp6(ICMPv6PacketTooBig), 1350, false},
		"v6 redirect":                 {icmp6(137), 1350, false},
		"v6 first fragment":           {fragment6(0, ICMPv6EchoRequest), 1350, true},
		"v6 first fragment, an error": {fragment6(0, ICMPv6Unreachable), 1350, false},
		"v6 later fragment":           {fragment6(1, ICMPv6EchoRequest), 1350, false},
		"v6 to a group":               {addr6("", "ff02::fb"), 1350, false},
		"v6 to loopback":              {addr6("", "::1"), 1350, false},
		"v6 from nowhere":             {addr6("::", ""), 1350, false},
		"v6 from loopback":            {addr6("::1", ""), 1350, false},
		"v6 from a group":             {addr6("ff02::1", ""), 1350, false},
		"v6 cut off":                  {good6[:39], 1350, false},
		"v6 header only":              {good6[:40], 1350, false},
		"v6 cut off in an extension":  {fragment6(0, ICMPv6EchoRequest)[:47], 1350, false},
		"v6 from ::2":                 {addr6("::2", ""), 1350, true},
	} {
		b := make([]byte, ICMPErrorLen)
		if n := PutTooBig(b, c.packet, c.mtu); (n != 0) != c.answer {
			t.Errorf("%s: %d bytes of answer, want one: %t", name, n, c.answer)
		}
		// The same rules but for DF and the MTU hold for Unreachable.
		if n := PutUnreachable(b, c.packet, HostUnreachable); c.answer && n == 0 {
			t.Errorf("%s: no Unreachable", name)
		}
	}
}

// FuzzPutTooBigFrame: no frame makes it panic or write more than it says, and
// what it writes is a frame that is never answered in its turn.
func FuzzPutTooBigFrame(f *testing.F) {
	seedFrames(f, 0)
	f.Fuzz(func(t *testing.T, frame []byte) {
		b, again := make([]byte, ICMPErrorFrameLen), make([]byte, ICMPErrorFrameLen)
		n := PutTooBigFrame(b, frame, 1350)
		if n == 0 {
			return
		}
		if _, ok := FindTransport(b[:n]); !ok {
			t.Errorf("no IP packet: %x", b[:n])
		}
		if PutTooBigFrame(again, b[:n], 1350) != 0 {
			t.Errorf("an error is answered: %x", b[:n])
		}
	})
}
