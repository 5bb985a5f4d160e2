package interop

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/dataplane"
	"overtap/encap"
)

// switchPort is a container on a bridge of the host.
func switchPort(t *testing.T, s *netlab.Site, bridge string) *netlab.Host {
	t.Helper()
	return must[*netlab.Host](t)(s.Host.AddContainer(netlab.ContainerSpec{
		Name: fmt.Sprintf("p%d", s.N), Bridge: bridge, MTU: int(s.MTU),
		MAC: encap.MAC(0x0242_0000_0050 + s.N), Addrs: []netip.Prefix{netip.PrefixFrom(s.IPv4, 24)},
	}))
}

// forwards sets group_fwd_mask of a port of a bridge.
func forwards(t *testing.T, h *netlab.Host, ports ...string) {
	t.Helper()
	for _, port := range ports {
		on(t, h, port, func(nl *netlink.Handle, l netlink.Link) error {
			return nl.LinkSetBRSlaveGroupFwdMask(l, 0xfffd)
		})
	}
}

// With bridge_control = "pass" LLDP, LACP, STP and their like cross from a container
// to another and back, byte for byte: between bridges that overtap made with nothing
// set by hand, to the kernel's vxlan, and on a bridge that was found once its ports
// forward. PAUSE does not, probes work as before, and a reload turns it off and on.
func TestBridgeControl(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		for _, far := range []string{"overtap", "overtap on a found bridge", "kernel"} {
			t.Run(fmt.Sprintf("%s, v6=%t", far, v6), func(t *testing.T) { testBridgeControl(t, far, v6) })
		}
	}
}

func testBridgeControl(t *testing.T, far string, v6 bool) {
	lab := netlabtest.New(t)
	sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{V6: v6}))
	a, b := sites[0], sites[1]
	net := func(s *netlab.Site, bridge, control string) network {
		n := blue(s, sites...).with(probe, `bridge_control = "`+control+`"`)
		n.bridge = bridge
		return n
	}
	s := &standing{t: t, a: a, b: b}
	c := at(a, net(a, "br-pass", "pass"))
	s.file, s.socket = prepare(t, c)
	s.start(c)
	d := s.d
	bridge := netlab.SiteBridge
	switch far {
	case "kernel":
		kernel.end(t, b, blue(b, sites...), sites)
	case "overtap":
		bridge = "br-pass"
		fallthrough
	default:
		start(t, b.Host, at(b, net(b, bridge, "pass")))
	}
	x, y := switchPort(t, a, "br-pass"), switchPort(t, b, bridge)
	switch far {
	case "kernel":
		forwards(t, b.Host, "p2", netlab.SiteVXLAN)
	case "overtap on a found bridge":
		forwards(t, b.Host, "p2")
	}
	reaches(t, x, b.IPv4)

	const first encap.MAC = 0x0180_c200_0000
	ears := map[*netlab.Host]*raw{x: openRaw(t, x, netlab.ContainerDev), y: openRaw(t, y, netlab.ContainerDev)}
	number := 0
	// cross sends a frame to each address from one to the other, until each that is to
	// arrive did, since a port forwards a moment after it joined.
	cross := func(from, to *netlab.Host, want func(encap.MAC) bool) {
		t.Helper()
		src := map[*netlab.Host]encap.MAC{x: 0x0242_0000_0051, y: 0x0242_0000_0052}[from]
		eventually(t, "bridge control", func() error {
			number++
			arrived := make(map[encap.MAC]int)
			var frames [][]byte
			for m := first; m <= first+0xf; m++ {
				frames = append(frames, ethernet(m, src, nil, etherTest, marked(60, "%d", number)))
			}
			last := ethernet(encap.BroadcastMAC, src, nil, etherTest, marked(60, "last %d", number))
			ears[from].send(append(frames, last)...)
			ears[to].arrivals(1, func(s seen) bool {
				for i, f := range frames {
					if same(f)(s) {
						arrived[first+encap.MAC(i)]++
					}
				}
				return same(last)(s)
			})
			for m := first; m <= first+0xf; m++ {
				if got, want := arrived[m], map[bool]int{true: 1}[want(m)]; got != want {
					return fmt.Errorf("%d frames to %s arrived, want %d", got, m, want)
				}
			}
			return nil
		})
	}
	passes := func(m encap.MAC) bool { return m != encap.ProbeMAC }
	cross(x, y, passes)
	cross(y, x, passes)
	eventually(t, "probes", func() error {
		if p := d.probed(b); p.Answered == (far == "kernel") {
			return fmt.Errorf("%+v", p)
		}
		return nil
	})
	if e, ok := d.entry("blue", 0x0242_0000_0052); !ok || e.Peer != b.Underlay {
		t.Errorf("the container that sent bridge control: %+v, %t", e, ok)
	}

	never := func(encap.MAC) bool { return false }
	s.write(at(a, net(a, "br-pass", "drop")))
	d.verb("reload")
	cross(x, y, never)
	before := d.drops("blue", dataplane.Inbound, dataplane.DropBridgeControl)
	cross(y, x, never)
	if got := d.drops("blue", dataplane.Inbound, dataplane.DropBridgeControl) - before; got < 14 {
		t.Errorf("%d counted as bridge_control, want 14 or more", got)
	}
	s.write(c)
	d.verb("reload")
	cross(x, y, passes)
	cross(y, x, passes)

	// What a daemon before left is the same, by a takeover.
	s.takeOver(c)
	cross(x, y, passes)
	s.takeOver(at(a, net(a, "br-pass", "drop")))
	cross(x, y, never)
}
