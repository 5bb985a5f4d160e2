package dataplane_test

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"

	"overtap/dataplane"
	"overtap/dataplane/netio"
	"overtap/dataplane/netio/netiotest"
	"overtap/encap"
)

// Inner addresses: of the asker, of a neighbour behind host b, of one whose MAC
// the FDB does not have, and of unused addresses.
var (
	ipAsker, ipKnown, ipLost, ipNobody     = inner(1), inner(2), inner(3), inner(9)
	ip6Asker, ip6Known, ip6Lost, ip6Nobody = inner6(1), inner6(2), inner6(3), inner6(9)
)

func inner(n byte) netip.Addr { return netip.AddrFrom4([4]byte{198, 51, 100, n}) }
func inner6(n byte) netip.Addr {
	return netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 5: 1, 15: n})
}

// suppressing is a network that knows macB behind host b at ipKnown and
// ip6Known, and macC nowhere at ipLost and ip6Lost.
func suppressing() dataplane.Network {
	n := testNetwork(addrA, addrB)
	n.Suppress = true
	n.FDB = []dataplane.StaticEntry{{MAC: macB, Peer: addrB}}
	n.Neighbors = []dataplane.Neighbor{
		{Address: ipKnown, MAC: macB}, {Address: ip6Known, MAC: macB},
		{Address: ipLost, MAC: macC}, {Address: ip6Lost, MAC: macC},
	}
	return n
}

// arp is an ARP message from src to dst in the padding of a real one.
func arp(dst, src encap.MAC, op uint16, senderMAC encap.MAC, sender netip.Addr, targetMAC encap.MAC, target netip.Addr) netiotest.Frame {
	f := plainFrame(dst, src, string(make([]byte, 46)))
	binary.BigEndian.PutUint16(f.Data[12:], encap.EtherTypeARP)
	encap.PutARP(f.Data[14:], op, senderMAC, sender.As4(), targetMAC, target.As4())
	return f
}

// asks is macA's ARP request for the target.
func asks(dst encap.MAC, target netip.Addr) netiotest.Frame {
	return arp(dst, macA, encap.ARPRequest, macA, ipAsker, 0, target)
}

// nd is a neighbour discovery message in a frame from macA.
func nd(dst encap.MAC, put func(b []byte) int) netiotest.Frame {
	f := plainFrame(dst, macA, string(make([]byte, encap.NDPacketLen)))
	binary.BigEndian.PutUint16(f.Data[12:], encap.EtherTypeIPv6)
	f.Data = f.Data[:14+put(f.Data[14:])]
	return f
}

// solicits is macA's neighbour solicitation for the target.
func solicits(target netip.Addr) netiotest.Frame {
	group := encap.SolicitedNode(target.As16())
	return nd(encap.MulticastMAC6(group), func(b []byte) int {
		return encap.PutNeighborSolicit(b, ip6Asker.As16(), group, target.As16(), macA)
	})
}

// changed is the frame with some bytes set.
func changed(f netiotest.Frame, at int, b ...byte) netiotest.Frame {
	f.Data = append([]byte(nil), f.Data...)
	copy(f.Data[at:], b)
	return f
}

// summed makes the checksum of an ICMPv6 message right.
func summed(f netiotest.Frame) netiotest.Frame {
	ip, msg := encap.IPv6(f.Data[encap.EthernetHeaderLen:]), f.Data[encap.EthernetHeaderLen+encap.IPv6HeaderLen:]
	copy(msg[2:], []byte{0, 0})
	sum := encap.PseudoSum6(ip.SrcBytes(), ip.DstBytes(), encap.ProtoICMPv6, uint32(len(msg)))
	binary.BigEndian.PutUint16(msg[2:], ^encap.Fold(encap.Sum(msg, sum)))
	return f
}

// TestSuppressAnswers wants the questions that the network can answer to be
// answered by the TAP, as gopacket reads it, and sent nowhere.
func TestSuppressAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		ask    netiotest.Frame
		target netip.Addr
	}{
		"ARP":            {asks(encap.BroadcastMAC, ipKnown), ipKnown},
		"ARP to the MAC": {asks(macB, ipKnown), ipKnown}, // as Linux asks again (NUD_PROBE)
		"ARP to a group": {asks(groupMAC, ipKnown), ipKnown},
		"solicitation":   {solicits(ip6Known), ip6Known},
		"sol. to the MAC": {nd(macB, func(b []byte) int {
			return encap.PutNeighborSolicit(b, ip6Asker.As16(), ip6Known.As16(), ip6Known.As16(), macA)
		}), ip6Known},
		"sol. without MAC": {nd(macB, func(b []byte) int {
			return encap.PutNeighborSolicit(b, ip6Asker.As16(), ip6Known.As16(), ip6Known.As16(), 0)
		}), ip6Known},
	} {
		t.Run(name, func(t *testing.T) {
			r := newPaths(t, suppressing())
			defer r.Close()
			if sent := r.out(c.ask); len(sent) != 0 {
				t.Errorf("sent %x", sent)
			}
			got := r.tap.Written()
			if len(got) != 1 {
				t.Fatalf("%d answers, want 1", len(got))
			}
			checkAnswer(t, got[0], c.target)
			s := r.Engine.Stats()
			if n := s.Networks[0]; n.Suppressed != 1 || n.Flooded+n.TxPackets != 0 || len(s.Drops) != 0 || n.Entries != 1 {
				t.Errorf("counters %+v, drops %+v", n, s.Drops)
			}
		})
	}
}

// checkAnswer wants the frame to tell macA, on behalf of macB, that macB has
// the address.
func checkAnswer(t *testing.T, f netiotest.Frame, target netip.Addr) {
	t.Helper()
	p := gopacket.NewPacket(f.Data, layers.LayerTypeEthernet, gopacket.Default)
	if e := p.ErrorLayer(); e != nil {
		t.Fatal(e.Error())
	}
	eth := p.Layer(layers.LayerTypeEthernet).(*layers.Ethernet)
	if eth.SrcMAC.String() != macB.String() || eth.DstMAC.String() != macA.String() || f.VNet != (encap.VnetHdr{}) {
		t.Errorf("answered by %v to %v, %+v", eth.SrcMAC, eth.DstMAC, f.VNet)
	}
	if target.Is4() {
		a := p.Layer(layers.LayerTypeARP).(*layers.ARP)
		if a.Operation != layers.ARPReply || net.HardwareAddr(a.SourceHwAddress).String() != macB.String() ||
			net.IP(a.SourceProtAddress).String() != target.String() ||
			net.HardwareAddr(a.DstHwAddress).String() != macA.String() || net.IP(a.DstProtAddress).String() != ipAsker.String() {
			t.Errorf("answer %+v", a)
		}
		return
	}
	ip := p.Layer(layers.LayerTypeIPv6).(*layers.IPv6)
	if ip.HopLimit != 255 || ip.SrcIP.String() != target.String() || ip.DstIP.String() != ip6Asker.String() {
		t.Errorf("answer from %v to %v, hop limit %d", ip.SrcIP, ip.DstIP, ip.HopLimit)
	}
	a := p.Layer(layers.LayerTypeICMPv6NeighborAdvertisement).(*layers.ICMPv6NeighborAdvertisement)
	if a.TargetAddress.String() != target.String() || !a.Solicited() || !a.Override() || a.Router() || len(a.Options) != 1 ||
		net.HardwareAddr(a.Options[0].Data).String() != macB.String() {
		t.Errorf("advertisement %+v", a)
	}
	msg := f.Data[encap.EthernetHeaderLen+encap.IPv6HeaderLen:]
	sum := encap.PseudoSum6([16]byte(ip.SrcIP), [16]byte(ip.DstIP), encap.ProtoICMPv6, uint32(len(msg)))
	if encap.Fold(encap.Sum(msg, sum)) != 0xffff {
		t.Error("the checksum is wrong")
	}
}

// TestSuppressPasses wants all that cannot or must not be answered to go on as
// if nothing were suppressed.
func TestSuppressPasses(t *testing.T) {
	zero, every := netip.IPv4Unspecified(), encap.BroadcastMAC
	v6 := ip6Known.As16()
	group := encap.SolicitedNode(v6)
	nsum := 14 + encap.IPv6HeaderLen + 2 // where the checksum stands
	long := solicits(ip6Known)
	long.Data = append(long.Data, 5, 0, 0, 0, 0, 0, 0, 0) // an option of no length
	binary.BigEndian.PutUint16(long.Data[18:], uint16(len(long.Data)-54))
	for name, f := range map[string]netiotest.Frame{
		"not known":            asks(every, ipNobody),
		"not behind a peer":    asks(every, ipLost),
		"another MAC is asked": asks(macC, ipKnown),
		"the asker's own MAC":  arp(every, macB, encap.ARPRequest, macB, ipAsker, 0, ipKnown),
		"another's question":   arp(every, macA, encap.ARPRequest, macC, ipAsker, 0, ipKnown),
		"probe":                arp(every, macA, encap.ARPRequest, macA, zero, 0, ipKnown),
		"gratuitous request":   arp(every, macA, encap.ARPRequest, macA, ipKnown, 0, ipKnown),
		"gratuitous reply":     arp(every, macA, encap.ARPReply, macA, ipKnown, macA, ipKnown),
		"reply":                arp(macB, macA, encap.ARPReply, macA, ipAsker, macB, ipKnown),
		"other operation":      arp(every, macA, 3, macA, ipAsker, 0, ipKnown),
		"other hardware":       changed(asks(every, ipKnown), 14, 0, 6),
		"other protocol":       changed(asks(every, ipKnown), 16, 0x86, 0xdd),
		"other lengths":        changed(asks(every, ipKnown), 18, 8),
		"ARP cut off":          {Data: asks(every, ipKnown).Data[:14+encap.ARPLen-1]},
		"ARP with a tag":       tagged(asks(every, ipKnown), 5),
		"ND with a tag":        tagged(solicits(ip6Known), 5),
		"ND not known":         solicits(ip6Nobody),
		"ND not behind a peer": solicits(ip6Lost),
		"ND to another group": nd(encap.MulticastMAC6(encap.AllNodes), func(b []byte) int {
			return encap.PutNeighborSolicit(b, ip6Asker.As16(), encap.AllNodes, v6, macA)
		}),
		"ND to another MAC":    changed(solicits(ip6Known), 0, 0x02, 0x42, 0x0a, 0, 0, 3),
		"ND forwarded":         changed(solicits(ip6Known), 14+7, 254),
		"ND wrong checksum":    changed(solicits(ip6Known), nsum, 0x12, 0x34),
		"ND cut off":           {Data: solicits(ip6Known).Data[:14+encap.IPv6HeaderLen+23]},
		"ND option of nothing": summed(long),
		"ND with a code":       summed(changed(solicits(ip6Known), 14+encap.IPv6HeaderLen+1, 1)),
		"ND for a group":       solicits(netip.AddrFrom16(group)),
		"another's ND": nd(encap.MulticastMAC6(group), func(b []byte) int {
			return encap.PutNeighborSolicit(b, ip6Asker.As16(), group, v6, macC)
		}),
		"duplicate address detection": nd(encap.MulticastMAC6(group), func(b []byte) int {
			return encap.PutNeighborSolicit(b, [16]byte{}, group, v6, 0)
		}),
		"ND of one's own address": nd(encap.MulticastMAC6(group), func(b []byte) int {
			return encap.PutNeighborSolicit(b, v6, group, v6, macA)
		}),
		"advertisement": nd(macB, func(b []byte) int {
			return encap.PutNeighborAdvert(b, ip6Asker.As16(), v6, v6, macA, false, true, true)
		}),
		"advertisement to all": nd(encap.MulticastMAC6(encap.AllNodes), func(b []byte) int {
			return encap.PutNeighborAdvert(b, ip6Asker.As16(), encap.AllNodes, ip6Asker.As16(), macA, false, false, true)
		}),
	} {
		t.Run(name, func(t *testing.T) {
			r := newPaths(t, suppressing())
			defer r.Close()
			if sent := r.out(f); len(sent) != 1 || string(sent[0]) != string(f.Data) {
				t.Errorf("sent %x, want %x", sent, f.Data)
			}
			if got := r.tap.Written(); len(got) != 0 {
				t.Errorf("answered by %x", got[0].Data)
			}
			if s := r.Engine.Stats(); s.Networks[0].Suppressed != 0 || len(s.Drops) != 0 {
				t.Errorf("counters %+v, drops %+v", s.Networks[0], s.Drops)
			}
		})
	}
}

// TestSuppressRefused wants a question whose answer the TAP does not take to be
// put to the peers.
func TestSuppressRefused(t *testing.T) {
	r := newPaths(t, suppressing())
	defer r.Close()
	r.tap.RefuseWrites(unix.EAGAIN)
	if sent := r.out(asks(encap.BroadcastMAC, ipKnown)); len(sent) != 1 {
		t.Errorf("sent %x", sent)
	}
	if n := r.Engine.Stats().Networks[0]; n.Suppressed != 0 || n.Flooded != 1 {
		t.Errorf("counters %+v", n)
	}
}

// TestSuppressFollows wants suppression and its neighbours to be changed without
// touching the network, and a learned MAC to do as well as a static one, for as
// long as it is remote.
func TestSuppressFollows(t *testing.T) {
	u := netiotest.NewUnderlay(t)
	n := suppressing()
	n.FDB = nil
	a := newHost(t, u, addrA, n)
	tap := a.TAP("vx0")
	want := uint64(0)
	ask := func(answered bool) {
		t.Helper()
		before := a.blue()
		tap.Inject(asks(encap.BroadcastMAC, ipKnown), solicits(ip6Known))
		if answered {
			want += 2
			for i, f := range tap.Wait(2) {
				checkAnswer(t, f, []netip.Addr{ipKnown, ip6Known}[i])
			}
		}
		eventually(t, "both are counted", func() bool {
			now := a.blue()
			return now.Suppressed+now.Flooded == before.Suppressed+before.Flooded+2
		})
		if got := a.blue().Suppressed; got != want {
			t.Errorf("%d suppressed, want %d", got, want)
		}
	}
	ask(false) // macB may be here
	a.from(u, addrB, helloBack.Data)
	a.knows(macB, addrB)
	tap.Wait(1)
	ask(true)

	n.Suppress = false
	if d := a.apply(n); len(d.Changed) != 1 {
		t.Errorf("%+v", d)
	}
	ask(false)
	n.Suppress = true
	a.apply(n)
	ask(true)
	n.Neighbors = n.Neighbors[2:]
	if d := a.apply(n); len(d.Changed) != 1 {
		t.Errorf("%+v", d)
	}
	ask(false)
	n.Neighbors = append(n.Neighbors, dataplane.Neighbor{Address: ipKnown, MAC: macB}, dataplane.Neighbor{Address: ip6Known, MAC: macB})
	a.apply(n)
	n.TTL = 3 // the neighbours are the same
	a.apply(n)
	ask(true)
	if got := a.blue(); a.TAP("vx0") != tap || got.EntriesLearned != 1 {
		t.Errorf("the network was not left alone: %+v", got)
	}

	tap.Inject(plainFrame(encap.BroadcastMAC, macB, "here")) // it moves to our side
	eventually(t, "it is forgotten", func() bool { return a.blue().EntriesLearned == 0 })
	eventually(t, "it is flooded", func() bool { return a.blue().Flooded == 7 })
	ask(false)
}

func TestNeighborsShown(t *testing.T) {
	n := suppressing()
	n.Suppress = false // they are shown all the same
	a := newHost(t, netiotest.NewUnderlay(t), addrA, n, renamed(testNetwork(addrA, addrB), "red", "vx1", 200))
	got, err := a.Neighbors("")
	if err != nil || len(got) != 4 {
		t.Fatalf("%+v, %v", got, err)
	}
	want := dataplane.NeighborEntry{Network: "blue", VNI: testVNI, Address: ipKnown, MAC: macB, Origin: "static"}
	if got[0] != want || got[1].Address != ipLost || got[2].Address != ip6Known || got[3].Address != ip6Lost {
		t.Errorf("%+v", got)
	}
	if got, err := a.Neighbors("red"); err != nil || got == nil || len(got) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := a.Neighbors("green"); err == nil {
		t.Error("a network that there is not has neighbours")
	}
}

// FuzzSuppress takes any frame out on a network that suppresses: it is answered,
// sent or dropped, one of these.
func FuzzSuppress(f *testing.F) {
	f.Add(asks(encap.BroadcastMAC, ipKnown).Data)
	f.Add(solicits(ip6Known).Data)
	f.Add(tagged(asks(macB, ipKnown), 5).Data)
	to := &relay{f}
	r := newPaths(to, suppressing())
	f.Cleanup(func() {
		to.TB = f
		if err := r.Close(); err != nil {
			f.Error(err)
		}
	})
	f.Fuzz(func(t *testing.T, data []byte) {
		to.TB = t
		if len(data) > netio.MaxFrame {
			return
		}
		before := r.Engine.Stats().Networks[0].Suppressed
		_, dropped := r.totals()
		sent := len(r.out(netiotest.Frame{Data: data}))
		_, nowDropped := r.totals()
		answers, counted := len(r.tap.Written()), r.Engine.Stats().Networks[0].Suppressed-before
		if answers != int(counted) || sent+answers+int(nowDropped-dropped) != 1 {
			t.Errorf("%d answers (%d counted), %d sent, %d dropped", answers, counted, sent, nowDropped-dropped)
		}
	})
}
