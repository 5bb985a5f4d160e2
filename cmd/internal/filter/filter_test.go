package filter

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"overtap/dataplane"
)

// frame serialises layers, lengths and checksums included.
func frame(tb testing.TB, ls ...gopacket.SerializableLayer) []byte {
	tb.Helper()
	var network gopacket.NetworkLayer
	for _, l := range ls {
		switch l := l.(type) {
		case gopacket.NetworkLayer:
			network = l
		case *layers.TCP:
			_ = l.SetNetworkLayerForChecksum(network)
		case *layers.UDP:
			_ = l.SetNetworkLayerForChecksum(network)
		case *layers.ICMPv6:
			_ = l.SetNetworkLayerForChecksum(network)
		}
	}
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ls...); err != nil {
		tb.Fatal(err)
	}
	return slices.Clone(b.Bytes())
}

var (
	macA, macB = net.HardwareAddr{2, 0x42, 10, 0, 0, 1}, net.HardwareAddr{2, 0x42, 10, 0, 0, 2}
	ipA, ipB   = net.IP{10, 0, 1, 1}, net.IP{10, 0, 2, 2}
	ip6A, ip6B = net.ParseIP("2001:db8::1"), net.ParseIP("2001:db8:1::2")
)

func ethernet(t layers.EthernetType) *layers.Ethernet {
	return &layers.Ethernet{SrcMAC: macA, DstMAC: macB, EthernetType: t}
}

func ipv4(p layers.IPProtocol) *layers.IPv4 {
	return &layers.IPv4{Version: 4, TTL: 64, Protocol: p, SrcIP: ipA, DstIP: ipB}
}

func ipv6(p layers.IPProtocol) *layers.IPv6 {
	return &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: p, SrcIP: ip6A, DstIP: ip6B}
}

// samples are frames by name, on network blue, VNI 100, of peer 192.0.2.2.
func samples(tb testing.TB) map[string]*dataplane.Record {
	http, dns := &layers.TCP{SrcPort: 40000, DstPort: 80, SYN: true}, &layers.UDP{SrcPort: 5353, DstPort: 53}
	fragmented := ipv4(layers.IPProtocolUDP)
	fragmented.FragOffset = 100
	arp := &layers.ARP{AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4,
		Operation: 1, SourceHwAddress: macA, SourceProtAddress: ipA, DstHwAddress: make([]byte, 6), DstProtAddress: ipB}
	broadcast := ethernet(layers.EthernetTypeARP)
	broadcast.DstMAC = net.HardwareAddr{255, 255, 255, 255, 255, 255}
	hop := []byte{17, 0, 1, 4, 0, 0, 0, 0, 0x14, 0xe9, 0, 53, 0, 8, 0, 0}
	all := map[string]*dataplane.Record{}
	for name, b := range map[string][]byte{
		"tcp":      frame(tb, ethernet(layers.EthernetTypeIPv4), ipv4(layers.IPProtocolTCP), http, gopacket.Payload("hello")),
		"udp":      frame(tb, ethernet(layers.EthernetTypeIPv4), ipv4(layers.IPProtocolUDP), dns, gopacket.Payload("question")),
		"fragment": frame(tb, ethernet(layers.EthernetTypeIPv4), fragmented, gopacket.Payload{0, 53, 0, 53, 0, 9, 0, 0, 1}),
		"icmp":     frame(tb, ethernet(layers.EthernetTypeIPv4), ipv4(layers.IPProtocolICMPv4), &layers.ICMPv4{TypeCode: 0x800}),
		"tcp6":     frame(tb, ethernet(layers.EthernetTypeIPv6), ipv6(layers.IPProtocolTCP), http),
		"udp6":     frame(tb, ethernet(layers.EthernetTypeIPv6), ipv6(layers.IPProtocolIPv6HopByHop), gopacket.Payload(hop)),
		"icmp6":    frame(tb, ethernet(layers.EthernetTypeIPv6), ipv6(layers.IPProtocolICMPv6), &layers.ICMPv6{TypeCode: 0x8000}, gopacket.Payload{0, 0, 0, 0}),
		"arp":      frame(tb, broadcast, arp),
		"tagged": frame(tb, ethernet(layers.EthernetTypeDot1Q), &layers.Dot1Q{VLANIdentifier: 42, Type: layers.EthernetTypeIPv4},
			ipv4(layers.IPProtocolTCP), http),
		"other": frame(tb, ethernet(0x88b5), gopacket.Payload("lab")),
		"short": {1, 2, 3},
	} {
		all[name] = &dataplane.Record{Network: "blue", Kind: dataplane.KindVXLAN, VNI: 100, Frame: b, Length: len(b), Peer: netip.MustParseAddr("192.0.2.2")}
	}
	tun := *all["udp"]
	tun.Network, tun.Kind, tun.VNI, tun.Frame, tun.Peer = "green", dataplane.KindIPIP, 0, tun.Frame[14:], netip.Addr{}
	all["packet"] = &tun
	return all
}

func TestFilter(t *testing.T) {
	all := samples(t)
	names := func(want string) string {
		if want == "all" {
			want = "arp fragment icmp icmp6 other packet short tagged tcp tcp6 udp udp6"
		}
		return want
	}
	for expression, want := range map[string]string{
		"":                                  "all",
		"ip":                                "fragment icmp packet tagged tcp udp",
		"ip6":                               "icmp6 tcp6 udp6",
		"arp":                               "arp",
		"tcp":                               "tagged tcp tcp6",
		"udp":                               "fragment packet udp udp6",
		"icmp":                              "icmp",
		"icmp6":                             "icmp6",
		"vlan":                              "tagged",
		"vlan 42":                           "tagged",
		"vlan 43":                           "",
		"vlan and tcp":                      "tagged",
		"host 10.0.1.1":                     "arp fragment icmp packet tagged tcp udp",
		"10.0.1.1":                          "arp fragment icmp packet tagged tcp udp",
		"src 10.0.1.1 and udp":              "fragment packet udp",
		"dst host 10.0.1.1":                 "",
		"src or dst host 10.0.2.2 and tcp":  "tagged tcp",
		"src and dst net 10.0.0.0/8 and ip": "fragment icmp packet tagged tcp udp",
		"src and dst host 10.0.1.1":         "",
		"ip host 10.0.1.1 and not tcp":      "fragment icmp packet udp",
		"arp host 10.0.2.2":                 "arp",
		"arp src 10.0.2.2":                  "",
		"net 10.0.1.0/24":                   "arp fragment icmp packet tagged tcp udp",
		"dst net 10.0.1.0/24":               "",
		"host 2001:db8::1":                  "icmp6 tcp6 udp6",
		"ip6 dst net 2001:db8:1::/48":       "icmp6 tcp6 udp6",
		"port 80":                           "tagged tcp tcp6",
		"src port 80":                       "",
		"tcp dst port 80 and ip":            "tagged tcp",
		"port 53":                           "packet udp udp6",
		"udp port 53 or 80":                 "packet udp udp6",
		"port 53 or 80":                     "packet tagged tcp tcp6 udp udp6",
		"portrange 52-60":                   "packet udp udp6",
		"tcp portrange 52-60":               "",
		"tcp or udp and ip6":                "tcp6 udp6", // from left to right
		"tcp or (udp and ip6)":              "tagged tcp tcp6 udp6",
		"not tcp and not udp and ip":        "icmp",
		"!(tcp||udp)&&ip":                   "icmp",
		"not not icmp":                      "icmp",
		"ether src 02:42:0a:00:00:01":       "arp fragment icmp icmp6 other tagged tcp tcp6 udp udp6",
		"ether dst 02:42:0a:00:00:02 and not ip and not ip6": "other",
		"ether host 02:42:0a:00:00:02 and icmp":              "icmp",
		"ether broadcast":                                    "arp",
		"ether multicast":                                    "arp",
		"vni 100 and icmp":                                   "icmp",
		"vni 7":                                              "",
		"peer 192.0.2.2 and udp":                             "fragment udp udp6",
		"peer 192.0.2.0/24 and udp":                          "fragment udp udp6",
		"peer 192.0.2.3":                                     "",
		"less 3":                                             "short",
		"greater 61 and tcp":                                 "tcp6",
		"host 10.9.9.9 or 10.0.2.2 and port 53":              "packet udp",
		"host 10.0.1.1 and (port 53 or 80 or 1)":             "packet tagged tcp udp",
		"icmp or\tarp":                                       "arp icmp",
	} {
		f, err := Parse(expression)
		if err != nil {
			t.Errorf("%q: %v", expression, err)
			continue
		}
		var got []string
		for name, r := range all {
			if f.Match(r) {
				got = append(got, name)
			}
		}
		slices.Sort(got)
		if g := strings.Join(got, " "); g != names(want) {
			t.Errorf("%q matches %s, want %s", expression, g, names(want))
		}
	}
}

func TestMistakesAreLocated(t *testing.T) {
	for expression, want := range map[string]string{
		"foo":                             `column 1: "foo": want a primitive: host, net`,
		"tcp and foo":                     `column 9: "foo": want a primitive`,
		"tcp foo":                         `column 5: "foo": want port or portrange behind tcp`,
		"host":                            `column 5: it ends here: want an IPv4 or IPv6 address`,
		"host www.example.com":            `column 6: "www.example.com": want an IPv4 or IPv6 address`,
		"host 10.0.0.1 10.0.0.2":          `column 15: "10.0.0.2": want and, or, or the end`,
		"net 10.0.0.1/8":                  `column 5: "10.0.0.1/8": want no bits behind the prefix: 10.0.0.0/8`,
		"net 10/8":                        `column 5: "10/8": want a prefix such as`,
		"port http":                       `column 6: "http": want a port, 0 to 65535`,
		"port 65536":                      `column 6: "65536": want a port`,
		"portrange 9-8":                   `column 11: "9-8": want two ports`,
		"portrange 9":                     `column 11: "9": want two ports`,
		"(tcp or udp":                     `column 12: it ends here: want and, or, or a closing parenthesis`,
		"tcp)":                            `column 4: ")": want and, or, or the end`,
		"tcp & udp":                       `column 5: "&": want && or ||`,
		"tcp and":                         `column 8: it ends here: want a primitive`,
		"tcp host 10.0.0.1":               `column 5: "host": want what tcp has: port or portrange`,
		"ip port 53":                      `column 4: "port": want what ip has: host or net`,
		"ether net 10.0.0.0/8":            `column 7: "net": want what ether has: host`,
		"ether 10.0.0.1":                  `column 7: "10.0.0.1": want src, dst, host, broadcast, multicast or a MAC`,
		"ether src broadcast":             `column 11: "broadcast": want a MAC`,
		"ip6 host 10.0.0.1":               `column 10: "10.0.0.1": want an address that ip6 has`,
		"arp host 2001:db8::1":            `column 10: "2001:db8::1": want an address that arp has`,
		"src":                             `column 4: it ends here: want host, net, port, portrange or an IPv4`,
		"vlan 4096":                       `column 6: "4096": want a VLAN ID`,
		"vni 16777216":                    `column 5: "16777216": want a VNI`,
		"peer blue":                       `column 6: "blue": want the address or prefix of a peer`,
		"less x":                          `column 6: "x": want a length`,
		"tcp[13] = 2":                     `column 1: "tcp[13]": want a primitive`,
		"tcp and and":                     `column 9: "and": want a primitive`,
		"10.0.0":                          `column 1: "10.0.0": want a primitive`,
		"host fe80::1%eth0":               `column 6: "fe80::1%eth0": want an IPv4`,
		strings.Repeat("(", 200) + "tcp":  `column 101: "(": want no more than 100`,
		strings.Repeat("not ", 200) + "x": `column 401: "not": want no more than 100`,
	} {
		_, err := Parse(expression)
		var located *Error
		if !errors.As(err, &located) || !strings.HasPrefix(err.Error(), "filter: "+want) {
			t.Errorf("%q: %v, want %s", expression, err, want)
		}
	}
}

// oracle is what gopacket says of a frame: the words that match it.
func oracle(b []byte) map[string]bool {
	p := gopacket.NewPacket(b, layers.LayerTypeEthernet, gopacket.NoCopy)
	says := map[string]bool{}
	last := uint8(0)
	for _, l := range p.Layers() {
		switch l := l.(type) {
		case *layers.Ethernet:
			says["ether src "+l.SrcMAC.String()], says["ether dst "+l.DstMAC.String()] = true, true
		case *layers.Dot1Q:
			says["vlan"], says[fmt.Sprint("vlan ", l.VLANIdentifier)] = true, true
		case *layers.ARP:
			says["arp"] = true
			says["src host "+net.IP(l.SourceProtAddress).String()], says["dst host "+net.IP(l.DstProtAddress).String()] = true, true
		case *layers.IPv4:
			says["ip"], says["src host "+l.SrcIP.String()], says["dst host "+l.DstIP.String()] = true, true, true
			last = uint8(l.Protocol)
		case *layers.IPv6:
			says["ip6"], says["src host "+l.SrcIP.String()], says["dst host "+l.DstIP.String()] = true, true, true
			last = uint8(l.NextHeader)
		case *layers.IPv6HopByHop:
			last = uint8(l.NextHeader)
		case *layers.TCP:
			says[fmt.Sprint("src port ", uint16(l.SrcPort))], says[fmt.Sprint("tcp dst port ", uint16(l.DstPort))] = true, true
		case *layers.UDP:
			says[fmt.Sprint("src port ", uint16(l.SrcPort))], says[fmt.Sprint("udp dst port ", uint16(l.DstPort))] = true, true
		}
	}
	switch {
	case last == 6:
		says["tcp"] = true
	case last == 17:
		says["udp"] = true
	case last == 1 && says["ip"]:
		says["icmp"] = true
	case last == 58 && says["ip6"]:
		says["icmp6"] = true
	}
	return says
}

// TestOracle compares with gopacket on random frames.
func TestOracle(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	octet := func() byte { return byte(random.IntN(4)) }
	all := []string{"ip", "ip6", "arp", "tcp", "udp", "icmp", "icmp6", "vlan", "vlan 2"}
	for i := range 4 {
		all = append(all, fmt.Sprintf("ether src 02:00:00:00:00:%02x", i), fmt.Sprintf("ether dst 02:00:00:00:00:%02x", i),
			fmt.Sprintf("src host 10.0.0.%d", i), fmt.Sprintf("dst host 10.0.0.%d", i),
			fmt.Sprintf("src host 2001:db8::%d", i+1), fmt.Sprintf("dst host 2001:db8::%d", i+1),
			fmt.Sprintf("src port %d", i), fmt.Sprintf("tcp dst port %d", i), fmt.Sprintf("udp dst port %d", i))
	}
	filters := map[string]*Filter{}
	for _, text := range all {
		f, err := Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		filters[text] = f
	}
	for range 3000 {
		eth := &layers.Ethernet{SrcMAC: net.HardwareAddr{2, 0, 0, 0, 0, octet()}, DstMAC: net.HardwareAddr{2, 0, 0, 0, 0, octet()}, EthernetType: 0x88b5}
		v4 := &layers.IPv4{Version: 4, TTL: 64, SrcIP: net.IP{10, 0, 0, octet()}, DstIP: net.IP{10, 0, 0, octet()}}
		v6 := &layers.IPv6{Version: 6, SrcIP: net.ParseIP(fmt.Sprint("2001:db8::", octet()+1)), DstIP: net.ParseIP(fmt.Sprint("2001:db8::", octet()+1))}
		rest := []gopacket.SerializableLayer{gopacket.Payload("x")}
		proto := layers.IPProtocol(200)
		switch random.IntN(5) {
		case 0:
			proto, rest = layers.IPProtocolTCP, []gopacket.SerializableLayer{&layers.TCP{SrcPort: layers.TCPPort(octet()), DstPort: layers.TCPPort(octet())}}
		case 1:
			proto, rest = layers.IPProtocolUDP, []gopacket.SerializableLayer{&layers.UDP{SrcPort: layers.UDPPort(octet()), DstPort: layers.UDPPort(octet())}}
		case 2:
			proto, rest = layers.IPProtocolICMPv4, []gopacket.SerializableLayer{&layers.ICMPv4{}}
		case 3:
			proto, rest = layers.IPProtocolICMPv6, []gopacket.SerializableLayer{&layers.ICMPv6{}, gopacket.Payload{0, 0, 0, 0}}
		}
		v4.Protocol, v6.NextHeader = proto, proto
		ls := []gopacket.SerializableLayer{eth}
		switch random.IntN(4) {
		case 0:
			if random.IntN(4) == 0 {
				v4.Flags = layers.IPv4MoreFragments
				v4.FragOffset = 1 // the first has ports, which gopacket does not look for
			}
			eth.EthernetType = layers.EthernetTypeIPv4
			ls = append(append(ls, v4), rest...)
		case 1:
			eth.EthernetType = layers.EthernetTypeIPv6
			ls = append(append(ls, v6), rest...)
		case 2:
			eth.EthernetType = layers.EthernetTypeARP
			ls = append(ls, &layers.ARP{AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4,
				Operation: 2, SourceHwAddress: eth.SrcMAC, SourceProtAddress: v4.SrcIP, DstHwAddress: eth.DstMAC, DstProtAddress: v4.DstIP})
		}
		if random.IntN(3) == 0 {
			tag := &layers.Dot1Q{VLANIdentifier: uint16(octet()), Type: eth.EthernetType}
			eth.EthernetType = layers.EthernetTypeDot1Q
			ls = slices.Insert(ls, 1, gopacket.SerializableLayer(tag))
		}
		b := frame(t, ls...)
		says := oracle(b)
		r := &dataplane.Record{Kind: dataplane.KindVXLAN, Network: "blue", Frame: b, Length: len(b)}
		for text, f := range filters {
			if got := f.Match(r); got != says[text] {
				t.Fatalf("%q: %t, gopacket says %t of\n%s", text, got, says[text], gopacket.NewPacket(b, layers.LayerTypeEthernet, gopacket.NoCopy))
			}
		}
	}
}

// FuzzParse wants no expression and no frame to be able to hurt, and every mistake
// to have a place.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"", "tcp and (port 80 or 443)", "src or dst net 10.0.0.0/8", "!(ether host 02:42:0a:00:00:02)&&vni 7", "vlan 5 or less 9", "((", "not"} {
		f.Add(s, []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x81, 0, 0, 5, 8, 0, 0x45, 0, 0, 30})
	}
	for _, r := range samples(f) {
		f.Add("tcp or udp port 53 and vlan", r.Frame)
	}
	f.Fuzz(func(t *testing.T, text string, b []byte) {
		parsed, err := Parse(text)
		var located *Error
		switch {
		case err == nil:
			for _, kind := range []dataplane.Kind{dataplane.KindVXLAN, dataplane.KindIPIP} {
				r := &dataplane.Record{Kind: kind, Frame: b, Length: len(b)}
				first := parsed.Match(r)
				if parsed.Match(r) != first {
					t.Error("it changes its mind")
				}
			}
		case !errors.As(err, &located) || located.Column < 1 || located.Column > len(text)+1:
			t.Errorf("%q: %v", text, err)
		case located.Word != "" && !strings.HasPrefix(text[located.Column-1:], located.Word):
			t.Errorf("%q: %v: there is another word", text, err)
		}
	})
}

func TestMatchAllocatesNothing(t *testing.T) {
	f, err := Parse("host 10.0.2.2 and (tcp port 80 or udp port 53) and not ether broadcast and vni 100 and peer 192.0.2.0/24")
	if err != nil {
		t.Fatal(err)
	}
	r := samples(t)["tagged"]
	if !f.Match(r) {
		t.Fatal("it does not match")
	}
	if n := testing.AllocsPerRun(100, func() { f.Match(r) }); n > 1 {
		t.Errorf("%v allocations", n)
	}
}
