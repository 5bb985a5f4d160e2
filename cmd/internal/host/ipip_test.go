package host

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// newTUN makes a TUN as the engine does; it goes with the test.
func newTUN(t *testing.T, name string) {
	t.Helper()
	tun := &netlink.Tuntap{LinkAttrs: named(name), Mode: netlink.TUNTAP_MODE_TUN, Queues: 1, NonPersist: true,
		Flags: netlink.TUNTAP_MULTI_QUEUE_DEFAULTS}
	newLink(t, tun)
	t.Cleanup(func() {
		for _, f := range tun.Fds {
			f.Close()
		}
	})
}

func tunnel() Network {
	return Network{Name: "green", TUN: true, Device: "tun0", MTU: 1480,
		Addresses: []netip.Prefix{prefix("172.31.0.1/30")},
		Routes:    []Route{{Prefix: prefix("172.31.1.0/24")}, {Prefix: prefix("172.31.2.7/32")}}}
}

// routesOver lists the routes over the device that are marked as ours.
func routesOver(t *testing.T, dev string) (list []string) {
	t.Helper()
	all, err := netlink.RouteList(link(t, dev), netlink.FAMILY_V4)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range all {
		if r.Protocol == RouteProtocol {
			if r.Gw != nil || r.Scope != netlink.SCOPE_LINK {
				t.Errorf("route %v", r)
			}
			list = append(list, r.Dst.String())
		}
	}
	slices.Sort(list)
	return list
}

func TestTunnel(t *testing.T) {
	h := newHost(t)
	newTUN(t, "tun0")
	n := tunnel()
	if err := h.Setup(n); err != nil {
		t.Fatal(err)
	}
	want := []string{"172.31.1.0/24", "172.31.2.7/32"}
	if got := routesOver(t, "tun0"); !slices.Equal(got, want) {
		t.Errorf("routes %v", got)
	}
	a := link(t, "tun0").Attrs()
	if a.MTU != 1480 || a.RawFlags&unix.IFF_UP == 0 {
		t.Errorf("%+v", a)
	}
	if v6, err := netlink.AddrList(link(t, "tun0"), netlink.FAMILY_V6); err != nil || len(v6) > 0 {
		t.Errorf("IPv6 addresses %v, %v", v6, err)
	}
	// A removed route comes back, and nothing else is touched.
	r := netlink.Route{LinkIndex: a.Index, Dst: ipNet(prefix("172.31.1.0/24")), Scope: netlink.SCOPE_LINK}
	if err := netlink.RouteDel(&r); err != nil {
		t.Fatal(err)
	}
	put, err := h.Repair("green")
	if err != nil || len(put) != 1 || !strings.Contains(put[0], "172.31.1.0/24") {
		t.Errorf("put back %q, %v", put, err)
	}
	if put, err := h.Repair("green"); err != nil || len(put) > 0 {
		t.Errorf("put back again: %q, %v", put, err)
	}
	if err := h.Undo(); err != nil {
		t.Error(err)
	}
	absent(t, "tun0")
	wantRoutes(t)
}

// A route of another program where a tunnel's must be is an obstacle that is known
// before anything is made.
func TestTunnelShadows(t *testing.T) {
	h := newHost(t)
	wire(t, "192.0.2.1/24")
	addRoute(t, netlink.Route{Scope: netlink.SCOPE_LINK}, "172.31.1.0/24", "", "lan0")
	n := tunnel()
	err := h.checkNetwork(Plan{}, n)
	if err == nil || !strings.Contains(err.Error(), "172.31.1.0/24 dev lan0") {
		t.Errorf("%v", err)
	}
	newTUN(t, "tun0")
	if err := h.checkNetwork(Plan{}, n); err == nil || !strings.Contains(err.Error(), "choose another name for the tunnel") {
		t.Errorf("%v", err)
	}
}

func TestSurroundingsIPIP(t *testing.T) {
	h := newHost(t)
	if s, err := h.Surroundings(); err != nil || len(s.IPIP) > 0 {
		t.Errorf("%v, %v", s.IPIP, err)
	}
	newLink(t, &netlink.Veth{LinkAttrs: named("tunl0"), PeerName: "tunl1"})
	if s, err := h.Surroundings(); err != nil || !slices.Equal(s.IPIP, []string{"tunl0"}) {
		t.Errorf("%v, %v", s.IPIP, err)
	}
}
