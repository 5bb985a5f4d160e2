package interop

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/dataplane"
	"overtap/encap"
)

// forger is a container that sends its host packets with a peer's address.
type forger struct {
	*raw
	mac encap.MAC // its own
}

// outerPacket puts an IP header with a right checksum, from and to these addresses, before
// a payload of that protocol.
func outerPacket(from, to netip.Addr, protocol uint8, payload []byte) (uint16, []byte) {
	if from.Is6() {
		b := ipv6(0, encap.IPv6HeaderLen+len(payload), from, to)
		b[6] = protocol
		copy(b[encap.IPv6HeaderLen:], payload)
		return unix.ETH_P_IPV6, b
	}
	b := ipv4(0, encap.IPv4HeaderLen+len(payload), from, to)
	b[9], b[10], b[11] = protocol, 0, 0
	binary.BigEndian.PutUint16(b[10:], ^encap.Fold(encap.Sum(b[:encap.IPv4HeaderLen], 0)))
	copy(b[encap.IPv4HeaderLen:], payload)
	return unix.ETH_P_IP, b
}

// outerUDP puts a UDP header with a right checksum before a payload.
func outerUDP(from, to netip.Addr, source, port uint16, payload []byte) []byte {
	b := make([]byte, encap.UDPHeaderLen, encap.UDPHeaderLen+len(payload))
	binary.BigEndian.PutUint16(b, source)
	binary.BigEndian.PutUint16(b[2:], port)
	binary.BigEndian.PutUint16(b[4:], uint16(encap.UDPHeaderLen+len(payload)))
	b = append(b, payload...)
	pseudo := append(from.AsSlice(), to.AsSlice()...)
	pseudo = append(pseudo, 0, encap.ProtoUDP, b[4], b[5])
	sum := ^encap.Fold(encap.Sum(append(pseudo, b...), 0))
	if sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(b[6:], sum)
	return b
}

// A container sends VXLAN and IP-in-IP to its host's own VTEP with a peer's address,
// by the bridge and by what stands on it. None of it enters a network or a tunnel,
// though no rp_filter stands in the way; each packet is counted, also behind a
// takeover and in a network that a reload adds. The peer itself goes on.
func TestContainerIsNoPeer(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		t.Run(map[bool]string{false: "v4", true: "v6"}[v6], func(t *testing.T) { testContainerIsNoPeer(t, v6) })
	}
}

func testContainerIsNoPeer(t *testing.T, v6 bool) {
	lab := netlabtest.New(t)
	sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{V6: v6}))
	s := &standing{t: t, a: sites[0], b: sites[1]}
	a, b := s.a, s.b
	kernel.end(t, b, blue(b, sites...), sites)
	for _, of := range []string{"all", "default", netlab.SiteBridge} {
		check(t, a.Host.Sysctl("net/ipv4/conf/"+of+"/rp_filter", "0"))
	}
	nl := must[*netlink.Handle](t)(a.Host.Netlink())
	defer nl.Close()
	bridge := must[netlink.Link](t)(nl.LinkByName(netlab.SiteBridge))
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = "mv0", bridge.Attrs().Index
	check(t, nl.LinkAdd(&netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE}))
	check(t, a.Host.SetUp("mv0"))
	check(t, a.Host.Sysctl("net/ipv4/conf/mv0/rp_filter", "0"))

	red := network{name: "red", vni: 200, port: 4789, bridge: "br-red", peers: []netip.Addr{b.Underlay}}
	c := at(a, blue(a, sites...), red)
	if !v6 {
		c.last = fmt.Sprintf("[[ipip]]\nname = \"tun0\"\n[[ipip.route]]\nprefix = \"172.30.0.0/16\"\npeer = %q\n", b.Underlay)
	}
	s.file, s.socket = prepare(t, c)
	s.start(c)
	reaches(t, a.Container, b.IPv4)

	f := &forger{openRaw(t, a.Container, netlab.ContainerDev), a.MAC}
	const count = 20
	// strike sends to the host by each of its devices that the container reaches.
	strike := func(n network) {
		t.Helper()
		before, tunnel := s.d.drops(n.name, dataplane.Inbound, dataplane.DropFromOverlay), s.d.drops("tun0", dataplane.Inbound, dataplane.DropFromOverlay)
		for _, dev := range []string{netlab.SiteBridge, "mv0"} {
			to := must[encap.MAC](t)(a.Host.MAC(dev))
			for i := range count {
				inside := ethernet(encap.BroadcastMAC, imposter, nil, etherTest, marked(60, "forged"))
				etherType, p := outerPacket(b.Underlay, a.Underlay, encap.ProtoUDP, outerUDP(b.Underlay, a.Underlay, uint16(50000+i), n.port, vxlan(8, n.vni, inside)))
				f.send(ethernet(to, f.mac, nil, etherType, p))
				if !v6 {
					_, inner := outerPacket(netip.MustParseAddr("172.30.0.1"), a.IPv4, 253, make([]byte, 40))
					_, p = outerPacket(b.Underlay, a.Underlay, encap.ProtoIPIP, inner)
					f.send(ethernet(to, f.mac, nil, unix.ETH_P_IP, p))
				}
			}
		}
		eventually(t, "the forged packets are dropped in "+n.name, func() error {
			if got := s.d.drops(n.name, dataplane.Inbound, dataplane.DropFromOverlay) - before; got != 2*count {
				return fmt.Errorf("%d of %d are counted in the network; drops %+v", got, 2*count, s.d.stats().Drops)
			}
			if got := s.d.drops("tun0", dataplane.Inbound, dataplane.DropFromOverlay) - tunnel; !v6 && got != 2*count {
				return fmt.Errorf("%d of %d are counted in the tunnel; drops %+v", got, 2*count, s.d.stats().Drops)
			}
			return nil
		})
		for _, st := range s.d.stats().Networks {
			if st.Network != "blue" && st.RxPackets != 0 {
				t.Errorf("%s took %d packets in", st.Network, st.RxPackets)
			}
		}
		if e, ok := s.d.entry(n.name, imposter); ok {
			t.Errorf("learned from a container: %+v", e)
		}
		reaches(t, a.Container, b.IPv4)
	}
	strike(red)
	s.takeOver(c)
	strike(red)
	green := network{name: "green", vni: 300, port: 8472, bridge: netlab.SiteBridge, peers: []netip.Addr{b.Underlay}}
	c.networks = append(c.networks, green)
	s.write(c)
	ask[reloaded](s.d, "reload")
	strike(green)
	strike(red)
}
