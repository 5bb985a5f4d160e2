package encap

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

func TestFindTransport(t *testing.T) {
	frames := sampleFrames(t)
	for name, want := range map[string]Transport{
		"tcp4":            {L3: 14, L4: 34, End: 109, Kind: Kind{Proto: ProtoTCP}},
		"udp4":            {L3: 14, L4: 34, End: 85, Kind: Kind{Proto: ProtoUDP}},
		"padded udp4":     {L3: 14, L4: 34, End: 85, Kind: Kind{Proto: ProtoUDP}},
		"tcp6":            {L3: 14, L4: 54, End: 129, Kind: Kind{V6: true, Proto: ProtoTCP}},
		"udp6":            {L3: 14, L4: 54, End: 105, Kind: Kind{V6: true, Proto: ProtoUDP}},
		"padded udp6":     {L3: 14, L4: 54, End: 105, Kind: Kind{V6: true, Proto: ProtoUDP}},
		"vlan":            {L3: 18, L4: 38, End: 89, Kind: Kind{Proto: ProtoUDP}},
		"qinq":            {L3: 22, L4: 62, End: 137, Kind: Kind{V6: true, Proto: ProtoTCP}},
		"echo4":           {L3: 14, L4: 34, End: 85, Kind: Kind{Proto: ProtoICMPv4}},
		"solicit6":        {L3: 14, L4: 54, End: 86, Kind: Kind{V6: true, Proto: ProtoICMPv6}},
		"sctp4":           {L3: 14, L4: 34, End: 89, Kind: Kind{Proto: ProtoSCTP}},
		"ipip":            {L3: 14, L4: 34, End: 105, Kind: Kind{Proto: ProtoIPIP}},
		"options4":        {L3: 14, L4: 38, End: 89, Kind: Kind{Proto: ProtoUDP}},
		"first fragment4": {L3: 14, L4: 34, End: 85, Kind: Kind{Proto: ProtoUDP, Fragment: true}},
		"last fragment4":  {L3: 14, L4: 34, End: 77, Kind: Kind{Proto: ProtoUDP, Fragment: true}},
		"extensions6":     {L3: 14, L4: 94, End: 104, Kind: Kind{V6: true, Proto: ProtoUDP}},
		"fragment6":       {L3: 14, L4: 62, End: 72, Kind: Kind{V6: true, Proto: ProtoUDP, Fragment: true}},
	} {
		frame, ok := frames[name]
		if !ok {
			t.Fatalf("no sample frame %q", name)
		}
		got, ok := FindTransport(frame)
		equal(t, name+": found", ok, true)
		equal(t, name, got, want)
		delete(frames, name)

		for n := range frame[:want.End] {
			if got, ok := FindTransport(frame[:n]); ok {
				t.Errorf("%s cut to %d bytes: %+v", name, n, got)
			}
		}
	}
	for name, frame := range frames {
		if got, ok := FindTransport(frame); ok || got != (Transport{}) {
			t.Errorf("%s: %+v, %t, want nothing", name, got, ok)
		}
	}
}

// gsoPacket returns the longest frame that a TAP hands over: a TCP segment in
// an IP packet of the greatest length.
func gsoPacket(tb testing.TB, v6 bool) []byte {
	tb.Helper()
	name, l3, most := "tcp4", EthernetHeaderLen, 65535
	if v6 {
		name, most = "tcp6", IPv6HeaderLen+65535
	}
	frame := sampleFrames(tb)[name]
	frame = append(frame, make([]byte, l3+most-len(frame))...)
	if v6 {
		binary.BigEndian.PutUint16(frame[l3+4:], 65535)
	} else {
		binary.BigEndian.PutUint16(frame[l3+2:], 65535)
	}
	return frame
}

func TestFindTransportGSOPacket(t *testing.T) {
	got, ok := FindTransport(gsoPacket(t, false))
	equal(t, "found", ok, true)
	equal(t, "IPv4", got, Transport{L3: 14, L4: 34, End: 65549, Kind: Kind{Proto: ProtoTCP}})
	got, ok = FindTransport(gsoPacket(t, true))
	equal(t, "found", ok, true)
	equal(t, "IPv6", got, Transport{L3: 14, L4: 54, End: 65589, Kind: Kind{V6: true, Proto: ProtoTCP}})
}

// gopacketTransport is FindTransport by gopacket. It reports false too where
// gopacket gives up on something that is no concern of FindTransport, such as
// IP options.
func gopacketTransport(frame []byte) (at Transport, ok bool) {
	packet := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.DecodeOptions{NoCopy: true})
	// Layers are slices of the frame: the rest of the capacity shows where.
	offset := func(b []byte) int { return cap(frame) - cap(b) }
	tags := 0
walk:
	for _, layer := range packet.Layers() {
		switch l := layer.(type) {
		case *layers.Ethernet:
		case *layers.Dot1Q:
			if tags++; tags > maxVLANTags {
				return Transport{}, false
			}
		case *layers.IPv4:
			if ok { // inside the IPv6 packet
				break walk
			}
			return Transport{
				L3: offset(l.Contents), L4: offset(l.Payload), End: offset(l.Contents) + int(l.Length),
				Kind: Kind{
					Proto:    uint8(l.Protocol),
					Fragment: l.Flags&layers.IPv4MoreFragments != 0 || l.FragOffset != 0,
				},
			}, l.Version == 4 && l.Payload != nil
		case *layers.IPv6:
			if ok || l.Version != 6 {
				break walk
			}
			l3 := offset(l.Contents)
			at = Transport{L3: l3, L4: l3 + IPv6HeaderLen, End: l3 + IPv6HeaderLen + int(l.Length),
				Kind: Kind{V6: true, Proto: uint8(l.NextHeader)}}
			ok = true
		case *layers.IPv6HopByHop:
			at.Proto, at.L4 = uint8(l.NextHeader), at.L4+l.ActualLength
		case *layers.IPv6Routing:
			at.Proto, at.L4 = uint8(l.NextHeader), at.L4+l.ActualLength
		case *layers.IPv6Destination:
			at.Proto, at.L4 = uint8(l.NextHeader), at.L4+l.ActualLength
		case *layers.IPv6Fragment:
			at.Proto, at.L4, at.Fragment = uint8(l.NextHeader), at.L4+len(l.Contents), true
			return at, ok
		default:
			break walk
		}
	}
	switch at.Proto {
	case ipv6HopByHop, ipv6Routing, ipv6DestOptions, ipv6Fragment:
		return Transport{}, false // an extension header that gopacket refused, or no IP at all
	}
	return at, ok
}

func TestFindTransportByGopacket(t *testing.T) {
	for name, frame := range sampleFrames(t) {
		want, wantOK := gopacketTransport(bytes.Clone(frame))
		got, ok := FindTransport(frame)
		equal(t, name+": found", ok, wantOK)
		equal(t, name, got, want)
	}
}

func FuzzFindTransport(f *testing.F) {
	seedFrames(f, 0)
	f.Fuzz(func(t *testing.T, frame []byte) {
		got, ok := FindTransport(frame)
		if !ok {
			equal(t, "nothing found", got, Transport{})
			return
		}
		if got.L3 < EthernetHeaderLen || got.L4 < got.L3+IPv4HeaderLen || got.L4 > got.End || got.End > len(frame) {
			t.Fatalf("%+v in a frame of %d bytes", got, len(frame))
		}
		if want, ok := gopacketTransport(frame); ok {
			equal(t, "FindTransport", got, want)
		}
	})
}

func BenchmarkFindTransport(b *testing.B) {
	frames := sampleFrames(b)
	for _, name := range []string{"tcp4", "tcp6", "vlan", "extensions6"} {
		b.Run(name, func(b *testing.B) {
			frame := frames[name]
			b.SetBytes(int64(len(frame)))
			b.ReportAllocs()
			for b.Loop() {
				if _, ok := FindTransport(frame); !ok {
					b.Fatal("not found")
				}
			}
		})
	}
}

// TestFindPacketTransport wants of a packet without Ethernet what FindTransport
// wants of the frame around it.
func TestFindPacketTransport(t *testing.T) {
	for name, frame := range sampleFrames(t) {
		want, ok := FindTransport(frame)
		if !ok {
			continue
		}
		packet := frame[want.L3:]
		got, ok := FindPacketTransport(packet)
		if want.V6 {
			equal(t, name+": found", ok, false)
			continue
		}
		equal(t, name+": found", ok, true)
		equal(t, name+": hash", got.FlowHash(packet), want.FlowHash(frame))
		want.L4, want.End, want.L3 = want.L4-want.L3, want.End-want.L3, 0
		equal(t, name, got, want)
		for n := range packet[:want.End] {
			if got, ok := FindPacketTransport(packet[:n]); ok {
				t.Errorf("%s cut to %d bytes: %+v", name, n, got)
			}
		}
	}
}
