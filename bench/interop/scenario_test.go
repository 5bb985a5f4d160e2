package interop

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/bench/traffic"
	"overtap/encap"
)

// twoNodes are two hosts as a reader of any VXLAN tutorial builds them: a
// bridge, namespaces joined to it by veth pairs, and VXLAN point to point with
// VNI 100 on port 4789.
//
//	node 1 (overtap)                       node 2 (kernel)
//	ns1 198.51.100.1 ─ br-vx ─ vx-blue ═══ vxlan100 ─ br-vx ─ ns2 198.51.100.2
//	                                                       └─ ns3 203.0.113.3
type twoNodes struct {
	node1, node2  *netlab.Host
	ns1, ns2, ns3 *netlab.Host
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func newTwoNodes(t *testing.T) *twoNodes {
	t.Helper()
	lab := netlabtest.New(t)
	host := must[*netlab.Host](t)
	n := &twoNodes{node1: host(lab.AddHost("node1")), node2: host(lab.AddHost("node2"))}
	check(t, lab.Underlay(1500, n.node1, n.node2))
	own, peer := netlab.UnderlayAddr(1, false), netlab.UnderlayAddr(2, false)

	check(t, n.node2.AddBridge("br-vx", 1450))
	check(t, n.node2.AddVXLAN(netlab.VXLANSpec{
		Name: "vxlan100", VNI: 100, Port: 4789, Local: peer, Remote: own, Dev: netlab.UnderlayDev, Bridge: "br-vx",
	}))
	start(t, n.node1, config{underlay: own, networks: []network{{
		name: "blue", vni: 100, port: 4789, bridge: "br-vx", peers: []netip.Addr{peer},
		more: []string{`addresses = ["198.51.100.101/24"]`},
	}}})

	for _, c := range []struct {
		to   **netlab.Host
		node *netlab.Host
		name string
		addr string
	}{
		{&n.ns1, n.node1, "ns1", "198.51.100.1/24"},
		{&n.ns2, n.node2, "ns2", "198.51.100.2/24"},
		{&n.ns3, n.node2, "ns3", "203.0.113.3/24"},
	} {
		*c.to = host(c.node.AddContainer(netlab.ContainerSpec{
			Name: c.name, Bridge: "br-vx", MTU: 1450, Addrs: []netip.Prefix{prefix(c.addr)},
		}))
	}
	return n
}

// both are the flows between two addresses.
func both(a *netlab.Host, addrA string, b *netlab.Host, addrB string) []flow {
	x := traffic.End{Host: a, Addr: netip.MustParseAddr(addrA)}
	y := traffic.End{Host: b, Addr: netip.MustParseAddr(addrB)}
	return []flow{{x, y, 1450}, {y, x, 1450}}
}

// The daemon makes the bridge, and removes it at the end.
func TestPointToPoint(t *testing.T) {
	t.Parallel()
	n := newTwoNodes(t)
	for _, f := range append(both(n.ns1, "198.51.100.1", n.ns2, "198.51.100.2"),
		both(n.node1, "198.51.100.101", n.ns2, "198.51.100.2")...) {
		f.pings(t)
		f.tcp(t, 4<<20)
		f.udps(t)
	}
}

// A namespace of another subnet on the same overlay is reached once both sides
// have a static route to the other's subnet.
func TestSecondSubnetByStaticRoutes(t *testing.T) {
	t.Parallel()
	n := newTwoNodes(t)
	way := both(n.ns1, "198.51.100.1", n.ns3, "203.0.113.3")
	unreachable := func() {
		t.Helper()
		for _, f := range way {
			r, err := netlab.Ping(f.from.Host, f.to.Addr, netlab.PingOptions{Timeout: 100 * time.Millisecond})
			if err != nil && !errors.Is(err, unix.ENETUNREACH) || r.Received > 0 {
				t.Errorf("ping %v without routes both ways: %v, %v", f, r, err)
			}
		}
	}
	unreachable()
	check(t, n.ns1.AddRoute(prefix("203.0.113.0/24"), netip.Addr{}, netlab.ContainerDev))
	unreachable()
	check(t, n.ns3.AddRoute(prefix("198.51.100.0/24"), netip.Addr{}, netlab.ContainerDev))
	for _, f := range append(way, both(n.ns1, "198.51.100.1", n.ns2, "198.51.100.2")...) {
		f.pings(t)
		f.tcp(t, 4<<20)
		f.udps(t)
	}

	// The same by way of the first node: ns1 knows a gateway only.
	check(t, n.node1.Sysctl("net/ipv4/ip_forward", "1"))
	check(t, n.node1.AddAddr("br-vx", prefix("203.0.113.101/24")))
	ns4 := must[*netlab.Host](t)(n.node2.AddContainer(netlab.ContainerSpec{
		Name: "ns4", Bridge: "br-vx", MTU: 1450, MAC: encap.MAC(0x0242_0000_0004),
		Addrs: []netip.Prefix{prefix("203.0.113.4/24")}, Gateway: netip.MustParseAddr("203.0.113.101"),
	}))
	for _, f := range both(n.node1, "198.51.100.101", ns4, "203.0.113.4") {
		f.pings(t)
		f.tcp(t, 1<<20)
	}
}
