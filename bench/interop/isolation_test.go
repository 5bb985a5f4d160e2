package interop

import (
	"fmt"
	"net/netip"
	"testing"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/bench/traffic"
	"overtap/encap"
)

// segment is a network of TestNetworksAreApart with a container at each end,
// all of them with the same addresses.
type segment struct {
	network
	macs  [2]encap.MAC
	ends  [2]*netlab.Host
	ears  [2]*raw
	flows []flow
}

// Networks of one daemon that share a port, or a VNI, or neither: the same
// addresses in each of them, and no frame of one is ever seen in another.
func TestNetworksAreApart(t *testing.T) {
	lab := netlabtest.New(t)
	sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{}))
	a, b := sites[0], sites[1]
	segments := []*segment{
		{network: network{name: "red", vni: 100, port: 4789}},
		{network: network{name: "green", vni: 101, port: 4789}},
		{network: network{name: "grey", vni: 100, port: 8472}},
		{network: network{name: "ochre", vni: 1<<24 - 1, port: 8472}},
	}
	var networks []network
	for i, s := range segments {
		s.bridge = fmt.Sprintf("br%d", i+1)
		s.peers = []netip.Addr{b.Underlay}
		s.furnish(t, a, b, i)
		networks = append(networks, s.network)
	}
	d := start(t, a.Host, at(a, networks...))

	for _, s := range segments {
		for _, f := range s.flows {
			f.pings(t)
			f.tcp(t, 1<<20)
			f.udp(t, traffic.UDPOptions{Count: 64, Size: 200})
		}
	}
	// A broadcast in each network, at the end: what leaked has arrived before
	// it.
	for i, s := range segments {
		for end := range s.ends {
			last := ethernet(encap.BroadcastMAC, s.macs[end], nil, etherTest, marked(60, "last of %d", i))
			s.ears[end].send(last)
			s.hears(t, 1-end, last)
		}
	}
	for _, n := range d.stats().Networks {
		if n.TxPackets == 0 || n.RxPackets == 0 || n.EntriesLearned == 0 {
			t.Errorf("the network carried nothing: %+v", n)
		}
	}
}

// furnish makes the segment's bridges and containers and the kernel's end of
// it.
func (s *segment) furnish(t *testing.T, a, b *netlab.Site, i int) {
	t.Helper()
	check(t, b.Host.AddBridge(s.bridge, int(b.MTU)))
	check(t, a.Host.AddBridge(s.bridge, int(a.MTU)))
	addrs := [2][]netip.Addr{{a.IPv4, a.IPv6}, {b.IPv4, b.IPv6}}
	for end, site := range []*netlab.Site{a, b} {
		s.macs[end] = encap.MAC(0x0242_0000_0000 + i<<8 + end)
		spec := netlab.ContainerSpec{
			Name: fmt.Sprintf("%s%d", s.name, end), Bridge: s.bridge, MAC: s.macs[end], MTU: int(site.MTU),
			Addrs: []netip.Prefix{netip.PrefixFrom(addrs[end][0], 24), netip.PrefixFrom(addrs[end][1], 64)},
		}
		s.ends[end] = must[*netlab.Host](t)(site.Host.AddContainer(spec))
		s.ears[end] = openRaw(t, s.ends[end], netlab.ContainerDev)
	}
	check(t, b.Host.AddVXLAN(netlab.VXLANSpec{
		Name: s.tap(), VNI: s.vni, Port: s.port, Local: b.Underlay, Dev: netlab.UnderlayDev,
		Flood: []netip.Addr{a.Underlay}, Bridge: s.bridge, MTU: int(b.MTU),
	}))
	for end := range s.ends {
		for k := range addrs[end] {
			s.flows = append(s.flows, flow{
				traffic.End{Host: s.ends[end], Addr: addrs[end][k]},
				traffic.End{Host: s.ends[1-end], Addr: addrs[1-end][k]},
				int(a.MTU),
			})
		}
	}
}

// hears waits for the frame at one end and looks at all that came before it: a
// test frame of another network, or a frame from a container of another one.
func (s *segment) hears(t *testing.T, end int, frame []byte) {
	t.Helper()
	foreign := 0
	got := s.ears[end].arrivals(1, func(f seen) bool {
		ours := s.macs[0]>>8 == f.src()>>8
		if f.src()>>16 == 0x0242_0000 && !ours {
			foreign++
		}
		return same(frame)(f)
	})
	if len(got) != 1 {
		t.Errorf("network %s, end %d: %d copies of the last frame, want 1", s.name, end, len(got))
	}
	if foreign > 0 {
		t.Errorf("network %s, end %d: %d frames of other networks", s.name, end, foreign)
	}
}
