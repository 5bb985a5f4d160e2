package host

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// What this host hangs on, or anything else that is in use, is never named with a
// command that would end it.
func TestRemediesAreSafe(t *testing.T) {
	destructive := []string{"ip link del", "ip route del", "nomaster", "modprobe -r", "ip addr del"}
	for _, tc := range []struct {
		name string
		make func(t *testing.T, p *Plan)
		want string
		free bool // the thing is of no use: a command may be named
	}{
		{"the TAP's name is the underlay's device's", func(_ *testing.T, p *Plan) { p.Networks[0].Device = "u1" },
			"the device name u1 is taken by a veth, which is in use (it has the underlay address 192.0.2.1): choose another name for tap", false},
		{"that of the device that is configured", func(_ *testing.T, p *Plan) {
			p.Networks[0].Device, p.Device = "u2", "u2"
		}, "which is in use (the underlay runs over it)", false},
		{"the loopback's", func(_ *testing.T, p *Plan) { p.Networks[0].Device = "lo" }, "in use (it is the loopback device)", false},
		{"that of a bridge with ports", func(t *testing.T, _ *Plan) {
			br := newLink(t, &netlink.Bridge{LinkAttrs: named("vx-blue")})
			port := newLink(t, &netlink.Veth{LinkAttrs: named("lan0"), PeerName: "lan1"})
			do(t, netlink.LinkSetMaster(port, br))
		}, "in use (lan0 is a port of it)", false},
		{"that of a port", func(t *testing.T, p *Plan) {
			br := newLink(t, &netlink.Bridge{LinkAttrs: named("other")})
			port := newLink(t, &netlink.Veth{LinkAttrs: named("vx-blue"), PeerName: "lan1"})
			do(t, netlink.LinkSetMaster(port, br))
		}, "in use (it is a port of other)", false},
		{"that of a device with an address", func(t *testing.T, _ *Plan) {
			newLink(t, &netlink.Bridge{LinkAttrs: named("vx-blue")})
			addAddr(t, "vx-blue", "203.0.113.1/24")
		}, "in use (it has the address 203.0.113.1)", false},
		{"that of a device with a route", func(t *testing.T, _ *Plan) {
			l := newLink(t, &netlink.Bridge{LinkAttrs: named("vx-blue")})
			_, dst, _ := net.ParseCIDR("203.0.113.0/24")
			do(t, netlink.LinkSetUp(l), netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: dst, Scope: unix.RT_SCOPE_LINK}))
		}, "in use (a route leads over it)", false},
		{"that of an idle device", func(t *testing.T, _ *Plan) {
			newLink(t, &netlink.Bridge{LinkAttrs: named("vx-blue")})
		}, "is taken by a bridge: choose another name for tap, or remove that with `ip link del vx-blue` if nothing needs it", true},
		{"the route of the underlay's subnet", func(_ *testing.T, p *Plan) {
			p.Routes = []Route{{Prefix: netip.MustParsePrefix("192.0.2.0/24"), Via: netip.MustParseAddr("192.0.2.9")}}
		}, "192.0.2.0/24 dev u1 proto kernel: take the prefix out of the configuration", false},
		{"a route by hand over the underlay", func(t *testing.T, p *Plan) {
			_, dst, _ := net.ParseCIDR("203.0.113.0/24")
			do(t, netlink.RouteAdd(&netlink.Route{LinkIndex: link(t, "u1").Attrs().Index, Dst: dst, Gw: net.ParseIP("192.0.2.7"), Protocol: unix.RTPROT_STATIC}))
			p.Routes = []Route{{Prefix: netip.MustParsePrefix("203.0.113.0/24"), Via: netip.MustParseAddr("192.0.2.9")}}
		}, "203.0.113.0/24 via 192.0.2.7 dev u1 proto static: take the prefix out of the configuration", false},
		{"a port of another bridge", func(t *testing.T, p *Plan) {
			br := newLink(t, &netlink.Bridge{LinkAttrs: named("other")})
			port := newLink(t, &netlink.Veth{LinkAttrs: named("lan0"), PeerName: "lan1"})
			do(t, netlink.LinkSetMaster(port, br))
			p.Networks[0].Ports = []string{"lan0"}
		}, "the port lan0 already belongs to other, and may carry what that needs: take it out of ports", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHost(t)
			p := plan(t)
			tc.make(t, &p)
			err := h.Preflight(p)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("%v, want %q", err, tc.want)
			}
			for _, command := range destructive {
				if strings.Contains(err.Error(), command) && !tc.free {
					t.Errorf("a remedy that ends what is in use: %v", err)
				}
			}
		})
	}
	for used, free := range map[bool]bool{true: false, false: true} {
		if r := (Surroundings{IPIPUsed: used}).IPIPRemedy(); strings.HasPrefix(r, "unload the module") != free {
			t.Errorf("used %v: %s", used, r)
		}
	}
}

func do(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}
