package interop

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/bench/traffic"
)

// A second NIC on the network's bridge: a station of its LAN and the containers
// of both hosts are on one link.
//
//	station 198.51.100.50 ── lan0 host a br0 ── vx-blue ═══ vx0 ── br0 host b ── b1
func TestLANOnTheBridge(t *testing.T) {
	t.Parallel()
	lab := netlabtest.New(t)
	sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{}))
	a, b := sites[0], sites[1]
	station := must[*netlab.Host](t)(lab.AddHost("station"))
	check(t, netlab.AddVeth(a.Host, "lan0", station, netlab.ContainerDev, int(a.MTU)))
	check(t, a.Host.SetDown("lan0"))
	for _, p := range []string{"198.51.100.50/24", "2001:db8:1::50/64"} {
		check(t, station.AddAddr(netlab.ContainerDev, prefix(p)))
	}
	kernel.end(t, b, blue(b, sites...), sites)
	d := start(t, a.Host, at(a, blue(a, sites...).with(`ports = ["lan0"]`)))

	var all []flow
	for _, far := range []struct {
		c     *netlab.Host
		addrs []netip.Addr
	}{{a.Container, []netip.Addr{a.IPv4, a.IPv6}}, {b.Container, []netip.Addr{b.IPv4, b.IPv6}}} {
		for _, addr := range far.addrs {
			x, y := traffic.End{Host: far.c, Addr: addr}, traffic.End{Host: station, Addr: netip.MustParseAddr("198.51.100.50")}
			if addr.Is6() {
				y.Addr = netip.MustParseAddr("2001:db8:1::50")
			}
			all = append(all, flow{x, y, int(a.MTU)}, flow{y, x, int(a.MTU)})
		}
	}
	exchangeLAN := func() {
		t.Helper()
		for _, f := range all {
			f.pings(t)
			f.tcp(t, 4<<20)
			f.udps(t)
		}
	}
	reaches(t, station, b.IPv4) // once the bridge port forwards
	exchangeLAN()

	// Who takes the NIC off the bridge finds it there again.
	noMaster(t, a.Host, "lan0")
	reaches(t, station, b.IPv4)
	exchangeLAN()
	if n := strings.Count(d.log.String(), "the port lan0 of br0"); n != 1 {
		t.Errorf("said %d times", n)
	}

	d.stop(unix.SIGTERM)
	on(t, a.Host, "lan0", func(_ *netlink.Handle, l netlink.Link) error {
		if a := l.Attrs(); a.MasterIndex != 0 || a.RawFlags&unix.IFF_UP != 0 || a.Promisc != 0 {
			t.Errorf("lan0 afterwards: %+v", a)
		}
		return nil
	})
}

// The NIC that carries the underlay, with IPv4 and IPv6 addresses and a default
// route of either, is refused as a port. With move_addresses the tunnel runs over the bridge, and at the end the NIC has everything back.
func TestUnderlayOnTheBridge(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("v6 %v", v6), func(t *testing.T) { testUnderlayOnTheBridge(t, v6) })
	}
}

func testUnderlayOnTheBridge(t *testing.T, v6 bool) {
	lab := netlabtest.New(t)
	sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{V6: v6}))
	a, b := sites[0], sites[1]
	// Beyond the other host, by the default routes alone.
	far := []netip.Prefix{prefix("203.0.113.1/32"), prefix("2001:db8:9::1/128")}
	for i, p := range far {
		gw := netlab.UnderlayAddr(2, i == 1)
		check(t, a.Host.AddRoute(netip.PrefixFrom(p.Addr(), 0).Masked(), gw, netlab.UnderlayDev))
		check(t, b.Host.AddAddr("lo", p))
	}
	// What the kernel makes of links by itself comes and goes.
	look := func() string {
		t.Helper()
		return fmt.Sprint(must[[]netip.Prefix](t)(a.Host.Addrs(netlab.UnderlayDev)), "\n",
			hostRoutes(t, a.Host, func(r netlink.Route) bool { return r.Dst == nil || !r.Dst.IP.IsLinkLocalUnicast() }))
	}
	before := look()
	kernel.end(t, b, blue(b, sites...), sites)

	n := blue(a, sites...)
	n.bridge = "br-blue"
	refused(t, a.Host, at(a, n.with(`ports = ["eth0"]`)),
		"network blue: the port eth0 carries the underlay address "+a.Underlay.String(), "this host would be cut off", "ports_take_addresses = true")

	// It is refused also as the one of the default route alone.
	c := at(a, n.with(`ports = ["eth0"]`))
	c.underlay = netip.MustParseAddr("192.0.2.101")
	if v6 {
		c.underlay = netip.MustParseAddr("2001:db8:0:1::101")
	}
	spare := netip.PrefixFrom(c.underlay, c.underlay.BitLen())
	check(t, a.Host.AddAddr("lo", spare))
	refused(t, a.Host, c, "the port eth0 carries the default route")
	c.device = netlab.UnderlayDev
	refused(t, a.Host, c, "is underlay.device")
	delAddr(t, a.Host, "lo", spare)

	conf := at(a, n.with(`ports = ["eth0"]`, `ports_take_addresses = true`))
	file, socket := prepare(t, conf)
	d := startFile(t, a.Host, conf, file, socket)
	made := d.made
	// moved wants all on the bridge and nothing on the port, and both ways through.
	moved := func() {
		t.Helper()
		reaches(t, a.Container, b.IPv4)
		reaches(t, b.Container, a.IPv6)
		for _, p := range far {
			reaches(t, a.Host, p.Addr())
		}
		if on := look(); !strings.HasPrefix(on, "[]\n") || on != strings.ReplaceAll("[]\n"+strings.SplitN(before, "\n", 2)[1], "dev eth0", "dev br-blue") {
			t.Errorf("before:\n%s\nwith the bridge:\n%s", before, on)
		}
		for i := range far {
			if addrs := must[[]netip.Prefix](t)(a.Host.Addrs("br-blue")); !slices.ContainsFunc(addrs, func(p netip.Prefix) bool {
				return p.Addr() == netlab.UnderlayAddr(1, i == 1)
			}) {
				t.Errorf("addresses of the bridge: %v", addrs)
			}
		}
	}
	rejoin := func() {
		t.Helper()
		eventually(t, "the bridge", func() error {
			if !slices.Contains(must[[]string](t)(a.Host.Links()), "br-blue") {
				return errors.New("it is not there")
			}
			return nil
		})
		check(t, a.Host.SetMaster(a.Container.Name(), "br-blue"))
	}
	rejoin()
	moved()
	exchange(t, a, b, 4<<20)
	if s := d.status(); !s.Ready || s.Networks[0].MTU != a.MTU {
		t.Errorf("%+v", s)
	}

	// Deleting the bridge cuts the host off for a moment only.
	check(t, a.Host.DeleteLink("br-blue"))
	rejoin()
	d.awaitReady(true)
	moved()

	// A daemon that is killed leaves the host reachable over its bridge, and the
	// next one gives all back at its end: also when it was killed once more.
	for range 2 {
		d.kill()
		for _, p := range far {
			reaches(t, a.Host, p.Addr())
		}
		d = startFile(t, a.Host, conf, file, socket)
		d.made = made
		moved()
	}
	exchange(t, a, b, 1<<20)

	d.stop(unix.SIGTERM)
	if after := look(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	for _, p := range far {
		reaches(t, a.Host, p.Addr())
	}
}
