package encap

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

const sampleTCP = "9c40 01bb 00000007 fffffff9 61 98 0200 abcd 0000 01010402 aabbcc"

func TestTCP(t *testing.T) {
	s, err := ParseTCP(fromHex(t, sampleTCP))
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "SrcPort", s.SrcPort(), 40000)
	equal(t, "DstPort", s.DstPort(), 443)
	equal(t, "Seq", s.Seq(), 7)
	equal(t, "Ack", s.Ack(), 0xffff_fff9)
	equal(t, "DataOffset", s.DataOffset(), 24)
	equal(t, "Flags", s.Flags(), TCPCWR|TCPACK|TCPPSH)
	equal(t, "Window", s.Window(), 512)
	equal(t, "Checksum", s.Checksum(), 0xabcd)
	equalBytes(t, "Options", s.Options(), fromHex(t, "01010402"))
	equalBytes(t, "Payload", s.Payload(), fromHex(t, "aabbcc"))
}

const sampleUDP = "14e9 1b58 000b abcd aabbcc"

func TestUDP(t *testing.T) {
	b := fromHex(t, sampleUDP)
	d, err := ParseUDP(append(bytes.Clone(b), 0, 0))
	if err != nil {
		t.Fatal(err)
	}
	equalBytes(t, "view", d, b)
	equal(t, "SrcPort", d.SrcPort(), 5353)
	equal(t, "DstPort", d.DstPort(), 7000)
	equal(t, "Length", d.Length(), 11)
	equal(t, "Checksum", d.Checksum(), 0xabcd)
	equalBytes(t, "Payload", d.Payload(), fromHex(t, "aabbcc"))
}

func TestICMPv4(t *testing.T) {
	m, err := ParseICMPv4(fromHex(t, "08 00 abcd 0003 0004 aabb"))
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "Type", m.Type(), ICMPv4EchoRequest)
	equal(t, "Code", m.Code(), 0)
	equal(t, "Checksum", m.Checksum(), 0xabcd)
	equal(t, "ID", m.ID(), 3)
	equal(t, "Seq", m.Seq(), 4)
	equalBytes(t, "Payload", m.Payload(), fromHex(t, "aabb"))

	m, err = ParseICMPv4(fromHex(t, "03 04 abcd 0000 05aa 45"))
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "Code", m.Code(), ICMPv4CodeFragNeeded)
	equal(t, "MTU", m.MTU(), 1450)
	for _, typ := range []uint8{3, 4, 5, 11, 12} {
		equal(t, "error", ICMPv4{typ, 0, 0, 0, 0, 0, 0, 0}.IsError(), true)
	}
	for _, typ := range []uint8{0, 8, 9, 10, 13, 14, 40} {
		equal(t, "error", ICMPv4{typ, 0, 0, 0, 0, 0, 0, 0}.IsError(), false)
	}
}

func TestICMPv6(t *testing.T) {
	m, err := ParseICMPv6(fromHex(t, "81 00 abcd 0003 0004 aabb"))
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "Type", m.Type(), ICMPv6EchoReply)
	equal(t, "Code", m.Code(), 0)
	equal(t, "Checksum", m.Checksum(), 0xabcd)
	equal(t, "ID", m.ID(), 3)
	equal(t, "Seq", m.Seq(), 4)
	equalBytes(t, "Payload", m.Payload(), fromHex(t, "aabb"))

	m, err = ParseICMPv6(fromHex(t, "02 00 abcd 00010500 60"))
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "Type", m.Type(), ICMPv6PacketTooBig)
	equal(t, "MTU", m.MTU(), 66816)
	for _, typ := range []uint8{1, 2, 3, 4, 100, 127, 137} {
		equal(t, "error", ICMPv6{typ, 0, 0, 0, 0, 0, 0, 0}.IsError(), true)
	}
	for _, typ := range []uint8{128, 129, 133, 134, 135, 136, 143} {
		equal(t, "error", ICMPv6{typ, 0, 0, 0, 0, 0, 0, 0}.IsError(), false)
	}
}

func TestTransportHeadersRefused(t *testing.T) {
	tcp := func(b []byte) error { _, err := ParseTCP(b); return err }
	udp := func(b []byte) error { _, err := ParseUDP(b); return err }
	icmp4 := func(b []byte) error { _, err := ParseICMPv4(b); return err }
	icmp6 := func(b []byte) error { _, err := ParseICMPv6(b); return err }
	tb, ub := fromHex(t, sampleTCP), fromHex(t, sampleUDP)
	for _, c := range []struct {
		name  string
		parse func([]byte) error
		b     []byte
		want  error
	}{
		{"TCP: nothing", tcp, nil, ErrShort},
		{"TCP: cut in the header", tcp, tb[:19], ErrShort},
		{"TCP: cut in the options", tcp, tb[:23], ErrShort},
		{"TCP: header alone", tcp, tb[:24], nil},
		{"TCP: offset of 16 bytes", tcp, patched(tb, 12, 0x40), ErrBadHeader},
		{"TCP: offset beyond the segment", tcp, patched(tb, 12, 0x70), ErrShort},
		{"UDP: nothing", udp, nil, ErrShort},
		{"UDP: cut in the header", udp, ub[:7], ErrShort},
		{"UDP: cut in the payload", udp, ub[:10], ErrShort},
		{"UDP: length of 7 bytes", udp, patched(ub, 4, 0, 7), ErrBadHeader},
		{"UDP: length zero", udp, patched(ub, 4, 0, 0), ErrBadHeader},
		{"UDP: header alone", udp, patched(ub, 4, 0, 8), nil},
		{"ICMPv4: cut", icmp4, make([]byte, 7), ErrShort},
		{"ICMPv6: cut", icmp6, make([]byte, 7), ErrShort},
	} {
		if err := c.parse(c.b); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

func FuzzTCP(f *testing.F) {
	seedFrames(f, EthernetHeaderLen+IPv4HeaderLen)
	f.Add(fromHex(f, sampleTCP))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseTCP(b)
		if err != nil {
			return
		}
		equal(t, "header and payload are all", len(s.Options())+len(s.Payload()), len(b)-TCPHeaderLen)
		var ref layers.TCP
		if err := ref.DecodeFromBytes(b, gopacket.NilDecodeFeedback); err != nil {
			return
		}
		equal(t, "SrcPort", s.SrcPort(), uint16(ref.SrcPort))
		equal(t, "DstPort", s.DstPort(), uint16(ref.DstPort))
		equal(t, "Seq", s.Seq(), ref.Seq)
		equal(t, "Ack", s.Ack(), ref.Ack)
		equal(t, "DataOffset", s.DataOffset(), int(ref.DataOffset)*4)
		equal(t, "Window", s.Window(), ref.Window)
		equal(t, "Checksum", s.Checksum(), ref.Checksum)
		for bit, want := range map[uint8]bool{TCPFIN: ref.FIN, TCPSYN: ref.SYN, TCPRST: ref.RST, TCPPSH: ref.PSH,
			TCPACK: ref.ACK, TCPURG: ref.URG, TCPECE: ref.ECE, TCPCWR: ref.CWR} {
			equal(t, "flag", s.Flags()&bit != 0, want)
		}
		equalBytes(t, "Payload", s.Payload(), ref.Payload)
	})
}

func FuzzUDP(f *testing.F) {
	seedFrames(f, EthernetHeaderLen+IPv4HeaderLen)
	f.Add(fromHex(f, sampleUDP))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := ParseUDP(b)
		if err != nil {
			return
		}
		var ref layers.UDP
		if err := ref.DecodeFromBytes(b, gopacket.NilDecodeFeedback); err != nil {
			t.Fatalf("accepted what gopacket refuses: %v", err)
		}
		equal(t, "SrcPort", d.SrcPort(), uint16(ref.SrcPort))
		equal(t, "DstPort", d.DstPort(), uint16(ref.DstPort))
		equal(t, "Length", d.Length(), int(ref.Length))
		equal(t, "Checksum", d.Checksum(), ref.Checksum)
		equalBytes(t, "Payload", d.Payload(), ref.Payload)
	})
}

func FuzzICMP(f *testing.F) {
	seedFrames(f, EthernetHeaderLen+IPv4HeaderLen)

	f.Fuzz(func(t *testing.T, b []byte) {
		m4, err4 := ParseICMPv4(b)
		m6, err6 := ParseICMPv6(b)
		var ref4 layers.ICMPv4
		refErr := ref4.DecodeFromBytes(b, gopacket.NilDecodeFeedback)
		if (err4 == nil) != (refErr == nil) || (err6 == nil) != (err4 == nil) {
			t.Fatalf("ICMPv4: %v, ICMPv6: %v, gopacket: %v", err4, err6, refErr)
		}
		if err4 != nil {
			return
		}
		equal(t, "v4 Type", m4.Type(), ref4.TypeCode.Type())
		equal(t, "v4 Code", m4.Code(), ref4.TypeCode.Code())
		equal(t, "v4 Checksum", m4.Checksum(), ref4.Checksum)
		equal(t, "v4 ID", m4.ID(), ref4.Id)
		equal(t, "v4 Seq", m4.Seq(), ref4.Seq)
		equal(t, "v4 MTU", m4.MTU(), ref4.Seq)
		equalBytes(t, "v4 Payload", m4.Payload(), ref4.Payload)

		var ref6 layers.ICMPv6
		var echo layers.ICMPv6Echo
		if err := ref6.DecodeFromBytes(b, gopacket.NilDecodeFeedback); err != nil {
			t.Fatal(err)
		}
		if err := echo.DecodeFromBytes(ref6.Payload, gopacket.NilDecodeFeedback); err != nil {
			t.Fatal(err)
		}
		equal(t, "v6 Type", m6.Type(), ref6.TypeCode.Type())
		equal(t, "v6 Code", m6.Code(), ref6.TypeCode.Code())
		equal(t, "v6 Checksum", m6.Checksum(), ref6.Checksum)
		equal(t, "v6 ID", m6.ID(), echo.Identifier)
		equal(t, "v6 Seq", m6.Seq(), echo.SeqNumber)
		equal(t, "v6 MTU", m6.MTU(), uint32(echo.Identifier)<<16|uint32(echo.SeqNumber))
		equalBytes(t, "v6 Payload", m6.Payload(), b[ICMPHeaderLen:])
	})
}
