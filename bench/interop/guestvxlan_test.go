package interop

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/encap"
)

// A second kernel's vxlan, which is a port of a bridge, behind a device without
// tunnel offloads: every kind of traffic, begun at each end.
//
//	a1 198.51.100.1 ─ br0 ─ vx-blue ═══ vx0 ─ br0 198.51.100.2
//	         host a 192.0.2.1           192.0.2.2 guest
func TestGuestVXLAN(t *testing.T) {
	for name, c := range map[string]struct {
		v6      bool
		offload netlab.Offload
		engine  []string
		port    uint16
	}{
		"v4":            {false, netlab.AllOffloads, nil, 4789},
		"v6":            {true, netlab.AllOffloads, nil, 8472},
		"v4/no uplink":  {false, netlab.AllOffloads, []string{"tunnel_gso = false"}, 4789},
		"v4/plain TAP":  {false, netlab.AllOffloads, []string{"offload = false"}, 4789},
		"v6/no offload": {true, netlab.NoOffloads, nil, 4789},
	} {
		t.Run(name, func(t *testing.T) {
			lab := netlabtest.New(t)
			a := must[*netlab.Host](t)(lab.AddHost("a"))
			f := newForeign(t, a)
			check(t, a.SetOffload(netlab.UnderlayDev, c.offload))
			mtu := int(must[encap.OverlayMTU](t)(encap.UnderlayMTU(1500).VXLANOverlay(c.v6)))
			here4, here6 := netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8:1::1")
			there4, there6 := here4.Next(), here6.Next()

			check(t, a.AddBridge(netlab.SiteBridge, mtu))
			a1 := must[*netlab.Host](t)(a.AddContainer(netlab.ContainerSpec{
				Name: "a1", Bridge: netlab.SiteBridge, MTU: mtu, MAC: 0x0242_c633_6401,
				Addrs: []netip.Prefix{netip.PrefixFrom(here4, 24), netip.PrefixFrom(here6, 64)},
			}))
			ours, theirs := netlab.UnderlayAddr(1, c.v6), netlab.UnderlayAddr(2, c.v6)
			f.run("ip link add br0 address 02:42:c6:33:64:02 mtu %d type bridge", mtu)
			check(t, f.g.VXLAN(f.limit(), netlab.VXLANSpec{
				Name: netlab.SiteVXLAN, VNI: 100, Port: c.port, Local: theirs, Flood: []netip.Addr{ours},
				Bridge: netlab.SiteBridge, MTU: mtu, MAC: 0x0242_c000_0202,
			}))
			f.run("ip link set br0 up")
			f.addr(netlab.SiteBridge, netip.PrefixFrom(there4, 24))
			f.addr(netlab.SiteBridge, netip.PrefixFrom(there6, 64))
			d := start(t, a, config{underlay: ours, engine: c.engine, networks: []network{
				{name: "blue", vni: 100, port: c.port, bridge: netlab.SiteBridge, peers: []netip.Addr{theirs}},
			}})

			before := f.sums()
			for _, ends := range [][2]netip.Addr{{here4, there4}, {here6, there6}} {
				echoAt(t, a1, ends[0])
				reaches(t, a1, ends[1])
				f.exchange(a1, ends[0], ends[1], mtu, 4<<20)
			}
			if after := f.sums(); after != before {
				t.Errorf("wrong checksums in the guest before:\n%s\nafter:\n%s", before, after)
			}
			check(t, refusedSums(t, a1))
			if drops := d.dropped(); len(drops) > 0 {
				t.Errorf("dropped: %+v", drops)
			}
			eventually(t, "learning", func() error {
				if e, ok := d.entry("blue", 0x0242_c633_6402); !ok || e.Peer != theirs {
					return fmt.Errorf("the guest's MAC: %+v", e)
				}
				return nil
			})
			if out := f.run("bridge fdb show dev %s", netlab.SiteVXLAN); !guestLearned(out, "02:42:c6:33:64:01", ours) {
				t.Errorf("the guest has not learned the container's MAC:\n%s", out)
			}
		})
	}
}

// guestLearned reports whether `bridge fdb` has a MAC behind a peer.
func guestLearned(out, mac string, peer netip.Addr) bool {
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) > 2 && f[0] == mac && slices.Contains(f, peer.String()) {
			return true
		}
	}
	return false
}
