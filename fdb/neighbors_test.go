package fdb

import (
	"net/netip"
	"testing"

	"overtap/encap"
)

func TestNeighbors(t *testing.T) {
	four, six := netip.MustParseAddr("198.51.100.4"), netip.MustParseAddr("2001:db8::4")
	list := []Neighbor{{Address: four, MAC: 0x0242_0000_0001}, {Address: six, MAC: 0x0242_0000_0002}, {Address: four, MAC: 0x0242_0000_0003}}
	n := NewNeighbors(list)
	list[1].MAC = 0 // the set has a copy

	for _, c := range []struct {
		a    netip.Addr
		want encap.MAC
	}{
		{four, 0x0242_0000_0003}, // the last counts
		{six, 0x0242_0000_0002},
		{netip.MustParseAddr("198.51.100.5"), 0},
		{netip.MustParseAddr("2001:db8::5"), 0},
		{netip.AddrFrom16(four.As16()), 0}, // IPv4-mapped is another address
		{netip.Addr{}, 0},
	} {
		if m, ok := n.Lookup(c.a); m != c.want || ok != (c.want != 0) {
			t.Errorf("%s: %s, %t; want %s", c.a, m, ok, c.want)
		}
	}
	if n.Len() != 2 {
		t.Errorf("%d addresses, want 2", n.Len())
	}
	for _, empty := range []*Neighbors{nil, NewNeighbors(nil)} {
		if m, ok := empty.Lookup(four); ok || m != 0 || empty.Len() != 0 {
			t.Errorf("an empty set has %s", m)
		}
	}
	if allocs := testing.AllocsPerRun(100, func() { n.Lookup(six); n.Lookup(four) }); allocs != 0 {
		t.Errorf("a lookup allocates %v times", allocs)
	}
}
