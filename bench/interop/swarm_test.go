package interop

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/dataplane"
	"overtap/encap"
)

// known are the tables of a network that knows beforehand where the containers
// of the other sites are.
func known(others ...*netlab.Site) string {
	var b strings.Builder
	for _, s := range others {
		fmt.Fprintf(&b, "[[vxlan.fdb]]\nmac = %q\npeer = %q\n", s.MAC, s.Underlay)
		for _, a := range []netip.Addr{s.IPv4, s.IPv6} {
			fmt.Fprintf(&b, "[[vxlan.neighbor]]\naddress = %q\nmac = %q\n", a, s.MAC)
		}
	}
	return b.String()
}

// swarmEnd is a node of Docker's swarm mode: proxy l2miss l3miss, and permanent
// neighbours and forwarding entries for the containers of the others.
func swarmEnd(t testing.TB, s *netlab.Site, others ...*netlab.Site) {
	t.Helper()
	check(t, s.Host.AddVXLAN(netlab.VXLANSpec{
		Name: netlab.SiteVXLAN, VNI: 4097, Port: 4789, Local: s.Underlay, Dev: netlab.UnderlayDev,
		Suppress: true, Bridge: netlab.SiteBridge, MTU: int(s.MTU),
	}))
	for _, o := range others {
		check(t, s.Host.AddFDB(netlab.SiteVXLAN, o.MAC, o.Underlay))
		check(t, s.Host.AddNeighbor(netlab.SiteVXLAN, o.IPv4, o.MAC))
		check(t, s.Host.AddNeighbor(netlab.SiteVXLAN, o.IPv6, o.MAC))
	}
}

// asked lists the addresses that were asked for across the underlay since the
// last call, by ARP request or neighbour solicitation in VXLAN.
func asked(t testing.TB, r *raw) (targets []netip.Addr) {
	t.Helper()
	note := func(ip net.IP) {
		if a, ok := netip.AddrFromSlice(ip); ok {
			targets = append(targets, a.Unmap())
		}
	}
	for _, s := range r.read() {
		v, ok := gopacket.NewPacket(s.data, layers.LayerTypeEthernet, gopacket.NoCopy).Layer(layers.LayerTypeVXLAN).(*layers.VXLAN)
		if !ok {
			continue
		}
		p := gopacket.NewPacket(v.LayerPayload(), layers.LayerTypeEthernet, gopacket.NoCopy)
		if a, ok := p.Layer(layers.LayerTypeARP).(*layers.ARP); ok && a.Operation == layers.ARPRequest {
			note(a.DstProtAddress)
		}
		if n, ok := p.Layer(layers.LayerTypeICMPv6NeighborSolicitation).(*layers.ICMPv6NeighborSolicitation); ok {
			note(n.TargetAddress)
		}
	}
	return targets
}

// As swarm joins its nodes: each knows beforehand where the others' containers
// are, and no question crosses the underlay. Whom overtap does not know, here the
// third site's container, it asks for all the same.
func TestSwarm(t *testing.T) {
	t.Parallel()
	for _, p := range []peer{kernel, overtap} {
		t.Run(string(p), func(t *testing.T) {
			lab := netlabtest.New(t)
			sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{Count: 3}))
			a, b, c := sites[0], sites[1], sites[2]
			at := func(s, other *netlab.Site) config {
				n := blue(s, sites...).with("suppress = true")
				n.vni = 4097
				conf := at(s, n)
				conf.last = known(other)
				return conf
			}
			ear := openRaw(t, a.Host, netlab.UnderlayDev)
			if p == kernel {
				swarmEnd(t, b, a)
			} else {
				start(t, b.Host, at(b, a))
			}
			check(t, c.AddKernelVXLAN(4097, 4789, sites...))
			d := start(t, a.Host, at(a, b))
			asked(t, ear)

			quiet := func(f flow, doing string) {
				t.Helper()
				for _, x := range asked(t, ear) {
					if x == f.from.Addr || x == f.to.Addr {
						t.Errorf("%s %v: a question for %v went across the underlay", doing, f, x)
					}
				}
			}
			for _, f := range flows(a, b) {
				f.pings(t)
				quiet(f, "ping")
				f.tcp(t, 4<<20)
				quiet(f, "TCP")
				f.udps(t)
				quiet(f, "UDP")
			}
			n := d.stats().Networks[0]
			if n.Suppressed < 2 { // from cold, one a family at least
				t.Errorf("%d questions were answered here, want 2 or more", n.Suppressed)
			}
			want := []dataplane.NeighborEntry{
				{Network: "blue", VNI: 4097, Address: b.IPv4, MAC: b.MAC, Origin: "static"},
				{Network: "blue", VNI: 4097, Address: b.IPv6, MAC: b.MAC, Origin: "static"},
			}
			if got := ask[[]dataplane.NeighborEntry](d, "neigh", "show"); !slices.Equal(got, want) {
				t.Errorf("neigh show: %+v, want %+v", got, want)
			}

			for _, f := range flows(a, c)[:2] {
				f.forget(t)
				f.ping(t, netlab.PingOptions{Count: 3})
				if got := asked(t, ear); !slices.Contains(got, f.to.Addr) {
					t.Errorf("ping %v: no question for it went across the underlay: %v", f, got)
				}
				f.tcp(t, 1<<20)
			}
			notBehindTAP(t, a, a.MAC)
		})
	}
}

// notBehindTAP checks that the bridge has not mistaken a MAC of its own side for
// one behind the TAP.
func notBehindTAP(t testing.TB, s *netlab.Site, mac encap.MAC) {
	t.Helper()
	for _, e := range must[[]netlab.FDBEntry](t)(s.Host.KernelFDB("vx-blue")) {
		if e.MAC == mac {
			t.Errorf("the bridge has %v behind the TAP: %+v", mac, e)
		}
	}
}

// A list of neighbours that is the same for all hosts, their own containers
// included, turns no container away: one that is not behind a peer is not answered for.
func TestSwarmKnowsOwnContainers(t *testing.T) {
	t.Parallel()
	lab := netlabtest.New(t)
	sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{}))
	a, b := sites[0], sites[1]
	second := must[*netlab.Host](t)(a.Host.AddContainer(netlab.ContainerSpec{
		Name: "a2", Bridge: netlab.SiteBridge, MTU: int(a.MTU), MAC: 0x0242_c633_6409,
		Addrs: []netip.Prefix{prefix("198.51.100.9/24"), prefix("2001:db8:1::9/64")},
	}))
	conf := at(a, blue(a, sites...).with("suppress = true"))
	conf.last = known(b) + fmt.Sprintf("[[vxlan.neighbor]]\naddress = %q\nmac = %q\n", a.IPv4, a.MAC) +
		fmt.Sprintf("[[vxlan.neighbor]]\naddress = %q\nmac = %q\n", a.IPv6, a.MAC)
	start(t, a.Host, conf)
	kernel.end(t, b, blue(b, sites...), sites)
	for _, f := range append(both(second, "198.51.100.9", a.Container, a.IPv4.String()), both(second, "2001:db8:1::9", a.Container, a.IPv6.String())...) {
		f.pings(t)
	}
	for _, f := range flows(a, b) {
		f.pings(t)
	}
	notBehindTAP(t, a, a.MAC)
}
