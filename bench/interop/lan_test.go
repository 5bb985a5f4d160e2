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

// The NIC that carries the underlay is refused as a port. Told to take its
// addresses along, the tunnel runs over the bridge, and at the end the NIC has
// everything back.
func TestUnderlayOnTheBridge(t *testing.T) {
	lab := netlabtest.New(t)
	sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{}))
	a, b := sites[0], sites[1]
	far := prefix("203.0.113.0/24")
	check(t, a.Host.AddRoute(prefix("0.0.0.0/0"), b.Underlay, netlab.UnderlayDev))
	check(t, b.Host.AddAddr("lo", prefix("203.0.113.1/32")))
	look := func() string {
		t.Helper()
		return fmt.Sprint(must[[]netip.Prefix](t)(a.Host.Addrs(netlab.UnderlayDev)), "\n",
			hostRoutes(t, a.Host, func(netlink.Route) bool { return true }))
	}
	before := look()
	kernel.end(t, b, blue(b, sites...), sites)

	n := blue(a, sites...)
	n.bridge = "br-blue"
	refused(t, a.Host, at(a, n.with(`ports = ["eth0"]`)),
		"network blue: the port eth0 carries the underlay address 192.0.2.1", "this host would be cut off", "ports_take_addresses = true")

	// It is refused also as the one of the default route alone.
	c := at(a, n.with(`ports = ["eth0"]`))
	check(t, a.Host.AddAddr("lo", prefix("192.0.2.101/32")))
	c.underlay = netip.MustParseAddr("192.0.2.101")
	refused(t, a.Host, c, "the port eth0 carries the default route")
	c.device = netlab.UnderlayDev
	refused(t, a.Host, c, "is underlay.device")

	d := start(t, a.Host, at(a, n.with(`ports = ["eth0"]`, `ports_take_addresses = true`)))
	check(t, a.Host.SetMaster(a.Container.Name(), "br-blue"))
	if addrs := must[[]netip.Prefix](t)(a.Host.Addrs("br-blue")); !slices.Contains(addrs, netip.PrefixFrom(a.Underlay, 24)) {
		t.Errorf("addresses of the bridge: %v", addrs)
	}
	reaches(t, a.Host, far.Addr().Next()) // by the default route
	reaches(t, a.Container, b.IPv4)
	exchange(t, a, b, 4<<20)
	if s := d.status(); !s.Ready || s.Networks[0].MTU != a.MTU {
		t.Errorf("%+v", s)
	}

	// Whoever deletes the bridge cuts the host off for a moment only.
	check(t, a.Host.DeleteLink("br-blue"))
	eventually(t, "the bridge", func() error {
		links := must[[]string](t)(a.Host.Links())
		if !slices.Contains(links, "br-blue") {
			return fmt.Errorf("links %v", links)
		}
		return nil
	})
	check(t, a.Host.SetMaster(a.Container.Name(), "br-blue"))
	reaches(t, a.Host, far.Addr().Next())
	reaches(t, a.Container, b.IPv4)
	eventually(t, "ready", func() error {
		if !d.status().Ready {
			return errors.New(d.verb("status"))
		}
		return nil
	})

	d.stop(unix.SIGTERM)
	if after := look(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	reaches(t, a.Host, far.Addr().Next())
}
