package encap

import (
	"bytes"
	"errors"
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// patched returns a copy of b with the bytes at offset replaced.
func patched(b []byte, offset int, with ...byte) []byte {
	b = bytes.Clone(b)
	copy(b[offset:], with)
	return b
}

const sampleIPv4 = "46 b9 001d 1234 4000 40 11 2ca7 c6336401 cb007102 94040000 aabbccddee"

func TestIPv4(t *testing.T) {
	b := fromHex(t, sampleIPv4)
	p, err := ParseIPv4(append(bytes.Clone(b), 0, 0, 0)) // padding
	if err != nil {
		t.Fatal(err)
	}
	equalBytes(t, "view", p, b)
	equal(t, "HeaderLen", p.HeaderLen(), 24)
	equal(t, "TotalLen", p.TotalLen(), 29)
	equal(t, "TOS", p.TOS(), 0xb9)
	equal(t, "ID", p.ID(), 0x1234)
	equal(t, "TTL", p.TTL(), 64)
	equal(t, "Protocol", p.Protocol(), ProtoUDP)
	equal(t, "Checksum", p.Checksum(), 0x2ca7)
	equal(t, "header sum", slowSum(p[:24]), 0xffff)
	equal(t, "Src", p.Src(), netip.MustParseAddr("198.51.100.1"))
	equal(t, "Dst", p.Dst(), netip.MustParseAddr("203.0.113.2"))
	equal(t, "SrcBytes", p.SrcBytes(), [4]byte{198, 51, 100, 1})
	equal(t, "DstBytes", p.DstBytes(), [4]byte{203, 0, 113, 2})
	equalBytes(t, "Payload", p.Payload(), fromHex(t, "aabbccddee"))
}

func TestIPv4Fragments(t *testing.T) {
	for _, c := range []struct {
		hi, lo           byte
		df, mf, fragment bool
		offset           int
	}{
		{0x00, 0x00, false, false, false, 0},
		{0x40, 0x00, true, false, false, 0},
		{0x80, 0x00, false, false, false, 0}, // reserved bit
		{0x20, 0x00, false, true, true, 0},
		{0x20, 0xb9, false, true, true, 1480},
		{0x00, 0x01, false, false, true, 8},
		{0x60, 0x00, true, true, true, 0},
		{0x1f, 0xff, false, false, true, 65528},
	} {
		p, err := ParseIPv4(patched(fromHex(t, sampleIPv4), 6, c.hi, c.lo))
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "DF", p.DF(), c.df)
		equal(t, "MF", p.MF(), c.mf)
		equal(t, "IsFragment", p.IsFragment(), c.fragment)
		equal(t, "FragmentOffset", p.FragmentOffset(), c.offset)
	}
}

func TestIPv4Refused(t *testing.T) {
	b := fromHex(t, sampleIPv4)
	for _, c := range []struct {
		name string
		b    []byte
		want error
	}{
		{"nothing", nil, ErrShort},
		{"cut in the fixed header", b[:19], ErrShort},
		{"cut in the options", b[:23], ErrShort},
		{"cut in the payload", b[:28], ErrShort},
		{"version 6", patched(b, 0, 0x66), ErrBadHeader},
		{"header of 16 bytes", patched(b, 0, 0x44), ErrBadHeader},
		{"header beyond the total length", patched(b, 0, 0x4f), ErrBadHeader},
		{"total length zero", patched(b, 2, 0, 0), ErrBadHeader},
		{"total length within the header", patched(b, 2, 0, 23), ErrBadHeader},
	} {
		if p, err := ParseIPv4(c.b); !errors.Is(err, c.want) || p != nil {
			t.Errorf("%s: %x, %v, want %v", c.name, []byte(p), err, c.want)
		}
	}
	if _, err := ParseIPv4(patched(b[:24], 2, 0, 24)); err != nil {
		t.Errorf("a header alone: %v", err)
	}
}

func TestIPv4SetTOS(t *testing.T) {
	b := fromHex(t, sampleIPv4)
	for tos := range 256 {
		for from := range 256 {
			p := IPv4(bytes.Clone(b))
			p.SetTOS(uint8(from))
			p.SetTOS(uint8(tos))
			if p.TOS() != uint8(tos) || slowSum(p[:24]) != 0xffff {
				t.Fatalf("TOS %#x to %#x: %#x, header sum %#x", from, tos, p.TOS(), slowSum(p[:24]))
			}
			p.SetTOS(0xb9)
			if !bytes.Equal(p, b) {
				t.Fatalf("TOS %#x to %#x and back changed other bytes:\n%x\n%x", from, tos, []byte(p), b)
			}
		}
	}
	wrong := IPv4(patched(b, 10, 0x2c, 0xa8))
	wrong.SetTOS(0)
	equal(t, "a wrong checksum becomes right", slowSum(wrong[:24]) == 0xffff, false)
}

const sampleIPv6 = "6b9b eef5 0005 3b 3f 20010db8000000000000000000000001 20010db8000100000000000000000002 aabbccddee"

func TestIPv6(t *testing.T) {
	b := fromHex(t, sampleIPv6)
	p, err := ParseIPv6(append(bytes.Clone(b), 0, 0, 0))
	if err != nil {
		t.Fatal(err)
	}
	equalBytes(t, "view", p, b)
	equal(t, "TrafficClass", p.TrafficClass(), 0xb9)
	equal(t, "FlowLabel", p.FlowLabel(), 0xbeef5)
	equal(t, "PayloadLen", p.PayloadLen(), 5)
	equal(t, "NextHeader", p.NextHeader(), 59)
	equal(t, "HopLimit", p.HopLimit(), 63)
	equal(t, "Src", p.Src(), netip.MustParseAddr("2001:db8::1"))
	equal(t, "Dst", p.Dst(), netip.MustParseAddr("2001:db8:1::2"))
	equal(t, "SrcBytes", p.SrcBytes(), p.Src().As16())
	equal(t, "DstBytes", p.DstBytes(), p.Dst().As16())
	equalBytes(t, "Payload", p.Payload(), fromHex(t, "aabbccddee"))
	for tc := range 256 {
		p.SetTrafficClass(uint8(tc))
		equal(t, "TrafficClass", p.TrafficClass(), uint8(tc))
		equal(t, "version", p[0]>>4, 6)
		equal(t, "FlowLabel", p.FlowLabel(), 0xbeef5)
	}
	p.SetTrafficClass(0xb9)
	equalBytes(t, "traffic class there and back", p, b)
}

func TestIPv6Refused(t *testing.T) {
	b := fromHex(t, sampleIPv6)
	for _, c := range []struct {
		name string
		b    []byte
		want error
	}{
		{"nothing", nil, ErrShort},
		{"cut in the header", b[:39], ErrShort},
		{"cut in the payload", b[:44], ErrShort},
		{"version 4", patched(b, 0, 0x4b), ErrBadHeader},
	} {
		if p, err := ParseIPv6(c.b); !errors.Is(err, c.want) || p != nil {
			t.Errorf("%s: %x, %v, want %v", c.name, []byte(p), err, c.want)
		}
	}
	if _, err := ParseIPv6(patched(b[:40], 4, 0, 0)); err != nil {
		t.Errorf("a header alone: %v", err)
	}
}

func TestIPv6Transport(t *testing.T) {
	const (
		opts6  = "06 00 0104 00000000"                                   // options, TCP next
		optsHH = "3c 00 0104 00000000"                                   // options, destination options next
		rout44 = "2c 02 0001 00000000 20010db8000000000000000000000003 " // routing, fragment next
		frag60 = "3c 00 05a9 deadbeef"                                   // fragment, destination options next
	)
	repeat := func(s string, n int) string { return string(bytes.Repeat([]byte(s), n)) }
	for _, c := range []struct {
		name     string
		next     byte
		payload  string
		proto    uint8
		offset   int
		fragment bool
		ok       bool
	}{
		{"TCP at once", ProtoTCP, "", ProtoTCP, 40, false, true},
		{"no next header", 59, "", 59, 40, false, true},
		{"ESP", 50, "00000001", 50, 40, false, true},
		{"hop-by-hop", ipv6HopByHop, opts6, ProtoTCP, 48, false, true},
		{"hop-by-hop, destination options", ipv6HopByHop, optsHH + opts6, ProtoTCP, 56, false, true},
		{"a longer header", ipv6DestOptions, "11 01 010c" + repeat("00", 12), ProtoUDP, 56, false, true},
		{"routing, fragment", ipv6Routing, rout44 + frag60, ipv6DestOptions, 72, true, true},
		{"fragment", ipv6Fragment, "11 00 0001 deadbeef", ProtoUDP, 48, true, true},
		{"atomic fragment", ipv6Fragment, "11 00 0000 deadbeef", ProtoUDP, 48, true, true},
		{"later fragment", ipv6Fragment, "11 00 05a8 deadbeef", ProtoUDP, 48, true, true},
		{"as many as allowed", ipv6DestOptions, repeat(optsHH, 7) + opts6, ProtoTCP, 104, false, true},
		{"one too many", ipv6DestOptions, repeat(optsHH, 8) + opts6, 0, 0, false, false},
		{"cut before an extension", ipv6HopByHop, "", 0, 0, false, false},
		{"cut in an extension", ipv6HopByHop, "06 00 0104 000000", 0, 0, false, false},
		{"cut in a longer extension", ipv6HopByHop, "06 01 0104 00000000", 0, 0, false, false},
		{"cut in a fragment header", ipv6Fragment, "11 00 0001 deadbe", 0, 0, false, false},
		{"cut before the second", ipv6HopByHop, optsHH, 0, 0, false, false},
	} {
		payload := fromHex(t, c.payload)
		b := append(fromHex(t, sampleIPv6)[:40:40], payload...)
		b[5], b[6] = byte(len(payload)), c.next
		p, err := ParseIPv6(append(b, bytes.Repeat([]byte{0}, 64)...)) // padding must not count
		if err != nil {
			t.Fatal(err)
		}
		proto, offset, fragment, ok := p.Transport()
		equal(t, c.name+": proto", proto, c.proto)
		equal(t, c.name+": offset", offset, c.offset)
		equal(t, c.name+": fragment", fragment, c.fragment)
		equal(t, c.name+": ok", ok, c.ok)
	}
}

func FuzzIPv4(f *testing.F) {
	seedFrames(f, EthernetHeaderLen)
	f.Add(fromHex(f, sampleIPv4))
	f.Fuzz(func(t *testing.T, b []byte) {
		before := b
		b = bytes.Clone(b)
		p, err := ParseIPv4(b)
		if err != nil {
			return
		}
		p.SetTOS(p.TOS() ^ 0xff)
		p.SetTOS(p.TOS() ^ 0xff)
		want := before
		if IPv4(before).Checksum() == 0xffff { // both zeros are the same sum
			want = patched(before, 10, 0, 0)
		}
		equalBytes(t, "TOS there and back", b, want)
		copy(b, before)

		var ref layers.IPv4
		if err := ref.DecodeFromBytes(b, gopacket.NilDecodeFeedback); err != nil {
			return
		}
		equal(t, "HeaderLen", p.HeaderLen(), int(ref.IHL)*4)
		equal(t, "TotalLen", p.TotalLen(), int(ref.Length))
		equal(t, "TOS", p.TOS(), ref.TOS)
		equal(t, "ID", p.ID(), ref.Id)
		equal(t, "DF", p.DF(), ref.Flags&layers.IPv4DontFragment != 0)
		equal(t, "MF", p.MF(), ref.Flags&layers.IPv4MoreFragments != 0)
		equal(t, "FragmentOffset", p.FragmentOffset(), int(ref.FragOffset)*8)
		equal(t, "IsFragment", p.IsFragment(), p.MF() || ref.FragOffset != 0)
		equal(t, "TTL", p.TTL(), ref.TTL)
		equal(t, "Protocol", p.Protocol(), uint8(ref.Protocol))
		equal(t, "Checksum", p.Checksum(), ref.Checksum)
		equalBytes(t, "Src", p.Src().AsSlice(), ref.SrcIP)
		equalBytes(t, "Dst", p.Dst().AsSlice(), ref.DstIP)
		equalBytes(t, "Payload", p.Payload(), ref.Payload)
	})
}

func FuzzIPv6(f *testing.F) {
	seedFrames(f, EthernetHeaderLen)
	f.Add(fromHex(f, sampleIPv6))
	f.Fuzz(func(t *testing.T, b []byte) {
		before := b
		b = bytes.Clone(b)
		p, err := ParseIPv6(b)
		if err != nil {
			return
		}
		if _, offset, _, ok := p.Transport(); ok && (offset < IPv6HeaderLen || offset > len(p)) {
			t.Fatalf("Transport: offset %d in a packet of %d bytes", offset, len(p))
		}
		p.SetTrafficClass(p.TrafficClass() ^ 0xff)
		p.SetTrafficClass(p.TrafficClass() ^ 0xff)
		equalBytes(t, "traffic class there and back", b, before)

		var ref layers.IPv6
		if err := ref.DecodeFromBytes(b, gopacket.NilDecodeFeedback); err != nil {
			return
		}
		equal(t, "TrafficClass", p.TrafficClass(), ref.TrafficClass)
		equal(t, "FlowLabel", p.FlowLabel(), ref.FlowLabel)
		equal(t, "PayloadLen", p.PayloadLen(), int(ref.Length))
		equal(t, "NextHeader", p.NextHeader(), uint8(ref.NextHeader))
		equal(t, "HopLimit", p.HopLimit(), ref.HopLimit)
		equalBytes(t, "Src", p.Src().AsSlice(), ref.SrcIP)
		equalBytes(t, "Dst", p.Dst().AsSlice(), ref.DstIP)
		if ref.HopByHop == nil { // gopacket cuts that header from the payload, but not its length
			equalBytes(t, "Payload", p.Payload(), ref.Payload)
		}
	})
}
