package dataplane_test

import (
	"encoding/binary"
	"net"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"overtap/dataplane/netio/netiotest"
	"overtap/encap"
)

// MACs of containers; the first octet makes them local and unicast.
const (
	macA     encap.MAC = 0x0242_0a00_0001
	macB     encap.MAC = 0x0242_0a00_0002
	macC     encap.MAC = 0x0242_0a00_0003
	groupMAC encap.MAC = 0x0100_5e01_0203
	etherLab           = 0x88b5 // IEEE 802: for local experiments
)

// plainFrame is a frame that is not IP.
func plainFrame(dst, src encap.MAC, payload string) netiotest.Frame {
	b := make([]byte, encap.EthernetHeaderLen, encap.EthernetHeaderLen+len(payload))
	dst.Put(b)
	src.Put(b[encap.MACLen:])
	binary.BigEndian.PutUint16(b[2*encap.MACLen:], etherLab)
	return netiotest.Frame{Data: append(b, payload...)}
}

// tagged puts an 802.1Q tag into a frame.
func tagged(f netiotest.Frame, vlan uint16) netiotest.Frame {
	b := append([]byte(nil), f.Data[:2*encap.MACLen]...)
	b = binary.BigEndian.AppendUint16(b, encap.EtherTypeVLAN)
	b = binary.BigEndian.AppendUint16(b, vlan)
	return netiotest.Frame{VNet: f.VNet, Data: append(b, f.Data[2*encap.MACLen:]...)}
}

// flowSpec describes a TCP or UDP packet of one inner flow; gopacket serialises
// it.
type flowSpec struct {
	src, dst   encap.MAC
	v6, udp    bool
	frag       bool // IPv4: routers may fragment
	tags       int
	tos        uint8
	hops       uint8 // left out of the TTL or hop limit
	id         uint16
	ipOptions  int // bytes of IPv4 options or of an IPv6 destination options header, a multiple of 8
	tcpOptions int // bytes, a multiple of 4
	seq        uint32
	tcpFlags   uint8
}

func (s flowSpec) gsoType() uint8 {
	ecn := uint8(0)
	if s.tcpFlags&encap.TCPCWR != 0 {
		ecn = encap.VnetGSOECN
	}
	switch {
	case s.udp:
		return encap.VnetGSOUDPL4
	case s.v6:
		return encap.VnetGSOTCPv6 | ecn
	}
	return encap.VnetGSOTCPv4 | ecn
}

// l3, l4 and payloadAt are where the headers end in the flow's frames.
func (s flowSpec) l3() int { return encap.EthernetHeaderLen + s.tags*encap.VLANTagLen }

func (s flowSpec) l4() int {
	if s.v6 {
		return s.l3() + encap.IPv6HeaderLen + s.ipOptions
	}
	return s.l3() + encap.IPv4HeaderLen + s.ipOptions
}

func (s flowSpec) payloadAt() int {
	if s.udp {
		return s.l4() + encap.UDPHeaderLen
	}
	return s.l4() + encap.TCPHeaderLen + s.tcpOptions
}

func (s flowSpec) sumOffset() int {
	if s.udp {
		return 6
	}
	return 16
}

// complete is the flow's packet with that payload, lengths and checksums right.
func (s flowSpec) complete(tb testing.TB, payload []byte) []byte {
	tb.Helper()
	var (
		src, dst [8]byte
		ls       []gopacket.SerializableLayer
		network  gopacket.NetworkLayer
	)
	binary.BigEndian.PutUint64(src[:], uint64(s.src)<<16)
	binary.BigEndian.PutUint64(dst[:], uint64(s.dst)<<16)
	proto, etherType := layers.IPProtocolTCP, layers.EthernetTypeIPv4
	if s.udp {
		proto = layers.IPProtocolUDP
	}
	if s.v6 {
		etherType = layers.EthernetTypeIPv6
	}
	types := []layers.EthernetType{etherType, layers.EthernetTypeDot1Q, layers.EthernetTypeQinQ}
	ls = append(ls, &layers.Ethernet{SrcMAC: src[:6], DstMAC: dst[:6], EthernetType: types[s.tags]})
	for i := s.tags - 1; i >= 0; i-- {
		ls = append(ls, &layers.Dot1Q{VLANIdentifier: uint16(100 + i), Priority: 5, Type: types[i]})
	}
	if s.v6 {
		ip := &layers.IPv6{
			Version: 6, TrafficClass: s.tos, FlowLabel: 0x54321, HopLimit: 61 - s.hops, NextHeader: proto,
			SrcIP: net.ParseIP("2001:db8::1"), DstIP: net.ParseIP("2001:db8:1::2"),
		}
		ls, network = append(ls, ip), ip
		if s.ipOptions > 0 {
			ip.NextHeader = layers.IPProtocolIPv6Destination
			ext := make([]byte, s.ipOptions) // PadN fills it
			ext[0], ext[1], ext[2], ext[3] = byte(proto), byte(s.ipOptions/8-1), 1, byte(s.ipOptions-4)
			ls = append(ls, gopacket.Payload(ext))
		}
	} else {
		ip := &layers.IPv4{
			Version: 4, TOS: s.tos, Id: s.id, TTL: 61 - s.hops, Protocol: proto,
			SrcIP: net.IPv4(198, 51, 100, 1), DstIP: net.IPv4(203, 0, 113, 2),
		}
		if !s.frag {
			ip.Flags = layers.IPv4DontFragment
		}
		for range s.ipOptions {
			ip.Options = append(ip.Options, layers.IPv4Option{OptionType: 1})
		}
		ls, network = append(ls, ip), ip
	}
	if s.udp {
		u := &layers.UDP{SrcPort: 5001, DstPort: 5002}
		if err := u.SetNetworkLayerForChecksum(network); err != nil {
			tb.Fatal(err)
		}
		ls = append(ls, u)
	} else {
		ls = append(ls, s.tcp(tb, network))
	}
	buf := gopacket.NewSerializeBuffer()
	opts := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(buf, opts, append(ls, gopacket.Payload(payload))...); err != nil {
		tb.Fatalf("serialise a test frame: %v", err)
	}
	if n := len(buf.Bytes()); n != max(s.payloadAt()+len(payload), 60) { // gopacket pads
		tb.Fatalf("a test frame of %d bytes of payload has %d bytes, want %d of headers", len(payload), n, s.payloadAt())
	}
	frame := buf.Bytes()[:s.payloadAt()+len(payload)]
	if field := frame[s.l4()+s.sumOffset():]; s.udp && field[0] == 0 && field[1] == 0 {
		field[0], field[1] = 0xff, 0xff // RFC 768; gopacket leaves it
	}
	return frame
}

func (s flowSpec) tcp(tb testing.TB, network gopacket.NetworkLayer) *layers.TCP {
	tb.Helper()
	t := &layers.TCP{
		SrcPort: 5001, DstPort: 5002, Seq: s.seq, Ack: 0x1020304, Window: 4096, Urgent: 0,
		FIN: s.tcpFlags&encap.TCPFIN != 0, SYN: s.tcpFlags&encap.TCPSYN != 0,
		RST: s.tcpFlags&encap.TCPRST != 0, PSH: s.tcpFlags&encap.TCPPSH != 0,
		ACK: s.tcpFlags&encap.TCPACK != 0, URG: s.tcpFlags&encap.TCPURG != 0,
		ECE: s.tcpFlags&encap.TCPECE != 0, CWR: s.tcpFlags&encap.TCPCWR != 0,
	}
	for range s.tcpOptions {
		t.Options = append(t.Options, layers.TCPOption{OptionType: layers.TCPOptionKindNop})
	}
	if err := t.SetNetworkLayerForChecksum(network); err != nil {
		tb.Fatal(err)
	}
	return t
}

// partial is the flow's packet with that payload as a host with checksum
// offload hands it over: the checksum field holds the pseudo-header's sum.
func (s flowSpec) partial(tb testing.TB, payload []byte) netiotest.Frame {
	tb.Helper()
	b := s.complete(tb, payload)
	binary.BigEndian.PutUint16(b[s.l4()+s.sumOffset():], slowPseudo(b, s.l3(), s.l4(), s.v6))
	return netiotest.Frame{Data: b, VNet: encap.VnetHdr{
		Flags: encap.VnetNeedsCsum, CsumStart: uint16(s.l4()), CsumOffset: uint16(s.sumOffset()),
	}}
}

// GSO packet is partial with segments of size bytes to be cut.
func (s flowSpec) gsoPacket(tb testing.TB, payload []byte, size int) netiotest.Frame {
	tb.Helper()
	f := s.partial(tb, payload)
	f.VNet.GSOType, f.VNet.GSOSize, f.VNet.HdrLen = s.gsoType(), uint16(size), uint16(s.payloadAt())
	return f
}

// segments is the oracle of segmentation: each segment built again by gopacket.
func (s flowSpec) segments(tb testing.TB, payload []byte, size int) [][]byte {
	tb.Helper()
	var all [][]byte
	for first := true; len(payload) > 0; first = false {
		one, n := s, min(size, len(payload))
		if !first {
			one.tcpFlags &^= encap.TCPCWR
		}
		if n < len(payload) {
			one.tcpFlags &^= encap.TCPFIN | encap.TCPPSH
		}
		all = append(all, one.complete(tb, payload[:n]))
		payload = payload[n:]
		s.id++
		s.seq += uint32(n)
	}
	return all
}

// slowSum is the Internet checksum's sum by the letter of RFC 1071, folded.
func slowSum(bs ...[]byte) uint16 {
	sum := uint32(0)
	for _, b := range bs {
		for i := 0; i < len(b); i += 2 {
			word := uint32(b[i]) << 8
			if i+1 < len(b) {
				word |= uint32(b[i+1])
			}
			if sum += word; sum > 0xffff {
				sum -= 0xffff
			}
		}
	}
	return uint16(sum)
}

// slowPseudo is the pseudo-header's sum of the packet in frame.
func slowPseudo(frame []byte, l3, l4 int, v6 bool) uint16 {
	ip := frame[l3:]
	t, _ := encap.FindTransport(frame)
	length := t.End - l4
	tail := []byte{byte(length >> 24), byte(length >> 16), byte(length >> 8), byte(length), 0, 0, 0, t.Proto}
	if v6 {
		return slowSum(ip[8:40], tail)
	}
	return slowSum(ip[12:20], tail)
}

// sumsUp reports whether the IPv4 header's and the transport's checksum of the
// packet in frame are right. A UDP packet without a checksum is not.
func sumsUp(frame []byte) bool {
	t, ok := encap.FindTransport(frame)
	if !ok {
		return false
	}
	if !t.V6 && slowSum(frame[t.L3:t.L4]) != 0xffff {
		return false
	}
	if t.Proto == encap.ProtoUDP && binary.BigEndian.Uint16(frame[t.L4+6:]) == 0 {
		return false
	}
	pseudo := slowPseudo(frame, t.L3, t.L4, t.V6)
	return slowSum([]byte{byte(pseudo >> 8), byte(pseudo)}, frame[t.L4:t.End]) == 0xffff
}

// pattern is n bytes that differ from place to place.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}

// cut is a slow twin of what the receiving kernel does with a frame that was
// written to a TAP: it finishes the checksum and cuts GSO packets.
func cut(tb testing.TB, f netiotest.Frame) [][]byte {
	tb.Helper()
	if f.VNet.Flags&encap.VnetNeedsCsum == 0 {
		return [][]byte{f.Data}
	}
	t, ok := encap.FindTransport(f.Data)
	if !ok || int(f.VNet.CsumStart) != t.L4 {
		tb.Fatalf("%+v of %x", f.VNet, f.Data)
	}
	headers, size := int(f.VNet.HdrLen), int(f.VNet.GSOSize)
	if f.VNet.GSO() == encap.VnetGSONone {
		headers, size = len(f.Data), 1
	}
	var all [][]byte
	rest, id, seq := f.Data[headers:], uint16(0), uint32(0)
	for {
		n := min(size, len(rest))
		b := append(append([]byte(nil), f.Data[:headers]...), rest[:n]...)
		rest = rest[n:]
		length := len(b) - t.L4
		if f.VNet.GSO() == encap.VnetGSONone {
			length = t.End - t.L4
		} else if t.V6 {
			binary.BigEndian.PutUint16(b[t.L3+4:], uint16(len(b)-t.L3-encap.IPv6HeaderLen))
		} else {
			binary.BigEndian.PutUint16(b[t.L3+2:], uint16(len(b)-t.L3))
			add16(b[t.L3+4:], id)
			copy(b[t.L3+10:], []byte{0, 0})
			binary.BigEndian.PutUint16(b[t.L3+10:], ^slowSum(b[t.L3:t.L4]))
		}
		if t.Proto == encap.ProtoUDP {
			binary.BigEndian.PutUint16(b[t.L4+4:], uint16(length))
		} else {
			binary.BigEndian.PutUint32(b[t.L4+4:], binary.BigEndian.Uint32(b[t.L4+4:])+seq)
			if id > 0 {
				b[t.L4+13] &^= encap.TCPCWR
			}
			if len(rest) > 0 {
				b[t.L4+13] &^= encap.TCPFIN | encap.TCPPSH
			}
		}
		field := b[f.VNet.CsumStart+f.VNet.CsumOffset:]
		binary.BigEndian.PutUint16(field, slowPseudo(b, t.L3, t.L4, t.V6))
		sum := ^slowSum(b[t.L4 : t.L4+length])
		if sum == 0 && t.Proto == encap.ProtoUDP {
			sum = 0xffff
		}
		binary.BigEndian.PutUint16(field, sum)
		all = append(all, b)
		if len(rest) == 0 {
			return all
		}
		id++
		seq += uint32(n)
	}
}

func add16(b []byte, n uint16) { binary.BigEndian.PutUint16(b, binary.BigEndian.Uint16(b)+n) }

// cutAll is cut of each frame in turn.
func cutAll(tb testing.TB, frames []netiotest.Frame) (all [][]byte) {
	tb.Helper()
	for _, f := range frames {
		all = append(all, cut(tb, f)...)
	}
	return all
}
