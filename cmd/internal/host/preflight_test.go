package host

import (
	"net"
	"net/netip"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func parseMAC(t *testing.T, s string) net.HardwareAddr {
	t.Helper()
	m, err := net.ParseMAC(s)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// plan is one that works, on an underlay made for the test.
func plan(t *testing.T) Plan {
	t.Helper()
	eth := newLink(t, &netlink.Veth{LinkAttrs: named("u1"), PeerName: "u2"})
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: underlay.AsSlice(), Mask: net.CIDRMask(24, 32)}}
	if err := netlink.AddrAdd(eth, addr); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"u1", "u2"} {
		if err := netlink.LinkSetUp(link(t, name)); err != nil {
			t.Fatal(err)
		}
	}
	return Plan{Tun: TunDevice, Underlay: underlay, Ports: []uint16{4789, 8472}, Networks: []Network{blue()}}
}

func TestPreflight(t *testing.T) {
	for _, tc := range []struct {
		name string
		make func(t *testing.T, p *Plan)
		want []string // parts of the error's lines; none = no error
	}{
		{"sound", func(*testing.T, *Plan) {}, nil},
		{"sound on a device", func(_ *testing.T, p *Plan) { p.Device = "u1" }, nil},
		{"sound on a found bridge", func(t *testing.T, _ *Plan) {
			newLink(t, &netlink.Bridge{LinkAttrs: named("br-blue")})
		}, nil},
		{"no tun", func(t *testing.T, p *Plan) { p.Tun = filepath.Join(t.TempDir(), "tun") },
			[]string{"there is no ", "modprobe tun", "--device"}},
		{"foreign address", func(_ *testing.T, p *Plan) { p.Underlay = netip.MustParseAddr("192.0.2.77") },
			[]string{"192.0.2.77 is not on this host (it has 192.0.2.1 (u1))", "set underlay.address"}},
		{"no address of the family", func(_ *testing.T, p *Plan) { p.Underlay = netip.MustParseAddr("2001:db8::1") },
			[]string{"it has none of that family"}},
		{"missing device", func(_ *testing.T, p *Plan) { p.Device = "eth9" },
			[]string{"underlay device eth9 does not exist", "u1"}},
		{"port of a vxlan device", func(t *testing.T, _ *Plan) {
			vx := newLink(t, &netlink.Vxlan{LinkAttrs: named("vx7"), VxlanId: 7, Port: 8472})
			if err := netlink.LinkSetUp(vx); err != nil {
				t.Fatal(err)
			}
		}, []string{"UDP port 8472 on 192.0.2.1 is taken", "vxlan device vx7", "ip link set vx7 down"}},
		{"port of a program", func(t *testing.T, _ *Plan) {
			c, err := net.ListenPacket("udp", "192.0.2.1:4789")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
		}, []string{"UDP port 4789 on 192.0.2.1 is taken", "ss -ulpn sport = :4789"}},
		{"device name taken", func(t *testing.T, _ *Plan) {
			newLink(t, &netlink.Bridge{LinkAttrs: named("vx-blue")})
		}, []string{"network blue: the device name vx-blue is taken by a bridge", "ip link del vx-blue"}},
		{"bridge name taken", func(t *testing.T, _ *Plan) {
			newLink(t, &netlink.Veth{LinkAttrs: named("br-blue"), PeerName: "brp"})
		}, []string{"bridge br-blue", "is no bridge but a veth"}},
		{"port missing", func(_ *testing.T, p *Plan) { p.Networks[0].Ports = []string{"lan9"} },
			[]string{"the port lan9 does not exist"}},
		{"port of another bridge", func(t *testing.T, p *Plan) {
			br := newLink(t, &netlink.Bridge{LinkAttrs: named("other")})
			lan := newLink(t, &netlink.Veth{LinkAttrs: named("lan0"), PeerName: "lan1"})
			if err := netlink.LinkSetMaster(lan, br); err != nil {
				t.Fatal(err)
			}
			p.Networks[0].Ports = []string{"lan0"}
		}, []string{"the port lan0 already belongs to other", "take it out of ports"}},
		{"everything at once", func(_ *testing.T, p *Plan) {
			p.Underlay = netip.MustParseAddr("192.0.2.77")
			p.Networks[0].Ports = []string{"lan9"}
		}, []string{"192.0.2.77 is not on this host", "the port lan9 does not exist"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHost(t)
			p := plan(t)
			tc.make(t, &p)
			before := linkList(t)
			check(t, h.Preflight(p), tc.want)
			if after := linkList(t); after != before {
				t.Errorf("links before: %s\nafter: %s", before, after)
			}
		})
	}
}

func TestPreflightWithoutCapability(t *testing.T) {
	h := newHost(t)
	p := plan(t)
	err := make(chan error)
	go func() {
		// Capabilities are a thread's; this one ends with the goroutine,
		// because it stays locked.
		runtime.LockOSThread()
		hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		if e := unix.Capset(&hdr, &data[0]); e != nil {
			err <- e
			return
		}
		err <- h.Preflight(p)
	}()
	check(t, <-err, []string{"CAP_NET_ADMIN is missing", "--cap-add NET_ADMIN"})
}

func TestUnderlay(t *testing.T) {
	h := newHost(t)
	plan(t)
	if err := netlink.LinkSetMTU(link(t, "u1"), 9000); err != nil {
		t.Fatal(err)
	}
	if u, err := h.Underlay(underlay, ""); err != nil || u.MTU != 9000 || u.Name != "u1" || !u.Up {
		t.Errorf("by address: %+v, %v", u, err)
	}
	if u, err := h.Underlay(underlay, "u2"); err != nil || u.MTU != 1500 || u.Index != link(t, "u2").Attrs().Index {
		t.Errorf("by device: %+v, %v", u, err)
	}
	_, err := h.Underlay(netip.MustParseAddr("192.0.2.77"), "")
	check(t, err, []string{"is not on this host (it has 192.0.2.1 (u1)): give it to this host"})
	// The address of a network here is none to send from.
	furnished(t, h)
	if len(global(t, "br-blue")) == 0 {
		t.Fatal("the bridge has no address")
	}
	_, err = h.Underlay(netip.MustParseAddr("192.0.2.77"), "")
	check(t, err, []string{"(it has 192.0.2.1 (u1))"})
	delAddr(t, "u1", "192.0.2.1/24")
	_, err = h.Underlay(underlay, "")
	check(t, err, []string{"(of that family it has those of its networks only)"})
}

func check(t *testing.T, err error, want []string) {
	t.Helper()
	if len(want) == 0 {
		if err != nil {
			t.Errorf("error: %v", err)
		}
		return
	}
	if err == nil {
		t.Fatal("no error")
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error:\n%v\nlacks %q", err, w)
		}
	}
}

func linkList(t *testing.T) string {
	t.Helper()
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, l := range links {
		names = append(names, l.Attrs().Name)
	}
	return strings.Join(names, " ")
}
