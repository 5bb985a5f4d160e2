package frame

import (
	"bytes"
	"net"
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"pgregory.net/rapid"

	"overtap/dataplane"
	"overtap/encap"
)

const (
	srcMAC = encap.MAC(0x02420a000102)
	dstMAC = encap.MAC(0x02420a000104)
)

// written is the frame that gopacket makes of the spec.
func written(t *rapid.T, s Spec) []byte {
	var ls []gopacket.SerializableLayer
	etherType, v6 := layers.EthernetTypeIPv4, s.IPSrc.Is6()
	if v6 {
		etherType = layers.EthernetTypeIPv6
	}
	if s.Ethernet {
		eth := &layers.Ethernet{SrcMAC: make(net.HardwareAddr, 6), DstMAC: make(net.HardwareAddr, 6), EthernetType: etherType}
		s.Src.Put(eth.SrcMAC)
		s.Dst.Put(eth.DstMAC)
		ls = append(ls, eth)
		if s.VLAN != 0 {
			eth.EthernetType = layers.EthernetTypeDot1Q
			ls = append(ls, &layers.Dot1Q{VLANIdentifier: s.VLAN, Type: etherType})
		}
	}
	proto := map[string]layers.IPProtocol{"tcp": layers.IPProtocolTCP, "udp": layers.IPProtocolUDP, "": layers.IPProtocolICMPv4}[s.Proto]
	var ip gopacket.NetworkLayer
	if v6 {
		if proto == layers.IPProtocolICMPv4 {
			proto = layers.IPProtocolICMPv6
		}
		h := &layers.IPv6{Version: 6, TrafficClass: s.TOS, HopLimit: s.TTL, NextHeader: proto, SrcIP: s.IPSrc.AsSlice(), DstIP: s.IPDst.AsSlice()}
		ls, ip = append(ls, h), h
	} else {
		h := &layers.IPv4{Version: 4, TOS: s.TOS, TTL: s.TTL, Protocol: proto, SrcIP: s.IPSrc.AsSlice(), DstIP: s.IPDst.AsSlice()}
		if s.DF {
			h.Flags = layers.IPv4DontFragment
		}
		ls, ip = append(ls, h), h
	}
	headers := 0
	var sums interface {
		SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
	}
	switch {
	case s.Proto == "tcp":
		h := &layers.TCP{SrcPort: layers.TCPPort(s.SPort), DstPort: layers.TCPPort(s.DPort), ACK: true}
		ls, sums, headers = append(ls, h), h, 20
	case s.Proto == "udp":
		h := &layers.UDP{SrcPort: layers.UDPPort(s.SPort), DstPort: layers.UDPPort(s.DPort)}
		ls, sums, headers = append(ls, h), h, 8
	case v6:
		h := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(encap.ICMPv6EchoRequest, 0)}
		ls, sums, headers = append(ls, h, gopacket.Payload(make([]byte, 4))), h, 8
	default:
		ls, headers = append(ls, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(encap.ICMPv4EchoRequest, 0)}), 8
	}
	if sums != nil {
		if err := sums.SetNetworkLayerForChecksum(ip); err != nil {
			t.Fatal(err)
		}
	}
	headers += encap.IPv4HeaderLen
	if v6 {
		headers += encap.IPv6HeaderLen - encap.IPv4HeaderLen
	}
	ls = append(ls, gopacket.Payload(make([]byte, max(s.Size-headers, 0))))
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ls...); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// What the spec says is, byte for byte, what gopacket writes.
func TestPut(t *testing.T) {
	addr := func(v6 bool, n byte) netip.Addr {
		if v6 {
			return netip.AddrFrom16([16]byte{0: 0x20, 1: 0x01, 2: 0x0d, 3: 0xb8, 15: n})
		}
		return netip.AddrFrom4([4]byte{198, 51, 100, n})
	}
	rapid.Check(t, func(t *rapid.T) {
		s := Spec{
			Ethernet: rapid.Bool().Draw(t, "ethernet"), TOS: rapid.Byte().Draw(t, "tos"), TTL: rapid.Byte().Draw(t, "ttl"),
			DF: rapid.Bool().Draw(t, "df"), Proto: rapid.SampledFrom([]string{"", "tcp", "udp"}).Draw(t, "proto"),
			Size: rapid.SampledFrom([]int{0, 60, 101, 1500, 65535}).Draw(t, "size"),
		}
		v6 := false
		if s.Ethernet {
			s.Src, s.Dst, v6 = srcMAC, dstMAC, rapid.Bool().Draw(t, "v6")
			s.VLAN = rapid.SampledFrom([]uint16{0, 1, 4094}).Draw(t, "vlan")
		}
		s.IPSrc, s.IPDst = addr(v6, rapid.Byte().Draw(t, "src")), addr(v6, rapid.Byte().Draw(t, "dst"))
		if s.Proto != "" {
			s.SPort, s.DPort = rapid.Uint16().Draw(t, "sport"), rapid.Uint16().Draw(t, "dport")
		}
		var p dataplane.Query
		if err := s.Put(&p); err != nil {
			t.Fatal(err)
		}
		got := append(bytes.Clone(p.Frame), make([]byte, p.Size-len(p.Frame))...)
		want := written(t, s)
		if s.Ethernet { // gopacket pads to the least that Ethernet carries
			want = want[:min(len(got), len(want))]
		}
		if !bytes.Equal(got, want) || p.Packet == s.Ethernet {
			t.Fatalf("%+v makes %x, want %x", s, got, want)
		}
	})
}

func TestQuestions(t *testing.T) {
	for _, c := range []struct {
		spec Spec
		dst  encap.MAC
	}{
		{Spec{Ethernet: true, Src: srcMAC, IPSrc: netip.MustParseAddr("198.51.100.1"), ARP: netip.MustParseAddr("198.51.100.2")}, encap.BroadcastMAC},
		{Spec{Ethernet: true, Src: srcMAC, Dst: dstMAC, IPSrc: netip.MustParseAddr("198.51.100.1"), ARP: netip.MustParseAddr("198.51.100.2")}, dstMAC},
		{Spec{Ethernet: true, Src: srcMAC, IPSrc: netip.MustParseAddr("2001:db8::1"), ARP: netip.MustParseAddr("2001:db8::2")}, 0x3333_ff00_0002},
	} {
		var p dataplane.Query
		if err := c.spec.Put(&p); err != nil {
			t.Fatal(err)
		}
		eth, err := encap.ParseEthernet(p.Frame)
		if err != nil || eth.Dst() != c.dst || eth.Src() != srcMAC {
			t.Fatalf("%+v makes %x, %v", c.spec, p.Frame, err)
		}
		if c.spec.ARP.Is4() {
			if a, err := encap.ParseARP(eth.Payload()); err != nil || a.TargetIP() != c.spec.ARP || a.SenderIP() != c.spec.IPSrc || a.SenderMAC() != srcMAC {
				t.Errorf("%+v makes %x, %v", c.spec, p.Frame, err)
			}
			continue
		}
		ip, err := encap.ParseIPv6(eth.Payload())
		if err != nil {
			t.Fatal(err)
		}
		if n, err := encap.ParseND(ip.Payload()); err != nil || n.Target() != c.spec.ARP || n.IsAdvert() {
			t.Errorf("%+v makes %x, %v", c.spec, p.Frame, err)
		}
	}
}
