package host

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func route(p, via string) Route { return Route{prefix(p), netip.MustParseAddr(via)} }

// wire makes a veth pair lan0, lan1 that is up, with addresses on lan0.
func wire(t *testing.T, addresses ...string) netlink.Link {
	t.Helper()
	l := newLink(t, &netlink.Veth{LinkAttrs: named("lan0"), PeerName: "lan1"})
	setUp(t, "lan0")
	setUp(t, "lan1")
	for _, a := range addresses {
		addAddr(t, "lan0", a)
	}
	return l
}

func setUp(t *testing.T, name string) {
	t.Helper()
	if err := netlink.LinkSetUp(link(t, name)); err != nil {
		t.Fatal(err)
	}
}

func setDown(t *testing.T, name string) {
	t.Helper()
	if err := netlink.LinkSetDown(link(t, name)); err != nil {
		t.Fatal(err)
	}
}

func addAddr(t *testing.T, name, a string) {
	t.Helper()
	err := netlink.AddrAdd(link(t, name), &netlink.Addr{IPNet: ipNet(prefix(a)), Flags: unix.IFA_F_NODAD})
	if err != nil {
		t.Fatal(err)
	}
}

func delAddr(t *testing.T, name, a string) {
	t.Helper()
	if err := netlink.AddrDel(link(t, name), &netlink.Addr{IPNet: ipNet(prefix(a))}); err != nil {
		t.Fatal(err)
	}
}

// addRoute adds another program's route; what is not given of p is left out.
func addRoute(t *testing.T, r netlink.Route, p, via, dev string) {
	t.Helper()
	r.Dst = ipNet(prefix(p))
	if via != "" {
		r.Gw = netip.MustParseAddr(via).AsSlice()
	}
	if dev != "" {
		r.LinkIndex = link(t, dev).Attrs().Index
	}
	if r.Protocol == 0 {
		r.Protocol = unix.RTPROT_STATIC
	}
	if err := netlink.RouteAdd(&r); err != nil {
		t.Fatalf("adding the route %s: %v", p, err)
	}
	t.Cleanup(func() {
		// Most went with their links.
		if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.ENODEV) {
			t.Error(err)
		}
	})
}

func delRoute(t *testing.T, p string) {
	t.Helper()
	if err := netlink.RouteDel(&netlink.Route{Dst: ipNet(prefix(p))}); err != nil {
		t.Fatalf("removing the route %s: %v", p, err)
	}
}

// routes lists the main table's routes but for those that the kernel makes.
func routes(t *testing.T) []string {
	t.Helper()
	list, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, r := range list {
		if r.Protocol == unix.RTPROT_KERNEL {
			continue
		}
		dev := ""
		if l, err := netlink.LinkByIndex(r.LinkIndex); err == nil {
			dev = l.Attrs().Name
		}
		out = append(out, fmt.Sprintf("%v via %v dev %s proto %d", r.Dst, r.Gw, dev, r.Protocol))
	}
	slices.Sort(out)
	return out
}

func wantRoutes(t *testing.T, want ...string) {
	t.Helper()
	slices.Sort(want)
	if got := routes(t); !slices.Equal(got, want) {
		t.Errorf("routes:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

const (
	ours  = "172.246.0.0/24 via 192.0.2.2 dev lan0 proto 79"
	ours6 = "2001:db8:9::/64 via 2001:db8::2 dev lan0 proto 79"
)

var plain = []Route{route("172.246.0.0/24", "192.0.2.2"), route("2001:db8:9::/64", "2001:db8::2")}

func TestPlainRoutes(t *testing.T) {
	h := newHost(t)
	wire(t, "192.0.2.1/24", "2001:db8::1/64")
	for range 2 {
		if err := h.SetupRoutes(plain); err != nil {
			t.Fatal(err)
		}
		wantRoutes(t, ours, ours6)
	}
	if err := h.Undo(); err != nil {
		t.Fatal(err)
	}
	wantRoutes(t)
}

// What a run that crashed left is known by its protocol: what is right is
// taken over, what is wrong replaced.
func TestRoutesOfACrashedRun(t *testing.T) {
	h := newHost(t)
	wire(t, "192.0.2.1/24", "2001:db8::1/64")
	addRoute(t, netlink.Route{Protocol: RouteProtocol}, "172.246.0.0/24", "192.0.2.9", "lan0")
	addRoute(t, netlink.Route{Protocol: RouteProtocol}, "2001:db8:9::/64", "2001:db8::2", "lan0")
	if err := h.SetupRoutes(plain); err != nil {
		t.Fatal(err)
	}
	wantRoutes(t, ours, ours6)
	if err := h.Undo(); err != nil {
		t.Fatal(err)
	}
	wantRoutes(t)
}

// Another program's route that is what is asked for is left as it is, at the end
// too; so is one that took the place of ours.
func TestRoutesOfOthers(t *testing.T) {
	h := newHost(t)
	wire(t, "192.0.2.1/24", "2001:db8::1/64")
	addRoute(t, netlink.Route{}, "172.246.0.0/24", "192.0.2.2", "lan0")
	if err := h.SetupRoutes(plain); err != nil {
		t.Fatal(err)
	}
	foreign := "172.246.0.0/24 via 192.0.2.2 dev lan0 proto 4"
	wantRoutes(t, foreign, ours6)
	delRoute(t, "2001:db8:9::/64")
	addRoute(t, netlink.Route{}, "2001:db8:9::/64", "2001:db8::2", "lan0")
	if err := h.Undo(); err != nil {
		t.Fatal(err)
	}
	wantRoutes(t, foreign, "2001:db8:9::/64 via 2001:db8::2 dev lan0 proto 4")
}

// A route that stands is hidden neither by a plain route nor by one of a
// network: Preflight says so, and so does the set-up.
func TestNoShadowing(t *testing.T) {
	for name, tc := range map[string]struct {
		make func(t *testing.T)
		want string
	}{
		"another next hop": {func(t *testing.T) {
			addRoute(t, netlink.Route{}, "172.246.0.0/24", "192.0.2.9", "lan0")
		}, "172.246.0.0/24 via 192.0.2.9 dev lan0 proto static: take the prefix out of the configuration, or remove that route with `ip route del 172.246.0.0/24 via 192.0.2.9 dev lan0` if nothing needs it"},
		"on a link": {func(t *testing.T) {
			addRoute(t, netlink.Route{Scope: unix.RT_SCOPE_LINK}, "172.246.0.0/24", "", "lan0")
		}, "172.246.0.0/24 dev lan0 proto static"},
		"the subnet of an address": {func(t *testing.T) {
			addAddr(t, "lan0", "172.246.0.1/24")
		}, "172.246.0.0/24 dev lan0 proto kernel"},
		"less important": {func(t *testing.T) {
			addRoute(t, netlink.Route{Priority: 100}, "172.246.0.0/24", "192.0.2.9", "lan0")
		}, "dev lan0 metric 100 proto static"},
		"blackhole": {func(t *testing.T) {
			addRoute(t, netlink.Route{Type: unix.RTN_BLACKHOLE}, "172.246.0.0/24", "", "")
		}, "blackhole 172.246.0.0/24 proto static"},
		"several ways": {func(t *testing.T) {
			index := link(t, "lan0").Attrs().Index
			addRoute(t, netlink.Route{MultiPath: []*netlink.NexthopInfo{
				{LinkIndex: index, Gw: netip.MustParseAddr("192.0.2.2").AsSlice()},
				{LinkIndex: index, Gw: netip.MustParseAddr("192.0.2.3").AsSlice()},
			}}, "172.246.0.0/24", "", "")
		}, "172.246.0.0/24 proto static"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			newTAP(t, "vx-blue")
			p := plan(t)
			wire(t)
			addAddr(t, "lan0", "192.0.2.129/25")
			delAddr(t, "u1", "192.0.2.1/24")
			addAddr(t, "u1", "192.0.2.1/32")
			delAddr(t, "lan0", "192.0.2.129/25")
			addAddr(t, "lan0", "192.0.2.129/24")
			tc.make(t)
			before := routes(t)
			want := []string{"the route 172.246.0.0/24 via 192.0.2.2 would hide one that is there already, ", tc.want}

			p.Networks[0].Device = "vx-free"
			p.Routes = plain[:1]
			check(t, h.Preflight(p), want)
			check(t, h.SetupRoutes(plain[:1]), want)

			p.Routes, p.Networks[0].Routes = nil, plain[:1]
			check(t, h.Preflight(p), append(want, "network blue: "))
			n := blue()
			n.Routes = plain[:1]
			check(t, h.Setup(n), append(want, "network blue: "))
			if err := h.Undo(); err != nil {
				t.Error(err)
			}
			if after := routes(t); !slices.Equal(before, after) {
				t.Errorf("routes before: %q\nafter: %q", before, after)
			}
		})
	}
}

func TestNextHopMustBeOnLink(t *testing.T) {
	h := newHost(t)
	p := plan(t)
	wire(t, "203.0.113.1/24")
	addRoute(t, netlink.Route{}, "10.0.0.0/8", "203.0.113.9", "lan0")
	addRoute(t, netlink.Route{Type: unix.RTN_UNREACHABLE}, "10.9.0.0/16", "", "")
	for via, want := range map[string]string{
		"172.16.0.2":  "the next hop of the route 172.246.0.0/24 via 172.16.0.2 cannot be reached: want a neighbour",
		"10.0.0.2":    "is not on a link, but behind the gateway 203.0.113.9",
		"203.0.113.1": "is this host itself",
		"10.9.0.2":    "cannot be reached",
	} {
		p.Routes = []Route{route("172.246.0.0/24", via)}
		check(t, h.Preflight(p), []string{want})
		check(t, h.SetupRoutes(p.Routes), []string{want})
	}
	p.Routes = []Route{route("172.246.0.0/24", "203.0.113.2")}
	check(t, h.Preflight(p), nil)
}

// Routes of a network lead over its bridge, or its TAP where there is none, to
// next hops of no subnet of its.
func TestNetworkRoutes(t *testing.T) {
	for _, bridge := range []string{"br-blue", ""} {
		t.Run("bridge "+bridge, func(t *testing.T) {
			h := newHost(t)
			newTAP(t, "vx-blue")
			n := blue()
			n.Bridge = bridge
			n.Routes = []Route{route("172.246.0.0/24", "172.246.0.0"), route("2001:db8:9::/64", "fe80::2"), route("10.1.0.0/16", "198.51.100.9")}
			p := plan(t)
			p.Networks[0].Routes, p.Networks[0].Device = n.Routes, "vx-free"
			check(t, h.Preflight(p), nil)
			for range 2 {
				if err := h.Setup(n); err != nil {
					t.Fatal(err)
				}
				dev := bridge
				if dev == "" {
					dev = "vx-blue"
				}
				wantRoutes(t, "172.246.0.0/24 via 172.246.0.0 dev "+dev+" proto 79",
					"2001:db8:9::/64 via fe80::2 dev "+dev+" proto 79", "10.1.0.0/16 via 198.51.100.9 dev "+dev+" proto 79")
			}
			if err := h.Undo(); err != nil {
				t.Fatal(err)
			}
			wantRoutes(t)
		})
	}
}
