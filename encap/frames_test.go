package encap

import (
	"bytes"
	"encoding/hex"
	"net"
	"strings"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// fromHex reads octets in hexadecimal, white space ignored.
func fromHex(tb testing.TB, s string) []byte {
	tb.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		tb.Fatalf("test data %q: %v", s, err)
	}
	return b
}

// equal fails the test when a named field is not what it should be.
func equal[T comparable](tb testing.TB, field string, got, want T) {
	tb.Helper()
	if got != want {
		tb.Errorf("%s = %v, want %v", field, got, want)
	}
}

// equalBytes fails the test when a named slice is not what it should be.
func equalBytes(tb testing.TB, field string, got, want []byte) {
	tb.Helper()
	if !bytes.Equal(got, want) {
		tb.Errorf("%s =\n%x, want\n%x", field, got, want)
	}
}

// guard is what a dirty buffer is filled with.
const guard = 0xa5

// putInto lets put write n bytes into the middle of a dirty buffer, checks that
// it stayed within them, and returns them.
func putInto(tb testing.TB, n int, put func(b []byte)) []byte {
	tb.Helper()
	const margin = 16
	buf := bytes.Repeat([]byte{guard}, margin+n+margin)
	put(buf[margin : margin+n+margin])
	for i, c := range buf {
		if (i < margin || i >= margin+n) && c != guard {
			tb.Errorf("byte %d of a %d-byte header was written", i-margin, n)
		}
	}
	return buf[margin : margin+n]
}

// Addresses of the sample frames.
var (
	hwA = net.HardwareAddr{0x02, 0x42, 0x0a, 0, 1, 4}
	hwB = net.HardwareAddr{0x02, 0x42, 0x0a, 0, 1, 5}
	ip4 = [2]net.IP{net.IPv4(198, 51, 100, 1), net.IPv4(203, 0, 113, 2)}
	ip6 = [2]net.IP{net.ParseIP("2001:db8::1"), net.ParseIP("2001:db8:1::2")}
)

// build serialises layers with gopacket, lengths and checksums made right.
func build(tb testing.TB, ls ...gopacket.SerializableLayer) []byte {
	tb.Helper()
	buf := gopacket.NewSerializeBuffer()
	opts := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(buf, opts, ls...); err != nil {
		tb.Fatalf("serialise a test frame: %v", err)
	}
	return buf.Bytes()
}

func ether(t layers.EthernetType) *layers.Ethernet {
	return &layers.Ethernet{SrcMAC: hwA, DstMAC: hwB, EthernetType: t}
}

func tag(id uint16, t layers.EthernetType) *layers.Dot1Q {
	return &layers.Dot1Q{VLANIdentifier: id, Priority: 5, Type: t}
}

func header4(proto layers.IPProtocol) *layers.IPv4 {
	return &layers.IPv4{Version: 4, TTL: 64, TOS: 0xb9, Id: 0x1234, Flags: layers.IPv4DontFragment,
		Protocol: proto, SrcIP: ip4[0], DstIP: ip4[1]}
}

func header6(next layers.IPProtocol) *layers.IPv6 {
	return &layers.IPv6{Version: 6, TrafficClass: 0xb9, FlowLabel: 0xbeef5, HopLimit: 63,
		NextHeader: next, SrcIP: ip6[0], DstIP: ip6[1]}
}

func headerTCP(network gopacket.NetworkLayer) *layers.TCP {
	t := &layers.TCP{SrcPort: 40000, DstPort: 443, Seq: 7, Ack: 9, ACK: true, PSH: true, Window: 512,
		Options: []layers.TCPOption{{OptionType: layers.TCPOptionKindNop}, {OptionType: layers.TCPOptionKindNop},
			{OptionType: layers.TCPOptionKindTimestamps, OptionLength: 10, OptionData: make([]byte, 8)}}}
	_ = t.SetNetworkLayerForChecksum(network) // fails for nil only
	return t
}

func headerUDP(network gopacket.NetworkLayer) *layers.UDP {
	u := &layers.UDP{SrcPort: 5353, DstPort: 7000}
	_ = u.SetNetworkLayerForChecksum(network)
	return u
}

// sampleFrames are well-formed Ethernet frames, one of each kind that the
// parsers tell apart.
func sampleFrames(tb testing.TB) map[string][]byte {
	tb.Helper()
	payload := gopacket.Payload("The quick brown fox jumps over the lazy dog")
	v4 := func(proto layers.IPProtocol, mod func(*layers.IPv4)) *layers.IPv4 {
		h := header4(proto)
		if mod != nil {
			mod(h)
		}
		return h
	}
	tcp4, udp4 := header4(layers.IPProtocolTCP), header4(layers.IPProtocolUDP)
	tcp6, udp6 := header6(layers.IPProtocolTCP), header6(layers.IPProtocolUDP)
	icmp6 := header6(layers.IPProtocolICMPv6)
	nd := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(ICMPv6NeighborSolicit, 0)}
	_ = nd.SetNetworkLayerForChecksum(icmp6)
	const qinq = layers.EthernetTypeQinQ

	frames := map[string][]byte{
		"tcp4":     build(tb, ether(layers.EthernetTypeIPv4), tcp4, headerTCP(tcp4), payload),
		"udp4":     build(tb, ether(layers.EthernetTypeIPv4), udp4, headerUDP(udp4), payload),
		"tcp6":     build(tb, ether(layers.EthernetTypeIPv6), tcp6, headerTCP(tcp6), payload),
		"udp6":     build(tb, ether(layers.EthernetTypeIPv6), udp6, headerUDP(udp6), payload),
		"vlan":     build(tb, ether(layers.EthernetTypeDot1Q), tag(42, layers.EthernetTypeIPv4), udp4, headerUDP(udp4), payload),
		"qinq":     build(tb, ether(qinq), tag(7, layers.EthernetTypeDot1Q), tag(42, layers.EthernetTypeIPv6), tcp6, headerTCP(tcp6), payload),
		"3 tags":   build(tb, ether(qinq), tag(7, layers.EthernetTypeDot1Q), tag(8, layers.EthernetTypeDot1Q), tag(9, layers.EthernetTypeIPv4), udp4, headerUDP(udp4), payload),
		"echo4":    build(tb, ether(layers.EthernetTypeIPv4), header4(layers.IPProtocolICMPv4), &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(ICMPv4EchoRequest, 0), Id: 3, Seq: 4}, payload),
		"solicit6": build(tb, ether(layers.EthernetTypeIPv6), icmp6, nd, &layers.ICMPv6NeighborSolicitation{TargetAddress: ip6[1], Options: layers.ICMPv6Options{{Type: layers.ICMPv6OptSourceAddress, Data: hwA}}}),
		"sctp4":    build(tb, ether(layers.EthernetTypeIPv4), header4(layers.IPProtocolSCTP), &layers.SCTP{SrcPort: 1, DstPort: 2}, payload),
		"ipip":     build(tb, ether(layers.EthernetTypeIPv4), header4(layers.IPProtocolIPv4), udp4, headerUDP(udp4), payload),
		"options4": build(tb, ether(layers.EthernetTypeIPv4), v4(layers.IPProtocolUDP, func(h *layers.IPv4) {
			h.Options = []layers.IPv4Option{{OptionType: 148, OptionLength: 4, OptionData: []byte{0, 0}}}
		}), headerUDP(udp4), payload),
		"first fragment4": build(tb, ether(layers.EthernetTypeIPv4), v4(layers.IPProtocolUDP, func(h *layers.IPv4) { h.Flags = layers.IPv4MoreFragments }), headerUDP(udp4), payload),
		"last fragment4":  build(tb, ether(layers.EthernetTypeIPv4), v4(layers.IPProtocolUDP, func(h *layers.IPv4) { h.Flags, h.FragOffset = 0, 185 }), payload),
		"extensions6": build(tb, ether(layers.EthernetTypeIPv6), header6(layers.IPProtocolIPv6HopByHop), gopacket.Payload(fromHex(tb,
			"2b 00 0104 00000000"+ // hop-by-hop: PadN
				"3c 02 0000 00000000 2001 0db8 0000 0000 0000 0000 0000 0003"+ // routing type 0, one address
				"11 00 0104 00000000"+ // destination options: PadN
				"14e9 1b58 000a 0000 abcd"))), // UDP
		"fragment6": build(tb, ether(layers.EthernetTypeIPv6), header6(layers.IPProtocolIPv6Fragment), gopacket.Payload(fromHex(tb,
			"11 00 0001 deadbeef 14e9 1b58 0400 0000 abcd"))),
		"arp": build(tb, ether(layers.EthernetTypeARP), &layers.ARP{AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4,
			HwAddressSize: 6, ProtAddressSize: 4, Operation: ARPRequest, SourceHwAddress: hwA, SourceProtAddress: ip4[0].To4(),
			DstHwAddress: make([]byte, 6), DstProtAddress: ip4[1].To4()}),
		"llc": append(build(tb, &layers.Ethernet{SrcMAC: hwA, DstMAC: net.HardwareAddr{1, 0x80, 0xc2, 0, 0, 0}, EthernetType: layers.EthernetTypeLLC, Length: 38}),
			fromHex(tb, "424203 0000000000")...),
	}
	frames["padded"] = append(bytes.Clone(frames["arp"]), make([]byte, 18)...)
	frames["padded udp6"] = append(bytes.Clone(frames["udp6"]), make([]byte, 5)...)
	frames["padded udp4"] = append(bytes.Clone(frames["udp4"]), make([]byte, 5)...)
	return frames
}

// seedFrames adds the samples, from offset on, to a fuzz target's corpus.
func seedFrames(f *testing.F, offset int) {
	f.Helper()
	f.Add([]byte{})
	for _, frame := range sampleFrames(f) {
		f.Add(frame[offset:])
		f.Add(frame[offset : len(frame)-8])
	}
}
