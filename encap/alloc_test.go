package encap

import "testing"

// TestNoAllocations covers all that a frame meets on the path.
func TestNoAllocations(t *testing.T) {
	frames := sampleFrames(t)
	super := gsoPacket(t, false)
	arp, nd := frames["arp"][EthernetHeaderLen:], fromHex(t, solicit+sourceLink)
	vxlan, vnet := make([]byte, VXLANHeaderLen), make([]byte, VnetHdrLen)
	PutVXLAN(vxlan, 100)

	for name, f := range map[string]func(){
		"PutVXLAN":   func() { PutVXLAN(vxlan, 100) },
		"ParseVXLAN": func() { v, _ := ParseVXLAN(vxlan); sink += uint64(v.VNI) },
		"VnetHdr":    func() { ParseVnetHdr(vnet).Put(vnet) },
		"Sum":        func() { sink = Sum(super, PseudoSum4([4]byte{1}, [4]byte{2}, ProtoTCP, 20)) },
		"PseudoSum6": func() { sink = uint64(Fold(PseudoSum6([16]byte{1}, [16]byte{2}, ProtoTCP, 20))) },
		"ParseARP":   func() { a, _ := ParseARP(arp); sink += uint64(a.SenderMAC()) + uint64(a.SenderIP().BitLen()) },
		"PutARP":     func() { PutARP(arp, ARPRequest, 1, [4]byte{1}, 2, [4]byte{2}) },
		"ParseND":    func() { d, _ := ParseND(nd); sink += uint64(d.Target().BitLen()) },
		"refusals": func() {
			for n := range frames["extensions6"] {
				_, _ = FindTransport(frames["extensions6"][:n])
			}
		},
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s allocates %v times", name, n)
		}
	}

	frames["super"] = super
	for name, frame := range frames {
		if n := testing.AllocsPerRun(100, func() {
			sink += uint64(FlowHash(frame))
			tos, _ := InnerTOS(frame)
			SetInnerECN(frame, EncapECN(tos))
			at, ok := FindTransport(frame)
			if !ok || at.Fragment {
				return
			}
			switch b := frame[at.L4:at.End]; at.Proto {
			case ProtoTCP:
				s, _ := ParseTCP(b)
				sink += uint64(s.Seq())
			case ProtoUDP:
				d, _ := ParseUDP(b)
				sink += uint64(d.SrcPort())
			case ProtoICMPv4:
				m, _ := ParseICMPv4(b)
				sink += uint64(m.Type())
			case ProtoICMPv6:
				m, _ := ParseICMPv6(b)
				sink += uint64(m.Type())
			}
			if ip := frame[at.L3:]; at.V6 {
				sink += uint64(IPv6(ip).Src().BitLen())
			} else {
				sink += uint64(IPv4(ip).Src().BitLen())
			}
		}); n != 0 {
			t.Errorf("a %s frame allocates %v times", name, n)
		}
	}
}
