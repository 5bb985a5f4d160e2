package interop

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

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
	t.Parallel()
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

// advertisement is a router advertisement from the MAC, of itself as default router
// and of a prefix for addresses (RFC 4861 section 4.2).
func advertisement(t *testing.T, from encap.MAC, prefix netip.Prefix) []byte {
	t.Helper()
	mac := make(net.HardwareAddr, encap.MACLen)
	from.Put(mac)
	info := append([]byte{byte(prefix.Bits()), 0xc0, 0, 1, 0x51, 0x80, 0, 0, 0x38, 0x40, 0, 0, 0, 0}, prefix.Addr().AsSlice()...)
	ip := &layers.IPv6{Version: 6, NextHeader: layers.IPProtocolICMPv6, HopLimit: 255,
		SrcIP: net.ParseIP("fe80::b"), DstIP: net.ParseIP("ff02::1")}
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeRouterAdvertisement, 0)}
	check(t, icmp.SetNetworkLayerForChecksum(ip))
	b := gopacket.NewSerializeBuffer()
	check(t, gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
		&layers.Ethernet{SrcMAC: mac, DstMAC: net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, EthernetType: layers.EthernetTypeIPv6},
		ip, icmp,
		&layers.ICMPv6RouterAdvertisement{HopLimit: 64, RouterLifetime: 1800, Options: layers.ICMPv6Options{
			{Type: layers.ICMPv6OptSourceAddress, Data: mac}, {Type: layers.ICMPv6OptPrefixInfo, Data: info},
		}}))
	return b.Bytes()
}

// A router advertisement, of a container or of the other end, configures a host by no
// device that overtap made. By a bridge that was found it does, and that is said.
func TestAdvertisementsConfigureNoHost(t *testing.T) {
	t.Parallel()
	lab := netlabtest.New(t)
	sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{}))
	a, b := sites[0], sites[1]
	prefixes := map[string]netip.Prefix{
		"br-blue": netip.MustParsePrefix("2001:db8:b::/64"), "vx-lone": netip.MustParsePrefix("2001:db8:c::/64"),
	}
	for i, name := range []string{"lone", "found"} {
		check(t, b.Host.AddVXLAN(netlab.VXLANSpec{Name: "vx-" + name, VNI: encap.VNI(101 + i), Port: 4789, Local: b.Underlay,
			Dev: netlab.UnderlayDev, Flood: []netip.Addr{a.Underlay}, MTU: int(b.MTU)}))
	}
	kernel.end(t, b, blue(b, sites...), sites)
	mine := blue(a, sites...)
	mine.bridge = "br-blue"
	lone := network{name: "lone", vni: 101, port: 4789, peers: []netip.Addr{b.Underlay}}
	found := network{name: "found", vni: 102, port: 4789, bridge: netlab.SiteBridge, peers: []netip.Addr{b.Underlay}}
	check(t, a.Host.Sysctl("net/ipv6/conf/default/accept_ra", "1"))
	check(t, a.Host.Sysctl("net/ipv6/conf/"+netlab.SiteBridge+"/accept_ra", "1"))
	d := start(t, a.Host, at(a, mine, lone, found))
	check(t, a.Host.SetMaster(a.Container.Name(), "br-blue"))
	reaches(t, a.Container, b.IPv4)

	// By which devices the host has what such an advertisement gives.
	configured := func() (by []string) {
		t.Helper()
		nh := must[*netlink.Handle](t)(a.Host.Netlink())
		for dev, prefix := range prefixes {
			l := must[netlink.Link](t)(nh.LinkByName(dev))
			routes := must[[]netlink.Route](t)(nh.RouteList(l, netlink.FAMILY_V6))
			byRouter := func(r netlink.Route) bool { return r.Protocol == unix.RTPROT_RA }
			hasAddress := func(p netip.Prefix) bool { return prefix.Contains(p.Addr()) }
			has := slices.ContainsFunc(must[[]netip.Prefix](t)(a.Host.Addrs(dev)), hasAddress)
			if has || dev != netlab.SiteBridge && slices.ContainsFunc(routes, byRouter) {
				by = append(by, dev)
			}
		}
		return by
	}
	ends := map[string]*raw{
		"br-blue": openRaw(t, b.Container, netlab.ContainerDev),
		"vx-lone": openRaw(t, b.Host, "vx-lone"), netlab.SiteBridge: openRaw(t, b.Host, "vx-found"),
	}
	near := openRaw(t, a.Container, netlab.ContainerDev)
	// The bridge that was found takes what is sent last. By the time that it has taken
	// that of a second round, the others had their turn in the first.
	for _, prefix := range []string{"2001:db8:d::/64", "2001:db8:e::/64"} {
		prefixes[netlab.SiteBridge] = netip.MustParsePrefix(prefix)
		eventually(t, "an advertisement arrives", func() error {
			near.send(advertisement(t, a.MAC, prefixes["br-blue"]))
			for _, dev := range []string{"br-blue", "vx-lone", netlab.SiteBridge} {
				ends[dev].send(advertisement(t, encap.MAC(0x0242_0000_0b0b), prefixes[dev]))
			}
			time.Sleep(100 * time.Millisecond)
			if by := configured(); !slices.Contains(by, netlab.SiteBridge) {
				return fmt.Errorf("the host is configured by %v", by)
			}
			return nil
		})
	}
	if by := configured(); len(by) != 1 {
		t.Errorf("the host is configured by %v, want by the bridge that was found alone", by)
	}
	says := func(w string) bool { return strings.Contains(w, netlab.SiteBridge+" takes router advertisements") }
	if w := d.status().Warnings; !slices.ContainsFunc(w, says) || !strings.Contains(d.log.String(), "takes router advertisements") {
		t.Errorf("status warns of %q, and the log says\n%s", w, d.log)
	}
}
