package attach

import (
	"net/netip"
	"testing"

	"golang.org/x/net/bpf"

	"overtap/encap"
)

const (
	mine   = encap.MAC(0x0242_0000_0001)
	theirs = encap.MAC(0x0242_0000_0002)
)

var (
	free4 = netip.MustParseAddr("198.51.100.2")
	free6 = netip.MustParseAddr("2001:db8::2")
)

// framed puts an Ethernet header before what put writes.
func framed(src encap.MAC, etherType uint16, put func(b []byte) int) []byte {
	b := ethernet(mine, src, etherType, 100)
	return b[:encap.EthernetHeaderLen+put(b[encap.EthernetHeaderLen:])]
}

func arpFrame(op uint16, sender encap.MAC, ip, target netip.Addr) []byte {
	return framed(sender, encap.EtherTypeARP, func(b []byte) int {
		encap.PutARP(b, op, sender, ip.As4(), mine, target.As4())
		return encap.ARPLen
	})
}

func solicit(src netip.Addr, link encap.MAC) []byte {
	return framed(theirs, encap.EtherTypeIPv6, func(b []byte) int {
		return encap.PutNeighborSolicit(b, src.As16(), encap.SolicitedNode(free6.As16()), free6.As16(), link)
	})
}

func advert(link encap.MAC) []byte {
	return framed(theirs, encap.EtherTypeIPv6, func(b []byte) int {
		return encap.PutNeighborAdvert(b, free6.As16(), encap.AllNodes, free6.As16(), link, false, true, false)
	})
}

// changed returns a copy of a frame with one byte set.
func changed(frame []byte, at int, to byte) []byte {
	b := append([]byte(nil), frame...)
	b[at] = to
	return b
}

func TestClaim(t *testing.T) {
	other4 := netip.MustParseAddr("198.51.100.9")
	const ip6 = encap.EthernetHeaderLen
	tagged := append(append(append([]byte(nil), advert(theirs)[:12]...), 0x81, 0, 0, 5), advert(theirs)[12:]...)
	for _, tc := range []struct {
		name   string
		frame  []byte
		want   netip.Addr // invalid = no claim
		holder encap.MAC
	}{
		{"ARP reply", arpFrame(encap.ARPReply, theirs, free4, other4), free4, theirs},
		{"ARP request from it", arpFrame(encap.ARPRequest, theirs, free4, other4), free4, theirs},
		{"ARP request for it", arpFrame(encap.ARPRequest, theirs, other4, free4), other4, theirs},
		{"ARP announcement", announcement(free4, theirs), free4, theirs},
		{"ARP probe", probe(free4, theirs), free4, theirs},
		{"advertisement", advert(mine), free6, mine},
		{"advertisement without option", advert(0), free6, theirs},
		{"unsolicited advertisement", announcement(free6, theirs), free6, theirs},
		{"duplicate address detection", solicit(netip.IPv6Unspecified(), 0), free6, theirs},
		{"solicitation of a neighbour", solicit(netip.MustParseAddr("2001:db8::9"), theirs), netip.Addr{}, 0},
		{"a hop limit below 255", changed(advert(theirs), ip6+7, 254), netip.Addr{}, 0},
		{"a wrong checksum", changed(advert(theirs), ip6+40+2, 0), netip.Addr{}, 0},
		{"another protocol", changed(advert(theirs), ip6+6, 17), netip.Addr{}, 0},
		{"cut", advert(theirs)[:60], netip.Addr{}, 0},
		{"tagged", tagged, netip.Addr{}, 0},
		{"nothing", nil, netip.Addr{}, 0},
	} {
		a, holder, ok := claim(tc.frame)
		if ok != tc.want.IsValid() || ok && (a != tc.want || holder != tc.holder) {
			t.Errorf("%s: %s at %s, %v; want %s at %s", tc.name, a, holder, ok, tc.want, tc.holder)
		}
	}
}

// TestNeighborFilter runs the socket's filter over what it must pass and drop.
func TestNeighborFilter(t *testing.T) {
	raw, err := neighborFilter()
	if err != nil {
		t.Fatal(err)
	}
	var program []bpf.Instruction
	for _, f := range raw[2:] { // the VM does not know a socket's VLAN tags
		program = append(program, bpf.RawInstruction{Op: f.Code, Jt: f.Jt, Jf: f.Jf, K: f.K}.Disassemble())
	}
	vm, err := bpf.NewVM(program)
	if err != nil {
		t.Fatal(err)
	}
	const ip6 = encap.EthernetHeaderLen
	for _, tc := range []struct {
		name  string
		frame []byte
		pass  bool
	}{
		{"ARP", probe(free4, theirs), true},
		{"solicitation", probe(free6, theirs), true},
		{"advertisement", advert(theirs), true},
		{"echo", changed(advert(theirs), ip6+40, encap.ICMPv6EchoRequest), false},
		{"UDP", changed(advert(theirs), ip6+6, 17), false},
		{"IPv4", changed(probe(free4, theirs), 13, 0), false},
	} {
		if n, err := vm.Run(tc.frame); err != nil || n > 0 != tc.pass {
			t.Errorf("%s: passes %d bytes, %v", tc.name, n, err)
		}
	}
}

func FuzzClaim(f *testing.F) {
	for _, b := range [][]byte{probe(free4, mine), probe(free6, mine), announcement(free4, mine), announcement(free6, mine), advert(0)} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, _, ok := claim(b); ok && !a.IsValid() {
			t.Error("a claim to nothing")
		}
	})
}
