package encap

import (
	"bytes"
	"net"
	"testing"
)

// FuzzClampMSS wants a segment to be changed in its announcement and checksum alone,
// which stays as right or wrong as it was, and a second time not at all.
func FuzzClampMSS(f *testing.F) {
	for _, options := range [][]byte{{2, 4, 0x05, 0xb4}, {1, 2, 4, 0x05, 0xb4, 1}, {4, 2, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 2, 4, 0x05, 0xb4}, {2, 3, 5}, {3, 0}} {
		f.Add(syn(TCPSYN, options, 12345), uint16(1300), false)
		f.Add(syn(TCPSYN|TCPACK, options, 0), uint16(0), true)
	}
	f.Fuzz(func(t *testing.T, b []byte, most uint16, partial bool) {
		before := bytes.Clone(b)
		if !ClampMSS(b, most, partial) {
			equalBytes(t, "a segment left alone", b, before)
			return
		}
		changed := 0
		for i := range b {
			switch {
			case b[i] == before[i]:
			case i == 16 || i == 17:
				equal(t, "a partial checksum is changed", partial, false)
			case i < TCPHeaderLen || i >= TCP(before).DataOffset():
				t.Fatalf("byte %d is changed", i)
			default:
				changed++
			}
		}
		if changed == 0 || changed > 2 {
			t.Errorf("%d bytes of options are changed", changed)
		}
		if was, is := Fold(Sum(before, 0)), Fold(Sum(b, 0)); !partial && was%0xffff != is%0xffff {
			t.Errorf("the sum was %#x and is %#x", was, is)
		}
		if ClampMSS(b, most, partial) {
			t.Error("clamped twice")
		}
	})
}

// FuzzICMPErrors wants an error to be a whole packet back to the sender of the one it
// is about, of which it quotes the start, and itself to be answered by none.
func FuzzICMPErrors(f *testing.F) {
	seedFrames(f, EthernetHeaderLen)
	f.Fuzz(func(t *testing.T, packet []byte) {
		for _, put := range []func(b, packet []byte) int{
			func(b, packet []byte) int { return PutTooBig(b, packet, 1350) },
			func(b, packet []byte) int { return PutUnreachable(b, packet, HostUnreachable) },
		} {
			var n int
			b := putInto(t, ICMPErrorLen, func(b []byte) { n = put(b[:ICMPErrorLen], packet) })
			if n == 0 {
				continue
			}
			b = b[:n]
			var quote []byte
			if p, err := ParseIPv4(b); err == nil && len(p) == n {
				m, err := ParseICMPv4(p.Payload())
				if err != nil || !m.IsError() || p.Dst() != IPv4(packet).Src() || p.Src() != IPv4(packet).Dst() ||
					Fold(Sum(b[:IPv4HeaderLen], 0)) != 0xffff || Fold(Sum(m, 0)) != 0xffff {
					t.Fatalf("%x is answered by %x", packet, b)
				}
				quote = m.Payload()
			} else if p, err := ParseIPv6(b); err == nil && len(p) == n {
				m, err := ParseICMPv6(p.Payload())
				sum := Sum(m, PseudoSum6(p.SrcBytes(), p.DstBytes(), ProtoICMPv6, uint32(len(m))))
				if err != nil || !m.IsError() || p.Dst() != IPv6(packet).Src() || p.Src() != IPv6(packet).Dst() || Fold(sum) != 0xffff {
					t.Fatalf("%x is answered by %x", packet, b)
				}
				quote = m.Payload()
			} else {
				t.Fatalf("%x is no packet", b)
			}
			if !bytes.HasPrefix(packet, quote) {
				t.Errorf("%x does not begin as the quoted %x", packet, quote)
			}
			if put(make([]byte, ICMPErrorLen), b) != 0 {
				t.Errorf("an error is answered: %x", b)
			}
		}
	})
}

// FuzzInnerECN wants a mark to be set and nothing else to change but the checksum,
// which stays as right or wrong as it was.
func FuzzInnerECN(f *testing.F) {
	seedFrames(f, 0)
	f.Fuzz(func(t *testing.T, frame []byte) {
		before := bytes.Clone(frame)
		tos, isIP := InnerTOS(frame)
		for ecn := range uint8(4) {
			SetInnerECN(frame, ecn)
			if now, still := InnerTOS(frame); still != isIP || isIP && now != tos&^ECNMask|ecn {
				t.Fatalf("TOS %#x of %x with ECN %d became %#x", tos, before, ecn, now)
			}
		}
		if !isIP {
			equalBytes(t, "a frame without IP", frame, before)
			return
		}
		SetInnerECN(frame, tos)
		eth, _ := ParseEthernet(frame)
		if l3 := eth.L3Offset(); eth.EtherType() == EtherTypeIPv4 && frame[l3+10] == 0 && frame[l3+11] == 0 {
			copy(before[l3+10:], []byte{0, 0}) // 0xffff is the same sum
		}
		equalBytes(t, "there and back", frame, before)
	})
}

// FuzzFindPacketTransport wants a packet's to be its frame's, less the Ethernet
// header.
func FuzzFindPacketTransport(f *testing.F) {
	seedFrames(f, EthernetHeaderLen)
	header := append(make([]byte, 2*MACLen), 0x08, 0x00)
	f.Fuzz(func(t *testing.T, packet []byte) {
		got, ok := FindPacketTransport(packet)
		want, isIP := FindTransport(append(bytes.Clone(header), packet...))
		if isIP {
			want.L3 -= EthernetHeaderLen
			want.L4 -= EthernetHeaderLen
			want.End -= EthernetHeaderLen
		}
		equal(t, "found", ok, isIP)
		equal(t, "transport", got, want)
	})
}

// FuzzVnetHdr wants a header to be read as it is written.
func FuzzVnetHdr(f *testing.F) {
	f.Add(make([]byte, VnetHdrLen))
	f.Add([]byte{1, 0x81, 66, 0, 0xa8, 5, 34, 0, 16, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < VnetHdrLen {
			return
		}
		h := ParseVnetHdr(b)
		equalBytes(t, "Put of Parse", putInto(t, VnetHdrLen, h.Put), b[:VnetHdrLen])
		equal(t, "GSO", h.GSO(), b[1]&0x7f)
	})
}

// FuzzParseMAC wants what is taken to be a MAC to the standard library too, and to be
// printed as it was, but for the case of its letters.
func FuzzParseMAC(f *testing.F) {
	for _, s := range []string{"02:42:0a:00:01:04", "FF:ff:FF:ff:FF:ff", "", "02:42:0a:00:01", "02-42-0a-00-01-04", "02:42:0a:00:01:0g"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := ParseMAC(s)
		want, refErr := net.ParseMAC(s)
		if err != nil {
			if refErr == nil && len(want) == MACLen && len(s) == 17 && s[2] == ':' {
				t.Errorf("%q is refused: %v", s, err)
			}
			return
		}
		if refErr != nil || m.String() != want.String() {
			t.Errorf("%q is %v, want %v (%v)", s, m, want, refErr)
		}
	})
}
