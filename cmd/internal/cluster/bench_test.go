package cluster

import (
	"fmt"
	"net/netip"
	"testing"

	"overtap/dataplane"
	"overtap/encap"
)

// BenchmarkView makes the view of 500 members with 40 containers each in one network,
// and what that adds to the network.
func BenchmarkView(b *testing.B) {
	var members []Member
	for i := range 500 {
		m := Member{Record: Record{Node: Node{Name: fmt.Sprintf("host%d", i), VTEP: netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)})}, Networks: []Network{{Key: blueKey, MTU: 1450}}}}
		for j := range 40 {
			n := i*40 + j
			m.Endpoints = append(m.Endpoints, Endpoint{Key: blueKey, MAC: encap.MAC(0x0200_0000_0000 + n + 1),
				Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})}, Name: "c", Sequence: 1})
		}
		members = append(members, m)
	}
	n := dataplane.Network{VNI: 7, Port: 4789, MTU: 1450, MaxEntries: 65536}
	for b.Loop() {
		v := NewView("host0", append([]Member{}, members...))
		if a := v.Additions(&n, 65536, fine); len(a.FDB) != 499*40 || len(a.Peers) != 499 {
			b.Fatalf("%d entries, %d peers", len(a.FDB), len(a.Peers))
		}
	}
}
