package host

import (
	"encoding/json"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"overtap/encap"
)

// lan is a network whose port is the device that this host hangs on: with the
// underlay address, further addresses, and routes of every kind.
func lan(t *testing.T) Network {
	t.Helper()
	newTAP(t, "vx-blue")
	wire(t, "192.0.2.1/24", "192.0.2.77/24", "2001:db8::1/64")
	addRoute(t, netlink.Route{Priority: 100}, "0.0.0.0/0", "192.0.2.254", "lan0")
	addRoute(t, netlink.Route{}, "::/0", "2001:db8::fe", "lan0")
	addRoute(t, netlink.Route{Scope: unix.RT_SCOPE_LINK}, "203.0.113.254/32", "", "lan0")
	addRoute(t, netlink.Route{Flags: unix.RTNH_F_ONLINK}, "203.0.113.0/24", "172.16.0.1", "lan0")
	n := blue()
	n.Ports, n.PortsTake = []string{"lan0"}, true
	return n
}

var lanRoutes = []string{
	"0.0.0.0/0 via 192.0.2.254 dev lan0 proto 4", "::/0 via 2001:db8::fe dev lan0 proto 4",
	"203.0.113.254/32 via <nil> dev lan0 proto 4", "203.0.113.0/24 via 172.16.0.1 dev lan0 proto 4",
}

// over returns routes as they are by another link.
func over(dev string, routes ...string) []string {
	out := slices.Clone(routes)
	for i := range out {
		out[i] = strings.Replace(out[i], "dev lan0", "dev "+dev, 1)
	}
	return out
}

const (
	lanAddrs = "192.0.2.1/24 192.0.2.77/24 2001:db8::1/64"
	ownAddrs = "198.51.100.1/24"
)

// The device that carries this host is refused as a port, with the reason.
func TestPortThatBears(t *testing.T) {
	h := newHost(t)
	n := lan(t)
	p := Plan{Tun: TunDevice, Underlay: underlay, Networks: []Network{n}}
	p.Networks[0].Device = "vx-free"
	check(t, h.Preflight(p), nil)
	p.Networks[0].PortsTake = false
	check(t, h.Preflight(p), []string{"network blue: the port lan0 carries the underlay address 192.0.2.1, and addresses do not work on a bridge's port: this host would be cut off",
		"ports_take_addresses = true"})
	p.Underlay = netip.MustParseAddr("192.0.2.77")
	check(t, h.Preflight(p), []string{"the port lan0 carries the underlay address 192.0.2.77"})

	newLink(t, &netlink.Veth{LinkAttrs: named("u1"), PeerName: "u2"})
	setUp(t, "u1")
	addAddr(t, "u1", "198.18.0.1/24")
	p.Underlay = netip.MustParseAddr("198.18.0.1")
	check(t, h.Preflight(p), []string{"the port lan0 carries the default route"})
	delRoute(t, "0.0.0.0/0")
	check(t, h.Preflight(p), []string{"the port lan0 carries the default route"}) // IPv6's
	delRoute(t, "::/0")
	check(t, h.Preflight(p), nil)

	index := link(t, "lan0").Attrs().Index
	addRoute(t, netlink.Route{MultiPath: []*netlink.NexthopInfo{
		{LinkIndex: index, Gw: netip.MustParseAddr("192.0.2.2").AsSlice()},
		{LinkIndex: index, Gw: netip.MustParseAddr("192.0.2.3").AsSlice()},
	}}, "0.0.0.0/0", "", "")
	check(t, h.Preflight(p), []string{"the port lan0 carries the default route"})
	p.Networks[0].PortsTake = true
	check(t, h.Preflight(p), []string{"the port lan0 is one of several ways of the route 0.0.0.0/0, which cannot move"})

	newLink(t, &netlink.Bridge{LinkAttrs: named("br-other")})
	p.Networks[0].Ports = []string{"br-other", "lan9"}
	check(t, h.Preflight(p), []string{"the port br-other is a bridge", "the port lan9 does not exist"})
}

// Addresses and routes move to the bridge, which then speaks for the port on
// its LAN, and back.
func TestPortTakes(t *testing.T) {
	for _, found := range []bool{false, true} {
		t.Run(map[bool]string{false: "made bridge", true: "found bridge"}[found], func(t *testing.T) {
			h := newHost(t)
			n := lan(t)
			want := ""
			if found {
				newLink(t, &netlink.Bridge{LinkAttrs: named("br-blue")})
				setUp(t, "br-blue")
				addAddr(t, "br-blue", "198.18.0.1/24")
				addRoute(t, netlink.Route{}, "198.19.0.0/24", "198.18.0.9", "br-blue")
				want = "198.18.0.1/24 "
			}
			for range 2 {
				if err := h.Setup(n); err != nil {
					t.Fatal(err)
				}
				if got := global(t, "lan0"); len(got) > 0 {
					t.Errorf("addresses left on the port: %q", got)
				}
				got := global(t, "br-blue")
				for _, a := range strings.Fields(want + lanAddrs + " " + ownAddrs) {
					if !slices.Contains(got, a) {
						t.Errorf("the bridge has %q, not %s", got, a)
					}
				}
			}
			moved := over("br-blue", lanRoutes...)
			if found {
				moved = append(moved, "198.19.0.0/24 via 198.18.0.9 dev br-blue proto 4")
			}
			wantRoutes(t, moved...)
			br, port := link(t, "br-blue").Attrs(), link(t, "lan0").Attrs()
			if br.MTU != 1500 || link(t, "vx-blue").Attrs().MTU != 1450 {
				t.Errorf("MTU of the bridge %d", br.MTU)
			}
			if !found && br.HardwareAddr.String() != port.HardwareAddr.String() {
				t.Errorf("the bridge's MAC %v, the port's %v", br.HardwareAddr, port.HardwareAddr)
			}
			if u, err := h.Underlay(underlay, ""); err != nil || u.Name != "br-blue" || u.MTU != 1500 {
				t.Errorf("underlay %+v, %v", u, err)
			}

			// What a lease brings meanwhile goes to the port, what is removed does
			// not come back.
			addAddr(t, "br-blue", "192.0.2.88/24")
			delAddr(t, "br-blue", "192.0.2.77/24")
			if err := h.Undo(); err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(global(t, "lan0"), " "); got != "192.0.2.1/24 192.0.2.88/24 2001:db8::1/64" {
				t.Errorf("the port got back %s", got)
			}
			back := slices.Clone(lanRoutes)
			if found {
				back = append(back, "198.19.0.0/24 via 198.18.0.9 dev br-blue proto 4")
				if got := strings.Join(global(t, "br-blue"), " "); got != "198.18.0.1/24" {
					t.Errorf("the bridge keeps %s", got)
				}
			} else {
				absent(t, "br-blue")
			}
			wantRoutes(t, back...)
			if a := link(t, "lan0").Attrs(); a.MasterIndex != 0 || a.RawFlags&unix.IFF_UP == 0 || a.MTU != 1500 || a.Promisc != 0 {
				t.Errorf("port: %+v", a)
			}
		})
	}
}

// An address that is both the port's and configured goes back to the port.
func TestPortTakesConfigured(t *testing.T) {
	h := newHost(t)
	n := lan(t)
	n.Addresses = []netip.Prefix{prefix("192.0.2.1/24")}
	if err := h.Setup(n); err != nil {
		t.Fatal(err)
	}
	if err := h.Undo(); err != nil {
		t.Fatal(err)
	}
	got := global(t, "lan0")
	slices.Sort(got)
	if strings.Join(got, " ") != lanAddrs {
		t.Errorf("the port got back %q", got)
	}
}

// A run that was killed left everything on its bridge: the next one gives it
// back at its end.
func TestPortTakesAfterCrash(t *testing.T) {
	n := lan(t)
	crashedHost(t, n)
	h := newHost(t)
	p := Plan{Tun: TunDevice, Underlay: underlay, Networks: []Network{n}}
	p.Networks[0].Device = "vx-free"
	check(t, h.Preflight(p), nil)
	for range 2 {
		if err := h.Setup(n); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.Undo(); err != nil {
		t.Fatal(err)
	}
	absent(t, "br-blue")
	if got := strings.Join(global(t, "lan0"), " "); got != lanAddrs {
		t.Errorf("the port got back %s", got)
	}
	wantRoutes(t, lanRoutes...)
}

// A bridge that is deleted from outside takes the addresses of its ports with it: it comes back
// with the bridge, and goes home at the end; or straight home.
func TestPortTakesBridgeDeleted(t *testing.T) {
	for _, repaired := range []bool{true, false} {
		h := newHost(t)
		n := lan(t)
		if err := h.Setup(n); err != nil {
			t.Fatal(err)
		}
		delLink(t, "br-blue")
		wantRoutes(t)
		if repaired {
			if _, err := h.Repair("blue"); err != nil {
				t.Fatal(err)
			}
			wantRoutes(t, over("br-blue", lanRoutes...)...)
		}
		if err := h.Undo(); err != nil {
			t.Fatal(err)
		}
		absent(t, "br-blue")
		if got := strings.Join(global(t, "lan0"), " "); got != lanAddrs {
			t.Errorf("the port got back %s", got)
		}
		wantRoutes(t, lanRoutes...)
		delLink(t, "lan0")
		absent(t, "vx-blue")
	}
}

// When a step after the move fails, all is as before.
func TestPortTakesFails(t *testing.T) {
	h := newHost(t)
	n := lan(t)
	n.Ports = append(n.Ports, "missing0")
	check(t, h.Setup(n), []string{"looking for the port missing0"})
	if err := h.Undo(); err != nil {
		t.Fatal(err)
	}
	absent(t, "br-blue")
	if got := strings.Join(global(t, "lan0"), " "); got != lanAddrs {
		t.Errorf("the port has %s", got)
	}
	wantRoutes(t, lanRoutes...)
}

// The bridge that carries the underlay keeps its MTU when the TAP joins it: or
// the TAP's would be derived from its own.
func TestUnderlayBridgeKeepsMTU(t *testing.T) {
	h := newHost(t)
	newTAP(t, "vx-blue")
	br := newLink(t, &netlink.Bridge{LinkAttrs: named("br-blue")})
	wire(t)
	if err := netlink.LinkSetMaster(link(t, "lan0"), br); err != nil {
		t.Fatal(err)
	}
	setUp(t, "br-blue")
	addAddr(t, "br-blue", "192.0.2.1/24")
	if err := h.Setup(blue()); err != nil {
		t.Fatal(err)
	}
	if u, err := h.Underlay(underlay, ""); err != nil || u.MTU != 1500 {
		t.Errorf("%+v, %v", u, err)
	}
	if err := h.Undo(); err != nil {
		t.Fatal(err)
	}
	delLink(t, "br-blue")

	// A TAP that is a port already, and was no narrower than the bridge so far.
	newTAP(t, "vx-blue")
	br = newLink(t, &netlink.Bridge{LinkAttrs: named("br-blue")})
	if err := netlink.LinkSetMaster(link(t, "lan0"), br); err != nil {
		t.Fatal(err)
	}
	setUp(t, "br-blue")
	addAddr(t, "br-blue", "192.0.2.1/24")
	n := blue()
	for _, mtu := range []encap.OverlayMTU{1500, 1300} {
		n.MTU = mtu
		if err := h.Setup(n); err != nil {
			t.Fatal(err)
		}
		if u, err := h.Underlay(underlay, ""); err != nil || u.MTU != 1500 {
			t.Errorf("with a TAP of %d: %+v, %v", mtu, u, err)
		}
		if got := link(t, "vx-blue").Attrs().MTU; got != int(mtu) {
			t.Errorf("the TAP's MTU is %d, want %d", got, mtu)
		}
	}
}

// A movedAddresses is the same after it went through the journal or a hand-over, also a
// gateway of the other family; what would not be is refused before.
func TestMovedAddressesAsJSON(t *testing.T) {
	index := 7
	l := &movedAddresses{
		Addrs: []netlink.Addr{{IPNet: ipNet(prefix("192.0.2.1/24")), Label: "lan0"}},
		Routes: []netlink.Route{
			{LinkIndex: index, Dst: ipNet(prefix("203.0.113.0/24")), Gw: net.IPv4(192, 0, 2, 254), Priority: 100, Table: unix.RT_TABLE_MAIN, MTU: 1400},
			{LinkIndex: index, Dst: ipNet(prefix("203.0.114.0/24")), Via: &netlink.Via{AddrFamily: unix.AF_INET6, Addr: net.ParseIP("fe80::9")}},
		},
		Bridge: 9, Of: "br-blue", Rest: true, Own: map[string]bool{"198.51.100.1/24": true},
	}
	text, err := json.Marshal(Step{Do: restoreAddresses, Link: "lan0", Moved: l})
	if err != nil {
		t.Fatal(err)
	}
	var s Step
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	if diff := cmp.Diff(l, s.Moved); diff != "" {
		t.Errorf("before and after (-before +after):\n%s", diff)
	}

	h := newHost(t)
	n := lan(t)
	addRoute(t, netlink.Route{Encap: &netlink.SEG6Encap{Mode: nl.SEG6_IPTUN_MODE_ENCAP, Segments: []net.IP{net.ParseIP("2001:db8::7")}}}, "2001:db8:7::/64", "", "lan0")
	p := Plan{Tun: TunDevice, Underlay: underlay, Networks: []Network{n}}
	p.Networks[0].Device = "vx-free"
	check(t, h.Preflight(p), []string{"the port lan0 has the route 2001:db8:7::/64, whose encapsulation cannot move"})
}
